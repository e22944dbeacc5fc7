"""The keep rule of stage 2: a truth table, the band, and that every pair ends somewhere with a reason.

And stage 2 by shards: nobody is asked and nothing scored twice, whatever fails on the way.
"""

import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import small_material as small
from assay.curate.book import Gold
from assay.curate.keep_rule import REASONS, UNDECIDED, counts_frame, decided
from assay.curate.material import FREE, Material
from assay.curate.scores import Rewarded, chances
from assay.curate.stage1 import Stage1Result
from assay.curate.stage2 import Evidence, Stage2Config, Stage2Result, fates, stage2
from assay.errors import AssayError
from assay.llm.outage import Loss, Unreached
from assay.records import Case, Conversation, Judge, Judgement, Label, Pair, Response, Scorer, digest, user
from assay.run import Run
from assay.store import Place
from assay.tables import read_shard, records


def fate(p_best: float, p_gold: float, judge: str | None, band: float = 0.1, problem: str = "") -> tuple[str, str]:
    row = pl.DataFrame(
        {
            "pair_id": ["p"],
            "original": ["a"],
            "other": ["b"],
            "certainty": [1.0],
            "strength": [0.0],
            "p_best": [p_best],
            "p_gold": [p_gold],
            "judge": [judge],
            "problem": [problem],
        },
        schema_overrides={"judge": pl.String},
    )
    out = decided(row, band).row(0, named=True)
    return out["fate"], out["reason"]


def counts(p_best: float | None, p_gold: float | None, band: float) -> bool:
    numbers = pl.DataFrame(
        {"p_best": [p_best], "p_gold": [p_gold]}, schema={"p_best": pl.Float64, "p_gold": pl.Float64}
    )
    return bool(counts_frame(numbers, band).item())


@pytest.mark.parametrize(
    ("p_best", "p_gold", "judge", "expected"),
    [
        (0.9, 0.9, None, "kept"),  # both reward models
        (0.3, 0.9, "a", "kept"),  # gold RM and judges
        (0.55, 0.9, "a", "kept"),  # inside the band: the judges' consent is needed ...
        (0.55, 0.9, "b", "dropped"),  # ... and missing here
        (0.55, 0.9, None, "dropped"),
        (0.61, 0.9, None, "kept"),  # outside the band
        (0.9, 0.2, None, "dropped"),  # the gold RM has a veto, also on a confident pair
        (0.2, 0.2, "a", "dropped"),  # judges alone do not keep, and prevent a flip
        (0.2, 0.2, "b", "flipped"),
        (0.2, 0.2, None, "flipped"),
        (0.55, 0.2, "b", "dropped"),  # the best RM leans to the original: no flip
        (0.2, 0.9, "b", "dropped"),
        (0.5, 0.5, "a", "dropped"),  # exactly undecided models neither keep nor flip
        (0.5, 0.5, "b", "dropped"),
    ],
)
def test_keep_rule(p_best: float, p_gold: float, judge: str | None, expected: str) -> None:
    assert fate(p_best, p_gold, judge)[0] == expected


def test_reasons_name_the_deciders() -> None:
    assert fate(0.9, 0.9, None)[1] == REASONS[0][1]
    assert fate(0.3, 0.9, "a")[1] == REASONS[1][1]
    assert fate(0.2, 0.2, "b")[1] == REASONS[2][1]
    assert fate(0.2, 0.2, None)[1] == REASONS[3][1]
    assert fate(0.9, 0.2, None)[1] == REASONS[4][1]
    assert fate(0.2, 0.9, "b")[1] == REASONS[5][1]


def test_band_zero_is_the_papers_text_and_bad_bands_are_refused() -> None:
    assert fate(0.51, 0.9, None, band=0.0)[0] == "kept"
    with pytest.raises(AssayError, match="band"):
        Stage2Config(band=0.5)


@pytest.mark.parametrize("problem", ["refused", "unparsable", "cut off at max_tokens", "http 400: too long"])
def test_a_judge_whose_answer_cannot_be_read_flips_nothing(problem: str) -> None:
    assert fate(0.2, 0.2, None, problem=problem) == REASONS[6]
    assert fate(0.3, 0.9, None, problem=problem) == REASONS[6]
    for said in UNDECIDED:
        assert fate(0.2, 0.2, None, problem=said) == REASONS[3]


@pytest.mark.parametrize("band", [0.0, 0.1, 0.4])
def test_judges_are_asked_exactly_where_their_word_counts(band: float) -> None:
    grid = [0.0, 0.1, 0.3, 0.45, 0.5, 0.55, 0.6, 0.7, 0.9, 0.95, 1.0]
    for p_best in grid:
        for p_gold in grid:
            fates = {fate(p_best, p_gold, judge, band)[0] for judge in ("a", "b", None)}
            assert counts(p_best, p_gold, band) == (len(fates) > 1), (p_best, p_gold)


# -- by shards ------------------------------------------------------------------------------------------------------

NO_GOLD = Gold(examples=(), vectors=np.zeros((0, 1), np.float16))
CONFIG = Stage2Config(examples=1)


@dataclass
class Draws:
    """A reward model: a number for every text. Counts what it is asked, and cannot read some questions."""

    salt: str
    blind: str = "nothing"
    asked: Counter[Conversation] = field(default_factory=Counter)

    def __call__(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        self.asked.update(conversations)
        numbers = [int(digest([self.salt, c[-1].content])[:8], 16) / 16**8 for c in conversations]
        seen = [
            np.nan if self.blind in c[0].content else 4 * n - 2 for c, n in zip(conversations, numbers, strict=True)
        ]
        return np.array(seen)


class Killed(BaseException):
    pass


@dataclass
class Judges:
    """Prefers what is right, and remembers what it answered. `fails` says what becomes of a request, by its number."""

    fails: Callable[[int], str] = lambda _: ""
    asked: list[str] = field(default_factory=list)
    requests: int = 0
    blocks: list[int] = field(default_factory=list)

    def __call__(self, cases: Sequence[Case]) -> list[Judgement]:
        self.requests += 1
        what = self.fails(self.requests)
        if what == "killed":
            raise Killed
        if what:
            problems = ("http 503",) * len(cases)
            raise Unreached([Loss(model="m", asked=len(cases), problems=problems, silent=what == "silent")])
        self.blocks.append(len(cases))
        self.asked += [c.pair.id for c in cases]
        return [Judgement(pair_id=c.pair.id, better=small.truth(c.pair), by="llm:m", kind="llm") for c in cases]


def first(best: Scorer, gold: Scorer) -> Stage1Result:
    return Stage1Result(labels=FREE.to_frame(), held=[], gold=NO_GOLD, best=best, gold_rm=gold, guided=None)  # type: ignore[arg-type]


def settled(
    folder: Path,
    material: Material,
    judge: Judge,
    best: Scorer | None = None,
    gold: Scorer | None = None,
    at_once: int = 4,
) -> Stage2Result:
    with closing(Run(folder, {})) as run:
        return stage2(run, CONFIG, material, first(best or Draws("best"), gold or Draws("gold")), judge, at_once)


def rows(result: Stage2Result) -> dict[str, Label]:
    return {x.pair_id: x for f in result.labels.values() for x in records(Label, read_shard(f))}


def test_every_pair_ends_somewhere_with_its_reason(tmp_path: Path) -> None:
    said = small.votes(small.PAIRS)
    tied = small.PAIRS[7].id, small.PAIRS[8].id
    said += [
        replace(j, better=small.PAIRS[n].other(j.better or ""), by="wild:b")
        for n, j in enumerate(said)
        if j.pair_id in tied
    ]
    material = small.material(tmp_path, said=said)
    judge, best = Judges(), Draws("best", blind="What is 1")
    result = settled(tmp_path / "run", material, judge, best)
    labels = rows(result)
    wild = {i for _, f in material.frames(["pair_id"], "stage2") for i in f["pair_id"]}
    assert labels.keys() == wild
    assert wild & set(tied), "the test needs one that is tied"
    for p in small.PAIRS:
        if p.id in wild and p.id in tied:
            assert labels[p.id].reason == "the source has no label, or its votes are tied"
        elif p.id in wild and "What is 1" in p.prompt[0].content:
            assert labels[p.id].reason == "a reward model gave no number for it"
    evidence = {e.pair_id: e for f in result.evidence.values() for e in records(Evidence, read_shard(f))}
    assert evidence.keys() == wild - set(tied)
    for e in evidence.values():
        known = e.p_best is not None and e.p_gold is not None
        assert (e.pair_id in judge.asked) == (known and counts(e.p_best, e.p_gold, CONFIG.band))
        assert (e.judge is not None) == (e.pair_id in judge.asked)
        if known:
            word = e.judge and ("a" if e.judge == e.original else "b")
            found = fate(e.p_best or 0, e.p_gold or 0, word, problem=e.problem)
            assert (labels[e.pair_id].fate, labels[e.pair_id].reason) == found
    assert len(judge.asked) > 5
    assert max(judge.blocks) <= 4
    assert len({x.reason for x in labels.values()}) > 4
    told = fates(f for _, f in result.frames())
    assert told == Counter(f"{x.stage} | {x.tier} | {x.fate} | {x.reason}" for x in labels.values())
    kept = {i for part in material.slices for i in result.of(part, "kept", "flipped")["pair_id"]}
    assert kept == {i for i, x in labels.items() if x.chosen}


def test_votes_and_strengths_reach_the_labels(tmp_path: Path) -> None:
    """The source by its votes (2 of 3), the reward models by their probability, the judge by its word."""
    pairs = [Pair.of((user(f"question {n}"),), Response.of(f"one {n}"), Response.of(f"two {n}")) for n in range(3)]
    original = {p.id: p.responses[n % 2].id for n, p in enumerate(pairs)}
    said = [
        Judgement(pair_id=p.id, better=better, by=by, kind="wild", strength=strength)
        for p in pairs
        for by, better, strength in (
            ("x", original[p.id], 2.0), ("y", original[p.id], 2.0), ("z", p.other(original[p.id]), 1.0))
    ]  # fmt: skip
    material = small.material(tmp_path, pairs, said, known={}, parts=1, split=replace(small.SPLIT, stage1_share=1e-9))
    best, gold = dict(zip(original, (0.9, 0.55, 0.2), strict=True)), dict(zip(original, (0.8, 0.7, 0.1), strict=True))

    def scorer(p: dict[str, float]) -> Scorer:
        logit = {q.prompt + q.response(original[q.id]).messages: np.log(p[q.id] / (1 - p[q.id])) for q in pairs}
        return lambda conversations: np.array([logit.get(c, 0.0) for c in conversations])

    def judge(asked: Sequence[Case]) -> list[Judgement]:
        words = {i: o if n < 2 else pairs[n].other(o) for n, (i, o) in enumerate(original.items())}
        return [Judgement(pair_id=c.pair.id, better=words[c.pair.id], by="j", kind="llm") for c in asked]

    labels = rows(settled(tmp_path / "run", material, judge, scorer(best), scorer(gold)))
    assert [labels[i].fate for i in original] == ["kept", "kept", "flipped"]
    found = [(labels[i].certainty, labels[i].margin) for i in original]
    assert found[0] == pytest.approx(((2 / 3 + 0.9 + 0.8) / 3, 1.0))
    assert found[1] == pytest.approx(((2 / 3 + 0.55 + 0.7 + 1) / 4, 1.0))
    assert found[2] == pytest.approx(((1 / 3 + 0.8 + 0.9 + 1) / 4, 0.0))
    assert labels[pairs[2].id].chosen == pairs[2].other(original[pairs[2].id])


def test_a_shard_without_pairs_for_stage_2_is_settled_too(tmp_path: Path) -> None:
    material = small.material(tmp_path, split=replace(small.SPLIT, stage1_share=0.9999))
    assert material.size("stage2") == 0
    result = settled(tmp_path / "run", material, Judges(lambda _: "http"))
    assert rows(result) == {}
    assert fates(f for _, f in result.frames()) == {}
    assert len(result.labels) == 3


def test_rewards_are_made_once_for_both_models(tmp_path: Path) -> None:
    material, best, gold = small.material(tmp_path), Draws("best"), Draws("gold")
    result = settled(tmp_path / "run", material, Judges(), best, gold)
    settled(tmp_path / "run", material, Judges(), best, gold)
    wild = material.size("stage2")
    for model in (best, gold):
        assert set(model.asked.values()) == {1}
        assert len(model.asked) == 2 * wild
    found = [r for f in result.rewards.values() for r in records(Rewarded, read_shard(f))]
    assert Counter(r.model for r in found) == {"best-rm": wild, "gold-rm": wild}
    pairs = {p.id: p for p in small.PAIRS}
    for r in found:
        model = Draws({"best-rm": "best", "gold-rm": "gold"}[r.model])
        both = model([pairs[r.pair_id].prompt + a.messages for a in pairs[r.pair_id].responses])
        assert (r.first, r.second) == tuple(both)


def test_a_chance_is_of_the_label_and_nothing_where_there_is_no_number() -> None:
    given = pl.DataFrame(
        {"pair_id": ["p", "q", "r"], "model": "m", "first": [1.0, 1.0, float("nan")], "second": [0.0, 0.0, 2.0]}
    )
    labels = pl.DataFrame({"pair_id": ["q", "p", "r", "s"], "first": "a", "original": ["b", "a", "a", "a"]})
    sure = 1 / (1 + np.exp(-1))
    assert chances(given, "m", labels).to_list() == [pytest.approx(1 - sure), pytest.approx(sure), None, None]
    far = given.with_columns(first=pl.when(pl.col("first").is_not_nan()).then(-5_000.0).otherwise("first"))
    assert chances(far, "m", labels).to_list() == [1.0, 0.0, None, None]


# -- what fails -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_judge_that_fails_at_any_request_and_kills_change_nothing(tmp_path: Path, seed: int) -> None:
    material, steady = small.material(tmp_path), Judges()
    whole = settled(tmp_path / "whole", material, steady)
    chance = random.Random(seed)
    judge = Judges(lambda _: chance.choice(["", "", "", "http", "silent", "killed"]))
    best, gold = Draws("best"), Draws("gold")
    for attempt in range(100):
        try:
            result = settled(tmp_path / "run", material, judge, best, gold, at_once=4 if attempt % 2 else 3)
            break
        except (Unreached, Killed):
            continue
    assert sorted(judge.asked) == sorted(steady.asked), "each pair is asked, and answered, once"
    assert judge.requests > len(judge.blocks)
    assert set(best.asked.values()) | set(gold.asked.values()) == {1}
    for kind in ("evidence", "labels"):
        for name, file in getattr(whole, kind).items():
            assert Path(file.url).read_bytes() == Path(getattr(result, kind)[name].url).read_bytes()


def test_a_shard_is_done_or_not(tmp_path: Path) -> None:
    """One block of the second shard is not answered: nothing is written of that shard's fates, and the others are done."""
    material = small.material(tmp_path)
    second = set(material.slices[1].frame()["pair_id"])
    judge, failed = Judges(), list[int]()

    def once(cases: Sequence[Case]) -> list[Judgement]:
        if cases[0].pair.id in second and not failed:
            failed.append(1)
            raise Unreached([Loss(model="m", asked=len(cases), problems=("http 503",) * len(cases), silent=False)])
        return judge(cases)

    with pytest.raises(Unreached, match=r"did not answer|answered none"):
        settled(tmp_path / "run", material, once)
    keys = [s.key for s in material.slices]
    for kind in ("evidence", "labels"):
        made = Place.of(tmp_path / "run" / "tables" / kind).names()
        assert made == [f"stage2-{keys[0]}.parquet", f"stage2-{keys[2]}.parquet"]
    before = len(judge.asked)
    assert len(rows(settled(tmp_path / "run", material, once))) == material.size("stage2")
    assert 0 < len(judge.asked) - before <= 4, "only the block that failed is asked"


def test_a_silent_server_is_not_asked_on(tmp_path: Path) -> None:
    judge = Judges(lambda n: "silent" if n == 2 else "")
    with pytest.raises(Unreached):
        settled(tmp_path / "run", small.material(tmp_path), judge)
    assert judge.requests == 2


def test_judgements_of_other_pairs_are_refused(tmp_path: Path) -> None:
    material = small.material(tmp_path)
    settled(tmp_path / "run", material, Judges())
    tables = tmp_path / "run" / "tables"
    for kind in ("evidence", "labels"):
        Place.of(tables / kind).remove()
    names = sorted((tables / "judgements").iterdir())
    names[1].write_bytes(names[0].read_bytes())
    with pytest.raises(AssayError, match="not of the pairs that were asked about"):
        settled(tmp_path / "run", material, Judges())


def test_a_shard_whose_votes_changed_is_made_anew_and_no_other(tmp_path: Path) -> None:
    one, judge, best = small.material(tmp_path / "one"), Judges(), Draws("best")
    before = settled(tmp_path / "run", one, judge, best)
    said = small.votes(small.PAIRS)
    touched = one.slices[1].frame().filter(pl.col("use") == "stage2")["pair_id"][0]
    said += [
        Judgement(
            pair_id=touched,
            better=small.truth(next(p for p in small.PAIRS if p.id == touched)),
            by="wild:b",
            kind="wild",
        )
    ]
    two, again = small.material(tmp_path / "two", said=said), Judges()
    scored = Draws("best")
    after = settled(tmp_path / "run", two, again, scored)
    names = [s.name for s in one.slices]
    assert [before.labels[n] == after.labels[n] for n in names] == [True, False, True]
    part = set(two.slices[1].frame()["pair_id"])
    assert set(again.asked) <= part
    asked = {p.id for p in small.PAIRS if any(p.prompt + r.messages in scored.asked for r in p.responses)}
    told = (pl.col("use") == "stage2") & pl.col("original").is_not_null()
    assert asked == set(two.slices[1].frame().filter(told)["pair_id"])


class Elsewhere:
    """Does here what other engines do in other processes: all that a stage is given, and all that it gives, is sent."""

    workers = 1

    def map(self, work: Callable[[Any], Any], items: Iterable[Any], *, model: bool = False) -> Iterator[Any]:
        for item in items:
            there, sent = pickle.loads(pickle.dumps((work, item)))
            yield pickle.loads(pickle.dumps(there(sent)))

    def close(self) -> None:
        pass


def test_other_processes_give_the_same_bytes(tmp_path: Path) -> None:
    here = small.material(tmp_path / "here")
    there = replace(here, engine=Elsewhere())
    one, two = settled(tmp_path / "a", here, Judges()), settled(tmp_path / "b", there, Judges())
    for kind in ("rewards", "evidence", "labels"):
        for name, file in getattr(one, kind).items():
            assert Path(file.url).read_bytes() == Path(getattr(two, kind)[name].url).read_bytes()
