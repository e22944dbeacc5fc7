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
from assay.curate.prepare import Slice, teller
from assay.engine import make
from assay.errors import AssayError
from assay.records import Conversation, Pair, Scorer
from assay.store import Place
from assay.tables import frame_to_arrow, records, stream_shard

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


Together = Callable[[Sequence[Scorer], pa.Table], Sequence[NDArray[np.floating]]]
"""Rewards (n, 2) of each of some scorers, for pairs with the columns prompt and responses."""


def rewards(
    material: Material, place: Place, models: Mapping[str, Scorer], say: Callable[[str], None] = lambda _: None,
    score: Together | None = None,
) -> dict[str, Place]:  # fmt: skip
    """The `Rewarded` file of every shard, of the pairs for stage 2 that have an original label: made, or found.

    Args:
        material: The pool; its engine runs the models.
        place: The folder of tables; the files are in `rewards/` there, in a folder that the models' names give.
        models: The reward models by name, all of which score one reading of the text. On Ray they must be picklable.
        say: Hears about progress.
        score: How they score together (default: one after the other).
    """

    work = {part.key: part for part in material.slices}
    folder = place / "rewards" / "+".join(models)
    stage = partial(score_slice, models, score or one_by_one)
    files = make(
        material.engine, folder, stage, work, model=True, told=teller(say, f"shards scored by {' and '.join(models)}")
    )
    return {part.name: files[part.key] for part in material.slices}


def score_slice(models: Mapping[str, Scorer], score: Together, part: Slice) -> pa.Table:
    """Stage: the `Rewarded` rows of a shard; one row group of its text is in memory at a time."""
    wild = part.frame(["pair_id", "row", "use", "original"])
    wild = wild.filter((pl.col("use") == "stage2") & pl.col("original").is_not_null())
    made, start = [_empty()], 0
    for text in stream_shard(part.pairs, ["prompt", "responses"], wild["row"].to_numpy()):
        ids = wild["pair_id"][start : start + len(text)]
        start += len(text)
        for name, both in zip(models, score(list(models.values()), text), strict=True):
            if both.shape != (len(text), 2):
                raise AssayError(f"{name} gave {both.shape} rewards for {len(text)} pairs")
            made.append(pl.DataFrame({
                "pair_id": ids, "model": [name] * len(ids), "first": both[:, 0].astype(np.float64),
                "second": both[:, 1].astype(np.float64),
            }))  # fmt: skip
    return frame_to_arrow(Rewarded, pl.concat(made))


def one_by_one(scorers: Sequence[Scorer], pairs: pa.Table) -> list[NDArray[np.float64]]:
    """Every scorer by itself, some pairs at a time."""
    made: list[list[NDArray[np.float64]]] = [[np.zeros((0, 2))] for _ in scorers]
    for batch in pairs.to_batches(AT_A_TIME):
        some = records(Pair, pa.Table.from_batches([batch]))
        flat: list[Conversation] = [p.prompt + r.messages for p in some for r in p.responses]
        for parts, scorer in zip(made, scorers, strict=True):
            found = np.asarray(scorer(flat), np.float64)
            if found.shape != (len(flat),):
                raise AssayError(f"a reward model gave {found.shape} rewards for {len(flat)} conversations")
            parts.append(found.reshape(-1, 2))
    return [np.concatenate(parts) for parts in made]


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
