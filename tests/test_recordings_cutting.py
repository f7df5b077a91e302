"""Given words get the times of heard ones; cuts lie in pauses, between words, and every word is in one clip."""

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest

from recordings.alignment import align, keys_of
from recordings.cutting import MARGIN_SECONDS, MAX_SECONDS, MIN_SECONDS, Cut, audible, cut, whole
from recordings.hearing import Word, quietest
from recordings.levels import frame_levels, pauses

RATE = 16000


def speech(*parts: float, rate: int = RATE, noise: float = 0.0005) -> np.ndarray:
    """Noise of the level of speech for parts[0] seconds, silence for parts[1], and so on, with a floor of noise."""
    rng = np.random.default_rng(0)
    loud = [np.full(round(seconds * rate), k % 2 == 0) for k, seconds in enumerate(parts)]
    envelope = np.where(np.concatenate(loud), 0.1, noise)
    return (envelope * rng.standard_normal(len(envelope))).astype(np.float32)


def in_blocks(audio: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(audio), size):
        yield audio[start : start + size]


def timed(text: str, start: float = 0.0, word_seconds: float = 0.3) -> list[Word]:
    words = text.split()
    return [Word(word, start + i * word_seconds, start + (i + 1) * word_seconds) for i, word in enumerate(words)]


@pytest.mark.parametrize("rate", [16000, 22050, 44100])
def test_levels_do_not_depend_on_blocks(rate: int) -> None:
    audio = speech(0.5, 0.3, 0.75, rate=rate)
    expected = frame_levels([audio], rate)
    assert len(expected) == 155
    for size in (rate, 1000, 77):
        assert np.array_equal(frame_levels(in_blocks(audio, size), rate), expected)
    assert expected[:50] == pytest.approx(-20, abs=2.5)
    assert expected[51:79].max() < -60


@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.01])
def test_pauses_in_noise(noise: float) -> None:
    audio = speech(1.0, 0.4, 2.0, 0.1, 1.0, 0.2, 1.0, noise=noise)  # the pause of 0.1 s is one of a plosive
    found = pauses(frame_levels([audio], RATE))
    assert found == pytest.approx(np.array([[1.0, 1.4], [4.5, 4.7]]), abs=0.011)


def test_a_piece_ends_in_a_pause() -> None:
    audio = speech(10, 1, 9, 0.5, 15)
    assert quietest(audio, RATE) / RATE == pytest.approx(20.25, abs=0.11)


def test_words_are_compared_as_they_are_read() -> None:
    assert keys_of("1469,") == keys_of("Fourteen-sixty-nine")
    assert keys_of("Colour!") == keys_of("color")
    assert keys_of("Mr.") == keys_of("mister")
    assert keys_of("--") == ()
    assert keys_of("don\u2019t") == keys_of("don't")


def test_given_words_get_the_times_of_heard_ones() -> None:
    heard = timed("in the ear 1469 mister brown saw new gate")
    given = ["In", "the", "year", "1469,", "Mr.", "Brown", "--", "he", "saw", "Newgate."]
    found = align(given, heard)
    assert [word.text for word in found.words] == given
    starts = {word.text: round(word.start, 2) for word in found.words}
    assert (starts["In"], starts["year"], starts["1469,"], starts["Mr."]) == (0.0, 0.6, 0.9, 1.2)
    assert (starts["Brown"], starts["saw"]) == pytest.approx((1.5, 1.8), abs=0.15)
    assert starts["Newgate."] == pytest.approx(2.1, abs=0.31)
    assert starts["he"] == pytest.approx(1.75, abs=0.15)  # not heard: some time of its neighbors
    assert found.num_equal == 6
    times = [time for word in found.words for time in (word.start, word.end)]
    assert times == sorted(times)


def test_words_that_are_not_heard_get_the_time_of_a_word_that_is_too_long() -> None:
    heard = [Word("work", 0.0, 0.3), Word("of", 0.3, 2.0), Word("the", 2.0, 2.0), Word("and", 2.05, 2.3)]
    found = align(["work", "of", "the", "earlier", "presses;", "and"], heard).words
    assert found[1].end < 0.6
    assert found[3].start == pytest.approx(0.8, abs=0.15)
    assert found[4].end <= 2.05
    assert found[0] == heard[0]
    assert found[5].start == pytest.approx(2.05, abs=0.1)


def test_words_before_after_and_without_sound() -> None:
    found = align(["zero", "one", "two", "three", "four"], timed("one two extra words here", 1.0))
    assert [word.text for word in found.extra] == ["words"] or len(found.extra) < 4
    assert found.words[0].start == pytest.approx(1.0)
    assert align(["a", "b"], []).words == []


def test_a_long_text_is_aligned() -> None:
    """Twenty minutes of speech, 3,000 words, a tenth of them wrong."""
    draw = random.Random(0)
    vocabulary = [f"w{draw.randrange(10**6)}" for _ in range(1000)]
    words = [draw.choice(vocabulary) for _ in range(3_000)]
    heard = timed(" ".join(draw.choice(vocabulary) if draw.random() < 0.1 else word for word in words))
    found = align(words, heard)
    right = sum(abs(a.start - b.start) < 0.1 for a, b in zip(found.words, heard, strict=True))
    assert right > 0.99 * len(words)


def check(cuts: list[Cut], words: list[Word], quiet: np.ndarray) -> None:
    """What holds for all cuts: each word once, lengths, ends in pauses, no overlap."""
    assert " ".join(found.text for found in cuts) == " ".join(word.text for word in words)
    for found in cuts:
        if not found.problem:
            assert MIN_SECONDS <= found.span.end - found.span.start <= MAX_SECONDS
        for edge in found.span:
            inside = (quiet[:, 0] - 0.01 <= edge) & (edge <= quiet[:, 1] + 0.01)
            assert inside.any() or edge in (cuts[0].span.start, cuts[-1].span.end)
    for a, b in itertools.pairwise(cuts):
        assert a.span.end <= b.span.start + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_cuts_of_random_speech(seed: int) -> None:
    """Word times that are off by up to 0.1 s, pauses of 0.15 to 1.2 s at every third word."""
    rng = np.random.default_rng(seed)
    now, words, true, quiet = 0.3, [], [], [[0.0, 0.3]]
    for k in range(400):
        length = rng.uniform(0.15, 0.6)
        true.append(Word(f"word{k}" + "." * (k % 11 == 0), now, now + length))
        shift = rng.uniform(-0.1, 0.1, 2)
        words.append(Word(true[-1].text, max(0, now + shift[0]), max(0, now + length + shift[1])))
        now += length
        if k % 3 == 0:
            pause = rng.uniform(0.15, 1.2)
            quiet.append([now, now + pause])
            now += pause
    cuts = cut(words, np.array(quiet), now)
    check(cuts, words, np.array(quiet))
    assert sum(bool(found.problem) for found in cuts) == 0
    assert np.median([found.span.end - found.span.start for found in cuts]) == pytest.approx(5.5, abs=1.5)
    place = {word.text: word for word in true}
    for found in cuts:  # with the sound of its own words, and of no others
        first, *_, last = found.text.split()
        assert found.span.start <= place[first].start <= found.span.start + 2 * MARGIN_SECONDS
        assert found.span.end - 2 * MARGIN_SECONDS <= place[last].end <= found.span.end + 1e-9


def test_speech_without_a_pause_is_one_cut_with_a_problem() -> None:
    words = timed(" ".join(f"w{k}" for k in range(100)))
    (found,) = cut(words, np.zeros((0, 2)), 30.0)
    assert "30.0 s without a pause between words, more than 10 s" in found.problem


def test_sound_that_is_not_in_the_text_is_left_out() -> None:
    """Two sentences; between them somebody coughs for a second, in a pause of 2 s."""
    words = timed("one two three four five") + timed("six seven eight nine ten", 4.0)
    quiet = np.array([[1.5, 2.0], [3.0, 4.0]])
    cuts = cut(words, quiet, 5.5)
    assert [edge for found in cuts for edge in found.span] == pytest.approx([0.0, 1.6, 3.9, 5.5])


def test_a_pause_inside_a_word_is_no_place_to_cut() -> None:
    words = [Word("a", 0.0, 3.0), Word("bcdef", 3.0, 7.0), Word("g", 7.0, 12.0)]
    quiet = np.array([[5.0, 5.3], [7.0, 7.2]])
    assert [found.text for found in cut(words, quiet, 12.0)] == ["a bcdef", "g"]


def test_a_cut_beside_words_that_were_not_heard_is_a_problem() -> None:
    words = timed("one two three four five", word_seconds=0.6) + timed("six seven eight nine ten", 3.5, 0.6)
    quiet = np.array([[3.0, 3.5]])
    assert len(cut(words, quiet, 6.5)) in (1, 2)
    long = [*words, *timed(" ".join(f"w{k}" for k in range(12)), 6.5, 0.6)]  # too long for one clip
    assert cut(long, quiet, 13.7)[0].problem == ""
    long[4] = long[4]._replace(is_sure=False)
    assert "did not hear the words there: 'five six'" in cut(long, quiet, 13.7)[0].problem


def test_words_in_silence_are_not_words() -> None:
    words = [*timed("one two three"), Word("Thanks.", 2.0, 2.5), Word("Four", 2.9, 3.8)]  # that begins too early
    found = audible(words, np.array([[0.0, 0.1], [0.9, 3.5]]))
    assert [word.text for word in found] == ["one", "two", "three", "Four"]
    assert audible(words, np.zeros((0, 2))) == words


def test_a_short_recording_stays_whole_without_the_silence_at_its_ends() -> None:
    found = whole("text", np.array([[0.0, 0.8], [2.0, 2.4], [4.0, 5.0]]), 5.0)
    assert list(found.span) == pytest.approx([0.7, 4.1])
    assert "less than 1 s" in whole("text", np.array([[0.0, 0.8], [1.3, 5.0]]), 5.0).problem
    assert whole("text", np.zeros((0, 2)), 5.0).span == (0.0, 5.0)
