"""The keep rule of stage 2 (paper A, section 3.3; our A.7), over narrow columns only; `stage2` says where it comes from.

Kept iff the gold RM agrees with the original label AND (the best RM OR the judges do); flipped where gold RM, best RM and,
where they spoke, the judges contradict it; else dropped. The best RM agrees only above 0.5 + `band`.
"""

import numpy as np
import polars as pl

from assay.curate.votes import pick
from assay.records import Fate

REASONS: tuple[tuple[Fate, str], ...] = (
    ("kept", "gold RM and best RM agree with the original label"),
    ("kept", "gold RM and judges agree with the original label"),
    ("flipped", "gold RM, best RM and judges prefer the other response"),
    ("flipped", "gold RM and best RM prefer the other response; judges did not decide"),
    ("dropped", "gold RM disagrees with the original label"),
    ("dropped", "neither best RM nor judges support the original label"),
    ("dropped", "the judges' answers, on which it hung, could not be read"),
    ("dropped", "best RM is not sure of the original label, and there is no judge"),
    ("dropped", "the source has no label, or its votes are tied"),
    ("dropped", "a reward model gave no number for it"),
)
UNDECIDED = ("", "tie", "cannot decide")
"""What judges say who did answer, and prefer none."""
_NO_LABEL, _NO_NUMBER = 8, 9


def decided(frame: pl.DataFrame, band: float, *, judged: bool = True) -> pl.DataFrame:
    """The labels of the pairs of `frame`, in its order: the columns of `Label`. Where there is no judge (not `judged`),
    nothing is flipped.

    `frame` has the columns of `stage2.Evidence` (p_best and p_gold null where a reward model gave no number; judge null
    where none was asked or none decided), the source's `certainty` and `strength` of its label (`settle.wild_frame`; all
    three null without one), and `other`, the id of the response that is not `original`.

    In a label's certainty the source, the two reward models and, where they decided, the judges have an equal say: the
    source by the share of its votes, a reward model by its probability. Its margin is the source's strength for `chosen`.
    """
    spoke = pl.col("judge").is_not_null()
    word = (pl.col("judge") == pl.col("original")).cast(pl.Float64).fill_null(0.0)
    says = pl.col("certainty") + _number("p_best") + _number("p_gold") + word
    found = frame.select(
        "pair_id", "original", "other", _rule(band, judged).alias("rule"), spoke=spoke, says=says,
        strength=pl.col("strength").fill_null(0.0),
    )  # fmt: skip
    mean = found["says"].to_numpy() / np.where(
        found["spoke"].to_numpy(), 4.0, 3.0
    )  # Polars multiplies where all are equal
    found = found.with_columns(mean=pl.Series(mean, dtype=pl.Float64))
    rule = found["rule"].to_numpy()
    fate = pick([fate for fate, _ in REASONS], rule)
    by = pl.Series([[], ["best-rm", "gold-rm"], ["best-rm", "gold-rm", "judges"]], dtype=pl.List(pl.String))
    kept, flipped = found["rule"] < 2, found["rule"].is_in([2, 3])
    weighed = rule < _NO_LABEL
    return found.select(
        "pair_id",
        chosen=_of(kept, "original", flipped, "other", None),
        tier=pl.lit("wild"),
        fate=fate,
        reason=pick([why for _, why in REASONS], rule),
        by=by.gather(np.where(weighed, 1 + found["spoke"].to_numpy(), 0)),
        stage=pl.lit("stage2"),
        certainty=_of(kept, "mean", flipped, 1.0 - pl.col("mean"), 1.0).clip(lower_bound=0.5),
        margin=_of(kept, "strength", flipped, 0.0 - pl.col("strength"), 0.0).clip(lower_bound=0.0),
    )  # fmt: skip


def beside(rows: pl.DataFrame, there: pl.Series, found: pl.DataFrame) -> pl.DataFrame:
    """`rows` with the columns of `found` on the same pairs, null where it has none of a pair.

    Where `found` holds exactly the rows that are `there`, in their order, as stage 2 writes its evidence, that is seen, and
    nothing is joined.
    """
    if not rows["pair_id"].filter(there).equals(found["pair_id"]):
        return rows.join(found, on="pair_id", how="left", maintain_order="left")
    at = pl.select(pl.when(there).then(there.cum_sum().cast(pl.Int64) - 1)).to_series()
    return pl.concat([rows, found.drop("pair_id").select(pl.all().gather(at))], how="horizontal")


def _of(kept: pl.Series, there: str, flipped: pl.Series, turned: str | pl.Expr, dropped: float | None) -> pl.Expr:
    return pl.when(kept).then(there).when(flipped).then(turned).otherwise(dropped)


def _rule(band: float, judged: bool) -> pl.Expr:
    """The place in `REASONS` of what becomes of a pair."""
    original, judge, p_best, p_gold = pl.col("original"), pl.col("judge"), _number("p_best"), _number("p_gold")
    agrees, opposes = (judge == original).fill_null(False), (judge != original).fill_null(False)
    failed = judge.is_null() & ~pl.col("problem").fill_null("").is_in(UNDECIDED)
    gold, best_sure, against = p_gold > 0.5, p_best > 0.5 + band, (p_gold < 0.5) & (p_best < 0.5)
    return (
        pl.when(original.is_null()).then(_NO_LABEL)
        .when(p_best.is_null() | p_gold.is_null()).then(_NO_NUMBER)
        .when(gold & best_sure).then(0)
        .when(gold & agrees).then(1)
        .when(against & opposes).then(2)
        .when(failed).then(6)
        .when(against & ~agrees & judged).then(3)
        .when(~gold).then(4)
        .otherwise(5 if judged else 7)
    )  # fmt: skip


def _number(column: str) -> pl.Expr:
    """A column of probabilities; what is not a number counts as none, and not as greater than every other."""
    return pl.col(column).fill_nan(None)


def counts_frame(evidence: pl.DataFrame, band: float) -> pl.Series:
    """(pairs,) whether the judges' word can change what `decided` makes of a pair, from the columns p_best and p_gold; false
    where a number is missing."""
    p_best, p_gold = _number("p_best"), _number("p_gold")
    unsure = pl.when(p_gold > 0.5).then(p_best <= 0.5 + band).otherwise((p_gold < 0.5) & (p_best < 0.5))
    return evidence.select(counts=unsure.fill_null(False)).to_series()
