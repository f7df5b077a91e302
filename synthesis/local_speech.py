"""Speech on this machine, in parts, of a text that may still be arriving."""

from __future__ import annotations

import codecs
import os
import queue
import threading
import warnings
from collections.abc import Iterator, Sequence

from torch import Tensor

from common.errors import UserError
from synthesis.options import SpeechOptions
from synthesis.passages import Passage
from synthesis.reading import described
from synthesis.scheduler.scheduler import Scheduler
from synthesis.scheduler.script import Script
from synthesis.synthesizer import Synthesizer
from tacotron2.text import left_out

IDLE_SECONDS = 0.5  # after a line, without more text: the line is read without what may follow
SIZE = 2**16  # bytes that are read at once


class LocalSpeech:
    """The audio of passages, or of all that can be read from a file descriptor, in parts (N).

    A sentence is spoken as soon as its end is certain; a line break that nothing follows for IDLE_SECONDS is an end.
    Raises UserError. It must be closed.
    """

    def __init__(
        self,
        voice: Synthesizer,
        source: Sequence[Passage] | int,
        speed: float = 1.0,
        options: SpeechOptions | None = None,
    ) -> None:
        self.sample_rate, reader = voice.audio.sample_rate, voice.reader_of(options.speaker if options else None)
        self.scheduler = Scheduler(options)
        # No Event: Ctrl-C within its methods, which are Python code, could leave its lock locked for ever.
        self.ready: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.error: UserError | None = None  # of the text
        self.script = Script(reader, None if isinstance(source, int) else source, speed)
        self.job = self.scheduler.submit(voice, self.script, lambda: self.ready.put(None))
        if isinstance(source, int):
            arrived: queue.Queue[bytes] = queue.Queue()
            # Daemons, because a terminal may be read for ever.
            threading.Thread(target=_read, args=(source, arrived), daemon=True).start()
            threading.Thread(target=self._feed, args=(arrived,), daemon=True).start()

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            self.ready.get()
            ended = self.job.ended
            for chunk in self.scheduler.take(self.job):
                if chunk.audio is not None:
                    yield chunk.audio
            if self.error:
                raise self.error
            if ended:
                break
        if isinstance(self.job.error, UserError):
            raise UserError(str(self.job.error))
        if self.job.error:  # the scheduler has shown where
            raise UserError("the models failed on this text; try another text or device") from self.job.error
        if self.script.dropped:
            warnings.warn(left_out(list(self.script.dropped)), stacklevel=2)
        if self.job.faults:
            warnings.warn(f"not read right: {described(self.job.faults)}", stacklevel=2)

    def close(self) -> None:
        self.scheduler.cancel(self.job)
        self.scheduler.close()

    def _feed(self, arrived: queue.Queue[bytes]) -> None:
        """Pass text on until its end."""
        decoder, is_line = codecs.getincrementaldecoder("utf-8")(), False
        try:
            while True:
                try:
                    data = arrived.get(timeout=IDLE_SECONDS if is_line else None)
                except queue.Empty:
                    self.scheduler.feed(self.job, "", is_complete=True)
                    is_line = False
                    continue
                if text := decoder.decode(data, final=not data):
                    self.scheduler.feed(self.job, text)
                if not data:
                    return self.scheduler.feed(self.job, None)
                is_line = data.endswith(b"\n")
        except UnicodeDecodeError:
            self.error = UserError("the text that arrives is not UTF-8; convert it: iconv -t UTF-8")
            self.ready.put(None)


def _read(source: int, arrived: queue.Queue[bytes]) -> None:
    """With os.read, because a file object would still hold its lock when the process ends."""
    data = b"start"
    while data:
        try:
            data = os.read(source, SIZE)
        except OSError:  # a terminal that has gone
            data = b""
        arrived.put(data)
