"""Cut a folder of recordings into a corpus: clips of 1 to 10 seconds, each with its text, checked one by one.

    python scripts/cut_recordings.py recordings=DIR output=CORPUS [speaker=... whisper=... dry_run=true]

The recordings may have any length and format. Transcripts are used where there are any: metadata.csv of LJSpeech, a
table with a header, Common Voice, VCTK, or a text file beside each recording; otherwise Whisper writes them. Needs the
extras [eval] and [loudness]. CORPUS gets wavs/, metadata.csv, report.txt, and dropped.csv with the reason for each clip
that is left out.
"""

from __future__ import annotations

import checkout  # noqa: F401

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help

    show_help("cut_recordings", __doc__)

import shlex
from pathlib import Path
from typing import Any

from common.entry import hydra_entry
from common.schema import from_dict
from recordings.corpus import build, report
from recordings.options import RecordingsConfig
from recordings.plan import plan


@hydra_entry("cut_recordings")
def main(values: dict[str, Any]) -> None:
    config = from_dict(RecordingsConfig, values)
    if config.dry_run:
        print("\n".join(plan(config)))
        return
    corpus = build(config)
    print("\n".join(report(corpus)))
    if corpus.is_new:
        seconds = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in corpus.stage_seconds.items())
        print(f"time: {seconds}")
    else:
        print(f"nothing has changed; {config.output} is complete")
    print(f"{Path(config.output) / 'metadata.csv'}  {Path(config.output) / 'dropped.csv'}")
    print(f"next: bash scripts/prepare_dataset.sh {shlex.quote(config.output)}")


if __name__ == "__main__":
    main()
