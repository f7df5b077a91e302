"""The options of scripts/serve.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Annotated, Any

from common.device import Device
from common.errors import UserError
from common.schema import Count, NonNegative, Options, Positive, Range, Seed
from synthesis.options import SpeechOptions
from synthesis.vocoder import SpeechPrecision

Port = Annotated[int, Range(least=1, most=65535)]


@dataclass(frozen=True, kw_only=True)
class ServerOptions(Options):
    """The keys of conf/serve.yaml, which explains them."""

    voices: str
    aliases: dict[str, Any] | None = None
    engines: dict[str, Any] | None = None
    host: str = "127.0.0.1"
    port: Port = 8000
    wyoming_port: Port | None = None
    keys: str | None = None
    cors: list[str] = field(default_factory=list)
    max_characters: Count = 4096
    max_body_bytes: Count = 1_000_000
    max_requests: Count = 128
    max_requests_per_key: Count = 128
    queue_seconds: Positive = 60.0
    request_seconds: Positive = 3600.0
    client_seconds: Positive = 30.0
    log_text: bool = False
    sigma: NonNegative | None = None
    denoiser_strength: NonNegative = 0.01
    attempts: Count = 3
    max_rows: Count = 32
    threads: Count | None = None
    workers: Count = 1
    precision: SpeechPrecision = "fp32"
    tf32: bool = True
    device: Device = "auto"
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for origin in self.cors:
            if origin == "*" or not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise UserError(f"cors={origin}: name each origin, such as https://example.org, without a path")
        if self.wyoming_port == self.port:
            raise UserError(f"wyoming_port={self.port} is the port of HTTP too; choose another")
        if self.workers > 1 and self.wyoming_port:
            raise UserError(f"workers={self.workers}: Wyoming needs workers=1")

    @property
    def speech(self) -> SpeechOptions:
        return SpeechOptions(
            seed=self.seed, sigma=self.sigma, denoiser_strength=self.denoiser_strength, attempts=self.attempts
        )

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False
