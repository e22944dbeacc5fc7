"""The main path: a pool through stage 1 and stage 2 to trained reward models, benchmarks and a report.

    pool -> dedup, decontaminate -> attributes, vectors -> per seed: stage 1 -> stage 2 -> claims -> benchmarks -> report

Everything that a seed decides lives in its own run folder `seed-N/` inside the run; what it does not (the pool, the
attributes, the vectors) is made once.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.bench.reward import prompts as benchmark_prompts
from assay.chat import Chat
from assay.curate.attributes import AttributesProblem, attribute_text, llm_attributes, rule_attributes
from assay.curate.decontaminate import Hit, decontaminate
from assay.curate.dedup import deduplicate
from assay.curate.settle import settle_all
from assay.curate.stage1 import Material, Stage1Config, Stage1Result, Tools, stage1
from assay.curate.stage2 import Stage2Config, stage2
from assay.errors import AssayError
from assay.recipes.embedders import EmbedderConfig
from assay.recipes.pools import Pool
from assay.records import Attributes, Conversation, Embedder, Judgement, Label, Pair, Preference, Scorer, Truth, digest
from assay.reward.config import TrainConfig
from assay.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowConfig(EmbedderConfig):
    """One `assay run`: sizes of the splits, of the loop, and of the models."""

    recipe: str
    seeds: int = 1
    eval_share: float = 0.2
    """Share of the prompts with a known answer that are held out for evaluation only."""
    stage1_share: float = 0.4
    """Share of the remaining prompts that form the pool of stage 1; the rest is in the wild (stage 2)."""
    evaluation_pairs: int = 0
    """At most this many pairs for evaluation (0: all of the share)."""
    presentations: int = 0
    """At most this many pairs are presented in one training, repeats included, so that a larger set does not buy more
    compute (0: only `train.epochs` decides)."""
    stage1: Stage1Config = field(default_factory=Stage1Config)
    stage2: Stage2Config = field(default_factory=Stage2Config)
    train: TrainConfig = field(default_factory=TrainConfig)
    benchmarks: Path | None = None
    """Folder with the released benchmark files; None leaves the public benchmarks out."""
    bench_limit: int = 0
    """At most this many items of each benchmark, a stratified sample (0: all)."""

    def __post_init__(self) -> None:
        EmbedderConfig.__post_init__(self)
        if self.seeds < 1:
            raise AssayError(f"seeds must be at least 1, got {self.seeds}")
        for name in ("eval_share", "stage1_share"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise AssayError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Pair ids by use; a prompt is in exactly one of them."""

    evaluation: list[str]
    stage1: list[str]
    stage2: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The cleaned pool with all that no seed decides."""

    pool: Pool
    split: Split
    attributes: dict[str, Attributes]
    vectors: dict[str, NDArray[np.float32]]

    def material(self, ids: Sequence[str]) -> Material:
        chosen = set(ids)
        return Material(
            pairs={i: self.pool.pairs[i] for i in ids},
            wild=[j for j in self.pool.wild if j.pair_id in chosen],
            attributes=self.attributes,
            vectors=self.vectors,
        )

    def evaluation(self) -> list[Preference]:
        return [self.pool.pairs[i].preferring(self.pool.truth[i]) for i in self.split.evaluation]


def prepare(run: Run, config: FlowConfig, pool: Pool, embed: Embedder, chat: Chat | None = None) -> Prepared:
    """Dedup, decontaminate, split by question, attributes (by the LLM `chat`, or by rules), vectors.

    Counts in and out are steps of the run.
    """
    pool = _clean(run, config, pool)
    split = split_by_prompt(pool, config)
    run.once("prepare/split", lambda: {
        "evaluation": len(split.evaluation), "stage1": len(split.stage1), "stage2": len(split.stage2),
    })  # fmt: skip
    rows = run.table("attributes", Attributes).once("pool", lambda: _describe(run, list(pool.pairs.values()), chat))
    attributes = {a.pair_id: a for a in rows}
    return Prepared(pool=pool, split=split, attributes=attributes, vectors=_vectors(run, pool, attributes, embed))


def _clean(run: Run, config: FlowConfig, pool: Pool) -> Pool:
    unique = deduplicate(pool.pairs.values(), pool.wild)
    prompts = benchmark_prompts(config.benchmarks) if config.benchmarks else {}
    result = decontaminate(unique.pairs, prompts)
    run.table("contamination", Hit).once("hits", lambda: result.hits)
    pairs = {p.id: p for p in result.kept}
    wild = [j for j in unique.judgements if j.pair_id in pairs]
    truth = {i: t for i, t in pool.truth.items() if i in pairs}
    run.table("pairs", Pair).once("pool", lambda: pairs.values())
    run.table("wild", Judgement).once("pool", lambda: wild)
    run.table("truth", Truth).once("pool", lambda: [Truth(pair_id=i, better=b) for i, b in truth.items()])
    known = [label for label in settle_all(wild, "pool") if label.pair_id in truth and label.chosen]
    left = digest(sorted(pairs))
    begun = run.once("prepare/pool", lambda: {
        "read": pool.read, "duplicates": pool.read - len(unique.pairs), "conflicting": len(unique.conflicts),
        "contaminated": len(unique.pairs) - len(pairs), "pairs": len(pairs),
        "prompts": len({p.prompt_id for p in pairs.values()}),
        "wild_error": sum(k.chosen != truth[k.pair_id] for k in known) / len(known) if known else None,
        "wild_checked": len(known), "digest": left,
    })  # fmt: skip
    if begun.get("digest", left) != left:
        raise AssayError(
            f"{run.folder}: other pairs are left of the pool than when this run began ({begun['pairs']:,} then, "
            f"{len(pairs):,} now): the benchmarks that it is cleaned of have changed; use another --out, or those of then"
        )
    return Pool(pairs=pairs, wild=wild, truth=truth, stage2_only=pool.stage2_only)


def split_by_prompt(pool: Pool, config: FlowConfig) -> Split:
    """Whole questions to evaluation (known answers only), stage 1 and stage 2: a pure function of their content."""
    evaluation, first, second = [], [], []
    eval_share = config.eval_share if pool.truth else 0.0
    for pair in sorted(pool.pairs.values(), key=lambda p: p.id):
        place = int(digest(["split", pair.question_id])[:8], 16) / 16**8
        rest = (place - eval_share) / (1 - eval_share)
        if place < eval_share:
            if pair.id in pool.truth:
                evaluation.append(pair.id)
        elif pair.id not in pool.stage2_only and (pool.stage2_only or rest < config.stage1_share):
            first.append(pair.id)
        else:
            second.append(pair.id)
    if config.evaluation_pairs:
        evaluation = evaluation[: config.evaluation_pairs]
    return Split(evaluation=evaluation, stage1=first, stage2=second)


def _describe(run: Run, pairs: Sequence[Pair], chat: Chat | None) -> list[Attributes]:
    """The attributes of every pair; what the LLM answers wrongly the rules answer, and these failures are counted by reason.
    Raises Unreached where its server did not answer."""
    if chat is None:
        return [rule_attributes(p) for p in pairs]
    found = llm_attributes(chat, pairs)
    problems = Counter(a.problem for a in found if isinstance(a, AttributesProblem))
    run.once("prepare/attributes", lambda: {"asked": len(pairs), "problems": dict(problems)})
    return [a if isinstance(a, Attributes) else rule_attributes(p) for a, p in zip(found, pairs, strict=True)]


def _vectors(
    run: Run, pool: Pool, attributes: dict[str, Attributes], embed: Embedder
) -> dict[str, NDArray[np.float32]]:
    """Unit vectors of (x, a) by pair id; each distinct text is embedded once, and the result is kept on disk."""
    path = run.folder / "vectors.npz"
    if not path.exists():
        run.say("embedding conversations and attributes")
        texts = [attribute_text(p, attributes[p.id]) for p in pool.pairs.values()]
        distinct = sorted(set(texts))
        at = {text: n for n, text in enumerate(distinct)}
        vectors = embed(distinct)
        beside = path.with_name("vectors.tmp.npz")
        np.savez(beside, ids=np.array(list(pool.pairs)), vectors=vectors[[at[t] for t in texts]])
        beside.replace(path)
    with np.load(path) as saved:
        return dict(zip(saved["ids"].tolist(), saved["vectors"], strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Curated:
    """What a seed's two stages came to."""

    stage1: Stage1Result
    stage2: list[Label]


def curate(
    run: Run, config: FlowConfig, prepared: Prepared, tools: Tools, seed: int, *, resettle: bool = False
) -> Curated:
    """Stage 1, then stage 2 with the reward models of stage 1; `resettle`: see `stage1`."""
    material = prepared.material(prepared.split.stage1)
    first = stage1(run, config.stage1, material, tools, seed, resettle=resettle)
    second = stage2(run, config.stage2, prepared.material(prepared.split.stage2), first, tools.judge)
    counts: dict[str, int] = {}
    for label in (*first.labels, *second):
        key = f"{label.stage} | {label.tier} | {label.fate} | {label.reason}"
        counts[key] = counts.get(key, 0) + 1
    run.once("labels", lambda: {"counts": counts})
    return Curated(stage1=first, stage2=second)


def trainer(
    run: Run, config: FlowConfig, seed: int
) -> Callable[[str, Sequence[Preference], Sequence[Preference]], Scorer]:
    """The `Train` function of a seed's run: trains (or resumes, or finds) `models/NAME`, which is loaded when it is
    first asked for a reward."""
    from assay.reward.scorer import load_scorer
    from assay.reward.train import train

    def fit(name: str, pairs: Sequence[Preference], gold: Sequence[Preference]) -> Scorer:
        epochs = config.train.epochs
        if config.presentations:
            epochs = min(epochs, config.presentations / max(1, len(pairs)))
        settings = fed(replace(config.train, seed=config.train.seed + seed, epochs=epochs), pairs, name, run)
        trained = train(run.folder / "models" / name, settings, pairs, gold, run.say)

        return _Lazy(lambda: load_scorer(
            trained.folder, settings.max_tokens, settings.engine.tokens, settings.precision, images=settings.images
        ))  # fmt: skip

    return fit


class _Lazy:
    """A scorer that is loaded when it is first asked. Conversations that its model cannot read have no reward (NaN)."""

    may_fail = True

    def __init__(self, load: Callable[[], Scorer]) -> None:
        self._load = cache(load)

    def __call__(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        return self._load()(conversations)


def fed(settings: TrainConfig, pairs: Sequence[Preference], name: str, run: Run) -> TrainConfig:
    """The settings for one of a run's models: a part of the loss that its labels cannot feed is left out, and told."""
    from assay.reward.data import MemoryPairs
    from assay.reward.train import idle

    found = idle(settings.loss, MemoryPairs(pairs)) if settings.loss.margin or settings.loss.soft_labels else {}
    for why in found.values():
        run.say(f"{name}: {why}; trained without")
    return replace(settings, loss=replace(settings.loss, **dict.fromkeys(found, False))) if found else settings
