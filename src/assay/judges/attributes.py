"""`assay attributes`: the five attributes of every pair by LLM servers, and by rules where all of them fail."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from assay.curate.annotate import prompts_version
from assay.curate.attributes import AttributesProblem, ask_ahead, attribute_request, dealt, shared_attributes
from assay.curate.judge_report import reason
from assay.curate.rules import rule_attributes
from assay.errors import AssayError
from assay.judges.annotate import lowest, pictures
from assay.judges.asking import (
    LOCAL,
    AskConfig,
    Model,
    Progress,
    chat_configs,
    chats,
    first_limit,
    show_costs,
    spending,
)
from assay.judges.servers import Servers
from assay.judges.sources import Shelf, Where, read_material
from assay.llm.chat import ChatConfig, Request
from assay.llm.outage import Loss, Unreached
from assay.records import Attributes, Pair, digest
from assay.run import Run

SHARD = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributesConfig:
    """What shapes the answers; a folder keeps to it."""

    limit: int = 0
    """At most this many pairs, drawn by content (0: all)."""
    rules: bool = True
    """Describe by rules what no server could describe; else it stays without attributes."""
    temperature: float = 0.0
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if self.limit < 0 or self.max_tokens < 1 or self.temperature < 0:
            raise AssayError("limit and temperature must not be negative, max_tokens at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    servers: tuple[str, ...]
    """By name; where they answer is in `servers.json`."""
    prompts: str
    pairs: dict[str, Any]
    config: AttributesConfig


def describe(
    source: Where, out: Path, named: Sequence[str], config: AttributesConfig, asking: AskConfig, *,
    sets: Sequence[str] = (), dry_run: bool = False, console: Console | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """Describe the pairs of `source`, dealt out over the servers; a dry run says what it would cost and asks nothing.

    Returns counts: pairs, by whom they were described, problems by reason, and the cost of each server.
    """
    pairs = read_material(source, sets=sets).pairs
    order = lowest(pairs.rows, config.limit)["pair_id"].to_list()
    images = pictures(source)
    if any(name.endswith(f"@{LOCAL}") for name in named):
        raise AssayError(f"--server: a model @{LOCAL} can judge, not describe; give MODEL@URL")
    given = chat_configs(
        named, "server", asking, temperature=config.temperature, max_tokens=config.max_tokens, images=images
    )
    where = Servers.of_run(out, asking.servers_moved)
    configs = where.of("server", given)
    servers = tuple(c.name for c in configs if isinstance(c, ChatConfig))
    if dry_run:

        def requests(model: Model, part: Sequence[Pair]) -> list[Request]:
            return [attribute_request(p) for p in part if servers[dealt(p, 0, len(servers))] == model.name]

        parts = (list(pairs.of(order[at : at + SHARD]).values()) for at in range(0, len(order), SHARD))
        show_costs(configs, out / "replies.sqlite", asking, parts, requests, console)
        return None
    told = {"n": len(order), "digest": digest(order)}
    kept = _Kept(
        servers=servers, prompts=prompts_version(), pairs=told,
        config=replace(config, max_tokens=first_limit(out, config.max_tokens)),
    )  # fmt: skip
    with closing(Run(out, kept, console, where.keep)) as run:
        models = chats(configs, out / "replies.sqlite", asking.budget, asking.batches)
        return _describe(run, models, pairs, order, config, asking.batch_requests if asking.batch else 0)


def _describe(
    run: Run,
    models: Sequence[Model],
    texts: Shelf[Pair],
    pairs: Sequence[str],
    config: AttributesConfig,
    together: int = 0,
) -> dict[str, Any]:
    """`pairs`: their ids, in the order in which they lie on disk; `together`: how many are asked about at once, before their
    shards are made of the kept replies (0: a shard)."""
    table, failures = run.table("attributes", Attributes), run.table("problems", AttributesProblem)
    progress = Progress(run.say, models, "pairs described")
    progress.total = len(pairs)
    losses: list[Loss] = []
    if together:
        left = [p for s in range(0, len(pairs), SHARD) if not table.done(f"{s:08}") for p in pairs[s : s + SHARD]]
        for at in range(0, len(left), together):
            ask_ahead(models, list(texts.of(left[at : at + together]).values()))
    for start in range(0, len(pairs), SHARD):
        shard = f"{start:08}"
        if not table.done(shard):
            part = list(texts.of(pairs[start : start + SHARD]).values())
            try:
                found, problems = shared_attributes(models, part)
            except Unreached as failed:
                losses += failed.losses
                if failed.silent:
                    break
                continue
            if not failures.done(shard):
                failures.write(shard, problems)
            rest = [rule_attributes(p) for p in part if p.id not in found] if config.rules else []
            table.write(shard, [*found.values(), *rest])
        progress.done += min(SHARD, len(pairs) - start)
    run.say(progress.line(time.monotonic()))
    if losses:
        raise Unreached(losses)
    told = Counter(f"{p.by}: {reason(p.problem)}" for p in failures.stream())
    by = Counter(b for shard in table.shards() for b in table.frame(shard, columns=["by"])["by"])
    return {
        "pairs": len(pairs), "by": dict(by.most_common()),
        "problems": dict(told.most_common()), "costs": spending(models),
    }  # fmt: skip
