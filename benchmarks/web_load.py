"""The verification page under load: simulated annotators over HTTP, while the server is killed and started again.

    make bench-web                                                    # 20 annotators, 5 minutes on each database
    python benchmarks/web_load.py --seconds 30 --database sqlite

Every annotator logs in, opens /task, reads for a moment, and then does what people do: saves a draft, opens a tool, reloads,
skips, flags, takes the last answer back, sends a form twice at once, answers. The server gets SIGKILL twice and is started
by the same command; annotators send the same form again until it is acknowledged. For the last quarter two people judge
each pair. Each annotator keeps a list of its acknowledged answers, and `web_check` compares these lists with the database
and with judgements.jsonl. Times are those of requests that were answered, as the clients saw them; server and clients share
the processors that this process may use. The last line of stdout is JSON; the exit code is 1 when anything is lost or
double, when more people judged a pair than were asked for, or when the page did anything that it must not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from web_check import beyond, check, read_lines, read_stored
from web_people import Annotator, Log, Shown

from assay.curate.rules import rule_attributes
from assay.records import Case, Pair, Response, user
from assay.tables import Table
from assay.web.accounts import Accounts
from assay.web.schema import Database
from assay.web.store import Store

ROOT = Path(__file__).resolve().parents[1]
TRAPS = 20
_RICH = """```python
def f(n: int) -> int:
    return sum(k * N for k in range(n))
```

| n | calls |
|--:|--:|
| 10 | 177 |
| 20 | 21891 |

It is $O(n^2)$, or \\(\\frac{n(n-1)}{2}\\)."""
_WORDS = (
    "the",
    "model",
    "of",
    "a",
    "river",
    "bank",
    "takes",
    "each",
    "answer",
    "as",
    "it",
    "stands",
    "and",
    "returns",
    "what",
)


def cases(count: int, seed: int) -> list[Case]:
    """Pairs as long as chat answers are, half of them with code, a table and formulas."""
    rng = random.Random(seed)

    def prose(low: int, high: int) -> str:
        return " ".join(rng.choice(_WORDS) for _ in range(rng.randint(low, high))).capitalize() + "."

    def answer(n: int, rich: bool) -> str:
        parts = [prose(20, 120) for _ in range(rng.randint(1, 4))]
        if rich:
            parts.append(_RICH.replace("N", str(n)))
        return "\n\n".join(parts)

    made = []
    for n in range(count):
        pair = Pair.of(
            (user(f"Question {n}: {prose(8, 40)}"),), *(Response.of(answer(n, n % 2 == 0)) for _ in range(2))
        )
        made.append(Case(pair=pair, attributes=rule_attributes(pair)))
    return made


# -- the server ---------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """`assay web` over a run, as a process that can be killed and started again by the same command."""

    run: Path
    database: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers. What it prints goes to RUN/web.log."""
        line = [sys.executable, "-m", "assay", "web", self.run, "--port", self.port, "--database", self.database]
        with (self.run / "web.log").open("ab") as log:
            self.process = subprocess.Popen([str(part) for part in line], stdout=log, stderr=log)
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                httpx.get(f"{self.url}/health", trust_env=False)
                return
            except httpx.TransportError:
                time.sleep(0.05)
        raise RuntimeError(f"the page did not come up: {(self.run / 'web.log').read_text()[-2_000:]}")

    def end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- one run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """How long (without the server's time away), how many annotators, how often the server is killed; the rest follows."""

    seconds: float
    annotators: int
    kills: int
    seed: int
    think_s: float = 2.0
    pairs: int = 0
    """How long the queue is (0: so long that it does not run out)."""


async def drive(server: Server, tokens: dict[str, str], plan: Plan) -> Log:
    """Annotators at work while the server is killed `plan.kills` times; a lead asks for overlap 2 at three quarters."""
    begun = time.monotonic()
    log = Log(until=begun + plan.seconds)
    people = [
        Annotator(server.url, name, token, log, random.Random(f"{plan.seed} {name}"), plan.think_s)
        for name, token in tokens.items()
        if name != "lead"
    ]
    working = asyncio.gather(*(p.work() for p in people))
    moments = [(plan.seconds * (n + 1) / (plan.kills + 1), False) for n in range(plan.kills)]
    for moment, is_overlap in sorted([*moments, (plan.seconds * 0.75, True)]):
        await asyncio.sleep(max(0.0, begun + moment + sum(log.downs) - time.monotonic()))
        if is_overlap:
            log.counts["beyond overlap 1"] = beyond(await asyncio.to_thread(read_stored, server.database), 1)
            await ask_for_two(server, tokens["lead"], log)
        else:
            killed = time.monotonic()
            await asyncio.to_thread(server.end, signal.SIGKILL)
            await asyncio.to_thread(server.start)
            log.downs.append(time.monotonic() - killed)
            log.until += log.downs[-1]
    await working
    return log


async def ask_for_two(server: Server, token: str, log: Log) -> None:
    lead = Annotator(server.url, "lead", token, log, random.Random(0), 1.0)
    async with lead.client:
        await lead.send("other", "/login", {"name": "lead", "secret": token}, (303,))
        page = await lead.send("other", "/lead/settings", None, (200,))
        form = {"csrf": Shown.of(page.text).csrf, "overlap": "2"}
        await lead.send("other", "/lead/settings", form, (303,))


def load(folder: Path, database: str, plan: Plan) -> dict[str, Any]:
    """A whole run in `folder`: a queue, accounts, the server, the annotators, and the check."""
    run = folder / "run"
    count = plan.pairs or max(100, int(plan.annotators * plan.seconds / plan.think_s))
    Table(run / "queue", Case).write("waiting", cases(count, plan.seed))
    base = Database(database)
    traps = cases(TRAPS, plan.seed + 1)
    Store(base).load(traps, truths={c.pair.id: c.pair.responses[0].id for c in traps})
    accounts = Accounts(base)
    tokens = {f"p{n}": accounts.invite(f"p{n}", "annotator", "bench") for n in range(plan.annotators)}
    tokens["lead"] = accounts.invite("lead", "admin", "bench")
    base.close()
    server = Server(run, database, free_port())
    server.start()
    try:
        start, cpu = time.monotonic(), time.process_time()
        log = asyncio.run(drive(server, tokens, plan))
        seconds, cpu = time.monotonic() - start - sum(log.downs), time.process_time() - cpu
    finally:
        server.end(signal.SIGTERM)
    found = check(list(log.given.values()), read_stored(database), read_lines(run / "judgements.jsonl"), 2)
    found["beyond"] += log.counts.pop("beyond overlap 1")
    return {"log": log, "seconds": seconds, "cpu": cpu, **found}


# -- the report ---------------------------------------------------------------------------------------------------


def spread(times: Sequence[float]) -> list[float]:
    """p50, p95 and p99 in milliseconds."""
    return [round(float(q) * 1000, 1) for q in np.quantile(times, (0.5, 0.95, 0.99))] if times else [float("nan")] * 3


def describe(name: str, told: dict[str, Any]) -> str:
    log: Log = told["log"]
    rows = [
        f"{name}: {told['seconds']:.0f} s, {len(log.given):,} answers stand, {len(log.given) / told['seconds']:.1f} a second"
    ]
    for kind, what in (("page", "GET /task"), ("answer", "POST an answer"), ("other", "other requests")):
        p50, p95, p99 = spread(log.times[kind])
        rows.append(f"  {what}: n {len(log.times[kind]):,}, p50 {p50} ms, p95 {p95} ms, p99 {p99} ms")
    counts = ", ".join(f"{n:,} {what}" for what, n in sorted(log.counts.items()) if n)
    back = ", ".join(f"{d:.1f} s" for d in log.downs)
    rows.append(f"  killed {len(log.downs)} times{f', back after {back}' if back else ''}; {counts}")
    rows.append(f"  the clients took {100 * told['cpu'] / told['seconds']:.0f} % of a processor")
    rows.append(
        f"  lost {told['lost']}, double {told['double']}, pairs judged by too many {told['beyond']}, "
        f"not asked for {told['unasked']}, odd {len(log.odd)} {log.odd[:3] or ''}"
    )
    return "\n".join(rows)


@contextmanager
def databases(which: str) -> Iterator[list[tuple[str, Path, str]]]:
    """The databases to try, each with a folder of its own: name, folder, URL."""
    sys.path.append(str(ROOT / "tests"))
    import postgres

    # Not in a folder that only root may enter: PostgreSQL's server is another user.
    place = Path(tempfile.mkdtemp(prefix="assay-web-load-"))
    try:
        sqlite = ("sqlite", place / "sqlite", f"sqlite:///{place / 'sqlite' / 'web.sqlite'}")
        if which == "sqlite":
            yield [sqlite]
            return
        if reason := postgres.reason_to_skip():
            raise SystemExit(f"--database {which}: {reason}")
        with postgres.server(place / "server") as url:
            yield [*([sqlite] if which == "both" else []), ("postgres", place / "postgres", url)]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main() -> int:
    from bench_policy import processor

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--annotators", type=int, default=20)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--think", type=float, default=2.0, help="seconds that an annotator reads, in the mean")
    parser.add_argument("--pairs", type=int, default=0, help="in the queue (0: so many that it does not run out)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    options = parser.parse_args()
    plan = Plan(options.seconds, options.annotators, options.kills, options.seed, options.think, options.pairs)
    used = f"{processor()}, {len(os.sched_getaffinity(0))} of them used"
    print(f"{used}; {plan.annotators} annotators, {plan.seconds:.0f} s on each database, seed {plan.seed}", flush=True)
    result: dict[str, Any] = {"bench": "web", "annotators": plan.annotators, "seconds": plan.seconds, "seed": plan.seed}
    bad: Counter[str] = Counter()
    with databases(options.database) as places:
        for name, folder, url in places:
            told = load(folder, url, plan)
            print(describe(name, told), flush=True)
            log: Log = told["log"]
            bad.update({k: told[k] for k in ("lost", "double", "beyond", "unasked")} | {"odd": len(log.odd)})
            for kind in ("page", "answer"):
                p50, p95, p99 = spread(log.times[kind])
                prefix = name if kind == "page" else f"{name}_answer"
                result |= {f"{prefix}_p50_ms": p50, f"{prefix}_p95_ms": p95, f"{prefix}_p99_ms": p99}
            result[f"{name}_answers_per_s"] = round(len(log.given) / told["seconds"], 2)
    print(json.dumps({**result, **bad}))
    return 1 if bad.total() else 0


if __name__ == "__main__":
    sys.exit(main())
