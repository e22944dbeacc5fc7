"""`assay pool add`: any source of preferences becomes a generation of the pool's shards (`curate.shards`).

Two phases, each a map over an engine: pieces of files are read and laid down by part (`spill`), then each part is
gathered into shards (`generation`). All that is made until then lies in the pool's `importing`, under names that are a
function of the content; what is there is done, so the same command goes on where a killed one stopped. The pool's
manifest, replaced at the end, is what makes the import take effect. Every row ends as pairs or as a counted `Rejection`;
nothing vanishes.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from assay.curate.generation import gather, gathered, shares
from assay.curate.segments import Note, Segments
from assay.curate.shards import TABLES, Pool
from assay.curate.spill import BUCKET, Piece, bucket_name, pair_up, spill
from assay.engine import Engine, Here
from assay.errors import AssayError
from assay.formats.layouts import Layout, named
from assay.formats.reading import Fields, decide, why_unread
from assay.formats.sources import Part, find, splits
from assay.records import digest
from assay.store import PENDING, Place

PART_BYTES = 3 << 26
"""A new pool has so many parts that each holds at most about this much text of its first sources."""
VERSION = 2
"""Of what an import keeps on its way (segments, notes, shares): raise it when that changes, for a cut-off import is gone on
with by the same version alone."""
_SHARD = re.compile(r"\d{4,}-(\d{2,})(?:-\d+)?\.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """What became of one file: `rejected` maps "field reason" to a count; `already` means that nothing was done."""

    source: str
    file: str
    layout: str
    rows: int
    pairs: int
    ties: int
    rejected: dict[str, int]
    already: bool = False

    def lines(self) -> list[str]:
        where = self.file if self.file == self.source else f"{self.source} ({self.file})"
        if self.already:
            return [f"{where}: already in the pool ({self.pairs} pairs); nothing done"]
        head = f"{where}: layout {self.layout}, {self.rows} rows -> {self.pairs} pairs ({self.ties} ties)"
        total = sum(self.rejected.values())
        worst = sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))
        more = [f"    ... and {len(worst) - 12} more reasons"] if len(worst) > 12 else []
        return [f"{head}, {total} rejected", *(f"    {count} x {reason}" for reason, count in worst[:12]), *more]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """What an import did, file by file; how many pairs the pool holds then, how many of its rows repeat one, and how many
    pairs have votes for both."""

    files: tuple[FileReport, ...]
    held: int = 0
    repeated: int = 0
    contradicting: int = 0

    @property
    def pairs(self) -> int:
        return sum(f.pairs for f in self.files)

    @property
    def rejected(self) -> int:
        return sum(sum(f.rejected.values()) for f in self.files)

    def lines(self) -> list[str]:
        return [*(line for f in self.files for line in f.lines()), *self.ends()]

    def ends(self) -> list[str]:
        """What duplicates and conflicts came to, where there are any."""
        if not self.repeated:
            return []
        told = f"duplicates: {self.repeated:,} rows repeat a pair that the pool holds already; "
        return [f"{told}conflicts: for {self.contradicting:,} of these pairs the rows prefer different responses"]

    def __str__(self) -> str:
        return "\n".join(self.lines())


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file to be imported: what it is called, its layout, and the name of its note and of its pieces."""

    part: Part
    source: str
    layout: Layout | None
    how: str

    @property
    def key(self) -> str:
        return _key(self.part, self.how)

    @property
    def note(self) -> str:
        return f"{_slug(self.source)}-{_slug(Path(self.part.file).name)}-{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """How all files of an import are read."""

    strict: bool
    fields: Fields
    max_field_chars: int


def add(
    sources: Sequence[str], out: Path | Place, *, layout: str | None = None, name: str | None = None,
    max_field_chars: int = 1_000_000, say: Callable[[str], None] = print, fields: Fields | None = None,
    engine: Engine | None = None, parts: int = 0,
) -> PoolReport:  # fmt: skip
    """Import files, folders or hub ids into the pool folder `out`, after what is there already.

    `layout` names the shape of the rows instead of detecting it; `name` replaces the sources' own names; `fields` renames or
    leaves out columns; `parts` is how many parts a new pool has (0: by the size of its first sources). Raises AssayError
    before anything is written when a source does not exist, the layout is unknown, a file can be read in two ways, or is in
    the pool already and was read in another way, and where another import into the pool was cut off.
    """
    wanted, fields = named(layout) if layout is not None else None, fields or Fields()
    place, engine = Place.of(out), engine or Here()
    found = [part for source in sources for part in find(str(source))]
    if len(several := splits(found)) > 1:
        say(f"splits {', '.join(several)} are all read, as one pool; to read one, name its files, or owner/name@SPLIT")
    how = _asked(layout, fields)
    pool = _begun(place, parts, found)
    known = notes_of(pool)
    notes = [_noted(pool, known, part, how) for part in found]
    new: dict[str, _File] = {}
    for part, note in sorted(zip(found, notes, strict=True), key=lambda two: (two[0].source, two[0].file)):
        if note is None and _key(part, how) not in new:
            new[_key(part, how)] = _File(
                part=part, source=name or part.source, layout=_detected(part, wanted, fields), how=how
            )
    made: dict[str, dict[str, Any]] = {}
    if new:
        _announce(list(new.values()), layout is not None, say, fields)
        reading = _Reading(strict=layout is not None, fields=fields, max_field_chars=max_field_chars)
        pool, made = _imported(pool, list(new.values()), reading, engine)
    elif (held := _plan(pool)) is None or held["generation"] < pool.generations:
        _leftovers(pool)
    reports = []
    for part, note in zip(found, notes, strict=True):
        file = new.get(_key(part, how))
        told = note or made[_key(part, how)]
        mine = file is not None and file.part is part
        reports.append(FileReport(**{k: told[k] for k in FileReport.__slots__ if k != "already"}, already=not mine))
    whole = PoolReport(files=tuple(reports), held=pool.pairs, repeated=pool.repeats, contradicting=pool.conflicts)
    for line in whole.lines():
        say(line)
    return whole


def _begun(place: Place, parts: int, found: Sequence[Part]) -> Pool:
    """The pool as it is, or an empty one of as many parts as are wanted."""
    if (place / "pool.json").exists() or (place / "tables").names():
        pool = Pool.as_it_was(place)
        if parts and parts != pool.parts:
            raise AssayError(f"{place}: has {pool.parts} parts; --parts is for a new pool")
        return pool
    if parts < 0:
        raise AssayError(f"--parts {parts}: give a number of parts, or leave it out")
    ours = {*TABLES, "pairs", "index", "importing", "imports", "images"}
    if other := [name for name in place.names() if name not in ours and not name.startswith(".")]:
        raise AssayError(
            f"{place}: no pool, and other things are in it ({other[0]}, ...); a pool has a folder of its own"
        )
    size = sum({part.key: part.chars for part in found}.values())
    return Pool(place=place, parts=parts or _power(size / PART_BYTES), shards=(), generations=0)


def _power(wanted: float) -> int:
    """The least power of two that is not less."""
    made = 1
    while made < wanted:
        made *= 2
    return made


def _detected(part: Part, wanted: Layout | None = None, fields: Fields | None = None) -> Layout | None:
    """The layout of a part: the one that is wanted or the one that its rows have, made sure of over all of them."""
    return decide(part.rows, part.path or part.file, wanted=wanted, fields=fields)


def _asked(layout: str | None, fields: Fields) -> str:
    """What was said about how to read, in one text; "" for nothing."""
    mapped = [f"{ours}={theirs}" for ours, theirs in sorted(fields.mapped.items())]
    return " ".join([*([layout] if layout else []), *mapped, *(f"-{n}" for n in sorted(fields.ignored))])


def notes_of(pool: Pool) -> list[dict[str, Any]]:
    """The notes of all files that are in the pool; one of an import that did not take effect is none."""
    folder = pool.place / "imports"
    notes: list[dict[str, Any]] = [json.loads((folder / name).read_text()) for name in folder.names(".json")]
    return [n for n in notes if n["generation"] < pool.generations]


def _noted(pool: Pool, known: Sequence[dict[str, Any]], part: Part, how: str) -> dict[str, Any] | None:
    """The note of an import of the same content. Raises AssayError where pairs of it are there that were read in another way
    than is asked now."""
    same = [note for note in known if note["content"] == part.key and (note["asked"] == how or note["pairs"])]
    if same and all(note["asked"] != how for note in same):
        raise AssayError(
            f"{part.path or part.file}: is in the pool {pool.place} already, read as "
            f"{same[0]['asked'] or same[0]['layout']}; to read it in another way, make the pool anew in another folder"
        )
    return next((note for note in same if note["asked"] == how), None)


def _key(part: Part, how: str) -> str:
    return digest([part.key, how])[:12]


def _announce(files: Sequence[_File], strict: bool, say: Callable[[str], None], fields: Fields) -> None:
    for file in files:
        shown = f"{file.source} ({file.part.file})"
        if file.layout is None:
            for line in [f"{shown}: no layout", *why_unread(file.part.rows(), fields)]:
                say(line)
        else:
            say(f"{shown}: layout {file.layout.name}, {'named' if strict else 'detected'}")
    wanted = {f"--map {ours}={theirs}": theirs for ours, theirs in fields.mapped.items()}
    wanted |= {f"--ignore {name}": name for name in sorted(fields.ignored)}
    for flag, name in wanted.items():
        if not any(fields.found(name, file.part.rows()) for file in files):
            say(f"{flag}: none of the first rows has a column {name}")


def _imported(
    pool: Pool, files: Sequence[_File], reading: _Reading, engine: Engine
) -> tuple[Pool, dict[str, dict[str, Any]]]:
    """Read the files, gather the parts, and let it take effect: the pool then, and the note of each file by its key."""
    pieces = {file.key: _pieces(pool, file, reading) for file in files}
    folder = _planned(pool, files, reading)
    plan = _plan(pool)
    done = {n.removesuffix(".json") for n in folder.names(".json")}
    _all(engine, partial(spill, folder), [p for some in pieces.values() for p in some if p.name not in done])
    notes = {key: [Note.read(folder, p.name) for p in some] for key, some in pieces.items()}
    lone = {key: _buckets(pieces[key][0], notes[key]) for key in pieces}
    _all(engine, partial(pair_up, folder), [i for some in lone.values() for n, i in some.items() if n not in done])
    for key, some in lone.items():
        notes[key] += [Note.read(folder, name) for name in some]
    wanted = list(shares(pool, [note for some in notes.values() for note in some]))
    _all(engine, partial(gather, folder), [share for share in wanted if share.name not in done])
    told = {file.key: _file_note(file, notes[file.key], pool.generations) for file in files}
    for file in files:
        (pool.place / "imports" / f"{file.note}.json").write_text(json.dumps(told[file.key], indent=2))
    made = [gathered(folder, share.name) for share in wanted]
    shards = [g.shard for g in made if g.shard.votes]
    more = replace(
        pool, shards=(*pool.shards, *shards), generations=pool.generations + 1,
        repeats=pool.repeats + sum(s.votes - s.pairs for s in shards),
        conflicts=pool.conflicts + sum(g.conflicts for g in made),
    )  # fmt: skip
    _unchanged(pool)
    if _plan(pool) != plan:
        raise AssayError(f"{pool.place}: another import dropped what this one had made; give this command again")
    more.save()
    _leftovers(more)
    return more, told


def _all(engine: Engine, work: Callable[[Any], None], items: Sequence[Any]) -> None:
    for _ in engine.map(work, items):
        pass


def _pieces(pool: Pool, file: _File, reading: _Reading) -> list[Piece]:
    """What the calls of `spill` read of a file."""
    part, images = file.part, pool.place / "images"
    first = Piece(
        name=file.key, source=file.source, file=part.file, rows=part.rows, lines=part.lines,
        layout=file.layout.name if file.layout else "", strict=reading.strict, fields=reading.fields, parts=pool.parts,
        buckets=_power(part.chars / BUCKET), max_field_chars=reading.max_field_chars,
        folder=Path(part.path).parent if part.path else None, images=images.path,
    )  # fmt: skip
    return [replace(first, name=f"{file.key}+{i:05d}", rows=rows) for i, rows in enumerate(part.pieces)]


def _buckets(piece: Piece, notes: Sequence[Note]) -> dict[str, tuple[Piece, int, Segments]]:
    """By its name, what a call of `pair_up` reads: a file's rows of one response each that fell into one bucket."""
    return {bucket_name(piece, n): (piece, n, some) for n, some in Segments.by_part("lone", notes).items()}


def _planned(pool: Pool, files: Sequence[_File], reading: _Reading) -> Place:
    """The folder of this import: with what it has made already, or new, after what is left of one that took no effect.

    Raises AssayError where another import was cut off, or ended since this one looked at the pool.
    """
    folder = pool.place / "importing"
    named_ = sorted([f.key, f.source, f.part.file, f.layout.name if f.layout else ""] for f in files)
    how = [pool.generations, pool.parts, reading.strict, reading.max_field_chars, len(pool.shards), pool.pairs]
    plan = {"version": VERSION, "files": named_, "how": digest(how), "generation": pool.generations}
    held = _plan(pool)
    if held == plan:
        return folder
    if held is not None and held["generation"] == pool.generations:
        if held.get("version") != VERSION:
            raise AssayError(
                f"{pool.place}: another version of Assay began an import that was cut off; this one cannot go on with it: "
                f"remove {folder}, and give the same command again"
            )
        other = ", ".join(f"{source} ({file})" for _, source, file, _ in held["files"][:3])
        raise AssayError(
            f"{pool.place}: the import of {other}{', ...' if len(held['files']) > 3 else ''} was cut off (or is going "
            f"on): give the same command again to finish it, or remove {folder} to drop it; then import other files"
        )
    _leftovers(pool)
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def _unchanged(pool: Pool) -> None:
    """Raise AssayError where another import took effect since the pool was read: its shards would be taken for leftovers."""
    now = Pool.as_it_was(pool.place).generations if (pool.place / "pool.json").exists() else 0
    if now != pool.generations:
        raise AssayError(
            f"{pool.place}: another import into this pool ended meanwhile, and nothing was added by this one; give this "
            "command again"
        )


def _plan(pool: Pool) -> dict[str, Any] | None:
    """What the import does that is going on, or was cut off."""
    file = pool.place / "importing" / "plan.json"
    made: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
    return made


def _leftovers(pool: Pool) -> None:
    """Remove what the manifest does not know: the folder of an import that is over, shards of one that was dropped."""
    _unchanged(pool)
    (pool.place / "importing").remove()
    for table in ("pairs", "index", "votes", "origins", "rejections"):
        for name in (pool.place / table).names(".parquet"):
            shard = _SHARD.fullmatch(name)
            if shard is not None and int(shard[1]) >= pool.generations:
                (pool.place / table / name).remove()
    notes = pool.place / "imports"
    for name in notes.names(".json"):  # of an import that took no effect
        if json.loads((notes / name).read_text())["generation"] >= pool.generations:
            (notes / name).remove()
    for table in ("", "pairs", "index", "votes", "origins", "rejections", "imports", "images"):
        path = pool.place.path
        for file in (path / table).glob(f"*{PENDING}") if path is not None else ():
            file.unlink(missing_ok=True)


def _file_note(file: _File, notes: Sequence[Note], generation: int) -> dict[str, Any]:
    """What is kept of the import of a file: its report, its content, how it was read, and when."""
    rejected, lost = Counter[str](), Counter[str]()
    for note in notes:
        rejected.update(note.rejected)
        lost.update(note.lost)
    return {
        "source": file.source, "file": file.part.file, "layout": file.layout.name if file.layout else "none",
        "rows": sum(n.rows for n in notes), "pairs": sum(n.pairs for n in notes), "ties": sum(n.ties for n in notes),
        "rejected": dict(sorted(rejected.items())), "lost": dict(sorted(lost.items())),
        "content": file.part.key, "asked": file.how, "generation": generation,
    }  # fmt: skip


def _slug(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", value).strip("-")[:40] or "source"
