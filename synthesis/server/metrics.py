"""What GET /metrics tells, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)


class Metrics:
    """The counters of one process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tts_requests", "Requests for speech that have ended, by status", ["status"], registry=self.registry
        )
        self.audio = Counter("tts_audio_seconds", "Seconds of audio that were made", registry=self.registry)
        self.characters = Counter("tts_characters", "Characters of the inputs", registry=self.registry)
        self.faults = Counter("tts_faults", "Pieces that were not read right", ["kind"], registry=self.registry)
        self.first_audio = Histogram(
            "tts_first_audio_seconds", "Time to the first audio", buckets=SECONDS, registry=self.registry
        )
        self.duration = Histogram(
            "tts_request_seconds", "Time of a request", buckets=(*SECONDS, 300), registry=self.registry
        )

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        return bytes(generate_latest(self.registry))  # type: ignore[no-untyped-call]
