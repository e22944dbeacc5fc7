"""People whose answers lie in a file: those of a run, who are waited for, and those who answered before it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from assay.curate.settle import settle
from assay.curate.shards import Pool
from assay.curate.verify import oracle, read_judgements, taken_back
from assay.curate.waiting import lacking, note_answered, note_asked, queued, waits
from assay.errors import AssayError, Paused, Refused
from assay.records import Case, Judge, Judgement, Pair, digest
from assay.tables import Table


def recorded_people(truth: Mapping[str, str]) -> Judge:
    """People who answered before: their recorded labels, given when the loop asks."""
    answer = oracle(truth)

    def people(cases: Sequence[Case]) -> list[Judgement]:
        return [replace(j, kind="human", by="people:recorded") for j in answer(cases)]

    return people


Waiting = Callable[[Path], None]
"""Returns when people have answered what the run in this folder waits for."""


class PeopleOnFile:
    """People who answer with `assay verify` or on the page, as a `Judge`: what they have not answered yet is put in the
    queue, and the run stops, or waits where it is given a way to (`wait`)."""

    def __init__(self, judgements: Path, queue: Path, wait: Waiting | None = None) -> None:
        self.judgements, self.queue, self.run, self.wait = judgements, queue, queue.parent, wait

    def __call__(self, cases: Sequence[Case]) -> list[Judgement]:
        """Their answers. Raises Paused, saying how to go on, as long as a pair that was asked about lacks one."""
        while missing := self._lacking(cases):
            self._ask(missing, len(cases))
            if self.wait is None:
                raise Paused(f"{waits(self.run)}; then assay resume {self.run}{self._others()}")
            self.wait(self.run)
        note_answered(self.run)
        answers = self._answers([c.pair for c in cases])
        return [answers[c.pair.id] for c in cases]

    def _lacking(self, cases: Sequence[Case]) -> list[Case]:
        pairs = {c.pair.id: c.pair for c in cases}
        missing = set(lacking(self.run, list(pairs), read_judgements(self.judgements, pairs)))
        return [c for c in cases if c.pair.id in missing]

    def are_of(self, pool: Pool) -> None:
        """Raises Refused where a judgement is about a pair that the pool does not have."""
        told = pl.DataFrame({"pair_id": sorted(self.about())}, {"pair_id": pl.String})
        for shard in (s for s in pool.shards if s.pairs and len(told)):  # an import can bring votes alone
            told = told.join(pool.table("index").frame(shard.name, columns=["pair_id"]), on="pair_id", how="anti")
        if len(told):
            raise Refused(
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

    def _ask(self, missing: Sequence[Case], asked: int) -> None:
        """Put pairs in the queue, and note that the run waits for them."""
        shard = digest(sorted(c.pair.id for c in missing))[:16]
        table = Table(self.queue, Case)
        if not table.done(shard):
            table.write(shard, [replace(c, examples=()) for c in missing])
        note_asked(self.run, asked, [c.pair.id for c in missing], self.judgements)

    def _others(self) -> str:
        others = self.about() - set(queued(self.run))
        return f"; {len(others):,} pairs in {self.judgements} are none that this run waits for" if others else ""


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


def left(run: Path, judgements: Path | None = None) -> list[Case]:
    """The cases that the run lacks an answer to, in their order; [] while it waits for nobody. Raises AssayError where it
    never asked for any."""
    cases, now = read_queue(run / "queue"), waits(run, judgements)
    missing = set(now.missing) if now is not None else set[str]()
    return [c for c in cases if c.pair.id in missing]
