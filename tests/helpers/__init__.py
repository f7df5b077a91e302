"""Helpers that tests share."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
