"""People whose answers lie in a file: those of a run, who are waited for, and those who answered before it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from assay.curate.settle import settle
from assay.curate.shards import Pool
from assay.curate.verify import oracle, read_judgements, taken_back
from assay.errors import AssayError
from assay.records import Case, Judge, Judgement, Pair, digest
from assay.tables import Table


def recorded_people(truth: Mapping[str, str]) -> Judge:
    """People who answered before: their recorded labels, given when the loop asks."""
    answer = oracle(truth)

    def people(cases: Sequence[Case]) -> list[Judgement]:
        return [replace(j, kind="human", by="people:recorded") for j in answer(cases)]

    return people


class PeopleOnFile:
    """People who answer with `assay verify` or on the page, as a `Judge`: what they have not answered yet is put in the
    queue, and the run stops."""

    def __init__(self, judgements: Path, queue: Path) -> None:
        self.judgements, self.queue = judgements, queue

    def __call__(self, cases: Sequence[Case]) -> list[Judgement]:
        """Their answers. Raises AssayError, saying how to go on, as long as a pair that was asked about has none."""
        answers = self._answers([c.pair for c in cases])
        missing = [c for c in cases if c.pair.id not in answers]
        if missing:
            self._wait(missing, len(cases))
        return [answers[c.pair.id] for c in cases]

    def are_of(self, pool: Pool) -> None:
        """Raises AssayError where a judgement is about a pair that the pool does not have."""
        told = pl.DataFrame({"pair_id": sorted(self.about())}, {"pair_id": pl.String})
        for shard in (s for s in pool.shards if s.pairs and len(told)):  # an import can bring votes alone
            told = told.join(pool.table("index").frame(shard.name, columns=["pair_id"]), on="pair_id", how="anti")
        if len(told):
            raise AssayError(
                f"{self.judgements}: {len(told):,} pairs that people judged here are not in {pool.place}, "
                f"the first is {told['pair_id'][0]}: take these lines out, or give the pool that they are about"
            )

    def about(self) -> set[str]:
        """The ids of all pairs on which a word of theirs stands."""
        return {j.pair_id for j in read_judgements(self.judgements)}

    def words(self, pairs: Sequence[Pair]) -> dict[str, Judgement]:
        """What they say today of pairs that they judged. An answer that was taken back, and not given anew, is a problem."""
        gone = taken_back(self.judgements)
        lost = {
            p.id: Judgement(pair_id=p.id, better=None, by="people", kind="human", problem="taken back")
            for p in pairs if p.id in gone
        }  # fmt: skip
        return {**lost, **self._answers(pairs)}

    def _answers(self, pairs: Sequence[Pair]) -> dict[str, Judgement]:
        wanted = {p.id: p for p in pairs}
        given: dict[str, list[Judgement]] = {}
        for j in read_judgements(self.judgements, wanted):
            if j.pair_id in wanted:
                given.setdefault(j.pair_id, []).append(j)
        return {pair_id: together(rows) for pair_id, rows in given.items()}

    def _wait(self, missing: Sequence[Case], asked: int) -> None:
        shard = digest(sorted(c.pair.id for c in missing))[:16]
        table = Table(self.queue, Case)
        if not table.done(shard):
            table.write(shard, [replace(c, examples=()) for c in missing])
        known = {c.pair.id for c in table.stream()}
        others = self.about() - known
        about = f"; {len(others):,} pairs in {self.judgements} are none that this run waits for" if others else ""
        run = self.queue.parent
        raise AssayError(
            f"{len(missing)} of {asked} pairs wait for people; run: assay verify {run} (or the page: assay web {run}) - "
            f"then give this command again{about}"
        )


def together(rows: Sequence[Judgement]) -> Judgement:
    """One judgement for what several people said of a pair: what `settle` makes of them, by the last who said so."""
    if len(rows) == 1:
        return rows[0]
    label = settle(rows, "people")
    if label.chosen is None:
        undecided = next((j for j in reversed(rows) if j.by in label.by and j.better is None), None)
        return undecided or replace(rows[-1], better=None, problem="people disagree", by=" and ".join(label.by))
    last = next(j for j in reversed(rows) if j.better == label.chosen and j.by in label.by)
    return replace(last, confidence=label.certainty, strength=label.margin, votes=len(rows))


def read_queue(queue: Path) -> list[Case]:
    """The cases that wait for people, each once. Raises AssayError when a run has not asked for any."""
    cases = {c.pair.id: c for c in Table(queue, Case).stream()} if queue.is_dir() else {}
    if not cases:
        raise AssayError(f"{queue}: no pairs wait here; start a run first: assay run pool POOL --out {queue.parent}")
    return list(cases.values())
