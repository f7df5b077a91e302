"""The server's HTTP interface, with the clients that people have."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import subprocess
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import openai
import pytest
import torch

from inference import Synthesizer
from synthesis.audio_file import in_16_bits
from synthesis.server.encoders import CONTENT_TYPES, SpeechFormat
from tests.helpers.server import VOICE, Running, request, running

TEXT = "Hello there. It costs $5.20!"


@pytest.fixture(scope="module")
def voice() -> Synthesizer:
    return Synthesizer.load(VOICE, device="cpu")


@pytest.fixture
def client(speech_server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{speech_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def samples(wav: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(wav)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def expected(voice: Synthesizer, text: str, **options: Any) -> np.ndarray:
    return in_16_bits(torch.cat(list(voice.stream(text, **options))))


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal within 2e-4 of full scale: what other chunks of the vocoder change."""
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= 7


def seconds(encoded: bytes) -> float:
    with av.open(io.BytesIO(encoded)) as file:
        frames = [(frame.samples, frame.sample_rate) for frame in file.decode(audio=0)]
    return sum(count / rate for count, rate in frames)


def events(body: str) -> list[dict[str, Any]]:
    assert body.endswith("\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in body[:-2].split("\n\n")]


# ---- OpenAI's contract ----


@pytest.mark.parametrize("kind", CONTENT_TYPES)
def test_openai_client_in_each_format(kind: SpeechFormat, client: openai.OpenAI, voice: Synthesizer) -> None:
    response = client.audio.speech.create(model="tts-1", voice="voice", input=TEXT, response_format=kind)
    assert response.response.headers["content-type"] == CONTENT_TYPES[kind]
    wanted = len(expected(voice, TEXT)) / 22050
    found = len(response.content) / 48000 if kind == "pcm" else seconds(response.content)
    assert found == pytest.approx(wanted, abs=0.15)


def test_openai_client_defaults_streaming_and_speed(client: openai.OpenAI, voice: Synthesizer, tmp_path: Path) -> None:
    assert client.audio.speech.create(model="tts-1", voice="voice", input="Yes.").content[:2] in (b"\xff\xf3", b"ID")
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts",
        voice={"id": "voice"},
        input=TEXT,
        response_format="wav",
        speed=2.0,
        instructions="Speak like a pirate.",
    ) as response:
        assert response.headers["x-ignored-fields"] == "instructions"
        response.stream_to_file(tmp_path / "a.wav")
    assert_close(samples((tmp_path / "a.wav").read_bytes()), expected(voice, TEXT, speed=2.0))


def test_openai_async_client(speech_server: Running, voice: Synthesizer) -> None:
    async def both() -> list[bytes]:
        async with openai.AsyncOpenAI(base_url=f"{speech_server.url}/v1", api_key="none") as client:
            made = [
                client.audio.speech.create(model="tts-1", voice="voice", input=text, response_format="wav")
                for text in (TEXT, "Yes.")
            ]
            return [response.content for response in await asyncio.gather(*made)]

    for text, wav in zip((TEXT, "Yes."), asyncio.run(both()), strict=True):
        assert_close(samples(wav), expected(voice, text))


def test_openai_client_with_server_sent_events(client: openai.OpenAI, voice: Synthesizer) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="voice", input=TEXT, response_format="wav", stream_format="sse"
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    *deltas, done = found
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert_close(samples(b"".join(base64.b64decode(event["audio"]) for event in deltas)), expected(voice, TEXT))
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 100


def test_openai_client_errors_and_models(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT)
    assert unknown.value.code == "voice_not_found"
    assert "the voices are: voice" in unknown.value.message
    with pytest.raises(openai.BadRequestError, match="no word that can be spoken"):
        client.audio.speech.create(model="tts-1", voice="voice", input="...")
    with pytest.raises(openai.NotFoundError, match="did you mean 'tts-1'"):
        client.audio.speech.create(model="tts1", voice="voice", input=TEXT)
    names = [model.id for model in client.models.list()]
    assert names[:2] == ["tacotron2-waveglow", "tts-1"]
    assert client.models.retrieve("tts-1").id == "tts-1"


def test_curl(speech_server: Running, tmp_path: Path) -> None:
    file = tmp_path / "a.mp3"
    command = ["curl", "-sSf", f"{speech_server.url}/v1/audio/speech", "-H", "Content-Type: application/json"]
    body = json.dumps({"model": "tts-1", "voice": "voice", "input": TEXT})
    subprocess.run([*command, "-d", body, "-o", str(file)], check=True)
    assert seconds(file.read_bytes()) > 1


@pytest.mark.parametrize(
    ("change", "status", "param", "message"),
    [
        ({"input": None}, 400, "input", "valid string"),
        ({"voice": 3}, 400, "voice", "valid"),
        ({"voice": {"id": "voice", "x": 1}}, 400, "voice", "valid"),
        ({"voice": "../voice"}, 404, "voice", "the voices are: voice"),
        ({"voice": "/etc/passwd"}, 404, "voice", "the voices are: voice"),
        ({"voice": "x\r\nX-Injected: 1"}, 404, "voice", "unknown"),
        ({"model": "x\r\nX-Injected: 1"}, 404, "model", "unknown"),
        ({"response_format": "ogg"}, 400, "response_format", "'mp3', 'opus'"),
        ({"speed": 0.2}, 400, "speed", "greater than or equal to 0.25"),
        ({"speed": 4.1}, 400, "speed", "less than or equal to 4"),
        ({"speed": "1"}, 400, "speed", "valid number"),
        ({"speed": True}, 400, "speed", "valid number"),
        ({"stream_format": "x"}, 400, "stream_format", "'audio' or 'sse'"),
        ({"seed": 1}, 400, "seed", "Extra inputs are not permitted"),
        ({"include": ["words"]}, 400, "include", "stream_format sse"),
        ({"include": ["x"], "stream_format": "sse"}, 400, "include.0", "'words', 'mel'"),
        ({"input": "a" * 4097}, 400, "input", "4,097 characters; the limit is 4,096"),
        ({"input": ""}, 400, "input", "no word"),
        ({"input": " \n\t"}, 400, "input", "no word"),
        ({"input": "?!... --"}, 400, "input", "no word"),
        ({"input": "<speak>", "input_type": "ssml"}, 400, "input", "line 1"),
        ({"input": "<speak/>", "input_type": "ssml"}, 400, "input", "no word"),
        ({"input": "\ud800"}, 400, "input", "no word"),
    ],
)
def test_errors_name_the_field_and_the_cure(
    change: dict[str, Any], status: int, param: str, message: str, speech_server: Running
) -> None:
    fields = {"model": "tts-1", "voice": "voice", "input": "Hi."} | change
    with speech_server.client() as client:
        headers = {"Content-Type": "application/json"}
        response = client.post("/v1/audio/speech", content=json.dumps(fields), headers=headers)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]
    assert "x-injected" not in response.headers


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"model": ', "application/json"), (b"\xff\xfe{}", "application/json"), (b"[]", "application/json"),
        (b"null", "application/json"), (b'{"speed": NaN}', "application/json"), (b"", "application/json"),
        (b'{"model": "tts-1", "voice": "voice", "input": "Hi."}', "text/plain"),
        (b"[" * 100_000, "application/json"),
    ],
)  # fmt: skip
def test_bodies_that_are_no_request(body: bytes, kind: str, speech_server: Running) -> None:
    with speech_server.client() as client:
        response = client.post("/v1/audio/speech", content=body, headers={"Content-Type": kind})
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_other_routes(speech_server: Running) -> None:
    with speech_server.client() as client:
        assert client.get("/v1/audio/voices").json() == {"voices": [{"id": "voice", "name": "The bundled voice"}]}
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").status_code == 200
        for method, path, status in (("GET", "/v1/audio/speech", 405), ("GET", "/x", 404), ("POST", "/", 405)):
            response = client.request(method, path)
            assert response.status_code == status
            assert path in response.json()["error"]["message"]
        document = client.get("/openapi.json").json()
        assert set(document["paths"]["/v1/audio/speech"]["post"]["responses"]) >= {"200", "400", "429"}
        speech_server.speak("Yes.")
        metrics = client.get("/metrics").text
    assert 'tts_requests_total{status="200"}' in metrics
    assert "tts_requests_in_progress 0.0" in metrics
    assert "tts_first_audio_seconds_bucket" in metrics


# ---- beside the contract ----


def test_words_mel_and_alignment_as_events(speech_server: Running, voice: Synthesizer) -> None:
    text = "Good \U0001f600 morning, Anna. It costs $5.20!"
    response = speech_server.speak(text, stream_format="sse", include=["words", "mel", "alignment"], speed=1.25)
    found = events(response.text)
    words = [word for event in found if event["type"] == "speech.audio.words" for word in event["words"]]
    utterance = voice.speak(text, speed=1.25)
    assert [(word["word"], *word["span"]) for word in words] == [(word.text, *word.span) for word in utterance.words]
    for word, other in zip(words, utterance.words, strict=True):
        assert text[slice(*word["span"])] == word["word"]
        assert word["start"] == pytest.approx(other.start, abs=0.03)
    for kind, columns in (("mel", "bins"), ("alignment", "symbols")):
        parts = [event for event in found if event["type"] == f"speech.audio.{kind}"]
        assert len(parts) == 2
        assert parts[0]["start"] == 0 < parts[1]["start"]
        for part in parts:
            values = np.frombuffer(base64.b64decode(part["data"]), np.uint8)
            assert values.size == part["frames"] * part[columns]
            assert values.max() > 150
            assert values.min() < 50


def test_half_of_a_surrogate_pair_in_events(speech_server: Running) -> None:
    """JSON may hold one, UTF-8 not."""
    body = json.dumps(request("Hello th\ud800ere.", stream_format="sse", include=["words"]))
    with speech_server.client() as client:
        headers = {"Content-Type": "application/json"}
        found = events(client.post("/v1/audio/speech", content=body, headers=headers).text)
    assert [event["words"][1]["word"] for event in found if "words" in event] == ["th\ud800ere."]
    assert found[-1]["type"] == "speech.audio.done"


def test_ssml(speech_server: Running, voice: Synthesizer) -> None:
    document = (
        '<speak><p>Good <sub alias="morning">AM</sub>.</p><break time="300ms"/>'
        '<prosody rate="150%">It costs <say-as interpret-as="cardinal">5</say-as> &amp; more.</prosody></speak>'
    )
    response = speech_server.speak(document, input_type="ssml", stream_format="sse", include=["words"])
    found = events(response.text)
    words = [word for event in found if event["type"] == "speech.audio.words" for word in event["words"]]
    assert [document[slice(*word["span"])] for word in words] == [
        "Good",
        "AM</sub>.",
        "It",
        "costs",
        "5",
        "&amp;",
        "more.",
    ]
    audio = samples(b"".join(base64.b64decode(event["audio"]) for event in found if "audio" in event))
    pieces = expected(voice, "Good morning."), expected(voice, "It costs five & more.", speed=1.5)
    assert len(audio) == pytest.approx(sum(map(len, pieces)) + 0.3 * 22050, abs=512)
    bomb = '<!DOCTYPE speak [<!ENTITY a "b">]><speak>&a;</speak>'
    assert speech_server.speak(bomb, input_type="ssml").status_code == 400


# ---- many at once ----


def test_each_answer_is_that_of_its_request(speech_server: Running, voice: Synthesizer) -> None:
    """18 requests at once; each answer is compared sample by sample."""
    texts = [f"Number {k}, please." for k in range(6)]
    wanted = {text: expected(voice, text) for text in texts}
    with ThreadPoolExecutor(18) as pool:
        answers = list(pool.map(speech_server.speak, texts * 3))
    for text, answer in zip(texts * 3, answers, strict=True):
        assert_close(samples(answer.content), wanted[text])


def test_many_voices_and_aliases(tmp_path: Path, voice: Synthesizer) -> None:
    """A voice is loaded when it is first asked for; one that is damaged harms no other."""
    for name in ("anna", "bert"):
        (tmp_path / name).symlink_to(VOICE)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/tacotron2.safetensors").write_bytes(b"nothing")
    with running(voices=str(tmp_path), aliases={"alloy": "bert", 1: "anna"}) as server:
        with server.client() as client:
            names = [found["id"] for found in client.get("/v1/audio/voices").json()["voices"]]
        assert names == ["anna", "bert", "broken", "alloy", "1"]
        assert not server.studio.shelf.is_loaded("bert")
        for name in ("anna", "alloy", "1"):
            assert_close(samples(server.speak("Yes.", voice=name).content), expected(voice, "Yes."))
        broken = server.speak("Yes.", voice="broken")
        assert broken.status_code == 500
        assert broken.json()["error"]["code"] == "voice_damaged"
        assert server.speak("Yes.", voice="anna").status_code == 200


NODE = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0 });
const fields = { model: "tts-1", voice: "voice", input: process.argv[3], response_format: "wav" };
const whole = Buffer.from(await (await client.audio.speech.create(fields)).arrayBuffer());
const stream = await client.audio.speech.create({ ...fields, stream_format: "sse" });
const events = (await stream.text()).trim().split("\\n\\n").map((line) => JSON.parse(line.slice(6)));
const deltas = events.filter((event) => event.type === "speech.audio.delta");
const joined = Buffer.concat(deltas.map((event) => Buffer.from(event.audio, "base64")));
let code = "";
try { await client.audio.speech.create({ ...fields, voice: "alloy" }); } catch (error) { code = error.code; }
process.stdout.write(JSON.stringify({ whole: whole.toString("base64"), joined: joined.toString("base64"), code }));
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, which installs the client")
def test_openai_client_of_node(speech_server: Running, voice: Synthesizer, tmp_path: Path) -> None:
    subprocess.run(["npm", "install", "--silent", "openai@7.55.0"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "speak.mjs").write_text(NODE)
    command = ["node", "speak.mjs", speech_server.url, TEXT]
    found = json.loads(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout)
    for name in ("whole", "joined"):
        assert_close(samples(base64.b64decode(found[name])), expected(voice, TEXT))
    assert found["code"] == "voice_not_found"
