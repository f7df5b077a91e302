"""Choosing one of a voice's speakers: inference.py, the Synthesizer, packed voices, the server, and ONNX."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from wyoming.audio import AudioChunk, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.tts import Synthesize, SynthesizeVoice

from common.errors import UserError
from inference import Synthesizer
from synthesis.job_options import NOT_READ_RIGHT
from synthesis.reader import Reader
from tacotron2.text import SYMBOLS
from tests.helpers.commands import fails_with, run_here
from tests.helpers.corpus import prepare_speakers
from tests.helpers.runs import TINY_TACOTRON2, train_command
from tests.helpers.server import running

TEXTS = ["One.", "Two words.", "And three of them."]
OPTIONS: dict[str, Any] = {"max_decoder_steps": 12, "attempts": 1}
ENDS = (0, NOT_READ_RIGHT)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Tacotron 2 of anna and bert after 2 steps."""
    folder = tmp_path_factory.mktemp("speakers")
    root = prepare_speakers(folder / "c")
    run_here(*train_command(root, folder / "run", TINY_TACOTRON2, "trainer.max_steps=2"))
    return folder / "run"


@pytest.fixture(scope="module")
def voice(run: Path) -> Synthesizer:
    return Synthesizer.load(run, device="cpu", prenet_dropout=0.0)


def test_one_and_the_other(voice: Synthesizer, run: Path) -> None:
    assert voice.speakers == ["anna", "bert"]
    anna, bert = (voice.speak(TEXTS[0], speaker=name, **OPTIONS).mel for name in ("anna", "bert"))
    assert not torch.equal(anna, bert)
    loaded = Synthesizer.load(run, device="cpu", prenet_dropout=0.0, speaker="bert")
    assert torch.equal(loaded.speak(TEXTS[0], **OPTIONS).mel, bert)
    assert torch.equal(loaded.speak(TEXTS[0], speaker="anna", **OPTIONS).mel, anna)
    assert torch.equal(voice.speaking_as("anna").speak(TEXTS[0], **OPTIONS).mel, anna)
    voice.warm_up()


def test_a_batch_of_both(voice: Synthesizer) -> None:
    """Each has the same bits as alone. The parts of a piece that is cut keep its speaker."""
    speakers = ["bert", None, "anna"]
    batch = next(voice.batches(TEXTS, 3, speakers, speaker="anna", **OPTIONS))
    for text, name, utterance in zip(TEXTS, ["bert", "anna", "anna"], batch, strict=True):
        assert utterance
        assert torch.equal(utterance.mel, voice.speak(text, speaker=name, **OPTIONS).mel)
    streamed = torch.cat(list(voice.stream(TEXTS[2], speaker="bert", **OPTIONS)))
    whole = voice.speak(TEXTS[2], speaker="bert", **OPTIONS).audio
    assert streamed.shape == whole.shape
    reader = Reader("english_cleaners", SYMBOLS, speaker=1)
    (read,) = reader.read("A long sentence, which is cut if it must be, at its commas, or at its end.")
    assert [part.speaker for part in reader.speaking_as(None).cut(read)] == [1, 1]


def test_no_speaker_is_chosen_for_the_user(voice: Synthesizer) -> None:
    for speak in (voice.speak, lambda text: list(voice.stream(text)), lambda text: list(voice.batches([text]))):
        with pytest.raises(UserError, match="this model has 2 speakers; choose one with speaker=NAME: anna, bert"):
            speak(TEXTS[0])
    with pytest.raises(UserError, match="speaker=carl: no such speaker; there are: anna, bert"):
        voice.speak(TEXTS[0], speaker="carl")


def test_a_voice_without_speakers_has_none_to_choose(tacotron2_run: Path) -> None:
    with pytest.raises(UserError, match="speaker=anna: this voice has one speaker; leave speaker out"):
        Synthesizer.load(tacotron2_run, device="cpu", speaker="anna")


def test_inference_with_two_speakers(run: Path, tmp_path: Path) -> None:
    """Lines name their speaker; those that do not have that of the option. A plain file has one for all lines."""
    rows = [{"text": TEXTS[0], "speaker": "bert"}, {"text": TEXTS[0]}, {"text": TEXTS[0], "id": 7, "speaker": "anna"}]
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "inference.py", f"tacotron2={run}", "vocoder=griffin_lim", "max_decoder_steps=12", "attempts=1", "device=cpu",
        "pictures=false",
    ]  # fmt: skip
    output = tmp_path / "out"
    run_here(*command, f"input={lines}", f"output={output}", "speaker=anna", "batch_size=3", expect=ENDS)
    bert, anna, again = (soundfile.read(output / f"{i:04d}.wav")[0] for i in range(3))
    assert np.array_equal(anna, again)
    assert not np.array_equal(anna, bert)
    log = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [row.get("speaker") for row in log if "text" in row] == ["bert", None, "anna"]
    (tmp_path / "text.txt").write_text(TEXTS[0] + "\n")
    plain = [*command, f"input={tmp_path / 'text.txt'}", f"output={tmp_path / 'plain'}"]
    run_here(*plain, "speaker=bert", expect=ENDS)
    assert np.array_equal(soundfile.read(tmp_path / "plain/0000.wav")[0], bert)

    fails_with(run_here(*plain, "overwrite=true", expect=1), "2 speakers; choose one with speaker=NAME: anna, bert")
    fails_with(run_here(*plain, "speaker=anna", "resume=true", expect=1), "speaker=anna instead of bert")
    fails_with(run_here(*plain, "overwrite=true", "speaker=carl", expect=1), "no such speaker; there are: anna, bert")
    new = [*command, f"input={lines}", f"output={tmp_path / 'new'}"]
    fails_with(run_here(*new, expect=1), "2 speakers; choose one")
    lines.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "x", "speaker": "carl"}]))
    fails_with(
        run_here(*new, "speaker=anna", expect=1), "lines.jsonl:4", "speaker=carl: no such speaker; there are: anna"
    )
    lines.write_text(json.dumps({"text": "x", "speaker": 3}))
    fails_with(run_here(*new, expect=1), "lines.jsonl:1: its speaker is 3; use the name of one")
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def voices(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the voice `club`, of anna and bert."""
    folder = tmp_path_factory.mktemp("voices")
    run_here("scripts/pack_voice.py", f"tacotron2={run}", f"output={folder / 'club'}", "sample=One.")
    assert "- Speakers: anna, bert." in (folder / "club/README.md").read_text()
    return folder


def test_speak_with_a_speaker(voices: Path, tmp_path: Path) -> None:
    command = ["scripts/speak.py", TEXTS[0], "--voice", voices / "club", "--device", "cpu"]
    fails_with(run_here(*command, "-o", tmp_path / "x.wav", expect=1), "choose one with speaker=NAME: anna, bert")
    run_here(*command, "-o", tmp_path / "x.wav", "--speaker", "bert")
    assert soundfile.info(tmp_path / "x.wav").frames > 0


def test_the_server_has_speakers_as_voices(voices: Path) -> None:
    async def wyoming(port: int, chosen: SynthesizeVoice) -> bytes:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Synthesize(TEXTS[0], chosen).event())
            audio = b""
            while (event := await client.read_event()) and not AudioStop.is_type(event.type):
                if Error.is_type(event.type):
                    raise ValueError(Error.from_event(event).text)
                audio += AudioChunk.from_event(event).audio if AudioChunk.is_type(event.type) else b""
            return audio

    def samples(data: bytes) -> Tensor:
        return torch.from_numpy(np.frombuffer(data, np.int16).astype(np.float32))

    with running(voices=str(voices), aliases={"alloy": "club/bert"}, attempts=1) as server:
        with server.client() as client:
            listed = client.get("/v1/audio/voices").json()["voices"]
        assert [row["id"] for row in listed] == ["club/anna", "club/bert", "alloy"]
        assert [row["name"] for row in listed] == ["club: anna", "club: bert", "club: bert"]
        answers = {name: server.speak(TEXTS[0], voice=name) for name in ("club/anna", "club/bert", "alloy")}
        assert [answer.status_code for answer in answers.values()] == [200] * 3
        assert answers["alloy"].content == answers["club/bert"].content != answers["club/anna"].content
        for name in ("club", "club/carl"):
            answer = server.speak(TEXTS[0], voice=name)
            assert answer.status_code == 404
            assert "the voices are: club/anna, club/bert, alloy" in answer.json()["error"]["message"]
        studio = server.studio
        both = [studio.shelf.get(f"club/{name}") for name in ("anna", "bert")]
        assert both[0].text_to_mel is both[1].text_to_mel  # one model, and one batch of its decoder
        of_bert = asyncio.run(wyoming(server.wyoming_port, SynthesizeVoice("club", speaker="bert")))
        assert of_bert == asyncio.run(wyoming(server.wyoming_port, SynthesizeVoice("club/bert")))
        assert len(samples(of_bert)) > 0
        with pytest.raises(ValueError, match="speaker 'carl' is unknown; the voices are: club/anna"):
            asyncio.run(wyoming(server.wyoming_port, SynthesizeVoice("club", speaker="carl")))


@pytest.mark.slow  # the export of four graphs takes half a minute
def test_onnx_has_the_speaker_as_an_input(run: Path, waveglow_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from synthesis.onnx.voice import Voice

    output = tmp_path / "export"
    result = run_here("scripts/export_onnx.py", f"tacotron2={run}", f"waveglow={waveglow_run}", f"output={output}")
    assert result.stdout.count("differs from PyTorch by at most") == 4
    exported, voice = Voice(output), Synthesizer.load(run, device="cpu")
    ids = exported.ids(TEXTS[0])
    memory = {
        name: exported.encoder.run(
            None, {"text": np.array([ids]), "text_lengths": np.array([len(ids)]), "speaker": np.array([number])}
        )[0]
        for number, name in enumerate(("anna", "bert"))
    }
    for number, values in enumerate(memory.values()):
        ours = voice.tacotron2.encode(torch.tensor([ids]), torch.tensor([len(ids)]), torch.tensor([number]))
        torch.testing.assert_close(torch.from_numpy(values), ours.detach(), atol=1e-5, rtol=0)
    mels = [exported.mel(ids, np.random.default_rng(0), 4, name)[0] for name in memory]
    assert not np.array_equal(mels[0], mels[1])
    with pytest.raises(UserError, match="choose one with speaker=NAME: anna, bert"):
        exported.speak(TEXTS[0], max_steps=4)
    assert len(exported.speak(TEXTS[0], max_steps=4, speaker="anna").audio)
