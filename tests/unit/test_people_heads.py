"""The benchmark of people's sets: what may be trained on beside a held question, the head's fit, models said together."""

import json
from pathlib import Path

import human_sets
import numpy as np
import pytest

from assay.records import Pair, Preference, Response, user

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"


def asked(*said: str, answer: str = "yes") -> Preference:
    pair = Pair.of(tuple(user(text) for text in said), Response.of(answer), Response.of("no"))
    return pair.preferring(Response.of(answer).id)


def test_no_pair_near_a_held_question_is_trained_on() -> None:
    held = [asked("Why is the sky blue?"), asked("Hello", f"{LONG} and more", "ok")]
    same = asked("Why is the sky blue?", answer="because")
    copied = asked(f"Please tell: {LONG.upper()}!")
    spelt = asked("why is the SKY blue", answer="because")
    others = [asked("Why is the sea blue?"), asked("ok"), asked("one two three four five")]
    assert human_sets.apart([same, copied, spelt, *others], held) == others


@pytest.mark.parametrize("ridge", [0.5, 50.0])
def test_the_head_is_where_the_loss_is_least(ridge: float) -> None:
    random = np.random.default_rng(0)
    x_ND = random.normal(size=(200, 7)) + random.normal(size=7)

    def loss(w_D: np.ndarray) -> float:
        return float(np.log1p(np.exp(-x_ND @ w_D)).sum() + ridge / 2 * (w_D @ w_D))

    found = human_sets.fitted(x_ND, ridge)
    near = [loss(found + 1e-3 * step) for step in random.normal(size=(50, 7))]
    assert loss(found) < min(near)


def test_models_said_together_weigh_alike_whatever_their_scale(tmp_path: Path) -> None:
    for key, margins in (("a", [1.0, -1.0, 1.0]), ("b", [-300.0, -100.0, 500.0])):
        (tmp_path / f"{key}-without-1-2").mkdir()
        rows = [[f"q{n}", m, 1.0, False] for n, m in enumerate(margins)]
        kept = {"pairs": 9, "presented": 5, "train_cpu_s": 2.0, "rows": {"some": rows}}
        (tmp_path / f"{key}-without-1-2" / "hits.json").write_text(json.dumps(kept))
    found = human_sets.averaged(tmp_path, ["a", "b"], [1, 2])
    spread = np.sqrt(np.mean(np.square([300, 100, 500])))
    assert [row[1] for row in found["rows"]["some"]] == pytest.approx(
        [(1 - 300 / spread) / 2, (-1 - 100 / spread) / 2, (1 + 500 / spread) / 2]
    )
    assert found["train_cpu_s"] == 4.0
