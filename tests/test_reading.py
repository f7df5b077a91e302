"""Pieces that the attention did not read right: how they are found, and how they are repaired."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from inference import Synthesizer
from synthesis.reader import Read, Reader
from synthesis.reading import Decoded, Fault, Request, faults, read_right
from synthesis.sentences import Piece
from tacotron2.text import SYMBOLS, text_to_ids, word_spans
from tests.helpers import REPOSITORY

TEXT = "one two six ten."
IDS = text_to_ids(TEXT)
WORDS = word_spans(IDS)
FRAME = 256 / 22050
LONG = (
    "They ingest solid proteinaceous food; their nutritive processes result in oxidation; they have a definite organ "
    "of excretion, and are capable of automatic movement, in which a whole organism takes part, or a part of it, and "
    "they have no wall of cellulose around them, as the cells of plants have in all the stages of their growth."
)


def alignment(*places: int, each: int = 5) -> torch.Tensor:
    """(T, L) with `each` frames at each place."""
    return torch.nn.functional.one_hot(torch.tensor(places).repeat_interleave(each), len(IDS)).float()


ALL = tuple(range(len(IDS)))


@pytest.mark.parametrize(
    ("places", "truncated", "expected"),
    [
        (ALL, False, []),
        ((*ALL, *[15] * 15), False, []),  # 0.9 s of silence
        ((*ALL, *[15] * 20), False, [("runaway", "ten", 1)]),  # 1.2 s
        (ALL, True, [("runaway", "ten", 1)]),
        (ALL[:3] + ALL[11:], False, [("skip", "two six", 2)]),
        (ALL[:8], False, [("early stop", "six ten", 2)]),
        (ALL[:11] + ALL[4:], False, [("repeat", "", 1)]),
        ((*ALL[:6], *[5] * 20, *ALL[6:]), False, [("stall", "two", 1)]),
        (ALL[:8], True, [("skip", "six ten", 2), ("runaway", "ten", 1)]),
    ],
)
def test_constructed_alignments(places: tuple[int, ...], truncated: bool, expected: list[tuple[str, str, int]]) -> None:
    found = faults(alignment(*places), WORDS, TEXT[:-1].split(), truncated, FRAME)
    assert found == [Fault(*fault) for fault in expected]  # type: ignore[arg-type]


def test_attempts_then_smaller_pieces_then_the_best() -> None:
    """Each piece gets its own attempts; what all of them cost is counted."""
    reader = Reader("english_cleaners", SYMBOLS)
    good, cured, cut, hopeless = (
        Read(Piece(text, 0, len(text), "end"), text_to_ids(text), [])
        for text in ("good", "cured by the second attempt", f"It is cut, {'a' * 60}.", "hopeless")
    )
    calls: list[list[int]] = []

    def decode(requests: Sequence[Request]) -> list[Decoded]:
        calls.append([attempt for _, attempt in requests])
        costs = {cured.piece.text: [1, 0], cut.piece.text: [3, 2, 2], "hopeless": [2, 1, 3]}
        found = []
        for read, attempt in requests:
            cost = costs.get(read.piece.text, [0])[attempt]
            wrong = [Fault("skip", "", cost)] if cost else []
            found.append(Decoded(torch.full((1, 1), attempt), torch.zeros(1, 1), False, 1.0, wrong))
        return found

    found = read_right([good, cured, cut, hopeless], decode, reader.cut, attempts=3)
    assert [[read.piece.text for read, _ in pieces] for pieces in found] == [
        ["good"], [cured.piece.text], [part.piece.text for part in reader.cut(cut)], ["hopeless"],
    ]  # fmt: skip
    assert [sum(decoded.seconds for _, decoded in pieces) for pieces in found] == [1, 2, 3 + len(reader.cut(cut)), 3]
    assert [(int(pieces[0][1].mel), pieces[0][1].cost) for pieces in found] == [(0, 0), (1, 0), (0, 0), (1, 1)]
    assert calls[:3] == [[0] * 4, [1] * 3, [2] * 2]


def test_cut_pieces_cover_the_piece() -> None:
    reader = Reader("english_cleaners", SYMBOLS)
    text = f"Before. {LONG} After."
    start = len("Before. ")
    read = Read(Piece(LONG, start, start + len(LONG), "paragraph"), text_to_ids(LONG), ["x"])
    parts = reader.cut(read)
    assert len(parts) >= 2
    assert [text[part.piece.start : part.piece.end] for part in parts] == [part.piece.text for part in parts]
    assert " ".join(part.piece.text for part in parts) == LONG
    assert all(len(part.ids) <= 0.6 * len(read.ids) for part in parts)
    assert [part.piece.pause for part in parts][-1] == "paragraph"
    assert [part.dropped for part in parts] == [["x"], *[[]] * (len(parts) - 1)]
    short = Read(Piece("Yes.", 0, 4, "end"), text_to_ids("Yes."), [])
    assert reader.cut(short) == [short]


@pytest.fixture(scope="module")
def voice() -> Synthesizer:
    """The bundled voice, which is given more than it can read in one piece."""
    folder = Path(REPOSITORY / "demo/voice")
    voice = Synthesizer.load(folder / "tacotron2.safetensors", folder / "waveglow.safetensors", device="cpu")
    voice.reader.limit = 1000
    return voice


@pytest.mark.slow
def test_a_piece_that_is_too_long_is_repaired(voice: Synthesizer) -> None:
    with pytest.warns(UserWarning, match="not read right: skip"):
        once = voice.speak(LONG, attempts=1)
    assert once.num_pieces == 1
    assert {"skip", "runaway"} <= {fault.kind for fault in once.faults}
    repaired = voice.speak(LONG, attempts=2)
    assert repaired.num_pieces >= 2
    assert not repaired.faults
    assert [LONG[spoken.piece.start : spoken.piece.end] for spoken in repaired.pieces] == [
        spoken.piece.text for spoken in repaired.pieces
    ]
    assert " ".join(spoken.piece.text for spoken in repaired.pieces) == LONG
    assert repaired.stats["tacotron2_latency"] > once.stats["tacotron2_latency"]


def test_the_decoder_stops_when_the_attention_does_not_move_on(voice: Synthesizer) -> None:
    """Instead of 2000 steps: with a gate that never opens, 2 s after the end of the text."""
    config = voice.tacotron2.decoder.config
    try:
        voice.tacotron2.decoder.config = type(config)(**{**vars(config), "gate_threshold": 2.0})
        with pytest.warns(UserWarning, match="runaway"):
            endless = voice.speak("It rained for three days.", attempts=1)
    finally:
        voice.tacotron2.decoder.config = config
    stopped = voice.speak("It rained for three days.", attempts=1)
    assert endless.truncated
    assert 1.5 < (endless.stats["audio_seconds"] - stopped.stats["audio_seconds"]) < 3


def test_a_window_keeps_the_attention_from_skipping(voice: Synthesizer) -> None:
    text = "It rained for three days, and the river rose."
    free, held = (voice.speak(text, attention_window=window) for window in (None, 8))
    assert not free.faults + held.faults
    peaks = held.alignment.argmax(1)
    assert (peaks[1:] - peaks[:-1]).max() <= 8 + 3
