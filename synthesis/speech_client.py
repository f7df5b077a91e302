"""Speech from a server of scripts/serve.py, as its audio arrives. It needs only Python's own HTTP client."""

from __future__ import annotations

import http.client
import json
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from synthesis.audio_file import HEADER

PATIENCE = 120.0  # seconds for the next part of the audio
BLOCK = 8192  # bytes
BROKEN = (OSError, http.client.HTTPException)  # a connection
NO_ANSWER = (ValueError, LookupError, TypeError, RecursionError)  # what JSON that is none of a server's raises


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key is for this address only."""

    def redirect_request(self, *_: Any) -> None:
        return None


class SpeechClient:
    """A server at `url`, such as http://127.0.0.1:8000; `key` if it wants one. Methods raise UserError."""

    def __init__(self, url: str, key: str | None = None) -> None:
        try:
            parts = urlsplit(url)
        except ValueError:  # such as half of an address of IPv6
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"url {url} is no address of a server; write it as http://127.0.0.1:8000")
        if key is not None and not (key.isascii() and key.isprintable() and key):
            raise UserError("the key has characters that no key has; copy it again")
        self.url, self.key = url.rstrip("/").removesuffix("/v1"), key
        self.opener = urllib.request.build_opener(_NoRedirects)

    def voices(self) -> list[str]:
        """The names of its voices."""
        with self._open("/v1/audio/voices") as response:
            try:
                found = [str(voice["id"]) for voice in json.load(response)["voices"]]
            except (*BROKEN, *NO_ANSWER):
                raise self._strange() from None
        if not found:
            raise UserError(f"{self.url}: the server has no voice; check the address")
        return found

    def speak(self, text: str, voice: str | None = None, speed: float = 1.0, kind: str = "text") -> Speech:
        """Speak a text (kind "ssml": a document) with a voice, or with the first of the server."""
        voice = voice if voice is not None else self.voices()[0]
        fields = {"model": "tts-1", "voice": voice, "input": text, "speed": speed, "response_format": "wav"}
        if kind != "text":
            fields["input_type"] = kind
        return Speech(self, self._open("/v1/audio/speech", fields))

    def _open(self, path: str, fields: dict[str, Any] | None = None) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        body = None if fields is None else json.dumps(fields).encode()
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            request = urllib.request.Request(self.url + path, body, headers)
            response: http.client.HTTPResponse = self.opener.open(request, timeout=PATIENCE)
            return response
        except urllib.error.HTTPError as error:
            raise UserError(f"{self.url}: {self._message(error)}") from None
        except (*BROKEN, ValueError) as error:  # also of a wrong port
            reason = getattr(error, "reason", error)
            raise UserError(
                f"{self.url}: no server answers ({reason}); start one with scripts/serve.py, or check the address"
            ) from None

    def _message(self, error: urllib.error.HTTPError) -> str:
        try:
            return str(json.load(error)["error"]["message"])
        except (*BROKEN, *NO_ANSWER):
            return f"status {error.code} ({error.reason}); it is no server of speech, check the address"

    def _strange(self) -> UserError:
        return UserError(f"{self.url}: the answer is no speech; check the address")


class Speech:
    """The audio of one text, at `sample_rate`, in parts (N) as they arrive. It must be read to its end, or closed."""

    def __init__(self, client: SpeechClient, response: http.client.HTTPResponse) -> None:
        self.client, self.response = client, response
        header = self._read(HEADER.size, is_whole=True)
        try:
            _, _, form, _, _, _, channels, self.sample_rate, *_, bits, _, _ = HEADER.unpack(header)
        except struct.error:
            raise client._strange() from None
        if (form, channels, bits) != (b"WAVE", 1, 16) or not self.sample_rate:
            raise client._strange()
        if response.length is None and not response.chunked:
            raise UserError(
                f"{client.url}: the answer does not tell its end, so a part would look whole; "
                "let the proxy before the server use HTTP/1.1"
            )

    def __iter__(self) -> Iterator[Tensor]:
        """Raises UserError if the answer ends early."""
        rest, is_silent = b"", True
        while data := self._read(BLOCK):
            data = rest + data
            end = len(data) // 2 * 2
            rest = data[end:]
            if end:
                is_silent = False
                yield torch.from_numpy(np.frombuffer(data[:end], "<i2").astype(np.float32) / 2**15)
        if rest or is_silent or self.response.length:
            raise self._cut("it is not whole")

    def close(self) -> None:
        self.response.close()

    def _read(self, size: int, is_whole: bool = False) -> bytes:
        try:
            return self.response.read(size) if is_whole else self.response.read1(size)
        except BROKEN as error:
            raise self._cut(str(error) or type(error).__name__) from None

    def _cut(self, reason: str) -> UserError:
        return UserError(f"{self.client.url}: the server ended in the middle of the audio ({reason})")
