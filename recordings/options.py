"""The options of scripts/cut_recordings.py."""

from __future__ import annotations

from dataclasses import dataclass

from common.schema import Count, Options
from synthesis.loudness import Loudness


@dataclass
class RecordingsConfig(Options):
    """The keys of conf/cut_recordings.yaml, which explains them."""

    recordings: str
    output: str
    speaker: str | None = None
    whisper: str | None = None
    language: str = "en"
    loudness: Loudness = -23.0
    num_processes: Count | None = None
    dry_run: bool = False
