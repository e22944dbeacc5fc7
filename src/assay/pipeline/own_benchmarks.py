"""A user's own labelled pairs as a benchmark of their own name: a pool, exported preferences, or files in any layout.

Every pair with a label is measured once; what has none, is tied or cannot be read is left out, counted and told.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from assay.bench.benchmark import Benchmark
from assay.bench.reward import BENCHMARKS, EVERY, find_data
from assay.curate import pool
from assay.curate.material import VOTES, pool_in
from assay.curate.settle import settle_frame
from assay.curate.verify import read_judgements
from assay.errors import AssayError
from assay.formats.layouts import named
from assay.formats.preferred import Preferred
from assay.formats.reading import outcomes
from assay.formats.rows import RowError
from assay.formats.sources import Part, find
from assay.formats.texts import Flaw
from assay.records import Judgement, Pair, Preference
from assay.store import Place
from assay.tables import build, read_shard, records, to_arrow


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSet:
    """Labelled pairs to measure on. `parts` names the file of a pair where there are several, `notes` what is left out."""

    name: str
    preferences: tuple[Preference, ...]
    parts: dict[str, str]
    notes: tuple[str, ...]


REASONS = 3
POOLS = ("pool.json", "material.json", "pool/pool.json", "importing", "tables/pairs")
"""One of these is in a pool or run folder; the last two of an import that was cut off, and of an earlier version."""


def has_benchmarks(folder: Path) -> bool:
    """Whether a folder holds one for a public benchmark."""
    return any((folder / b.folder).is_dir() for b in EVERY.values())


def own_set(source: Path, layout: str = "", name: str = "") -> OwnSet:
    """The labelled pairs of a pool (a folder or URL), a folder of exported preferences, or a file, folder or hub id of any
    layout.

    `layout` names the layout of files, as `assay pool add --layout` does. Raises AssayError where there is no labelled pair,
    with what was found, and for labels that can be read in two ways.
    """
    left, parts = Counter[str](), dict[str, str]()
    place = None if str(source).startswith("hf:") else Place.of(source)
    if place is not None and any((place / name).exists() for name in POOLS):
        found = _of_pool(place, left)
    elif exported(source):
        stored = _of_export(source)
        found = list({p.pair_id: p for p in stored}.values())
        left["pairs that are there twice"] = len(stored) - len(found)
    else:
        opinions, pairs, parts = _of_files(source, layout, left)
        found = _decided(pairs, opinions, left)
    told = _counts(left)
    if not found:
        raise AssayError(f"{source}: no labelled pairs to measure on ({told or 'it is empty'})")
    name = name or next(iter(_named([source])))
    notes = (f"left out: {told}",) if told else ()
    return OwnSet(name=name, preferences=tuple(found), parts=parts if len(set(parts.values())) > 1 else {}, notes=notes)


def _counts(left: Counter[str]) -> str:
    """What was left out and why: the most frequent reasons in full, the others counted."""
    reasons = [(why, n) for why, n in left.most_common() if n]
    others = reasons[REASONS:]
    more = [f"{sum(n for _, n in others):,} for {len(others)} other reasons"] if others else []
    return ", ".join([*(f"{n:,} {why}" for why, n in reasons[:REASONS]), *more])


def own_sets(sources: Sequence[Path], layout: str = "") -> list[OwnSet]:
    """The sets of several sources. A name that two of them share, or that a public benchmark has, is the whole path."""
    found = []
    for name, source in _named(sources).items():
        benchmark = next((b for b in EVERY.values() if b.folder == source.name), None)
        if benchmark and source.is_dir() and has_benchmarks(source.parent):
            raise AssayError(f"{source}: is the benchmark itself; give --data {source.parent} --only {benchmark.name}")
        try:
            found.append(own_set(source, layout, name))
        except AssayError as error:
            if not source.is_dir():
                raise
            looked = ", ".join(f"{b.folder}/" for b in EVERY.values())
            raise AssayError(
                f"{error}; nor is there a public benchmark (looked for {looked}; {_found(source)})"
            ) from error
    return found


def _named(sources: Sequence[Path]) -> dict[str, Path]:
    stems = Counter([*(s.name.partition(".")[0] for s in sources), *EVERY])
    return {str(s) if stems[s.name.partition(".")[0]] > 1 else s.name.partition(".")[0] or str(s): s for s in sources}


def exported(folder: Path) -> bool:
    """Whether a folder holds Parquet preferences, as `assay reward export` writes them."""
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    wanted = {"pair_id", "prompt", "chosen", "rejected"}
    return bool(files) and all(_columns(f) >= wanted for f in files)


def _of_export(folder: Path) -> list[Preference]:
    """The preferences of a folder of Parquet, whatever other columns it has."""
    names = [f.name for f in dataclasses.fields(Preference)]
    rows = [r for f in sorted(folder.glob("*.parquet")) for r in pq.read_table(f).to_pylist()]
    return [build(Preference, {"certainty": 1.0, "margin": 0.0, **{n: r[n] for n in names if n in r}}) for r in rows]


def _columns(file: Path) -> set[str]:
    try:
        return set(pq.read_schema(file).names)
    except (OSError, ValueError):
        return set()


Opinions = dict[str, list[tuple[str | None, float]]]
"""Of each pair what was said: the better response (None: a tie), and what that weighs against the other."""


def _weight(votes: int, confidence: float) -> float:
    """What n votes of which this share named one side weigh for it: the votes by which it leads."""
    return votes * (2 * confidence - 1) or 1.0


UNDECIDED, UNSAID = "pairs that are ties, or on which nobody decided", "pairs without a label"


def _of_pool(folder: Place, left: Counter[str]) -> list[Preference]:
    """The pairs of a pool or run whose better response is known: by the truth, else by what `settle` makes of all that was
    said, as in training. Votes and texts of one part are read at a time; pairs without a label are counted in `left`."""
    pool, run = pool_in(folder)
    people = read_judgements(folder.path / "judgements.jsonl") if folder.path is not None else []
    told = pl.DataFrame(pl.from_arrow(to_arrow(Judgement, people)))
    index = pool.table("index")
    rows = (
        [(s.part, s.pairs, s.frame(["pair_id", "row"])) for s in run.slices] if run is not None
        else [(s.part, pool.table("pairs").file(s.name), index.frame(s.name, columns=["pair_id"]).with_row_index("row"))
              for s in pool.shards if s.pairs]
    )  # fmt: skip
    found: list[Preference] = []
    for number in sorted({part for part, _, _ in rows}):
        here = [(file, frame) for part, file, frame in rows if part == number]
        ids = pl.concat([frame["pair_id"] for _, frame in here])
        own = told.filter(pl.col("pair_id").is_in(ids.implode())).select(VOTES)
        labels = settle_frame(pl.concat([pool.votes(number, VOTES), own]), "bench").select("pair_id", "chosen")
        truth = pool.votes(number, table="truth").unique("pair_id", keep="any")
        for file, frame in here:
            known = frame.join(truth, on="pair_id", how="left").join(
                labels.with_columns(said=True), on="pair_id", how="left"
            ).with_columns(better=pl.coalesce("better", "chosen")).sort("row")  # fmt: skip
            left[UNSAID] += int(known.filter(pl.col("better").is_null() & pl.col("said").is_null()).height)
            left[UNDECIDED] += int(known.filter(pl.col("better").is_null() & pl.col("said").is_not_null()).height)
            sure = known.filter(pl.col("better").is_not_null())
            pairs = records(Pair, read_shard(file, rows=sure["row"].to_numpy()))
            found += (p.preferring(better) for p, better in zip(pairs, sure["better"], strict=True))
    return found


def _of_files(source: Path, layout: str, left: Counter[str]) -> tuple[Opinions, dict[str, Pair], dict[str, str]]:
    """(opinions, pairs, file of each pair) of the rows of files."""
    opinions, pairs, parts = Opinions(), dict[str, Pair](), dict[str, str]()
    for part in find(str(source)):
        for made in _read(part, layout):
            if isinstance(made, Preferred):
                pairs[made.pair.id] = made.pair
                parts.setdefault(made.pair.id, Path(part.file).stem)
                said = made.better, _weight(made.votes, made.confidence)
                opinions.setdefault(made.pair.id, []).append(said)
            else:
                field = f"{made.field} " if isinstance(made, RowError) and made.field else ""
                left[f"rows: {field}{made.reason}"] += 1
    return opinions, pairs, parts


def _read(part: Part, layout: str) -> Iterable[Preferred | RowError | Flaw]:
    """What each row of a file says, by the readers of `assay pool add`."""
    try:
        used = pool._detected(part, named(layout) if layout else None)
    except AssayError as error:
        raise AssayError(f"{part.file}: {error} (of assay bench: --pair-layout)") from error
    for read in outcomes(part.rows(), used, strict=bool(layout)):
        yield from read.made


def _decided(pairs: dict[str, Pair], opinions: Opinions, left: Counter[str]) -> list[Preference]:
    """The pairs of which one response has more weight."""
    found = []
    for pair_id, pair in pairs.items():
        said = opinions.get(pair_id, [])
        one, other = (sum(w for better, w in said if better == r.id) for r in pair.responses)
        if one != other:
            found.append(pair.preferring(pair.responses[0 if one > other else 1].id))
        elif one:
            left["pairs whose labels contradict each other"] += 1
        else:
            left[UNDECIDED if said else UNSAID] += 1
    return found


def pictures_of(jobs: Mapping[str, "Job"], data: Sequence[Path], named: Path | None) -> Path | None:
    """The folder of pictures: the `named` one, that beside the folders of benchmarks with pictures, or that of a user's own
    set; None where nothing has any. Raises AssayError where two would be needed."""
    shown = {j[1] / "images": n for n, j in jobs.items() if isinstance(j, tuple) and j[0].shown is not None}
    own = {d / "images": d.name for d in data if (d / "images").is_dir() and not has_benchmarks(d)}
    found = {**shown, **own}
    if named is None and len(found) > 1 and shown:
        raise AssayError(
            f"the pictures of {' and '.join(found.values())} lie in different folders: measure one at a time (--only), or "
            "give --images DIR, a folder that has those of your own sets"
        )
    return named or next(iter(found), None)


Job = OwnSet | tuple[Benchmark[Any], Path]
"""What is measured: a user's own pairs, or a public benchmark with the folder that holds its folder."""


def plan(data: Sequence[Path], only: Sequence[str] = (), layout: str = "") -> dict[str, Job]:
    """What `assay bench` measures, by name: the public benchmarks of folders that hold any, then own sets.

    Raises AssayError, before any model is loaded, where nothing would be measured, or something of `only` would not: with
    what was looked for and what is there.
    """
    default = None if data else find_data()
    places = list(data) or ([default] if default else [])
    if not places:
        raise AssayError(
            "no benchmark data: give --data DIR or set ASSAY_BENCH_DATA; --data takes your own labelled pairs as well"
        )
    public = [p for p in places if p.is_dir() and has_benchmarks(p)]
    jobs: dict[str, Job] = {}
    for name, benchmark in EVERY.items() if public else ():
        here = next((p for p in public if (p / benchmark.folder).is_dir()), None)
        if here is not None or name in BENCHMARKS:
            jobs[name] = benchmark, here or public[0]
    own = [p for p in places if p not in public]
    known = dict.fromkeys((*EVERY, *_named(own)))
    if unknown := [n for n in only if n not in known]:
        raise AssayError(f"unknown benchmark '{unknown[0]}'; known: {', '.join(known)}")
    jobs |= {s.name: s for s in own_sets([p for n, p in _named(own).items() if not only or n in only], layout)}
    for name in only:
        job = jobs.get(name, (EVERY[name], places[0]) if name in EVERY else None)
        if isinstance(job, tuple) and not (job[1] / job[0].folder).is_dir():
            fetch = job[0].fetch.format(job[1] / job[0].folder)
            raise AssayError(f"--only {name}: no folder {job[1] / job[0].folder}; {fetch}; {_found(job[1])}")
    return {n: j for n, j in jobs.items() if not only or n in only}


def _found(place: Path) -> str:
    inside = sorted(p.name + "/" * p.is_dir() for p in place.iterdir()) if place.is_dir() else []
    return f"found {', '.join(inside[:12])}{', ...' * (len(inside) > 12)}" if inside else "the folder is empty"
