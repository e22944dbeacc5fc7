"""The small pools that recipes run on: the embedded one, and people's own sets.

The embedded pool is instructions with one checkable constraint, answered by SmolLM2-135M-Instruct.

Which of two answers obeys is a fact (`constraints.py`), so every label in the run can be checked. The in-the-wild labels
are honest weak labels, each pair labelled by one of three sources that do not look at the constraint:

- `longer`: the longer answer wins; right only where length is what was asked for;
- `likelihood`: a small judge: the answer that SmolLM2-135M finds likelier per token after the prompt wins;
- `votes`: three old noisy votes, each right with probability 0.65 (simulated, the only source drawn from the truth).

The answers ship with the package (`data/constraint_answers.parquet`, made by `scripts/make_constraint_pool.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path

import polars as pl

from assay.curate.shards import Pool, create
from assay.errors import AssayError
from assay.formats.human_sets import HUMAN_SETS, read_human_sets
from assay.formats.preferred import Preferred
from assay.pipeline.constraints import Constraint
from assay.records import Judgement, Pair, Response, digest, user
from assay.store import Place

VOTE_ACCURACY = 0.65
HALVED = frozenset({"at_most", "question"})
"""Kinds of which every second instruction is left out: there the shorter answer nearly always obeys, and with all of them
the longer-is-better labels would be wrong more often than in any pool that people use."""
UNSEEN = frozenset({"begin", "no_digits", "question"})
"""Kinds that only measure: no gold, no silver, nothing in the wild is of them. Chosen before any run, for what they are: one
is like a kind that is seen (`include`), one turns a kind that is seen upside down (`digits`), one is like no other."""

PER_SET = 2_500
"""Pairs of each of several sets of people's, unless another number is given."""
WILD_PAIRS = 8_000
"""The most of a set whose choices are no person's."""
PART_PAIRS = 50_000
"""Pairs of a part, where such a pool is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallPool:
    """Pairs with their in-the-wild judgements and, where it is known, the better response by pair id: a pool that fits in
    memory, before it is put on disk.

    `stage2_only` are pairs that must not enter stage 1: nobody can be asked about them. `chosen`: all others may, for they
    are people's and the rest machines' (paper A sends originally human-labelled pairs to stage 1 and all others to stage 2,
    A3 section 3.3); else a share of the questions does. `repeats` counts the pairs that were read again, from another row,
    file or source. Pairs that are `unseen` only measure: of their kinds nothing else is there.
    """

    pairs: dict[str, Pair]
    wild: list[Judgement]
    truth: dict[str, str]
    stage2_only: frozenset[str] = frozenset()
    repeats: int = 0
    unseen: frozenset[str] = frozenset()
    chosen: bool = False

    def put(self, place: Place) -> Pool:
        """The pool on disk. Raises AssayError where another one is there."""
        return create(
            place, self.pairs.values(), self.wild, self.truth, self.stage2_only, self.repeats,
            parts=max(1, len(self.pairs) // PART_PAIRS), unseen=self.unseen, chosen=self.chosen,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One sampled answer; `mean_logp` is nats per token under the model that wrote it, after the plain prompt."""

    text: str
    obeys: bool
    mean_logp: float


def constraint_pool() -> SmallPool:
    """All pairs of one obeying and one violating answer to the same instruction, with wild labels and the truth."""
    frame = pl.read_parquet(Path(str(resources.files("assay") / "data/constraint_answers.parquet")))
    pairs: dict[str, Pair] = {}
    wild: list[Judgement] = []
    truth: dict[str, str] = {}
    read, unseen = 0, set[str]()
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
            if kind in UNSEEN:
                unseen.add(pair.id)
            pairs[pair.id], truth[pair.id] = pair, Response.of(better.text).id
            wild += wild_votes(pair.id, better, worse)
    return SmallPool(pairs=pairs, wild=wild, truth=truth, repeats=read - len(pairs), unseen=frozenset(unseen))


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


def human_pool(
    folder: Path, sets: Sequence[str] = (), per_set: int = 0, say: Callable[[str], None] = lambda _: None
) -> SmallPool:
    """People's own preference sets (`formats.human_sets`): what people say together is the truth, single voices are wild.

    Where several people judged a pair, their majority (of UKP: its authors' cleaned verdict) is the truth, with which
    recorded people answer, and the word of one of them, drawn by the pair's content, is its label in the wild. Where one
    person did, that word is the truth, and the longer response is the label in the wild: a weak labeller that many pools
    have. GPT-4's choices (at most `WILD_PAIRS`) have no truth, and enter stage 2 only; so do pairs on which people split.
    Where there are such choices, all that people decided may enter stage 1; else a share of the questions does, and stage 2
    has pairs whose truth is known too.

    Args:
        folder: With one folder for each set.
        sets: Their names (default: all that lie there; what does not is told).
        per_set: Of every set at most so many pairs, so that none drowns the rest; which ones depends on their content only
            (0: `PER_SET`, and all of a set that is alone).

    Raises AssayError for a set that is named and does not lie there, and where there is none at all.
    """
    pairs: dict[str, Pair] = {}
    wild: list[Judgement] = []
    truth: dict[str, str | None] = {}
    read = 0
    names = _lying(folder, sets, say)
    for name in names:
        found = [(p, people) for _, p, people in read_human_sets(folder, (name,)) if p.better is not None]
        cleaned = _cleaned(folder) if name == "ukp-convarg1" else None
        most = per_set or (PER_SET if len(names) > 1 else len(found))
        limit = WILD_PAIRS if all(people == "wild" for _, people in found) else most
        for one, people in sorted(found, key=lambda row: row[0].pair.id)[:limit]:
            pair_id, better = one.pair.id, str(one.better)
            read += 1
            pairs[pair_id] = one.pair
            decided = people == "human" and (
                one.confidence > 0.5 if cleaned is None else cleaned.get(pair_id) == better
            )
            if decided:  # two sets that contradict each other leave no truth
                truth[pair_id] = better if truth.get(pair_id, better) == better else None
            voice, by = better, f"wild:{name}"
            if people == "human":
                voice, by = (_one_of(one), f"wild:{name}") if one.votes > 1 else (_longer(one.pair), "wild:longer")
            wild.append(Judgement(pair_id=pair_id, better=voice, by=by, kind="wild"))
    known = {pair_id: better for pair_id, better in truth.items() if better is not None}
    others = frozenset(pairs.keys() - known.keys())
    machines = any(HUMAN_SETS[n].people == "wild" for n in names)
    return SmallPool(
        pairs=pairs, wild=wild, truth=known, stage2_only=others, repeats=read - len(pairs), chosen=machines
    )


def _lying(folder: Path, sets: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """The sets to be read. The strict UKP pairs are in the full set."""
    if unknown := sorted(set(sets) - HUMAN_SETS.keys()):
        raise AssayError(f"unknown sets {', '.join(unknown)}; known: {', '.join(HUMAN_SETS)}")
    names = sets or [n for n in HUMAN_SETS if n != STRICT]
    missing = [n for n in names if not all((folder / f).is_file() for f in HUMAN_SETS[n].files)]
    if missing and (sets or len(missing) == len(names)):
        first = folder / HUMAN_SETS[missing[0]].files[0]
        raise AssayError(f"{folder}: the sets {', '.join(missing)} are not there ({first}, ...); --sets names others")
    if missing:
        say(f"{folder}: without {', '.join(missing)}, which are not there")
    return sorted(set(names) - set(missing))


STRICT = "ukp-convarg1-strict"


def _cleaned(folder: Path) -> dict[str, str] | None:
    """The verdict, by pair id, where UKP's authors found their workers consistent; None where that file is not there."""
    if not all((folder / f).is_file() for f in HUMAN_SETS[STRICT].files):
        return None
    return {p.pair.id: str(p.better) for _, p, _ in read_human_sets(folder, (STRICT,))}


def _one_of(one: Preferred) -> str:
    """The word of one of those who judged a pair."""
    first, second = (r.id for r in one.pair.responses)
    other = second if one.better == first else first
    drawn = int(digest(["one of", one.pair.id])[:8], 16) / 16**8
    return str(one.better) if drawn < one.confidence else other


def _longer(pair: Pair) -> str:
    return max(pair.responses, key=lambda r: (len(r.text), r.text)).id
