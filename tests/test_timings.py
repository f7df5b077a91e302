"""When each written word is heard: on alignments with known answers, and by the bundled voice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from common.config import AudioConfig
from inference import Synthesizer
from synthesis.reader import Read, Reader
from synthesis.sentences import Piece
from synthesis.timings import monotonic_path, owners, piece_words
from tacotron2.text import SYMBOLS, Lexicon, ids_to_text, word_spans
from tests.helpers import REPOSITORY

AUDIO = AudioConfig()
READER = Reader("english_cleaners", SYMBOLS, lexicon=Lexicon({"New York": "nuyork", "GIF": "jif"}))


def of_path(path: list[int], num_symbols: int) -> torch.Tensor:
    """An alignment (T, L) with most of its attention on the path."""
    alignment = torch.full((len(path), num_symbols), 0.1 / num_symbols)
    alignment[torch.arange(len(path)), torch.tensor(path)] += 0.9
    return alignment


def every_path(num_frames: int, num_symbols: int) -> list[list[int]]:
    """All paths from symbol 0 with steps of 0 or 1."""
    paths = (list(itertools.accumulate((0, *steps))) for steps in itertools.product((0, 1), repeat=num_frames - 1))
    return [path for path in paths if path[-1] < num_symbols]


def test_the_path_is_the_best_of_all() -> None:
    alignment = torch.rand(9, 6, generator=torch.Generator().manual_seed(0)).softmax(1).numpy()
    found = monotonic_path(alignment).tolist()
    weights = {tuple(path): np.log(alignment[range(9), path] + 1e-4).sum() for path in every_path(9, 6)}
    assert tuple(found) == max(weights, key=weights.__getitem__)


def test_a_flicker_does_not_move_the_path() -> None:
    path = [0, 0, 1, 1, 2, 2, 2, 3, 3, 3]
    alignment = of_path(path, 5)
    alignment[5] = of_path([4], 5)[0]  # the attention jumps ahead for a frame, then back
    assert monotonic_path(alignment.numpy()).tolist() == path


def test_the_silence_around_words_is_left_out() -> None:
    """Symbols of "ab, c": a 2 frames of silence and 3 of sound, b 2; comma 3 and space 2, 3 of them silent; c 4, 1."""
    text = "ab, c"
    ids = READER.encode(text).ids
    path = [0] * 5 + [1] * 2 + [2] * 3 + [3] * 2 + [4] * 5
    mel = torch.zeros(80, len(path))
    mel[:, [0, 1, 9, 10, 11, 16]] = -11.0
    read = Read(Piece(text, 100, 105, "end"), ids, [])
    frame = AUDIO.hop_length / AUDIO.sample_rate
    first, second = piece_words(READER, read, of_path(path, len(ids)), mel, AUDIO, offset=2.0)
    assert (first.text, first.span, second.text, second.span) == ("ab,", (100, 103), "c", (104, 105))
    assert (first.start, first.end) == pytest.approx((2 + 2 * frame, 2 + 9 * frame))
    # the last symbol is still attended in the silent frame, so the word goes on there
    assert (second.start, second.end) == pytest.approx((2 + 12 * frame, 2 + 17 * frame))


def test_words_that_a_truncated_reading_does_not_reach_have_no_time() -> None:
    text = "ab cd ef"
    ids = READER.encode(text).ids
    alignment = of_path([0, 0, 1, 2, 3, 3, 4], len(ids))
    read = Read(Piece(text, 0, len(text), "end"), ids, [])
    words = piece_words(READER, read, alignment, torch.zeros(80, 7), AUDIO)
    assert [word.text for word in words] == ["ab", "cd"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It cost $5 million.", {"It": "it", "cost": "cost", "$5": "five", "million.": "million dollars"}),
        ("In 1984 people ran", {"In": "in", "1984": "nineteen eighty-four", "people": "people", "ran": "ran"}),
        ("1,984 people", {"1,984": "one thousand nine hundred eighty-four", "people": "people"}),
        ("ran 5 km * to", {"ran": "ran", "5": "five", "km": "kilometers", "to": "to"}),
        ("Dr. King \U0001f642 said", {"Dr.": "doctor", "King": "king", "said": "said"}),
        ("10 - 4 = 6", {"10": "ten", "-": "minus", "4": "four", "=": "equals", "6": "six"}),
        ("Louis XIV met", {"Louis": "louis", "XIV": "the fourteenth", "met": "met"}),
        ("a {HH AH0 L OW1} b", {"a": "a", "{HH AH0 L OW1}": "{HH AH0 L OW1}", "b": "b"}),
        ("a GIF", {"a": "a", "GIF": "jif"}),
        ("saw New York too", {"saw": "saw", "New": "nuyork", "York": "nuyork", "too": "too"}),
        ("* * *", {}),
    ],
)
def test_what_is_read_for_each_written_word(text: str, expected: dict[str, str]) -> None:
    for cleaners in ("english_cleaners", "english_arpabet"):
        reader = Reader(cleaners, SYMBOLS, lexicon=READER.lexicon)
        ids = reader.encode(text).ids
        spans = word_spans(ids, SYMBOLS)
        found = {}
        for owned in owners(reader, text, ids):
            first, last = spans[owned.first][0], spans[owned.last - 1][1]
            found[text[owned.start : owned.end]] = ids_to_text(ids[first:last])
        if cleaners == "english_cleaners":
            assert found == expected
        assert list(found) == list(expected)  # in any table


def test_two_written_words_share_the_time_of_one() -> None:
    text = "New York"
    ids = READER.encode(text).ids
    read = Read(Piece(text, 0, 8, "end"), ids, [])
    new, york = piece_words(READER, read, of_path(list(range(len(ids))), len(ids)), torch.zeros(80, len(ids)), AUDIO)
    assert new.start == 0.0
    assert new.end == york.start == pytest.approx(3 / 7 * york.end)


def test_the_words_of_a_text_with_two_sentences() -> None:
    text = "Dr. King paid $5 million * in 1984.  Nobody came \U0001f642."
    voice = Synthesizer.load(REPOSITORY / "demo/voice/tacotron2.safetensors", device="cpu")
    (utterance,) = next(voice.batches([text]))
    assert utterance is not None
    words = utterance.words
    assert [word.text for word in words] == ["Dr.", "King", "paid", "$5", "million", "in", "1984.", "Nobody", "came"]
    assert all(text[slice(*word.span)] == word.text for word in words)
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(word.end - word.start > 0.05 for word in words)
    rate = voice.audio.sample_rate
    before, after = utterance.pieces
    assert 0 < times[0] < 0.25
    assert words[6].end <= before.end / rate < after.start / rate <= words[7].start
    assert after.start / rate < words[8].start < words[8].end < after.end / rate
    # the pause is silent, and the words are not
    audio = utterance.audio.numpy()
    level = [np.abs(audio[int(word.start * rate) : int(word.end * rate)]).max() for word in words]
    assert np.abs(audio[before.end : after.start]).max() == 0
    assert min(level) > 0.05
