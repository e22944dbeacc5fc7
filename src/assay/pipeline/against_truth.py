"""How often labels, judges and reward models agree with what is known to be true, over pools that no memory holds.

Errors are by question (`curate.shares`), so frames come by the part of a pool: it has all pairs of its questions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl

from assay.curate.material import Material
from assay.curate.prepare import Slice
from assay.curate.shares import Share, counted, share, share_of
from assay.memory import compact
from assay.store import Place
from assay.tables import read_frame


def right(material: Material, labels: Callable[[Sequence[Slice]], pl.DataFrame]) -> Share:
    """The share of labels (pair_id, chosen) that are right where the truth is known. `labels` gives at least those of the
    pairs of a part."""
    both = (known.join(labels(part), on="pair_id") for part, known in _known(material))
    return share(found.select("question_id", hit=pl.col("chosen") == pl.col("truth")) for found in both)


def _known(material: Material) -> Iterator[tuple[Sequence[Slice], pl.DataFrame]]:
    """`pair_id`, `question_id` and `truth` where it is known, part by part; nothing of a pool that knows none."""
    for part in material.by_part() if material.pool.knows else ():
        found = pl.concat([s.frame(["pair_id", "question_id", "truth"]) for s in part])
        yield part, found.filter(pl.col("truth").is_not_null())


def known_places(material: Material, asked: pl.DataFrame) -> pl.DataFrame:
    """`pair_id` and `at` of those of some pairs whose truth is known."""
    found = [asked.select("pair_id", "at").clear()]
    for part, rows in material.parts(asked) if material.pool.knows else ():
        known = part.frame(["pair_id", "truth"]).filter(pl.col("truth").is_not_null())
        found.append(compact(known.join(rows, on="pair_id", how="semi").select("pair_id", at=pl.lit(part.name))))
    return pl.concat(found)


WAYS: Mapping[str, tuple[str, ...]] = {
    "best RM": ("p_best",), "gold RM": ("p_gold",), "best + gold RM": ("p_best", "p_gold"),
}  # fmt: skip


def filters(material: Material, evidence: Mapping[str, Place]) -> dict[str, object]:
    """How often keeping and flipping agree with the truth: best RM alone, gold RM alone, both (A3 Table 19). Nothing is
    scored for it: it is asked of stage 2's evidence (by shard), which is read once."""
    kept: dict[str, list[pl.DataFrame]] = {name: [] for name in WAYS}
    flipped: dict[str, list[pl.DataFrame]] = {name: [] for name in WAYS}
    for part, known in _known(material):
        told = pl.concat([read_frame(evidence[s.name], ["pair_id", "original", "p_best", "p_gold"]) for s in part])
        found = known.join(told, on="pair_id").with_columns(hit=pl.col("original") == pl.col("truth"))
        for name, models in WAYS.items():
            keep = found.filter(pl.all_horizontal(pl.col(m) > 0.5 for m in models))
            flip = found.filter(pl.all_horizontal(pl.col(m) < 0.5 for m in models))
            kept[name].append(counted(keep))
            flipped[name].append(counted(flip.with_columns(~pl.col("hit"))))
    result: dict[str, object] = {}
    for name in WAYS:
        keeping, flipping = share_of(kept[name]), share_of(flipped[name])
        result[name] = {
            "kept": keeping["n"] if keeping else 0, "keep_agreement": keeping,
            "flipped": flipping["n"] if flipping else 0, "flip_agreement": flipping,
        }  # fmt: skip
    return result
