"""A loopback server between a library and the model: each answer is asked for once, whatever the library does or forgets.

    library -> Recorder (127.0.0.1) -> the model's server

A library is started anew after a kill, with no memory of its own; what was answered before comes from the journal (one
SQLite file, committed before the library sees an answer). The same question that comes k times in one run of a library is k
answers, told apart by their order and by the seed that goes with each: it is made of the job's seed, the question and the
order, so that no two draws of a run share one. At temperature 0 they are k answers as well.

What the library sees is the answer alone: thoughts are kept in the journal, and a thought that does not end is an empty
answer. What got no answer (the server failed, the budget is spent) is told as an empty answer too, and kept apart in
`faults`, so that no library can drop it: whoever reads the rows back knows it by its id.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from assay.bench.reasoning.cards import OWN_LIMIT
from assay.bench.reasoning.rows import Job
from assay.bench.reasoning.thoughts import Said, said
from assay.bench.reasoning.upstream import Upstream, lacking
from assay.errors import AssayError
from assay.llm.budget import Budget

_SCHEMA = """CREATE TABLE IF NOT EXISTS answers (
    key TEXT, sample INTEGER, model TEXT, request TEXT, answer TEXT, tokens_in INTEGER, tokens_out INTEGER,
    seconds REAL, at REAL, PRIMARY KEY (key, sample)) WITHOUT ROWID"""
_ANSWER = "SELECT answer, tokens_in, tokens_out FROM answers WHERE key = ? AND sample = ?"
_ASIDE = ("seed", "stream", "stream_options", "user", "timeout")
"""Fields of a request that are no part of the question."""
MOST_BODY = 256 * 2**20
SPENT = "not asked: the budget of tokens is spent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """How an answer ended, and its name in the journal, where its texts are (`Recorder.said`). `fault`: why there is none;
    `passing`: it may be had at another time."""

    id: str
    said: Said
    fault: str = ""
    cached: bool = False
    passing: bool = False


@dataclass(slots=True)
class Tally:
    """How far a run is."""

    answered: int = 0
    cached: int = 0
    cut: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class Recorder:
    """Serves /v1/chat/completions and /v1/completions on loopback until it is left; `url` is what a library is given.

    `journal`: the SQLite file of all that was answered. `identity`: what the model is, where its name alone does not say
    (a digest of its weights): other weights are asked anew. `budget`: of tokens, in and out together. `told` hears of every
    answer. `heard`: every answer of this run by the id that the library was given; `faults`: those that came to nothing.
    `errors`: tell what got no answer as an error (a 400, which no client
    tries again): for libraries that keep no ids of completions, and mark failures themselves. `waits` and `say`: as
    `upstream.Upstream` has them.

    Example: with Recorder(job, Path("asked.sqlite")) as recorder: library(recorder.url)
    """

    def __init__(
        self, job: Job, journal: Path, identity: str = "", budget: Budget | None = None,
        told: Callable[[Tally], None] = lambda _: None, timeout_s: float = 14_400.0, errors: bool = False,
        waits: bool = True, say: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.job, self.journal, self.identity, self.budget, self.told = job, journal, identity, budget, told
        self.timeout_s, self.errors, self.waits, self.say = timeout_s, errors, waits, say
        self.heard: dict[str, Heard] = {}
        self.tally = Tally()
        self.url, self._prompts = "", ("", "")
        self._seen: Counter[str] = Counter()
        self._ready = threading.Event()
        self._lacks, self._own_limit = Counter[str](), False
        self.broken = ""
        """Why answers cannot be kept any more: nothing is asked from then on."""

    @property
    def prompt(self) -> str:
        """The words of one request, the same one whatever the order in which they came."""
        return self._prompts[1]

    @property
    def faults(self) -> dict[str, str]:
        """The reason of every question of this run that got no answer, by id."""
        return {h.id: h.fault for h in self.heard.values() if h.fault}

    def said(self, name: str) -> Said | None:
        """An answer of this run with its thoughts, by the id that the library was given; None where there is none."""
        if name not in self.heard or self.heard[name].fault:
            return None
        key, _, sample = name.removeprefix("assay-").rpartition("-")
        row = self._database.execute(_ANSWER, (key, int(sample))).fetchone()
        return said(json.loads(row[0]))

    @property
    def lost(self) -> list[str]:
        """Of the questions that got no answer, though they may at another time, the reason."""
        return [h.fault for h in self.heard.values() if h.passing]

    @property
    def refused(self) -> str:
        """Why the server takes no request at all."""
        return self._server.refused

    @property
    def manners(self) -> tuple[str, ...]:
        """What the server did otherwise than it was asked, in words that are alike for all models behind it."""
        found = [f"the server takes {words}" for words in self._lacks]
        if self._own_limit:
            found.append(f"the server cuts before {self.job.max_tokens:,} tokens, by {OWN_LIMIT}")
        if any(h.said.aside and not h.said.cut for h in self.heard.values()):
            found.append(
                "answers that ended by themselves came whole in the field for thoughts: is the server's reasoning parser "
                "the model's?"
            )
        return tuple(found)

    def __enter__(self) -> Recorder:
        self._database = _opened(self.journal)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        if not self._ready.wait(30):
            raise AssayError("the recorder cannot listen on 127.0.0.1: is loopback there?")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        self._database.close()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._server = Upstream(self.job, self.timeout_s, self.waits, self.say)
        app = web.Application(client_max_size=MOST_BODY)
        app.router.add_get("/v1/models", self._models)
        for path in ("chat/completions", "completions"):
            app.router.add_post(f"/v1/{path}", self._answer)
        async with self._server.session():
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.job.model, "object": "model"}]})

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            body = json.loads(await request.read())
        except ValueError:
            return _refusal("the body is not JSON")
        if not isinstance(body, dict) or body.get("n", 1) not in (1, None) or body.get("stream"):
            return _refusal("the recorder takes one answer a request, and no streams")
        path = request.path.removeprefix("/v1/")
        key = self._key(path, body)
        self._prompts = min(self._prompts, (key, _words(body))) if self._prompts[0] else (key, _words(body))
        sample = self._seen[key]
        self._seen[key] += 1
        heard, answer, used = await self._once(path, key, sample, body)
        self.heard[heard.id] = replace(heard, said=heard.said.bare)
        self._count(heard, used)
        self._notice(heard, answer, body)
        if heard.fault and self.errors:
            return _refusal(heard.fault)
        return web.json_response(_shown(path, heard, answer, self.job.model))

    def _key(self, path: str, body: dict[str, Any]) -> str:
        asked = {k: v for k, v in body.items() if k not in _ASIDE and v is not None}
        if asked.get("temperature", 1.0):
            asked["seed"] = self.job.seed
        text = json.dumps([self.identity, path, asked], sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()

    async def _once(
        self, path: str, key: str, sample: int, body: dict[str, Any]
    ) -> tuple[Heard, dict[str, Any], tuple[int, int]]:
        """The answer from the journal, or from the server into the journal, and its tokens in and out."""
        name = f"assay-{key}-{sample}"
        row = self._database.execute(_ANSWER, (key, sample)).fetchone()
        if row is not None:
            answer = json.loads(row[0])
            return Heard(id=name, said=said(answer), cached=True), answer, (row[1], row[2])
        if self.broken:
            return Heard(id=name, said=Said(), fault=self.broken), {}, (0, 0)
        most = _most(body, self.job.max_tokens)
        if self.budget is not None and not await self.budget.enough(most):
            return Heard(id=name, said=Said(), fault=SPENT), {}, (0, 0)
        start = time.monotonic()
        answer, failure = await self._server.ask(path, {**body, "model": self.job.model}, name)
        used = _usage(answer, body)
        if self.budget is not None:
            self.budget.settle(most, float(sum(used)))
        if failure is not None:
            return Heard(id=name, said=Said(), fault=failure.why, passing=failure.passing), {}, (0, 0)
        took = time.monotonic() - start
        row = (key, sample, self.job.model, _legible(body), json.dumps(answer), *used, took, time.time())
        try:
            self._database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            self.broken = f"{self.journal}: an answer could not be kept ({error})"
            return Heard(id=name, said=Said(), fault=self.broken), {}, (0, 0)
        return Heard(id=name, said=said(answer)), answer, used

    def _count(self, heard: Heard, used: tuple[int, int]) -> None:
        tally = self.tally
        tally.failed += bool(heard.fault)
        tally.answered += not heard.fault
        tally.cached += heard.cached
        tally.cut += heard.said.cut
        tally.tokens_in, tally.tokens_out = tally.tokens_in + used[0], tally.tokens_out + used[1]
        self.told(tally)

    def _notice(self, heard: Heard, answer: dict[str, Any], body: dict[str, Any]) -> None:
        """What the server did otherwise than it was asked."""
        self._lacks.update(lacking(answer))
        made = _counts(answer.get("usage"))[1]
        most = int(body.get("max_tokens") or self.job.max_tokens)
        self._own_limit |= heard.said.cut and 0 < made < most


def spent(journal: Path) -> int:
    """Tokens in and out of all that a journal holds: what a budget has lost to earlier runs."""
    if not journal.exists():
        return 0
    database = _opened(journal)
    try:
        return int(database.execute("SELECT TOTAL(tokens_in) + TOTAL(tokens_out) FROM answers").fetchone()[0])
    finally:
        database.close()


def _opened(journal: Path) -> sqlite3.Connection:
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(journal, timeout=30.0, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.executescript(_SCHEMA)
    except sqlite3.Error as error:
        raise AssayError(f"{journal}: the journal of answers cannot be used ({error}); move it away") from error
    return database


def _shown(path: str, heard: Heard, answer: dict[str, Any], model: str) -> dict[str, Any]:
    """What the library is told: the answer without its thoughts, under the name that the journal has for it."""
    choice = answer["choices"][0] if answer else {}
    told = str(choice.get("finish_reason"))
    reason = "length" if heard.said.cut else told if told in _ENDS else "stop"
    head = {"id": heard.id, "created": int(time.time()), "model": model, "usage": _told_usage(answer)}
    if path == "completions":
        only = {"index": 0, "text": heard.said.answer, "finish_reason": reason, "logprobs": choice.get("logprobs")}
        return {**head, "object": "text_completion", "choices": [only]}
    message = {"role": "assistant", "content": heard.said.answer}
    if calls := (choice.get("message") or {}).get("tool_calls"):
        message["tool_calls"] = calls
    return {
        **head, "object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    }  # fmt: skip


_ENDS = ("stop", "length", "tool_calls", "content_filter", "function_call")
"""OpenAI's reasons to end; libraries take no other, and servers know more ("eos", "end_turn")."""


def _told_usage(answer: dict[str, Any]) -> dict[str, int]:
    """What the server tells of its tokens, whole: a library drops an answer in whose usage something is missing."""
    usage = answer.get("usage")
    given, made = _counts(usage)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def _counts(usage: object) -> tuple[int, int]:
    """Tokens in and out of what a server tells of them; 0 for what is no number."""

    def count(name: str) -> int:
        try:
            return max(0, int(usage[name] or 0)) if isinstance(usage, dict) else 0
        except (KeyError, TypeError, ValueError, OverflowError):
            return 0

    return count("prompt_tokens"), count("completion_tokens")


def _usage(answer: dict[str, Any], body: dict[str, Any]) -> tuple[int, int]:
    """Tokens in and out; where the server does not tell, an upper estimate, for a budget to hold."""
    told = answer.get("usage")
    given, made = _counts(told)
    if not answer or given + made:
        return given, made
    return _size(body), len(json.dumps(answer["choices"], ensure_ascii=False).encode("utf-8", "replace")) // 2


def _most(body: dict[str, Any], otherwise: int) -> float:
    """An upper estimate of a request's tokens, in and out."""
    return _size(body) + int(body.get("max_completion_tokens") or body.get("max_tokens") or otherwise)


def _size(body: dict[str, Any]) -> int:
    """An upper estimate of a prompt's tokens: two bytes a token of text, 1,500 a picture."""
    text = _legible(body)
    return len(text.encode("utf-8", "replace")) // 2 + 1_500 * text.count('"picture ')


def _legible(body: dict[str, Any]) -> str:
    """A request as text for people, its pictures by their digests."""

    def plain(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("data:"):
            return f"picture {hashlib.blake2b(value.encode(), digest_size=8).hexdigest()}"
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list) else value

    return json.dumps(plain(body), ensure_ascii=False)


def _words(body: dict[str, Any]) -> str:
    """The words of a request, its pictures left out."""
    said = [m.get("content") for m in body.get("messages") or [] if isinstance(m, dict)] or [body.get("prompt")]
    parts = [p for s in said for p in (s if isinstance(s, list) else [{"text": s}])]
    return "\n\n".join(str(p.get("text") or "(picture)") for p in parts if isinstance(p, dict))


def _refusal(why: str) -> web.Response:
    return web.json_response({"error": {"message": why, "type": "BadRequestError", "code": 400}}, status=400)
