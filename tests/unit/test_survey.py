"""What is open in a file is found by looking at each way of saying something once, not at each row."""

from random import Random
from typing import Any

import pytest
from test_plain_rows import row

from assay.formats import ambiguous
from assay.formats.ambiguous import Ambiguous, Survey, resolved
from assay.formats.layouts import named

TWO = (
    ("response_a", "response_b"), ("response_1", "response_2"), ("answer_0", "answer_1"), ("human_ref_A", "human_ref_B"),
)  # fmt: skip
LABELS = ("label", "winner", "labels", "preference", "overall_preference")


def one(random: Random, two: tuple[str, str], labels: list[str], base: str) -> dict[str, Any]:
    made: dict[str, Any] = {"prompt": "q", **{n: random.choice(("yes", "no", "a longer one")) for n in two}}
    for name in labels:
        made[name] = random.choice((0, 1, 1, 0, "1", "A", "tie", True, 1.0, None, "", made[two[0]], 2, [1, 0], {}))
    if base == "voted":
        made["votes"] = random.choice(([0, 1], [1], [], ["a", 1], [None], [True], "0", None))
    if base == "scored-pair":
        made |= {
            "score_a": random.choice((1, 2, 2.0, "3", None)),
            "score_b": random.choice((1, 2)),
            "id": random.random(),
        }
    if random.random() < 0.1:
        made[random.choice([*made])] = None
    return made if random.random() < 0.9 else row(random, base)


@pytest.mark.parametrize("base", ["labelled", "voted", "scored-pair"])
def test_a_survey_sees_the_same_whether_it_looks_at_each_row(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random, skipped = Random(base), 0
    noted = ambiguous._note

    def counted(*of: Any) -> bool:
        nonlocal skipped
        skipped -= 1
        return noted(*of)

    monkeypatch.setattr(ambiguous, "_note", counted)
    for _ in range(60):
        two, labels = random.choice(TWO), random.sample(LABELS, random.choice((1, 1, 2)))
        rows = list(enumerate((one(random, two, labels, base) for _ in range(80)), 1))
        found: list[tuple[str, Survey]] = []
        for known in (0, 10_000):
            monkeypatch.setattr(ambiguous, "_KNOWN", known)
            layout, survey = resolved(named(base), rows)
            told = layout.message(survey.examples) if isinstance(layout, Ambiguous) else layout.name
            found.append((told, survey))
            skipped += survey.rows
        (told, whole), (quick_told, quick) = found
        assert told == quick_told
        assert [
            getattr(whole, n) for n in ("numbers", "fields", "name", "apart", "booleans", "beside", "rows", "examples")
        ] == [
            getattr(quick, n) for n in ("numbers", "fields", "name", "apart", "booleans", "beside", "rows", "examples")
        ]
        assert whole.by_scores.keys() == quick.by_scores.keys()
    assert skipped > 200
