"""The lead's page: progress, agreement, annotators, adjudication, people, settings, export and import, the audit log.

Every address begins with /lead and asks for the role lead or admin; every change is a POST with the session's CSRF token.
A lead manages annotators; what touches leads and admins, or settings, takes an admin.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import APIRouter, Depends, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment
from markupsafe import Markup

from assay.curate import argilla, label_studio
from assay.curate.agreement import rater_kappas, report
from assay.curate.annotate import shown_order
from assay.curate.attributes import message_text, response_text
from assay.curate.interchange import Format, entries, read, write
from assay.curate.rules import last_user_text
from assay.errors import AssayError
from assay.records import Conversation, Judgement
from assay.web.desk import ROLES, Access, Account, Id, Role
from assay.web.diff import difference
from assay.web.overview import Progress, charts, disputes, needed, progress, verdict
from assay.web.pace import LEAST, duration
from assay.web.quality import annotators
from assay.web.schema import storable
from assay.web.store_desk import StoreDesk
from assay.web.text import plain_text, render_markdown, reveal

MAX_UPLOAD, MAX_UNPACKED, MAX_ROWS = 64 << 20, 512 << 20, 200_000
EXPORTS: Mapping[str, tuple[Format, str]] = {
    "jsonl": ("jsonl", "judgements.jsonl"), "parquet": ("parquet", "judgements.parquet"),
    "argilla": ("argilla", "argilla.json"), "label-studio": ("label-studio", "label-studio.json"),
}  # fmt: skip
PAGE = 50
_DONE = {
    "decision": "The decision is stored.", "account": "The account is changed.", "settings": "The settings are stored.",
}  # fmt: skip
"""What a page says after a change; an address cannot make it say anything else."""


def make_router(desk: StoreDesk, access: Access, pages: Environment) -> APIRouter:
    """The routes; `pages` renders `lead_*.html`. The caller adds them to its app, behind its own headers and sessions."""
    router = APIRouter(prefix="/lead", default_response_class=HTMLResponse)
    show = _shower(access, pages)

    def lead(request: Request) -> Account:
        return who(access, request)

    def writer(request: Request, csrf: Annotated[str, Form()] = "") -> Account:
        writes = who(access, request)
        if not access.csrf_holds(request, csrf):
            raise HTTPException(403, "This form is too old; go back, reload the page and send it again.")
        return writes

    _overview(router, desk, show, lead)
    _pairs(router, desk, show, lead, writer)
    _people(router, desk, show, lead, writer)
    _project(router, desk, show, lead, writer)
    return router


Show = Callable[..., HTMLResponse]
Who = Callable[..., Account]


def _shower(access: Access, pages: Environment) -> Show:
    def show(request: Request, name: str, who: Account, status: int = 200, **more: Any) -> HTMLResponse:
        done = _DONE.get(request.query_params.get("done", ""), "")
        fixed = {"who": who, "csrf": access.csrf(request), "notice": done, "problem": ""}
        page = pages.get_template(name).render({**fixed, **more})
        return HTMLResponse(page, status)

    return show


def who(access: Access, request: Request) -> Account:
    """Who asks: a lead or an admin, or the request is refused."""
    account = access.person(request)
    if account is None:
        raise HTTPException(401, "Please log in.")
    if account.role not in ("lead", "admin"):
        raise HTTPException(403, "This page is for the roles lead and admin.")
    return account


def _done(path: str, what: str) -> RedirectResponse:
    return RedirectResponse(f"{path}?done={what}", 303)


def _overview(router: APIRouter, desk: StoreDesk, show: Show, lead: Who) -> None:
    @router.get("")
    def overview(request: Request, who: Annotated[Account, Depends(lead)], raters: bool = False) -> HTMLResponse:
        cases, given = desk.store.cases(), desk.store.judgements()
        asked = {c.pair.id: c.pair.question_id for c in cases}
        people = [j for j in given if j.kind == "human"]
        agreement = report(given, questions=asked)
        agreement += rater_kappas(people, questions=asked)[:PAGE] if raters else []
        open_disputes = sum(not d.settled for d in disputes({c.pair.id: c for c in cases}, given))
        rows, works = progress(cases, given, desk.overlap()), desk.store.works()
        missing = needed(cases, given, desk.overlap())
        spent = [w.judgement.seconds for w in works if w.judgement.seconds > 0]
        return show(
            request, "lead_overview.html", who, progress=rows, agreement=agreement, annotators=annotators(works),
            remarks=list(desk.remarks())[:PAGE], raters=raters, open=open_disputes, overlap=desk.overlap(),
            all=rows[-1] if rows else Progress(category="all", pairs=0, started=0, done=0, undecided=0), needed=missing,
            work=duration(median(spent) * missing) if len(spent) >= LEAST else "", held=desk.held(),
            alpha=next((a for a in agreement if a.measure == "alpha" and a.between.startswith("people")), None),
            charts=charts(desk.times(), missing, given),
        )  # fmt: skip


def _pairs(router: APIRouter, desk: StoreDesk, show: Show, lead: Who, writer: Who) -> None:
    @router.get("/disputes")
    def dispute_list(request: Request, who: Annotated[Account, Depends(lead)], page: int = 1) -> HTMLResponse:
        found = disputes({c.pair.id: c for c in desk.store.cases()}, desk.store.judgements())
        start = (max(1, page) - 1) * PAGE
        return show(
            request, "lead_disputes.html", who, disputes=found[start : start + PAGE], page=max(1, page),
            pages=-(-len(found) // PAGE), total=len(found), verdict=verdict,
            order=lambda pair: shown_order(pair, who.name), question=last_user_text,
        )  # fmt: skip

    @router.get("/pairs/{pair_id}")
    def pair_page(request: Request, pair_id: Id, who: Annotated[Account, Depends(lead)]) -> HTMLResponse:
        case = desk.store.case(pair_id)
        if case is None:
            raise HTTPException(404, "There is no such pair.")
        order = shown_order(case.pair, who.name)
        texts = [response_text(case.pair.response(i)) for i in order]
        responses = [(render_markdown(t), t) for t in texts]
        given = [j for j in desk.store.judgements() if j.pair_id == pair_id]
        return show(
            request, "lead_pair.html", who, case=case, order=order, responses=responses, changes=difference(*texts),
            prompt=_told(case.pair.prompt), judgements=given, reveal=reveal,
            verdict=lambda j: verdict(j, order), plain=plain_text,
        )  # fmt: skip

    @router.post("/pairs/{pair_id}")
    def adjudicate(
        pair_id: Id, who: Annotated[Account, Depends(writer)], better: Annotated[str, Form()],
        shown: Annotated[str, Form()], reason: Annotated[str, Form(max_length=10_000)] = "",
    ) -> RedirectResponse:  # fmt: skip
        case = desk.store.case(pair_id)
        if case is None:
            raise HTTPException(404, "There is no such pair.")
        ids = {r.id for r in case.pair.responses}
        order = tuple(shown.split(","))
        if better not in {*ids, "cannot decide"} or set(order) != ids or len(order) != 2:
            raise HTTPException(422, "Choose response 1, response 2 or cannot decide.")
        undecided = better == "cannot decide"
        desk.adjudicate(
            Judgement(
                pair_id=pair_id, better=None if undecided else better, problem="cannot decide" if undecided else "",
                by=who.name, kind="lead", shown=order, rationale=reason.strip(),
            )
        )  # fmt: skip
        return _done("/lead/disputes", "decision")


def _people(router: APIRouter, desk: StoreDesk, show: Show, lead: Who, writer: Who) -> None:
    @router.get("/people")
    def people(request: Request, who: Annotated[Account, Depends(lead)]) -> HTMLResponse:
        return show(request, "lead_people.html", who, accounts=desk.people.all(), roles=_may_give(who), new=None)

    @router.post("/people")
    def invite(
        request: Request, who: Annotated[Account, Depends(writer)], name: Annotated[str, Form(max_length=64)],
        role: Annotated[Role, Form()] = "annotator",
    ) -> HTMLResponse:  # fmt: skip
        if role not in _may_give(who):
            raise HTTPException(403, f"Only an admin can make a {role}.")
        return with_token(request, who, lambda: (name, desk.people.invite(name.strip(), role, who.name)))

    @router.post("/people/{name}")
    def change(
        request: Request, name: str, who: Annotated[Account, Depends(writer)], action: Annotated[str, Form()],
        role: Annotated[Role | None, Form()] = None,
    ) -> Response:  # fmt: skip
        account = next((a for a in desk.people.all() if a.name == name), None)
        if account is None:
            raise HTTPException(404, "There is no such account.")
        if who.role != "admin" and (account.role != "annotator" or role not in (None, "annotator")):
            raise HTTPException(403, "Only an admin can change leads and admins.")
        if action == "renew":
            return with_token(request, who, lambda: (name, desk.people.renew(name, who.name)))
        changes: dict[str, dict[str, Any]] = {"role": {"role": role}, "off": {"active": False}, "on": {"active": True}}
        if action not in changes or (action == "role" and role is None):
            raise HTTPException(422, "Unknown action.")
        try:
            desk.people.change(name, who.name, **changes[action])
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return _done("/lead/people", "account")

    def with_token(request: Request, who: Account, make: Callable[[], tuple[str, str]]) -> HTMLResponse:
        """The page with a token on it: this once, for only its hash is kept."""
        try:
            new, problem = make(), ""
        except ValueError as error:
            new, problem = None, str(error)
        return show(
            request, "lead_people.html", who, 422 if problem else 200, accounts=desk.people.all(), roles=_may_give(who),
            new=new, problem=problem,
        )  # fmt: skip


def _may_give(who: Account) -> tuple[Role, ...]:
    return ROLES if who.role == "admin" else ("annotator",)


def _project(router: APIRouter, desk: StoreDesk, show: Show, lead: Who, writer: Who) -> None:
    @router.get("/settings")
    def settings(request: Request, who: Annotated[Account, Depends(lead)]) -> HTMLResponse:
        return show(request, "lead_settings.html", who, settings=desk.settings())

    @router.post("/settings")
    async def change_settings(request: Request, who: Annotated[Account, Depends(writer)]) -> Response:
        if who.role != "admin":
            raise HTTPException(403, "Only an admin can change settings.")
        form = await request.form()
        known = {s.name for s in desk.settings()}
        # What this form did not change stays as it is by now: somebody else may have changed it since the form was shown
        changed = {k: str(v) for k, v in form.items() if k in known and form.get(f"was-{k}") != v}
        try:
            desk.set(changed, who.name)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return _done("/lead/settings", "settings")

    @router.get("/exchange")
    def exchange(request: Request, who: Annotated[Account, Depends(lead)]) -> HTMLResponse:
        return show(request, "lead_exchange.html", who, formats=list(EXPORTS), config=label_studio.CONFIG, problems=())

    @router.get("/export/{to}")
    def export(to: str, who: Annotated[Account, Depends(lead)]) -> Response:
        if to not in EXPORTS:
            raise HTTPException(404, f"Formats: {', '.join(EXPORTS)}.")
        format, name = EXPORTS[to]
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / name, format, entries(desk.store.cases(), desk.store.judgements()))
            body = (Path(folder) / name).read_bytes()
        kind = "application/octet-stream" if to == "parquet" else "application/json"
        return Response(body, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    @router.get("/export/argilla/settings")
    def export_settings(who: Annotated[Account, Depends(lead)]) -> Response:
        import json

        return Response(json.dumps(argilla.settings(), indent=2), media_type="application/json")

    @router.post("/import")
    def import_file(
        request: Request, who: Annotated[Account, Depends(writer)], file: Annotated[UploadFile, File()],
        format: Annotated[str, Form()] = "jsonl",
    ) -> HTMLResponse:  # fmt: skip
        if format not in EXPORTS:
            raise HTTPException(422, f"Formats: {', '.join(EXPORTS)}.")
        body = file.file.read(MAX_UPLOAD + 1)
        if len(body) > MAX_UPLOAD:
            raise HTTPException(413, f"The file is larger than {MAX_UPLOAD >> 20} MB.")
        added = _import(desk, body, cast(Format, format), who.name)
        return show(
            request, "lead_exchange.html", who, 422 if added.problem else 200, formats=list(EXPORTS),
            config=label_studio.CONFIG, problems=added.rows[:PAGE], notice=added.notice, problem=added.problem,
        )  # fmt: skip

    @router.get("/audit")
    def audit(request: Request, who: Annotated[Account, Depends(lead)], before: float | None = None) -> HTMLResponse:
        events = desk.events(before if before is not None else time.time() + 1, PAGE)
        return show(request, "lead_audit.html", who, events=events, size=PAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Added:
    """What came of an imported file: a sentence, or why it was refused; and the problems of its rows."""

    notice: str = ""
    problem: str = ""
    rows: tuple[str, ...] = ()


def _import(desk: StoreDesk, body: bytes, format: Format, by: str) -> _Added:
    cases = desk.store.cases()
    names = {a.name for a in desk.people.all()} | {j.by for j in desk.store.judgements() if j.kind == "human"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(body)
        try:
            if format == "parquet":
                _refuse_bomb(path)
            found = read(
                path, format, cases=cases, users={argilla.user_id(name): name for name in names}, most_rows=MAX_ROWS
            )
        except AssayError as error:
            return _Added(problem=str(error).replace(str(path), "The file"))
    known = {c.pair.id for c in cases}
    people = [_storable(j) for j in found.judgements if j.kind == "human" and j.pair_id in known]
    added = desk.add(people, by)
    notice = f"{added} judgements added, {len(people) - added} were there already, {len(found.problems)} problems."
    return _Added(notice=notice, rows=found.problems)


def _refuse_bomb(path: Path) -> None:
    """A small Parquet file may unpack to more than the memory of the server."""
    try:
        about = pq.ParquetFile(path).metadata
    except (OSError, pa.ArrowException):
        return  # `read` says what is wrong with it
    unpacked = sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups))
    if about.num_rows > MAX_ROWS or unpacked > MAX_UNPACKED:
        raise AssayError(f"The file is too large: {about.num_rows:,} rows, {unpacked >> 20:,} MB unpacked.")


def _storable(j: Judgement) -> Judgement:
    return replace(j, by=storable(j.by), rationale=storable(j.rationale), problem=storable(j.problem))


def _told(prompt: Conversation) -> list[tuple[str, Markup, str]]:
    """(role, HTML, raw text) of each turn, with its reasoning and calls; the tools that may be called come first."""
    tools = [("tools", plain_text(m.tools), m.tools) for m in prompt if m.tools]
    return [*tools, *((m.role, render_markdown(text), text) for m in prompt for text in (message_text(m),))]
