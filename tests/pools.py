"""A pool folder that `assay pool add` made, read back in the order of its rows."""

from collections import defaultdict
from pathlib import Path
from typing import cast

from assay.curate.shards import Pool
from assay.records import Judgement, Origin, Pair, Rejection


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
