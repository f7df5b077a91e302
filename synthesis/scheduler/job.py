"""A text on its way through the scheduler: what is decoded, what is vocoded, and what its reader has not yet taken."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from synthesis.options import SpeechOptions
from synthesis.playing import Playable, play
from synthesis.reader import Read
from synthesis.reading import Decoded, Fault, Request, Trials, trials
from synthesis.scheduler.script import Line, NothingToSayError, Script
from synthesis.synthesizer import Synthesizer
from tacotron2.continuous import SpeechPart, Text

AHEAD = 4  # pieces of a job that may be decoded before the first of them is vocoded
BUFFER_SECONDS = 10.0  # of audio that its reader has not taken; then the job waits


class PieceRead(NamedTuple):
    """A piece whose place in the audio is known, and how the attention read it."""

    line: Line
    read: Read
    mel: Tensor  # (n_mels, T) on the CPU, at the speed of the model
    alignment: Tensor  # (T, L)
    start: int  # sample


class Chunk(NamedTuple):
    """What a job gives: audio (N), or what is known of a piece."""

    audio: Tensor | None = None
    piece: PieceRead | None = None


@dataclass(eq=False)
class Piece:
    """A line that is decoded: streamed, with one attempt, or with all attempts before its first part is given."""

    job: Job
    line: Line
    trials: Trials | None = None  # None: streamed
    parts: deque[Tensor] = field(default_factory=deque)  # of the mel, if streamed
    mel: list[Tensor] = field(default_factory=list)  # all of them
    alignment: list[Tensor] = field(default_factory=list)
    results: list[tuple[Read, Decoded]] | None = None  # None: not yet decoded

    def request(self) -> Request:
        """What to decode first."""
        return Request(self.line.read, 0) if self.trials is None else next(self.trials)

    def take(self, request: Request, part: SpeechPart) -> Request | None:
        """Note a part that was decoded; return what to decode next, if this piece was not read right."""
        to_mel = self.job.voice.text_to_mel
        part = to_mel.checked(part)
        self.mel.append(part.mel)
        self.alignment.append(part.alignment)
        if self.trials is None:
            self.parts.append(part.mel)
        if not part.ended:
            return None
        mel, alignment = torch.cat(self.mel, 1), torch.cat(self.alignment)
        decoded = to_mel.decoded(request.read, mel, alignment, not part.stopped)
        self.mel, self.alignment = [], []
        if self.trials is None:
            self.results = [(request.read, decoded)]
            return None
        try:
            return self.trials.send(decoded)
        except StopIteration as end:
            self.results = end.value
            return None


class Job:
    """One request. Only the scheduler calls its methods, and passes on what a request's own thread wants.

    on_ready: called from a thread of the scheduler when there is something to take.
    """

    def __init__(
        self, voice: Synthesizer, script: Script, options: SpeechOptions, on_ready: Callable[[], None]
    ) -> None:
        self.voice, self.script, self.options, self.on_ready = voice, script, options, on_ready
        self.pieces: deque[Piece] = deque()  # that are not yet vocoded, in order
        self.is_first = True  # no piece has been read
        self.is_read = False  # all pieces have been read
        self.is_starved = False  # the next piece has not come yet
        self.is_vocoding = False
        self.cancelled = False
        self.ended = False
        self.error: Exception | None = None
        self.faults: list[Fault] = []
        self.num_samples = 0
        self.submitted = time.monotonic()
        self.started: float | None = None  # when the first audio was given
        self._lock = threading.Lock()
        self._out: deque[Chunk] = deque()
        self._buffered = 0  # samples in _out
        self._waiting: deque[tuple[Playable, Line, Decoded]] = deque()  # pieces whose place is not yet told
        self._audio = play(self._playables(), voice.vocoder, options, greedy=True)

    @property
    def deadline(self) -> float:
        """When a listener who started with the first audio has heard all that was given; before that, the start."""
        if self.started is None:
            return self.submitted
        return self.started + self.num_samples / self.voice.audio.sample_rate

    # ---- decoding ----

    def wants_decoding(self) -> bool:
        """Whether another piece may be decoded now."""
        is_waiting = self.cancelled or self.ended or self.is_read or self.is_starved or self.is_full
        return not is_waiting and len(self.pieces) < AHEAD

    @property
    def is_full(self) -> bool:
        return self._buffered > BUFFER_SECONDS * self.voice.audio.sample_rate

    def next_piece(self) -> Piece | None:
        """The next piece to decode; None: there is no more, or not yet."""
        is_closed = self.script.is_closed  # before the line: more may come between the two
        self.is_starved = True  # before the line, too: `Scheduler.feed` takes it back behind its text
        line = self.script.next()
        if line is None:
            self.is_read = is_closed
            if self.is_read and self.is_first:
                raise NothingToSayError("input has no word that can be spoken; send a text with words")
            return None
        self.is_starved = False
        attempts = trials(line.read, self.voice.reader.cut, self.options.attempts)
        piece = Piece(self, line, None if self.is_first else attempts)
        self.is_first = False
        self.pieces.append(piece)
        return piece

    # ---- vocoding ----

    def wants_vocoding(self, early: bool) -> bool:
        """Whether there is a mel to vocode, or an end to tell. `early`: also that of a piece which is being decoded."""
        if self.cancelled or self.ended or self.is_vocoding or self.is_full:
            return False
        if not self.pieces:
            return self.is_read
        return self.pieces[0].results is not None or (early and bool(self.pieces[0].parts))

    def vocode(self) -> None:
        """Make the next part of the audio."""
        part = next(self._audio, _END)
        while self._waiting and (start := self._waiting[0][0].start) is not None:
            playable, line, decoded = self._waiting.popleft()
            self._put(Chunk(piece=PieceRead(line, playable.read, decoded.mel.cpu(), decoded.alignment, start)))
        if part is _END:
            self.end()
        elif part is not None:
            self.started = self.started or time.monotonic()
            self.num_samples += len(part)
            self._put(Chunk(audio=part))

    def _playables(self) -> Iterator[Playable | None]:
        pauses = self.options.pauses
        while True:
            if not self.pieces:
                if self.is_read:
                    return
                yield None
                continue
            piece = self.pieces[0]
            if piece.trials is None and piece.results is None:
                read, line = piece.line.read, piece.line
                playable = Playable(read, self._streamed(piece), line.speed, line.seconds(read, pauses), line.lead)
                yield playable
                assert piece.results is not None
                self._told(playable, piece, piece.results[0][1])
            elif piece.results is None:
                yield None
                continue
            else:
                lead = piece.line.lead
                for read, decoded in piece.results:
                    playable = Playable(read, decoded.mel, piece.line.speed, piece.line.seconds(read, pauses), lead)
                    lead = 0.0
                    self._told(playable, piece, decoded)
                    yield playable
            self.pieces.popleft()

    def _told(self, playable: Playable, piece: Piece, decoded: Decoded) -> None:
        self._waiting.append((playable, piece.line, decoded))
        self.faults += decoded.faults

    def _streamed(self, piece: Piece) -> Iterator[Tensor | None]:
        while True:
            is_last = piece.results is not None  # before the parts: the last one is noted before the results
            parts = [piece.parts.popleft() for _ in range(len(piece.parts))]
            if parts:
                yield torch.cat(parts, 1)
            if is_last:
                return
            if not parts:
                yield None

    # ---- output ----

    def _put(self, chunk: Chunk) -> None:
        with self._lock:
            self._out.append(chunk)
            self._buffered += 0 if chunk.audio is None else len(chunk.audio)
        self.on_ready()

    def end(self, error: Exception | None = None) -> None:
        """Tell the reader that nothing more will come."""
        self.error, self.ended = self.error or error, True
        self.on_ready()

    def take(self) -> list[Chunk]:
        """What is ready, see Scheduler.take."""
        with self._lock:
            chunks, self._buffered = list(self._out), 0
            self._out.clear()
        return chunks


_END = torch.empty(0)


@dataclass(eq=False)
class Row:
    """A piece in a batch of the decoder."""

    piece: Piece
    request: Request
    text: Text
