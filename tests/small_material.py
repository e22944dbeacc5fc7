"""A small pool on disk through the real stages before the loop, without models: where tests of stage 2 and of sets start."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from assay.curate.material import Material
from assay.curate.offline import hash_embedder
from assay.curate.prepare import SplitConfig, prepare
from assay.curate.shards import create
from assay.engine import Engine, Here
from assay.records import Judgement, Pair, Response, user
from assay.store import Place

SPLIT = SplitConfig(eval_share=0.2, stage1_share=0.3, held_share=0.3)


def pair(n: int) -> Pair:
    """Right is what says the number; two pairs to a question."""
    return Pair.of((user(f"What is {n // 2} + {n // 2}?"),), Response.of(f"It is {n}."), Response.of(f"No {n}."))


def truth(p: Pair) -> str:
    return next(r.id for r in p.responses if r.text.startswith("It is"))


def source_says(p: Pair) -> str:
    """The source is right about three in four of them."""
    return truth(p) if int(p.id[:6], 16) % 4 else p.other(truth(p))


def votes(pairs: Sequence[Pair]) -> list[Judgement]:
    return [Judgement(pair_id=p.id, better=source_says(p), by="wild:web", kind="wild") for p in pairs]


PAIRS = [pair(n) for n in range(120)]


def material(
    folder: Path, pairs: Sequence[Pair] = PAIRS, said: Sequence[Judgement] | None = None,
    known: Mapping[str, str] | None = None, parts: int = 3, split: SplitConfig = SPLIT, engine: Engine | None = None,
) -> Material:  # fmt: skip
    """The pool `folder`/pool, prepared in `folder`/tables; every pair's truth is known unless `known` says otherwise."""
    known = {p.id: truth(p) for p in pairs} if known is None else known
    pool = create(folder / "pool", pairs, votes(pairs) if said is None else said, known, parts=parts)
    out, engine = Place.of(folder / "tables"), engine or Here()
    slices = prepare(pool, out, split, {}, hash_embedder(), "hash", engine)
    made = Material(pool=pool, slices=slices, out=out, engine=engine)
    made.save(Place.of(folder))
    return made
