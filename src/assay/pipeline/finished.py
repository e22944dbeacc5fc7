"""A finished `assay run`, read back, and the labels of a pool: sets to train on, to sweep over, and to export.

raw        the pool's own labels; of a run, of all pairs that are neither for evaluation nor held gold
stage1     what people and guided judges labelled
filtered   stage 1 and the pairs of stage 2 that were kept
flipped    filtered, and the discarded pairs with their label turned round

A pair of a pool is labelled by all votes on it, in whatever files they stand; where these contradict each other, it has no
label. Export and training take the same set.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from assay.curate.material import Material
from assay.curate.prepare import Slice, bare
from assay.curate.shards import Pool
from assay.curate.views import LabelSet, label_set, read_set
from assay.engine import Engine, Here
from assay.errors import AssayError
from assay.locks import alone
from assay.memory import compact
from assay.order import draws
from assay.pipeline.settings import SETS
from assay.pipeline.training import Streamed
from assay.records import Preference, question_id
from assay.reward.config import TrainConfig
from assay.reward.data import ParquetPairs
from assay.store import Place
from assay.tables import Table, build, remove, sibling

KEPT_AS = {"raw": "raw-more"}
"""Sets that a run keeps by another name (`pipeline.product`)."""
HELD_SHARE, HELD_PAIRS = 0.1, 10_000
"""Of a pool without gold: one in ten questions chooses the checkpoint, and at most so many pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The label sets of one seed of a run. `held` gold chooses checkpoints, `evaluation` measures; no set has either."""

    sets: Mapping[str, LabelSet]
    held: list[Preference]
    evaluation: list[Preference]
    train: TrainConfig
    presentations: int


def read_run(folder: Path) -> Finished:
    """Read the label sets of a run folder's first seed. Raises AssayError when it is none, or has not finished stage 2."""
    config, material, place = _opened(folder)
    try:
        settings = build(TrainConfig, config["train"])
    except KeyError as error:
        raise AssayError(
            f"{folder}/config.json: no train.{error.args[0]}; an older Assay made this run, run it anew"
        ) from error
    held = read_set(material, place, "held").preferences()
    measured = material.preferences(material.evaluation(config["evaluation_pairs"]))
    return Finished(
        sets={name: read_set(material, place, KEPT_AS.get(name, name)) for name in SETS}, held=held,
        evaluation=measured or held, train=settings, presentations=config["presentations"],
    )  # fmt: skip


def _opened(folder: Path, engine: Engine | None = None) -> tuple[dict[str, Any], Material, Place]:
    """A run's config, its pool, and the tables of the first seed."""
    if not (folder / "config.json").exists():
        raise AssayError(f"{folder}: not a run folder; give the --out folder of an `assay run`")
    material = Material.open(Place.of(folder), engine)
    place = Place.of(folder) / "seed-0" / "tables"
    made = (place / "sets").names(".json")
    if missing := [s for s in ("held", *(KEPT_AS.get(n, n) for n in SETS)) if f"{s}.json" not in made]:
        raise AssayError(
            f"{folder}: seed 0 has no labels '{missing[0]}' yet; run the same `assay run` again to finish it"
        )
    return dict(json.loads((folder / "config.json").read_text())), material, place


def labels_of(source: str | Path, name: str, place: Place, engine: Engine | None = None) -> LabelSet:
    """A set of a run folder (of its first seed), or the labels of a pool ("raw"), whose index and view are kept in `place`.

    Raises AssayError where `source` is neither, for a set that it does not have, and where it has no labels.
    """
    _known(name)
    at = Place.of(source)
    if (at / "config.json").exists():
        _, material, tables = _opened(at.local("a run"), engine)
        found = replace(read_set(material, tables, KEPT_AS.get(name, name)), place=place)
    elif _is_pool(at):
        pool, engine = Pool.open(at), engine or Here()
        if name != "raw":
            raise AssayError(
                f"{source}: a pool has its raw labels only; the sets {', '.join(SETS[1:])} are made by `assay run`"
            )
        material = Material(pool=pool, slices=bare(pool, place, engine), out=place, engine=engine)
        found = label_set(material, place, "raw", _said)
    else:
        raise AssayError(f"{source}: neither a run folder (assay run) nor a pool folder (assay pool add)")
    if not len(found):
        raise AssayError(f"{source}: no labelled pairs in '{name}'")
    return found


def _is_pool(at: Place) -> bool:
    return (at / "pool.json").exists() or bool((at / "importing").names() or (at / "tables").names())


def _said(part: Slice) -> pl.DataFrame:
    """The labels of a shard's sources."""
    frame = part.frame(["pair_id", "original", "certainty", "strength"])
    return frame.with_columns(chosen=pl.col("original"), margin=pl.col("strength").clip(lower_bound=0.0))


def export(source: str | Path, out: Path, name: str, engine: Engine | None = None) -> int:
    """Write `labels_of` as Parquet shards of `Preference` rows and return how many they are. `out` must be new; it appears
    when all shards are written, so that none is trained on that a kill cut short, and a killed export goes on."""
    _known(name)
    with alone(out):
        if out.exists() and any(out.iterdir()):
            raise AssayError(f"{out}: not empty; export into a new folder, for its shards are all read together")
        beside = sibling(out, ".partial")
        check_partial(beside)
        labels = labels_of(source, name, Place.of(beside.absolute()), engine)
        labels.folder().rename(out)
        remove(beside)
        return len(labels)


def check_partial(folder: Path) -> None:
    """Raise AssayError for a folder that holds anything but what a killed export leaves."""
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= {"index", "sets", "views"}):
        raise AssayError(f"{folder} is there already and is no unfinished export; choose another --out")


def training_data(
    source: str | Path, name: str, gold: Path | None, beside: Path, say: Callable[[str], None] = lambda _: None
) -> tuple[Streamed | ParquetPairs, list[Preference]]:  # fmt: skip
    """What `assay reward train` trains on, and the gold that chooses its checkpoint.

    No question is in both: pairs that ask one of `gold` are left out and told. Streamed Parquet that has some is refused.
    What has to be made of a pool or run for the training lies in the folder `beside`, until whoever trains removes it.
    """
    _known(name)
    at = Place.of(source)
    if at.path is not None and not at.path.is_dir():
        raise AssayError(f"{source}: no such folder; give a pool folder, a run folder, or one of Parquet preferences")
    chosen = Table(gold, Preference).read() if gold else None
    if gold and not chosen:
        raise AssayError(f"{gold}: no Parquet preferences here to choose the checkpoint by")
    run = (at / "config.json").exists()
    if not run and not _is_pool(at):
        return _parquet(source, gold, chosen or [])
    check_partial(beside)
    place = Place.of(beside.absolute())
    labels = labels_of(source, name, place)
    if chosen is not None:
        asked = pl.Series("question_id", sorted({question_id(g.prompt) for g in chosen}))
        kept = _apart(labels, place, asked)
        if len(kept) < len(labels):
            say(
                f"{len(labels) - len(kept):,} of {len(labels):,} pairs ask a question of the gold: left out of training"
            )
        if not len(kept):
            raise AssayError("every pair asks a question of the gold, so none is left to train on; give other gold")
        return Streamed(kept), chosen
    if run:
        _, material, tables = _opened(at.local("a run"))
        return Streamed(labels), read_set(material, tables, "held").preferences()
    held = _held_out(labels)
    return Streamed(_apart(labels, place, held["question_id"].unique())), labels.material.preferences(held)


def _parquet(
    source: str | Path, gold: Path | None, chosen: Sequence[Preference]
) -> tuple[ParquetPairs, list[Preference]]:
    pairs = ParquetPairs(Place.of(source))
    taught = pairs.asking(g.prompt for g in chosen)
    if taught:
        raise AssayError(
            f"{source}: {len(taught):,} of {len(pairs):,} pairs ask a question of {gold} (the first is {taught[0]}); gold "
            "that is trained on cannot choose the checkpoint: take these questions out of either"
        )
    return pairs, list(chosen)


def _asking(labels: LabelSet, part: Slice) -> pl.DataFrame:
    """The labels of a shard with their `question_id`."""
    return labels.of(part).join(part.frame(["pair_id", "question_id"]), on="pair_id", maintain_order="left")


def _apart(labels: LabelSet, place: Place, questions: pl.Series) -> LabelSet:
    """The labels that ask none of the questions, as a set of its own."""

    def others(part: Slice) -> pl.DataFrame:
        return _asking(labels, part).filter(~pl.col("question_id").is_in(questions.implode()))

    return label_set(labels.material, place, f"{labels.name}-apart", others)


def _held_out(labels: LabelSet) -> pl.DataFrame:
    """The labels of one in ten questions, or of fewer where these have more than `HELD_PAIRS` pairs: always whole questions,
    by their id alone. In memory are never many more than that."""
    parts, most = list[pl.DataFrame](), HELD_SHARE
    for part, _ in labels.frames():
        asking = _asking(labels, part)
        place = pl.Series(draws(asking["question_id"].to_list(), "held"), dtype=pl.Float64)
        found = pl.concat([*parts, asking.with_columns(place=place)]).filter(pl.col("place") < most)
        found = found.sort("place", "pair_id")
        if len(found) > HELD_PAIRS:
            most = found["place"][HELD_PAIRS]
        parts = [compact(found.filter(pl.col("place") < most))]
    return parts[0]


def _known(name: str) -> None:
    if name not in SETS:
        raise AssayError(f"unknown labels '{name}'; a run has {', '.join(SETS)}, a pool has raw")
