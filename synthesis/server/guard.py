"""What stands before the routes: keys, limits of the body, and headers that protect the page."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import UserError
from synthesis.server.errors import ApiError

OPEN = {"/", "/page.js", "/page.css", "/healthz", "/readyz"}  # paths that need no key: they tell nothing
POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data:",
        "media-src 'self' blob:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
SECURITY = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
MIN_KEY = 16  # characters


class Keys:
    """The keys that clients may send. None are needed if there are none."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self.keys = [key.encode() for key in keys]

    @classmethod
    def load(cls, path: str | None) -> Keys:
        """One key on each line; lines that start with # are comments. Raises UserError."""
        if path is None:
            return cls()
        try:
            lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UserError(f"keys={path}: {reason}; name a text file with one key on each line") from None
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise UserError(f"keys={path}: no key in this file; write one on each line: openssl rand -hex 32 > {path}")
        if short := [number for number, key in enumerate(keys, 1) if len(key) < MIN_KEY or not key.isascii()]:
            raise UserError(f"keys={path}: key {short[0]} has fewer than {MIN_KEY} characters, or others than ASCII")
        return cls(keys)

    def check(self, authorization: str) -> str:
        """Return who asks: a number for the key. Raises ApiError. The time does not depend on the keys."""
        scheme, _, given = authorization.partition(" ")
        found = [hmac.compare_digest(given.strip().encode("latin-1", "replace"), key) for key in self.keys]
        if not self.keys:
            return ""
        if scheme.lower() != "bearer" or not any(found):
            what = "the key is wrong" if authorization else "a key is needed"
            raise ApiError(401, f"{what}; send the header Authorization: Bearer KEY", "invalid_api_key")
        return f"key {found.index(True) + 1}"


class Guard:
    """ASGI middleware. It refuses requests without a key, bodies that are too large or too slow, and adds headers.

    hosts: the names that a request may give to this server; None: any. A page of another site that has itself resolved
    to a local address (DNS rebinding) gives its own.

    Routes find who asks in scope["state"]["client"].
    """

    def __init__(
        self, app: ASGIApp, keys: Keys, max_body_bytes: int, client_seconds: float, hosts: Collection[str] | None
    ) -> None:
        self.app, self.keys, self.hosts = app, keys, hosts
        self.max_body_bytes, self.client_seconds = max_body_bytes, client_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    found.setdefault(name, value)
            await send(message)

        try:
            self._check_host(headers.get("host", ""))
            client = "" if scope["path"] in OPEN else self.keys.check(headers.get("authorization", ""))
            scope.setdefault("state", {})["client"] = client or (scope.get("client") or ("",))[0]
            body = await self._body(headers, receive)
        except ApiError as error:
            return await error.response()(scope, receive, send_secured)
        except ConnectionError:
            return None
        is_given = False

        async def receive_again() -> Message:
            nonlocal is_given
            if is_given:
                return await receive()  # waits until the client leaves
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_again, send_secured)

    def _check_host(self, host: str) -> None:
        name = re.sub(r":\d*$", "", host).lower()
        if self.hosts is not None and name not in self.hosts:
            message = f"host {name[:60]!r} is not this machine; to serve others, start the server with host=ADDRESS"
            raise ApiError(403, message, "wrong_host")

    def _too_large(self, length: int) -> ApiError:
        message = f"the body has {length:,} bytes or more; the limit is {self.max_body_bytes:,}"
        return ApiError(413, message, "request_too_large")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body. Raises ApiError if it is too large or too slow, ConnectionError if the client has left."""
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) > self.max_body_bytes:
            raise self._too_large(int(length))
        body = bytearray()
        try:
            async with asyncio.timeout(self.client_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionError
                    body += message.get("body", b"")
                    if len(body) > self.max_body_bytes:
                        raise self._too_large(len(body))
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {self.client_seconds:g} s", "timeout") from None
