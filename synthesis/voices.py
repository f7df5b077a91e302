"""A voice: both models, its lexicon and its card in one folder, under one name. scripts/pack_voice.py makes one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError, did_you_mean

VOICES = Path("voices")  # where a voice that is given by its name is looked for
TACOTRON2, WAVEGLOW, LEXICON, CARD = "tacotron2.safetensors", "waveglow.safetensors", "lexicon.txt", "README.md"


@dataclass(frozen=True)
class Voice:
    """The files of a voice. Only a voice of Griffin-Lim has no WaveGlow."""

    tacotron2: Path
    waveglow: Path | None
    lexicon: Path | None

    @classmethod
    def find(cls, name: str | Path) -> Voice:
        """`name` is a folder, or the name of one in `voices/`. Raises a UserError that names the voices there are."""
        for folder in (Path(name), VOICES / name):
            if is_voice(folder):
                optional = (path if path.is_file() else None for path in (folder / WAVEGLOW, folder / LEXICON))
                return cls(folder / TACOTRON2, *optional)
        if Path(name).is_dir():
            raise UserError(
                f"voice={name}: no {TACOTRON2} in this folder; make a voice with scripts/pack_voice.py, or give "
                "checkpoints and run directories as tacotron2=... waveglow=..."
            )
        names = sorted(folder.name for folder in VOICES.glob("*") if is_voice(folder))
        there = f"{VOICES}/ has {', '.join(names)}{did_you_mean(str(name), names)}" if names else "there is no voices/"
        raise UserError(f"voice={name}: no such folder or voice; {there}")


def is_voice(folder: Path) -> bool:
    return (folder / TACOTRON2).is_file()
