"""The live page: runs and trainings while they go, by server-sent events. It reads files and writes none.

A page shows the whole state when it is opened; then the server sends each part that has changed as HTML, once a second at
most, and everything anew to a browser that comes back (a restart of either side is nothing else). All viewers of a run share
what is read.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from jinja2 import Environment
from starlette.concurrency import run_in_threadpool

from assay.errors import AssayError
from assay.examples import FATES
from assay.session import duration
from assay.state import RunState, is_run, runs
from assay.web.desk import Account
from assay.web.watched import Watched, ago, clipped, extremes, key

EVERY_S, LIFE_S, BEAT_S = 1.0, 600.0, 15.0
"""Seconds between two looks; of one stream, after which the browser comes again (and is asked again who it is); between
two signs of life."""
PAGE = 20
Parts = Mapping[str, str]


class Board:
    """The runs in `places` (run folders, or folders of runs), and the parts of their pages, read at most once a second."""

    def __init__(self, places: Sequence[Path], pages: Environment) -> None:
        self.places, self._pages = places, pages
        self._lock = threading.Lock()
        self._watched: dict[str, Watched] = {}
        self._read: dict[str, tuple[float, Parts]] = {}
        self.stop = threading.Event()

    def list(self) -> list[tuple[str, RunState]]:
        """All runs there are now, the last changed first."""
        found = {s.folder.absolute(): s for place in self.places for s in runs(place)}
        self._watched |= {key(f): Watched(f) for f in found if key(f) not in self._watched}
        return [(key(f), s) for f, s in sorted(found.items(), key=lambda item: -item[1].changed)]

    def watched(self, name: str) -> Watched:
        if name not in self._watched:
            self.list()
        if name not in self._watched:
            raise HTTPException(404, "There is no such run here.")
        return self._watched[name]

    def parts(self, name: str) -> Parts:
        """The parts of a run's page ("": of the list) by id, as HTML."""
        with self._lock:
            at, parts = self._read.get(name, (0.0, {}))
            if time.monotonic() - at >= EVERY_S * 0.9:
                parts = self._index() if not name else self._run(self.watched(name))
                self._read[name] = (time.monotonic(), parts)
            return parts

    def _index(self) -> Parts:
        return {"runs": self._html("runs", runs=self.list())}

    def _run(self, run: Watched) -> Parts:
        now = run.state()
        if now is None:
            return {"now": self._html("gone", folder=str(run.folder))}
        trainings = run.trainings()
        parts = {"now": self._html("now", s=now, key=run.key, budget=run.budget())}
        for n, training in enumerate(trainings):
            latest = training.steps()[-1:] if n == 0 else []
            sampled = extremes(training.answers(latest[0])) if latest else []
            parts[training.id] = self._html(
                "training", t=training, key=run.key, open=n == 0, sampled=sampled, kept=bool(latest or training.steps())
            )
        return parts

    def _html(self, part: str, **values: Any) -> str:
        shared = {"ago": ago, "duration": duration, "clipped": clipped}
        return self._pages.get_template(f"live_{part}.html").render(**shared, **values)


def make_router(
    board: Board, pages: Environment, person: Callable[[Request], Account | None], csrf: Callable[[Request], str]
) -> APIRouter:
    """The routes. `person` raises where the request may not look, and tells who asks (None: nobody needs to say)."""
    router = APIRouter(prefix="/runs", default_response_class=HTMLResponse)

    def show(template: str, request: Request, who: Account | None, **values: Any) -> HTMLResponse:
        html = pages.get_template(template).render(who=who, csrf=csrf(request), clipped=clipped, **values)
        return HTMLResponse(html)

    @router.get("")
    def index(request: Request, who: Annotated[Account | None, Depends(person)]) -> Response:
        found = board.list()
        if len(found) == 1 and is_run(board.places[0]):
            return RedirectResponse(f"/runs/{found[0][0]}", 303)
        parts = board.parts("")
        return show("live.html", request, who, title="Runs", events="/runs/events", parts=parts, key="", labels=False)

    @router.get("/events")
    async def list_events(request: Request, who: Annotated[Account | None, Depends(person)]) -> Response:
        return _stream(request, board, "")

    @router.get("/{name}")
    def run(request: Request, name: str, who: Annotated[Account | None, Depends(person)]) -> HTMLResponse:
        folder = board.watched(name).folder
        return show(
            "live.html", request, who, title=folder.name, events=f"/runs/{name}/events", parts=board.parts(name), key=name,
            labels=(folder / "seed-0").exists(),
        )  # fmt: skip

    @router.get("/{name}/events")
    async def run_events(request: Request, name: str, who: Annotated[Account | None, Depends(person)]) -> Response:
        await run_in_threadpool(board.watched, name)
        return _stream(request, board, name)

    _inside(router, board, show, person)
    return router


def _inside(
    router: APIRouter, board: Board, show: Callable[..., HTMLResponse], person: Callable[[Request], Account | None]
) -> None:
    """The pages within a run: sampled answers of a training, pairs whose label changed."""

    @router.get("/{name}/answers/{training}")
    def answers(
        request: Request, name: str, training: str, who: Annotated[Account | None, Depends(person)], step: int = 0,
        which: str = "",
    ) -> HTMLResponse:  # fmt: skip
        found = board.watched(name).training(training)
        if found is None:
            raise HTTPException(404, "There is no such training in this run.")
        steps = found.steps()
        at = step if step in steps else (steps[-1] if steps else 0)
        rows = [a for a in found.answers(at) if which not in _WHICH or _WHICH[which](a)] if steps else []
        return show(
            "live_answers.html", request, who, t=found, key=name, steps=steps, at=at, rows=rows, which=which,
            choices=list(_WHICH), title=f"Sampled answers of {found.name}",
        )  # fmt: skip

    @router.get("/{name}/pairs")
    def pairs(
        request: Request, name: str, who: Annotated[Account | None, Depends(person)], fate: str = "", words: str = "",
        page: int = 1,
    ) -> HTMLResponse:  # fmt: skip
        problem, found, total, counts = "", list[dict[str, Any]](), 0, dict[str, int]()
        try:
            start = (max(1, page) - 1) * PAGE
            found, total, counts = board.watched(name).changed(fate, words.strip()[:200], start, PAGE)
        except (AssayError, OSError) as error:
            problem = f"No changed pairs can be shown yet: {error}"
        return show(
            "live_pairs.html", request, who, key=name, pairs=found, total=total, counts=counts, fate=fate, words=words,
            page=max(1, page), pages=-(-total // PAGE), fates=FATES, problem=problem, title="Changed pairs",
        )  # fmt: skip


_WHICH: Mapping[str, Callable[[Any], bool]] = {
    "right": lambda a: a.rule > 0, "wrong": lambda a: a.rule <= 0, "cut off": lambda a: not a.ended,
    "with a problem": lambda a: bool(a.problem),
}  # fmt: skip


def _stream(request: Request, board: Board, name: str) -> StreamingResponse:
    headers = {"X-Accel-Buffering": "no"}  # nginx hands on what comes at once
    return StreamingResponse(_events(request, board, name), media_type="text/event-stream", headers=headers)


async def _events(request: Request, board: Board, name: str) -> AsyncIterator[str]:
    """Every part at once, then those that change."""
    begun = said = time.monotonic()
    sent: dict[str, str] = {}
    while not board.stop.is_set() and time.monotonic() - begun < LIFE_S and not await request.is_disconnected():
        parts = await run_in_threadpool(board.parts, name)
        changed = {i: html for i, html in parts.items() if sent.get(i) != html}
        gone = [i for i in sent if i not in parts]
        if changed or gone or not sent:
            yield f"data: {json.dumps({'parts': changed, 'order': list(parts)})}\n\n"
            sent, said = dict(parts), time.monotonic()
        elif time.monotonic() - said > BEAT_S:
            yield ": there\n\n"
            said = time.monotonic()
        await asyncio.sleep(EVERY_S)
