"""Write filelists/{train,val,test}.txt into a corpus of LJSpeech's layout (metadata.csv and wavs/).

    python scripts/prepare_filelists.py DIR

LJSpeech's clips go into its reference split (filelists/ljspeech_split.json). Of another corpus 2 % of the clips, at
least one and at most 100, are held out for validation; which ones depends on their names alone. The transcript is the
last column of metadata.csv.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from common.data.filelist import AUDIO_SUFFIXES, raise_problems, read_lines  # noqa: E402
from common.entry import fail  # noqa: E402
from common.errors import UserError, make_directory  # noqa: E402


def read_metadata(corpus: Path) -> list[tuple[str, str, str]]:
    """(id, path below the corpus, transcript) of each row of metadata.csv."""
    metadata = corpus / "metadata.csv"
    rows, problems, seen = [], [], set()
    for number, line in read_lines(metadata, "metadata"):
        clip, *texts = line.split("|")
        where = f"{metadata}:{number}"
        found = [f"wavs/{clip}{suffix}" for suffix in AUDIO_SUFFIXES if (corpus / "wavs" / (clip + suffix)).is_file()]
        if len(texts) not in (1, 2):
            problems.append(f"{where}: {len(texts) + 1} column(s) in {line[:60]!r}; a row is id|text or id|raw|text")
        elif not texts[-1].strip():
            problems.append(f"{where}: the transcript of {clip} is empty; write what is said, or remove the row")
        elif clip in seen:
            problems.append(f"{where}: {clip} stands already further up; remove one of the rows")
        elif not found:
            problems.append(
                f"{where}: no wavs/{clip}.wav (or {', '.join(AUDIO_SUFFIXES[1:])}); add it or remove the row"
            )
        else:
            seen.add(clip)
            rows.append((clip, found[0], texts[-1].strip()))
    raise_problems(problems)
    return rows


def split(ids: list[str]) -> dict[str, str]:
    """id -> "train", "val" or "test"."""
    reference = json.loads((REPOSITORY / "filelists" / "ljspeech_split.json").read_text())
    held_out = {clip: part for part, clips in reference.items() for clip in clips}
    if any(held_out.get(clip) == "val" for clip in ids):
        return {clip: held_out.get(clip, "train") for clip in ids}
    order = sorted(ids, key=lambda clip: hashlib.sha256(clip.encode()).digest())
    num_val = min(100, max(1, len(ids) // 50))
    if len(ids) <= num_val:
        raise UserError(f"{len(ids)} clip(s) are too few: one is held out for validation, at least one must be left")
    return {clip: "val" if i < num_val else "train" for i, clip in enumerate(order)}


def write_list(path: Path, text: str) -> None:
    """Write a filelist; one that is there and differs, edited by hand perhaps, is kept as PATH.old."""
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        path.replace(f"{path}.old")
        print(f"{path} has changed; the one before is kept as {path}.old")
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="directory that holds metadata.csv and wavs/")
    corpus = parser.parse_args().corpus
    rows = read_metadata(corpus)
    parts = split([clip for clip, _, _ in rows])
    make_directory(corpus / "filelists", "directory")
    for part in ("train", "val", "test"):
        lines = [f"{path}|{text}\n" for clip, path, text in rows if parts[clip] == part]
        write_list(corpus / "filelists" / f"{part}.txt", "".join(lines))
        print(f"{corpus / 'filelists' / part}.txt: {len(lines):,} clips")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        fail(str(error))
