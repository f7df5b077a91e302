"""Check a corpus before training: list every bad row with its reason and fix, and print statistics of the clips.

    python scripts/check_dataset.py data.root=DIR [data=... audio.sample_rate=... whisper=true]

Prints a report and writes it to report.txt in `output`, with plots in report.png. The exit status is 1 if the corpus or
a row would stop training or harm it. Unusual rows are listed too, but are not errors. With whisper=true, which needs
the extra [eval], Whisper hears some clips (whisper_clips) of an English corpus, and their transcripts are compared.
"""

from __future__ import annotations

import checkout  # noqa: F401

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help

    show_help("check_dataset", __doc__)

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from common.entry import fail, hydra_entry
from common.errors import UserError
from common.files import make_directory, replacing, write_text
from common.parallel import in_parallel
from common.schema import from_dict
from evaluation.corpus import (
    CheckConfig,
    Row,
    check_metadata,
    in_order,
    measure,
    read_lists,
    read_text,
    refuse_other_formats,
)
from evaluation.corpus_picture import picture
from evaluation.findings import Findings, bad_length, bad_text, few_texts, repeated, summary, unusual, wrong_speakers
from evaluation.languages import other_language
from evaluation.mismatch import mismatched_lengths, mismatched_words
from tacotron2.text import prepare, symbols_of
from tacotron2.text.cleaners import ENGLISH_CLEANERS


@hydra_entry("check_dataset")
def main(values: dict[str, Any]) -> None:
    config = from_dict(CheckConfig, values)
    output = Path(config.output)
    if config.whisper and config.data.cleaners not in ENGLISH_CLEANERS:
        raise UserError(
            f"whisper=true hears only English, but data.cleaners={config.data.cleaners}; leave whisper out, or check "
            f"English with data.cleaners={' or '.join(sorted(ENGLISH_CLEANERS))}"
        )
    make_directory(output, "output")
    found = Findings()
    lists, unknown = read_rows(config, found)
    check_rows(config, lists, found)
    report = [*summary(lists, unknown, config.data), *found.lines()]
    print("\n".join(report))
    write_text(output / "report.txt", "\n".join(report) + "\n")
    with replacing(output / "report.png") as temporary:
        picture([row for rows in lists.values() for row in rows]).savefig(temporary, dpi=100, format="png")
    print(f"\n{output / 'report.txt'}  {output / 'report.png'}", flush=True)
    if found.whole or found.rows:
        fail(f"{found.count()} of {config.data.root} must be corrected; they are listed above")
    option = " data.convert_audio=true" if config.data.convert_audio else ""
    print(f"next: bash scripts/prepare_mels.sh {shlex.quote(config.data.root)}{option}")


def read_rows(config: CheckConfig, found: Findings) -> tuple[dict[str, list[Row]], Counter[str]]:
    """The rows of each list that can be used, and how often each symbol is left out; add the bad ones to `found`."""
    data = config.data
    symbols = symbols_of(data.cleaners, data.language, data.characters)
    clip_lists, found.rows = read_lists(data)
    if not data.convert_audio:
        refuse_other_formats([clip for clips in clip_lists.values() for clip in clips], config.audio)
    jobs = [(clip, config.audio, data.convert_audio) for clips in clip_lists.values() for clip in clips]
    sounds = iter(list(in_parallel(measure, jobs, config.num_processes, "clip")))
    lists: dict[str, list[Row]] = {name: [] for name in clip_lists}
    unknown: Counter[str] = Counter()
    for name, clips in clip_lists.items():
        prepare((clip.text for clip in clips), data.cleaners, language=data.language)
        for clip in clips:
            sound, text = next(sounds), read_text(clip, data, symbols)
            unknown.update(text.dropped)
            problems = [bad_text(clip, text, data.cleaners)]
            problems.append(sound if isinstance(sound, str) else bad_length(clip, sound, config.max_seconds))
            found.rows += filter(None, problems)
            if not isinstance(sound, str) and text.num_symbols:
                lists[name].append(Row(clip, sound, text))
    return lists, unknown


def check_rows(config: CheckConfig, lists: dict[str, list[Row]], found: Findings) -> None:
    """Add to `found` what rows show together."""
    every = [row for rows in lists.values() for row in rows]
    order, found.whole = check_metadata(config.data, any(row.clip.speaker for row in every))
    rows = in_order(every, order)
    found.whole += wrong_speakers(lists)
    overlaps, same_texts = repeated(lists)
    found.rows += overlaps
    if rows:
        found.notes = unusual(rows, config) + same_texts
        found.whole += other_language((row.clip.text for row in rows), config.data)
        found.whole += few_texts(rows) or mismatched_lengths(rows)
    if rows and config.whisper:
        whole, bad, notes = mismatched_words(rows, config.whisper_clips)
        found.whole, found.rows, found.notes = found.whole + whole, found.rows + bad, found.notes + notes


if __name__ == "__main__":
    main()
