"""What stage 1 has asked and been told, on disk, and how it stands as labels.

Which pairs are asked is a shard before anybody is asked, so a resumed run asks the same ones, whatever became of the
numbers that chose them; a pair is asked once. The word of people may change later (a correction, a lead's adjudication, an
answer that was taken back): such changes are shards of their own, read at the start of every iteration and before the labels
are made. The labels of a run are a function of these shards alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.curate.settle import settle_all
from assay.errors import AssayError
from assay.records import Case, Judge, Judgement, Label, Pair, Preference, digest
from assay.run import Run

Standing = Callable[[Sequence[Pair]], Mapping[str, Judgement]]
"""What people say of pairs today, by pair id; pairs about which nobody ever spoke are missing."""
COLLECTED = ("judgements/stage1-", "asked/stage1-", "wins/stage1-")
"""Tables and shards of a run that say what stage 1 collected, and not what was made of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """That a pair is put to `of`: "people" or "judges"."""

    pair_id: str
    of: str


class Book:
    """All judgements of stage 1 so far, seen as labels: gold that may train and guide, held gold, silver."""

    def __init__(
        self, run: Run, pairs: Mapping[str, Pair], wild: Sequence[Judgement], held_share: float,
        standing: Standing | None = None,
    ) -> None:  # fmt: skip
        self._run, self.pairs, self._share, self._standing = run, pairs, held_share, standing
        self._words: dict[str, Judgement] = {}
        self._people: list[Pair] = []
        self._wild: dict[str, list[Judgement]] = {}
        self._labels: list[Label] | None = None
        for j in wild:
            self._wild.setdefault(j.pair_id, []).append(j)

    def plan(self, turn: str, choose: Callable[[], Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
        """Who is asked about which pairs in this turn: chosen and written once."""
        rows = self._run.table("asked", Asked).once(
            f"stage1-{turn}", lambda: [Asked(pair_id=i, of=who) for who, ids in choose().items() for i in ids]
        )
        return {who: [r.pair_id for r in rows if r.of == who] for who in ("people", "judges")}

    def ask(
        self, turn: str, of: str, ids: Sequence[str], judge: Judge, shown: Callable[[Sequence[str]], list[Case]]
    ) -> None:
        """Put pairs to people or judges, once; the judgements are a shard of the run."""
        shard = f"stage1-{turn}-{of}"
        rows = self._run.table("judgements", Judgement).once(shard, lambda: judged(judge, shown(ids)))
        twice = [i for i in ids if i in self._words]
        if twice or [j.pair_id for j in rows] != list(ids):
            raise AssayError(
                f"{self._run.folder}: the judgements in {shard} are not of the pairs that were asked about; an older Assay "
                "began this run, or files were changed: use another --out"
            )
        self._words.update((j.pair_id, j) for j in rows)
        self._people += [self.pairs[i] for i in ids] if of == "people" else []
        self._labels = None

    def __contains__(self, pair_id: str) -> bool:
        """Whether the pair was asked about."""
        return pair_id in self._words

    def __len__(self) -> int:
        return len(self._words)

    def is_held(self, pair_id: str) -> bool:
        return is_held(self.pairs[pair_id].question_id, self._share)

    def correct(self, turn: str) -> None:
        """Take what people say otherwise today, once for each turn."""
        if self._standing is not None:
            rows = self._run.table("judgements", Judgement).once(f"stage1-{turn}-corrections", self.changed)
            self._words.update((j.pair_id, j) for j in rows)
            self._labels = None

    def corrected(self, turn: str) -> bool:
        return self._run.table("judgements", Judgement).done(f"stage1-{turn}-corrections")

    def changed(self) -> list[Judgement]:
        """Today's word of people on every pair on which it is another than in this book."""
        today = self._standing(self._people) if self._standing is not None else {}
        known = ((self._words[pair_id], j) for pair_id, j in sorted(today.items()))
        return [now for then, now in known if (then.better, then.problem) != (now.better, now.problem)]

    def labels(self) -> list[Label]:
        if self._labels is None:
            wild = (j for pair_id in self._words for j in self._wild.get(pair_id, ()))
            self._labels = settle_all([*self._words.values(), *wild], stage="stage1")
        return self._labels

    def gold(self) -> list[Preference]:
        """Gold that trains and guides."""
        return [p for p in self._view("gold") if not self.is_held(p.pair_id)]

    def held(self) -> list[Preference]:
        """Gold that only chooses checkpoints and measures."""
        return [p for p in self._view("gold") if self.is_held(p.pair_id)]

    def silver(self) -> list[Preference]:
        """Silver whose question is not held: a held question must not be trained on through the back door."""
        return [p for p in self._view("silver") if not self.is_held(p.pair_id)]

    def _view(self, tier: str) -> list[Preference]:
        return preferences([label for label in self.labels() if label.tier == tier], self.pairs)


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


def set_aside(run: Run) -> Path:
    """Move all that was made of stage 1's judgements into a folder beside it, so that it is made anew; what was collected
    stays. Killed on the way, the run makes what is missing again from the same labels, which are moved last."""
    place = run.folder / "superseded"
    place = place / str(sum(1 for _ in place.glob("*")))
    last = Path("tables/labels/stage1.parquet")
    files = [p.relative_to(run.folder) for top in ("steps", "tables") for p in sorted((run.folder / top).rglob("*"))]
    made = [f for f in files if f.suffix in (".json", ".parquet") and not _collected(f) and f != last]
    models = [p.relative_to(run.folder) for p in sorted((run.folder / "models").glob("*"))]
    for path in (*made, *(m for m in models if not m.name.startswith("stage1-")), last):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (run.folder / path).rename(place / path)
    return place


def _collected(file: Path) -> bool:
    name = file.as_posix().split("/", 1)[1]
    return name.startswith(COLLECTED if file.parts[0] == "tables" else "stage1/")


def is_held(question: str, share: float) -> bool:
    """Whether gold of this question (its id) is held out: a fixed property of it, so no question is on both sides."""
    return int(digest(["held", question])[:8], 16) < share * 16**8


def preferences(labels: Sequence[Label], pairs: Mapping[str, Pair]) -> list[Preference]:
    """The training view of the labels that have a chosen response."""
    return [
        pairs[label.pair_id].preferring(label.chosen, label.certainty, label.margin)
        for label in labels
        if label.chosen is not None
    ]
