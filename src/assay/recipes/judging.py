"""`assay annotate`: LLM judges over pairs, guided by gold; all votes on disk, merged and reported as often as one likes.

    pairs, gold -> attributes -> nearest gold examples -> votes, shard by shard -> merge -> report

The folder holds its own pairs, attributes and gold, so that the report needs nothing else. A gold pair that is judged never
sees an example of its own question: else agreement with gold would be flattered.
"""

import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from assay.chat import ChatConfig
from assay.curate.annotate import MAX_EXAMPLES, Form, judge_request, llm_votes
from assay.curate.attributes import attribute_text, rule_attributes
from assay.curate.judge_page import markdown, page, sections, show
from assay.curate.judge_report import JudgeReport, judge_report
from assay.curate.merging import Gold, Merge, merge_votes
from assay.curate.offline import hash_embedder
from assay.curate.retrieve import Index
from assay.errors import AssayError
from assay.outage import Loss, Unreached
from assay.recipes.asking import (
    LOCAL,
    AskConfig,
    LocalName,
    Model,
    Progress,
    chat_configs,
    chats,
    estimates,
    show_estimate,
    spending,
)
from assay.recipes.sources import Material, read_material
from assay.records import Attributes, Case, Embedder, Example, Judgement, Pair, Truth, digest
from assay.run import Run, environment, jsonable
from assay.tables import Table, plain, write_text

SHARD = 250
"""Pairs that are judged before their votes are written as one shard; replies are on disk at once."""

Examples = Literal["nearest", "random", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig:
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
    embedder: str = "minilm"
    """Finds the nearest examples: a packaged encoder, a folder, a hub id, or `hash`, which needs no model."""
    temperature: float = 1.0
    max_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or not 0 <= self.examples <= MAX_EXAMPLES:
            raise AssayError(f"samples must be at least 1 and examples 0 to {MAX_EXAMPLES}")
        if self.limit < 0 or self.max_chars < 0 or self.max_tokens < 1 or self.temperature < 0:
            raise AssayError("limit, max_chars and temperature must not be negative, max_tokens at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a folder keeps to: its config, its judges by their models (a server may move), the content of what they judge."""

    judges: tuple[str, ...]
    pairs: Mapping[str, Any]
    gold: Mapping[str, Any]
    attributes: Mapping[str, Any]
    embedder: str
    config: JudgeConfig


def annotate(
    source: Path, out: Path, judges: Sequence[str], gold: Sequence[Path], config: JudgeConfig, asking: AskConfig,
    *, merge: Merge = "majority", attributes: Path | None = None, sets: Sequence[str] = (), dry_run: bool = False,
    replies: Path | None = None, console: Console | None = None,
) -> JudgeReport | None:  # fmt: skip
    """Judge the pairs of `source` and write the report; a dry run says what it would cost and asks nothing.

    `replies` is a cache that several folders share (default: one in `out`). Raises BudgetSpent when the budget ends; the
    same call with a larger one goes on.
    """
    material = read_material(source, gold, attributes, sets)
    chosen = targets(material, config)
    images = source / "images" if (source / "images").is_dir() else None
    if config.answers != "verdict" and any(j.endswith(f"@{LOCAL}") for j in judges):
        raise AssayError(f"a judge @{LOCAL} gives its verdict alone: add --answers verdict")
    configs = chat_configs(
        judges, "judge", asking, temperature=config.temperature, max_tokens=config.max_tokens, images=images
    )
    if dry_run:
        with tempfile.TemporaryDirectory() as place:
            cache = replies or out / "replies.sqlite"
            asked = chats(configs, cache if cache.exists() else Path(place) / "none.sqlite")
            cases = guided(material, chosen, config, None)
            show_estimate(estimates(asked, lambda c: _requests(c, cases, config)), console or Console(highlight=False))
        return None
    with closing(Run(out, keeps_to(material, chosen, configs, config), console)) as run:
        asked = chats(configs, replies or out / "replies.sqlite", asking.budget)
        cases = _prepared(run, material, chosen, config)
        _vote(run, asked, cases, config)
        return report(out, merge, asked)


def targets(material: Material, config: JudgeConfig) -> list[str]:
    """The ids of the pairs to judge, in an order that their content alone decides."""
    ids = [p for p in material.pairs if config.pairs == "all" or (p in material.gold) == (config.pairs == "gold")]
    fit = [p for p in ids if _fits(material.pairs[p], config)]
    if not fit:
        raise AssayError(
            f"no pairs to judge: {len(ids):,} of the kind '{config.pairs}', {len(fit):,} of them short enough"
        )
    order = sorted(fit, key=lambda p: digest(["target", p]))
    return order[: config.limit or None]


def keeps_to(
    material: Material, chosen: Sequence[str], judges: Sequence[ChatConfig | LocalName], config: JudgeConfig
) -> Kept:
    """Who judges what, by content: the same folder goes on with nothing else."""
    attributes = [plain(a) for _, a in sorted(material.attributes.items())]
    guided = config.guidance == "nearest" and config.examples
    return Kept(
        judges=tuple(c.name if isinstance(c, ChatConfig) else f"{c.model}@{LOCAL} {_whose(c.model)}" for c in judges),
        pairs={"n": len(chosen), "digest": digest(list(chosen))},
        gold={"n": len(material.gold), "digest": digest(sorted(material.gold.items()))},
        attributes={"n": len(attributes), "digest": digest(attributes)},
        embedder=_whose(config.embedder) if guided else "", config=config,
    )  # fmt: skip


def _whose(model: str) -> str:
    if model == "hash":
        return model
    from assay.models import whose

    return whose(model)


def _fits(pair: Pair, config: JudgeConfig) -> bool:
    messages = (*pair.prompt, *(m for r in pair.responses for m in r.messages))
    return not config.max_chars or sum(len(m.content) for m in messages) <= config.max_chars


def guided(material: Material, chosen: Sequence[str], config: JudgeConfig, vectors: Path | None) -> list[Case]:
    """The cases of the chosen pairs with their gold examples; `vectors`: where embeddings are kept."""
    known = dict(material.attributes)
    gold = sorted(p for p in material.gold if _fits(material.pairs[p], config))
    for pair_id in {*chosen, *gold} - known.keys():
        known[pair_id] = rule_attributes(material.pairs[pair_id])
    shown: Mapping[str, Sequence[str]] = {}
    if config.guidance == "random" and config.examples:
        shown = {t: _drawn(material, t, gold, config) for t in chosen}
    elif config.guidance == "nearest" and config.examples and gold:
        shown = _nearest(material, known, chosen, gold, config, vectors)
    examples = {g: Example(pair=material.pairs[g], attributes=known[g], better=material.gold[g]) for g in gold}
    return [
        Case(pair=material.pairs[t], attributes=known[t], examples=tuple(examples[g] for g in shown.get(t, ())))
        for t in chosen
    ]


def _may_guide(material: Material, target: str, example: str) -> bool:
    if target == example:
        return False
    return target not in material.gold or material.pairs[target].question_id != material.pairs[example].question_id


def _drawn(material: Material, target: str, gold: Sequence[str], config: JudgeConfig) -> list[str]:
    order = list(gold)
    random.Random(digest(["examples", config.seed, target])).shuffle(order)
    return [g for g in order if _may_guide(material, target, g)][: config.examples]


def _nearest(
    material: Material, known: Mapping[str, Attributes], chosen: Sequence[str], gold: Sequence[str],
    config: JudgeConfig, path: Path | None,
) -> dict[str, list[str]]:  # fmt: skip
    texts = {p: attribute_text(material.pairs[p], known[p]) for p in dict.fromkeys((*chosen, *gold))}
    vectors = _vectors(texts, config.embedder, path)
    most = max(Counter(material.pairs[g].question_id for g in gold).values())
    index = Index.of(vectors, gold)
    rows, _ = index.nearest(np.stack([vectors[t] for t in chosen]), config.examples + most)
    near = ((t, [index.ids[r] for r in row]) for t, row in zip(chosen, rows, strict=True))
    return {t: [g for g in ids if _may_guide(material, t, g)][: config.examples] for t, ids in near}


def _vectors(texts: Mapping[str, str], embedder: str, path: Path | None) -> dict[str, NDArray[np.float32]]:
    if path is None or not path.exists():
        vectors = local_embedder(embedder)(list(texts.values()))
        if path is None:
            return dict(zip(texts, vectors, strict=True))
        beside = path.with_name("vectors.tmp.npz")
        np.savez(beside, ids=np.array(list(texts)), vectors=vectors)
        beside.replace(path)
    with np.load(path) as saved:
        return dict(zip(saved["ids"].tolist(), saved["vectors"], strict=True))


def local_embedder(name: str) -> Embedder:
    """A packaged encoder, a folder, a hub id, or `hash`."""
    if name == "hash":
        return hash_embedder()
    from assay.models import load_embedder

    return load_embedder(name)


def _requests(chat: Model, cases: Sequence[Case], config: JudgeConfig) -> list[Any]:
    samples = range(config.samples)
    return [judge_request(c, chat.name, s, config.seed, config.answers)[0] for c in cases for s in samples]


def _prepared(run: Run, material: Material, chosen: Sequence[str], config: JudgeConfig) -> list[Case]:
    """The cases, made once: what was judged is in the folder, whatever becomes of the source."""
    table = run.table("cases", Case)
    cases = table.once("all", lambda: guided(material, chosen, config, run.folder / "vectors.npz"))
    if [c.pair.id for c in cases] != list(chosen):
        raise AssayError(f"{run.folder}: the pairs of the source have changed since it was begun; use another --out")
    run.table("pairs", Pair).once("all", lambda: [c.pair for c in cases])
    run.table("attributes", Attributes).once("all", lambda: [c.attributes for c in cases])
    judged = set(chosen)
    run.table("truth", Truth).once(
        "all", lambda: [Truth(pair_id=p, better=b) for p, b in material.gold.items() if p in judged]
    )
    seen = sum(len(c.examples) for c in cases) / len(cases)
    run.say(
        f"{len(cases):,} pairs to judge, {len(judged & material.gold.keys()):,} of them gold, {seen:.1f} examples each"
    )
    return cases


def _vote(run: Run, models: Sequence[Model], cases: Sequence[Case], config: JudgeConfig) -> None:
    """Every shard of votes that is not there yet. Raises Unreached at the end where servers left votes of some shard
    unanswered, which are then not done, and at once where a server is silent."""
    table = run.table("votes", Judgement)
    progress = Progress(run.say, models, "pairs judged")
    progress.total = len(cases)
    losses: list[Loss] = []
    for start in range(0, len(cases), SHARD):
        part = cases[start : start + SHARD]
        shard = f"{start:08}"
        if not table.done(shard):
            try:
                table.write(
                    shard, llm_votes(models, part, samples=config.samples, seed=config.seed, form=config.answers)
                )
            except Unreached as failed:
                losses += failed.losses
                if failed.silent:
                    break
                continue
        progress.done += len(part)
    run.say(progress.line(time.monotonic()))
    if losses:
        raise Unreached(losses)


def report(folder: Path, merge: Merge, models: Sequence[Model] | None = None) -> JudgeReport:
    """Merge the votes that lie in `folder`, write judgements.jsonl and the report as JSON, Markdown and HTML."""
    votes = Table(folder / "tables" / "votes", Judgement).read()
    if not votes:
        raise AssayError(f"{folder}: no votes here; make them with: assay annotate run")
    pairs = {p.id: p for p in Table(folder / "tables" / "pairs", Pair).stream()}
    known = {a.pair_id: a for a in Table(folder / "tables" / "attributes", Attributes).stream()}
    better = {t.pair_id: t.better for t in Table(folder / "tables" / "truth", Truth).stream()}
    gold = Gold(better=better, questions={p: pair.question_id for p, pair in pairs.items()})
    merged = merge_votes(votes, merge, gold)
    costs = _costs(folder, models)
    found = judge_report(votes, merged, merge, pairs, known, gold, costs)
    write_text(folder / "judgements.jsonl", "".join(json.dumps(plain(j)) + "\n" for j in merged))
    about = environment()
    write_text(folder / "report.json", json.dumps({"environment": about, **jsonable(found)}, indent=2) + "\n")
    tables = sections(found)
    write_text(folder / "report.md", markdown(tables))
    write_text(folder / "report.html", page(tables, f"LLM judges: {folder.name}", about))
    return found


def _costs(folder: Path, models: Sequence[Model] | None) -> list[dict[str, Any]]:
    """Costs with today's prices; without servers at hand, those of the last report."""
    if models is not None:
        return spending(models)
    path = folder / "report.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["costs"]) if path.exists() else []


def show_report(found: JudgeReport, folder: Path, console: Console) -> None:
    show(sections(found), console)
    console.print(f"judgements: {folder / 'judgements.jsonl'}; report: {folder / 'report.html'}, .md, .json")
