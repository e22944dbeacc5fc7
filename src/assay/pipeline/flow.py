"""The main path: a pool through stage 1 and stage 2 to trained reward models, benchmarks and a report.

    pool -> decontaminate, split -> attributes, vectors -> per seed: stage 1 -> stage 2 -> product -> benchmarks -> report

Everything that a seed decides lives in its own run folder `seed-N/` inside the run; what it does not (the index, the
attributes, the vectors) is made once, shard by shard.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import get_args

from assay.bench.reward import prompts as benchmark_prompts
from assay.curate.attributes import AttributesProblem, RetrieveBy, llm_attributes
from assay.curate.material import Material
from assay.curate.prepare import Described, Slice, SplitConfig, Use, prepare
from assay.curate.rules import rule_attributes
from assay.curate.shards import Pool
from assay.curate.stage1 import Stage1Config, Stage1Result, Tools, stage1
from assay.curate.stage2 import Stage2Config, Stage2Result, fates, stage2
from assay.engine import Engine
from assay.errors import AssayError
from assay.judges.embedders import EmbedderConfig, Encoder
from assay.llm.chat import Chat
from assay.pipeline.counted import counted
from assay.pipeline.policy_config import TuningConfig
from assay.records import Attributes, Label, Pair, digest
from assay.reward.config import TrainConfig
from assay.run import Run
from assay.store import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowConfig(EmbedderConfig):
    """One `assay run`: sizes of the splits, of the loop, and of the models."""

    recipe: str
    seeds: int = 1
    eval_share: float = 0.2
    """Share of the prompts with a known answer that are held out for evaluation only."""
    stage1_share: float = 0.4
    """Share of the remaining prompts that form the pool of stage 1; the rest is in the wild (stage 2)."""
    near_duplicates: float = 0.0
    """Of pairs whose texts are at least so alike (Jaccard of five-word shingles, verified) one is kept; 0: all are."""
    evaluation_gold: int = 100
    """Of a pool that knows no truth: so many pairs, at most a fifth of them, are drawn for people to verify with the first
    others, to measure the models by and for nothing else (0: none; held gold measures then, which chose the checkpoints)."""
    evaluation_pairs: int = 10_000
    """At most this many pairs measure, drawn at random of those for evaluation (0: all, whose text is then in memory)."""
    presentations: int = 0
    """At most this many pairs are presented in one training, repeats included, so that a larger set does not buy more
    compute (0: only `train.epochs` decides)."""
    stage1: Stage1Config = field(default_factory=Stage1Config)
    stage2: Stage2Config = field(default_factory=Stage2Config)
    train: TrainConfig = field(default_factory=TrainConfig)
    offline_judge: bool = False
    """Without judges that are servers: let the offline judge (`curate.offline`) label, relabel and flip pairs. It knows
    nothing but the gold that resembles a pair. Without any judge the labels of sources are kept or dropped."""
    claims: bool = False
    """Test the papers' claims too: train their comparison arms, compare judges and filters with the truth. A finished run
    can be given them later."""
    tune: str = ""
    """Questions (a file or folder, as for `assay policy grpo`) on which a policy is tuned with the released reward model
    and with that of all raw labels: does curation pay there? "embedded": instructions like the embedded pool's, whose
    demand is checked. A finished run can be given them later."""
    tuning: TuningConfig = field(default_factory=TuningConfig)
    """Which policy, and how."""
    benchmarks: Path | None = None
    """Folder with the released benchmark files; None leaves the public benchmarks out."""
    bench_limit: int = 0
    """At most this many items of each benchmark, a stratified sample (0: all)."""

    def __post_init__(self) -> None:
        EmbedderConfig.__post_init__(self)
        if self.seeds < 1:
            raise AssayError(f"seeds must be at least 1, got {self.seeds}")
        if not 0.0 <= self.near_duplicates <= 1.0:
            raise AssayError(f"near_duplicates must lie between 0 and 1, got {self.near_duplicates}")
        for name in ("evaluation_gold", "evaluation_pairs", "presentations", "bench_limit"):
            if getattr(self, name) < 0:
                raise AssayError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("eval_share", "stage1_share"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise AssayError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")


def prepared(
    run: Run, config: FlowConfig, pool: Pool, encoder: Encoder, engine: Engine, chat: Chat | None = None, describer: str = ""
) -> Material:  # fmt: skip
    """Decontaminate, split by question, attributes (by the LLM `chat`, or by rules), vectors. Counts in and out are steps of
    the run. Raises Unreached where the server of `chat` did not answer."""
    how = Described(name=describer, ask=_asker(run, chat)) if chat is not None else Described()
    by, out = config.by(described=chat is not None), Place.of(run.folder.absolute()) / "tables"
    material = Material(pool=pool, slices=_slices(run, config, pool, encoder, engine, how, by), out=out, engine=engine)
    material.save(Place.of(run.folder))
    run.once("prepare/pool", lambda: counted(pool, material, _split(config)))
    sizes = {use: material.size(use) for use in get_args(Use)}
    run.once("prepare/split", lambda: {"by_people": not pool.knows, **sizes})
    return material


def by_rules(run: Run, config: FlowConfig, material: Material, encoder: Encoder) -> Material:
    """The material of a run with other vectors: of conversations with the attributes that rules give them. Its other tables
    are those of the run."""
    slices = _slices(run, config, material.pool, encoder, material.engine, Described(), "attributes")
    return replace(material, slices=slices)


def _slices(
    run: Run, config: FlowConfig, pool: Pool, encoder: Encoder, engine: Engine, how: Described, by: RetrieveBy
) -> tuple[Slice, ...]:
    out, watched = Place.of(run.folder.absolute()) / "tables", _watched(run, config)
    return prepare(
        pool, out, _split(config), watched, encoder, encoder.reading, engine, how, run.say, partial(_timed, run), by
    )  # fmt: skip


def _split(config: FlowConfig) -> SplitConfig:
    return SplitConfig(
        eval_share=config.eval_share,
        stage1_share=config.stage1_share,
        held_share=config.stage1.held_share,
        near_duplicates=config.near_duplicates,
        evaluation_gold=config.evaluation_gold,
    )


def _watched(run: Run, config: FlowConfig) -> dict[str, list[str]]:
    """The prompts that no pair may share text with. Raises AssayError where they have changed since the run began."""
    if not config.benchmarks:
        return {}
    prompts = {k: list(v) for k, v in benchmark_prompts(config.benchmarks).items()}
    told = digest(prompts)
    if run.once("prepare/benchmarks", lambda: {"digest": told})["digest"] != told:
        raise AssayError(
            f"{run.folder}: the benchmarks that the pool is cleaned of have changed since this run began; use another "
            "--out, or those of then"
        )
    return prompts


@contextmanager
def _timed(run: Run, stage: str) -> Iterator[None]:
    """Note how long a stage took, the first time that it comes to its end."""
    start, cpu = time.monotonic(), time.process_time()
    yield
    took = {"seconds": round(time.monotonic() - start, 2), "cpu_s": round(time.process_time() - cpu, 2)}
    run.once(f"prepare/{stage}", lambda: took)


def _asker(run: Run, chat: Chat) -> Callable[[str, Sequence[Pair]], list[Attributes]]:
    """Attributes by an LLM; what it answers wrongly the rules answer, and these failures are counted by reason."""

    def ask(part: str, pairs: Sequence[Pair]) -> list[Attributes]:
        found = llm_attributes(chat, pairs)
        problems = Counter(a.problem for a in found if isinstance(a, AttributesProblem))
        run.once(f"prepare/described/{part}", lambda: {"asked": len(pairs), "problems": dict(problems)})
        return [a if isinstance(a, Attributes) else rule_attributes(p) for a, p in zip(found, pairs, strict=True)]

    return ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Curated:
    """What a seed's two stages came to; `done` has no second one while stage 1 is all there is."""

    stage1: Stage1Result
    done: Stage2Result | None = None

    @property
    def stage2(self) -> Stage2Result:
        assert self.done is not None, "stage 2 is still to come"
        return self.done


def curate(
    run: Run, config: FlowConfig, material: Material, tools: Tools, seed: int, *, resettle: bool = False,
    between: Callable[[Curated], None] = lambda _: None,
) -> Curated:  # fmt: skip
    """Stage 1, then stage 2 with the reward models of stage 1; `resettle`: see `stage1`. `between` them, what stage 1 came
    to is looked at."""
    first = stage1(run, config.stage1, material, tools, seed, resettle=resettle)
    between(Curated(stage1=first))
    second = stage2(run, config.stage2, material, first, tools.judge, tools.at_once, tools.score)
    labels = run.table("labels", Label)
    told = (labels.frame(shard, columns=["stage", "tier", "fate", "reason"]) for shard in labels.shards())
    run.once("labels", lambda: {"counts": fates(told)})
    return Curated(stage1=first, done=second)
