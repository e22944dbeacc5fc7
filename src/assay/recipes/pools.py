"""The pools that recipes run on: the embedded one, people's own sets, and a folder made by `assay pool add`.

The embedded pool is instructions with one checkable constraint, answered by SmolLM2-135M-Instruct.

Which of two answers obeys is a fact (`constraints.py`), so every label in the run can be checked. The in-the-wild labels
are honest weak labels, each pair labelled by one of three sources that do not look at the constraint:

- `longer`: the longer answer wins; right only where length is what was asked for;
- `likelihood`: a small judge: the answer that SmolLM2-135M finds likelier per token after the prompt wins;
- `votes`: three old noisy votes, each right with probability 0.65 (simulated, the only source drawn from the truth).

The answers ship with the package (`data/constraint_answers.parquet`, made by `scripts/make_constraint_pool.py`).
"""

import re
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path

import polars as pl

from assay.curate.human_sets import read_human_sets
from assay.curate.layouts import Preferred
from assay.errors import AssayError
from assay.recipes.constraints import Constraint
from assay.records import Judgement, Pair, Response, digest, user
from assay.tables import Table

VOTE_ACCURACY = 0.65
HALVED = frozenset({"at_most", "question"})
"""Kinds of which every second instruction is left out: there the shorter answer nearly always obeys, and with all of them
the longer-is-better labels would be wrong more often than in any pool that people use."""

_PART = re.compile(r"(.+-[0-9a-f]{12})-\d{5}")
"""A shard of an import: the name of its note in `imports/`, and the number of the part (`curate.pool`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Pairs with their in-the-wild judgements and, where it is known, the better response by pair id.

    `stage2_only` are pairs that must not enter stage 1: nobody can be asked about them (paper A sends originally
    human-labelled pairs to stage 1 and all others to stage 2, A3 section 3.3). `repeats` counts the pairs that were read
    again, from another row, file or source.
    """

    pairs: dict[str, Pair]
    wild: list[Judgement]
    truth: dict[str, str]
    stage2_only: frozenset[str] = frozenset()
    repeats: int = 0

    @property
    def read(self) -> int:
        """How many pairs were read, repeats included."""
        return len(self.pairs) + self.repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One sampled answer; `mean_logp` is nats per token under the model that wrote it, after the plain prompt."""

    text: str
    obeys: bool
    mean_logp: float


def constraint_pool(path: Path | None = None) -> Pool:
    """All pairs of one obeying and one violating answer to the same instruction, with wild labels and the truth."""
    frame = pl.read_parquet(path or Path(str(resources.files("assay") / "data/constraint_answers.parquet")))
    pairs: dict[str, Pair] = {}
    wild: list[Judgement] = []
    truth: dict[str, str] = {}
    read = 0
    for (index, prompt, kind, argument), rows in frame.group_by(
        ["instruction", "prompt", "kind", "argument"], maintain_order=True
    ):
        if kind in HALVED and int(str(index)) % 2:
            continue
        constraint = Constraint(kind=str(kind), argument=str(argument))
        answers = {
            row["answer"]: Answer(
                text=row["answer"], obeys=constraint.obeyed_by(row["answer"]), mean_logp=row["mean_logp"]
            )
            for row in rows.iter_rows(named=True)
            if row["answer"].strip()
        }
        for one, other in combinations(answers.values(), 2):
            if one.obeys == other.obeys:
                continue
            better, worse = (one, other) if one.obeys else (other, one)
            pair = Pair.of((user(str(prompt)),), Response.of(better.text), Response.of(worse.text))
            read += 1
            pairs[pair.id], truth[pair.id] = pair, Response.of(better.text).id
            wild += wild_votes(pair.id, better, worse)
    return Pool(pairs=pairs, wild=wild, truth=truth, repeats=read - len(pairs))


def wild_votes(pair_id: str, better: Answer, worse: Answer) -> list[Judgement]:
    """The in-the-wild judgements of one pair, from one of the three sources, by the pair's own content."""

    def vote(source: str, choice: Answer) -> Judgement:
        return Judgement(pair_id=pair_id, better=Response.of(choice.text).id, by=f"wild:{source}", kind="wild")

    draw = int(digest(["source", pair_id])[:8], 16) % 10
    if draw < 4:
        return [vote("longer", max(better, worse, key=lambda a: (len(a.text), a.text)))]
    if draw < 7:
        return [vote("likelihood", max(better, worse, key=lambda a: (a.mean_logp, a.text)))]
    right = [int(digest(["vote", n, pair_id])[:8], 16) < VOTE_ACCURACY * 16**8 for n in range(3)]
    return [vote(f"votes-{n}", better if r else worse) for n, r in enumerate(right)]


def human_pool(folder: Path, per_set: int = 2_500, wild_pairs: int = 8_000) -> Pool:
    """People's own preference sets (`curate.human_sets`): human labels are the truth, the others are in the wild.

    In the wild are GPT-4's choices (at most `wild_pairs`) and votes of people who disagreed among themselves. Of every
    other set at most `per_set` pairs are taken, so that no set drowns the rest; which ones depends on their content only.
    Pairs with a human label may enter stage 1, where the recorded labels answer for people.
    """
    pairs: dict[str, Pair] = {}
    wild: list[Judgement] = []
    truth: dict[str, str | None] = {}
    read = 0
    by_set: dict[str, list[tuple[Preferred, bool]]] = {}
    for name, found, people in read_human_sets(folder):
        if found.better is not None:
            machine = people == "wild" or found.confidence < 1.0
            by_set.setdefault(name, []).append((found, machine))
    for name, rows in sorted(by_set.items()):
        limit = wild_pairs if all(machine for _, machine in rows) else per_set
        for found, machine in sorted(rows, key=lambda row: row[0].pair.id)[:limit]:
            pair_id = found.pair.id
            read += 1
            pairs[pair_id] = found.pair
            if machine:
                wild.append(
                    Judgement(pair_id=pair_id, better=found.better, by=f"wild:{name}", kind="wild",
                              confidence=found.confidence, votes=found.votes)
                )  # fmt: skip
            else:  # two sets that contradict each other leave no truth
                truth[pair_id] = found.better if truth.get(pair_id, found.better) == found.better else None
    known = {pair_id: better for pair_id, better in truth.items() if better is not None}
    others = frozenset(pairs.keys() - known.keys())
    return Pool(pairs=pairs, wild=wild, truth=known, stage2_only=others, repeats=read - len(pairs))


def folder_pool(folder: Path) -> Pool:
    """A pool folder made by `assay pool add`: its pairs with their in-the-wild judgements; the truth is not known."""
    check_whole(folder)
    pairs: dict[str, Pair] = {}
    read = 0
    for pair in Table(folder / "tables" / "pairs", Pair).stream():
        pairs.setdefault(pair.id, pair)
        read += 1
    if not pairs:
        raise AssayError(f"{folder}: no pairs here; make a pool with: assay pool add FILE --out {folder}")
    wild = Table(folder / "tables" / "wild", Judgement).read()
    return Pool(pairs=pairs, wild=wild, truth={}, repeats=read - len(pairs))


def check_whole(folder: Path) -> None:
    """Raise AssayError where an import into this pool folder was cut off (or is still going on): part of a file's pairs
    would be taken for all of them."""
    parts = (_PART.fullmatch(s) for s in Table(folder / "tables" / "pairs", Pair).shards())
    notes = {path.stem for path in (folder / "imports").glob("*.json")}
    cut = sorted({part[1] for part in parts if part} - notes)
    if cut:
        raise AssayError(
            f"{folder}: the import of {', '.join(cut[:3])}{', ...' if len(cut) > 3 else ''} was cut off or is not over, so "
            "the pool has only some of its pairs; give the same `assay pool add` again to finish it"
        )
