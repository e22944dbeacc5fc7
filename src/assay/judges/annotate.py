"""`assay annotate`: LLM judges over pairs, guided by gold; all votes on disk, merged and reported as often as one likes.

    pairs, gold -> attributes -> nearest gold examples -> votes, shard by shard -> merge -> report

The folder holds what is judged, with its gold, as a pool of its own (`pool/`), and attributes, cases and votes as tables, so
that the report needs nothing else. The text of one part of the pairs is in memory at a time, and that of gold. A gold pair
that is judged never sees an example of its own question: else agreement with gold would be flattered.
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from assay.curate.annotate import MAX_EXAMPLES, Form, ask_ahead, judge_request, llm_votes, prompts_version
from assay.curate.attributes import RetrieveBy, retrieval_text
from assay.curate.judge_report import JudgeReport
from assay.curate.merging import Merge
from assay.curate.retrieve import nearest_gold
from assay.curate.rules import rule_attributes
from assay.curate.shards import Pool, Shard, put, shard_of
from assay.errors import AssayError
from assay.judges.asking import (
    LOCAL,
    AskConfig,
    LocalName,
    Model,
    Progress,
    chat_configs,
    chats,
    first_limit,
    show_costs,
)
from assay.judges.embedders import EmbedderConfig, load_embedder
from assay.judges.servers import Servers
from assay.judges.sources import Given, Where, read_material
from assay.judges.votes import check_layout, report
from assay.llm.chat import ChatConfig
from assay.llm.outage import Loss, Unreached
from assay.records import Attributes, Case, Embedder, Example, Judgement, Pair, digest
from assay.run import Run
from assay.store import Place
from assay.tables import plain

SHARD = 250
"""Pairs that are judged before their votes are written as one shard; replies are on disk at once."""
PREPARED = 10 * SHARD
"""Pairs whose cases are made at a time: a shard of the folder's pool."""

Examples = Literal["nearest", "random", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig(EmbedderConfig):
    """What shapes the votes; a folder keeps to it."""

    samples: int = 3
    """Votes of each model on each pair; every second one shows the responses the other way round."""
    answers: Form = "json"
    """json: reason and verdict as an object; text: a reason and a verdict line; verdict: that line alone."""
    guidance: Examples = "nearest"
    """Which gold examples a judge is shown: those most like the pair, any, or none."""
    examples: int = MAX_EXAMPLES
    pairs: Literal["all", "gold", "open"] = "all"
    """Judge all pairs, only gold ones (to measure judges), or only those without gold."""
    limit: int = 0
    """At most this many pairs, drawn by content (0: all)."""
    max_chars: int = 0
    """Leave out pairs (and examples) whose conversation and responses are longer together (0: none)."""
    temperature: float = 1.0
    max_tokens: int = 1024
    """Of a reply. What it cuts off is no vote; the same command with a larger one asks that again."""
    seed: int = 0

    def __post_init__(self) -> None:
        EmbedderConfig.__post_init__(self)
        if self.samples < 1 or not 0 <= self.examples <= MAX_EXAMPLES:
            raise AssayError(f"samples must be at least 1 and examples 0 to {MAX_EXAMPLES}")
        if self.limit < 0 or self.max_chars < 0 or self.max_tokens < 1 or self.temperature < 0:
            raise AssayError("limit, max_chars and temperature must not be negative, max_tokens at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a folder keeps to: its config, its judges by name (`judges.servers` has where they are), how they are asked, the
    content of what they judge."""

    judges: tuple[str, ...]
    prompts: str
    pairs: Mapping[str, Any]
    gold: Mapping[str, Any]
    attributes: Mapping[str, Any]
    embedder: str
    config: JudgeConfig


def annotate(
    source: Where, out: Path, judges: Sequence[str], gold: Sequence[Path], config: JudgeConfig, asking: AskConfig,
    *, merge: Merge = "majority", attributes: Path | None = None, sets: Sequence[str] = (), dry_run: bool = False,
    replies: Path | None = None, servers: Servers | None = None, console: Console | None = None,
) -> JudgeReport | None:  # fmt: skip
    """Judge the pairs of `source` and write the report; a dry run says what it would cost and asks nothing.

    `replies` is a cache that several folders share, and `servers` says where its models are (default: those of `out`).
    Raises BudgetSpent when the budget ends; the same call with a larger one goes on.
    """
    given = read_material(source, gold, attributes, sets)
    chosen = targets(given, config)
    images = pictures(source)
    if config.answers != "verdict" and any(j.endswith(f"@{LOCAL}") for j in judges):
        raise AssayError(f"a judge @{LOCAL} gives its verdict alone: add --answers verdict")
    named = chat_configs(
        judges, "judge", asking, temperature=config.temperature, max_tokens=config.max_tokens, images=images
    )
    servers = servers or Servers.of_run(out, asking.servers_moved)
    configs = servers.of("judge", named)
    if dry_run:
        guide = Guide.of(given, config)
        parts = (guide.cases(part) for part in _parts(chosen))
        show_costs(configs, replies or out / "replies.sqlite", asking, parts, partial(_requests, config), console)
        return None
    check_layout(out)
    kept = keeps_to(given, chosen, configs, replace(config, max_tokens=first_limit(out, config.max_tokens)))
    with closing(Run(out, kept, console, servers.keep)) as run:
        asked = chats(configs, replies or out / "replies.sqlite", asking.budget, asking.batches)
        done = run.once("prepared", lambda: _prepared(run, given, chosen, config))
        seen = done["examples"] / done["pairs"]
        run.say(f"{done['pairs']:,} pairs to judge, {done['gold']:,} of them gold, {seen:.1f} examples each")
        if asking.batch:
            _in_batches(run, asked, len(chosen), config, asking.batch_requests)
        _vote(run, asked, len(chosen), config)
        return report(out, merge, asked)


def pictures(source: Where) -> Path | None:
    """Where the pictures of a pool are, if it has any."""
    place = Place.of(source)
    return place.path / "images" if place.path is not None and (place.path / "images").is_dir() else None


def targets(given: Given, config: JudgeConfig) -> pl.DataFrame:
    """The pairs to judge (columns of `sources.PAIRS`), in the order in which they lie on disk; which ones, where there is a
    limit, their content alone decides."""
    ids = pl.Series(list(given.gold), dtype=pl.String)
    rows = given.pairs.rows
    if config.pairs != "all":
        rows = rows.filter(pl.col("pair_id").is_in(ids.implode()) == (config.pairs == "gold"))
    fit = rows.filter(_fits(config))
    if not len(fit):
        raise AssayError(
            f"no pairs to judge: {len(rows):,} of the kind '{config.pairs}', {len(fit):,} of them short enough"
        )
    return lowest(fit, config.limit)


def lowest(rows: pl.DataFrame, limit: int) -> pl.DataFrame:
    """At most `limit` rows (0: all), drawn by content, in the order in which they lie on disk."""
    if limit and limit < len(rows):
        rank = pl.Series([digest(["target", p]) for p in rows["pair_id"]])
        rows = rows.with_columns(rank=rank).sort("rank").head(limit).drop("rank")
    return rows.sort("file", "row")


def _fits(config: JudgeConfig) -> pl.Expr:
    return pl.col("chars") <= config.max_chars if config.max_chars else pl.lit(True)


def _parts(chosen: pl.DataFrame) -> Iterator[pl.DataFrame]:
    return (chosen[at : at + PREPARED] for at in range(0, len(chosen), PREPARED))


def keeps_to(given: Given, chosen: pl.DataFrame, judges: Sequence[ChatConfig | LocalName], config: JudgeConfig) -> Kept:
    """Who judges what, by content: the same folder goes on with nothing else."""
    guided = config.guidance == "nearest" and config.examples
    shown = [*chosen["pair_id"], *given.gold]
    told = sorted(
        digest(plain(a)) for at in range(0, len(shown), PREPARED)
        for a in given.attributes.of(shown[at : at + PREPARED]).values()
    )  # fmt: skip
    return Kept(
        judges=tuple(c.name if isinstance(c, ChatConfig) else f"{c.model}@{LOCAL} {_whose(c.model)}" for c in judges),
        prompts=prompts_version(), pairs={"n": len(chosen), "digest": digest(chosen["pair_id"].to_list())},
        gold={"n": len(given.gold), "digest": digest(sorted(given.gold.items()))},
        attributes={"n": len(told), "digest": digest(told)},
        embedder=_whose(config.embedder) if guided else "", config=config,
    )  # fmt: skip


def _whose(model: str) -> str:
    if model == "hash":
        return model
    from assay.models import whose

    return whose(model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """Gold examples that judges may be shown, and how they are chosen. `vectors` (n, d) where the nearest are shown."""

    given: Given
    config: JudgeConfig
    embed: Embedder | None
    examples: tuple[Example, ...]
    vectors: NDArray[np.float16]
    by: RetrieveBy = "conversation"

    @staticmethod
    def of(given: Given, config: JudgeConfig) -> "Guide":
        """Read, and embed, the gold that may be shown: what is short enough."""
        few = given.pairs.rows.filter(_fits(config))["pair_id"]
        ids = sorted(given.gold.keys() & set(few)) if config.guidance != "none" and config.examples else []
        pairs = given.pairs.of(ids)
        known = described(given, pairs)
        embed = load_embedder(config) if config.guidance == "nearest" and ids else None
        by = config.by(described=any(a.by != "rules" for a in known.values()))
        texts = [_text(by, pairs[g], known[g]) for g in ids] if embed else []
        return Guide(
            given=given, config=config, embed=embed,
            examples=tuple(Example(pair=pairs[g], attributes=known[g], better=given.gold[g]) for g in ids),
            vectors=embed(texts).astype(np.float16) if embed else np.zeros((0, 1), np.float16), by=by,
        )  # fmt: skip

    def cases(self, chosen: pl.DataFrame) -> list[Case]:
        """The chosen pairs with their gold examples, in order."""
        pairs = self.given.pairs.of(chosen["pair_id"])
        known = described(self.given, pairs)
        targets = [pairs[i] for i in chosen["pair_id"]]
        shown = self._nearest(targets, known) if self.embed else [self._drawn(t) for t in targets]
        return [
            Case(pair=t, attributes=known[t.id], examples=tuple(self.examples[r] for r in rows))
            for t, rows in zip(targets, shown, strict=True)
        ]

    def _drawn(self, target: Pair) -> list[int]:
        order = list(range(len(self.examples)))
        random.Random(digest(["examples", self.config.seed, target.id])).shuffle(order)
        free = (n for n in order if self.examples[n].pair.question_id != target.question_id)
        return list(islice(free, self.config.examples))

    def _nearest(self, targets: Sequence[Pair], known: Mapping[str, Attributes]) -> list[list[int]]:
        assert self.embed is not None
        vectors = self.embed([_text(self.by, t, known[t.id]) for t in targets]).astype(np.float16)
        questions = [e.pair.question_id for e in self.examples]
        own = [t.question_id for t in targets]
        return nearest_gold(vectors, self.vectors, self.config.examples, own, questions)


def _text(by: RetrieveBy, pair: Pair, attributes: Attributes) -> str:
    return retrieval_text(pair, attributes if by == "attributes" else None)


def described(given: Given, pairs: Mapping[str, Pair]) -> dict[str, Attributes]:
    """The attributes of some pairs: those that are known, else by rules."""
    known = given.attributes.of(pairs)
    return known | {i: rule_attributes(p) for i, p in pairs.items() if i not in known}


def _requests(config: JudgeConfig, chat: Model, cases: Sequence[Case]) -> list[Any]:
    samples = range(config.samples)
    return [judge_request(c, chat.name, s, config.seed, config.answers)[0] for c in cases for s in samples]


def _prepared(run: Run, given: Given, chosen: pl.DataFrame, config: JudgeConfig) -> dict[str, Any]:
    """Make pool, attributes and cases of the folder: what was judged is in it, whatever becomes of the source."""
    cases, attributes = run.table("cases", Case), run.table("attributes", Attributes)
    place, guide, shards, examples = Place.of(run.folder) / "pool", None, list[Shard](), 0
    for number, part in enumerate(_parts(chosen)):
        names = [f"{number * PREPARED + at:08}" for at in range(0, len(part), SHARD)]
        if not all(attributes.done(n) for n in names):
            guide = guide or Guide.of(given, config)
            made = guide.cases(part)
            for at, name in zip(range(0, len(part), SHARD), names, strict=True):
                cases.once(name, lambda some=made[at : at + SHARD]: some)  # type: ignore[misc]
                attributes.once(name, lambda some=made[at : at + SHARD]: [c.attributes for c in some])  # type: ignore[misc]
        told = [c for name in names for c in cases.stream(name)]
        examples += sum(len(c.examples) for c in told)
        pairs = sorted((c.pair for c in told), key=lambda p: (p.prompt_id, p.id))
        shard, tables = shard_of(f"0000-{number:02d}", 0, pairs, given.gold)
        put(place, shard, tables)
        shards.append(shard)
    gold = len(given.gold.keys() & set(chosen["pair_id"]))
    Pool(place=place, parts=1, shards=tuple(shards), knows=gold > 0).save()
    return {"pairs": len(chosen), "gold": gold, "examples": examples}


def _cases(run: Run, start: int) -> list[Case]:
    return run.table("cases", Case).read(f"{start:08}")


def _in_batches(run: Run, models: Sequence[Model], pairs: int, config: JudgeConfig, most: int) -> None:
    """Ask for the votes of many shards at once, as a batch takes hours however small it is; the shards are made of the
    kept replies then."""
    table = run.table("votes", Judgement)
    Progress(run.say, models, "pairs judged")
    starts = [s for s in range(0, pairs, SHARD) if not table.done(f"{s:08}")]
    together = max(1, most // (SHARD * config.samples))
    for at in range(0, len(starts), together):
        part = [c for s in starts[at : at + together] for c in _cases(run, s)]
        ask_ahead(models, part, samples=config.samples, seed=config.seed, form=config.answers)


def _vote(run: Run, models: Sequence[Model], pairs: int, config: JudgeConfig) -> None:
    """Every shard of votes that is not there yet. Raises Unreached at the end where servers left votes of some shard
    unanswered, which are then not done, and at once where a server is silent."""
    table = run.table("votes", Judgement)
    progress = Progress(run.say, models, "pairs judged")
    progress.total = pairs
    losses: list[Loss] = []
    for start in range(0, pairs, SHARD):
        shard = f"{start:08}"
        if not table.done(shard):
            part = _cases(run, start)
            try:
                table.write(
                    shard, llm_votes(models, part, samples=config.samples, seed=config.seed, form=config.answers)
                )
            except Unreached as failed:
                losses += failed.losses
                if failed.silent:
                    break
                continue
        progress.done += min(SHARD, pairs - start)
    run.say(progress.line(time.monotonic()))
    if losses:
        raise Unreached(losses)
