"""Clips are dropped for what is wrong with them, with the value and the limit; whole folders are refused."""

import math
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from recordings import refusals
from recordings.checks import Corpus, Measured, Sound, compare, corpus_of, letter_error_rate, measure, problem
from recordings.clips import Clip, Clips
from recordings.corpus import judge
from recordings.hearing import Heard, Piece

VOICE = np.eye(256)[0]


def voice(angle: float) -> list[float]:
    """An embedding at an angle to VOICE."""
    result = np.zeros(256)
    result[:2] = math.cos(angle), math.sin(angle)
    return result.tolist()


def clip(name: str = "a", **changes: Any) -> Clip:
    return Clip(**{"name": name, "recording": "r", "start": 0.0, "end": 5.0, "text": "some text", **changes})


def measured(name: str = "a", **changes: Any) -> Measured:
    usual: dict[str, Any] = {
        "name": name, "heard": "some text", "words": 10, "word_errors": 1, "edge": "",
        "letters_per_second": 12.0, "clean": 3.2, "voice": voice(0.0),
    }  # fmt: skip
    return Measured(**{**usual, **changes})


@pytest.mark.parametrize(
    ("text", "heard", "words", "wrong", "edge"),
    [
        ("In 1469, Mr. Brown said so.", "in fourteen sixty-nine mister brown said so", 8, 0, ""),
        ("Any one of them.", "Anyone of them", 4, 0, ""),
        ("one two three four", "one too three four", 4, 1, ""),
        ("one two three four", "two three four", 4, 1, "one"),
        ("one two three four", "one two three four and then", 4, 2, "and then"),
        ("Caslon's type is clear", "Cast one's type is clear", 5, 2, ""),
        ("To be or not", "", 4, 4, "to be or not"),
    ],
)
def test_words_are_compared(text: str, heard: str, words: int, wrong: int, edge: str) -> None:
    assert compare(text, heard) == (words, wrong, edge)


def test_the_rate_counts_letters_of_what_is_read_aloud() -> None:
    sound = Sound("key", "the middle yard twenty-one", 3.2, voice(0.0))
    rates = [measure(clip(text=text), sound, "en").letters_per_second for text in ("Yard 21.", "Yard twenty-one.")]
    assert rates == [13 / 5.0] * 2
    assert measure(clip(text="Hof 21."), sound, "de").letters_per_second == len("Hofeinundzwanzig") / 5.0


@pytest.mark.parametrize(
    ("clip_changes", "changes", "reason"),
    [
        ({}, {}, ""),
        ({}, {"heard": ""}, "Whisper hears no words in it"),
        ({"text": "Um; hmm."}, {}, "it has no word that could be compared with speech"),
        ({"text": "Mm-hmm."}, {}, "it has no word that could be compared with speech"),
        ({"text": "all {laugh} went home"}, {}, "ARPAbet has no spelling that can be compared"),
        ({}, {"word_errors": 5}, "Whisper hears other words: 5 of 10 differ, more than 34%: 'some text'"),
        ({}, {"edge": "another"}, "only in the text or only in the sound: 'another'"),
        ({}, {"edge": "a"}, ""),  # Whisper often misses an article
        ({"clipped": 0.02}, {}, "clipping: 2.00% of the samples are at full scale, more than 0.1%"),
        ({}, {"clean": 1.5}, "noise: DNSMOS gives 1.50, less than"),
        ({}, {"letters_per_second": 30.0}, "an unusual rate: 30.0 letters per second, 2.50 times the median"),
        ({}, {"letters_per_second": 5.0}, "an unusual rate: 5.0 letters per second"),
        ({}, {"voice": voice(1.2)}, "another voice: its similarity with the others is 0.36, less than"),
    ],
)
def test_the_reason_to_drop_a_clip(clip_changes: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    found = problem(clip(**clip_changes), measured(**changes), Corpus(12.0, VOICE, True))
    assert reason in found
    assert bool(found) == bool(reason)


def test_names_that_are_heard_wrong_are_no_other_words() -> None:
    text = "with movable type, the aforesaid Gutenberg Bible,"
    rate = letter_error_rate(text, "with movable type, the A4 said Guttenberg Bible.")
    assert 0.05 < rate < 0.15
    assert letter_error_rate(text, "") == 1.0
    assert letter_error_rate(text, "He never came back to the village.") > 0.6
    found = measured(word_errors=4, letter_error_rate=rate)
    assert problem(clip(), found, Corpus(12.0, VOICE, True)) == ""


def test_few_clips_are_not_compared_with_each_other() -> None:
    few = [measured("a"), measured("b", letters_per_second=40.0, voice=voice(1.5))]
    assert not corpus_of(few).is_large
    assert [problem(clip(found.name), found, corpus_of(few)) for found in few] == ["", ""]


def test_a_wrong_clip_changes_no_median() -> None:
    many = [measured(str(k), voice=voice(0.01 * k)) for k in range(10)]
    wrong = [measured(f"w{k}", word_errors=9, letters_per_second=90.0, voice=voice(1.5)) for k in range(9)]
    assert corpus_of(many + wrong).letters_per_second == 12.0
    kept, dropped = judge([clip(one.name) for one in many + wrong], {one.name: one for one in many + wrong})
    assert [one.name for one in kept] == [one.name for one in many]
    assert [one.clip.name for one in dropped] == [one.name for one in wrong]


def heard(audio: float, speech: float, words: int, likelihood: float = -0.25, **changes: Any) -> list[Heard]:
    return [Heard([], [Piece(0.0, audio, speech, likelihood, words)], **changes)]


def refused(found: list[Heard], whole_seconds: float = 0.0, language: str = "en") -> str:
    with pytest.raises(UserError) as error:
        refusals.refuse_unheard("DIR", found, whole_seconds, language)
    return str(error.value)


def test_what_is_heard_must_be_speech() -> None:
    refusals.refuse_unheard("DIR", heard(400, 300, 700), 0.0, "en")
    assert "is it music or noise?" in refused(heard(400, 10, 20))
    assert "is it music or noise?" in refused(heard(400, 300, 20))
    assert "40 s of speech; at least 60 s" in refused(heard(50, 40, 100))
    assert "10 s of speech; at least 60 s" in refused([], 10.0)
    refusals.refuse_unheard("DIR", heard(50, 40, 100), 30.0, "en")


def test_another_language() -> None:
    assert "another language, a bad microphone" in refused(heard(400, 300, 700, likelihood=-1.1))
    german = heard(400, 300, 700, language="de", language_probability=0.97)
    assert "takes the language for 'de', but language='en'. Give other recordings, or set language=de" in refused(
        german
    )
    refusals.refuse_unheard("DIR", german, 0.0, "de")
    unsure = heard(400, 300, 700, language="cy", language_probability=0.3)
    refusals.refuse_unheard("DIR", unsure, 0.0, "en")


def test_transcripts_of_other_recordings() -> None:
    def cut(*shares: float | None) -> list[Clips]:
        return [Clips([], share, "") for share in shares]

    refusals.refuse_other_transcripts("DIR", "table", cut(0.9, 0.1, 0.95, None))
    refusals.refuse_other_transcripts("DIR", "table", cut(None))
    with pytest.raises(UserError, match=r"only 20% of the words of the transcripts \(table\)"):
        refusals.refuse_other_transcripts("DIR", "table", cut(0.2, 0.2, 0.9))
    right, wrong = [measured()] * 6, [measured("x", word_errors=9, heard="else")] * 5
    refusals.refuse_wrong_clips("DIR", "table", right + wrong)
    with pytest.raises(UserError, match="in 7 of 13 clips Whisper hears other words"):
        refusals.refuse_wrong_clips("DIR", "table", right + wrong[:1] * 7)


def test_two_speakers() -> None:
    rng = np.random.default_rng(0)

    def speaker(seed: int, number: int) -> list[Measured]:
        """Clips around a center; two of them have a similarity of about 0.85, as those of one speaker."""
        center = np.random.default_rng(seed).standard_normal(256)
        around = center + 0.4 * rng.standard_normal((number, 256))
        around /= np.linalg.norm(around, axis=1, keepdims=True)
        return [measured(f"s{seed}-{k}", voice=row.tolist()) for k, row in enumerate(around)]

    def check(found: list[Measured]) -> None:
        clips = [clip(one.name, recording=one.name[:2]) for one in found]
        refusals.refuse_speakers("DIR", clips, {one.name: one for one in found})

    check(speaker(1, 40))
    check(speaker(1, 40) + speaker(2, 3))  # these are dropped one by one
    with pytest.raises(UserError, match=r"two voices .* 20 clips such as s\d at .* and 20 clips such as s\d at"):
        check(speaker(1, 20) + speaker(2, 20))
    groups = refusals.two_groups(np.array([one.voice for one in speaker(1, 20) + speaker(2, 10)]))
    assert groups.is_second[:20].all() != groups.is_second[20:].all()
    assert groups.is_second.mean() in (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_too_little_is_left() -> None:
    refusals.refuse_few("DIR", [clip()] * 12, [])
    with pytest.raises(UserError, match=r"only 55 s of good clips.*most of the rest: noise"):
        refusals.refuse_few("DIR", [clip()] * 11, ["noise", "clipping", "noise"])
