"""What stage 1 has asked and been told, on disk, and how it stands as labels.

Which pairs are asked is a shard before anybody is asked, so a resumed run asks the same ones, whatever became of the
numbers that chose them; a pair is asked once. Judges are asked block by block, and a block's judgements are a shard. The
word of people may change later (a correction, a lead's adjudication, an answer that was taken back): such changes are shards
of their own, read at the start of every iteration and before the labels are made. The labels of a run are a function of
these shards alone. In memory are narrow columns, and the text of what people were asked about.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from assay import session
from assay.curate.material import FREE, VOTES, Known, Material
from assay.curate.retrieve import nearest_gold
from assay.curate.settle import settle_frame
from assay.errors import AssayError
from assay.llm.outage import Unreached
from assay.records import Case, Example, Judge, Judgement, Pair, Preference
from assay.run import Run
from assay.tables import frame_to_arrow, to_arrow


class Standing(Protocol):
    """What people say today."""

    def about(self) -> Collection[str]:
        """The ids of all pairs on which a word of theirs stands, asked for or not."""
        ...

    def words(self, pairs: Sequence[Pair]) -> Mapping[str, Judgement]:
        """Their word on each of the pairs; those about which nobody ever spoke are missing."""
        ...


COLLECTED = ("judgements/stage1-", "asked/stage1-", "wins/stage1-", "checks/", "contamination/", "near_duplicates/",
             "index/", "attributes/", "vectors/")  # fmt: skip
"""Tables and shards of a run that say what stage 1 collected, and what it was given; not what was made of it."""
AT_ONCE = 1_024
"""Pairs that judges are asked about at a time, and whose prompts are in memory (in providers' batches: `IN_A_BATCH`)."""
IN_A_BATCH = 25_000
Plan = Mapping[str, pl.DataFrame]
"""The pairs (columns of `FREE`) that "people" and "judges" are asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """That a pair is put to `of`, "people" or "judges", in block number `block` of a turn; `at` is its shard of the pool,
    and `held` the side of its question."""

    pair_id: str
    at: str
    question_id: str
    held: bool
    of: str
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """Gold that judges may see: never the held part."""

    examples: tuple[Example, ...]
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float16]]

    def cases(self, targets: Sequence[Known], k: int) -> list[Case]:
        """The pairs as a judge sees them: attributes and the `k` nearest gold examples of other questions (retrieval 2)."""
        vectors = np.stack([t.vector for t in targets]) if targets else np.zeros((0, 1), np.float16)
        questions = [e.pair.question_id for e in self.examples]
        near = nearest_gold(vectors, self.vectors, k, [t.pair.question_id for t in targets], questions)
        return [
            Case(pair=t.pair, attributes=t.attributes, examples=tuple(self.examples[r] for r in rows))
            for t, rows in zip(targets, near, strict=True)
        ]

    def drawn(self, targets: Sequence[Known], k: int, seed: int) -> list[Case]:
        """The pairs with `k` random gold examples of other questions, the same ones whenever a pair is asked about."""
        most = max(Counter(e.pair.question_id for e in self.examples).values(), default=0)
        return [
            Case(pair=t.pair, attributes=t.attributes, examples=self._random(t.pair, k, most, seed)) for t in targets
        ]

    def _random(self, pair: Pair, k: int, most: int, seed: int) -> tuple[Example, ...]:
        """`most`: how many examples the pair's own question can have."""
        rng, n = np.random.default_rng([seed, int(pair.id[:15], 16)]), len(self.examples)
        some = rng.choice(n, min(n, k + most), replace=False) if n else ()
        return tuple(self.examples[i] for i in some if self.examples[i].pair.question_id != pair.question_id)[:k]


class Book:
    """All judgements of stage 1 so far, seen as labels: gold that may train and guide, held gold, silver."""

    def __init__(self, run: Run, material: Material, standing: Standing | None = None) -> None:
        self.run, self.material, self._standing, self.say = run, material, standing, run.say
        self.asked = FREE.to_frame()
        self._people: dict[str, Known] = {}
        votes = run.table("judgements", Judgement).empty(VOTES)
        self._words, self._wild = [votes], [votes]
        self._labels: pl.DataFrame | None = None

    def plan(self, turn: str, choose: Callable[[], Plan], at_once: int = AT_ONCE) -> dict[str, pl.DataFrame]:
        """Who is asked about which pairs in this turn: chosen and written once."""
        table = self.run.table("asked", Asked)
        if not table.done(f"stage1-{turn}"):
            rows = []
            for who, chosen in choose().items():
                ordered = chosen if who == "people" else chosen.sort("at", "pair_id")  # judges: shard by shard
                block = pl.int_range(len(ordered), eager=True) // (max(1, len(ordered)) if who == "people" else at_once)
                rows.append(ordered.select(FREE.names()).with_columns(of=pl.lit(who), block=block))
            table.put(f"stage1-{turn}", frame_to_arrow(Asked, pl.concat(rows)))
        frame = table.frame(f"stage1-{turn}")
        return {who: frame.filter(pl.col("of") == who) for who in ("people", "judges")}

    def ask(self, turn: str, of: str, rows: pl.DataFrame, judge: Judge, k: int, seed: int | None = None) -> None:
        """Put pairs to people or judges, each with its `k` nearest gold examples (with a `seed`: random ones), once.

        Raises Unreached where servers left some unanswered: nothing is written of a block that has such a pair.
        """
        twice = rows.filter(pl.col("pair_id").is_in(self.asked["pair_id"].implode()))
        if len(twice):
            raise self._mixed(f"the plan of {turn} asks again about {twice['pair_id'][0]}")
        table, gold, lost = self.run.table("judgements", Judgement), None, list[Unreached]()
        put = 0
        for (block,), part in rows.group_by("block", maintain_order=True):
            put += len(part)
            shard = f"stage1-{turn}-{of}-{block:05d}"
            if not table.done(shard):
                if of == "judges":
                    session.at("pairs put to judges", put, len(rows), self.say)
                gold = gold or self.gold_shown()
                try:
                    known = list(self.material.known(part).values())
                    cases = gold.cases(known, k) if seed is None else gold.drawn(known, k, seed)
                    table.write(shard, judged(judge, cases))
                except Unreached as error:
                    lost.append(error)
                    if error.silent:
                        break
                    continue
            words = table.frame(shard, columns=VOTES)
            if words["pair_id"].to_list() != part["pair_id"].to_list():
                raise self._mixed(f"the judgements in {shard} are not of the pairs that were asked about")
            self._words.append(words)
        if lost:
            raise Unreached([loss for error in lost for loss in error.losses])
        self._take(of, rows)

    def unjudged(self, rows: pl.DataFrame) -> None:
        """Pairs that nobody is asked about, for there is no judge: the labels of their sources stand."""
        self._take("judges", rows)
        silent = rows.filter(~pl.col("pair_id").is_in(self._wild[-1]["pair_id"].implode()))["pair_id"]
        none = [Judgement(pair_id=i, better=None, by="source", kind="wild", problem="no label") for i in silent]
        frame = pl.DataFrame(pl.from_arrow(to_arrow(Judgement, none)))
        self._words.append(frame.select(VOTES))

    def _take(self, of: str, rows: pl.DataFrame) -> None:
        self.asked = pl.concat([self.asked, rows.select(FREE.names())])
        self._wild.append(self.material.votes(rows))
        if of == "people":
            self._people |= self.material.known(rows)
        self._labels = None

    def _mixed(self, what: str) -> AssayError:
        return AssayError(
            f"{self.run.folder}: {what}; an older Assay began this run, or files were changed: use another --out"
        )

    def correct(self, turn: str, *, all_words: bool = False) -> None:
        """Take what people say otherwise today, once for each turn; `all_words` as in `changed`."""
        if self._standing is not None:
            shard = f"stage1-{turn}-corrections"
            table = self.run.table("judgements", Judgement)
            if not table.done(shard):
                table.write(shard, self.changed(all_words=all_words))
            words = table.frame(shard, columns=VOTES)
            self._words.append(words)
            self._heard(words["pair_id"])
            self._labels = None

    def _heard(self, ids: pl.Series) -> None:
        """Take in pairs about which people spoke though others, or nobody, had been asked."""
        unasked = self.material.rows_of(ids.filter(~ids.is_in(self.asked["pair_id"].implode())), "stage1", "stage2")
        self.asked = pl.concat([self.asked, unasked])
        self._wild.append(self.material.votes(unasked))
        self._people |= self.material.known(self._asked_of_others(ids))

    def _asked_of_others(self, ids: pl.Series) -> pl.DataFrame:
        """The pairs among those of this book that were not put to people."""
        known = pl.Series(list(self._people), dtype=pl.String)
        return self.asked.filter(pl.col("pair_id").is_in(ids.implode()) & ~pl.col("pair_id").is_in(known.implode()))

    def spoken(self) -> pl.DataFrame:
        """The pairs of stage 1 that nobody was asked about, and on which a word of people's stands (columns of `FREE`)."""
        about = sorted(self._standing.about()) if self._standing is not None else []
        told = pl.Series(about, dtype=pl.String)
        return self.material.rows_of(told.filter(~told.is_in(self.asked["pair_id"].implode())), "stage1")

    def corrected(self, turn: str) -> bool:
        return self.run.table("judgements", Judgement).done(f"stage1-{turn}-corrections")

    def words(self) -> pl.DataFrame:
        """The last word on every pair that was asked about."""
        return pl.concat(self._words).unique("pair_id", keep="last", maintain_order=True)

    def changed(self, *, all_words: bool = False) -> list[Judgement]:
        """Today's word of people on every pair on which it is another than in this book: of those that they were asked
        about, or (`all_words`) of all that enter stage 1 or 2, for no machine's word stands against a person's."""
        if self._standing is None:
            return []
        pairs = [k.pair for k in self._people.values()]
        if all_words:
            about = pl.Series(sorted(self._standing.about()), dtype=pl.String)
            others = about.filter(~about.is_in(pl.Series(list(self._people), dtype=pl.String).implode()))
            pairs += self.material.text(self.material.rows_of(others, "stage1", "stage2")).values()
        today = self._standing.words(pairs)
        said = {i: (better, problem) for i, better, problem in self.words().select(
            "pair_id", "better", "problem").iter_rows() if i in self._people}  # fmt: skip
        return [j for i, j in sorted(today.items()) if said.get(i) != (j.better, j.problem)]

    def labels(self) -> pl.DataFrame:
        """Columns of `Label` with `at`, `question_id` and `held`, in the order of pair ids."""
        if self._labels is None:
            told = settle_frame(pl.concat([self.words(), *self._wild]), "stage1")
            self._labels = told.join(self.asked, on="pair_id", how="left", maintain_order="left")
        return self._labels

    def gold(self) -> pl.DataFrame:
        """Labels of gold that trains and guides."""
        return self._of("gold", held=False)

    def held(self) -> pl.DataFrame:
        """Labels of gold that only chooses checkpoints and measures."""
        return self._of("gold", held=True)

    def silver(self) -> pl.DataFrame:
        """Silver, and where no judge is asked the labels of sources, whose question is not held: a held question must not be
        trained on through the back door."""
        return self._of("silver", "wild", held=False)

    def _of(self, *tiers: str, held: bool) -> pl.DataFrame:
        wanted = pl.col("tier").is_in(tiers) & (pl.col("held") == held) & pl.col("chosen").is_not_null()
        return self.labels().filter(wanted)

    def preferences(self, gold: pl.DataFrame) -> list[Preference]:
        """The pairs of gold labels as they are trained on."""
        rows = gold.select("pair_id", "chosen", "certainty", "margin").iter_rows()
        return [self._people[i].pair.preferring(chosen, sure, margin) for i, chosen, sure, margin in rows]

    def gold_shown(self) -> Gold:
        """What judges may see."""
        chosen = dict(self.gold().select("pair_id", "chosen").iter_rows())
        known = [self._people[i] for i in chosen]
        return Gold(
            examples=tuple(
                Example(pair=k.pair, attributes=k.attributes, better=chosen[k.pair.id]) for k in known
            ),
            vectors=np.stack([k.vector for k in known]) if known else np.zeros((0, 1), np.float16),
        )  # fmt: skip


def judged(judge: Judge, cases: Sequence[Case]) -> list[Judgement]:
    """What `judge` says of the cases. Raises AssayError where that is not one judgement of each case, in order, that
    names a response of its pair or none."""
    rows = judge(cases) if cases else []
    if [j.pair_id for j in rows] != [c.pair.id for c in cases]:
        raise AssayError(f"a judge gave {len(rows)} judgements, not one of each of {len(cases)} pairs in their order")
    for j, case in zip(rows, cases, strict=True):
        if j.better not in (None, *(r.id for r in case.pair.responses)):
            raise AssayError(f"{j.by} prefers a response that pair {j.pair_id} does not have ({j.better})")
    return rows


def set_aside(run: Run, iterations: bool = False) -> Path:
    """Move all that was made of stage 1's judgements into a folder beside it, so that it is made anew; what was collected
    stays, and (without `iterations`) the models that chose whom to ask. Killed on the way, the run makes what is missing
    again from the same labels, which are moved last."""
    place = run.folder / "superseded"
    place = place / str(max((int(p.name) + 1 for p in place.glob("*") if p.name.isdecimal()), default=0))
    last = Path("tables/labels/stage1.parquet")
    files = [p.relative_to(run.folder) for top in ("steps", "tables") for p in sorted((run.folder / top).rglob("*"))]
    made = [f for f in files if f.suffix in (".json", ".parquet") and not _collected(f) and f != last]
    models = [p.relative_to(run.folder) for p in sorted((run.folder / "models").glob("*"))]
    arms = Path("arms")  # stages 1 of their own, of the same pool and people
    for path in (arms, *made, *(m for m in models if iterations or not m.name.startswith("stage1-")), last):
        if not (run.folder / path).exists():  # of a run whose labels are not made yet
            continue
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / path).rename(place / path)
    return place


def _collected(file: Path) -> bool:
    name = file.as_posix().split("/", 1)[1]
    return name.startswith(COLLECTED if file.parts[0] == "tables" else "stage1/")


def blocks(frame: pl.DataFrame, size: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """Numbered parts of a frame."""
    return ((n, frame[at : at + size]) for n, at in enumerate(range(0, len(frame), size)))
