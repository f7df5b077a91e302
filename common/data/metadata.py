"""Reads metadata.csv of a corpus in LJSpeech's layout."""

from __future__ import annotations

from pathlib import Path

from common.data.filelist import AUDIO_SUFFIXES, raise_problems, read_lines


def read_metadata(corpus: Path) -> list[tuple[str, str, str]]:
    """(id, path relative to the corpus, transcript) of each row. The transcript is the last column."""
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
            problems.append(f"{where}: {clip} is already in a row above; remove one of the rows")
        elif not found:
            problems.append(
                f"{where}: no wavs/{clip}.wav (or {', '.join(AUDIO_SUFFIXES[1:])}); add it or remove the row"
            )
        else:
            seen.add(clip)
            rows.append((clip, found[0], texts[-1].strip()))
    raise_problems(problems)
    return rows
