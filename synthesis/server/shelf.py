"""The voices of a server: those of one folder, each loaded when it is first asked for.

The speakers of a voice with several are voices FOLDER/SPEAKER, which share its models.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from common.errors import UserError, did_you_mean
from synthesis.engines.protocol import UnknownVoiceError
from synthesis.synthesizer import Synthesizer
from synthesis.voices import CARD, TACOTRON2, Voice, is_voice
from tacotron2.text.cleaners import ENGLISH_CLEANERS
from tacotron2.text.languages import ENGLISH, base

UNKNOWN_LANGUAGE = "und"  # as BCP 47 calls it


class Shelf:
    """folder: a voice, or a folder of voices. aliases: other names -> names.

    load: makes the Synthesizer of a voice. A voice that is loaded stays, so memory is bounded by the folder.
    """

    def __init__(self, folder: str | Path, aliases: Mapping[Any, Any], load: Callable[[Voice], Synthesizer]) -> None:
        root = Path(folder)
        folders = [root] if is_voice(root) else sorted(path for path in root.glob("*") if is_voice(path))
        if not folders:
            raise UserError(
                f"voices={folder}: no voice there; make one with scripts/pack_voice.py output={folder}/NAME"
            )
        self.voices: dict[str, Path] = {}  # name -> folder
        self._speakers: dict[str, str] = {}  # name -> speaker, of voices that have several
        for path in folders:
            name, speakers = path.name or path.resolve().name, _speakers(path)  # . has no name
            own = {f"{name}/{speaker}": speaker for speaker in speakers} if len(speakers) > 1 else {}
            self.voices |= dict.fromkeys(own or [name], path)
            self._speakers |= own
        self.aliases = {_text(alias): _text(name) for alias, name in aliases.items()}
        for alias, name in self.aliases.items():
            if name not in self.voices:
                raise UserError(f"aliases.{alias}={name}: no such voice{did_you_mean(name, self.voices)}")
        self._load = load
        self._loaded: dict[Path, Synthesizer] = {}
        self._locks = {path: threading.Lock() for path in folders}

    def names(self) -> dict[str, str]:
        """Each name that a request may give, with a title for people."""
        titles = {name: self._title(name) for name in self.voices}
        return titles | {alias: titles[name] for alias, name in self.aliases.items()}

    def _title(self, name: str) -> str:
        title, speaker = _title(self.voices[name]), self._speakers.get(name)
        return f"{title}: {speaker}" if title and speaker else title or name

    def language(self, name: str) -> str:
        """The code of a voice's language, such as "en", without loading the voice."""
        return _language(self.voices[self.find(name)])

    def find(self, name: str) -> str:
        """The name of the voice that a request means. Raises UnknownVoiceError, with the names there are."""
        found = self.aliases.get(name, name)
        if found not in self.voices:
            raise UnknownVoiceError(f"voice {name[:60]!r} is unknown; the voices are: {', '.join(self.names())}")
        return found

    def get(self, name: str) -> Synthesizer:
        """The voice, loaded if it was not yet, which takes seconds. Raises UserError if its files are damaged."""
        name = self.find(name)
        folder, speaker = self.voices[name], self._speakers.get(name)
        with self._locks[folder]:
            if folder not in self._loaded:
                self._loaded[folder] = self._load(Voice.find(folder))
            voice = self._loaded[folder]
        return voice.speaking_as(speaker) if speaker else voice

    def is_loaded(self, name: str) -> bool:
        return self.voices[self.find(name)] in self._loaded


def _text(name: object) -> str:
    """A name of `aliases`: YAML takes some for numbers."""
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise UserError(f"aliases: {name} is no name of a voice; write text, such as {{alloy: NAME}}")
    return str(name)


def _title(folder: Path) -> str:
    """The heading of the voice's card."""
    try:
        with open(folder / CARD, encoding="utf-8") as card:
            first = card.readline(200)
    except (OSError, UnicodeDecodeError):
        return ""
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _language(folder: Path) -> str:
    """Of the texts that its Tacotron 2 was trained with."""
    text = _described(folder, "text")
    if text.get("cleaners") in ENGLISH_CLEANERS:
        return ENGLISH
    return base(str(text.get("language", ""))) or UNKNOWN_LANGUAGE


def _speakers(folder: Path) -> list[str]:
    """The names that its Tacotron 2 has for speakers."""
    names = _described(folder, "model_config").get("speakers", [])
    return [str(name) for name in names] if isinstance(names, list) else []


def _described(folder: Path, part: str) -> dict[str, Any]:
    """A part of the description in its Tacotron 2; empty if there is none, or if the file is damaged."""
    try:
        with safe_open(folder / TACOTRON2, "pt") as file:
            found = json.loads((file.metadata() or {})[part])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
