"""Pools and runs as they lie on disk, small, for whoever reads them; and what `assay pool add` made, read back."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from assay.curate.material import Material, pool_in
from assay.curate.offline import hash_embedder
from assay.curate.prepare import SplitConfig, prepare
from assay.curate.shards import Pool, create
from assay.engine import Here
from assay.records import Judgement, Origin, Pair, Rejection, Response, Truth, user
from assay.store import Place
from assay.tables import Table


def pair(n: int, question: int | None = None) -> Pair:
    """The n-th pair; its better response is "good N"."""
    asked = n if question is None else question
    return Pair.of(
        (user(f"Question {asked}: what of {asked % 7}?"),), Response.of(f"good {n}"), Response.of(f"bad {n}")
    )


def better(n: int) -> str:
    return Response.of(f"good {n}").id


def wild(of: Pair, chosen: str | None, source: str = "web") -> Judgement:
    """What a source says of a pair: a response by id, or a tie."""
    return Judgement(pair_id=of.id, better=chosen, by=f"wild:{source}", kind="wild", problem="" if chosen else "tie")


def small_pool(folder: Path, n: int = 40, parts: int = 3, known: bool = False) -> tuple[Pool, list[Pair]]:
    """A pool of n pairs; the source is right on all but each fifth, and with `known` the truth is there."""
    pairs = [pair(k) for k in range(n)]
    votes = [wild(p, p.other(better(k)) if k % 5 == 0 else better(k)) for k, p in enumerate(pairs)]
    truth = {p.id: better(k) for k, p in enumerate(pairs)} if known else {}
    return create(folder, pairs, votes, truth, parts=parts), pairs


def small_run(
    folder: Path, pool: Pool, benchmarks: Mapping[str, Sequence[str]] | None = None, split: SplitConfig | None = None
) -> Material:
    """A run folder as it is before any seed: prepared by rules and the hashing embedder."""
    place = Place.of(folder)
    slices = prepare(
        pool, place / "tables", split or SplitConfig(), benchmarks or {}, hash_embedder(), "hash", Here()
    )  # fmt: skip
    material = Material(pool=pool, slices=slices, out=place / "tables")
    material.save(place)
    return material


def old_layout(folder: Path) -> Path:
    """A pool, or a run, as versions before wrote it."""
    Table(folder / "tables" / "pairs", Pair).write("rows-000000000000-00000", [pair(0)])
    Table(folder / "tables" / "wild", Judgement).write("rows-000000000000-00000", [wild(pair(0), better(0))])
    Table(folder / "tables" / "truth", Truth).write("pool", [])
    return folder


def pairs_in(folder: Path) -> list[Pair]:
    """The pairs of a pool, a run or an `assay annotate`."""
    return cast(list[Pair], pool_in(Place.of(folder))[0].table("pairs").read())


def occurrences(folder: Path) -> list[tuple[Pair, Judgement, Origin]]:
    """Each time that a row made a pair: the pair, a vote on it, and where it was read. (Which vote is which row's cannot be
    told where a pair was read several times.)"""
    pool = Pool.open(folder)
    pairs = {p.id: p for p in cast(list[Pair], pool.table("pairs").read())}
    votes = defaultdict[str, list[Judgement]](list)
    for vote in cast(list[Judgement], pool.table("votes").read()):
        votes[vote.pair_id].append(vote)
    origins = cast(list[Origin], pool.table("origins").read())
    origins.sort(key=lambda o: (o.source, o.file, o.row))
    return [(pairs[o.pair_id], votes[o.pair_id].pop(0), o) for o in origins]


def rejections(folder: Path) -> list[Rejection]:
    found = cast(list[Rejection], Pool.open(folder).table("rejections").read())
    return sorted(found, key=lambda r: (r.source, r.file, r.row))


def write_primes(file: Path, rows: Sequence[tuple[int, str]]) -> None:
    """JSON lines of pairs, of (question, the answer that won: "yes" or "no")."""
    other = {"yes": "no", "no": "yes"}
    texts = [{"prompt": f"Is {n} prime?", "chosen": f"{won}, {n}", "rejected": f"{other[won]}, {n}"} for n, won in rows]
    file.write_text("".join(json.dumps(t) + "\n" for t in texts))


def policy_steps(folder: Path) -> dict[str, Any]:
    """The results of the steps of `--tune`, less the time that each took."""
    root = folder / "policies" / "steps"
    told = {str(p.relative_to(root).with_suffix("")): json.loads(p.read_text()) for p in sorted(root.rglob("*.json"))}
    return {name: {k: v for k, v in step.items() if k != "wall_s"} for name, step in told.items()}
