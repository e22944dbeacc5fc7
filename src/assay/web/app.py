"""The application: pages, sessions and guards put together. `make_app` builds it, `serve` runs it."""

import re
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from assay.llm.chat import Chat
from assay.look import MARK, css
from assay.web import lead, live, login, task
from assay.web.accounts import Accounts, same
from assay.web.code import code_css
from assay.web.desk import Account
from assay.web.guard import Guard, add_headers
from assay.web.live import Board
from assay.web.schema import Database
from assay.web.store import Store
from assay.web.store_desk import StoreDesk
from assay.web.text import reveal

_STATIC = Path(__file__).with_name("static")
_TYPES = {
    "style.css": "text/css",
    "keys.js": "text/javascript",
    "live.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig:
    """What the application is made of. `hosts` are the names under which it may be addressed, without a port; `https` marks
    the cookie secure, for a server behind TLS; `images` is a folder of pictures by content id (`images.ImageStore`); `run`
    is the folder that leads may watch."""

    database: Database
    assistant: Chat | None = None
    images: Path | None = None
    run: Path | None = None
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    https: bool = False
    per_minute: int = 240
    clock: Any = field(default=None)


class Sessions:
    """`desk.Access` by the session's cookie; what a request's session is, is looked up once."""

    def __init__(self, accounts: Accounts, https: bool) -> None:
        self.accounts, self.https = accounts, https
        self.cookie = "__Host-assay" if https else "assay_session"

    def _session(self, request: Request) -> Any:
        if not hasattr(request.state, "session"):
            request.state.session = self.accounts.session(request.cookies.get(self.cookie, ""))
        return request.state.session

    def person(self, request: Request) -> Account | None:
        session = self._session(request)
        return session.account if session else None

    def leads(self, cookie: str) -> bool:
        session = self.accounts.session(cookie)
        return session is not None and session.account.role != "annotator"

    def csrf(self, request: Request) -> str:
        session = self._session(request)
        return session.csrf if session else ""

    def csrf_holds(self, request: Request, token: str) -> bool:
        return bool(token) and same(token, self.csrf(request))


def make_app(config: WebConfig) -> FastAPI:
    """The application over a database that is up to date."""
    clock = {"clock": config.clock} if config.clock else {}
    store, accounts = Store(config.database, **clock), Accounts(config.database, **clock)
    access = Sessions(accounts, config.https)
    pages = _pages()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.store, app.state.accounts, app.state.pages = store, accounts, pages
    app.include_router(login.make_router(accounts, store, access, pages))
    app.include_router(task.make_router(store, access, pages, config.assistant, config.images))
    app.include_router(lead.make_router(StoreDesk(store, accounts), access, pages))
    app.state.board = Board([config.run] if config.run else [], pages)

    def watcher(request: Request) -> Account:
        return lead.who(access, request)

    app.include_router(live.make_router(app.state.board, pages, watcher, access.csrf))
    _public(app, access)
    _errors(app, access, pages)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(config.hosts), www_redirect=False)
    app.add_middleware(
        Guard, uploads={"/lead/import": lead.MAX_UPLOAD + (1 << 16)}, trusted=access.leads, cookie=access.cookie,
        https=config.https, per_minute=config.per_minute,
    )  # fmt: skip
    return app


def make_watch_app(places: Sequence[Path]) -> FastAPI:
    """The live page alone, for whoever can reach it: it is for this machine (an SSH tunnel brings it to another)."""
    pages = _pages()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.board = Board(places, pages)
    nobody = Nobody()
    app.include_router(live.make_router(app.state.board, pages, nobody.person, nobody.csrf))
    _public(app, nobody)
    _errors(app, nobody, pages)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"], www_redirect=False)
    app.add_middleware(Guard, uploads={}, trusted=lambda _: False, cookie="none", https=False)
    return app


class Nobody:
    """`desk.Access` of a page without accounts."""

    https = False

    def person(self, request: Request) -> Account | None:
        return None

    def csrf(self, request: Request) -> str:
        return ""

    def csrf_holds(self, request: Request, token: str) -> bool:
        return False


def _pages() -> Environment:
    pages = Environment(
        loader=PackageLoader("assay.web"), autoescape=select_autoescape(default=True), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_encodable,
    )  # fmt: skip
    pages.filters["utc"] = lambda at: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    pages.filters["reveal"] = reveal
    pages.globals["mark"] = MARK
    return pages


def _encodable(value: Any) -> Any:
    """Half a surrogate pair, which a model may write, must not break the page that shows it."""
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return value.encode("utf-8", "replace").decode() if plain else value


def _public(app: FastAPI, access: Sessions | Nobody) -> None:
    styles = css() + code_css()

    @app.get("/")
    def home(request: Request) -> Response:
        """Leads are not led to the task, for the page would keep a pair for them that an annotator waits for."""
        if isinstance(access, Nobody):
            return RedirectResponse("/runs", 303)
        who = access.person(request)
        at_work = "/task" if who and who.role == "annotator" else "/lead"
        return RedirectResponse(at_work if who else "/login", 303)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/static/look.css")
    def look() -> Response:
        return Response(styles, media_type="text/css", headers={"Cache-Control": "max-age=3600"})

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in _TYPES:
            raise HTTPException(404, "There is no such file.")
        return FileResponse(_STATIC / name, media_type=_TYPES[name], headers={"Cache-Control": "max-age=3600"})


def _errors(app: FastAPI, access: Sessions | Nobody, pages: Environment) -> None:
    """Every failure is a page that says what to do; a request without a session goes to the log-in."""

    def page(request: Request, status: int, text: str) -> HTMLResponse:
        who = access.person(request)
        html = pages.get_template("error.html").render(who=who, csrf=access.csrf(request), status=status, text=text)
        return HTMLResponse(html, status)

    @app.exception_handler(StarletteHTTPException)
    def http(request: Request, error: StarletteHTTPException) -> Response:
        if error.status_code == 401 and request.method == "GET":
            return RedirectResponse("/login", 303)
        return page(request, error.status_code, _sentence(str(error.detail)))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        names = sorted({str(e["loc"][-1]) for e in error.errors()})
        return page(request, 422, f"Something is missing or not allowed: {', '.join(names)}.")

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        """A fault of ours: nothing about it is told (the server logs it). This answer does not pass the guard."""
        response = PlainTextResponse("Something broke on the server. Go back and try again, or tell its admin.", 500)
        add_headers(response.headers, access.https)
        return response


def _sentence(text: str) -> str:
    return text if re.search(r"[.!?]$", text) else f"{text}."


def serve(app: FastAPI, at: socket.socket) -> None:
    """Run until SIGTERM or Ctrl-C; requests in flight are answered, live pages are let go."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.board.stop.set()
            super().handle_exit(sig, frame)

    # uvicorn sends itself the signal again when it has stopped; as SystemExit it lets the caller finish its own work.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=30
    )
    with suppress(KeyboardInterrupt):  # so does Ctrl-C
        Server(config).run(sockets=[at])
