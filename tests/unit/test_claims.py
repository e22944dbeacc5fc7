"""What the tables of claims rest on: judges as they judged, and no people where a row says so."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from assay.curate.attributes import rule_attributes
from assay.curate.retrieve import nearest_gold
from assay.curate.stage1 import Material, Stage1Config, cases
from assay.recipes import claims
from assay.recipes.claims import Claims
from assay.records import Case, Example, Judgement, Pair, Response, user
from assay.run import Run

PAIRS = [Pair.of((user(f"Question {n // 2}?"),), Response.of(f"good {n}"), Response.of(f"bad {n}")) for n in range(12)]
BEST = {p.id: Response.of(f"good {n}").id for n, p in enumerate(PAIRS)}
IDS = [p.id for p in PAIRS]
"""Two pairs to a question: 0 and 1, 2 and 3, ..."""


def material() -> Material:
    rng = np.random.default_rng(0)
    vectors = {}
    for n, i in enumerate(IDS):  # pairs of a question are alike
        vectors[i] = (np.eye(6)[n // 2] + 0.1 * rng.normal(size=6)).astype(np.float32)
    return Material(
        pairs={p.id: p for p in PAIRS}, wild=(), attributes={p.id: rule_attributes(p) for p in PAIRS}, vectors=vectors
    )


def example(n: int) -> Example:
    return Example(pair=PAIRS[n], attributes=rule_attributes(PAIRS[n]), better=BEST[IDS[n]])


def test_no_example_is_of_the_targets_own_question() -> None:
    """The nearest gold is the other pair of the question: it was shown, with its verdict on what may be the same answer."""
    gold = {IDS[n]: example(n) for n in (0, 2, 4, 5)}
    (case, other) = cases([IDS[1], IDS[6]], material(), gold, 3)
    assert [e.pair.question_id for e in case.examples].count(PAIRS[1].question_id) == 0
    assert {e.pair.id for e in case.examples} == {IDS[2], IDS[4], IDS[5]}
    assert len(other.examples) == 3
    plain = nearest_gold([IDS[1]], material().vectors, list(gold), 3)
    assert plain[IDS[1]][0] == IDS[0], "without questions only the pair itself is left out"


def test_the_table_of_judges_shows_what_was_known_then(tmp_path: Path) -> None:
    """Pair 6 was judged when pairs 0 and 2 were gold, wrongly; by pair 9, later gold, the same judge would be right."""
    run = Run(tmp_path, {})
    table = run.table("judgements", Judgement)

    def said(n: int, right: bool = True, kind: Any = "offline") -> Judgement:
        better = BEST[IDS[n]] if right else PAIRS[n].other(BEST[IDS[n]])
        return Judgement(pair_id=IDS[n], better=better, by=kind, kind=kind)

    table.write("stage1-seed-people", [said(n, kind="oracle") for n in (0, 2)])
    table.write("stage1-seed-judges", [said(6, right=False), Judgement(
        pair_id=IDS[3], better=None, by="offline", kind="offline", problem="tie")])  # fmt: skip
    table.write("stage1-it0-people", [said(9, kind="oracle")])
    table.write("stage1-it0-judges", [said(8)])
    seen: list[tuple[str, Case]] = []

    def judge(name: str) -> Any:
        def answer(cases: list[Case]) -> list[Judgement]:
            seen.extend((name, c) for c in cases)
            return [said(IDS.index(c.pair.id)) for c in cases]

        return answer

    prepared = SimpleNamespace(
        pool=SimpleNamespace(truth=BEST, pairs={p.id: p for p in PAIRS}), split=SimpleNamespace(stage1=IDS),
        material=lambda ids: material(),
    )  # fmt: skip
    first = SimpleNamespace(examples={IDS[n]: example(n) for n in (0, 2, 9)})
    found = claims._judges(Claims(
        run=run, config=cast(Any, SimpleNamespace(stage1=Stage1Config(iterations=1, examples=8))),
        prepared=cast(Any, prepared), curated=cast(Any, SimpleNamespace(stage1=first)), judge=judge("guided"),
        unguided=judge("unguided"), train=cast(Any, None), seed=0,
    ))  # fmt: skip
    nearest = cast(dict[str, Any], found["nearest gold"])
    assert (nearest["n"], nearest["undecided"]) == (3, 1)
    assert (nearest["agreement"]["value"], nearest["agreement"]["n"]) == (0.5, 2)
    shown = {c.pair.id: {e.pair.id for e in c.examples} for name, c in seen if name == "guided"}
    assert shown == {IDS[6]: {IDS[0], IDS[2]}, IDS[3]: {IDS[0]}, IDS[8]: {IDS[0], IDS[2]}}, "no later, no own gold"
    assert all(not c.examples for name, c in seen if name == "unguided")
    assert len([c for name, c in seen if name == "guided"]) == 3, "what was judged is not judged again"


def test_shares_of_nothing_are_not_shares() -> None:
    assert claims.share([], {}) is None
    found = claims.share([(IDS[0], True), (IDS[1], True)], {p.id: p for p in PAIRS})
    assert found is not None
    assert (found["value"], found["n"], found["clusters"]) == (1.0, 2, 1.0), "two pairs of one question"


def test_rows_without_people_choose_no_checkpoint_by_people() -> None:
    asked: dict[str, list[Any]] = {}

    def train(name: str, pairs: Any, gold: Any) -> Any:
        asked[name] = list(gold)
        return lambda flat: np.arange(len(flat))[::-1].astype(float)

    held = [PAIRS[n].preferring(BEST[IDS[n]]) for n in (0, 1)]
    prepared = SimpleNamespace(pool=SimpleNamespace(truth=BEST, pairs={p.id: p for p in PAIRS}))
    about = cast(
        Any,
        SimpleNamespace(prepared=prepared, train=train, told=lambda found: claims.share(found, prepared.pool.pairs)),
    )
    pairs = [PAIRS[4].preferring(BEST[IDS[4]])]
    for name in claims.SETS:
        told = claims._measure(about, name, pairs, held, held)
        assert cast(dict[str, Any], told["accuracy"])["value"] == 1.0
    without = {claims.model_name(n) for n in ("unguided", "nohuman-filtered", "nohuman-flipped")}
    assert {n for n, gold in asked.items() if not gold} == without
    assert len(asked) == len(claims.SETS)
