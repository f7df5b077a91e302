"""The bundled corpus is as documented, the pipeline runs on it, and the bundled voice is intelligible."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from make_demo_corpus import choose_sentences

from common.data.filelist import read_filelist
from evaluation.judges import Listener, errors
from synthesis.job_options import NOT_READ_RIGHT
from tests.helpers import REPOSITORY
from tests.helpers.commands import fails_with, run_here

CORPUS = REPOSITORY / "demo" / "corpus"


def test_the_bundled_corpus() -> None:
    rows = [line.split("|") for line in (CORPUS / "metadata.csv").read_text(encoding="utf-8").splitlines()]
    clips = {path.stem: path for path in (CORPUS / "wavs").iterdir()}
    assert sorted(row[0] for row in rows) == sorted(clips)
    assert len({row[1] for row in rows}) == len(rows)
    split = json.loads((REPOSITORY / "filelists/ljspeech_split.json").read_text())
    assert not {row[0].removeprefix("HB-") for row in rows} & {*split["val"], *split["test"]}
    infos = [soundfile.info(path) for path in clips.values()]
    assert {(info.samplerate, info.channels, info.format) for info in infos} == {(22050, 1, "OGG")}
    assert 25 < sum(info.duration for info in infos) / 60 < 30
    assert sum(path.stat().st_size for path in clips.values()) < 12e6
    assert (CORPUS / "README.md").is_file()
    assert (CORPUS / "LICENSE").is_file()


def test_the_unseen_sentences() -> None:
    """The test set of the voice: 40 sentences with recordings, none of them in the corpus."""
    unseen = REPOSITORY / "demo" / "unseen"
    clips = read_filelist(unseen / "filelist.txt", unseen)
    sentences = (REPOSITORY / "filelists/unseen_sentences.txt").read_text(encoding="utf-8").splitlines()
    assert [clip.text for clip in clips] == sentences
    assert len(set(sentences)) == 40
    assert not set(sentences) & {line.split("|")[1] for line in (CORPUS / "metadata.csv").read_text().splitlines()}
    infos = [soundfile.info(clip.file) for clip in clips]
    assert {(info.samplerate, info.channels, info.format) for info in infos} == {(22050, 1, "OGG")}


def test_more_sentences_of_the_same_voice(tmp_path: Path) -> None:
    """The corpus grows from its beginning, and never by what LJSpeech holds out or voices are judged with."""
    bundled = [line.split("|") for line in (CORPUS / "metadata.csv").read_text(encoding="utf-8").splitlines()]
    held_out = json.loads((REPOSITORY / "filelists/ljspeech_split.json").read_text())["test"]
    unseen = (REPOSITORY / "filelists/unseen_sentences.txt").read_text(encoding="utf-8").splitlines()
    texts = {
        **{row[0].removeprefix("HB-"): row[1] for row in bundled},
        "LJ900-0001": unseen[0],
        "LJ900-0002": "of two pounds, four shillings; and then",
        "LJ900-0003": "too short",
        "LJ900-0004": "and so on, " * 20,
        **dict.fromkeys(held_out[:5], "This sentence is in the test set of LJSpeech."),
    }
    (tmp_path / "metadata.csv").write_text("".join(f"{key}|{text}|{text}\n" for key, text in texts.items()))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    command = ["scripts/make_demo_corpus.py", tmp_path / "metadata.csv", "--hours", "2"]
    fails_with(run_here(*command, expect=1), "is for the bundled corpus; choose another one")
    fails_with(run_here(*command, "--output", tmp_path, expect=1), f"{corpus} exists already; choose another --output")
    found = choose_sentences(tmp_path / "metadata.csv")
    assert found[-1] == ("LJ900-0002", texts["LJ900-0002"])
    assert sorted(found[:-1]) == sorted((row[0].removeprefix("HB-"), row[1]) for row in bundled)


@pytest.mark.slow
def test_from_the_corpus_to_speech(tmp_path: Path) -> None:
    """Prepare the dataset and the mels, train both small models for a few steps (debug=fdr), and synthesize."""
    root = tmp_path / "corpus"
    shutil.copytree(CORPUS, root, ignore=shutil.ignore_patterns("mels", "filelists"))
    for script in ("prepare_dataset.sh", "prepare_mels.sh"):
        command = ["bash", f"scripts/{script}", str(root)]
        subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "PYTHON": sys.executable}, check=True)
    train = read_filelist(root / "filelists/train.txt", root)
    val = read_filelist(root / "filelists/val.txt", root)
    assert (len(train), len(val)) == (362, 7)
    assert len(list((root / "mels").rglob("*.npy"))) == 369
    for name in ("tacotron2", "waveglow"):
        run_here(
            "train.py", f"model={name}_small", "data=demo", f"data.root={root}", "debug=fdr",
            f"run_dir={tmp_path / name}",
        )  # fmt: skip
    run_here(
        "inference.py", f"tacotron2={tmp_path / 'tacotron2'}", f"waveglow={tmp_path / 'waveglow'}",
        "input=filelists/demo_phrases.txt", f"output={tmp_path / 'speech'}", "max_decoder_steps=20", "attempts=1",
        expect=NOT_READ_RIGHT,
    )  # fmt: skip
    names = {path.name for path in (tmp_path / "speech").iterdir()}
    assert {"0000.wav", "0000.png", "0001.wav", "0001.png", "0002.wav", "0002.png", "log.jsonl", ".lock"} == names


@pytest.mark.slow
def test_the_bundled_voice_is_understood(tmp_path: Path) -> None:
    voice = REPOSITORY / "demo" / "voice"
    assert sum(path.stat().st_size for path in voice.glob("*.safetensors")) < 15e6
    sentences = (REPOSITORY / "filelists/demo_phrases.txt").read_text(encoding="utf-8").splitlines()
    run_here(
        "inference.py", f"tacotron2={voice / 'tacotron2.safetensors'}", f"waveglow={voice / 'waveglow.safetensors'}",
        f"input={REPOSITORY / 'filelists/demo_phrases.txt'}", f"output={tmp_path / 'speech'}",
    )  # fmt: skip
    listener = Listener()
    heard = []
    for i, sentence in enumerate(sentences):
        audio, rate = soundfile.read(tmp_path / "speech" / f"{i:04d}.wav", dtype="float32")
        heard.append(errors(sentence, listener(audio, rate)))
    assert sum(error.words_wrong for error in heard) <= 0.3 * sum(error.words for error in heard)
