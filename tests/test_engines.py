"""Engines beside Tacotron 2 + WaveGlow behind inference.py, the server, the judges and the benchmark."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
import torch

pytest.importorskip("transformers")

from benchmark import sweep_of

from common.schema import from_dict
from evaluation.systems import EvaluateConfig, systems
from synthesis.engines.bark_model import Made, generate
from synthesis.engines.loading import engine_options
from synthesis.engines.options import EngineOptions
from synthesis.engines.protocol import SpeechEngine, VoicedEngine
from synthesis.server.engines import Turns
from synthesis.synthesizer import Synthesizer
from tests.helpers import wait_until
from tests.helpers.commands import Result, composed, fails_with, run_here
from tests.helpers.server import Running, running

from benchmarks.engines import chosen_engines, measure_engine, sweep
from benchmarks.untrained_bark import PRESETS, write_tiny

LINES = ("One two.", "One two. Three four. Five.")
RATE = 24000


@pytest.fixture(scope="module")
def bark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("bark"))


def infer(bark: Path, folder: Path, *options: str, expect: int | tuple[int, ...] = (0, 3)) -> Result:
    (folder / "phrases.txt").write_text("\n".join(LINES) + "\n")
    command = ("inference.py", "engine=bark", f"engine.model={bark}", f"input={folder}/phrases.txt")
    return run_here(*command, f"output={folder}/out", *options, expect=expect)


def test_the_synthesizer_has_the_protocol() -> None:
    engine: SpeechEngine = Synthesizer.load("demo/voice", device="cpu")
    assert engine.name == "tacotron2"
    assert engine.audio.sample_rate == 22050


def test_a_phrase_file_in_a_voice_of_bark(bark: Path, tmp_path: Path) -> None:
    infer(bark, tmp_path, f"engine.voice={PRESETS[0]}", "batch_size=2")
    rows = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()][1:]
    assert [row["file"] for row in rows] == ["0000.wav", "0001.wav"]
    assert [row["pieces"] for row in rows] == [1, 3]
    for row in rows:
        info = soundfile.info(tmp_path / "out" / row["file"])
        assert info.samplerate == RATE
        assert info.duration == pytest.approx(row["audio_seconds"])
        assert row["bark_latency"] == row["latency"] > 0
        assert row["rtf"] * row["times_real_time"] == pytest.approx(1)
    assert not list((tmp_path / "out").glob("*.png"))  # there is no alignment


def test_the_advice_about_a_piece_that_is_cut_off_names_an_option_of_bark(bark: Path, tmp_path: Path) -> None:
    result = infer(bark, tmp_path, "engine.max_semantic_tokens=1", expect=3)
    advice = (
        "is not read right: runaway. Listen to it: lower engine.max_characters, if it is cut off; try another seed\n"
    )
    assert advice in result.stdout
    assert "max_decoder_steps" not in result.stdout


def test_a_job_goes_on_with_the_same_model_only(bark: Path, tmp_path: Path) -> None:
    infer(bark, tmp_path)
    assert "2 of 2 lines are done already" in infer(bark, tmp_path, "resume=true").stdout
    other = infer(bark, tmp_path, "resume=true", "engine.coarse_temperature=0.3", expect=1)
    fails_with(other, "its lines were made by another job", "has engine.coarse_temperature=0.3 instead of None;")
    moved = tmp_path / "moved"
    moved.symlink_to(bark)  # neither where the model is changes the audio, nor how it is computed
    same = infer(
        bark, tmp_path, "resume=true", f"engine.model={moved}", "engine.offload=true", "engine.attention=eager"
    )
    assert "2 of 2 lines are done already" in same.stdout
    weights = bark / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        fails_with(infer(bark, tmp_path, "resume=true", expect=1), "another content of engine.model")
    finally:
        weights.write_bytes(content)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("sigma=0.5", "sigma=0.5: engine=bark has no such option"),
        ("voice=demo/voice", "voice=demo/voice: engine=bark has no such option"),
        ("timings=[srt]", "engine=bark has no such option"),
        ("speed=2", "speed=2.0: engine=bark has no such option"),
        ("precision=int8", "precision=int8: engine=bark has fp32, fp16 and bf16"),
        ("engine.voice=v2/xx_speaker_0", "v2/en_speaker_1, v2/de_speaker_3"),
        ("engine.coarse_temperature=1e300", "engine.coarse_temperature=1e+300 must be at least 0 and at most 100"),
        ("engine.seconds=3", "only these have it: engine=audioldm2"),
    ],
)
def test_wrong_options_are_named(option: str, message: str, bark: Path, tmp_path: Path) -> None:
    fails_with(infer(bark, tmp_path, option, expect=1), message)


def test_options_of_an_engine_need_its_name() -> None:
    assert engine_options({"name": "tacotron2"}) is None
    with pytest.raises(ValueError, match="engine=brak is unknown; did you mean 'bark'"):
        engine_options({"name": "brak"})
    with pytest.raises(ValueError, match=r"engine.model=x: engine=tacotron2 has no such option"):
        engine_options({"name": "tacotron2", "model": "x"})


# ---- the server ----


@pytest.fixture(scope="module")
def server(bark: Path) -> Iterator[Running]:
    with running(engines={"tiny": {"name": "bark", "model": str(bark), "max_characters": 12}}) as found:
        yield found


def speak(server: Running, text: str, **fields: Any) -> httpx.Response:
    return server.speak(text, **{"model": "tiny", "voice": PRESETS[0], **fields})


def test_the_server_offers_engines_as_models(server: Running) -> None:
    with server.client() as client:
        assert "tiny" in [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert client.get("/v1/models/tiny").json()["id"] == "tiny"
        voices = client.get("/v1/audio/voices", params={"model": "tiny"}).json()["voices"]
        assert [voice["id"] for voice in voices] == ["default", *PRESETS]
        assert [voice["id"] for voice in client.get("/v1/audio/voices").json()["voices"]] == ["voice"]
    first = speak(server, "One two. Three four.")
    assert first.status_code == 200, first.text
    assert int.from_bytes(first.content[24:28], "little") == RATE
    assert first.content == speak(server, "One two. Three four.").content
    assert first.content != speak(server, "One two. Three four.", voice=PRESETS[1]).content
    assert server.speak("One two.").status_code == 200  # the bundled voice, as before
    events = speak(server, "One two.", stream_format="sse").text
    assert '"speech.audio.delta"' in events
    assert '"speech.audio.done"' in events


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"voice": "v9"}, 404, "the voices are: default, v2/en_speaker_1"),
        ({"voice": "../bark"}, 404, "is unknown"),
        ({"speed": 2.0}, 400, "speed: the model tiny has none"),
        ({"input_type": "ssml"}, 400, "input_type: the model tiny has none"),
        ({"include": ["words"], "stream_format": "sse"}, 400, "include: the model tiny has none"),
        ({"input": "?! ..."}, 400, "no word"),
    ],
)
def test_the_server_refuses_what_an_engine_has_not(
    fields: dict[str, Any], status: int, message: str, server: Running
) -> None:
    answer = speak(server, **{"text": "One two.", **{"text" if k == "input" else k: v for k, v in fields.items()}})
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


def test_a_client_that_leaves_stops_an_engine(server: Running) -> None:
    with (
        server.client() as client,
        client.stream("POST", "/v1/audio/speech", json={
            "model": "tiny", "voice": "default", "input": "One two. " * 400, "response_format": "pcm",
        }) as answer,
    ):  # fmt: skip
        next(answer.iter_raw())
    server.until_idle()


def test_what_waits_is_not_made_for_a_client_that_has_left(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    speak(server, "One.")  # so that the engine is loaded
    fields = {"model": "tiny", "voice": "default", "input": "One two."}
    made = list[str]()

    def counted(*arguments: Any) -> list[Made]:
        made.append("piece")
        return generate(*arguments)

    monkeypatch.setattr("synthesis.engines.bark.generate", counted)
    with server.studio.engines["tiny"].turns.turn():
        for _ in range(3):
            with server.client() as client, pytest.raises(httpx.ReadTimeout):
                client.post("/v1/audio/speech", json=fields, timeout=0.2)
        server.until_idle()
    assert speak(server, "One two.").status_code == 200
    assert made == ["piece"]


def test_turns_are_given_in_the_order_in_which_they_are_asked_for() -> None:
    turns, order = Turns(), list[int]()

    def work(number: int) -> None:
        with turns.turn():
            order.append(number)

    def are_waiting(count: int) -> bool:
        return len(turns._waiting) >= count

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    with turns.turn():
        for waiting, thread in enumerate(threads, start=2):
            thread.start()
            wait_until(partial(are_waiting, waiting), pause=0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(20))


def test_many_may_wait_for_an_engine_that_is_loaded_while_the_voice_speaks(bark: Path) -> None:
    is_allowed, num_loaded = threading.Event(), 0
    num_clients = min(32, (os.cpu_count() or 1) + 4) + 1  # one more than the event loop's own pool has threads
    with running(engines={"slow": {"name": "bark", "model": str(bark), "max_semantic_tokens": 2}}) as server:
        model = server.studio.engines["slow"]
        load = model._load

        def loading(options: EngineOptions) -> VoicedEngine:
            nonlocal num_loaded
            num_loaded += 1
            is_allowed.wait()
            return load(options)

        model._load = loading
        with ThreadPoolExecutor(num_clients) as pool:
            fields = {"model": "slow", "voice": "default"}
            answers = [pool.submit(server.speak, "One two.", **fields) for _ in range(num_clients)]
            try:
                wait_until(lambda: server.studio.admission.count >= num_clients)
                assert server.speak("One.", response_format="mp3").status_code == 200  # it is encoded in that pool
            finally:
                is_allowed.set()
            assert {answer.result().status_code for answer in answers} == {200}
    assert num_loaded == 1


def test_a_preset_whose_file_is_gone_is_damaged(bark: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bark, tmp_path / "bark")
    with running(engines={"tiny": {"name": "bark", "model": str(folder)}}) as server:
        assert server.speak("One.", model="tiny", voice="default").status_code == 200
        shutil.rmtree(folder)
        answer = server.speak("One.", model="tiny", voice=PRESETS[0])
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "voice_damaged")
        assert server.speak("One.", model="tiny", voice="default").status_code == 200


def test_models_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for engines, message in (
        ({"tts-1": {"name": "bark", "model": "x"}}, "choose another"),
        ({"a": {"name": "tacotron2"}}, "give its engine and model"),
        ({"a": {"name": "bark", "model": "x", "voce": 1}}, "did you mean 'engine.voice'"),
    ):
        with pytest.raises(ValueError, match=message), running(engines=engines):
            pass
    with running(engines={"gone": {"name": "bark", "model": str(tmp_path)}}) as found:
        answer = found.speak("Hello.", model="gone")
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "model_damaged"
        assert found.speak("Hello.").status_code == 200


# ---- the judges and the benchmark ----


def test_an_engine_is_a_system_to_judge(bark: Path, tmp_path: Path) -> None:
    pytest.importorskip("jiwer")
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("\n".join(LINES) + "\n")
    values = composed("evaluate", "engine=bark", f"engine.model={bark}", f"sentences={sentences}", "output=x")
    (system,) = systems(from_dict(EvaluateConfig, values))
    assert system.name == "bark"
    assert [utterance.text for utterance in system.utterances] == list(LINES)
    assert all(len(utterance.audio) > 100 for utterance in system.utterances)


def test_the_sweep_of_an_engine(bark: Path) -> None:
    threads = torch.get_num_threads()
    (values,) = chosen_engines(["engine=bark", f"engine.model={bark}", "engine.max_semantic_tokens=5"])
    cases = sweep(values, "cpu")
    assert [case["implementation"] for case in cases][:3] == ["plain", "sdpa", "offload"]
    assert (cases[0]["engine"]["attention"], cases[0]["precision"]) == ("eager", "fp32")
    result = measure_engine({**cases[-1], "device": "cpu", "runs": 2, "batch": 2, "characters": 10})
    torch.set_num_threads(threads)
    assert result["rate"] == RATE
    assert result["items"] > 0
    assert 0 < result["first_audio"] <= max(result["seconds"])
    assert {case["implementation"] for case in sweep({"name": "audioldm2"}, "cuda")} >= {
        "sdpa fp16 compiled", "20 steps",
    }  # fmt: skip


def test_two_models_of_one_engine_are_compared_each_with_its_own_first_row() -> None:
    engines = chosen_engines(["engine=bark", "engine.model=a", "engine=bark", "engine.model=b"])
    groups = [case["group"] for case in sweep_of(engines, [], "cpu", {"batch": 1})]
    assert list(dict.fromkeys(groups)) == ["a, 32 characters, batch 1", "b, 32 characters, batch 1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engine.model=x"], "name the engine first"),
        (["engine=brak"], "choose from: tacotron2, bark, audioldm2"),
        (["engine=bark"], "engine.model"),
        (["engine=bark", "engine.model=x", "engine.voce=1"], "did you mean 'engine.voice'"),
    ],
)
def test_a_sweep_of_a_wrong_engine_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen_engines(arguments)
