"""Where to cut a sentence that is too long for the model: at marks, else between phrases, else between words."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

Mark = Literal["sentence", "paragraph", "clause", "dash", "none", "end"]

TERMINATORS = ".!?\u2026\u2025\u3002\uff0e\uff01\uff1f\uff61\u061f\u06d4\u0964\u0965\u0589"
BRACKETS = "\"')]\u201d\u2019\u00bb\u203a\u300d\u300f"  # closing ones, and quotes
CLOSERS = BRACKETS + "}*_"
HIDDEN = "\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # of no width: soft hyphens, bidirectional marks, ...
ENDS = re.compile(rf"[{TERMINATORS}][{re.escape(TERMINATORS + CLOSERS)}{HIDDEN}]*+$")
MAX_BRACES = 500  # characters; an opening brace without a closing one within these is a stray
BRACES = re.compile(rf"\{{[^{{}}]{{0,{MAX_BRACES}}}+(?:\}}|$)")  # ARPAbet

FILL = 0.95  # of the limit, on average: room to end a piece at a better place
BALANCE = 2.0  # the cost of a piece that is longer or shorter than the others by its whole length
# What a cut costs. One before a preposition costs as much as one at a comma with pieces that are 45 % off.
STRONG, COMMA, BRACKET, CONJUNCTION, PHRASE, SPACE, BROKEN = 0.0, 0.6, 0.8, 1.1, 1.5, 2.2, 3.2
INSIDE = 0.8  # what a cut within brackets costs in addition

PLACES = re.compile(r"\s++|(?<=[\u2014\u2015])(?=\w)|(?<=\w--)(?=\w)")
DASHES = re.compile(r"(?:[\u2013\u2014\u2015]|(?<!\S)-|--)$")
CLAUSE = re.compile(rf"[,;:\uff0c\u3001\uff1b\uff1a][{re.escape(CLOSERS)}{HIDDEN}]*+$")
INSIDE_WORD = re.compile(r"[-/_.,;:?&=\uff0c\u3001\uff1b\uff1a\u3002]")
WORD = re.compile(r"[\w'\u2019]+")
# Words that begin a phrase, so that a reader may pause before them, and words that no reader pauses after.
CONJUNCTIONS = {
    "en": "and but or nor so yet because although though while when whenever where if unless until",
    "de": "und aber oder sondern denn weil obwohl während wenn als wo ob bis dass damit sodass",
    "es": "y e pero o u sino porque aunque mientras cuando donde si hasta pues",
    "fr": "et mais ou ni car donc parce puisque quoique tandis lorsque quand où si",
    "it": "e ed ma o oppure né perché poiché sebbene mentre quando dove se finché",
    "pt": "e mas ou nem porque embora enquanto quando onde se até pois",
    "nl": "en maar of noch want omdat hoewel terwijl wanneer toen waar als tot zodat",
}
PHRASES = {
    "en": "which who whom whose that than as after before since of in on at by for from to with without into onto over "
    "under through between among against during about upon within toward towards is are was were",
    "de": "der die das dass nach vor seit von in im auf an am bei für zu zum zur mit ohne über unter "
    "durch zwischen gegen",
    "es": "que de del en a al por para con sin sobre entre hasta desde contra hacia según es son fue",
    "fr": "que qui dont de du des en à au aux par pour avec sans sur sous entre contre depuis vers dans est sont",
    "it": "che di del della in a al alla da dal dalla per con senza su tra fra contro verso è sono",
    "pt": "que de do da em no na a ao por para com sem sobre entre até desde contra é são",
    "nl": "die dat van in op aan bij voor naar met zonder over onder door tussen tegen tijdens is zijn was",
}
LEADING = {
    "en": "a an the this that these those my your his her its our their no any some each every of in on at by for from "
    "to with into is are was were be been has have had not and or but very more most",
    "de": "der die das dem den des ein eine einen einem einer eines kein keine mein sein ihr unser in im an am auf "
    "zu von mit für und oder aber nicht sehr",
    "es": "el la los las un una unos unas mi tu su de del en a al por para con que y o no muy más",
    "fr": "le la les un une des mon ma mes son sa ses leur de du en à au aux par pour avec que et ou ne très plus",
    "it": "il lo la i gli le un uno una mio suo di del della in a al da per con che e o non molto più",
    "pt": "o a os as um uma meu seu sua de do da em no na ao por para com que e ou não muito mais",
    "nl": "de het een mijn zijn haar van in op aan voor met en of maar niet zeer meer",
}


class Place(NamedTuple):
    """Where a sentence may be cut: text[:end] and, after the whitespace, text[start:]."""

    end: int
    start: int
    cost: float
    mark: Mark


def mark_at_end(text: str) -> Mark:
    """The mark that `text` ends with."""
    if ENDS.search(text):
        return "sentence"
    if CLAUSE.search(text):
        return "clause"
    return "dash" if DASHES.search(text) else "none"


def _is_one(word: str, words: dict[str, str], language: str) -> bool:
    return word.lower() in words.get(language, "").split()


def _place(text: str, end: int, start: int, language: str) -> Place:
    before, after = text[max(0, end - 40) : end], text[start : start + 40]
    mark = mark_at_end(before)
    last, word = WORD.findall(before)[-1:], "".join(WORD.findall(after)[:1])
    if mark == "dash" or re.search(r"[;:\uff1b\uff1a]\W*$", before):
        cost = STRONG
    elif mark == "clause":
        cost = COMMA
    elif before[-1] in BRACKETS or after[:1] in '([\u201c\u00ab"':
        cost, mark = BRACKET, "clause"
    elif mark == "sentence" or DASHES.match(after[:1]):  # an abbreviation; a dash belongs to what is before it
        cost, mark = BROKEN, "none"
    elif last and _is_one(last[0], LEADING, language):
        cost = BROKEN
    elif _is_one(word, CONJUNCTIONS, language):
        cost = CONJUNCTION
    else:
        cost = PHRASE if _is_one(word, PHRASES, language) else SPACE
    if text.count("(", 0, end) > text.count(")", 0, end):
        cost += INSIDE
    return Place(end, start, cost, mark)


def _places(text: str, language: str) -> Iterator[Place]:
    braces = [match.span() for match in BRACES.finditer(text)]
    for match in PLACES.finditer(text):
        if match.start() > 0 and match.end() < len(text):
            while braces and braces[0][1] <= match.start():
                braces.pop(0)
            if not braces or match.start() <= braces[0][0]:
                yield _place(text, match.start(), match.end(), language)


def first_clause(text: str, total: int, length: Callable[[str], int], limit: int, language: str) -> tuple[int, Mark]:
    """Where to cut a sentence of `total` symbols, more than `limit`: the end of its first piece, and the mark there.

    The piece has at most `limit` symbols, unless these are fewer than one character has. `text` may be the beginning of
    a longer sentence. The rest is cut in the same way, so that all pieces have similar lengths.
    """
    target = max(1.0, total / max(2, math.ceil(total / (FILL * limit))))
    best: list[tuple[float, Place]] = []
    read, start = 0, 0
    for place in _places(text, language):
        read += length(text[start : place.end]) + (start < place.end)  # a space follows
        start = place.start
        if read > limit + 1:
            break
        best.append((place.cost + BALANCE * abs(read - target) / target, place))
    for _, place in sorted(best):
        if length(text[: place.end]) <= limit:  # words may become longer beside others, as in "$5 million"
            return place.end, place.mark
    end = _inside_word(text, length, min(limit, target), limit, total)
    return len(text[:end].rstrip()), "none"


def last_gap(text: str) -> int:
    """Where the last word begins that `text` may cut off, without the space before it; the end if there is none."""
    return len(text[: text.rstrip().rfind(" ")].rstrip()) or len(text)


def _inside_word(text: str, length: Callable[[str], int], target: float, limit: int, total: int) -> int:
    """Where to cut a text that has no better place."""
    end = max(1, int(len(text) * target / max(total, 1)))
    while end > 1 and length(text[:end]) > target + 1:
        end //= 2
    end = min(end, len(text))
    if marks := [match.end() for match in INSIDE_WORD.finditer(text, end // 2, end * 5 // 4)]:
        mark = min(marks, key=lambda place: abs(place - end))
        if length(text[:mark]) <= limit:
            return mark
    for earlier in range(end, max(0, end - 16), -1):  # not within a letter with its accents, or within an emoji
        if not _joined(text[earlier - 1 : earlier + 1]):
            return earlier
    return end


def _joined(pair: str) -> bool:
    """Do two characters make one letter?"""
    if len(pair) < 2:
        return False
    halves = "\ud800" <= pair[0] <= "\udbff" and "\udc00" <= pair[1] <= "\udfff"
    skin = "\U0001f3fb" <= pair[1] <= "\U0001f3ff"
    return halves or skin or "\u200d" in pair or unicodedata.category(pair[1]).startswith("M")
