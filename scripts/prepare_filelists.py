"""Write filelists/{train,val,test}.txt for a corpus in LJSpeech's layout (metadata.csv and wavs/).

    python scripts/prepare_filelists.py DIR

LJSpeech gets the reference's split (filelists/ljspeech_split.json). In any other corpus, 2 % of the clips, at least one
and at most 100, are held out for validation, chosen by their names alone. The transcript is the last column of
metadata.csv.
"""

from __future__ import annotations

import checkout

import argparse
import hashlib
import itertools
import json
from pathlib import Path

from common.data.metadata import read_metadata
from common.entry import run_command
from common.errors import UserError
from common.files import make_directory, write_text


def split(ids: list[str]) -> dict[str, str]:
    """Map each id to "train", "val" or "test"."""
    reference = json.loads((checkout.REPOSITORY / "filelists" / "ljspeech_split.json").read_text())
    held_out = {clip: part for part, clips in reference.items() for clip in clips}
    if any(held_out.get(clip) == "val" for clip in ids):
        return {clip: held_out.get(clip, "train") for clip in ids}
    order = sorted(ids, key=lambda clip: hashlib.sha256(clip.encode()).digest())
    num_val = min(100, max(1, len(ids) // 50))
    if len(ids) <= num_val:
        raise UserError(f"{len(ids)} clip(s) are too few: one is held out for validation, at least one must remain")
    return {clip: "val" if i < num_val else "train" for i, clip in enumerate(order)}


def write_list(path: Path, text: str) -> None:
    """Write a filelist. An existing one that differs may contain edits made by hand, so it is kept as PATH.old, ..."""
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        names = (Path(f"{path}.old{number}") for number in itertools.chain([""], itertools.count(2)))
        kept = next(name for name in names if not name.exists())
        path.replace(kept)
        print(f"{path} has changed; the previous one is kept as {kept}")
    write_text(path, text)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="directory that holds metadata.csv and wavs/")
    return parser


def main() -> None:
    corpus = parser().parse_args().corpus
    rows = read_metadata(corpus)
    parts = split([clip for clip, _, _ in rows])
    make_directory(corpus / "filelists", "directory")
    for part in ("train", "val", "test"):
        lines = [f"{path}|{text}\n" for clip, path, text in rows if parts[clip] == part]
        write_list(corpus / "filelists" / f"{part}.txt", "".join(lines))
        print(f"{corpus / 'filelists' / part}.txt: {len(lines):,} clips")


if __name__ == "__main__":
    run_command(main)
