"""The reply cache and the ledger: one SQLite file that holds what was asked, what was answered, and what it cost.

Every change is committed before the next request starts (in WAL mode: safe against a kill of the process). What a model said
is kept, refusals and cut answers too, for they were paid; failures of the transport are not. A request is noted before it
is sent: one that a kill cut off is found at the next start, and counted as costing the most that it can have cost.

A reply is found by its request's key, or by its `question`: all that is sent but the JSON schema and the limit of tokens, to
the server under any spelling of its url. So neither another spelling nor leaving out the schema asks anything again, and a
larger limit only what a smaller one cut off. Files of earlier versions get the column, and their cut replies the problem,
when they are first opened.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from assay.errors import AssayError
from assay.processes import alive, this_process
from assay.records import digest

_SCHEMA = """CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, url TEXT, model TEXT, request TEXT, text TEXT,
    tokens_in INTEGER, tokens_out INTEGER, seconds REAL, at REAL, problem TEXT DEFAULT '',
    confidence REAL DEFAULT 1.0, question TEXT DEFAULT '', cuts INTEGER DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spending (
    url TEXT, model TEXT, tokens_in INTEGER, tokens_out INTEGER, problem TEXT, at REAL, share REAL DEFAULT 1.0);
CREATE TABLE IF NOT EXISTS sent (
    key TEXT, process INTEGER, url TEXT, model TEXT, tokens_in INTEGER, tokens_out INTEGER,
    PRIMARY KEY (key, process)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    token TEXT PRIMARY KEY, process TEXT, url TEXT, model TEXT, state TEXT, file TEXT, batch TEXT, at REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batched (
    key TEXT PRIMARY KEY, token TEXT, request TEXT, tokens_in INTEGER, tokens_out INTEGER) WITHOUT ROWID"""
_LATER = {
    "replies": {
        "problem": "TEXT DEFAULT ''", "confidence": "REAL DEFAULT 1.0", "question": "TEXT DEFAULT ''",
        "cuts": "INTEGER DEFAULT 0",
    },
    "spending": {"share": "REAL DEFAULT 1.0"},
}  # fmt: skip
"""Columns that files of earlier versions lack."""
UNKNOWN = "unknown: "
"""Begins the problem of spending that no server has told: a timeout, a cut reply, a killed process."""
_KILLED = f"{UNKNOWN}killed"
CUT = "cut off at max_tokens"
"""The problem of a reply that the length limit ended: never an answer, whatever stands in it."""
ODD = "no answer that can be read, from a server that answers others"
"""The problem of a request that a working server answers with a page, or with no completion."""
AGAIN = (CUT, ODD)
MOST_CUTS = 3
"""A request whose reply was cut, or could not be read, this often is not asked again (at the same limit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A text, or a `problem` that says why there is none (the text beside it is for people to read, and no answer).

    Tokens are the server's own count; `cached`: not asked now.
    """

    text: str = ""
    problem: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    cached: bool = False
    confidence: float = 1.0
    """The probability that the model gave to what it said, where that is known."""
    final: bool = True
    """The model (or its server, of this request alone) has said this, a refusal too: asking again would be another draw.
    False: the transport failed, or the length limit cut the reply; the same command asks again."""

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


class Replies:
    """An open cache file, seen by one model of one server. Use `open_replies`, and `together` for writes.

    `share`: the part of the usual price that is paid (half for providers' batches)."""

    def __init__(self, database: sqlite3.Connection, url: str, model: str, share: float = 1.0) -> None:
        self.run, self.url, self.model, self.share = database.execute, spelled(url), model, share
        self._process = this_process()
        self._sent: dict[str, tuple[int, int]] = {}

    def find(self, key: str, request: str = "") -> Reply | None:
        """The kept reply to a request: to itself, or (given the request as JSON) a whole one to the same question."""
        columns = "SELECT text, tokens_in, tokens_out, seconds, problem, confidence, cuts, request FROM replies"
        row = self.run(f"{columns} WHERE key = ?", (key,)).fetchone()
        if request and (row is None or row[4] in AGAIN):
            others = f"{columns} WHERE question = ? AND problem NOT IN (?, ?) ORDER BY problem = '' DESC, at"
            rows = self.run(others, (question_of(self.url, request), *AGAIN))
            row = next((r for r in rows if _limit(r[7]) <= _limit(request)), row)
        if row is None:
            return None
        text, tokens_in, tokens_out, seconds, problem, confidence, cuts, _ = row
        return Reply(
            text=text, tokens_in=tokens_in, tokens_out=tokens_out, seconds=seconds, problem=problem,
            confidence=confidence, cached=True, final=problem not in AGAIN or cuts >= MOST_CUTS,
        )  # fmt: skip

    def together(self, writes: Iterable[Callable[[], object]]) -> None:
        """Several writes in one commit: all of them are on disk, or none."""
        self.run("BEGIN IMMEDIATE")
        try:
            for write in writes:
                write()
        except BaseException:
            self.run("ROLLBACK")
            raise
        self.run("COMMIT")

    def sending(self, key: str, most: tuple[int, int]) -> None:
        """Note that a request goes out, with the most tokens (in, out) that it can cost."""
        self._sent[key] = most
        self.run(
            "INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?, ?, ?)", (key, self._process, self.url, self.model, *most)
        )

    def came(self, key: str, request: str, reply: Reply, cost: tuple[int, int] | None = None) -> None:
        """The reply (`request`: as JSON, for people who read the file), its cost, and the end of the wait, at once.

        `cost`: the most that it can have cost, where the server did not tell.
        """
        self._arrived(key)
        if cost is not None:
            self._spend(*cost, f"{UNKNOWN}no usage")
        elif reply.tokens:
            self._spend(reply.tokens_in, reply.tokens_out, reply.problem)
        if reply.final or reply.problem == CUT:
            self._keep(key, request, reply)

    def odd(self, key: str, request: str) -> None:
        """A working server's answer to this request could not be read."""
        self._keep(key, request, Reply(problem=ODD, final=False))

    def _keep(self, key: str, request: str, reply: Reply) -> None:
        cut = reply.problem in AGAIN
        row = (
            key, self.url, self.model, request, reply.text, reply.tokens_in, reply.tokens_out, reply.seconds,
            time.time(), reply.problem, reply.confidence, question_of(self.url, request), int(cut),
        )  # fmt: skip
        names = (
            "key, url, model, request, text, tokens_in, tokens_out, seconds, at, problem, confidence, question, cuts"
        )
        self.run(
            f"INSERT INTO replies ({names}) VALUES ({', '.join('?' * len(row))}) ON CONFLICT (key) DO UPDATE SET "
            "text = excluded.text, tokens_in = excluded.tokens_in, tokens_out = excluded.tokens_out, "
            "seconds = excluded.seconds, at = excluded.at, problem = excluded.problem, "
            "confidence = excluded.confidence, cuts = cuts + excluded.cuts WHERE problem IN (?, ?)",
            (*row, *AGAIN),
        )

    def failed(self, key: str, problem: str, cost: tuple[int, int] = (0, 0)) -> None:
        """An attempt came to nothing; `cost`: the most it can have cost, where no server told."""
        self._arrived(key)
        if any(cost):
            self._spend(*cost, UNKNOWN + problem)

    def clear_killed(self) -> None:
        """Count what processes that are gone (or of another machine) had sent and not seen answered."""
        self.run("BEGIN IMMEDIATE")
        query = "SELECT key, process, url, tokens_in, tokens_out FROM sent WHERE model = ?"
        for key, process, url, tokens_in, tokens_out in self.run(query, (self.model,)).fetchall():
            if spelled(url) == self.url and not alive(process):
                self._spend(tokens_in, tokens_out, _KILLED)
                self.run("DELETE FROM sent WHERE key = ? AND process = ?", (key, process))
        self.run("COMMIT")

    def spent(self) -> tuple[float, float]:
        """Tokens in and out that this model of this server has cost so far, at the usual price: those of a batch count for
        their share. Whatever the spelling of the url."""
        query = (
            "SELECT url, TOTAL(tokens_in * share), TOTAL(tokens_out * share) FROM spending WHERE model = ? GROUP BY url"
        )
        rows = [(i, o) for url, i, o in self.run(query, (self.model,)).fetchall() if spelled(url) == self.url]
        return sum(i for i, _ in rows), sum(o for _, o in rows)

    def in_batches(self) -> dict[str, tuple[str, tuple[int, int]]]:
        """The requests of this model that a provider has in an open batch: its id, and the most tokens, by key."""
        query = "SELECT key, batch, url, tokens_in, tokens_out FROM batched JOIN batches USING (token) WHERE model = ?"
        rows = self.run(query, (self.model,)).fetchall()
        return {key: (batch, (i, o)) for key, batch, url, i, o in rows if url == self.url}

    def questions_in_batches(self) -> dict[str, str]:
        """The key under which an open batch of this model has a question, whatever its limit of tokens."""
        query = "SELECT key, batched.request, url FROM batched JOIN batches USING (token) WHERE model = ?"
        rows = self.run(query, (self.model,)).fetchall()
        return {question_of(url, request): key for key, request, url in rows if url == self.url}

    def _arrived(self, key: str) -> None:
        most = self._sent.pop(key, None)
        gone = self.run("DELETE FROM sent WHERE key = ? AND process = ?", (key, self._process)).rowcount
        if most is not None and not gone:  # another machine took this process for dead, and counted the most
            self.run(
                "DELETE FROM spending WHERE rowid = (SELECT rowid FROM spending WHERE url = ? AND model = ? AND "
                "tokens_in = ? AND tokens_out = ? AND problem = ? LIMIT 1)", (self.url, self.model, *most, _KILLED),
            )  # fmt: skip

    def _spend(self, tokens_in: int, tokens_out: int, problem: str) -> None:
        self.run(
            "INSERT INTO spending (url, model, tokens_in, tokens_out, problem, at, share) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self.url, self.model, tokens_in, tokens_out, problem, time.time(), self.share),
        )


def spelled(url: str) -> str:
    """A server's url in its one spelling: small letters in scheme and host, no default port, no slash at the end."""
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return url.rstrip("/")
    if not host:
        return url.rstrip("/")
    scheme = parts.scheme.lower()
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    host = f"[{host}]" if ":" in host else host
    host += f":{port}" if port and port != {"http": 80, "https": 443}.get(scheme) else ""
    steps = [s for s in parts.path.split("/") if s]
    if steps[-2:] == ["chat", "completions"]:
        steps = steps[:-2]
    query = f"?{parts.query}" if parts.query else ""
    return "/".join((f"{scheme}://{user}{host}", *steps)) + query


def question_of(url: str, request: str) -> str:
    """What a kept request asks, as a content id; "" where the file does not tell."""
    try:
        body = json.loads(request)
        body.pop("response_format", None)
        body.pop("max_tokens", None)
        return digest(["question", spelled(url), {**body, "temperature": float(body.get("temperature", 1.0))}])
    except (ValueError, TypeError, AttributeError):
        return ""


def _limit(request: str) -> int:
    """The most tokens that a kept request allowed its reply."""
    return int(json.loads(request).get("max_tokens", 0))


@contextmanager
def open_replies(cache: Path, url: str = "", model: str = "", share: float = 1.0) -> Iterator[Replies]:
    """The cache of `model` at `url`, made if need be; each change is committed by itself."""
    with open_database(cache) as database:
        yield Replies(database, url, model, share)


@contextmanager
def open_database(cache: Path) -> Iterator[sqlite3.Connection]:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(cache, timeout=30.0, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.executescript(_SCHEMA)
            _migrate(database)
            yield database
        finally:
            database.close()
    except sqlite3.Error as error:
        raise AssayError(
            f"{cache}: the reply cache cannot be used ({error}); move it away to start a new one"
        ) from error


def _migrate(database: sqlite3.Connection) -> None:
    """Give a file of an earlier version what it lacks."""
    lacking = [
        (table, name, kind)
        for table, columns in _LATER.items() for name, kind in columns.items()
        if name not in {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
    ]  # fmt: skip
    indexed = "CREATE INDEX IF NOT EXISTS asked ON replies (question)"
    if not lacking:
        database.execute(indexed)
        return
    database.execute("BEGIN IMMEDIATE")
    for table, name, kind in lacking:
        if name not in {row[1] for row in database.execute(f"PRAGMA table_info({table})")}:  # another process was first
            database.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    if ("replies", "question") in {(table, name) for table, name, _ in lacking}:
        for key, url, request, tokens_out in database.execute(
            "SELECT key, url, request, tokens_out FROM replies"
        ).fetchall():
            question = question_of(url, request)
            cut = bool(question) and tokens_out >= json.loads(request).get("max_tokens", tokens_out + 1)
            database.execute("UPDATE replies SET question = ? WHERE key = ?", (question, key))
            if cut:
                database.execute("UPDATE replies SET problem = ?, cuts = 1 WHERE key = ?", (CUT, key))
    database.execute(indexed)
    database.execute("COMMIT")


def ledger(cache: Path) -> list[dict[str, Any]]:
    """What every model has cost in tokens: model, url, answers, failures among them, answers whose cost no server told
    (counted at the most that they can have cost), tokens in and out."""
    query = (
        f"SELECT model, url, COUNT(*), SUM(problem != ''), SUM(problem LIKE '{UNKNOWN}%'), SUM(tokens_in), "
        "SUM(tokens_out) FROM spending GROUP BY model, url ORDER BY model, url"
    )
    names = ("model", "url", "answers", "failures", "untold", "tokens_in", "tokens_out")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    with open_database(cache) as database:
        for row in (dict(zip(names, row, strict=True)) for row in database.execute(query)):
            url = spelled(row["url"])
            known = found.setdefault(
                (row["model"], url), {"model": row["model"], "url": url, **dict.fromkeys(names[2:], 0)}
            )
            for name in names[2:]:
                known[name] += row[name]
    return list(found.values())
