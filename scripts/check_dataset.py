"""Check a corpus before training: list every bad row with its reason and fix, and print statistics of the clips.

    python scripts/check_dataset.py data.root=DIR [data=... audio.sample_rate=...]

Prints a report and writes it to report.txt in `output`, with plots in report.png. The exit status is 1 if a row would
stop training or harm it. Unusual rows are listed too, but are not errors.
"""

from __future__ import annotations

import checkout  # noqa: F401

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help

    show_help("check_dataset", __doc__)

from collections import Counter
from pathlib import Path
from typing import Any

from common.entry import fail, hydra_entry
from common.files import make_directory, write_text
from common.parallel import in_parallel
from common.schema import from_dict
from evaluation.corpus import (
    CheckConfig,
    Row,
    check_text,
    measure,
    picture,
    read_lists,
    repeated,
    summary,
    unusual,
)
from tacotron2.text import symbol_table


@hydra_entry("check_dataset")
def main(values: dict[str, Any]) -> None:
    config = from_dict(CheckConfig, values)
    data, output, symbols = config.data, Path(config.output), symbol_table(config.data.characters)
    clip_lists, problems = read_lists(data)
    make_directory(output, "output")
    jobs = [(clip, config.audio, data.convert_audio) for clips in clip_lists.values() for clip in clips]
    sounds = iter(list(in_parallel(measure, jobs, config.num_processes, "clip")))
    lists: dict[str, list[Row]] = {name: [] for name in clip_lists}
    unknown: Counter[str] = Counter()
    for name, clips in clip_lists.items():
        for clip in clips:
            sound, (text, encoded) = next(sounds), check_text(clip, data, symbols)
            unknown.update(encoded.dropped)
            if not encoded.ids:
                problems.append(
                    f"{clip.where}: nothing is left of {clip.text[:40]!r} after {data.cleaners}; correct or remove "
                    "the row, or add its letters to data.characters"
                )
            if isinstance(sound, str):
                problems.append(sound)
            elif encoded.ids:
                lists[name].append(Row(clip, sound, text, len(encoded.ids)))
    overlaps, same_texts = repeated(lists)
    problems += overlaps
    rows = [row for rows in lists.values() for row in rows]
    notes = unusual(rows, config) + same_texts if rows else []
    report = [
        *summary(lists, unknown),
        f"\n{len(problems)} bad row(s)" + (":" if problems else ""),
        *problems,
        f"\n{len(notes)} unusual row(s)" + (", which are not errors:" if notes else ""),
        *notes,
    ]
    print("\n".join(report))
    write_text(output / "report.txt", "\n".join(report) + "\n")
    picture(lists).savefig(output / "report.png", dpi=100)
    print(f"\n{output / 'report.txt'}  {output / 'report.png'}", flush=True)
    if problems:
        fail(f"{len(problems)} row(s) of {data.root} must be corrected; they are listed above")


if __name__ == "__main__":
    main()
