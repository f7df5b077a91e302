"""Synthesizes many texts at once. Their pieces share the batches of the decoder; each gets what it would get alone.

The scheduler has lanes: threads that do one unit of work after the other. A unit is a block of steps of a voice's
decoder, or the next chunk of a job's audio. First comes the first audio of a job, then the decoder, as far ahead as its
jobs allow, then the job whose listener would be the first to wait.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable

from common.errors import UserError
from synthesis.options import SpeechOptions
from synthesis.reading import Request
from synthesis.scheduler.job import Chunk, Job, Piece, Row
from synthesis.scheduler.script import Script
from synthesis.synthesizer import Synthesizer
from tacotron2.continuous import Continuous

MAX_ROWS = 32  # of a decoder's batch
# With at most so many jobs for each lane, a first piece is vocoded while it is decoded. With more, its listener would
# only wait later, and short chunks cost more.
EARLY_JOBS = 4
log = logging.getLogger(__name__)


class ClosedError(RuntimeError):
    """The scheduler was closed before the job had ended."""


class _VoiceBatch:
    """The decoder's batch of one voice."""

    def __init__(self, voice: Synthesizer, options: SpeechOptions, max_rows: int) -> None:
        self.voice, self.options, self.max_rows = voice, options, max_rows
        self.running: Continuous = voice.text_to_mel.continuous(options)
        self.rows: dict[int, Row] = {}  # by id of their texts
        self.again: list[tuple[Piece, Request]] = []  # pieces that were not read right
        self.jobs: list[Job] = []
        self.is_busy = False

    def has_work(self) -> bool:
        if self.is_busy:
            return False
        return bool(self.rows or self.again) or any(job.wants_decoding() for job in self.jobs)

    def step(self) -> None:
        """Let pieces join, and run the next steps."""
        self._leave()
        if new := self._new_rows():
            self.rows.update((id(row.text), row) for row in new)  # first: if it fails, their jobs are told
            self.voice.text_to_mel.join(self.running, [row.text for row in new])
        for text, part in self.voice.text_to_mel.advance(self.running):
            row = self.rows.pop(id(text)) if part.ended else self.rows[id(text)]
            try:
                request = row.piece.take(row.request, part)
            except Exception as error:
                row.piece.job.end(error)
                continue
            if request is not None:
                self.again.append((row.piece, request))

    def _leave(self) -> None:
        """Remove the pieces of jobs that have ended early."""
        self.again = [(piece, request) for piece, request in self.again if not _is_over(piece.job)]
        if gone := [row for row in self.rows.values() if _is_over(row.piece.job)]:
            self.running.leave([row.text for row in gone])
            for row in gone:
                del self.rows[id(row.text)]

    def _new_rows(self) -> list[Row]:
        room = self.max_rows - len(self.rows)
        new, self.again = self.again[:room], self.again[room:]
        wanting = [job for job in self.jobs if job.wants_decoding()]
        fewest = deque(sorted(wanting, key=lambda job: (len(job.pieces), job.deadline)))
        while fewest and len(new) < room:
            job = fewest.popleft()
            try:
                piece = job.next_piece()
            except Exception as error:
                job.end(error)
                continue
            if piece is None:
                continue
            new.append((piece, piece.request()))
            if job.wants_decoding():
                fewest.append(job)
        return [self._row(piece, request) for piece, request in new]

    def _row(self, piece: Piece, request: Request) -> Row:
        to_mel, options = self.voice.text_to_mel, piece.job.options
        text = to_mel.text(request.read, options, request.attempt, streamed=piece.trials is None)
        return Row(piece, request, text)


def _is_over(job: Job) -> bool:
    return job.cancelled or job.ended


class Scheduler:
    """Runs jobs on several voices. `options` are those of all jobs but their speeds.

    lanes: number of threads. max_rows: of a batch of the decoder.
    """

    def __init__(self, options: SpeechOptions | None = None, lanes: int = 1, max_rows: int = MAX_ROWS) -> None:
        self.options, self.max_rows = options or SpeechOptions(), max_rows
        # Used for `with` in place of the Condition, whose methods are Python code: Ctrl-C there could leave it locked.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._batches: dict[int, _VoiceBatch] = {}  # by id of their models, which the speakers of a voice share
        self._jobs: list[Job] = []
        self._is_closing = False
        self._lanes = [threading.Thread(target=self._work, name=f"lane {k}", daemon=True) for k in range(lanes)]
        for lane in self._lanes:
            lane.start()

    def submit(self, voice: Synthesizer, script: Script, on_ready: Callable[[], None]) -> Job:
        """Start a job. Raises ClosedError after `close`."""
        job = Job(voice, script, self.options, on_ready)
        with self._lock:
            if self._is_closing:
                raise ClosedError("the scheduler is closed")
            batch = self._batches.get(id(voice.text_to_mel))
            if batch is None:
                batch = self._batches[id(voice.text_to_mel)] = _VoiceBatch(voice, self.options, self.max_rows)
            batch.jobs = [*batch.jobs, job]
            self._jobs.append(job)
            self._changed.notify()
        return job

    def take(self, job: Job) -> list[Chunk]:
        """What is ready of a job. A job that was full may go on. If `job.ended` was True before, this is the rest."""
        chunks = job.take()
        self._notify()
        return chunks

    def feed(self, job: Job, text: str | None, is_complete: bool = False) -> None:
        """More text for a job whose script has no passages; None: its end. See Script.feed."""
        if text is None:
            job.script.close()
        else:
            job.script.feed(text, is_complete)
        job.is_starved = False
        self._notify()

    def cancel(self, job: Job) -> None:
        """Stop the work for a job. Its rows leave the decoder before its next steps."""
        job.cancelled = True
        with self._lock:
            self._forget(job)
        self._notify()

    @property
    def num_jobs(self) -> int:
        return len(self._jobs)

    @property
    def num_rows(self) -> int:
        """Pieces in the batches of the decoders."""
        return sum(len(batch.rows) for batch in list(self._batches.values()))

    def close(self) -> None:
        """Stop after the units that are running. Jobs that have not ended get the error ClosedError."""
        self._is_closing = True
        self._notify()
        for lane in self._lanes:
            lane.join()
        for job in self._jobs:
            job.end(ClosedError("the scheduler was closed"))
        self._jobs = []

    def _notify(self) -> None:
        with self._lock:
            self._changed.notify_all()

    # ---- lanes ----

    def _work(self) -> None:
        while (unit := self._next_unit()) is not None:
            unit()

    def _next_unit(self) -> Callable[[], None] | None:
        """Wait for a unit of work; None: the scheduler is closing."""
        with self._lock:
            while not self._is_closing:
                if unit := self._find():
                    return unit
                self._changed.wait()
        return None

    def _find(self) -> Callable[[], None] | None:
        early = len(self._jobs) <= EARLY_JOBS * len(self._lanes)
        waiting = [job for job in self._jobs if job.wants_vocoding(early)]
        job = min(waiting, key=lambda job: (job.started is not None, job.deadline), default=None)
        if job is None or job.started is not None:
            for batch in self._batches.values():
                if batch.has_work():
                    batch.is_busy = True
                    return functools.partial(self._decode, batch)
        if job is None:
            return None
        job.is_vocoding = True
        return functools.partial(self._vocode, job)

    def _decode(self, batch: _VoiceBatch) -> None:
        try:
            batch.step()
        except Exception as error:  # of the model: all that is in the batch is lost
            log.exception("the decoder failed")
            for row in batch.rows.values():
                row.piece.job.end(error)
            batch.rows, batch.running = {}, batch.voice.text_to_mel.continuous(batch.options)
        with self._lock:
            batch.is_busy = False
            for job in [job for job in batch.jobs if _is_over(job)]:
                self._forget(job)
            self._changed.notify_all()

    def _vocode(self, job: Job) -> None:
        try:
            job.vocode()
        except Exception as error:
            if not isinstance(error, UserError):
                log.exception("the vocoder failed")
            job.end(error)
        with self._lock:
            job.is_vocoding = False
            if _is_over(job):
                self._forget(job)
            self._changed.notify_all()

    def _forget(self, job: Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
        batch = self._batches[id(job.voice.text_to_mel)]
        if job in batch.jobs:
            batch.jobs = [other for other in batch.jobs if other is not job]
