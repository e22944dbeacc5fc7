"""What stands before every route: size of bodies, where a form may come from, how often, and what browsers are told."""

import time
from collections import deque
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
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

    `uploads` maps paths to the bytes that may be sent there. `per_minute` bounds the changes (POST) of one session,
    or of one address without a session.
    """

    def __init__(self, app: ASGIApp, uploads: dict[str, int], cookie: str, https: bool, per_minute: int = 240) -> None:
        self.app, self.uploads, self.cookie, self.https, self.per_minute = app, uploads, cookie, https, per_minute
        self.sent: dict[str, deque[float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self.https:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        problem = self._problem(scope) if scope["method"] not in ("GET", "HEAD", "OPTIONS") else None
        if problem is not None:
            await PlainTextResponse(problem[1], problem[0])(scope, receive, with_headers)
            return
        most = self.uploads.get(scope["path"], BODY)
        if int(Headers(scope=scope).get("content-length") or 0) > most:
            await PlainTextResponse(f"At most {most:,} bytes can be sent here.", 413)(scope, receive, with_headers)
            return
        await self.app(scope, _bounded(receive, most), with_headers)

    def _problem(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        # Browsers say where a form comes from; a program that says nothing still needs the session's token.
        foreign = (
            site not in ("same-origin", "none") if site else origin and urlsplit(origin).netloc != headers.get("host")
        )
        if foreign:
            return 403, "This form was not sent from this page."
        length = headers.get("content-length", "0")
        if not length.isdigit() or len(length) > 12:
            return 400, "The length of the body is not a number."
        who = headers.get("cookie", "") or str((scope.get("client") or ("",))[0])
        now, sent = time.monotonic(), self.sent.setdefault(who, deque())
        while sent and sent[0] < now - 60:
            sent.popleft()
        if len(sent) >= self.per_minute:
            return 429, "Too many changes in a minute; wait a little."
        sent.append(now)
        if len(self.sent) > 10_000:  # forget those who have sent nothing for a minute
            self.sent = {k: v for k, v in self.sent.items() if v and v[-1] > now - 60}
        return None


class TooLarge(Exception):
    """A body without a length went beyond its bound."""


def _bounded(receive: Receive, most: int) -> Receive:
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise TooLarge
        return message

    return bounded
