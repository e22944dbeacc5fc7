"""Sets of labels, narrow and kept; and views, what a training streams: the labels of a set joined with the text.

    sets/NAME.json                    which files a set is, and how many labels
    sets/NAME/SHARD_DIGEST.parquet    `Chosen` rows
    views/DIGEST/SHARD.parquet        `Preference` rows

A set says what a training is of: pair ids are digests of the text, so the text is read, and the view made, only when there
is something to train. A view can be removed at any time; it is made again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from assay.curate.material import Material
from assay.curate.prepare import Slice
from assay.engine import make
from assay.errors import AssayError
from assay.order import draws
from assay.records import Preference, digest
from assay.store import Place
from assay.tables import arrow_schema, frame_to_arrow, read_frame, stream_shard, write_shard

LABELS = ("pair_id", "chosen", "certainty", "margin")
"""The columns of labels that trainings read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A label as a set keeps it."""

    pair_id: str
    chosen: str
    certainty: float
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSet:
    """A set of labels on disk, and the way to its view. `files` are by shard; `asked` and `said` are digests of its pairs
    and of its labels."""

    name: str
    rows: int
    files: Mapping[str, Place]
    asked: str
    said: str
    material: Material
    place: Place
    """The folder of tables that the set is kept in."""

    def __len__(self) -> int:
        return self.rows

    def frame(self) -> pl.DataFrame:
        """All labels, with `at`: of sets that fit in memory."""
        return pl.concat([_EMPTY, *(f for _, f in self.frames())])

    def frames(self) -> Iterator[tuple[Slice, pl.DataFrame]]:
        """The labels, shard by shard, with `at`."""
        return ((part, self.of(part)) for part in self.material.slices if part.name in self.files)

    def of(self, part: Slice) -> pl.DataFrame:
        """The labels of one shard, with `at`."""
        if part.name not in self.files:
            return _EMPTY
        return read_frame(self.files[part.name]).with_columns(at=pl.lit(part.name))

    def preferences(self) -> list[Preference]:
        """All pairs as they are trained on, in memory."""
        return self.material.preferences(self.frame())

    def identity(self) -> dict[str, object]:
        """What a training on this set depends on."""
        return {"pairs": {"n": self.rows, "digest": self.asked}, "labels": {"digest": self.said}}

    def graded(self) -> tuple[bool, bool]:
        """Whether any certainty is below 1, and any margin not 0."""
        sure = margin = False
        for _, frame in self.frames():
            sure |= bool((frame["certainty"] != 1.0).any())
            margin |= bool((frame["margin"] != 0.0).any())
        return sure, margin

    @property
    def view(self) -> Place:
        return self.place / "views" / self.said[:16]

    def folder(self) -> Path:
        """The folder of the view, made where it is not whole."""
        by_name = {s.name: s for s in self.material.slices}
        of = {name: (by_name[name], file) for name, file in self.files.items()}
        make(self.material.engine, self.view, joined, of)
        return self.view.local("training")

    def tidy(self) -> None:
        """Remove the view: nothing is trained on it any more."""
        self.view.remove()


_EMPTY = pl.DataFrame(
    schema={"pair_id": pl.String, "chosen": pl.String, "certainty": pl.Float64, "margin": pl.Float64, "at": pl.String}
)


def joined(item: tuple[Slice, Place]) -> pa.Table:
    """Stage: the labels of a shard joined with the text, as `Preference` rows in the order of the shard: all by columns,
    and no row becomes an object.

    Raises AssayError for a label that chooses a response which its pair does not have.
    """
    part, file = item
    said = read_frame(file)
    labels = part.frame(["pair_id", "row", "first", "second"]).join(said, on="pair_id").sort("row")
    if len(labels) < len(said):
        raise AssayError(
            f"{file}: has labels of pairs that {part.index} does not have; files were changed: use another --out"
        )
    foreign = labels.filter((pl.col("chosen") != pl.col("first")) & (pl.col("chosen") != pl.col("second")))
    if len(foreign):
        raise AssayError(
            f"{file}: the label of pair {foreign['pair_id'][0]} chooses a response that the pair does not have"
        )
    made, start = [arrow_schema(Preference).empty_table()], 0
    for text in stream_shard(part.pairs, ["prompt", "responses"], labels["row"].to_numpy()):
        some = labels[start : start + text.num_rows]
        start += text.num_rows
        both = pa.concat_arrays(text["responses"].chunks).flatten()
        won = 2 * np.arange(len(some)) + (some["chosen"] != some["first"]).to_numpy()
        told = some.select("pair_id", "certainty", "margin").to_arrow()
        columns = {
            "pair_id": told["pair_id"], "prompt": text["prompt"], "chosen": both.take(pa.array(won)),
            "rejected": both.take(pa.array(won ^ 1)), "certainty": told["certainty"], "margin": told["margin"],
        }  # fmt: skip
        made.append(pa.table(columns).cast(arrow_schema(Preference)))
    return pa.concat_tables(made)


def drawn(of: LabelSet, n: int, place: Place, name: str, *salt: object) -> LabelSet:
    """Keep n random labels of a set (all, where it has no more) as a set of its own; of the same `salt`, fewer are always
    among more."""
    least = np.zeros(0)
    for _, frame in of.frames():
        least = np.concatenate([least, draws(frame["pair_id"].to_list(), *salt)])
        least = np.partition(least, n - 1)[:n] if 0 < n < len(least) else least[: max(0, n)]
    most = float(least.max()) if len(least) else -1.0

    def labels(part: Slice) -> pl.DataFrame:
        frame = of.of(part)
        return frame.filter(pl.Series(draws(frame["pair_id"].to_list(), *salt) <= most, dtype=pl.Boolean))

    return label_set(of.material, place, name, labels)


def label_set(material: Material, place: Place, name: str, labels: Callable[[Slice], pl.DataFrame]) -> LabelSet:
    """Keep a set of labels.

    Args:
        material: The pool.
        place: The folder of tables that the set is kept in.
        name: Of the set; its files replace nothing, and the name is given to them at the end.
        labels: The labels (`LABELS`) of one shard; those without a chosen response are left out.
    """
    folder, files, rows = place / "sets" / name, dict[str, Place](), 0
    asked, said = [], []
    for part in material.slices:
        frame = labels(part).filter(pl.col("chosen").is_not_null()).select(LABELS).sort("pair_id")
        if len(frame):
            asked.append(hashlib.blake2b("".join(frame["pair_id"]).encode(), digest_size=16).hexdigest())
            said.append(_hashed(frame))
            files[part.name] = folder / f"{part.name}_{said[-1][:12]}.parquet"
            if not files[part.name].exists():
                write_shard(files[part.name], frame_to_arrow(Chosen, frame))
            rows += len(frame)
    made = LabelSet(
        name=name, rows=rows, files=files, asked=digest(asked), said=digest([list(files), said]), material=material,
        place=place,
    )  # fmt: skip
    told = {"rows": rows, "files": {k: f.name for k, f in files.items()}, "asked": made.asked, "said": made.said}
    (place / "sets" / f"{name}.json").keep_text(json.dumps(told, indent=1))
    return made


def read_set(material: Material, place: Place, name: str) -> LabelSet:
    """A set that was kept. Raises AssayError where there is none of that name."""
    note = place / "sets" / f"{name}.json"
    if not note.exists():
        have = ", ".join(n.removesuffix(".json") for n in (place / "sets").names(".json")) or "none yet"
        raise AssayError(f"{place}: no set of labels '{name}'; there are: {have}")
    told = json.loads(note.read_text())
    files = {k: place / "sets" / name / f for k, f in told.pop("files").items()}
    return LabelSet(name=name, files=files, material=material, place=place, **told)


def of_frame(labels: pl.DataFrame) -> Callable[[Slice], pl.DataFrame]:
    """Labels that are in memory (with `at`), for `label_set`."""
    by_name = {str(name): rows for (name,), rows in labels.group_by("at")}
    empty = labels.clear()
    return lambda part: by_name.get(part.name, empty)


def _hashed(frame: pl.DataFrame) -> str:
    """A digest of the values of a frame of labels."""
    texts = "\n".join([*frame["pair_id"], *frame["chosen"]]).encode()
    numbers = frame.select("certainty", "margin").to_numpy().tobytes()
    return hashlib.blake2b(texts + numbers, digest_size=16).hexdigest()
