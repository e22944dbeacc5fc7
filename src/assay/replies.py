"""The reply cache and the ledger: one SQLite file that holds what was asked, what was answered, and what it cost.

Every change is committed before the next request starts (in WAL mode: safe against a kill of the process). What a model said
is kept, refusals and cut answers too, for they were paid; failures of the transport are not. A request is noted before it
is sent: one that a kill cut off is found at the next start, and counted as costing the most that it can have cost.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import AssayError

_SCHEMA = """CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, url TEXT, model TEXT, request TEXT, text TEXT,
    tokens_in INTEGER, tokens_out INTEGER, seconds REAL, at REAL, problem TEXT DEFAULT '',
    confidence REAL DEFAULT 1.0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spending (url TEXT, model TEXT, tokens_in INTEGER, tokens_out INTEGER, problem TEXT, at REAL);
CREATE TABLE IF NOT EXISTS sent (
    key TEXT, process INTEGER, url TEXT, model TEXT, tokens_in INTEGER, tokens_out INTEGER,
    PRIMARY KEY (key, process)) WITHOUT ROWID"""
_LATER = {"problem": "TEXT DEFAULT ''", "confidence": "REAL DEFAULT 1.0"}
"""Columns that caches of the first version lack."""
UNKNOWN = "unknown: "
"""Begins the problem of spending that no server has told: a timeout, a cut reply, a killed process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A text, or a `problem` that says why there is none. Tokens are the server's own count; `cached`: not asked now."""

    text: str = ""
    problem: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    cached: bool = False
    confidence: float = 1.0
    """The probability that the model gave to what it said, where that is known."""
    final: bool = True
    """The model itself said this (a refusal too): asking again would be another draw. False: the transport failed."""

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


class Replies:
    """An open cache file, seen by one model of one server. Use `open_replies`, and `together` for writes."""

    def __init__(self, database: sqlite3.Connection, url: str, model: str) -> None:
        self._run, self.url, self.model, self._process = database.execute, url, model, os.getpid()

    def find(self, key: str) -> Reply | None:
        query = "SELECT text, tokens_in, tokens_out, seconds, problem, confidence FROM replies WHERE key = ?"
        row = self._run(query, (key,)).fetchone()
        if row is None:
            return None
        return Reply(
            text=row[0],
            tokens_in=row[1],
            tokens_out=row[2],
            seconds=row[3],
            problem=row[4],
            confidence=row[5],
            cached=True,
        )

    def together(self, writes: Iterable[Callable[[], None]]) -> None:
        """Several writes in one commit: all of them are on disk, or none."""
        self._run("BEGIN IMMEDIATE")
        try:
            for write in writes:
                write()
        except BaseException:
            self._run("ROLLBACK")
            raise
        self._run("COMMIT")

    def sending(self, key: str, most: tuple[int, int]) -> None:
        """Note that a request goes out, with the most tokens (in, out) that it can cost."""
        self._run(
            "INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?, ?, ?)", (key, self._process, self.url, self.model, *most)
        )

    def came(self, key: str, request: str, reply: Reply) -> None:
        """The reply (`request`: as JSON, for people who read the file), its cost, and the end of the wait, at once."""
        self._arrived(key)
        if reply.tokens:
            self._spend(reply.tokens_in, reply.tokens_out, reply.problem)
        if reply.final:
            row = (key, self.url, self.model, request, reply.text, reply.tokens_in, reply.tokens_out, reply.seconds)
            self._run(
                "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, time.time(), reply.problem, reply.confidence),
            )

    def failed(self, key: str, problem: str, cost: tuple[int, int] = (0, 0)) -> None:
        """An attempt came to nothing; `cost`: the most it can have cost, where no server told."""
        self._arrived(key)
        if any(cost):
            self._spend(*cost, UNKNOWN + problem)

    def clear_killed(self) -> None:
        """Count what processes that are gone had sent and not seen answered."""
        query = "SELECT key, process, tokens_in, tokens_out FROM sent WHERE url = ? AND model = ?"
        self._run("BEGIN IMMEDIATE")
        for key, process, tokens_in, tokens_out in self._run(query, (self.url, self.model)).fetchall():
            if not _alive(process):
                self._spend(tokens_in, tokens_out, f"{UNKNOWN}killed")
                self._run("DELETE FROM sent WHERE key = ? AND process = ?", (key, process))
        self._run("COMMIT")

    def spent(self) -> tuple[int, int]:
        """Tokens in and out that this model of this server has cost so far."""
        query = "SELECT TOTAL(tokens_in), TOTAL(tokens_out) FROM spending WHERE url = ? AND model = ?"
        tokens_in, tokens_out = self._run(query, (self.url, self.model)).fetchone()
        return int(tokens_in), int(tokens_out)

    def _arrived(self, key: str) -> None:
        self._run("DELETE FROM sent WHERE key = ? AND process = ?", (key, self._process))

    def _spend(self, tokens_in: int, tokens_out: int, problem: str) -> None:
        row = (self.url, self.model, tokens_in, tokens_out, problem, time.time())
        self._run("INSERT INTO spending VALUES (?, ?, ?, ?, ?, ?)", row)


@contextmanager
def open_replies(cache: Path, url: str = "", model: str = "") -> Iterator[Replies]:
    """The cache of `model` at `url`, made if need be; each change is committed by itself."""
    with open_database(cache) as database:
        yield Replies(database, url, model)


@contextmanager
def open_database(cache: Path) -> Iterator[sqlite3.Connection]:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(cache, timeout=30.0, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.executescript(_SCHEMA)
            there = {row[1] for row in database.execute("PRAGMA table_info(replies)")}
            for name, kind in _LATER.items():
                if name not in there:
                    database.execute(f"ALTER TABLE replies ADD COLUMN {name} {kind}")
            yield database
        finally:
            database.close()
    except sqlite3.Error as error:
        raise AssayError(
            f"{cache}: the reply cache cannot be used ({error}); move it away to start a new one"
        ) from error


def ledger(cache: Path) -> list[dict[str, Any]]:
    """What every model has cost in tokens: model, url, answers, failures among them, answers whose cost no server told
    (counted at the most that they can have cost), tokens in and out."""
    query = (
        f"SELECT model, url, COUNT(*), SUM(problem != ''), SUM(problem LIKE '{UNKNOWN}%'), SUM(tokens_in), "
        "SUM(tokens_out) FROM spending GROUP BY model, url ORDER BY model, url"
    )
    names = ("model", "url", "answers", "failures", "untold", "tokens_in", "tokens_out")
    with open_database(cache) as database:
        return [dict(zip(names, row, strict=True)) for row in database.execute(query)]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
