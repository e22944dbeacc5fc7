"""Rewards of a pool's pairs: what reward models give both responses of every pair of stage 2, made once and kept as columns.

The text is read once for all models of a pass. Whatever is asked of a model later (bands, filters, sets without people) is
asked of this table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from assay.curate.material import Material
from assay.curate.prepare import AT_ONCE, Slice
from assay.engine import make
from assay.errors import AssayError
from assay.records import Conversation, Pair, Scorer
from assay.store import Place
from assay.tables import frame_to_arrow

AT_A_TIME = 1_024
"""Pairs that are given to a scorer at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewarded:
    """What the reward model `model` gives a pair's responses, in the order in which the pair has them; NaN where it cannot
    read a response."""

    pair_id: str
    model: str
    first: float
    second: float


def rewards(
    material: Material, place: Place, models: Mapping[str, Scorer], say: Callable[[str], None] = lambda _: None
) -> dict[str, Place]:
    """The `Rewarded` file of every shard, of the pairs for stage 2 that have an original label: made, or found.

    Args:
        material: The pool; its engine runs the models.
        place: The folder of tables; the files are in `rewards/` there, in a folder that the models' names give.
        models: The reward models by name, all of which score one reading of the text. On Ray they must be picklable.
        say: Hears about progress.
    """

    def told(done: int, total: int) -> None:
        if done % max(1, total // 10) == 0:
            say(f"{done:,} of {total:,} shards scored by {' and '.join(models)}")

    work = {part.key: part for part in material.slices}
    folder = place / "rewards" / "+".join(models)
    files = make(material.engine, folder, partial(score_slice, models), work, model=True, told=told)
    return {part.name: files[part.key] for part in material.slices}


def score_slice(models: Mapping[str, Scorer], part: Slice) -> pa.Table:
    """Stage: the `Rewarded` rows of a shard; one part of its text is in memory at a time."""
    wild = part.frame(["row", "use", "original"])
    rows = wild.filter((pl.col("use") == "stage2") & pl.col("original").is_not_null())["row"]
    made = [_empty()]
    for at in range(0, len(rows), AT_ONCE):
        pairs = list(part.text(rows[at : at + AT_ONCE]).values())
        for name, scorer in models.items():
            both = score_pairs(scorer, pairs)
            made.append(pl.DataFrame({
                "pair_id": [p.id for p in pairs], "model": [name] * len(pairs), "first": both[:, 0], "second": both[:, 1],
            }))  # fmt: skip
    return frame_to_arrow(Rewarded, pl.concat(made))


def score_pairs(scorer: Scorer, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """(n, 2) rewards of the pairs' responses."""
    made = [np.zeros((0, 2))]
    for at in range(0, len(pairs), AT_A_TIME):
        flat: list[Conversation] = [p.prompt + r.messages for p in pairs[at : at + AT_A_TIME] for r in p.responses]
        found = np.asarray(scorer(flat), np.float64)
        if found.shape != (len(flat),):
            raise AssayError(f"a reward model gave {found.shape} rewards for {len(flat)} conversations")
        made.append(found.reshape(-1, 2))
    return np.concatenate(made)


def chances(found: pl.DataFrame, model: str, labels: pl.DataFrame) -> pl.Series:
    """p = sigmoid(r(x, original) - r(x, other)) of every row of `labels` (pair_id, first, original), from `Rewarded` rows;
    null where the model gave no number."""
    own = found.filter(pl.col("model") == model).select("pair_id", one=pl.col("first"), two=pl.col("second"))
    both = labels.select("pair_id", "first", "original").join(own, on="pair_id", how="left", maintain_order="left")
    margin = pl.col("one") - pl.col("two")
    signed = pl.when(pl.col("original") == pl.col("first")).then(margin).otherwise(0.0 - margin)
    with np.errstate(over="ignore"):  # a margin beyond -709 is a p of 0
        p = 1 / (1 + np.exp(-both.select(signed).to_series().fill_null(float("nan")).to_numpy()))
    return pl.Series("p", p, nan_to_null=True)


def _empty() -> pl.DataFrame:
    return pl.DataFrame(schema={"pair_id": pl.String, "model": pl.String, "first": pl.Float64, "second": pl.Float64})
