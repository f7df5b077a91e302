"""Guesses the language of transcripts from their most frequent words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from common.config import DataConfig
from tacotron2.text import language_of
from tacotron2.text.languages import base

MIN_WORDS = 100  # of all transcripts together
FREQUENT = 0.1  # of the words of a language are at least in its list; 0.2 to 0.5 in running text
TIMES = 2.0  # as many words of another language
NAMES = {
    "en": "English", "de": "German", "es": "Spanish", "fr": "French", "it": "Italian", "pt": "Portuguese",
    "nl": "Dutch",
}  # fmt: skip
WORDS = {
    "en": "the of and to in is that it was for with as his on be at by had he she not you this but",
    "de": "der die und das ist nicht zu ein eine den mit von sich des auf für dem es er sie in als",
    "es": "el la que de y los en un las se no por una del con es al lo su más para como",
    "fr": "le la les et des est un une que dans qui pas pour du il au ne sur ce de en elle",
    "it": "il di che la e è un non per una sono del della le si con i al lo in ha più",
    "pt": "o de que e a do da em um não os as uma para com é no na se mais ao por",
    "nl": "de het een van en is dat niet op te zijn in voor met die er aan ook was hij ik je",
}


def other_language(texts: Iterable[str], data: DataConfig) -> list[str]:
    """Say so if transcripts are in another language than `data` says; nothing if it says none of WORDS."""
    ours = base(language_of(data.cleaners, data.language))
    words = Counter(word for text in texts for word in re.findall(r"[^\W\d_]+", text.lower()))
    if ours not in WORDS or words.total() < MIN_WORDS:
        return []
    counts = {code: sum(words[word] for word in frequent.split()) for code, frequent in WORDS.items()}
    found = max(counts, key=counts.__getitem__)
    if found == ours or counts[found] < max(FREQUENT * words.total(), TIMES * counts[ours]):
        return []
    return [
        f"the transcripts look {NAMES[found]}, and data.language={data.language}: of {words.total():,} words, "
        f"{counts[found]:,} are frequent {NAMES[found]} ones, {counts[ours]:,} frequent {NAMES[ours]} ones. Set "
        f"data.language={found} here and in training, with data.cleaners left out or one of those in docs/languages.md"
    ]
