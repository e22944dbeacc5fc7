"""`assay run --tune`, part by part: picks, questions, who measures, what is compared, and what is said of it."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import tiny_models
from assay.errors import AssayError
from assay.images import ImageStore
from assay.pipeline import policies
from assay.pipeline.constraints import Constraint
from assay.pipeline.paid import Valued, apart, picked
from assay.pipeline.policy_config import EMBEDDED, TuningConfig
from assay.pipeline.policy_questions import asked, embedded, own
from assay.pipeline.pools import UNSEEN, constraint_pool
from assay.policy.config import GrpoConfig, PolicyConfig
from assay.policy.model import load_policy
from assay.policy.rewards import RewardConfig
from assay.recipes import presets
from assay.records import Preference, Response, assistant, question_id, user
from assay.rollouts import Prompt
from assay.stages import arm_title, of_run, step_title
from assay.state import AS_LONG, _eta

SOME = TuningConfig(test_prompts=20, grpo=GrpoConfig(steps=3, prompts=5, signal="total"))


# -- the best of n --------------------------------------------------------------------------------------------------


def test_an_answer_without_a_reward_is_picked_last() -> None:
    blind, values = np.array([math.nan, 0.0, math.nan, 5.0]), [1.0, 0.0, 0.0, 1.0]
    assert picked("q", blind, values, 4) == 1.0
    assert picked("q", blind, values, 2) == pytest.approx((3 * 1.0 + 2 * 0.0 + 0.5) / 6), "of 6 pairs: 3, 2, and 1"
    assert picked("q", np.full(4, math.nan), [1.0, 0.0, 0.0, 0.6], 3) == pytest.approx(0.4), "who is picked is chance"


# -- questions ------------------------------------------------------------------------------------------------------


def test_embedded_questions_are_none_of_the_pools_and_their_demand_is_checked() -> None:
    known = {p.question_id for p in constraint_pool().pairs.values()}
    found, demands = embedded(SOME, known)
    assert (len(found.test), len(found.train)) == (20, 15)
    every = [*found.test, *found.train]
    assert len({p.id for p in every}) == 35
    assert not {question_id(p.messages) for p in every} & known
    assert not {demands[p.id].kind for p in every} & UNSEEN, "kinds that the pool has labels of"
    assert embedded(SOME, known)[0] == found, "the same in every run"
    _, truth, by = asked(EMBEDDED, SOME, known, ImageStore(Path("none")))
    assert "checked" in by
    short = next(p for p in every if demands[p.id].kind == "at_most")
    assert demands[short.id].text() in short.messages[0].content
    assert truth([(short, "Few words."), (short, "word " * 40)]).tolist() == [1.0, 0.0]


def written(folder: Path, n: int = 10, answers: int = 10) -> Path:
    file = folder / "questions.jsonl"
    rows = [{"question": f"What is {i} + {i}?", **({"answer": str(2 * i)} if i < answers else {})} for i in range(n)]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return file


def test_a_users_questions_are_parted_and_the_pools_measure_nothing(tmp_path: Path) -> None:
    file, store = written(tmp_path, 10, 8), ImageStore(tmp_path / "images")
    known = {question_id((user("What is 3 + 3?"),))}
    found = own(str(file), replace(SOME, test_prompts=4), known, store)
    assert (len(found.test), len(found.train), found.of_pool) == (4, 6, 1)
    assert all(p.answer for p in found.test), "those without an answer are trained on"
    assert not {p.id for p in found.test} & {p.id for p in found.train}
    assert all("What is 3 + 3?" not in p.messages[0].content for p in found.test)
    assert len(own(str(file), replace(SOME, test_prompts=500), known, store).test) == 5, "half of them at most"
    _, truth, by = asked(str(file), replace(SOME, test_prompts=4), known, store)
    asks = found.test[0]
    assert truth([(asks, f"The answer is {asks.answer}"), (asks, "The answer is 77")]).tolist() == [1.0, 0.0]
    assert by == "the questions' right answers"


def better(conversations: list[Any]) -> list[float]:
    return [float("good" in c[-1].content) for c in conversations]


def beyond(conversations: list[Any]) -> list[float]:
    return [7.0] * len(conversations)


def test_a_function_may_measure_what_has_no_right_answer(tmp_path: Path) -> None:
    file, store = written(tmp_path, 10, 0), ImageStore(tmp_path / "images")
    with pytest.raises(AssayError, match="no question has a right answer; name who says how good"):
        own(str(file), SOME, frozenset(), store)
    judged = replace(SOME, judge=f"{__name__}:better")
    found, truth, by = asked(str(file), judged, frozenset(), store)
    assert truth([(found.test[0], "a good one"), (found.test[0], "bad")]).tolist() == [1.0, 0.0]
    assert by.startswith("the judge")
    _, outside, _ = asked(str(file), replace(SOME, judge=f"{__name__}:beyond"), frozenset(), store)
    with pytest.raises(AssayError, match="a value from 0 to 1"):
        outside([(found.test[0], "x")])
    one = written(tmp_path, 1)
    with pytest.raises(AssayError, match="1 questions are too few"):
        own(str(one), SOME, frozenset(), store)
    ten, every = written(tmp_path), {question_id((user(f"What is {i} + {i}?"),)) for i in range(10)}
    with pytest.raises(AssayError, match="all 10 are questions of the pool"):
        own(str(ten), SOME, every, store)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tune": "no-such-file.jsonl"}, "no such file or folder of questions; 'embedded'"),
        ({"tuning": replace(SOME, judge="gpt", model="minilm")}, "no judge; name who says"),
        ({"tuning": replace(SOME, model="/no/such/model")}, "/no/such/model"),
    ],
)
def test_what_would_fail_after_hours_is_refused_at_the_start(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    model = tiny_models.save_language(tmp_path / "model")
    sound = replace(presets.tiny(), tune=EMBEDDED, tuning=replace(SOME, model=str(model)))
    policies.check(sound, 1)
    with pytest.raises(AssayError, match=says):
        policies.check(replace(sound, **change), 1)


def test_one_process_tunes() -> None:
    with pytest.raises(AssayError, match="assay resume OUT --tune"):
        policies.check(replace(presets.tiny(), tune=EMBEDDED), 2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"samples": 9}, "tuning.samples between 1 and as many"),
        ({"seeds": 0}, "at least 1"),
        ({"grpo": GrpoConfig(seed=3, signal="total")}, "tuning.grpo.seed is set by the run itself"),
        ({"grpo": GrpoConfig()}, "without rules no group has a signal"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(AssayError, match=says):
        TuningConfig(**settings)


# -- gate, comparison -----------------------------------------------------------------------------------------------


def gold(n: int) -> list[Preference]:
    return [
        Preference(pair_id=str(i), prompt=(user(f"q{i}"),), chosen=Response.of(f"good {i}"),
                   rejected=Response.of(f"bad {i}"))
        for i in range(n)
    ]  # fmt: skip


def test_the_gate_is_fitted_on_both_responses_of_gold_and_closes_on_a_coin() -> None:
    config = replace(presets.tiny(), tuning=replace(SOME, rewards=RewardConfig(gate_precision=0.9)))
    seen: list[Any] = []

    def knows(conversations: Any) -> Any:
        seen.extend(conversations)
        return np.array([("good" in c[-1].content) + 0.001 * i for i, c in enumerate(conversations)])

    term = policies.fitted(knows, gold(40), config)
    assert (term.n_gold, term.precision, term.reason) == (80, 1.0, "")
    assert seen[0] == (user("q0"), assistant("good 0"))
    rng = np.random.default_rng(0)
    closed = policies.fitted(lambda c: rng.normal(size=len(c)), gold(40), config)
    assert math.isinf(closed.threshold)
    assert closed.reason


def rows(values: dict[str, list[float]]) -> pl.DataFrame:
    found = [
        Valued(question=q, n=1, place=k, value=v) for q, answers in values.items() for k, v in enumerate(answers)
        if not math.isnan(v)
    ]  # fmt: skip
    return pl.DataFrame([{"question": r.question, "n": r.n, "place": r.place, "value": r.value} for r in found])


def test_arms_are_compared_on_the_same_questions() -> None:
    ours = rows({f"q{i}": [1.0, 1.0] for i in range(40)})
    theirs = rows({f"q{i}": [0.0, 1.0 if i % 2 else math.nan] for i in range(40)})
    found = apart([(ours, theirs)], "all raw labels", "shares")
    assert (found["difference"]["n"], found["questions"]) == (40, 40)
    assert found["difference"]["value"] == pytest.approx((20 * 1.0 + 20 * 0.5) / 40), (
        "of what was measured, by question"
    )
    assert found["verdict"].startswith("shown to be better than all raw labels: +75.0 points")
    many = rows({f"q{i}": [1.0, 0.0, 0.0, 0.0] for i in range(40)})
    assert apart([(ours, many)], "x", "shares")["difference"]["value"] == pytest.approx(0.75), "all four count"
    same = apart([(ours, ours)], "all raw labels", "answers")
    assert same["verdict"].startswith("not shown to be better than all raw labels: +0.0 points")
    assert apart([(theirs, ours)] * 3, "x", "answers")["verdict"].startswith("shown to be worse than x")


def test_what_other_reward_models_made_is_set_aside(tmp_path: Path) -> None:
    class Said:
        folder = tmp_path

        def say(self, text: str) -> None:
            assert "superseded" in text

    folder = tmp_path / "policies"
    for n in (0, 1):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"reward_models": {"raw-0": "old"}}))
        policies.supersede(Said(), folder, {"raw-0": "old"})  # type: ignore[arg-type]
        assert folder.exists(), "the same ones go on"
        policies.supersede(Said(), folder, {"raw-0": "new"})  # type: ignore[arg-type]
        assert not folder.exists()
        assert (tmp_path / "superseded" / f"policies-{n}" / "config.json").exists()


# -- stages ---------------------------------------------------------------------------------------------------------


def test_policies_are_stages_with_a_speed_of_their_own(tmp_path: Path) -> None:
    config = {"stage1": {"iterations": 1, "seed_gold": 8, "seed_silver": 8, "per_iteration": 4}, "train": {"epochs": 1}}
    tuning = {
        "seeds": 2, "test_prompts": 10, "candidates": 4, "samples": 2, "grpo": {"steps": 3, "prompts": 5, "group": 2},
    }  # fmt: skip
    plain = of_run(tmp_path, config, {})
    found = of_run(tmp_path, config, {"tune": "q.jsonl", "tuning": tuning})
    assert [s.title for s in found[len(plain) :]] == [
        "answers of the untuned policy", "the best of n, by either reward model, and their gates",
        "GRPO with either reward model, 2 trainings each",
    ]  # fmt: skip
    *_, start, _, grpo = found
    assert (start.left, start.of) == (6.0 * 40, "policy")
    assert grpo.left == 4 * (9.0 * 30 + 6.0 * 20), "four trainings, each measured on 20 answers"
    assert start.effort + grpo.effort == start.left + grpo.left, "the seed's models are still to come"
    (tmp_path / "seed-0" / "steps").mkdir(parents=True)
    (tmp_path / "seed-0" / "steps" / "final.json").write_text("{}")
    steps = tmp_path / "policies" / "steps"
    for name, told in {"start": {"wall_s": 24.0}, "grpo/raw-0": {"wall_s": 27.0}, "policy/raw-0": {}}.items():
        (steps / f"{name}.json").parent.mkdir(parents=True, exist_ok=True)
        (steps / f"{name}.json").write_text(json.dumps({"wall_s": 1.0, **told}))
    begun = of_run(tmp_path, config, {"tune": "q.jsonl", "tuning": tuning})
    assert next(s.title for s in begun if not s.done) == "the best of n, by either reward model, and their gates"
    for arm in ("raw", "curated"):
        (steps / "best-of-n").mkdir(exist_ok=True)
        (steps / "best-of-n" / f"{arm}-0.json").write_text("{}")
    begun = of_run(tmp_path, config, {"tune": "q.jsonl", "tuning": tuning})
    assert next(s.title for s in begun if not s.done).startswith("GRPO with either"), "before any of it is done"
    *_, start, _, grpo = begun
    assert (start.done, start.seconds, grpo.seconds) == (True, 24.0, 27.0)
    assert grpo.left == 3 * (9.0 * 30 + 6.0 * 20)
    (tmp_path / "seed-0" / "steps" / "final.json").rename(tmp_path / "away.json")
    assert not any(s.done for s in of_run(tmp_path, config, {"tune": "q.jsonl", "tuning": tuning})), (
        "what other reward models made is not this run's"
    )
    slow = (240.0 + grpo.effort - grpo.left) / 51.0
    assert _eta((start, grpo), {}) == pytest.approx(grpo.left / slow)
    reward = replace(start, of="", effort=10.0, seconds=1.0)
    fresh = replace(grpo, seconds=0.0, left=100.0)
    assert _eta((reward, fresh), {}) == pytest.approx(100.0 * AS_LONG / 10.0)
    for name in ("gate/raw-0", "best-of-n/curated-1", "grpo/raw-0", "policy/curated-0"):
        assert arm_title(name.partition("/")[2]) in step_title(name)
    assert step_title("compared-3") == "whether curation pays in the policy"


# -- the last layers of a policy --------------------------------------------------------------------------------------


def test_only_the_last_layers_train(tmp_path: Path) -> None:
    model = tiny_models.save_language(tmp_path / "model", layers=3)
    policy = load_policy(str(model), PolicyConfig(last_layers=1, precision="fp32"))
    trained = {n for n, p in policy.named_parameters() if p.requires_grad}
    assert trained
    assert all(".layers.2." in n or n.endswith("model.norm.weight") for n in trained)
    assert len([n for n in trained if ".layers.2." in n]) == 9
    with pytest.raises(AssayError, match="4 of 3 layers"):
        load_policy(str(model), PolicyConfig(last_layers=4, precision="fp32"))
    with pytest.raises(AssayError, match="give one of them"):
        PolicyConfig(last_layers=1, lora_rank=4)
    with pytest.raises(AssayError, match="name llm"):
        PolicyConfig(last_layers=1, train=("adapter",))


def test_the_defaults_reward_by_the_reward_model_alone() -> None:
    config = TuningConfig()
    assert (config.rewards.rule, config.rewards.format, config.grpo.signal) == (0.0, 0.0, "total")
    assert config.rewards.combine == RewardConfig().combine == "calibrated"
    assert Constraint(kind="digits").obeyed_by("7")
    assert Prompt(messages=(user("x"),)).answer == ""
