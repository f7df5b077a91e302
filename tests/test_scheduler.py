"""Many texts at once: each gets what it gets alone, in turn, and none holds another back."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from inference import Synthesizer
from synthesis.passages import Passage
from synthesis.scheduler.job import BUFFER_SECONDS, Chunk, Job
from synthesis.scheduler.scheduler import ClosedError, Scheduler
from synthesis.scheduler.script import Line, Script, plain
from tests.helpers import wait_until
from tests.helpers.server import VOICE

TEXTS = (
    "In being comparatively modern.",
    "Yes.",
    "Has never been surpassed, said the printer. It cost $5.20 on 3 May 1998! And then?",
    "The invention of movable metal letters in the middle of the fifteenth century.",
)
CLOSE = 2e-4  # of full scale: what other chunks of the vocoder change


@pytest.fixture(scope="module")
def voice() -> Synthesizer:
    return Synthesizer.load(VOICE, device="cpu")


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler(lanes=2)
    yield scheduler
    scheduler.close()


class Reader:
    """Takes what a job gives."""

    def __init__(self, scheduler: Scheduler, voice: Synthesizer, script: Script) -> None:
        self.scheduler, self.ready = scheduler, threading.Event()
        self.job: Job = scheduler.submit(voice, script, self.ready.set)
        self.chunks: list[Chunk] = []

    def take(self) -> bool:
        """Wait for chunks and take them; return whether more will come."""
        assert self.ready.wait(30)
        self.ready.clear()
        ended = self.job.ended
        self.chunks += self.scheduler.take(self.job)
        return not ended

    def all(self) -> Tensor:
        while self.take():
            pass
        if self.job.error:
            raise self.job.error
        return self.audio

    @property
    def audio(self) -> Tensor:
        return torch.cat([chunk.audio for chunk in self.chunks if chunk.audio is not None])


def read_at_once(scheduler: Scheduler, voice: Synthesizer, texts: Sequence[str]) -> list[Tensor]:
    readers = [Reader(scheduler, voice, Script(voice.reader, [plain(text)])) for text in texts]
    return [reader.all() for reader in readers]


def test_each_text_gets_what_it_gets_alone(voice: Synthesizer, scheduler: Scheduler) -> None:
    """The mels have the same bits; the chunks of the vocoder may differ."""
    expected = {text: torch.cat(list(voice.stream(text))) for text in TEXTS}
    texts = [*TEXTS, *TEXTS]
    for text, audio in zip(texts, read_at_once(scheduler, voice, texts), strict=True):
        assert audio.shape == expected[text].shape
        torch.testing.assert_close(audio, expected[text], atol=CLOSE, rtol=0)


def test_pieces_are_told_in_order_with_their_places(voice: Synthesizer, scheduler: Scheduler) -> None:
    reader = Reader(scheduler, voice, Script(voice.reader, [plain(TEXTS[2])]))
    audio = reader.all()
    pieces = [chunk.piece for chunk in reader.chunks if chunk.piece]
    assert [piece.read.piece.text for piece in pieces] == [
        "Has never been surpassed, said the printer.", "It cost $5.20 on 3 May 1998!", "And then?",
    ]  # fmt: skip
    hop = voice.audio.hop_length
    for piece, start in zip(pieces, [piece.start for piece in pieces[1:]] + [len(audio)], strict=True):
        end = piece.start + hop * piece.mel.shape[1]
        assert len(piece.alignment) == piece.mel.shape[1]
        assert start >= end
        assert not audio[end:start].any()


def test_text_that_arrives_in_parts(voice: Synthesizer, scheduler: Scheduler) -> None:
    """The audio of a first sentence comes before the text has ended."""
    text = TEXTS[2]
    reader = Reader(scheduler, voice, Script(voice.reader))
    scheduler.feed(reader.job, text[:76])
    while not any(chunk.audio is not None for chunk in reader.chunks):
        reader.take()
    for k in range(76, len(text), 7):
        scheduler.feed(reader.job, text[k : k + 7])
    scheduler.feed(reader.job, None)
    expected = torch.cat(list(voice.stream(text)))
    torch.testing.assert_close(reader.all(), expected, atol=CLOSE, rtol=0)


def test_text_that_ends_while_the_scheduler_finds_none(voice: Synthesizer, scheduler: Scheduler) -> None:
    """Between the look at the text and what follows from it."""

    class Late(Script):
        def next(self) -> Line | None:
            line = super().next()
            if line is None and self.num_characters and not self.is_closed:
                scheduler.feed(reader.job, None)
            return line

    reader = Reader(scheduler, voice, Late(voice.reader))
    scheduler.feed(reader.job, "Yes. ")
    torch.testing.assert_close(reader.all(), torch.cat(list(voice.stream("Yes. "))), atol=CLOSE, rtol=0)


def test_speeds_pauses_and_places_of_passages(voice: Synthesizer, scheduler: Scheduler) -> None:
    passages = [
        Passage("", [0], pause=0.5), Passage("Good morning.", range(10, 24), 2.0, 0.25), Passage("Bye.", range(30, 35)),
    ]  # fmt: skip
    reader = Reader(scheduler, voice, Script(voice.reader, passages))
    audio, rate = reader.all(), voice.audio.sample_rate
    first, second = (chunk.piece for chunk in reader.chunks if chunk.piece)
    assert first
    assert second
    alone = torch.cat(list(voice.stream("Good morning.", speed=2.0)))
    assert first.start == pytest.approx(0.5 * rate, abs=256)
    assert second.start - first.start - len(alone) == pytest.approx(0.25 * rate, abs=256)
    assert first.line.span(5, 12) == (15, 22)
    torch.testing.assert_close(audio[first.start : first.start + len(alone)], alone, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("text", ["", " \n", "...", "?! -", "* * *", "\U0001f600"])
def test_a_text_without_a_word_is_an_error(text: str, voice: Synthesizer, scheduler: Scheduler) -> None:
    with pytest.raises(ValueError, match="no word that can be spoken"):
        Reader(scheduler, voice, Script(voice.reader, [plain(text)])).all()
    opened = Reader(scheduler, voice, Script(voice.reader))
    scheduler.feed(opened.job, text)
    scheduler.feed(opened.job, None)
    with pytest.raises(ValueError, match="no word that can be spoken"):
        opened.all()


def test_short_texts_do_not_wait_for_a_long_one(voice: Synthesizer, scheduler: Scheduler) -> None:
    """The long one has far more to say than its reader takes meanwhile."""
    long = Reader(scheduler, voice, Script(voice.reader, [plain("Once more, with feeling. " * 4000)]))
    long.take()
    for text in TEXTS:
        Reader(scheduler, voice, Script(voice.reader, [plain(text)])).all()
    assert not long.job.ended
    scheduler.cancel(long.job)
    assert scheduler.num_jobs == 0


def test_a_reader_that_takes_nothing_holds_back_only_itself(voice: Synthesizer, scheduler: Scheduler) -> None:
    slow = Reader(scheduler, voice, Script(voice.reader, [plain("Once more, with feeling. " * 4000)]))
    wait_until(lambda: slow.job.is_full)
    before = slow.job.num_samples
    expected = torch.cat(list(voice.stream(TEXTS[0])))
    torch.testing.assert_close(read_at_once(scheduler, voice, TEXTS[:1])[0], expected, atol=CLOSE, rtol=0)
    assert slow.job.num_samples == before < 3 * BUFFER_SECONDS * voice.audio.sample_rate
    slow.take()
    slow.take()
    assert slow.job.num_samples > before
    scheduler.cancel(slow.job)


def test_cancelled_jobs_leave_the_decoder(voice: Synthesizer, scheduler: Scheduler) -> None:
    readers = [Reader(scheduler, voice, Script(voice.reader, [plain(TEXTS[3] * 3)])) for _ in range(5)]
    readers[0].take()
    for reader in readers[:4]:
        scheduler.cancel(reader.job)
    assert scheduler.num_jobs == 1
    readers[4].all()
    wait_until(lambda: not scheduler.num_rows, seconds=10)


def test_a_text_that_fails_harms_no_other(voice: Synthesizer, scheduler: Scheduler) -> None:
    def broken() -> Iterator[Passage]:
        yield plain("This is fine.")
        raise OSError("the disk is gone")

    bad = Reader(scheduler, voice, Script(voice.reader, broken()))
    good = Reader(scheduler, voice, Script(voice.reader, [plain(TEXTS[0])]))
    with pytest.raises(OSError, match="the disk is gone"):
        bad.all()
    torch.testing.assert_close(good.all(), torch.cat(list(voice.stream(TEXTS[0]))), atol=CLOSE, rtol=0)


def test_a_decoder_that_fails_tells_all_its_jobs(scheduler: Scheduler) -> None:
    """One whose weights were replaced by some of another size."""
    broken = Synthesizer.load(VOICE, device="cpu")
    broken.tacotron2.decoder.attention_layer.memory_layer.linear_layer.weight = torch.nn.Parameter(torch.zeros(3, 3))
    readers = [Reader(scheduler, broken, Script(broken.reader, [plain(text)])) for text in TEXTS]
    for reader in readers:
        with pytest.raises(RuntimeError):
            reader.all()
    assert scheduler.num_jobs == 0


def test_a_voice_that_gives_nan_fails_and_harms_no_other(voice: Synthesizer, scheduler: Scheduler) -> None:
    ruined = Synthesizer.load(VOICE, device="cpu")
    with torch.no_grad():
        ruined.tacotron2.decoder.linear_projection.linear_layer.weight[0, 0] = torch.nan
    bad, good = (Reader(scheduler, own, Script(own.reader, [plain(TEXTS[0])])) for own in (ruined, voice))
    with pytest.raises(ValueError, match="NaN or infinity"):
        bad.all()
    torch.testing.assert_close(good.all(), torch.cat(list(voice.stream(TEXTS[0]))), atol=CLOSE, rtol=0)


def test_two_voices_at_once(voice: Synthesizer, scheduler: Scheduler) -> None:
    other = Synthesizer.load(VOICE, device="cpu", griffin_lim=True)
    readers = [Reader(scheduler, own, Script(own.reader, [plain(TEXTS[0])])) for own in (voice, other, voice)]
    found = [reader.all() for reader in readers]
    torch.testing.assert_close(found[0], found[2], atol=CLOSE, rtol=0)
    torch.testing.assert_close(found[1], torch.cat(list(other.stream(TEXTS[0]))), atol=CLOSE, rtol=0)


def test_a_closed_engine(voice: Synthesizer) -> None:
    scheduler = Scheduler(lanes=1)
    reader = Reader(scheduler, voice, Script(voice.reader, [plain("Once more, with feeling. " * 100)]))
    reader.take()
    scheduler.close()
    with pytest.raises(ClosedError):
        reader.all()
    with pytest.raises(ClosedError):
        scheduler.submit(voice, Script(voice.reader, [plain("Yes.")]), lambda: None)
