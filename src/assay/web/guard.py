"""What stands before every route: size of bodies, where a form may come from, how often, and what browsers are told."""

import hashlib
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
    "Cache-Control": "no-store",
}
BODY = 1 << 20
"""Bytes of a form. Imports have their own bound."""


class Guard:
    """Refuses bodies that are too large (413), forms of other sites (403) and floods (429); sets the headers of all answers.

    `uploads` maps paths to the bytes that may be sent there by whom `trusted` tells from the session's cookie. `per_minute`
    bounds the changes (POST) of one session, or of one address without a session; all of an address may send ten times that.
    """

    def __init__(
        self, app: ASGIApp, uploads: dict[str, int], trusted: Callable[[str], bool], cookie: str, https: bool,
        per_minute: int = 240,
    ) -> None:  # fmt: skip
        self.app, self.uploads, self.trusted = app, uploads, trusted
        self.cookie, self.https, self.per_minute = cookie, https, per_minute
        self.sent: dict[str, deque[float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_headers(MutableHeaders(scope=message), self.https)
            await send(message)

        headers = Headers(scope=scope)
        cookie = cookie_parser(headers.get("cookie", "")).get(self.cookie, "")
        most = BODY
        if scope["path"] in self.uploads and await run_in_threadpool(self.trusted, cookie):
            most = self.uploads[scope["path"]]
        problem = self._problem(scope, headers, cookie, most)
        if problem is not None:
            await PlainTextResponse(problem[1], problem[0])(scope, receive, with_headers)
            return
        await self.app(scope, _bounded(receive, most), with_headers)

    def _problem(self, scope: Scope, headers: Headers, cookie: str, most: int) -> tuple[int, str] | None:
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 12:
            return 400, "The length of the body is not a number."
        if int(length) > most:
            return 413, f"At most {most:,} bytes can be sent here."
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        if _foreign(headers):
            return 403, "This form was not sent from this page."
        address = str((scope.get("client") or ("",))[0])
        session = hashlib.sha256(cookie.encode()).hexdigest() if cookie else f"no session at {address}"
        bounds = {address: 10 * self.per_minute, session: self.per_minute}
        if not all(self._may_send(who, often) for who, often in bounds.items()):
            return 429, "Too many changes in a minute; wait a little."
        return None

    def _may_send(self, who: str, often: int) -> bool:
        now, sent = time.monotonic(), self.sent.setdefault(who, deque())
        while sent and sent[0] < now - 60:
            sent.popleft()
        if len(sent) >= often:
            return False
        sent.append(now)
        if len(self.sent) > 10_000:  # forget those who have sent nothing for a minute
            self.sent = {k: v for k, v in self.sent.items() if v and v[-1] > now - 60}
        return True


def add_headers(headers: MutableHeaders, https: bool) -> None:
    """What browsers are told with every answer."""
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if https:
        headers["Strict-Transport-Security"] = "max-age=31536000"


def _foreign(headers: Headers) -> bool:
    """Whether a browser says that the form is of another site; a program that says nothing still needs a session's token."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site:
        return site not in ("same-origin", "none")
    try:
        return bool(origin) and urlsplit(origin).netloc != headers.get("host")
    except ValueError:
        return True


def _bounded(receive: Receive, most: int) -> Receive:
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:  # a body that did not say its length
            raise HTTPException(413, f"At most {most:,} bytes can be sent here.")
        return message

    return bounded
