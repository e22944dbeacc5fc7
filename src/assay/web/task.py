"""The task page: one pair, its attributes and protocol, the tools, and the answer.

One form holds everything that can be typed; every button sends it, and the server keeps the draft before it does what
the button says, then shows the page anew. So nothing is lost by opening a tool, by a reload or a crash, and the page
works without its script, which adds keys, saving while one types, and the time that the page was really looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from jinja2 import Environment

from assay.curate.attributes import (
    CATEGORIES,
    CONTROVERSIALITY,
    OBJECTIVITY,
    conversation_text,
    fenced,
    fill_prompt,
    response_text,
)
from assay.errors import AssayError
from assay.images import MEDIA, file_of
from assay.llm.chat import Chat
from assay.llm.chat import Request as Question
from assay.records import Attributes, Judgement, Message, assistant, user
from assay.sandbox import run_python
from assay.tables import plain
from assay.web.desk import Access, Account, Id
from assay.web.quality import Work
from assay.web.seats import LEFT_BEHIND, Answered, Refused, Seat
from assay.web.settings import Settings
from assay.web.sharing import held_by_others
from assay.web.showing import REASON, TYPED, Panel, panel_of, sees_verdicts, shown, tools_at, wants_reason
from assay.web.store import Store

ANSWERS: Mapping[str, tuple[int | None, int, str]] = {
    "1 much": (0, 3, ""), "1": (0, 2, ""), "1 slightly": (0, 1, ""), "2 slightly": (1, 1, ""), "2": (1, 2, ""),
    "2 much": (1, 3, ""), "tie": (None, 0, "tie"), "cannot decide": (None, 0, "cannot decide"),
}  # fmt: skip
"""What a button says: the side that is better, how much (3: much), or the problem."""
TOOLS = frozenset({"verdicts", "difference", "search", "python", "assistant", "protocol"})
_LONGEST = 65_536
DID: Mapping[str, str] = {
    "1 much": "Saved: response 1 is much better.", "1": "Saved: response 1 is better.",
    "1 slightly": "Saved: response 1 is slightly better.", "2 slightly": "Saved: response 2 is slightly better.",
    "2": "Saved: response 2 is better.", "2 much": "Saved: response 2 is much better.", "tie": "Saved: equally good.",
    "cannot decide": "Saved: cannot decide, the pair is set aside.", "skip": "Skipped: back into the queue, for others.",
    "flag": "Flagged to the lead. The pair still waits for your answer.", "undo": "Taken back: here is the pair again.",
    "unskip": "Taken back: the skipped pair is here again.", "unflag": "Taken back: your flag is gone.",
    "attributes": "Your attributes are kept.",
}  # fmt: skip
"""What the page says after each action; an address cannot make it say anything else."""
_UNDO = {"skip": "unskip", "flag": "unflag"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The form of the task page as it was sent. Of `typed` it has what was sent; the rest stays as it was kept."""

    submission: str
    pair_id: str
    answer: str
    do: str
    seconds: float
    typed: dict[str, str]
    attributes: dict[str, str]
    tool: str
    last: str
    following: str
    """The submission of the pair that stands on the screen already, while this form is being saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What the page says after an action: what was done (`DID`), to which pair that one has left, where on the page to go
    on, and whether a reason is missing."""

    did: str = ""
    last: str = ""
    at: str = ""
    need: str = ""

    @property
    def address(self) -> str:
        said = urlencode({k: v for k in ("did", "last", "need") if (v := getattr(self, k))})
        return f"/task{'?' if said else ''}{said}{'#' if self.at else ''}{self.at}"


def make_router(
    store: Store, access: Access, pages: Environment, chat: Chat | None = None, images: Path | None = None
) -> APIRouter:
    router = APIRouter(default_response_class=HTMLResponse)

    def person(request: Request) -> Account:
        who = access.person(request)
        if who is None:
            raise HTTPException(401, "Please log in.")
        return who

    def said(request: Request, who: Account, settings: Settings, after: Next, problem: str = "") -> dict[str, Any]:
        """What the page says beside a pair."""
        if after.need == "reason":
            asked = "" if settings.reason == "always" else ": a machine was asked about this pair"
            problem = f"Say in a few words of your own why{asked}. At least {REASON} characters."
        return {
            "who": who, "csrf": access.csrf(request), "pace": store.pace(who.name, settings), "problem": problem,
            "need": after.need == "reason", "did": DID.get(after.did, ""),
            "undo": _UNDO.get(after.did, "undo"), "last": after.last,
        }  # fmt: skip

    def page(
        request: Request, who: Account, after: Next, status: int = 200, problem: str = "", following: str = ""
    ) -> HTMLResponse:
        """The page of the pair that one is at; where it is on the screen already (`following`), what is said beside it."""
        settings = store.settings()
        seat = store.take(who.name, settings, following)
        there = seat is not None and seat.submission == following
        if following and not there and after.did:
            problem = f"The pair that stood here is gone: {store.why_gone(who.name, following)}."
        common = said(request, who, settings, after, problem)
        headers = {"x-assay-at": after.at} if after.at else None
        if seat is None:
            held = held_by_others(store, who.name)
            return HTMLResponse(pages.get_template("done.html").render(**common, held=held), status, headers)
        if there:
            return HTMLResponse(pages.get_template("task_saved.html").render(**common, seat=seat), status)
        about = shown(store, seat, settings, chat is not None)
        return HTMLResponse(pages.get_template("task.html").render(**common, **about), status, headers)

    @router.get("/task")
    def task(
        request: Request, who: Annotated[Account, Depends(person)], need: str = "", did: str = "", last: Id = ""
    ) -> HTMLResponse:
        return page(request, who, Next(did=did, last=last, need=need))

    @router.get("/task/ahead")
    def ahead(request: Request, who: Annotated[Account, Depends(person)], at: Id = "") -> Response:
        """The page of the pair that comes after an answer to the one that is open, held while that is read."""
        settings = store.settings()
        seat = store.take_ahead(who.name, settings, at)
        if seat is None:
            return Response(status_code=204)
        about = shown(store, seat, settings, chat is not None)
        return HTMLResponse(pages.get_template("task.html").render(**said(request, who, settings, Next()), **about))

    @router.post("/task")
    def act(
        request: Request, who: Annotated[Account, Depends(person)], sent: Annotated[Sent, Depends(_sent)],
        csrf: Annotated[str, Form()] = "",
    ) -> Response:  # fmt: skip
        if not access.csrf_holds(request, csrf):
            raise HTTPException(403, "This page is too old; reload it. What you typed is kept.")
        if sent.do == "release":  # the page that held it has gone: it has no use for an answer
            store.release(who.name, sent.submission)
            return Response(status_code=204)
        kept = store.draft(sent.submission, who.name, sent.typed) if sent.submission else sent.typed
        sent = replace(sent, typed={**dict.fromkeys(TYPED, ""), **kept})
        try:
            after = _act(store, chat, who, sent)
        except Refused as refused:
            told = f"{refused} {sent.typed['reason']}".strip()
            return page(request, who, Next(), 409, told, sent.following)
        how = request.headers.get("x-assay")
        if how == "quiet":
            return Response(status_code=204)
        if how == "page":
            return page(request, who, after, following=sent.following)
        return RedirectResponse(after.address, 303)

    @router.get("/images/{name}")
    def image(name: str, who: Annotated[Account, Depends(person)]) -> FileResponse:
        path = file_of(images, name) if images is not None and name.isalnum() else None
        if path is None:
            raise HTTPException(404, "There is no such picture.")
        return FileResponse(path, media_type=MEDIA[path.suffix], headers={"Cache-Control": "private, max-age=3600"})

    return router


def _sent(
    submission: Annotated[Id, Form()] = "", pair_id: Annotated[Id, Form()] = "",
    answer: Annotated[str, Form(max_length=20)] = "", do: Annotated[str, Form(max_length=20)] = "",
    seconds: Annotated[str, Form(max_length=20)] = "", reason: Annotated[str | None, Form(max_length=_LONGEST)] = None,
    code: Annotated[str | None, Form(max_length=_LONGEST)] = None,
    question: Annotated[str | None, Form(max_length=_LONGEST)] = None,
    note: Annotated[str | None, Form(max_length=2_000)] = None, tool: Annotated[str, Form(max_length=20)] = "",
    category: Annotated[str, Form(max_length=100)] = "", objectivity: Annotated[str, Form(max_length=100)] = "",
    controversiality: Annotated[str, Form(max_length=100)] = "", desired: Annotated[str, Form(max_length=5_000)] = "",
    guideline: Annotated[str, Form(max_length=5_000)] = "", last: Annotated[Id, Form()] = "",
    following: Annotated[Id, Form()] = "",
) -> Sent:  # fmt: skip
    try:
        looked = float(seconds or -1)
    except ValueError:
        looked = -1.0
    typed = {"reason": reason, "code": code, "question": question, "note": note}
    return Sent(
        submission=submission, pair_id=pair_id, answer=answer, do=do, seconds=looked if 0 <= looked < 1e6 else -1.0,
        tool=tool, last=last, following=following, typed={k: v for k, v in typed.items() if v is not None},
        attributes={"category": category, "objectivity": objectivity, "controversiality": controversiality,
                    "desired": desired, "guideline": guideline},
    )  # fmt: skip


def _act(store: Store, chat: Chat | None, who: Account, sent: Sent) -> Next:
    """Do what the button said."""
    settings = store.settings()
    if sent.do == "undo":
        if not store.undo(who.name, settings, sent.submission):
            raise Refused("There is no answer of yours to take back.")
        return Next(did="undo")
    if sent.answer:
        return _answer(store, settings, who, sent)
    if sent.do in ("skip", "flag"):
        store.leave(sent.submission, who.name, sent.do, sent.typed["note"])
        return Next(did=sent.do, last=sent.pair_id)
    if sent.do in ("unskip", "unflag"):
        pair_id = sent.last if sent.do == "unskip" else sent.pair_id
        store.unleave(pair_id, who.name, sent.do.removeprefix("un"), settings)
        return Next(did=sent.do)
    seat = store.take(who.name, settings)
    if seat is None or seat.submission != sent.submission:
        raise Refused(LEFT_BEHIND)
    if sent.do == "attributes":
        return _edit(store, who, seat, sent.attributes)
    if sent.do in TOOLS or (sent.do == "opened" and sent.tool in TOOLS - {"verdicts", "python", "assistant"}):
        return _use(store, chat, settings, who, seat, sent)
    if sent.do not in ("", "draft"):
        raise HTTPException(422, "There is no such button.")
    return Next()


def _answer(store: Store, settings: Settings, who: Account, sent: Sent) -> Next:
    if sent.answer not in ANSWERS:
        raise HTTPException(422, "There is no such answer.")
    case = store.case(sent.pair_id)
    if case is None:
        raise HTTPException(404, "There is no such pair.")
    side, strength, problem = ANSWERS[sent.answer]
    panel = panel_of(store, sent.pair_id, who.name)
    at = store.take(who.name, settings)
    seat = at if at is not None and at.submission == sent.submission else None
    tools = tools_at(seat, settings, panel)
    reason = sent.typed["reason"].strip()
    if wants_reason(settings, tools) and side is not None and len(reason) < REASON:
        return Next(need="reason")
    order = Seat.order(case, who.name)
    elapsed = max(0.0, store.clock() - seat.opened) if seat is not None else settings.lease_s
    seconds = min(sent.seconds, elapsed) if sent.seconds >= 0 else elapsed
    work = Work(
        judgement=Judgement(
            pair_id=sent.pair_id, better=None if side is None else order[side], by=who.name, kind="human", shown=order,
            problem=problem, rationale=reason, seconds=round(seconds, 1), strength=float(strength),
        ),
        words=seat.words if seat is not None else 0, panels=tools,
        hint=_hint(seat.verdicts) if seat is not None and sees_verdicts(settings, panel) else None,
    )  # fmt: skip
    try:
        store.submit(sent.submission, sent.pair_id, who.name, work, strength, settings)
    except Answered as before:
        stands = DID[_button(before.judgement, order)].removeprefix("Saved: ").rstrip(".")
        raise Refused(f"You answered this pair in another window before: {stands}. That answer stands.") from before
    return Next(did=sent.answer)


def _button(j: Judgement, shown: tuple[str, str]) -> str:
    """The button that said what `j` says."""
    side = None if j.better is None else shown.index(j.better)
    fits = [
        (abs(much - j.strength), name)
        for name, (at, much, problem) in ANSWERS.items()
        if (at, problem) == (side, j.problem)
    ]
    return min(fits)[1]


def _edit(store: Store, who: Account, seat: Seat, fields: Mapping[str, str]) -> Next:
    """Keep a person's own attributes of a pair beside the machine's."""
    allowed = {"category": CATEGORIES, "objectivity": OBJECTIVITY, "controversiality": CONTROVERSIALITY}
    wrong = [name for name, values in allowed.items() if fields[name] not in values]
    desired = tuple(line.strip() for line in fields["desired"].splitlines() if line.strip())
    if wrong or not fields["guideline"].strip():
        raise HTTPException(422, f"Not an attribute: {', '.join(wrong) or 'an empty guideline'}.")
    edited = Attributes(
        pair_id=seat.case.pair.id, category=fields["category"], objectivity=fields["objectivity"],
        controversiality=fields["controversiality"], desired=desired, guideline=fields["guideline"].strip(),
        by=f"human:{who.name}",
    )  # fmt: skip
    store.note("attributes", edited.pair_id, who.name, plain(edited))
    return Next(did="attributes", at="about")


def _use(store: Store, chat: Chat | None, settings: Settings, who: Account, seat: Seat, sent: Sent) -> Next:
    """Use a tool, and record it with what it was asked and what it said."""
    tool, pair_id = (sent.tool if sent.do == "opened" else sent.do), seat.case.pair.id
    found: dict[str, Any] = {}
    if tool == "verdicts" and settings.verdicts == "never":
        raise HTTPException(403, "Verdicts are switched off in this project.")
    if tool == "python":
        if settings.python != "yes":
            raise HTTPException(403, "Python is switched off in this project.")
        ran = run_python(sent.typed["code"], seconds=12, cpu=5)  # others are at work beside it
        found = {"code": sent.typed["code"], "stdout": ran.stdout, "stderr": ran.stderr, "problem": ran.problem,
                 "exit_code": ran.exit_code, "seconds": round(ran.seconds, 2)}  # fmt: skip
    if tool == "assistant":
        if settings.assistant != "yes" or chat is None:
            raise HTTPException(403, "There is no assistant in this project.")
        if not sent.typed["question"].strip():
            return Next(at="assistant")
        found = _ask(chat, seat, panel_of(store, pair_id, who.name), sent.typed["question"].strip())
        store.draft(sent.submission, who.name, {**sent.typed, "question": ""})
    store.note("use", pair_id, who.name, {"tool": tool, **found})
    return Next(at=tool)


def _ask(chat: Chat, seat: Seat, panel: Panel, question: str) -> dict[str, Any]:
    """One exchange with the assistant, which knows the pair and what was said before."""
    one, other = (response_text(seat.case.pair.response(i)) for i in seat.shown)
    talk = conversation_text(seat.case.pair.prompt)
    fields = {"conversation": fenced("conversation", talk), "response_1": fenced("response_1", one),
              "response_2": fenced("response_2", other)}  # fmt: skip
    messages = [Message(role="system", content=fill_prompt("assistant", fields))]
    for fact in panel.of("assistant"):
        if fact.body.get("reply"):
            messages += [user(fact.body["question"]), assistant(fact.body["reply"])]
    try:
        (reply,) = chat.complete([Question(messages=(*messages, user(question)))])
    except AssayError as error:
        return {"question": question, "reply": "", "problem": str(error), "by": chat.name}
    return {"question": question, "reply": reply.text, "problem": reply.problem, "by": chat.name,
            "tokens": reply.tokens, "seconds": round(reply.seconds, 2)}  # fmt: skip


def _hint(verdicts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """The response that the verdicts prefer: the only one of which most say that it is right."""
    score = {i: sum((v["right"] is True) - (v["right"] is False) for v in rows) for i, rows in verdicts.items()}
    good = [i for i, s in score.items() if s > 0]
    return good[0] if len(good) == 1 else None
