"""Stage 2 of paper A (section 3.3, our A.7): no people. Every in-the-wild pair is kept, flipped or dropped, with its reason.

    best RM sure of the wild label ---------------------+
    else: LLM judges, guided by the nearest gold -------+--> and the gold RM agrees --> kept
                                                        +--> else dropped --> all say the opposite --> flipped

Judges are asked only where their word can change a pair's fate. A server that did not answer leaves its pairs waiting
(`Unreached`), and their shard is not done; where no answer of the judges can be read the pair is dropped: neither is "did
not decide".

Keep rule: kept iff the gold RM agrees with the original label AND (the best RM OR the judges do). The paper's text lets a
pair with p > 0.5 pass unchecked, its figure and its rule do not; we follow the rule. "Close to 0.5" is `band`.
Without a judge nobody is asked, and nothing is flipped: only judges that saw people's gold may turn a label round.
"Flipped" recycles a dropped pair whose original label is contradicted by gold RM, best RM and, where they spoke, the
judges (A3, H.4); the paper defines the flipped pool in several ways.

Four tables, each a shard for every shard of the pool, whose name says what it is of:

    rewards/best-rm+gold-rm/SHARD      what both reward models give both responses: one pass over the text
    asked/, judgements/ stage2-SHARD   who is asked, and block by block what judges say
    evidence/stage2-SHARD              p of both models, and the judges' word
    labels/stage2-SHARD                the keep rule, over columns
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import polars as pl
import pyarrow as pa

from assay import session
from assay.curate.book import AT_ONCE, Asked, Gold, judged
from assay.curate.keep_rule import beside, counts_frame, decided
from assay.curate.material import Material
from assay.curate.prepare import Slice
from assay.curate.scores import Together, chances, rewards
from assay.curate.shares import counted, share_of
from assay.curate.stage1 import Stage1Result
from assay.engine import make
from assay.errors import AssayError
from assay.figures import told
from assay.llm.outage import Unreached
from assay.records import Judge, Judgement, Label, question_id, shown_to
from assay.run import Run
from assay.statistics import Estimate
from assay.store import Place
from assay.tables import frame_to_arrow, read_frame

BEST, GOLD = "best-rm", "gold-rm"
"""The two reward models of stage 1, as `models/` has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage2Config:
    """`band`: the best RM counts as sure of a label only above 0.5 + band (the paper gives no width)."""

    band: float = 0.1
    examples: int = 8

    def __post_init__(self) -> None:
        if not 0.0 <= self.band < 0.5:
            raise AssayError(f"stage2.band must lie in [0, 0.5), got {self.band}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one wild pair: the probability that each RM gives its original label (None: it gave no number), and
    the judges' word."""

    pair_id: str
    original: str
    p_best: float | None
    p_gold: float | None
    judge: str | None
    """The response that the judges prefer; None when they were not asked or did not decide."""
    problem: str = ""
    """Why the judges, where they were asked, prefer none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage2Result:
    """The files of stage 2 by shard of the pool: `Rewarded`, `Evidence` and `Label` rows."""

    material: Material
    rewards: Mapping[str, Place]
    evidence: Mapping[str, Place]
    labels: Mapping[str, Place]

    def of(self, part: Slice, *fates: str) -> pl.DataFrame:
        """The labels of one shard, of some fates (default: all)."""
        found = read_frame(self.labels[part.name])
        return found.filter(pl.col("fate").is_in(fates)) if fates else found

    def frames(self, *fates: str) -> Iterator[tuple[Slice, pl.DataFrame]]:
        """The labels, shard by shard, with `at`."""
        return ((part, self.of(part, *fates).with_columns(at=pl.lit(part.name))) for part in self.material.slices)


def stage2(
    run: Run, config: Stage2Config, material: Material, first: Stage1Result, judge: Judge | None, at_once: int = AT_ONCE,
    score: Together | None = None,
) -> Stage2Result:  # fmt: skip
    """Settle the pairs for stage 2, shard by shard; every shard is made once.

    Args:
        run: Its tables keep what is made.
        config: The band, and how many gold examples guide a judge.
        material: The pool.
        first: The reward models and the gold of stage 1.
        judge: Asked in blocks of one shard's pairs (None: nobody is asked, and nothing is flipped).
        at_once: Pairs of a block.
        score: How the two reward models score pairs together (default: one after the other).

    Raises Unreached where servers left pairs unanswered: nothing is written of their blocks and shards, all others are done.
    """
    place = Place.of(run.folder) / "tables"
    scored = rewards(material, place, {BEST: first.best, GOLD: first.gold_rm}, run.say, score)
    held = pl.Series("held", sorted({question_id(p.prompt) for p in first.held}), pl.String)
    asked = _Asking(
        run=run, config=config, material=material, gold=first.gold, judge=judge, at_once=at_once, held=held,
        labelled=first.labels.select("pair_id", "at"),
    )  # fmt: skip
    words = dict[str, list[Place]]()
    for n, part in enumerate(material.slices):
        session.at("shards judged in stage 2", n, len(material.slices), run.say)
        if (found := asked.words(part, scored[part.name])) is not None:
            words[part.name] = found
    heard = [s for s in material.slices if s.name in words]
    aside = {s.name: asked.settled(s) for s in heard}
    work = {s.name: _Known(part=s, rewards=scored[s.name], words=words[s.name], aside=aside[s.name]) for s in heard}
    named = {s.name: f"stage2-{s.key}" for s in heard}
    evidence = make(material.engine, place / "evidence", gathered, {named[n]: w for n, w in work.items()})
    settled = {named[s.name]: (s, evidence[named[s.name]], aside[s.name]) for s in heard}
    rule = partial(settle_slice, config.band, judge is not None)
    labels = make(material.engine, place / "labels", rule, settled)
    if asked.lost:
        raise Unreached([loss for error in asked.lost for loss in error.losses])
    if judge is not None and not run.has("stage2/judges"):
        turned = run.once("stage2/judges", lambda: _overturned(material, evidence, named))["overturned"]
        share = told(Estimate(**turned)) if turned else "none"
        run.say(f"judges of stage 2 turned over {share} of the sources' labels that they were asked about")
    return Stage2Result(
        material=material, rewards=scored, evidence={n: evidence[k] for n, k in named.items()},
        labels={n: labels[k] for n, k in named.items()},
    )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class _Asking:
    """The judges, asked about one shard after the other. `lost`: what their servers left unanswered."""

    run: Run
    config: Stage2Config
    material: Material
    gold: Gold
    judge: Judge | None
    at_once: int
    held: pl.Series
    """Questions whose gold measures: judges are not asked about them, for nobody may train on what they would say."""
    labelled: pl.DataFrame
    """The pairs (`pair_id`, `at`) that stage 1 has labelled: people may have spoken of pairs of stage 2, and that stands."""
    lost: list[Unreached] = field(default_factory=list)

    def settled(self, part: Slice) -> pl.Series:
        """The ids of a shard's pairs that stage 1 has labelled."""
        return self.labelled.filter(pl.col("at") == part.name)["pair_id"]

    def words(self, part: Slice, rewards: Place) -> list[Place] | None:
        """What judges say of a shard's pairs, a file for each block; None where some of them wait for a server."""
        table, rows, files = self.run.table("judgements", Judgement), self._asked(part, rewards), list[Place]()
        for (block,), some in rows.group_by("block", maintain_order=True):
            shard = f"stage2-{part.key}-{block:05d}"
            if not table.done(shard) and not self._put(shard, some):
                continue
            files.append(table.file(shard))
            if table.frame(shard, columns=["pair_id"])["pair_id"].to_list() != some["pair_id"].to_list():
                raise AssayError(
                    f"{self.run.folder}: the judgements in {shard} are not of the pairs that were asked about; files were "
                    "changed: use another --out"
                )
        return files if len(files) == rows["block"].n_unique() else None

    def _asked(self, part: Slice, rewards: Place) -> pl.DataFrame:
        """The pairs of a shard whose fate hangs on the judges: chosen and written once."""
        table, shard = self.run.table("asked", Asked), f"stage2-{part.key}"
        if not table.done(shard):
            unsure = _with_p(part, rewards, self.settled(part))
            unsure = unsure.filter(counts_frame(unsure, self.config.band))
            unsure = unsure.filter(~pl.col("question_id").is_in(self.held.implode()))
            unsure = unsure if self.judge is not None else unsure.clear()
            block = pl.int_range(len(unsure), eager=True) // self.at_once
            rows = unsure.with_columns(at=pl.lit(part.name), of=pl.lit("judges"), block=block)
            table.put(shard, frame_to_arrow(Asked, rows))
        return table.frame(shard)

    def _put(self, shard: str, rows: pl.DataFrame) -> bool:
        """Ask about a block, unless servers are silent; whether they answered."""
        if self.lost and self.lost[-1].silent:
            return False
        assert self.judge is not None, "without a judge nobody is asked"
        try:
            known = list(self.material.known(rows).values())
            words = judged(self.judge, self.gold.cases(known, shown_to(self.judge, self.config.examples)))
        except Unreached as error:
            self.lost.append(error)
            return False
        self.run.table("judgements", Judgement).write(shard, words)
        return True


def _with_p(part: Slice, rewards: Place, aside: pl.Series) -> pl.DataFrame:
    """A shard's pairs of stage 2 that have an original label, with `p_best` and `p_gold` of it; without those `aside`."""
    wild = part.frame(["pair_id", "question_id", "held", "first", "second", "original", "use"])
    wild = wild.filter(
        (pl.col("use") == "stage2") & pl.col("original").is_not_null() & ~pl.col("pair_id").is_in(aside.implode())
    )
    found = read_frame(rewards)
    return wild.with_columns(p_best=chances(found, BEST, wild), p_gold=chances(found, GOLD, wild))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    part: Slice
    rewards: Place
    words: Sequence[Place]
    aside: pl.Series


def gathered(item: _Known) -> pa.Table:
    """Stage: the `Evidence` rows of a shard, in the order of its index."""
    columns = ["pair_id", "better", "problem"]
    empty = pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    words = pl.concat([empty, *(read_frame(file, columns) for file in item.words)])
    found = _with_p(item.part, item.rewards, item.aside).join(words, on="pair_id", how="left", maintain_order="left")
    return frame_to_arrow(Evidence, found.with_columns(judge=pl.col("better"), problem=pl.col("problem").fill_null("")))


def settle_slice(band: float, judged: bool, item: tuple[Slice, Place, pl.Series]) -> pa.Table:
    """Stage: the labels of a shard's pairs of stage 2, from its `Evidence`; none for those that stand aside."""
    part, evidence, aside = item
    wild = part.frame(["pair_id", "first", "second", "original", "certainty", "strength", "use"])
    other = pl.when(pl.col("original") == pl.col("first")).then("second").otherwise("first")
    due = (pl.col("use") == "stage2") & ~pl.col("pair_id").is_in(aside.implode())
    rows = wild.filter(due).with_columns(other=other)
    found = beside(rows, rows["original"].is_not_null(), read_frame(evidence).drop("original"))
    return frame_to_arrow(Label, decided(found, band, judged=judged))


def _overturned(material: Material, evidence: Mapping[str, Place], named: Mapping[str, str]) -> dict[str, object]:
    """How many of the sources' labels that judges were asked about they turned over, of those that they decided."""
    counts, asked = list[pl.DataFrame](), 0
    for some in material.by_part():
        known = pl.concat([
            read_frame(evidence[named[p.name]], ["pair_id", "original", "judge", "problem"]).join(
                p.frame(["pair_id", "question_id"]), on="pair_id"
            ) for p in some
        ])  # fmt: skip
        spoke = known.filter(pl.col("judge").is_not_null())
        asked += len(spoke) + len(known.filter(pl.col("judge").is_null() & (pl.col("problem") != "")))
        counts.append(counted(spoke.select("question_id", hit=pl.col("judge") != pl.col("original"))))
    return {"asked": asked, "overturned": share_of(counts)}


def fates(frames: Iterable[pl.DataFrame]) -> dict[str, int]:
    """How many labels there are of each "stage | tier | fate | reason"."""
    counts = Counter[tuple[str, ...]]()
    for frame in frames:
        for *label, n in frame.group_by("stage", "tier", "fate", "reason").len().iter_rows():
            counts[tuple(label)] += n
    return {" | ".join(label): n for label, n in sorted(counts.items())}
