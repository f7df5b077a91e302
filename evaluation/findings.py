"""What check_dataset.py reports about the rows of a corpus: bad rows, unusual rows, and a summary."""

from __future__ import annotations

import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.config import DataConfig
from common.data.filelist import Clip
from common.wording import counted
from evaluation.corpus import CheckConfig, Row, Sound, Text
from tacotron2.text import symbols_of
from tacotron2.text.languages import LANGUAGES
from tacotron2.text.symbols import PAD

LONG_SILENCE_SECONDS = 0.5  # at either end
SIGNS = frozenset("%&+=@\u00a7\u00b0")  # that are read aloud, besides currencies
MIN_TEXTS = 10  # rows, before their texts can be called few
CLIPPED_SHARE = 1e-4  # of the samples
OUTLIER_DEVIATIONS = 5.0  # median absolute deviations, scaled to standard deviations


@dataclass
class Findings:
    """What is wrong with a corpus, and what is only unusual; each finding is a line."""

    whole: list[str] = field(default_factory=list)  # problems of the whole corpus
    rows: list[str] = field(default_factory=list)  # bad rows
    notes: list[str] = field(default_factory=list)  # unusual rows

    def lines(self) -> list[str]:
        """The findings under their headlines."""
        whole = [f"\n{counted(len(self.whole), 'problem')} of the whole corpus:"] if self.whole else []
        rows, notes = counted(len(self.rows), "bad row"), counted(len(self.notes), "unusual row")
        harmless = "which is not an error" if len(self.notes) == 1 else "which are not errors"
        return [
            *whole,
            *self.whole,
            f"\n{rows}" + (":" if self.rows else ""),
            *self.rows,
            f"\n{notes}" + (f", {harmless}:" if self.notes else ""),
            *self.notes,
        ]

    def count(self) -> str:
        """ "1 problem of the whole corpus and 2 bad rows" """
        whole = [f"{counted(len(self.whole), 'problem')} of the whole corpus"] if self.whole else []
        return " and ".join(whole + ([counted(len(self.rows), "bad row")] if self.rows else []))


def is_letter(symbol: str) -> bool:
    """True for a letter, and for an accent that has no letter of its own."""
    return len(symbol) == 1 and unicodedata.category(symbol)[0] in "LM"


def is_read_aloud(symbol: str) -> bool:
    """True for a symbol that stands for speech: ARPAbet, a letter, a digit, a currency or another sign."""
    if len(symbol) > 1 or is_letter(symbol) or symbol in SIGNS:
        return True
    return unicodedata.category(symbol)[0] == "N" or unicodedata.category(symbol) == "Sc"


def bad_text(clip: Clip, text: Text, cleaners: str) -> str:
    """What of a transcript would be lost, and how to keep it; empty if nothing that is read aloud."""
    if not text.num_symbols:
        return (
            f"{clip.where}: nothing is left of {clip.text[:40]!r} after {cleaners}; correct or remove the row, or add "
            "its letters to data.characters, or set data.language"
        )
    lost = [symbol for symbol in text.dropped if is_read_aloud(symbol)]
    if not lost:
        return ""
    letters, arpabet = any(map(is_letter, lost)), any(len(symbol) > 1 for symbol in lost)
    others = any(len(symbol) == 1 and not is_letter(symbol) for symbol in lost)
    cures = ["add the letters to data.characters"] * letters
    cures += [f"write numbers and signs as words, which {cleaners} does not"] * others
    cures += ["write ARPAbet as in the CMU Pronouncing Dictionary"] * arpabet
    return (
        f"{clip.where}: {clip.path}: the model would not read {' '.join(lost)} in {clip.text[:60]!r}; "
        f"{', '.join(cures)}"
    )


def bad_length(clip: Clip, sound: Sound, max_seconds: float) -> str:
    """Say so if a clip is too long."""
    if sound.seconds <= max_seconds:
        return ""
    return (
        f"{clip.where}: {clip.path} has {sound.seconds:,.1f} s, more than max_seconds={max_seconds:g}: attention does "
        "not learn to read such clips, and they need much memory; cut the clip and its transcript at pauses into "
        "pieces of 1 to 10 seconds, or remove the row"
    )


def outliers(values: Sequence[float]) -> list[bool]:
    """For each value, True if its distance from the median is large compared with the median of all distances."""
    if not values:
        return []
    middle = statistics.median(values)
    deviation = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return [abs(value - middle) > OUTLIER_DEVIATIONS * max(deviation, 1e-9) for value in values]


def unusual(rows: list[Row], config: CheckConfig) -> list[str]:
    """Notes on rows that are worth a look."""
    notes = []
    segment_seconds = config.data.segment_length / config.audio.sample_rate
    middle = statistics.median(row.symbols_per_second for row in rows)
    strange = outliers([row.symbols_per_second for row in rows])
    for row, is_strange in zip(rows, strange, strict=True):
        sound, where = row.sound, f"{row.clip.where}: {row.clip.path}"
        if marks := [symbol for symbol in row.text.dropped if not is_read_aloud(symbol)]:
            notes.append(f"{where}: left out, without a symbol: {' '.join(marks)}")
        if is_strange:
            notes.append(
                f"{where}: {row.symbols_per_second:.1f} symbols per second, the median is {middle:.1f}; does the "
                "transcript match the audio?"
            )
        for end, seconds in (("start", sound.silence_start), ("end", sound.silence_end)):
            if seconds > LONG_SILENCE_SECONDS:
                notes.append(f"{where}: {seconds:.2f} s of silence at the {end}; scripts/trim_silence.py removes it")
        if sound.clipped > CLIPPED_SHARE:
            notes.append(f"{where}: {sound.clipped:.2%} of the samples are clipped; use a better copy if you have one")
        if sound.seconds < segment_seconds:
            notes.append(
                f"{where}: {sound.seconds:.2f} s, shorter than the {segment_seconds:.2f} s of WaveGlow's segments "
                "(data.segment_length); it will be padded with silence"
            )
    return notes


def repeated(lists: dict[str, list[Row]]) -> tuple[list[str], list[str]]:
    """(problems, notes): clips that are in several lists, and texts that occur more than once."""
    problems, notes = [], []
    first: dict[str, tuple[str, Row]] = {}
    by_text: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)  # several speakers may read one text
    for name, rows in lists.items():
        for row in rows:
            other, earlier = first.setdefault(row.clip.path, (name, row))
            if other != name:
                problems.append(
                    f"{row.clip.where}: {row.clip.path} is also in {other} ({earlier.clip.where}); the lists "
                    "must not share clips: remove one of the rows"
                )
            by_text[row.clip.speaker, row.text.cleaned.lower()].append(row)
    for rows in by_text.values():
        if len(rows) > 1 and len({row.clip.path for row in rows}) > 1:
            places = ", ".join(row.clip.where for row in rows[1:4])
            notes.append(
                f"{rows[0].clip.where}: the same text as {places}: {rows[0].text.cleaned[:50]!r}; is that intended?"
            )
    return problems, notes


def summary(lists: dict[str, list[Row]], unknown: Counter[str], data: DataConfig) -> list[str]:
    """A table with a line for each list; silence, clipping, and the symbols that the model lacks."""
    head = f"{'list':<6} {'clips':>7} {'minutes':>8} {'shortest':>9} {'median':>7} {'longest':>8} {'symbols/s':>10}"
    lines = [head]
    for name, rows in lists.items():
        if not rows:
            continue
        seconds = [row.sound.seconds for row in rows]
        rate = statistics.median(row.symbols_per_second for row in rows)
        lengths = f"{min(seconds):>7.2f} s {statistics.median(seconds):>5.2f} s {max(seconds):>6.2f} s"
        lines.append(f"{name:<6} {len(rows):>7,} {sum(seconds) / 60:>8,.1f} {lengths} {rate:>10.1f}")
    lines += speaker_lines(lists)
    every = [row.sound for rows in lists.values() for row in rows]
    if every:
        ends = (
            statistics.median(sound.silence_start for sound in every),
            statistics.median(sound.silence_end for sound in every),
        )
        clipped = sum(sound.clipped > CLIPPED_SHARE for sound in every)
        lines.append(f"silence at the ends, median: {ends[0]:.2f} s before, {ends[1]:.2f} s after")
        pauses = [pause for sound in every for pause in sound.pauses]
        longest = f", median {statistics.median(pauses):.2f} s, longest {max(pauses):.2f} s" if pauses else ""
        lines.append(f"pauses inside clips: {len(pauses):,}{longest}")
        lines.append(f"clips with clipping: {clipped:,}; loudest peak {max(sound.peak for sound in every):.3f}")
    listed = ", ".join(f"{symbol!r} x {count}" for symbol, count in unknown.most_common(20)) or "none"
    lines.append(f"symbols that the model lacks, which are left out: {listed}")
    if letters := sorted(filter(is_letter, unknown)):
        # Before the ARPAbet, which no run names.
        table = symbols_of(data.cleaners, data.language, data.characters)
        characters = "".join(symbol for symbol in table if len(symbol) == 1 and symbol != PAD)
        lines.append(f'to keep the letters: data.characters="{characters}{"".join(letters)}"')
        lines.append(f"or those of a language: data.language={' '.join(LANGUAGES)}; see docs/languages.md")
    return lines


def speaker_lines(lists: dict[str, list[Row]]) -> list[str]:
    """A line for each speaker."""
    sounds: defaultdict[str, list[Sound]] = defaultdict(list)
    for row in (row for rows in lists.values() for row in rows):
        sounds[row.clip.speaker].append(row.sound)
    return [
        f"speaker {name}: {counted(len(own), 'clip')}, {sum(sound.seconds for sound in own) / 60:,.1f} minutes"
        for name, own in sorted(sounds.items())
        if name
    ]


def wrong_speakers(lists: dict[str, list[Row]]) -> list[str]:
    """Say so if a list names speakers that the training list does not, or if only some of the lists name any."""
    known = {row.clip.speaker for row in lists["train"]}
    problems = []
    for name, rows in lists.items():
        if known and (others := sorted({row.clip.speaker for row in rows} - known)):
            what = f"the speakers {', '.join(others)}" if others != [""] else "no speakers"
            mine = ", ".join(sorted(known)) if known != {""} else "none"
            problems.append(
                f"the {name} list has {what}, the train list {mine}: a model knows only the speakers that it was "
                "trained on; write all lists alike, with scripts/prepare_filelists.py --speakers"
            )
    return problems


def few_texts(rows: Sequence[Row]) -> list[str]:
    """Say so if the transcripts are the same few texts again and again."""
    texts = Counter(row.text.cleaned.lower() for row in rows)
    if len(rows) < MIN_TEXTS or len(texts) > len(rows) / 4:
        return []
    shown = ", ".join(repr(text[:30]) for text, _ in texts.most_common(4))
    return [
        f"{counted(len(rows), 'row')} have only {counted(len(texts), 'different transcript')}: {shown}. Is the last "
        "column of metadata.csv the transcript?"
    ]
