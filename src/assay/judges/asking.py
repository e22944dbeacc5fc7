"""Language models as a command uses them: servers or local, named, priced, within a budget, heard of while they work."""

import dataclasses
import json
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table

from assay.curate.judge_report import reason
from assay.errors import AssayError
from assay.llm.batches import BatchConfig, BatchServer
from assay.llm.budget import Budget, Estimate
from assay.llm.chat import ChatConfig, Request, cost
from assay.llm.client import Server
from assay.llm.replies import Reply, ledger, open_replies, spelled

if TYPE_CHECKING:
    from assay.judges.local import LocalJudge

EVERY_S = 15.0
LOCAL = "local"
"""MODEL@local is a model of this machine instead of a server's."""

Model: TypeAlias = "Server | LocalJudge"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskConfig:
    """How servers are asked. Nothing here shapes an answer, so it may change when a command goes on."""

    concurrency: int = 32
    """Requests in flight at each server."""
    tries: int = 5
    timeout_s: float = 180.0
    backoff_s: float = 1.0
    """The first wait after a failure; it doubles, and a server's Retry-After comes before it."""
    prices: Path | None = None
    """A TOML file of prices for a million tokens: a table for each model, with `in` and `out`."""
    budget: float = 0.0
    """The most that all servers may cost together, earlier runs in the same folder included (0: no limit)."""
    schemas: Literal["auto", "always", "never"] = "auto"
    """Send JSON schemas to servers: until one refuses, always, never."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable with the key of the servers."""
    batch: bool = False
    """Ask through the providers' batch APIs (/v1/batches): cheaper, done within a day; the same command resumes."""
    batch_price: float = 0.5
    """The part of the usual price that an answer from a batch costs."""
    batch_requests: int = 50_000
    """The most requests in one batch."""
    batch_poll_s: float = 30.0
    """Seconds between two looks at a batch."""
    servers_moved: bool = False
    """The models are those that the folder asked before, where their servers are at other addresses now: go on with them."""

    @property
    def batches(self) -> BatchConfig | None:
        if not self.batch:
            return None
        return BatchConfig(price=self.batch_price, most_requests=self.batch_requests, poll_s=self.batch_poll_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalName:
    """A model of this machine, before anything of it (or torch) is loaded."""

    model: str


def read_prices(path: Path | None) -> dict[str, tuple[float, float]]:
    """Model -> price of a million tokens (in, out)."""
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return {model: (float(row["in"]), float(row["out"])) for model, row in table.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssayError(
            f'--prices {path}: {error!r}; write a table for each model, like: ["Qwen/Qwen3-8B"] with in = 0.1 and out = 0.4'
        ) from error


def chat_configs(
    named: Sequence[str], flag: str, config: AskConfig, *, temperature: float, max_tokens: int,
    images: Path | None = None,
) -> list[ChatConfig | LocalName]:  # fmt: skip
    """A server for each MODEL@URL, or a model of this machine for MODEL@local. Two servers of one model are told apart by
    their hosts."""
    if not named:
        raise AssayError(f"give at least one --{flag} MODEL@URL of an OpenAI-compatible server")
    prices = read_prices(config.prices)
    split = [_split(text, flag) for text in named]
    if len({(model, spelled(url)) for model, url in split}) < len(split):
        raise AssayError(f"--{flag}: the same server is named twice")
    counts = Counter(model for model, _ in split)
    missing = sorted({model for model, url in split if url != LOCAL} - prices.keys())
    if config.budget and missing:
        raise AssayError(f"--budget needs the price of every model; --prices has none of {', '.join(missing)}")
    return [
        ChatConfig(
            url=url, model=model, name=model if counts[model] == 1 else f"{model}@{url.split('//')[-1].split('/')[0]}",
            temperature=temperature, max_tokens=max_tokens, concurrency=config.concurrency, tries=config.tries,
            timeout_s=config.timeout_s, backoff_s=config.backoff_s, schemas=config.schemas,
            price_in=prices.get(model, (0, 0))[0], price_out=prices.get(model, (0, 0))[1],
            api_key_env=config.api_key_env, images=images,
        )
        if url != LOCAL
        else LocalName(model=model)
        for model, url in split
    ]  # fmt: skip


def chats(
    configs: Sequence[ChatConfig | LocalName],
    cache: Path,
    budget: float | Budget = 0.0,
    batch: BatchConfig | None = None,
) -> list["Model"]:
    """The models over one cache; servers share one budget (0: none), and are asked in batches if `batch` is given. Models
    with caches of their own share a `Budget` that is made before."""
    purse = budget if isinstance(budget, Budget) else Budget(budget) if budget else None
    made: list[Model] = []
    for config in configs:
        if isinstance(config, ChatConfig):
            made.append(BatchServer(config, cache, purse, batch=batch) if batch else Server(config, cache, purse))
            continue
        from assay.judges.local import LocalConfig, LocalJudge

        made.append(LocalJudge(LocalConfig(model=config.model), cache))
    return made


def first_limit(out: Path, max_tokens: int) -> int:
    """The `max_tokens` that a folder was begun with, where it is lower: a larger one may go on with it, so that what was cut
    off is asked again at more length."""
    try:
        before = json.loads((out / "config.json").read_text(encoding="utf-8"))["config"]["max_tokens"]
    except (OSError, ValueError, KeyError, TypeError):
        return max_tokens
    return min(before, max_tokens) if isinstance(before, int) else max_tokens


def _split(text: str, flag: str) -> tuple[str, str]:
    model, at, url = text.rpartition("@")
    if not at or not model:
        raise AssayError(f"--{flag} {text}: write MODEL@URL, for example Qwen/Qwen3-8B@http://localhost:8000/v1")
    return model, url.rstrip("/")


class Progress:
    """Counts replies of all servers and says, every few seconds, how far they are. Called from several threads."""

    def __init__(self, say: Callable[[str], None], models: Sequence["Model"], unit: str) -> None:
        self._say, self._unit, self._models = say, unit, models
        self._lock, self._start = threading.Lock(), time.monotonic()
        self._said, self._replies, self._problems, self.total, self.done = self._start, 0, Counter[str](), 0, 0
        for model in models:
            model.told = self.heard
            if isinstance(model, BatchServer):
                model.say = say

    def heard(self, reply: Reply) -> None:
        with self._lock:
            self._replies += 1
            if reply.problem:
                self._problems[reason(reply.problem)] += 1
            now = time.monotonic()
            if now - self._said >= EVERY_S:
                self._said = now
                self._say(self.line(now))

    def line(self, now: float) -> str:
        rate = self._replies / max(1e-9, now - self._start)
        budget = next((m.budget for m in self._models if m.budget), None)
        spent = f", {budget.spent:.4g} of {budget.limit:g} spent" if budget else ""
        failed = "".join(f", {count:,} {problem}" for problem, count in self._problems.most_common(3))
        notes = "".join(f"; {m.name}'s server takes {note}" for m in self._models for note in m.notes)
        return f"{self.done:,} of {self.total:,} {self._unit}; {self._replies:,} replies, {rate:.1f}/s{failed}{spent}{notes}"


def show_costs(
    configs: Sequence[ChatConfig | LocalName], cache: Path, asking: AskConfig, parts: Iterable[T],
    requests: Callable[["Model", T], Sequence[Request]], console: Console | None,
) -> None:  # fmt: skip
    """What a dry run says of each server, and of all together; nothing is asked, and no cache is made."""
    with tempfile.TemporaryDirectory() as place:
        models = chats(configs, cache if cache.exists() else Path(place) / "none.sqlite", batch=asking.batches)
        rows = estimates(models, parts, requests)
    grid = Table("server", "requests", "in the cache", "prompt tokens", "at most", "reply tokens, at most", "cost, at most",
                 title="Before anything is asked", title_justify="left", box=box.SIMPLE)  # fmt: skip
    for name, e in rows:
        grid.add_row(
            name, f"{e.requests:,}", f"{e.cached:,}", f"about {e.usual_in:,}", f"{e.tokens_in:,}", f"{e.tokens_out:,}",
            f"{e.cost:.4g}" if e.cost else "-",
        )  # fmt: skip
    console = console or Console(highlight=False)
    console.print(grid)
    free = [name for name, e in rows if e.requests and not e.cost]
    cost = f"cost at most {sum(e.cost for _, e in rows):.4g}" if len(free) < len(rows) else "cost not known"
    besides = f" (--prices has no price of {', '.join(free)})" if free else ""
    console.print(f"  {sum(e.requests for _, e in rows):,} requests, {cost}{besides}")


def spending(models: Sequence["Model"]) -> list[dict[str, Any]]:
    """The rows of the ledger with the names that judgements use and the price of what was spent."""
    known = {(c.config.model, spelled(c.config.home)): c for c in models}
    rows = []
    for cache, row in ((c, row) for c in {m.cache for m in models} for row in ledger(c)):
        chat = known.get((row["model"], row["url"]))
        if chat is not None:
            with open_replies(cache, row["url"], row["model"]) as replies:
                tokens_in, tokens_out = replies.spent()
            rows.append({**row, "judge": f"llm:{chat.name}", "cost": cost(chat.config, tokens_in, tokens_out)})
    return rows


def estimates(
    models: Sequence["Model"], parts: Iterable[T], requests: Callable[["Model", T], Sequence[Request]]
) -> list[tuple[str, Estimate]]:
    """What each model would be asked over all parts, of which one is in memory at a time."""
    found: dict[str, list[Estimate]] = {model.name: [] for model in models}
    for part in parts:
        for model in models:
            found[model.name].append(model.estimate(requests(model, part)))
    names = [f.name for f in dataclasses.fields(Estimate)]
    return [(m, Estimate(**{n: sum(getattr(e, n) for e in told) for n in names})) for m, told in found.items()]
