"""The measures give known answers, and the report page is self-contained."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from common.config import AudioConfig
from common.errors import UserError
from evaluation.acoustics import analyze, copy_quality, distance
from evaluation.judges import RATE, errors
from evaluation.page import LONGEST_GAP, page, read_log, training_hours
from evaluation.systems import EvaluateConfig, load_vocoders
from evaluation.table import System, Utterance, interval, markdown, summarize, table
from tacotron2.measures import reading
from tacotron2.text import text_to_ids, word_spans
from tests.helpers import REPOSITORY
from tests.helpers.commands import fails_with, load_script, run_here

UNSEEN = REPOSITORY / "demo" / "unseen"


def clip(number: int) -> np.ndarray:
    audio, rate = soundfile.read(UNSEEN / "wavs" / f"HB-unseen-{number:02d}.ogg", dtype="float32")
    assert rate == 22050
    return audio


def test_word_spans() -> None:
    ids = text_to_ids("It's {HH AH0 L OW1}, now!")
    assert word_spans(ids) == [(0, 4), (5, 9), (11, 14)]
    assert word_spans([]) == word_spans(text_to_ids("-, !")) == []


def alignment(*places: int, length: int) -> torch.Tensor:
    """Return an alignment (T, length) with four frames at each place."""
    return torch.nn.functional.one_hot(torch.tensor(places).repeat_interleave(4), length).float()


WORDS = [(0, 2), (3, 5), (6, 8), (9, 11)]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (range(11), (1.0, 0, 0)),
        ((0, 1, 2, 6, 7, 8, 9, 10), (0.75, 1, 0)),  # the second word is skipped
        ((0, 1, 9, 10), (0.5, 1, 0)),  # the second and third are skipped: one group
        ((0, 1, 2, 3, 4, 5), (0.5, 1, 0)),  # the last two words are missing
        ((0, 1, 3, 4, 6, 7, 3, 4, 6, 7, 9, 10), (1.0, 0, 1)),  # goes back to the second word
        ((0, 1, 3, 1, 4, 6, 7, 9, 10), (1.0, 0, 0)),  # a short jump back is not a repeat
        ((0, 1, 3, 4, 0, 1, 3, 4, 0, 1, 3, 4, 6, 7, 9, 10), (1.0, 0, 2)),
    ],
)
def test_how_a_text_was_read(places: tuple[int, ...], expected: tuple[float, int, int]) -> None:
    assert tuple(reading(alignment(*places, length=11), WORDS)) == pytest.approx(expected)


def test_flat_or_stuck_attention_reads_nothing_and_a_flicker_changes_nothing() -> None:
    words = [(i, i + 4) for i in range(0, 40, 5)]
    assert tuple(reading(torch.full((200, 40), 1 / 40), words)) == (0.0, 1, 0)
    stuck = torch.nn.functional.one_hot(torch.full((200,), 22), 40).float()
    assert reading(stuck, words).coverage <= 1 / 8
    flicker = torch.nn.functional.one_hot(torch.arange(40).repeat_interleave(4), 40).float()
    flicker[20] = torch.nn.functional.one_hot(torch.tensor(39), 40)
    assert tuple(reading(flicker, words)) == (1.0, 0, 0)
    assert tuple(reading(torch.zeros(0, 40), words)) == (0.0, 1, 0)


def test_word_and_character_errors() -> None:
    assert errors("The cat sat.", "the cat sat") == (0, 3, 0, 11)
    assert errors("It cost $20.", "it cost twenty dollars")[0] == 0
    assert errors("the cat sat", "the bat")[:2] == (2, 3)
    assert errors("the cat", "") == (2, 2, 7, 7)
    assert errors("The man (who was [very] tall) left.", "the man who was very tall left")[0] == 0
    for text, message in (
        ("...", r"'...': it has no word"),
        ("Hmm, um.", "it has no word"),
        ("{HH AH0} there", "ARPAbet"),
    ):
        with pytest.raises(UserError, match=message):
            errors(text, "a")


def test_intervals_contain_the_mean_and_are_reproducible() -> None:
    rng = np.random.default_rng(0)
    wrong, words = rng.integers(0, 3, 40).tolist(), rng.integers(5, 12, 40).tolist()
    utterances = [
        Utterance("", np.zeros(1), found={"words_wrong": a, "words": b}) for a, b in zip(wrong, words, strict=True)
    ]
    found = summarize(System("s", utterances))
    assert found["wer"]["mean"] == pytest.approx(
        100 * sum(wrong) / sum(words)
    )  # the mean over words, not over utterances
    assert found["wer"]["low"] < found["wer"]["mean"] < found["wer"]["high"]
    assert found == summarize(System("s", utterances))
    single = interval([[3.0]], lambda x, axis: x.mean(axis=axis))
    assert single == {"mean": 3.0, "low": None, "high": None, "n": 1}
    assert table({"s": found})[1][1].count("to") == 1
    assert markdown({"s": found}).splitlines()[1] == "|---|---|"


def test_the_interval_of_a_mean_has_the_width_that_theory_says() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = interval([values.tolist()], lambda x, axis: x.mean(axis=axis))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.1)


def test_distances_of_known_sounds() -> None:
    def hum(pitch: float, gain: float = 1.0) -> np.ndarray:
        t = np.arange(16000) / RATE
        return gain * 0.1 * np.sum([np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, 20)], axis=0)

    low = analyze(hum(200), RATE, 8000)
    same = distance(low, analyze(hum(200, gain=0.5), RATE, 8000))
    assert same.mcd < 0.5  # loudness does not matter
    assert same.pitch_error < 1
    semitone = distance(low, analyze(hum(200 * 2 ** (1 / 12)), RATE, 8000))
    assert semitone.pitch_error == pytest.approx(100, abs=3)
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    other = distance(low, analyze(noise, RATE, 8000))
    assert other.mcd > 5
    assert other.voicing_error > 0.8


def test_a_copy_with_noise_is_a_worse_copy() -> None:
    audio, rate = clip(0), 22050
    noise = np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32)
    exact, bad = copy_quality(audio, audio, rate), copy_quality(audio, audio + 0.05 * noise, rate)
    assert exact["stoi"] > 0.999
    assert exact["pesq"] > 4.5
    assert bad["stoi"] < 0.95
    assert bad["pesq"] < 2
    assert copy_quality(audio[:100], audio[:100], rate) == copy_quality(audio, 0 * audio, rate) == {}
    silence = np.zeros(rate, np.float32)
    short = np.concatenate([silence, audio[5500:9600], silence])
    assert "stoi" not in copy_quality(short, short, rate)
    one_frame = audio[9000:9256]  # of a young model that stops at once
    assert np.isfinite(distance(analyze(audio, rate, 8000), analyze(one_frame, rate, 8000)).mcd)
    assert copy_quality(audio, one_frame, rate) == {}


@pytest.mark.slow  # Whisper and the other judges are loaded
def test_the_whole_table(tacotron2_run: Path, waveglow_run: Path, tmp_path: Path) -> None:
    """Evaluate recordings, their copies by each vocoder, and synthesized speech; then the wavs; then make a report."""
    output = tacotron2_run / "evaluation"
    run_here(
        "scripts/evaluate.py", f"tacotron2={tacotron2_run}", f"waveglow={waveglow_run}", "limit=2", "device=cpu",
        "match_mel=1", f"recordings={UNSEEN / 'filelist.txt'}", f"root={UNSEEN}", f"output={output}",
        "sentences=filelists/unseen_sentences.txt",
    )  # fmt: skip
    found = json.loads((output / "evaluation.json").read_text())["summary"]
    assert list(found) == [
        "recordings", "copies by waveglow", "copies by waveglow_matched", "copies by griffin_lim",
        "tacotron2 + waveglow", "tacotron2 + waveglow_matched", "tacotron2 + griffin_lim",
    ]  # fmt: skip
    assert found["recordings"]["wer"]["mean"] < 15 < found["tacotron2 + griffin_lim"]["wer"]["mean"]
    assert found["copies by griffin_lim"]["stoi"]["mean"] > 0.9 > found["copies by waveglow"]["stoi"]["mean"]
    assert found["recordings"]["speaker"]["mean"] > 0.8
    assert set(found["tacotron2 + waveglow"]) >= {"mcd", "coverage", "skips", "flawless", "rate", "rtf"}
    assert 0 < found["copies by griffin_lim"]["pitch_error"]["mean"] < 300
    assert "| word error rate" in (output / "evaluation.md").read_text()
    wavs = output / "copies_by_griffin_lim"
    assert len(list(wavs.glob("*.wav"))) == 2

    sentences = tmp_path / "two.txt"
    sentences.write_text("".join((REPOSITORY / "filelists/unseen_sentences.txt").open().readlines()[:2]))
    result = run_here("scripts/evaluate.py", f"wavs={wavs}", f"sentences={sentences}", f"output={tmp_path / 'out'}")
    assert "wavs in copies_by_griffin_lim" in result.stdout
    judged = json.loads((tmp_path / "out" / "evaluation.json").read_text())["summary"]["wavs in copies_by_griffin_lim"]
    same = {"wer", "mos", "ovrl"}  # a wav is judged as the audio that it was written from
    assert {key: judged[key] for key in same} == {key: found["copies by griffin_lim"][key] for key in same}
    again = run_here("scripts/evaluate.py", f"wavs={wavs}", f"output={tmp_path / 'out'}", expect=1)
    fails_with(again, "exists already", "overwrite=true")

    run_here("scripts/report.py", tacotron2_run)
    page = (tacotron2_run / "report.html").read_text()
    for part in (
        "Curves",
        "train_loss",
        "Two words.",
        "Evaluation",
        "heard by Whisper",
        "Sounds",
        "Pictures",
        "Config",
    ):
        assert part in page
    assert "data:audio/mpeg;base64," in page
    assert "data:image/png;base64," in page
    assert not re.findall(r'(?:src|href)=(?![\'"]?(?:data:|#))', page)  # nothing is loaded from elsewhere


def test_the_judges_come_after_all_synthesis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their idle threads would slow it down."""

    def panel(_: AudioConfig) -> None:
        raise UserError("now the judges")

    monkeypatch.setattr(load_script("evaluate"), "Panel", panel)
    options = [f"recordings={UNSEEN / 'filelist.txt'}", f"root={UNSEEN}", "limit=2", "vocoders=[griffin_lim]"]
    fails_with(run_here("scripts/evaluate.py", *options, f"output={tmp_path}", expect=1), "now the judges")
    assert len(list((tmp_path / "copies_by_griffin_lim").iterdir())) == 2


@pytest.mark.fault(31)
def test_wavs_of_an_earlier_evaluation(tmp_path: Path) -> None:
    """Those that its evaluation.json lists, by folder; names that leave the folder are not followed."""
    earlier_wavs = load_script("evaluate").earlier_wavs
    for content in ("", "[]", "{", '{"utterances": [1]}', '{"utterances": {"a": [{}]}}', '{"utterances": {"a": 3}}'):
        (tmp_path / "evaluation.json").write_text(content)
        assert earlier_wavs(tmp_path) == {}
    names = [{"name": name} for name in ("0000", "../../x", "", None, "a/b")]
    (tmp_path / "evaluation.json").write_text(json.dumps({"utterances": {"tacotron2 + waveglow": names}}))
    folder = tmp_path / "tacotron2_waveglow"
    assert earlier_wavs(tmp_path) == {folder: [folder / "0000.wav"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to judge"),
        (["tacotron2=x"], "tacotron2 needs texts"),
        (["wavs=nowhere"], "wavs=nowhere"),
        (["wavs=demo/unseen/wavs", "sentences=filelists/demo_phrases.txt"], "40 audio files"),
        (["recordings=demo/unseen/filelist.txt", "vocoders=[hifigan]"], "vocoders[0]='hifigan'"),
        (["recordings=demo/unseen/filelist.txt", "vocoders=[waveglow]"], "waveglow=CKPT"),
        (["recordings=demo/unseen/filelist.txt", "vocoders=[griffin_lim,griffin_lim]"], "each once"),
        (["recordings=demo/unseen/filelist.txt", "root=nowhere"], " root=nowhere"),
        (["recordings=demo/unseen/filelist.txt"], "does not exist"),
        (["recordings=demo/unseen/filelist.txt", "root=demo/unseen", "waveglow=none.pt"], "none.pt"),
        (["wavs=demo/unseen/wavs", "device=cudda"], "did you mean 'cuda'"),
        (["wavs=demo/unseen/wavs", "match_mel=0"], "match_mel=0"),
        (["wavs=demo/unseen/wavs", "ladders=[noise]"], "ladders=['noise'] needs recordings"),
    ],
)
def test_options_that_cannot_be_evaluated_are_errors(options: list[str], message: str, tmp_path: Path) -> None:
    fails_with(run_here("scripts/evaluate.py", f"output={tmp_path}", *options, expect=1), message)


def test_copies_are_matched_as_often_as_the_waveglow_says(waveglow_run: Path) -> None:
    """The bundled one has 1 pass, the other one none."""

    def passes(waveglow: Path, **options: Any) -> dict[str, int]:
        config = EvaluateConfig(
            audio=AudioConfig(), output="judged", recordings="list.txt", waveglow=str(waveglow), **options
        )
        return {vocoder.name: vocoder.match_mel for vocoder in load_vocoders(config, torch.device("cpu"))}

    bundled = REPOSITORY / "demo/voice/waveglow.safetensors"
    assert passes(bundled) == {"waveglow": 0, "waveglow_matched": 1, "griffin_lim": 0}
    assert passes(waveglow_run) == {"waveglow": 0, "griffin_lim": 0}
    assert passes(waveglow_run, match_mel=2) == {"waveglow": 0, "waveglow_matched": 2, "griffin_lim": 0}
    with pytest.raises(UserError, match="has no mel match of its own; set match_mel=1"):
        passes(waveglow_run, vocoders=["waveglow_matched"])


def test_the_time_between_two_starts_is_not_training() -> None:
    start: dict[str, Any] = {"config": {}}
    line: dict[str, Any] = {"step": 1}
    times = [(start, 0), (line, 60), (line, 360), (start, 90_000), (line, 90_060), (start, 90_070), (line, 90_130)]
    rows = [{**row, "time": float(time)} for row, time in times]
    assert training_hours(rows) == pytest.approx((360 + 60 + 60) / 3600)
    assert training_hours([*rows, {**line, "time": 180_000.0}]) == pytest.approx((480 + LONGEST_GAP) / 3600)
    assert training_hours(rows[:1]) == 0


GOOD = {"time": 1.0, "config": {"model": {}, "data": {"root": "r", "val_filelist": "v", "follow_links": False}}}


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe", b"[1]", b"{", b"[" * 100_000, b'{"time": "x"}', b'{"time": 1, "step": null, "train_loss": 1}',
        b'{"time": 1, "step": [1]}', b'{"time": 1, "step": 1, "train_loss": "x"}', b'{"time": 1, "config": 3}',
        b'{"time": 1, "config": {"model": {}, "data": 3}}', b'{"time": 1, "sentences": 3}', b'{"time": 1, "step": NaN}',
        b'{"time": 1, "step": 1' + b"0" * 400 + b', "val_loss": 1}',
    ],
)  # fmt: skip
def test_odd_lines_of_a_log_are_left_out(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"\n".join((line, json.dumps(GOOD).encode(), line)))
    assert read_log(tmp_path) == [GOOD]
    assert "step 0" in page(tmp_path, [])


def test_a_report_of_a_damaged_evaluation(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps(GOOD))
    for content in ("", "[" * 100_000, '{"summary": 3}', '{"summary": {"a": {}}, "utterances": 3}',
                    '{"summary": {"a": {"utterances": 1}}, "utterances": {"a": [3]}}'):  # fmt: skip
        (tmp_path / "evaluation.json").write_text(content)
        with pytest.raises(UserError, match=r"evaluation.json: not an evaluation"):
            page(tmp_path, [tmp_path])


def test_a_report_of_no_run(tmp_path: Path) -> None:
    fails_with(run_here("scripts/report.py", tmp_path, expect=1), "log.jsonl", "run_dir")
