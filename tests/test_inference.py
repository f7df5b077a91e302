"""From a phrase file to wavs: order, names, log, pictures, and mistakes."""

import json
import math
import os
import random
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from predict_mels import predict

from common.audio import wav_bytes
from common.config import AudioConfig, DataConfig
from common.data.mels import MelDirectory
from common.errors import UserError
from common.files import new_directory
from common.lock import locked
from common.ops.packed import FLOAT16_ENGINES
from inference import SpeechOptions, Synthesizer, load_model
from synthesis.job_options import NOT_READ_RIGHT, InferenceConfig
from synthesis.jobs import Job
from synthesis.phrases import Phrase, PhraseFile
from synthesis.sentences import DEFAULT_LIMIT, Pauses
from synthesis.utterance import overview
from synthesis.vocoder import SpeechPrecision, Vocoder
from tacotron2.data import TextMelDataset, collate
from tacotron2.model import Tacotron2
from tests.helpers import REPOSITORY
from tests.helpers.commands import Result, fails_with, run_here
from tests.helpers.runs import TINY_WAVEGLOW, train_command
from tests.test_data import full_disk
from waveglow.model import WaveGlow

VOICE = REPOSITORY / "demo/voice/tacotron2.safetensors", REPOSITORY / "demo/voice/waveglow.safetensors"
# Not sorted by length: the reference would synthesize the longest line first.
PHRASES = "Second phrase.\n\nThis is $5 longer, or $6 (10%).\r\nFirst.\n  \nNow we end.\n"


@pytest.fixture
def phrases(tmp_path: Path) -> Path:
    (tmp_path / "phrases.txt").write_bytes(PHRASES.encode())
    return tmp_path / "phrases.txt"


def speak(
    tacotron2_run: Path,
    waveglow_run: Path,
    phrases: Path,
    output: Path,
    *options: str,
    expect: int = NOT_READ_RIGHT,
    pictures: bool = False,
) -> Result:
    """With voices that have hardly been trained, and read nothing right."""
    return run_here(
        "inference.py", f"tacotron2={tacotron2_run}", f"waveglow={waveglow_run}", f"input={phrases}",
        f"output={output}", "max_decoder_steps=30", "attempts=1", "device=cpu", f"pictures={pictures}", *options,
        expect=expect,
    )  # fmt: skip


def log_rows(output: Path) -> list[dict[str, Any]]:
    return [row for line in (output / "log.jsonl").read_text().splitlines() if "file" in (row := json.loads(line))]


@pytest.mark.fault(19, 22)
def test_one_line_one_wav_in_order(tacotron2_run: Path, waveglow_run: Path, phrases: Path, tmp_path: Path) -> None:
    no_pauses = [f"pauses.{mark}=0" for mark in ("sentence", "clause", "dash")]  # they are not counted as items
    result = speak(tacotron2_run, waveglow_run, phrases, tmp_path / "out", "batch_size=3", *no_pauses, pictures=True)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == sorted([f"{i:04d}.{s}" for i in range(4) for s in ("wav", "png")] + ["log.jsonl", ".lock"])
    rows = log_rows(tmp_path / "out")
    assert [row["file"] for row in rows] == ["0000.wav", "0001.wav", "0002.wav", "0003.wav"]
    assert [row["line"] for row in rows] == [1, 3, 4, 6]
    assert [row["text"] for row in rows] == [line.strip() for line in PHRASES.splitlines() if line.strip()]
    for row in rows:
        audio, rate = soundfile.read(tmp_path / "out" / row["file"])
        assert rate == 22050
        assert len(audio) % 256 == 0
        assert row["audio_seconds"] == pytest.approx(len(audio) / 22050)
        parts = row["tacotron2_latency"] + row["waveglow_latency"] + row["denoiser_latency"]
        assert row["latency"] == pytest.approx(parts)
        assert row["rtf"] == pytest.approx(row["latency"] / row["audio_seconds"])
        assert row["times_real_time"] == pytest.approx(1 / row["rtf"])
        assert row["waveglow_items_per_sec"] == pytest.approx(len(audio) / row["waveglow_latency"])
        assert row["tacotron2_items_per_sec"] > 0
    assert "RTF" in result.stdout
    assert "items/s" in result.stdout


def test_seed_fixes_the_audio(tacotron2_run: Path, waveglow_run: Path, phrases: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        speak(tacotron2_run, waveglow_run, phrases, tmp_path / name, f"seed={seed}")
    a, b, c = (soundfile.read(tmp_path / name / "0000.wav")[0] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_postprocessing_can_be_turned_off(tacotron2_run: Path, waveglow_run: Path) -> None:
    """The postfilter and the mel match each change the output. This WaveGlow does not match mels by default."""
    options = {"sigma": 0.5, "max_decoder_steps": 20}
    spoken = [
        Synthesizer.load(
            tacotron2_run,
            waveglow_run,
            device="cpu",
            prenet_dropout=0.0,
            match_mel=match_mel,
            postfilter_strength=strength,
        ).speak("Hello there.", **options)
        for match_mel, strength in ((None, 1.0), (2, 1.0), (None, 0.0))
    ]
    plain, matched, smooth = spoken
    assert torch.equal(plain.mel, matched.mel)
    assert not torch.equal(plain.audio, matched.audio)
    assert not torch.equal(plain.mel, smooth.mel)
    assert matched.stats["latency"] > matched.stats["match_latency"] > 0
    assert "match_latency" not in plain.stats


def test_griffin_lim_needs_no_waveglow(tacotron2_run: Path, phrases: Path, tmp_path: Path) -> None:
    run_here(
        "inference.py", f"tacotron2={tacotron2_run}", "vocoder=griffin_lim", f"input={phrases}",
        f"output={tmp_path / 'out'}", "max_decoder_steps=10", expect=NOT_READ_RIGHT,
    )  # fmt: skip
    rows = log_rows(tmp_path / "out")
    assert len(rows) == 4
    assert all(row["griffin_lim_latency"] > 0 and "waveglow_latency" not in row for row in rows)


@pytest.mark.fault(20, 21)
def test_truncated_and_silent_lines_are_named(tacotron2_run: Path, waveglow_run: Path, tmp_path: Path) -> None:
    (tmp_path / "phrases.txt").write_text("Some words.\n\n###\nMore words.\n")
    state = torch.load(tacotron2_run / "checkpoints/best.pt", weights_only=True)
    state["state_dict"]["decoder.gate_layer.linear_layer.bias"].fill_(-100.0)  # never stops
    torch.save(state, tmp_path / "endless.pt")
    result = speak(tmp_path / "endless.pt", waveglow_run, tmp_path / "phrases.txt", tmp_path / "out")
    assert (
        "phrases.txt:1: 0000.wav is not read right: skip (some words), stall (some), runaway (words)." in result.stdout
    )
    assert "2 lines not read right" in result.stdout
    assert "phrases.txt:3: left out, because the model has no symbol for them: #" in result.stdout
    assert "phrases.txt:3: nothing to say" in result.stdout
    assert "UserWarning" not in result.stderr
    assert sorted(p.name for p in (tmp_path / "out").glob("*.wav")) == ["0000.wav", "0002.wav"]
    assert all(row["truncated"] for row in log_rows(tmp_path / "out"))


def ruined(run: Path, target: Path, weight: str, value: float = float("nan")) -> Path:
    """Write the best checkpoint of a run to `target`, with one weight set to `value`."""
    state = torch.load(run / "checkpoints/best.pt", weights_only=True)
    state["state_dict"][weight].fill_(value)
    torch.save(state, target)
    return target


@pytest.mark.fault(31)
def test_no_file_of_an_earlier_run_stays_among_new_ones(
    tacotron2_run: Path, waveglow_run: Path, phrases: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    speak(tacotron2_run, waveglow_run, phrases, out, pictures=True)
    for name in ("0009.wav", "notes.txt"):
        (out / name).write_text("mine")
    with (out / "log.jsonl").open("ab") as log:  # odd lines list no file
        log.write(b'{"file": 3}\n{"file": "../0003.wav"}\n{"file": "notes.txt"}\n[1]\n\xff\n' + b"[" * 9999 + b'\n{"fi')
    (tmp_path / "fewer.txt").write_text("One.\n###\n")
    nan = ruined(waveglow_run, tmp_path / "nan.pt", "WN.0.end.bias")
    speak(tacotron2_run, nan, tmp_path / "fewer.txt", out, "overwrite=true", expect=1)
    assert len(list(out.glob("*.png"))) == 4  # nothing is removed before there is something in its place
    again = speak(tacotron2_run, waveglow_run, tmp_path / "fewer.txt", out, "overwrite=true", pictures=True)
    assert f"{out}: removed 8 files of earlier runs" in again.stdout
    assert f"warning: {out}: 0009.wav are not of this run" in again.stdout
    assert sorted(path.name for path in out.glob("[!.]*")) == [
        "0000.png", "0000.wav", "0009.wav", "log.jsonl", "notes.txt",
    ]  # fmt: skip


@pytest.mark.fault(31)
def test_two_processes_do_not_write_to_one_folder(
    tacotron2_run: Path, waveglow_run: Path, phrases: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out", "output"):
        result = speak(tacotron2_run, waveglow_run, phrases, tmp_path / "out", "overwrite=true", expect=1)
        fails_with(result, f"output={tmp_path}/out is in use by another command (process {os.getpid()} on ")
        options = f"wavs={tmp_path}", f"output={tmp_path / 'out'}"
        fails_with(run_here("scripts/evaluate.py", *options, expect=1), "is in use by another command")
    with new_directory(tmp_path / "new", "output"), pytest.raises(UserError, match=r"new.part is in use by another"):
        new_directory(tmp_path / "new", "output").__enter__()
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.fault(34)
def test_a_full_disk(tacotron2_run: Path, waveglow_run: Path, phrases: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for size, name in ((100, "log.jsonl"), (3_000, "0000.wav")):
        with full_disk(size):
            result = speak(tacotron2_run, waveglow_run, phrases, out, "pauses.lead=0.5", expect=1)  # wav > log
            fails_with(result, f"{out / name}: not written (", "free some space")
    assert len(soundfile.read(out / "0000.partial.wav")[0]) == (3_000 - 44) // 2
    with full_disk(8_000):
        result = speak(tacotron2_run, waveglow_run, phrases, out, "max_decoder_steps=3", expect=1, pictures=True)
        fails_with(result, f"{out}/0000.png: not written (", "free some space")
    assert {path.name for path in out.iterdir()} == {".lock", "log.jsonl", "0000.wav"}


@pytest.mark.fault(34)
@pytest.mark.parametrize(("reader", "message"), [("/dev/full", "No space left on device"), (None, "nothing reads the")])
def test_output_that_nothing_takes(reader: str | None, message: str, tmp_path: Path) -> None:
    """The reader of a pipe has gone, or the console goes to a file on a full disk. A command that starts fast."""
    code = (
        "from common.entry import run_command\n"
        "def main():\n    for _ in range(9):\n        print('x' * 9, flush=True)\nrun_command(main)"
    )
    gone, end = os.pipe()
    os.close(gone)
    with open(end, "w") as pipe, open(reader or os.dup(pipe.fileno()), "w") as output:
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, stdout=output, stderr=subprocess.PIPE, text=True
        )
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.fault(13)
def test_a_warning_that_nothing_takes_ends_no_work() -> None:
    """A terminal that was closed, while a training or a long text goes on."""
    code = (
        "import warnings\n"
        "from common.entry import run_command\n"
        "def main():\n    warnings.warn('first')\n    warnings.warn('second')\n    print('done')\nrun_command(main)"
    )
    gone, end = os.pipe()
    os.close(gone)
    with open(end, "w") as pipe:
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=pipe, text=True
        )
    assert (result.returncode, result.stdout) == (0, "done\n")


@pytest.mark.fault(20)
@pytest.mark.fault(33)
def test_a_phrase_of_one_step() -> None:
    """A young model may stop at once: fewer samples than half a window of the denoiser's STFT."""
    voice = Synthesizer.load(*VOICE, device="cpu")
    with torch.no_grad():
        voice.tacotron2.decoder.gate_layer.linear_layer.bias.fill_(100.0)
    utterance = voice.speak("Hello.")
    assert (len(utterance.audio), utterance.truncated) == (512, False)
    generator = torch.Generator().manual_seed(0)
    for vocoder in (voice.vocoder, Vocoder(None, voice.audio)):
        for frames in (1, 2):
            audio = vocoder(utterance.mel[:, :frames], generator, denoiser_strength=0.1)[0]
            assert len(audio) == 256 * frames
            assert audio.abs().max() > 0


@pytest.mark.fault(28)
def test_nan_is_an_error_that_names_checkpoint_and_phrase(
    tacotron2_run: Path, waveglow_run: Path, phrases: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    tacotron2 = ruined(tacotron2_run, tmp_path / "t.pt", "decoder.decoder_rnn.bias_ih")
    waveglow = ruined(waveglow_run, tmp_path / "w.pt", "WN.1.end.bias")
    for models, option, parts in (
        (
            (tacotron2, waveglow_run),
            "tf32=true",
            (f"{tacotron2} gives NaN", "mel and alignment", "decoder_rnn.bias_ih"),
        ),
        ((tacotron2, waveglow_run), "vocoder=griffin_lim", (f"tacotron2={tacotron2}", "'Second phrase.'")),
        ((tacotron2, waveglow_run), "precision=int8", (f"tacotron2={tacotron2}: its decoder.decoder_rnn.bias_ih",)),
        (
            (tacotron2_run, waveglow),
            "tf32=true",
            (f"waveglow={waveglow} gives NaN", "audio", "'Second phrase.'", "WN.1"),
        ),
        ((tacotron2_run, waveglow_run), "sigma=1e39", ("infinity in its audio", "its weights are finite", "options")),
    ):
        fails_with(speak(*models, phrases, out, option, expect=1), *parts)
        assert not list(out.glob("0*"))
    for option in ("sigma=nan", "sigma=inf", "denoiser_strength=nan", "sharpen=nan", "postfilter_strength=-inf"):
        result = speak(tacotron2_run, waveglow_run, phrases, out, option, expect=1)
        fails_with(result, f"={option.split('=')[1]} must be a finite number")
    with pytest.raises(UserError, match="postfilter_strength=nan must be a finite number"):
        Synthesizer.load(tacotron2_run, device="cpu", postfilter_strength=float("nan"))
    with pytest.raises(UserError, match="sigma=nan must be a finite number"):
        next(Synthesizer.load(tacotron2_run, device="cpu").batches(["a"], sigma=np.float32("nan")))


@pytest.mark.fault(28)
def test_a_waveglow_that_cannot_be_inverted_is_an_error(waveglow_run: Path, tmp_path: Path) -> None:
    path = ruined(waveglow_run, tmp_path / "w.pt", "convinv.0.conv.weight", 0.0)
    with pytest.raises(UserError, match=r"waveglow=.*w.pt: an invertible convolution has no inverse"):
        Vocoder.load(path, AudioConfig(), torch.device("cpu"))


@pytest.mark.fault(19, 22)
def test_mistakes(tacotron2_run: Path, waveglow_run: Path, phrases: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fails_with(speak(waveglow_run, tacotron2_run, phrases, out, expect=1), "error: tacotron2: ", "holds a waveglow")
    fails_with(speak(tacotron2_run, tacotron2_run, phrases, out, expect=1), "error: waveglow: ", "holds a tacotron2")
    fails_with(speak(tacotron2_run, waveglow_run, tmp_path / "none", out, expect=1), "none", "No such file")
    fails_with(speak(Path("/none.pt"), waveglow_run, phrases, out, expect=1), "/none.pt", "no such file")
    fails_with(speak(tmp_path, waveglow_run, phrases, out, expect=1), str(tmp_path), "no checkpoint")
    (tmp_path / "empty.txt").write_text("\n")
    fails_with(speak(tacotron2_run, waveglow_run, tmp_path / "empty.txt", out, expect=1), "empty.txt", "no line")
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    fails_with(speak(tacotron2_run, waveglow_run, tmp_path / "latin.txt", out, expect=1), "latin.txt:2", "UTF-8")
    fails_with(speak(tacotron2_run, waveglow_run, phrases, out, "vocoder=vocoder", expect=1), "vocoder")
    for option in ("match_mel=-1", "postfilter_strength=-0.5", "sigma=-1"):
        fails_with(speak(tacotron2_run, waveglow_run, phrases, out, option, expect=1), option, "must be at least 0")
    assert not out.exists()  # a failed command leaves no output
    out.mkdir()
    (out / "0002.wav").write_text("mine")
    fails_with(speak(tacotron2_run, waveglow_run, phrases, out, expect=1), "0002.wav exists", "overwrite=true")
    assert (out / "0002.wav").read_text() == "mine"
    in_the_way = out / "0002.wav"
    fails_with(speak(tacotron2_run, waveglow_run, phrases, in_the_way, expect=1), "choose another output")


def test_load_model(tacotron2_run: Path, waveglow_run: Path) -> None:
    model = load_model(tacotron2_run / "checkpoints/best.pt", prenet_dropout=0.0)
    assert isinstance(model, Tacotron2)
    assert not model.training
    text = torch.tensor([[40, 41, 42]])
    first, second = (model.infer(text, torch.tensor([3]), 4).mel_postnet for _ in range(2))
    assert torch.equal(first, second)
    assert isinstance(load_model(waveglow_run), WaveGlow)
    with pytest.raises(UserError, match=r"unknown config key .model\.prenet_dropuot"):
        load_model(tacotron2_run, prenet_dropuot=0.0)


@pytest.mark.fault(21)
def test_a_phrase_sounds_the_same_in_a_batch(tacotron2_run: Path, waveglow_run: Path) -> None:
    """Without noise, the other phrases of a batch and the padding change nothing."""
    voice = Synthesizer.load(tacotron2_run, waveglow_run, device="cpu", prenet_dropout=0.0)
    texts = ["One.", "A much longer phrase than the first.", "Three words here."]
    options: dict[str, Any] = {"sigma": 0.0, "max_decoder_steps": 20}
    together = next(voice.batches(texts, batch_size=3, **options))
    for text, utterance in zip(texts, together, strict=True):
        alone = voice.speak(text, **options)
        torch.testing.assert_close(utterance.mel, alone.mel, atol=1e-4, rtol=0)
        torch.testing.assert_close(utterance.audio, alone.audio, atol=1e-4, rtol=0)
    with pytest.raises(UserError, match="nothing is left of"):
        voice.speak("###")


def test_dropout_only_in_further_attempts(tacotron2_run: Path) -> None:
    """Then the seed changes nothing but WaveGlow's noise."""
    options = {"max_decoder_steps": 10, "attempts": 1}
    for in_synthesis in (False, True):
        changed: dict[str, Any] = {"prenet_dropout": 0.5, "dropout_in_synthesis": in_synthesis, "gate_threshold": 2.0}
        voice = Synthesizer.load(tacotron2_run, device="cpu", **changed)
        first, second = (voice.speak("Hello there.", seed=seed, **options).mel for seed in (1, 2))
        assert torch.equal(first, second) != in_synthesis
        read = next(iter(voice.reader.read("Hello there.")))
        attempts = [voice.text_to_mel.text(read, SpeechOptions(), attempt).generator for attempt in (0, 1)]
        assert [generator is not None for generator in attempts] == [in_synthesis, True]


def test_what_a_text_loses_is_told(tacotron2_run: Path) -> None:
    """A program gets lists and warnings; from `batches`, lists only."""
    voice = Synthesizer.load(tacotron2_run, device="cpu")
    with pytest.warns(UserWarning, match="no symbol|not read right") as caught:
        utterance = voice.speak('😀 "hello" < 😀', max_decoder_steps=2)
    assert [str(warning.message).partition(": ")[2] for warning in caught] == ["😀 <", "early stop (hello)"]
    assert {warning.filename for warning in caught} == {__file__}  # the line of the caller
    assert utterance.dropped == ["😀", "<"]
    with warnings.catch_warnings(action="error"):
        long = "< hello, hello. " * 30  # in pieces
        batches = list(voice.batches(["~ a", "😀", long], 2, max_decoder_steps=2))
    found = [utterance and utterance.dropped for batch in batches for utterance in batch]
    assert found == [["~"], None, ["<"]]


@pytest.mark.fault(20)
def test_a_lexicon_says_how_words_are_read(
    tacotron2_run: Path, waveglow_run: Path, phrases: Path, tmp_path: Path
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("GIF\tjif\n😀\tsmiling\nWorcester\t{W UH1 S T ER0}\n", encoding="utf-8")
    voice, plain = (Synthesizer.load(tacotron2_run, device="cpu", lexicon=file) for file in (words, None))
    assert voice.ids("A GIF 😀 of Worcester.") == plain.ids("A jif smiling of {W UH1 S T ER0}.")
    assert voice.dropped("😀 GIF") == []
    phrases.write_text("😀\n", encoding="utf-8")
    speak(tacotron2_run, waveglow_run, phrases, tmp_path / "out", f"lexicon={words}")
    assert [row["file"] for row in log_rows(tmp_path / "out")] == ["0000.wav"]
    words.write_text("# names\nWorcester\t{W UH1 S T EX0}\n")
    result = speak(tacotron2_run, waveglow_run, phrases, tmp_path / "bad", f"lexicon={words}", expect=1)
    fails_with(result, f"lexicon {words}:2", "unknown ARPAbet symbol 'EX0'", "EH0")
    assert not (tmp_path / "bad").exists()


def test_models_of_different_audio_are_not_chained(tacotron2_run: Path, waveglow_run: Path, tmp_path: Path) -> None:
    state = torch.load(waveglow_run / "checkpoints/best.pt", weights_only=True)
    state["audio_config"]["fmax"] = 7600.0
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"cannot be chained: audio.fmax is 8000.0, the WaveGlow's 7600.0"):
        Synthesizer.load(tacotron2_run, tmp_path / "other.pt", device="cpu")
    assert Synthesizer.load(tacotron2_run, waveglow_run, device="cpu").audio == AudioConfig()


@pytest.mark.fault(20)
def test_a_long_line_is_synthesized_in_pieces(tacotron2_run: Path, waveglow_run: Path, tmp_path: Path) -> None:
    voice = Synthesizer.load(tacotron2_run, waveglow_run, device="cpu", prenet_dropout=0.0)
    line = "Short. " + "x" * (voice.reader.limit + 4) + "."
    pauses = Pauses(sentence=2 * 256 / 22050, none=256 / 22050)
    options: dict[str, Any] = {"sigma": 0.0, "max_decoder_steps": 5, "pauses": pauses}
    first, long, last = next(voice.batches(["Before.", line, "After."], batch_size=3, **options))
    assert (first.num_pieces, long.num_pieces, last.num_pieces) == (1, 3, 1)
    assert [spoken.piece.pause for spoken in long.pieces] == ["sentence", "none", "end"]
    assert all(spoken.piece.text == line[spoken.piece.start : spoken.piece.end] for spoken in long.pieces)
    one, two, three = long.pieces
    assert (one.start, two.start - one.end, three.start - two.end, three.end) == (0, 512, 256, len(long.audio))
    assert long.audio[one.end : two.start].eq(0).all()
    assert long.audio[: one.end].ne(0).any()
    assert long.mel[:, one.end // 256 : two.start // 256].eq(math.log(1e-5)).all()
    assert long.alignment.shape == overview(long.alignments).shape == (long.mel.shape[1], len(long.ids))
    torch.testing.assert_close(long.alignment.sum(1), torch.ones(long.mel.shape[1]))
    assert overview(long.alignments, largest=9).shape[0] < long.mel.shape[1]
    assert long.ids == voice.ids(" ".join(spoken.piece.text for spoken in long.pieces))
    assert len(long.audio) == 256 * long.mel.shape[1]
    latencies: list[float] = [long.stats[f"{part}_latency"] for part in ("tacotron2", "waveglow", "denoiser")]
    assert long.stats["latency"] == pytest.approx(sum(latencies))
    assert long.stats.keys() == first.stats.keys()
    assert long.stats["tacotron2_items_per_sec"] == pytest.approx(
        (long.mel.shape[1] - 3) / long.stats["tacotron2_latency"]
    )
    torch.testing.assert_close(last.audio, voice.speak("After.", **options).audio, atol=1e-4, rtol=0)
    (tmp_path / "phrases.txt").write_text("Short.\n" + "A word and another. " * 9 + "9" * 40 + "\n")
    result = speak(tacotron2_run, waveglow_run, tmp_path / "phrases.txt", tmp_path / "out", "max_decoder_steps=3")
    assert re.search(r"phrases.txt:2: synthesized in \d+ pieces into 0001.wav", result.stdout)


def test_a_model_reads_no_more_at_once_than_in_training(tacotron2_run: Path, corpus: Path, tmp_path: Path) -> None:
    """The limit is the length of the longest training texts, and comes with every checkpoint of ours."""
    texts = [line.split("|")[1] for line in (corpus / "filelists/train.txt").read_text().splitlines()]
    voice = Synthesizer.load(tacotron2_run, device="cpu")
    assert voice.reader.limit == max(len(voice.ids(text)) for text in texts)
    state = torch.load(tacotron2_run / "checkpoints/best.pt", weights_only=True)
    del state["text"]["limit"]  # as in earlier versions
    torch.save(state, tmp_path / "earlier.pt")
    assert Synthesizer.load(tmp_path / "earlier.pt", device="cpu").reader.limit == DEFAULT_LIMIT
    bundled = Synthesizer.load("demo/voice/tacotron2.safetensors", device="cpu")
    assert bundled.reader.limit == 141


@pytest.mark.fault(28)
def test_a_long_line_is_written_while_it_is_made(tacotron2_run: Path, tmp_path: Path) -> None:
    """The file grows piece by piece, is what `speak` gives, and nothing of it stays after NaN in a later piece."""
    text = "The first. The second, which is longer. The third."
    (tmp_path / "phrases.txt").write_text(text)
    phrases = PhraseFile(tmp_path / "phrases.txt")
    config = InferenceConfig(tacotron2=str(tacotron2_run), input="x", output=str(tmp_path), vocoder="griffin_lim")
    voice = Synthesizer.load(tacotron2_run, device="cpu")
    job, options = Job(config, phrases), SpeechOptions(max_decoder_steps=9)
    sizes = []
    with job.opened(voice.audio):
        for part in voice.parts([text], 1, options):
            job.write(Phrase(0, 1, text), part)
            sizes += [soundfile.info(path).frames for path in tmp_path.glob(".0000.wav.tmp")]
    assert (tmp_path / "0000.wav").read_bytes() == wav_bytes(voice.speak(text, max_decoder_steps=9).audio, 22050)
    assert len(sizes) == 2
    assert 0 < sizes[0] < sizes[1] < soundfile.info(tmp_path / "0000.wav").frames
    (tmp_path / "0000.wav").unlink()
    (tmp_path / "0000.png").unlink()
    parts = voice.parts([text], 1, options)
    job = Job(config, phrases)

    def fail_in_the_middle() -> None:
        with job.opened(voice.audio):
            job.write(Phrase(0, 1, text), next(parts))
            raise UserError("NaN")

    with pytest.raises(UserError, match="NaN"):
        fail_in_the_middle()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "log.jsonl", "phrases.txt"}


@pytest.mark.parametrize(("reduced", "bits", "error"), [("int8", 8, 0.05), ("fp16", 16, 0.001)])
def test_fewer_bits_give_nearly_the_same_mel(
    tacotron2_run: Path, reduced: SpeechPrecision, bits: int, error: float
) -> None:
    """Without dropout, the mel differs from the fp32 mel only slightly."""
    full: SpeechPrecision = "fp32"
    voices = [
        Synthesizer.load(tacotron2_run, precision=precision, device="cpu", prenet_dropout=0.0)
        for precision in (full, reduced)
    ]
    exact, rough = (voice.speak("Hello there.", max_decoder_steps=20) for voice in voices)
    assert voices[1].tacotron2.decoder.weight_bits == bits
    has_format = bits == 8 or torch.backends.quantized.engine in FLOAT16_ENGINES
    assert torch.equal(exact.mel, rough.mel) != has_format
    assert (exact.mel - rough.mel).abs().mean() < error * exact.mel.std()


# ---- several threads ----


def process_state() -> dict[str, object]:
    """Return the state of the whole process, which belongs to the program that uses this library."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "random": random.getstate(),
        "warnings": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
    }


@pytest.fixture(scope="module")
def shipped() -> Synthesizer:
    return Synthesizer.load(*VOICE, device="cpu", dropout_in_synthesis=True)


@pytest.mark.slow  # the bundled voice, four times in two threads
def test_two_threads_do_not_affect_each_other(shipped: Synthesizer) -> None:
    """Their results equal those of one thread bit for bit, dropout and noise included, for 2 x 20 short phrases.

    It takes 10 seconds: with fewer phrases, both threads would rarely run the same operation at the same time.
    """

    def speak(seed: int) -> list[torch.Tensor]:
        texts = [f"Phrase {seed + i}." for i in range(20)]
        found = [u for batch in shipped.batches(texts, seed=seed, max_decoder_steps=60) for u in batch]
        return [part for utterance in found if utterance for part in (utterance.mel, utterance.audio)]

    before = process_state()
    alone = [speak(seed) for seed in (1, 31)]
    assert process_state() == before
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(speak, (1, 31)))
    assert process_state() == before
    for first, second in zip(alone, together, strict=True):
        assert len(first) == 40
        assert all(map(torch.equal, first, second))


def test_loading_leaves_the_process_alone(tacotron2_run: Path, waveglow_run: Path) -> None:
    before = process_state()
    for precision in ("fp32", "int8"):
        Synthesizer.load(tacotron2_run, waveglow_run, device="cpu", precision=precision)
    load_model(waveglow_run)
    assert process_state() == before


def test_a_vocoder_alone_depends_only_on_the_generator(shipped: Synthesizer) -> None:
    mel = shipped.speak("Hello.", max_decoder_steps=30).mel
    first, again, other = (shipped.vocoder(mel, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ---- mels for WaveGlow to train on ----


def test_predicted_mels_are_stored_beside_the_recordings(corpus: Path, tacotron2_run: Path, tmp_path: Path) -> None:
    voice = Synthesizer.load(tacotron2_run, device="cpu", prenet_dropout=0.0, p_own_frames=0.0)
    data = DataConfig(root=str(corpus), mel_dir=str(corpus / "mels"))
    dataset = TextMelDataset(str(corpus / "filelists" / "train.txt"), data, voice.audio, voice.symbols)
    mels = MelDirectory(tmp_path)
    mels.reset(voice.audio)
    predict(voice, dataset, mels, 3, torch.Generator())
    assert MelDirectory(tmp_path).check(dataset.clips, voice.audio) == dataset.lengths
    for index, clip in enumerate(dataset.clips):
        with torch.no_grad():
            expected = voice.tacotron2(*collate([dataset[(index, 0)]])).mel_postnet[0]
            expected = voice.tacotron2.postfilter(expected)
        torch.testing.assert_close(torch.from_numpy(mels.load(clip)), expected, rtol=1e-4, atol=1e-4)


def test_waveglow_trains_on_predicted_mels(corpus: Path, tacotron2_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "predicted"
    command = ("scripts/predict_mels.py", f"tacotron2={tacotron2_run}", f"data.root={corpus}", f"output={output}")
    assert "8 predicted mels" in run_here(*command, "batch_size=3", "device=cpu").stdout
    fails_with(run_here(*command, expect=1), str(output), "exists already")
    fails_with(run_here(*command, "batch_size=0", expect=1), "batch_size=0", "at least 1")
    broken = ruined(tacotron2_run, tmp_path / "ruined.pt", "embedding.weight")
    other = (f"tacotron2={broken}", f"output={tmp_path / 'other'}", "device=cpu")
    fails_with(run_here(*command, *other, expect=1), "filelists/train.txt:", f"{broken} gives NaN", "embedding")
    assert not (tmp_path / "other").exists()
    run_dir, options = tmp_path / "run", (f"data.mel_dir={output}", "trainer.max_steps=2")
    run_here(*train_command(corpus, run_dir, TINY_WAVEGLOW, *options))
    assert (run_dir / "checkpoints" / "step_00000002.pt").is_file()
