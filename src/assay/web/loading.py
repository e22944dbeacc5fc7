"""From a run to the page and back: the pairs that wait for people, traps, margins and verdicts in; finished
judgements out."""

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from assay.curate.interchange import read
from assay.curate.waiting import hold
from assay.errors import AssayError
from assay.pipeline.people_on_file import read_queue
from assay.records import Case
from assay.tables import Table
from assay.web.sharing import Sharing
from assay.web.store import Store


def load_run(store: Store, run: Path, margins: Path | None = None) -> int:
    """Add the pairs that `run` waits for and that are not there yet; returns how many. Raises AssayError where none
    ever were."""
    try:
        cases = read_queue(run / "queue")
    except AssayError:
        if store.size():
            return 0
        raise
    return store.load(cases, _margins(margins) if margins else None)


def load_traps(store: Store, file: Path) -> int:
    """Add pairs with known answers: JSON lines as `assay judgements export` writes them, with a judgement each."""
    found = read(file, "jsonl")
    usable = {e.pair.id: e for e in found.entries if e.attributes and any(j.better for j in e.judgements)}
    if not usable:
        reason = found.problems[0] if found.problems else "a trap needs a pair, its attributes and a judgement"
        raise AssayError(f"--traps {file}: no trap in it ({reason})")
    truths = {i: next(j.better for j in e.judgements if j.better) for i, e in usable.items()}
    cases = [Case(pair=e.pair, attributes=e.attributes) for e in usable.values() if e.attributes]
    return store.load(cases, truths={k: v for k, v in truths.items() if v})


def load_verdicts(store: Store, file: Path) -> int:
    """Add verdicts of machines on single responses: JSON lines with pair_id, response_id, text, right (true, false,
    null), by."""
    return store.add_verdicts(list(_lines(file, "--verdicts", {"pair_id", "response_id"})))


def _margins(file: Path) -> Mapping[str, float]:
    """JSON lines with pair_id and margin: a reward model's score of the source's choice minus that of the other."""
    found = {}
    for row in _lines(file, "--margins", {"pair_id", "margin"}):
        if not isinstance(row["margin"], int | float):
            raise AssayError(f"--margins {file}: a margin is a number, not {row['margin']!r}")
        found[str(row["pair_id"])] = float(row["margin"])
    return found


def _lines(file: Path, flag: str, needed: set[str]) -> Iterator[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise AssayError(f"{flag} {file}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise AssayError(f"{flag} {file}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict) or not needed <= row.keys():
            raise AssayError(f"{flag} {file}, line {number}: needs {' and '.join(sorted(needed))}")
        yield row


def sync(store: Store, run: Path) -> int:
    """Make the page's judgements and those in RUN/judgements.jsonl the same, once; returns how many came to the file."""
    return Sharing(store, run).sync()


class Syncing:
    """Every `seconds` in the background: in with the pairs that the run asks about since this was made, and what was said in
    terminals, and out with what was said on the page; once more at the end. Nothing is read where nothing has changed."""

    def __init__(self, store: Store, run: Path, margins: Path | None = None, seconds: float = 0.5) -> None:
        self._store, self._run, self._margins, self._seconds = store, run, margins, seconds
        self._queue = Table(run / "queue", Case)
        self._asked = self._queue.shards()
        self._stop, self._sharing, self._told = threading.Event(), Sharing(store, run), ""
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Syncing":
        self._turn()  # before anybody is shown a pair that was answered in a terminal
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sharing.sync()
        hold(self._run, "page", ())

    def _work(self) -> None:
        while not self._stop.wait(self._seconds):
            self._turn()

    def _turn(self) -> None:
        try:
            self._load_new()
            self._sharing.sync()
            self._told = ""
        except (AssayError, OSError, DBAPIError) as error:  # the database may be back, or the disk free, next time
            if str(error) != self._told:
                print(f"judgements are not in {self._run} yet: {error}", file=sys.stderr, flush=True)
            self._told = str(error)

    def _load_new(self) -> None:
        asked = self._queue.shards()
        if asked != self._asked:
            load_run(self._store, self._run, self._margins)
            self._asked = asked
