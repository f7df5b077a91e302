"""Write filelists/{train,val,test}.txt for a corpus in LJSpeech's layout (metadata.csv and wavs/).

    python scripts/prepare_filelists.py DIR
    python scripts/prepare_filelists.py DIR --speakers folders      several speakers: wavs/SPEAKER/name.wav
    python scripts/prepare_filelists.py DIR --speakers column       several speakers: a column of metadata.csv

LJSpeech gets the reference's split (filelists/ljspeech_split.json). In any other corpus, 2 % of the clips are held out
for validation, chosen by their names alone: at most 100, and at least 6, or one in eight of fewer than 48 clips. The
transcript is the last column of metadata.csv.

With --speakers the lists have a third column, and of each speaker an equal number of clips is held out, at least one.
"""

from __future__ import annotations

import checkout

import argparse
import hashlib
import itertools
import json
import shlex
import shutil
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from common.audio import needs_conversion
from common.config import AudioConfig
from common.data.metadata import MetadataRow, read_metadata, without_row
from common.entry import run_command
from common.errors import UserError
from common.files import make_directory, replacing
from common.wording import counted

PARTS = ("train", "val", "test")
MIN_VAL = 6  # clips: about half a minute of speech, enough to measure Tacotron 2's postfilter (MIN_CALIBRATION_FRAMES)


def split(ids: list[str]) -> dict[str, str]:
    """Map each id to "train", "val" or "test"."""
    reference = json.loads((checkout.REPOSITORY / "filelists" / "ljspeech_split.json").read_text())
    held_out = {clip: part for part, clips in reference.items() for clip in clips}
    if any(held_out.get(clip) == "val" for clip in ids):
        return {clip: held_out.get(clip, "train") for clip in ids}
    num_val = num_held_out(len(ids))
    if len(ids) <= num_val:
        raise UserError(
            f"{counted(len(ids), 'clip')} cannot be divided: one is held out for validation, at least one must remain"
        )
    return {clip: "val" if i < num_val else "train" for i, clip in enumerate(in_random_order(ids))}


def split_by_speaker(rows: list[MetadataRow]) -> dict[str, str]:
    """Map the id of each row to "train" or "val", with an equal number of clips of each speaker in "val"."""
    by_speaker: dict[str, list[str]] = {}
    for row in rows:
        by_speaker.setdefault(row.speaker, []).append(row.clip)
    num_val = max(1, round(num_held_out(len(rows)) / len(by_speaker)))
    parts: dict[str, str] = {}
    for speaker, ids in sorted(by_speaker.items()):
        if len(ids) < 2:
            raise UserError(
                f"the speaker {speaker} has 1 clip: one is held out for validation, at least one must remain; add "
                "clips, or remove the row"
            )
        number = min(num_val, max(1, len(ids) // 8))
        parts |= {clip: "val" if i < number else "train" for i, clip in enumerate(in_random_order(ids))}
    return parts


def num_held_out(num_clips: int) -> int:
    """The number of clips for validation."""
    return max(1, min(100, num_clips // 50), min(MIN_VAL, num_clips // 8))


def in_random_order(ids: list[str]) -> list[str]:
    """An order that depends on the names alone."""
    return sorted(ids, key=lambda clip: hashlib.sha256(clip.encode()).digest())


def write_lists(directory: Path, texts: dict[str, str]) -> None:
    """Write the filelists, all or none. One that differs may contain edits made by hand: it is kept as FILE.old, ..."""
    for part, text in texts.items():
        path = directory / f"{part}.txt"
        if path.is_file() and path.read_bytes() != text.encode():
            names = (Path(f"{path}.old{number}") for number in itertools.chain([""], itertools.count(2)))
            kept = next(name for name in names if not name.exists())
            with replacing(kept) as temporary:  # a copy, so that on a full disk the list stays
                shutil.copyfile(path, temporary)
            print(f"{path} has changed; the previous one is kept as {kept}")
    with ExitStack() as stack:
        for part, text in texts.items():
            stack.enter_context(replacing(directory / f"{part}.txt")).write_text(text, encoding="utf-8")


def line(row: MetadataRow) -> str:
    """The row of a filelist."""
    return "|".join([row.path, row.text, *([row.speaker] if row.speaker else [])]) + "\n"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="directory that holds metadata.csv and wavs/")
    parser.add_argument(
        "--speakers", choices=("folders", "column"), help="what says who speaks, if there are several speakers"
    )
    return parser


def main() -> None:
    options = parser().parse_args()
    corpus: Path = options.corpus
    rows = read_metadata(corpus, options.speakers)
    parts = split_by_speaker(rows) if options.speakers else split([row.clip for row in rows])
    make_directory(corpus / "filelists", "directory")
    lists = {name: [line(row) for row in rows if parts[row.clip] == name] for name in PARTS}
    write_lists(corpus / "filelists", {name: "".join(lines) for name, lines in lists.items()})
    for name, lines in lists.items():
        if lines or name != "test":
            print(f"{corpus / 'filelists' / name}.txt: {counted(len(lines), 'clip')}")
    if options.speakers:
        count = Counter(row.speaker for row in rows)
        print("speakers: " + ", ".join(f"{name} ({counted(n, 'clip')})" for name, n in sorted(count.items())))
    if left_out := without_row(corpus, [row.path for row in rows]):
        names = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
        print(f"left out, because metadata.csv has no row for them: {counted(len(left_out), 'audio file')} ({names})")
    option = " data.convert_audio=true" if needs_conversion(corpus / rows[0].path, AudioConfig()) else ""
    print(f"next: python scripts/check_dataset.py data.root={shlex.quote(str(corpus))}{option}")


if __name__ == "__main__":
    run_command(main)
