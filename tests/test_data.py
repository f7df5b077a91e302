"""From a corpus to batches: filelists, prepared mels, datasets, and the batch plan of an epoch."""

import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from common.audio import LogMel, load_audio
from common.config import AudioConfig, DataConfig
from common.data.batching import BatchPlan, BatchSize, RankSampler
from common.data.filelist import read_filelist, read_lines
from common.data.mels import Entry, MelDirectory
from common.data.metadata import read_entries
from common.errors import UserError
from common.lock import locked
from common.parallel import AHEAD, CHUNK, in_parallel
from tacotron2.data import TextMelDataset, collate
from tests.helpers import REPOSITORY, wait_until
from tests.helpers.commands import fails_with, load_script, run_here
from tests.helpers.corpus import SENTENCES, prepare, tone, write_corpus
from tests.helpers.runs import TINY_TACOTRON2, train_command
from waveglow.data import SegmentDataset

AUDIO = AudioConfig()


def data_config(root: Path, **options: Any) -> DataConfig:
    lists: dict[str, Any] = {f"{part}_filelist": f"{root}/filelists/{part}.txt" for part in ("train", "val", "test")}
    return DataConfig(root=str(root), mel_dir=f"{root}/mels", **lists, **options)


# ---- filelists ----


def test_filelists_hold_every_clip_once(corpus: Path) -> None:
    rows = [line for part in ("train", "val") for line in (corpus / f"filelists/{part}.txt").read_text().splitlines()]
    assert sorted(rows) == sorted(f"wavs/clip{i}.wav|{text}" for i, text in enumerate(SENTENCES))
    assert len((corpus / "filelists/val.txt").read_text().splitlines()) == 1


def test_ljspeech_split(tmp_path: Path) -> None:
    """Clips with LJSpeech's names are split as in the reference."""
    split = json.loads((REPOSITORY / "filelists/ljspeech_split.json").read_text())
    assert (len(split["val"]), len(split["test"])) == (100, 500)
    ids = [split["val"][0], split["test"][0], "LJ001-0001", "LJ001-0002"]
    (tmp_path / "wavs").mkdir()
    for clip in ids:
        soundfile.write(tmp_path / f"wavs/{clip}.flac", tone(0.2, 0), 22050)
    (tmp_path / "metadata.csv").write_text("".join(f"{clip}|5 raw|five spoken\n" for clip in ids))
    run_here("scripts/prepare_filelists.py", tmp_path)
    lists = {part: (tmp_path / f"filelists/{part}.txt").read_text() for part in ("train", "val", "test")}
    assert lists["val"] == f"wavs/{ids[0]}.flac|five spoken\n"
    assert lists["test"] == f"wavs/{ids[1]}.flac|five spoken\n"
    assert lists["train"].count("\n") == 2


def test_what_to_run_next_suits_the_clips(tmp_path: Path) -> None:
    root = write_corpus(tmp_path / "my voice")
    assert run_here("scripts/prepare_filelists.py", root).stdout.splitlines()[-1].endswith(f"data.root='{root}'")
    for clip in (root / "wavs").iterdir():
        soundfile.write(clip, soundfile.read(clip)[0], 16000)
    (root / "wavs/take 2.WAV").write_bytes(b"")
    lines = run_here("scripts/prepare_filelists.py", root).stdout.splitlines()
    assert lines[-2] == "left out, because metadata.csv has no row for them: 1 audio file (wavs/take 2.WAV)"
    assert lines[-1] == f"next: python scripts/check_dataset.py data.root='{root}' data.convert_audio=true"
    clips = read_filelist(root / "filelists/train.txt", root)
    with pytest.raises(UserError, match=r"holds no prepared mels.* data.convert_audio=true"):
        MelDirectory(root / "mels").check(clips, AudioConfig())


def test_an_edited_filelist_is_kept(tmp_path: Path) -> None:
    root = write_corpus(tmp_path / "c")
    run_here("scripts/prepare_filelists.py", root)
    train = root / "filelists/train.txt"
    train.write_text("wavs/clip0.wav|my own\n")
    assert "kept as" in run_here("scripts/prepare_filelists.py", root).stdout
    assert (root / "filelists/train.txt.old").read_text() == "wavs/clip0.wav|my own\n"
    assert train.read_text().count("\n") == 7
    assert "kept" not in run_here("scripts/prepare_filelists.py", root).stdout
    train.write_text("wavs/clip1.wav|again\n")
    assert "train.txt.old2" in run_here("scripts/prepare_filelists.py", root).stdout
    assert (root / "filelists/train.txt.old").read_text() == "wavs/clip0.wav|my own\n"
    assert (root / "filelists/train.txt.old2").read_text() == "wavs/clip1.wav|again\n"


@pytest.mark.parametrize(
    ("metadata", "parts"),
    [
        ("", ["metadata.csv", "no line of text"]),
        ("clip0|text\nclip1\n", ["metadata.csv:2", "1 column "]),
        ("clip0|text\nclip9|text\n", ["metadata.csv:2", "wavs/clip9.wav"]),
        ("clip0|text\nclip1||\n", ["metadata.csv:2", "transcript of clip1 is empty"]),
        ("clip0|text\nclip0|text\n", ["metadata.csv:2", "already"]),
        ("clip0|text\n", ["cannot be divided"]),
    ],
)
@pytest.mark.fault(17)
def test_bad_metadata(tmp_path: Path, metadata: str, parts: list[str]) -> None:
    write_corpus(tmp_path / "c")
    (tmp_path / "c/metadata.csv").write_text(metadata)
    fails_with(run_here("scripts/prepare_filelists.py", tmp_path / "c", expect=1), *parts)


TEXT = "{0}|{1}\n"
ROWS = [(f"clip{i}", text) for i, text in enumerate(SENTENCES)]


def table(row: str, rows: list[tuple[str, str]] = ROWS) -> str:
    return "".join(row.format(clip, text, i % 2, f"voice {i % 2}") for i, (clip, text) in enumerate(rows))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (table("{0}\t{1}\n"), ["separated by tabs, not by |", "id|text"]),
        (table("{0};{1}\n"), ["separated by semicolons"]),
        (table('{0},"{1}"\n'), ["separated by commas"]),
        ("id,text\n" + table('{0},"{1}"\n'), ["separated by commas"]),
        ("".join(f"{'words ' * 99}{i}\n" for i in range(4)), ["no row has a |", "without a header"]),
        (table('"{0}"|"{1}"\n'), ["in quotes"]),
        ("file|text\n" + table(TEXT), ["metadata.csv:1", "if this is a header, remove the line"]),
        (table("{0}.wav|{1}\n"), ["metadata.csv:1", "the id clip0.wav ends in .wav", "sed -i"]),
        (table("{1}" + "very long " * 99 + "|{0}\n"), ["metadata.csv:1", "no wavs/The first line."]),
        (
            table("{0}|{1}|{3}\n"),
            ["last column should be the transcript", "2 values", "'voice 0'", "--speakers column", "cut -d'|' -f1,2"],
        ),
        (table("{0}|{3}|{1}\n"), ["the second column holds 2 values in 8 rows", "--speakers column", "-f1,3"]),
        (table(TEXT).encode("utf-16"), ["UTF-16", "iconv -f utf-16 -t utf-8"]),
        (table(TEXT).encode("utf-16-le"), ["UTF-16", "iconv -f utf-16le"]),
        (table(TEXT).encode("utf-16-be"), ["UTF-16", "iconv -f utf-16be"]),
        (b"PK\x03\x04" + bytes(range(256)), ["a spreadsheet", "save it as CSV in UTF-8"]),
    ],
)
@pytest.mark.fault(17)
def test_metadata_of_another_format_is_refused(
    corpus: Path, tmp_path: Path, content: str | bytes, parts: list[str]
) -> None:
    (tmp_path / "wavs").symlink_to(corpus / "wavs")
    metadata = tmp_path / "metadata.csv"
    metadata.write_bytes(content.encode() if isinstance(content, str) else content)
    result = run_here("scripts/prepare_filelists.py", tmp_path, expect=1)
    fails_with(result, *parts)
    # The command that the message ends with cures it.
    if command := re.search(r"(?:rename it to metadata.csv|to UTF-8): (.*)", result.stderr):
        before = metadata.read_bytes()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # python is this one
        subprocess.run(command[1], shell=True, check=True, cwd=tmp_path, env={**os.environ, "PATH": path})
        if (copy := tmp_path / "metadata.csv.new").exists():
            assert metadata.read_bytes() == before
            copy.rename(metadata)
        metadata.write_text(metadata.read_text().removeprefix("id|text\n"))
        assert len(run_here("scripts/prepare_filelists.py", tmp_path).stdout.splitlines()) == 3
        for name in ("train", "val"):
            assert (tmp_path / f"filelists/{name}.txt").read_text() == (corpus / f"filelists/{name}.txt").read_text()


@pytest.mark.fault(17)
def test_a_conversion_keeps_commas_and_quotes_of_transcripts(tmp_path: Path) -> None:
    """Transcripts that nobody has quoted: read as a table, they lose text at their commas, and rows at a quote."""
    texts = ["one", 'two, "three', "four, five, six", 'a "word", seven', "eight"]
    metadata = tmp_path / "metadata.csv"
    metadata.write_text("".join(f"clip{i},{text}\n" for i, text in enumerate(texts)))
    with pytest.raises(UserError, match="separated by commas") as error:
        read_entries(metadata)
    subprocess.run(str(error.value).split("rename it to metadata.csv: ")[1], shell=True, check=True)
    converted = Path(f"{metadata}.new").read_text().splitlines()
    assert converted == [f"clip{i}|{text}" for i, text in enumerate(texts)]


def test_columns_that_are_no_speakers_are_accepted(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "wavs").symlink_to(corpus / "wavs")
    for content in (
        table("{0}|{1}|{1}\n"),
        table("{0}|one voice|{1}\n"),
        table("{0}|{2}|digit {2}\n"),
        "\ufeff" + table("{0}|{1}\r\n"),
    ):
        (tmp_path / "metadata.csv").write_text(content, encoding="utf-8")
        run_here("scripts/prepare_filelists.py", tmp_path)


def test_the_size_of_the_validation_set() -> None:
    sizes = {8: 1, 16: 2, 45: 5, 48: 6, 299: 6, 369: 7, 5000: 100, 13100: 100}
    for num_clips, num_val in sizes.items():
        parts = load_script("prepare_filelists").split([f"clip{i}" for i in range(num_clips)])
        assert list(parts.values()).count("val") == num_val


@pytest.mark.fault(17)
def test_a_filelist_names_its_bad_lines(corpus: Path, tmp_path: Path) -> None:
    filelist = tmp_path / "list.txt"
    filelist.write_bytes(
        b"\xef\xbb\xbfwavs/clip0.wav|good\r\n"
        b"\r\n"
        b"wavs/clip1.wav\n"
        b"wavs/clip1.wav|a|b\n"
        b"wavs/clip1.wav|  \n"
        b"wavs/none.wav|text\n"
        b"../../etc/passwd|text\n"
        b"/etc/passwd|text\n"
        b"wavs/clip0.wav|again\n"
        b" |text\n" + b"long " * 99 + b"|text\n"
    )
    with pytest.raises(UserError) as error:
        read_filelist(filelist, corpus)
    messages = str(error.value).splitlines()
    assert [int(message.split(":")[1]) for message in messages] == [3, 4, 5, 6, 7, 8, 9, 10, 11]
    expected = [
        "1 column",
        "3 column",
        "is empty",
        "does not exist",
        "not a path below",
        "not a path below",
        "already on line 1",
        "names no clip",
        "cannot be read (File name too long)",
    ]
    assert all(part in message for part, message in zip(expected, messages, strict=True)), messages
    filelist.write_bytes(b"wavs/clip0.wav|caf\xe9\n")
    with pytest.raises(UserError, match=r"list.txt:1: byte 0xe9 is not UTF-8"):
        read_filelist(filelist, corpus)
    filelist.write_text("\n \n")
    with pytest.raises(UserError, match="no line of text"):
        read_filelist(filelist, corpus)
    with pytest.raises(UserError, match=r"absent.txt: No such file"):
        read_filelist(tmp_path / "absent.txt", corpus)
    with pytest.raises(UserError, match=r"data.root=nowhere"):
        read_filelist(filelist, "nowhere")


@pytest.mark.fault(36)
def test_hostile_names_become_rows(corpus: Path, tmp_path: Path) -> None:
    root = tmp_path / "c"
    shutil.copytree(corpus, root)
    (root / "wavs/loop.wav").symlink_to("loop.wav")
    (root / "wavs/folder.wav").mkdir()
    os.mkfifo(root / "wavs/pipe.wav")  # reading it would wait for ever
    names = {
        "wavs/a\0b.wav": "contains a NUL byte",
        f"wavs/{'é' * 130}.wav": "File name too long",
        "wavs/" * 900 + "a.wav": "File name too long",
        "wavs/loop.wav": "symbolic links",
        "wavs/folder.wav": "is not a file",
        "wavs/pipe.wav": "is not a file",
        "wavs/clip0.wav/a.wav": "Not a directory",
        "wavs/\x1b[2Jx.wav": r"\x1b[2Jx.wav' does not exist",
    }
    filelist = root / "filelists/train.txt"
    filelist.write_text("".join(f"{name}|Some text.\n" for name in names))
    output = tmp_path / "out"
    command = ("scripts/check_dataset.py", f"data.root={root}", f"output={output}", "num_processes=1")
    fails_with(run_here(*command, expect=1), f"{len(names)} bad rows of")
    report = (output / "report.txt").read_text()
    assert "\0" not in report + report.replace("\x1b", "\0")
    for number, reason in enumerate(names.values(), 1):
        (row,) = (row for row in report.splitlines() if row.startswith(f"{filelist}:{number}:"))
        assert reason in row
        assert len(row) < 500


@pytest.mark.fault(36)
def test_a_folder_that_cannot_be_read_is_named(corpus: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:  # tmp_path is itself in a folder that others cannot read
        root = Path(directory)
        shutil.copytree(corpus / "wavs", root / "wavs")
        (root / "list.txt").write_text("wavs/clip0.wav|text\n")
        root.chmod(0o755)
        (root / "wavs").chmod(0)
        uid = os.geteuid()
        os.seteuid(uid or 65534)  # root may read everything
        try:
            with pytest.raises(UserError, match=r"list.txt:1: .*clip0.wav cannot be read \(Permission denied\)"):
                read_filelist(root / "list.txt", root)
            with pytest.raises(UserError, match=r"data.root=.*no such directory"):
                read_filelist(root / "list.txt", root / "wavs/below")
        finally:
            os.seteuid(uid)
            (root / "wavs").chmod(0o755)


@pytest.mark.fault(24)
def test_one_clip_has_one_name(corpus: Path, tmp_path: Path) -> None:
    """However its path is written, a clip is found twice in a list and in two lists, and has one mel."""
    (tmp_path / "list.txt").write_text("wavs/clip0.wav|a\n./wavs//clip0.wav|b\nwavs/./clip0.wav|c\n")
    with pytest.raises(UserError, match=r"list.txt:2: wavs/clip0.wav is already on line 1") as error:
        read_filelist(tmp_path / "list.txt", corpus)
    assert "list.txt:3: wavs/clip0.wav is already on line 1" in str(error.value)
    train = (corpus / "filelists/train.txt").read_text()
    (tmp_path / "train.txt").write_text(train.replace("wavs/", ".//wavs/./"))
    (tmp_path / "val.txt").write_text(train.splitlines()[0] + "\n")
    clips = read_filelist(tmp_path / "train.txt", corpus)
    assert len(MelDirectory(corpus / "mels").check(clips, AUDIO)) == 7
    lists = [f"data.{part}_filelist={tmp_path}/{part}.txt" for part in ("train", "val")]
    command = ("scripts/check_dataset.py", f"data.root={corpus}", f"output={tmp_path}", "num_processes=1", *lists)
    assert "is also in train" in run_here(*command, expect=1).stdout


@pytest.mark.parametrize("name", ["../../neighbour", "{absolute}", "spk1/../../../neighbour", "//neighbour", ".."])
@pytest.mark.fault(24)
def test_metadata_does_not_leave_the_corpus(tmp_path: Path, name: str) -> None:
    root, neighbour = write_corpus(tmp_path / "in/c"), tmp_path / "neighbour.wav"
    soundfile.write(neighbour, tone(0.5, 0), 22050)
    soundfile.write(tmp_path / "in/neighbour.wav", tone(0.5, 0), 22050)
    run_here("scripts/prepare_filelists.py", root)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with open(root / "metadata.csv", "a") as file:
        file.write(f"{name.format(absolute=neighbour.with_suffix(''))}|text\n")
    reason = "metadata.csv:9: the id "
    fails_with(run_here("scripts/prepare_filelists.py", root, expect=1), reason, "is not the name of a clip below")
    fails_with(run_here("scripts/trim_silence.py", root, tmp_path / "out", expect=1), reason)
    command = ("scripts/check_dataset.py", f"data.root={root}", f"output={tmp_path}/check", "num_processes=1")
    assert reason in run_here(*command, expect=1).stdout
    changed = {path for path, content in before.items() if path.read_bytes() != content}
    assert changed == {root / "metadata.csv"}


@pytest.mark.slow
def test_clips_may_be_in_subfolders(tmp_path: Path) -> None:
    """Ids such as spk1/a work in every command, and `./` and `//` in them change nothing."""
    root = write_corpus(tmp_path / "c")
    for speaker in (0, 1):
        (root / f"wavs/spk{speaker}").mkdir()
        for i in range(4 * speaker, 4 * speaker + 4):
            (root / f"wavs/clip{i}.wav").rename(root / f"wavs/spk{speaker}/clip{i}.wav")
    rows = [f"spk{i // 4}/clip{i}|{text}\n" for i, text in enumerate(SENTENCES)]
    rows[0], rows[1] = f".//{rows[0]}", rows[1].replace("/", "/./")
    (root / "metadata.csv").write_text("".join(rows))
    run_here("scripts/trim_silence.py", root, tmp_path / "out")
    for corpus in (root, tmp_path / "out"):
        assert "left out" not in run_here("scripts/prepare_filelists.py", corpus).stdout
        check = ("scripts/check_dataset.py", f"data.root={corpus}", f"output={tmp_path}/check", "num_processes=1")
        assert "0 bad rows" in run_here(*check).stdout
        run_here("scripts/prepare_mels.py", f"data.root={corpus}", "num_processes=1")
        data = TextMelDataset(f"{corpus}/filelists/train.txt", data_config(corpus), AUDIO)
        assert {clip.path for clip in data.clips} < {f"wavs/spk{i // 4}/clip{i}.wav" for i in range(8)}
    (root / "metadata.csv").write_text("".join(rows) + "spk0/clip0|again\n")
    fails_with(run_here("scripts/prepare_filelists.py", root, expect=1), "metadata.csv:9: spk0/clip0 is already in a")


@pytest.mark.fault(17)
def test_links_out_of_the_root_need_permission(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "wavs").symlink_to(corpus / "wavs")
    (tmp_path / "list.txt").write_text("wavs/clip0.wav|text\n")
    with pytest.raises(UserError, match=r"list.txt:1: wavs/clip0.wav is a link out of.*data.follow_links=true"):
        read_filelist(tmp_path / "list.txt", tmp_path)
    assert read_filelist(tmp_path / "list.txt", tmp_path, follow_links=True)[0].file.is_file()


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "phrases.txt").write_bytes(b"one\r\n\r\n  two \n")
    assert read_lines(tmp_path / "phrases.txt", "input") == [(1, "one"), (3, "two")]


# ---- mels ----


def test_mels_match_the_clips(corpus: Path) -> None:
    config = data_config(corpus)
    clips = read_filelist(config.train_filelist, corpus)
    mels = MelDirectory(config.mel_dir)
    frames = mels.check(clips, AUDIO)
    for clip, num_frames in zip(clips, frames, strict=True):
        audio = torch.from_numpy(load_audio(clip.file, AUDIO))
        expected = LogMel(AUDIO)(audio.unsqueeze(0))[0]
        assert num_frames == expected.shape[1]
        torch.testing.assert_close(torch.tensor(mels.load(clip)), expected)


def test_mels_are_skipped_refreshed_and_refused(tmp_path: Path) -> None:
    root = prepare(write_corpus(tmp_path / "c"))
    command = ["scripts/prepare_mels.py", f"data.root={root}", "num_processes=1"]
    assert "0 mels computed, 8 were up to date" in run_here(*command).stdout
    # a changed clip and a missing mel
    soundfile.write(root / "wavs/clip0.wav", tone(2.0, 5), 22050)
    (root / "mels/wavs/clip1.wav.npy").unlink()
    config = data_config(root)
    clips = read_filelist(config.train_filelist, root) + read_filelist(config.val_filelist, root)
    with pytest.raises(UserError, match="2 of 8 mels are missing"):
        MelDirectory(config.mel_dir).check(clips, AUDIO)
    assert "2 mels computed, 6 were up to date" in run_here(*command).stdout
    assert sum(MelDirectory(config.mel_dir).check(clips, AUDIO)) > 8 * 40
    # a different audio config
    with pytest.raises(UserError, match=r"audio.fmax is 7600.0, stored 8000.0.*prepare_mels"):
        MelDirectory(config.mel_dir).check(clips, AudioConfig(fmax=7600.0))
    result = run_here(*command, "audio.fmax=7600")
    assert "has changed" in result.stdout
    assert "8 mels computed" in result.stdout
    MelDirectory(config.mel_dir).check(clips, AudioConfig(fmax=7600.0))
    with pytest.raises(UserError, match=r"audio.fmax is 8000.0, stored 7600.0") as error:
        TextMelDataset(config.train_filelist, config, AUDIO)
    # the command in a message makes a second set of mels, or computes the missing ones with the same options
    run_message(error.value, OTHER=str(root / "default"))
    mels = MelDirectory(root / "default")
    mels.check(clips, AUDIO)
    MelDirectory.mel_path(root / "mels", clips[0].path).unlink()
    with pytest.raises(UserError, match="1 of 8 mels") as error:
        MelDirectory(config.mel_dir).check(clips, AudioConfig(fmax=7600.0))
    assert "1 mel computed, 7 were up to date" in run_message(error.value)
    MelDirectory.mel_path(mels.path, clips[0].path).write_bytes(b"")
    with pytest.raises(UserError, match="not a readable mel") as error:
        mels.load(clips[0])
    assert "1 mel computed, 7 were up to date" in run_message(error.value)


def run_message(error: UserError, **names: str) -> str:
    """Run the command for mels that a message ends with, and return its output."""
    script, *arguments = str(error).rpartition("run: bash ")[2].split()
    for name, value in names.items():
        arguments = [argument.replace(name, value) for argument in arguments]
    return run_here(script.replace(".sh", ".py"), f"data.root={arguments[0]}", *arguments[1:], "num_processes=1").stdout


def test_an_interrupted_run_continues(tmp_path: Path) -> None:
    """The run was killed while it wrote the manifest's last line: complete lines count, the rest is recomputed."""
    root = prepare(write_corpus(tmp_path / "c"))
    manifest = root / "mels/manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:5]) + lines[5][:20])
    result = run_here("scripts/prepare_mels.py", f"data.root={root}", "num_processes=2")
    assert "3 mels computed, 5 were up to date" in result.stdout


def forget_checksums(mel_dir: Path) -> None:
    """Make the manifest one of an earlier version."""
    entries = [json.loads(line) for line in (mel_dir / "manifest.jsonl").read_text().splitlines()]
    old = ({key: entry[key] for key in ("clip", "frames", "size", "mtime_ns")} for entry in entries)
    (mel_dir / "manifest.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in old))


def test_mels_of_an_earlier_version_are_used_as_they_are(corpus: Path, tmp_path: Path) -> None:
    mel_dir = tmp_path / "mels"
    shutil.copytree(corpus / "mels", mel_dir)
    forget_checksums(mel_dir)
    config = dataclasses.replace(data_config(corpus), mel_dir=str(mel_dir))
    data, again = (TextMelDataset(config.train_filelist, config, AUDIO) for _ in range(2))
    assert all(torch.equal(data[(i, 0)][1], again[(i, 0)][1]) for i in range(len(data)))
    result = run_here("scripts/prepare_mels.py", f"data.root={corpus}", f"data.mel_dir={mel_dir}", "num_processes=1")
    assert "0 mels computed, 8 were up to date" in result.stdout  # the next preparation adds the checksums
    lines = [set((directory / "manifest.jsonl").read_text().splitlines()) for directory in (mel_dir, corpus / "mels")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("damage", "at_start", "reason"),
    [
        (lambda mel: mel[:, :20], True, "missing, damaged or"),
        (lambda mel: np.concatenate([mel] * 3, axis=1), True, "missing, damaged or"),
        (lambda mel: mel[:79], True, "missing, damaged or"),
        (lambda mel: mel.astype(np.float64), True, "missing, damaged or"),
        (lambda mel: mel.T, False, "not (80, "),
        (lambda mel: mel[None], False, "has the shape (1, 80, "),
        (lambda mel: mel.reshape(40, -1), False, "has the shape (40, "),
        (lambda mel: mel[:, ::-1], False, "is not the mel that was prepared"),
        (lambda mel: np.where(mel == mel.max(), np.nan, mel), False, "NaN or infinite"),
        (lambda mel: np.full(mel.shape, "text", "S4"), False, "is not a readable mel"),
    ],
)
@pytest.mark.fault(29)
def test_damaged_mels_are_refused_and_repaired(
    corpus: Path, tmp_path: Path, damage: Callable[[np.ndarray], np.ndarray], at_start: bool, reason: str
) -> None:
    """What the size shows is refused at the start, the rest when the mel is read. Preparing again repairs it."""
    shutil.copytree(corpus / "mels", tmp_path / "mels")
    config = dataclasses.replace(data_config(corpus), mel_dir=f"{tmp_path}/mels")
    clip = read_filelist(config.val_filelist, corpus)[0]
    file = MelDirectory.mel_path(tmp_path / "mels", clip.path)
    before = np.load(file)
    np.save(file, damage(before))
    data = None if at_start else TextMelDataset(config.val_filelist, config, AUDIO)
    with pytest.raises(UserError) as error:
        _ = data[(0, 0)] if data else TextMelDataset(config.val_filelist, config, AUDIO)
    assert reason in str(error.value)
    assert clip.path in str(error.value)
    assert "1 mel computed, 7 were up to date" in run_message(error.value)
    assert np.array_equal(np.load(file), before)
    TextMelDataset(config.val_filelist, config, AUDIO)[(0, 0)]


@pytest.mark.fault(29)
def test_a_damaged_mel_ends_training_with_its_name(corpus: Path, tmp_path: Path) -> None:
    """In a loader process too, whose errors would otherwise come with its traceback."""
    shutil.copytree(corpus / "mels", tmp_path / "mels")
    for file in (tmp_path / "mels/wavs").iterdir():
        np.save(file, np.full_like(np.load(file), np.inf))
    command = train_command(corpus, tmp_path / "run", TINY_TACOTRON2, f"data.mel_dir={tmp_path}/mels")
    result = run_here(*command, "data.num_workers=1", "trainer.max_steps=1", expect=1)
    fails_with(result, ".wav.npy holds values that are NaN or infinite; run: bash scripts/prepare_mels.sh")


@pytest.mark.parametrize("is_old", [False, True], ids=["checksums", "earlier version"])
@pytest.mark.fault(29)
def test_mels_that_change_while_a_run_reads_are_noticed(tmp_path: Path, is_old: bool) -> None:
    root = prepare(write_corpus(tmp_path / "c"))
    if is_old:
        forget_checksums(root / "mels")
    config = data_config(root)
    text, audio = (
        TextMelDataset(config.train_filelist, config, AUDIO),
        SegmentDataset(config.val_filelist, config, AUDIO, 0),
    )
    for data in (text, audio):
        data[(0, 0)]
    command = ["scripts/prepare_mels.py", f"data.root={root}", "num_processes=1"]
    run_here(*command)  # the same mels again change nothing
    for data in (text, audio):
        data[(0, 0)]
    run_here(*command, "audio.fmax=7600")
    reason = "has changed since it was checked" if is_old else "its checksum differs"
    for data in (text, audio):
        with pytest.raises(UserError, match=rf"clip\d.wav.npy .*{reason}.*run: bash scripts/prepare_mels.sh"):
            data[(0, 0)]


@pytest.mark.fault(29)
def test_two_preparations_of_one_directory(tmp_path: Path) -> None:
    root = prepare(write_corpus(tmp_path / "c"))
    command = ["scripts/prepare_mels.py", f"data.root={root}", "num_processes=1"]
    config = data_config(root)
    clips = read_filelist(config.train_filelist, root)
    before = (root / "mels/manifest.jsonl").read_bytes()
    with locked(root / "mels", "data.mel_dir"):
        result = run_here(*command, "audio.fmax=7600", expect=1)
        fails_with(result, f"data.mel_dir={root}/mels is in use", f"process {os.getpid()} on", "another data.mel_dir")
        MelDirectory(root / "mels").check(clips, AUDIO)  # training may read
    assert (root / "mels/manifest.jsonl").read_bytes() == before
    # Where the file system has no locks, each line of the manifest says with which config its mel was made.
    mels, other = MelDirectory(root / "mels"), AudioConfig(fmax=7600.0)
    mel = LogMel(other)(torch.from_numpy(load_audio(clips[0].file, AUDIO)).unsqueeze(0))[0].numpy()
    entry = Entry.of(clips[0], clips[0].file.stat(), mel, other)
    mels.save(mels.path, entry, mel)
    mels.add(entry)
    with pytest.raises(UserError, match=r"1 of 7 mels is missing, damaged"):
        MelDirectory(root / "mels").check(clips, AUDIO)
    assert "1 mel computed, 7 were up to date" in run_here(*command).stdout


@pytest.mark.parametrize(
    "line",
    ["", "5", "null", "[]", "{}", "[" * 99999, '{"clip": "wavs/clip0.wav"}', "\0\xff", "{frames}", "{clip}", "{more}"],
)
@pytest.mark.fault(29)
def test_odd_lines_of_a_manifest_are_left_out(corpus: Path, tmp_path: Path, line: str) -> None:
    lines = (corpus / "mels/manifest.jsonl").read_text().splitlines(keepends=True)
    entry = json.loads(lines[0])
    for name, change in (("frames", {"frames": "9"}), ("clip", {"clip": ["a"]}), ("more", {"more": 1})):
        line = line.replace(f"{{{name}}}", json.dumps(entry | change))
    (tmp_path / "manifest.jsonl").write_text("".join([f"{line}\n", *lines[1:]]))
    shutil.copy(corpus / "mels/audio.json", tmp_path)
    assert len(MelDirectory(tmp_path).entries) == 7
    (tmp_path / "audio.json").write_text(line)
    assert not MelDirectory(tmp_path).is_fresh(read_filelist(corpus / "filelists/train.txt", corpus)[0])


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """Let every write beyond `num_bytes` of a file fail, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.fault(34)
def test_a_full_disk_in_the_preparation_of_mels(tmp_path: Path) -> None:
    root = write_corpus(tmp_path / "c")
    run_here("scripts/prepare_filelists.py", root)
    command = ["scripts/prepare_mels.py", f"data.root={root}", "num_processes=1"]
    with full_disk(50):
        fails_with(run_here(*command, expect=1), "mels/audio.json: not written (", "free some space")
    with full_disk(20_000):  # some mels fit
        fails_with(run_here(*command, expect=1), ".wav.npy: not written (", "free some space")
    assert not [name for name in content(root) if "tmp" in name]
    mels = MelDirectory(root / "mels")
    kept = len(mels.entries)
    assert f"{8 - kept} mels computed, {kept} w" in run_here(*command).stdout
    mels = MelDirectory(root / "mels")
    mels.check(read_filelist(root / "filelists/train.txt", root), AUDIO)
    (root / "mels/manifest.jsonl").unlink()
    (root / "mels/manifest.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"manifest.jsonl: not written \(.*No space left.*free some space"):
        mels.add(next(iter(mels.entries.values())))


@pytest.mark.fault(34)
def test_a_full_disk_in_other_scripts_of_data(tmp_path: Path) -> None:
    root = write_corpus(tmp_path / "c")
    run_here("scripts/prepare_filelists.py", root)
    (root / "filelists/train.txt").write_text("wavs/clip0.wav|my own\n")
    run_here("scripts/trim_silence.py", root, tmp_path / "first")  # numba compiles, and keeps what it has compiled
    shutil.rmtree(tmp_path / "first")
    before = content(tmp_path)
    with full_disk(10):
        fails_with(run_here("scripts/prepare_filelists.py", root, expect=1), "train.txt.old: not written (")
    with full_disk(20_000):
        fails_with(run_here("scripts/trim_silence.py", root, tmp_path / "out", expect=1), ".wav: not written (")
        command = ("scripts/check_dataset.py", f"data.root={root}", f"output={tmp_path}/check", "num_processes=1")
        fails_with(run_here(*command, expect=1), "report.png: not written (")
    shutil.rmtree(tmp_path / "check")
    assert content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.fault(32)
def test_a_killed_process_is_an_error() -> None:
    with pytest.raises(UserError, match=r"one of the 2 processes was killed.*memory.*num_processes=1"):
        list(in_parallel(signal.raise_signal, [signal.SIGKILL] * 2, 2, "clip"))


def touch(path: Path) -> int:
    path.touch()
    return int(path.name)


@pytest.mark.fault(32)
@pytest.mark.slow
def test_results_that_nobody_takes_do_not_pile_up(tmp_path: Path) -> None:
    """Takes seconds, because the processes import PyTorch."""
    results = in_parallel(touch, [tmp_path / str(i) for i in range(200)], 2, "clip")
    assert next(results) == 0
    time.sleep(0.2)
    assert len(list(tmp_path.iterdir())) <= (2 * AHEAD + 1) * CHUNK
    assert list(results) == list(range(1, 200))


def stop_self(_: int) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.fault(32)
def test_a_frozen_process_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes seconds, because the processes import PyTorch."""
    monkeypatch.setattr("common.parallel.PATIENCE", 0.06)
    with pytest.raises(UserError, match=r"no result for 0.06 minutes: often a disk.*was stopped; run this again"):
        list(in_parallel(stop_self, [0] * 8, 2, "clip"))
    assert multiprocessing.active_children() == []


@pytest.mark.fault(29)
@pytest.mark.parametrize("touched_only", [True, False])
def test_a_clip_that_changes_during_training_is_noticed(touched_only: bool, corpus: Path, tmp_path: Path) -> None:
    root = tmp_path / "c"
    shutil.copytree(corpus, root)
    data = data_config(root)
    dataset = SegmentDataset(data.train_filelist, data, AUDIO, 0)
    dataset[(0, 0)]
    clip = dataset.clips[0].file
    samples, rate = soundfile.read(clip)
    os.utime(clip) if touched_only else soundfile.write(clip, samples[:-256], rate)
    with pytest.raises(UserError, match=rf"the mel of an earlier {clip.name}, which has changed since; run"):
        dataset[(0, 1)]


@pytest.mark.fault(32)
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for the processes in /proc")
def test_processes_end_with_the_one_that_started_them() -> None:
    """Killed by SIGKILL, it cannot end them itself. Takes seconds, because three processes import PyTorch."""
    code = "import time; from common.parallel import in_parallel; list(in_parallel(time.sleep, [60] * 8, 2, 'job'))"
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")

    def running(process: str) -> bool:
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
        except OSError:
            return False

    wait_until(lambda: len(children.read_text().split()) == 3)  # two, and the one that cleans up after all of them
    processes = children.read_text().split()
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(map(running, processes)))


@pytest.mark.fault(16)
def test_bad_clips_are_all_listed(tmp_path: Path) -> None:
    root = write_corpus(tmp_path / "c")
    (root / "wavs/clip1.wav").write_bytes(b"no audio")
    soundfile.write(root / "wavs/clip2.wav", tone(0.5, 0), 16000)
    run_here("scripts/prepare_filelists.py", root)
    result = run_here("scripts/prepare_mels.py", f"data.root={root}", "num_processes=1", expect=1)
    fails_with(result, "clip1.wav: not a readable audio file", "clip2.wav: the sample rate is 16000 Hz", "train.txt:")
    assert "6 mels computed" in result.stdout
    (root / "wavs/clip1.wav").unlink()
    soundfile.write(root / "wavs/clip1.wav", tone(0.5, 0), 22050)
    run_here("scripts/prepare_mels.py", f"data.root={root}", "num_processes=1", "data.convert_audio=true")


# ---- datasets ----


def test_texts_and_mels_are_padded(corpus: Path) -> None:
    config = data_config(corpus)
    data = TextMelDataset(config.train_filelist, config, AUDIO)
    batch = collate([data[(i, 0)] for i in range(len(data))])
    assert batch.mel_lengths.tolist() == list(data.lengths)
    assert batch.mel.shape == (len(data), 80, max(data.lengths))
    for i, length in enumerate(data.ids.lengths):
        ids = data.ids[i]
        assert len(ids) == length
        assert batch.text[i, : len(ids)].tolist() == ids
        assert batch.text[i, len(ids) :].eq(0).all()
        assert batch.mel[i, :, data.lengths[i] :].eq(0).all()


def test_text_that_cleans_to_nothing_is_an_error(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("wavs/clip0.wav|fine\nwavs/clip1.wav|###\n")
    with pytest.raises(UserError, match=r"list.txt:2: nothing is left of '###'"):
        TextMelDataset(str(tmp_path / "list.txt"), data_config(corpus), AUDIO)


def test_rows_may_name_mels(corpus: Path, tmp_path: Path) -> None:
    """NVIDIA DeepLearningExamples has filelists of .pt mels; NVIDIA/tacotron2 can read .npy mels."""
    mel = torch.randn(80, 33)
    torch.save(mel, tmp_path / "a.pt")
    np.save(tmp_path / "b.npy", mel.numpy())
    np.save(tmp_path / "wrong.npy", np.zeros((33, 80), np.float32))
    (tmp_path / "list.txt").write_text("a.pt|one\nb.npy|two\n")
    config = data_config(tmp_path)
    data = TextMelDataset(str(tmp_path / "list.txt"), config, AUDIO)
    assert data.lengths == [33, 33]
    for i in range(2):
        torch.testing.assert_close(torch.as_tensor(data[(i, 0)][1]), mel)
    with pytest.raises(UserError, match=r"list.txt:1: a.pt is a mel"):
        SegmentDataset(str(tmp_path / "list.txt"), config, AUDIO, seed=0)
    (tmp_path / "list.txt").write_text("wrong.npy|one\n")
    with pytest.raises(UserError, match=r"wrong.npy has the shape \(33, 80\)"):
        TextMelDataset(str(tmp_path / "list.txt"), config, AUDIO)


@pytest.mark.fault(29)
def test_values_of_mels_that_rows_name(tmp_path: Path) -> None:
    mel = np.zeros((80, 33), np.float32)
    np.save(tmp_path / "a.npy", mel)
    torch.save(torch.from_numpy(np.full_like(mel, np.nan)), tmp_path / "nan.pt")
    shapes: dict[str, tuple[int, ...]] = {"flat": (80,), "deep": (1, 80, 33), "none": (80, 0), "one": ()}
    for name, shape in shapes.items():
        np.save(tmp_path / f"{name}.npy", np.zeros(shape, np.float32))
    (tmp_path / "list.txt").write_text("a.npy|one\nnan.pt|two\n")
    data = TextMelDataset(str(tmp_path / "list.txt"), data_config(tmp_path), AUDIO)
    data[(0, 0)]
    with pytest.raises(UserError, match=r"list.txt:2: .*nan.pt holds values that are NaN.*; replace it or remove its"):
        data[(1, 0)]
    np.save(tmp_path / "a.npy", mel + 1)
    with pytest.raises(UserError, match=r"list.txt:1: .*a.npy has changed since it was checked"):
        data[(0, 0)]
    (tmp_path / "list.txt").write_text("flat.npy|a\ndeep.npy|b\nnone.npy|c\none.npy|d\n")
    with pytest.raises(UserError) as error:
        TextMelDataset(str(tmp_path / "list.txt"), data_config(tmp_path), AUDIO)
    for number, shape in enumerate(shapes.values(), 1):
        reason = re.escape(f" has the shape {shape}, not (80, frames)")
        assert re.search(f"list.txt:{number}: .*{reason}", str(error.value))


@pytest.mark.parametrize("name", ["empty.pt", "empty.npy", "dict.pt", "text.npy"])
@pytest.mark.fault(16)
def test_unreadable_mels_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"text")
    if name == "dict.pt":
        torch.save({"mel": torch.zeros(80, 3)}, tmp_path / name)
    (tmp_path / "list.txt").write_text(f"{name}|text\n")
    with pytest.raises(UserError, match=rf"list.txt:1: .*{name} is not a readable mel.*remove its row"):
        TextMelDataset(str(tmp_path / "list.txt"), data_config(tmp_path), AUDIO)


def test_segments_match_their_mel(corpus: Path) -> None:
    config = data_config(corpus, segment_length=4096)
    data = SegmentDataset(config.train_filelist, config, AUDIO, seed=3)
    places = set()
    for epoch in range(6):
        for i in range(len(data)):
            mel, audio = data[(i, epoch)]
            assert (mel.shape, audio.shape) == ((80, 16), (4096,))
            whole = load_audio(data.clips[i].file, AUDIO)
            starts = np.flatnonzero(whole[: len(whole) - 4096 : 256] == audio[0].item()) * 256
            start = next(s for s in starts if np.array_equal(whole[s : s + 4096], audio.numpy()))
            places.add((i, int(start)))
            expected = LogMel(AUDIO)(torch.from_numpy(whole).unsqueeze(0))[0, :, start // 256 : start // 256 + 16]
            torch.testing.assert_close(mel, expected)
            assert torch.equal(data[(i, epoch)][1], audio)  # the same index and epoch give the same segment
    assert len(places) > 2 * len(data)


@pytest.mark.fault(16)
def test_a_short_clip_is_padded_with_silence(corpus: Path) -> None:
    config = data_config(corpus, segment_length=51200)
    data = SegmentDataset(config.val_filelist, config, AUDIO, seed=0)
    mel, audio = data[(0, 0)]
    num_samples = len(load_audio(data.clips[0].file, AUDIO))
    assert (mel.shape, audio.shape) == ((80, 200), (51200,))
    assert audio[num_samples:].eq(0).all()
    assert mel[:, 1 + num_samples // 256 :].unique().tolist() == pytest.approx([-11.5129], abs=1e-4)


# ---- the batch plan of an epoch ----


def test_every_clip_once_an_epoch() -> None:
    plan = BatchPlan(list(range(103)), seed=1)
    first, second = plan.batches(0, BatchSize(8), []), plan.batches(1, BatchSize(8), [])
    for batches in (first, second):
        assert sorted(i for batch in batches for i in batch) == list(range(103))
    assert first != second
    assert first == BatchPlan(list(range(103)), seed=1).batches(0, BatchSize(8), [])
    assert first != BatchPlan(list(range(103)), seed=2).batches(0, BatchSize(8), [])


@pytest.mark.fault(11)
def test_resuming_takes_the_remaining_clips() -> None:
    plan = BatchPlan(list(range(103)), seed=1)
    whole = plan.batches(0, BatchSize(8), [])
    assert plan.batches(0, BatchSize(8), [[8, 0, 1, 5]]) == whole[5:]
    taken = {i for batch in whole[:5] for i in batch}
    done = [[8, 0, 1, 5]]
    left = plan.batches(0, BatchSize(6), done)
    assert done == [[8, 0, 1, 5], [6, 0, 1, 0]]
    assert sorted(i for batch in left for i in batch) == sorted(set(range(103)) - taken)
    done[-1][-1] = 2
    assert plan.batches(0, BatchSize(6), done) == left[2:]


def test_batches_hold_clips_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(50, 800, 512)
    batches = BatchPlan(lengths.tolist(), seed=0).batches(0, BatchSize(16), [])
    padded = sum(len(batch) * max(lengths[batch]) for batch in batches)
    assert padded / lengths.sum() < 1.1  # unsorted batches: 1.8


def test_ranks_share_every_batch() -> None:
    batches = [[1, 2, 3, 4, 5, 6], [7, 8, 9], [10]]
    shares = []
    for rank in range(2):
        sampler = RankSampler(rank, 2)
        sampler.set_epoch(4, batches)
        assert len(sampler) == 3
        shares.append(list(sampler))
    assert shares[0] == [[(1, 4), (3, 4), (5, 4)], [(7, 4), (9, 4)], [(10, 4)]]
    assert shares[1] == [[(2, 4), (4, 4), (6, 4)], [(8, 4)], [(10, 4)]]


# ---- the download ----


def archive_server(tmp_path: Path, port_file: Path) -> subprocess.Popen[str]:
    """Start a local HTTP server that supports byte ranges, in its own process."""
    code = f"""
import http.server, os, re
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        data = open(self.translate_path(self.path), "rb").read()
        start = int((re.match(r"bytes=(\\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        open({str(tmp_path / "requests")!r}, "a").write(f"{{start}}\\n")
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {{start}}-{{len(data) - 1}}/{{len(data)}}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:])
    def log_message(self, *args): pass
os.chdir({str(tmp_path / "served")!r})
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
open({str(port_file)!r}, "w").write(str(server.server_port))
server.serve_forever()
"""
    process = subprocess.Popen([sys.executable, "-c", code], text=True)
    wait_until(lambda: process.poll() is not None or (port_file.exists() and port_file.read_text()))
    assert process.poll() is None
    return process


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, which downloads LJSpeech")
def test_prepare_dataset_downloads_resumes_and_verifies(tmp_path: Path) -> None:
    write_corpus(tmp_path / "LJSpeech-1.1")
    (tmp_path / "served").mkdir()
    archive = tmp_path / "served/LJSpeech-1.1.tar.bz2"
    subprocess.run(["tar", "-cjf", archive, "-C", tmp_path, "LJSpeech-1.1"], check=True)
    server = archive_server(tmp_path, tmp_path / "port")
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "LJSPEECH_URL": f"http://127.0.0.1:{(tmp_path / 'port').read_text()}/LJSpeech-1.1.tar.bz2",
        "LJSPEECH_SHA256": hashlib.sha256(archive.read_bytes()).hexdigest(),
    }

    def prepare_dataset(name: str = "LJSpeech", **more: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "scripts/prepare_dataset.sh", str(tmp_path / "data" / name)]
        return subprocess.run(command, cwd=REPOSITORY, env={**environment, **more}, capture_output=True, text=True)

    try:
        # an interrupted download continues where it stopped
        (tmp_path / "data").mkdir()
        (tmp_path / "data/LJSpeech.tar.bz2.part").write_bytes(archive.read_bytes()[:1000])
        result = prepare_dataset()
        assert result.returncode == 0, result.stdout + result.stderr
        assert (tmp_path / "requests").read_text() == "1000\n"
        same = [(tmp_path / name / "metadata.csv").read_text() for name in ("data/LJSpeech", "LJSpeech-1.1")]
        assert same[0] == same[1]
        assert len(list((tmp_path / "data/LJSpeech/wavs").iterdir())) == 8
        assert (tmp_path / "data/LJSpeech/filelists/train.txt").is_file()
        # an existing corpus is not touched
        assert "only its filelists" in prepare_dataset().stdout
        # neither are a user's other files in its place
        (tmp_path / "data/LJSpeech/metadata.csv").unlink()
        result = prepare_dataset()
        assert result.returncode == 1
        assert "not empty and holds no corpus" in result.stderr
        assert (tmp_path / "data/LJSpeech/wavs/clip0.wav").is_file()
        # a mistyped name of a folder with recordings downloads nothing
        result = prepare_dataset("my_voise")
        assert result.returncode == 1
        assert f"there is no directory {tmp_path}/data/my_voise" in result.stderr
        (tmp_path / "data/other").mkdir()
        assert prepare_dataset("other").returncode == 0
        # a damaged archive is refused and removed, and nothing is unpacked
        shutil.rmtree(tmp_path / "data")
        result = prepare_dataset(LJSPEECH_SHA256="0" * 64)
        assert result.returncode == 1
        assert "SHA-256 differs" in result.stderr
        assert list((tmp_path / "data").iterdir()) == []
    finally:
        server.kill()
        server.wait()


def unpacked(tmp_path: Path, *members: tarfile.TarInfo) -> subprocess.CompletedProcess[str]:
    """Run prepare_dataset.sh on an archive of a corpus with more members."""
    write_corpus(tmp_path / "LJSpeech-1.1")
    archive = tmp_path / "mirror.tar.bz2"
    with tarfile.open(archive, "w:bz2") as file:
        file.add(tmp_path / "LJSpeech-1.1", "LJSpeech-1.1")
        for member in members:
            file.addfile(member, io.BytesIO(bytes(member.size)))
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "LJSPEECH_URL": archive.as_uri(),
        "LJSPEECH_SHA256": hashlib.sha256(archive.read_bytes()).hexdigest(),
    }
    command = ["bash", str(REPOSITORY / "scripts/prepare_dataset.sh"), f"{tmp_path}/data/ljspeech/"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def member(name: str, kind: bytes, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(f"LJSpeech-1.1/{name}")
    info.type, info.linkname, info.mode = kind, target, mode
    return info


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, which downloads LJSpeech")
@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("filelists", tarfile.SYMTYPE, "../../victim"),  # prepare_filelists would write there
        ("wavs/a.wav", tarfile.SYMTYPE, "/etc/passwd"),
        ("wavs/a.wav", tarfile.LNKTYPE, "LJSpeech-1.1/metadata.csv"),
        ("wavs/a.wav", tarfile.FIFOTYPE, ""),
    ],
)
@pytest.mark.fault(36)
def test_an_archive_with_links_is_refused(tmp_path: Path, name: str, kind: bytes, target: str) -> None:
    (tmp_path / "victim").mkdir()
    result = unpacked(tmp_path, member(name, kind, target))
    fails_with(result, "holds links or devices (metadata.csv)" if kind == tarfile.LNKTYPE else f"devices ({name})")
    assert not any((tmp_path / "victim").iterdir())
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["ljspeech.tar.bz2"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, which downloads LJSpeech")
@pytest.mark.fault(36)
def test_an_archive_gives_no_rights(tmp_path: Path) -> None:
    odd = [member("tool", tarfile.REGTYPE, mode=0o6777), member("open", tarfile.DIRTYPE, mode=0o7777)]
    result = unpacked(tmp_path, *odd, member("../../outside", tarfile.REGTYPE))
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "data/outside").exists()
    if result.returncode:  # GNU tar refuses a member that leaves the folder
        assert "could not be unpacked" in result.stderr
        result = unpacked(tmp_path / "again", *odd)
        tmp_path = tmp_path / "again"
    assert result.returncode == 0, result.stderr
    root = tmp_path / "data/ljspeech"
    assert [stat.S_IMODE((root / name).stat().st_mode) & 0o7022 for name in ("tool", "open")] == [0, 0]
    assert (root / "filelists/train.txt").is_file()


@pytest.mark.fault(36)
def test_prepare_dataset_in_the_current_directory(tmp_path: Path) -> None:
    script, root = REPOSITORY / "scripts/prepare_dataset.sh", write_corpus(tmp_path / "c")

    def prepare_dataset(directory: Path) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHON": sys.executable, "LJSPEECH_URL": "file:///none"}
        command = ["bash", str(script), "./"]
        return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)

    assert "only its filelists are written" in prepare_dataset(root).stdout
    assert (root / "filelists/train.txt").is_file()
    (tmp_path / "empty").mkdir()
    fails_with(prepare_dataset(tmp_path / "empty"), "the current directory holds no corpus", "name another directory")
    assert {path.name for path in tmp_path.iterdir()} == {"c", "empty"}
