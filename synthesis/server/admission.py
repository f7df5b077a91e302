"""How many requests may wait or run at once."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from synthesis.server.errors import ApiError

REMEMBERED = 50  # requests whose duration tells when to try again


class Admission:
    """Used by one thread. `per_client` counts by the key, or by the address of those without one."""

    def __init__(self, total: int, per_client: int) -> None:
        self.total, self.per_client = total, per_client
        self.running: Counter[str] = Counter()
        self.is_closing = False
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def count(self) -> int:
        return self.running.total()

    @contextmanager
    def place(self, client: str) -> Iterator[None]:
        """Hold a place for a request. Raises ApiError if there is none."""
        if self.is_closing:
            raise ApiError(503, "the server is shutting down", "shutting_down", retry=10)
        if self.count >= self.total:
            message = f"{self.count} requests are waiting or running, which is the limit; try again later"
            raise ApiError(429, message, "queue_full", retry=self._until_one_ends())
        if self.running[client] >= self.per_client:
            message = f"{self.running[client]} requests of yours are running, which is the limit; wait for one to end"
            raise ApiError(429, message, "too_many_requests", retry=self._until_one_ends())
        self.running[client] += 1
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds.append(time.monotonic() - start)
            self.running[client] -= 1
            self.running = +self.running  # forget clients without requests

    def _until_one_ends(self) -> float:
        """Seconds, from the mean of the last requests."""
        return sum(self._seconds) / len(self._seconds) / max(self.count, 1) if self._seconds else 1.0
