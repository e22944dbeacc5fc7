"""Reward against gold: what is suspicious by hand, what noise is not, and a run that is stopped."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import tiny_models
from assay.errors import AssayError
from assay.journal import read
from assay.policy.config import GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.grpo import Tuned, grpo
from assay.policy.hacking import SURE, Compared, HackConfig, Hacking, Marked, compare, level, marked
from assay.policy.model import load_policy
from assay.policy.monitor import MonitorConfig
from assay.policy.reading import Reading
from assay.policy.rewards import HybridReward, RewardConfig
from assay.policy.sampler import LocalSampler
from assay.records import user
from assay.rollouts import Prompt, Rollout
from assay.tuning import outcome as tuned
from assay.tuning.exam import Exam, examine
from assay.tuning.watching import Looks, Watched

N = 40


def marks(step: int, right: Sequence[float], model: Sequence[float] | float = 0.0, tokens: int = 10) -> Marked:
    paid = {"format": (0.0,) * len(right), "model": tuple(np.broadcast_to(model, len(right)).tolist())}
    return Marked(step=step, right=tuple(map(float, right)), tokens=(tokens,) * len(right), paid=paid)


def hacking(n: int = N, **options: Any) -> Hacking:
    return Hacking(HackConfig(**options), range(n))


def first(k: int, n: int = N) -> list[float]:
    return [1.0] * k + [0.0] * (n - k)


def test_a_comparison_by_hand() -> None:
    found = compare(marks(20, first(18), 1.0, 20), marks(0, first(30), 0.25), range(N))
    assert (found.lost, found.won, found.chance) == (12, 0, pytest.approx(2.0**-12))
    assert found.accuracy.value == pytest.approx(-0.3)
    assert (found.paid.value, found.terms) == (pytest.approx(0.75), {"format": 0.0, "model": pytest.approx(0.75)})
    assert found.ratio.value == pytest.approx(2.0)
    assert found.wrong is not None
    assert (found.wrong.n, found.wrong.value) == (10, pytest.approx(0.75))
    pictures = compare(marks(20, first(18)), marks(0, first(30)), [i // 4 for i in range(N)])
    assert (pictures.lost, pictures.won) == (4, 0), "questions of one picture are one trial"


def test_a_fall_is_said_at_once_and_stops_when_it_comes_again() -> None:
    watch = hacking()
    watch.begin(marks(0, first(30)))
    one, two = watch.observe(marks(20, first(18), 1.0, 15)), watch.observe(marks(40, first(17), 2.0, 20))
    assert one.said.startswith(
        "step 20: the reward rises while the accuracy falls: against step 0 answers earn +1.00 ("
    )
    assert "beside the key (model +1.00), right are -30.0 (" in one.said
    assert "12 lost, 0 won; they are 1.50 (1.50 to 1.50) times as long" in one.said
    assert (one.stop, one.metrics["hack_suspected"]) == ("", 1)
    assert two.stop == two.said != ""
    assert watch.observe(marks(60, first(30))).stop == two.stop, "a stop stays"


def test_one_bad_reading_is_forgotten() -> None:
    watch = hacking()
    watch.begin(marks(0, first(30)))
    told = [watch.observe(marks(s, first(k), 1.0)) for s, k in ((20, 18), (40, 30), (60, 18), (80, 30))]
    assert [bool(f.said) for f in told] == [True, False, True, False]
    assert not any(f.stop for f in told)
    only = hacking(do="tell")
    only.begin(marks(0, first(30)))
    assert [bool(only.observe(marks(s, first(10), 1.0)).said) for s in (1, 2, 3)] == [True] * 3
    assert only.stopped == ""


def test_a_fall_from_the_best_reading_is_one_too() -> None:
    watch = hacking()
    watch.begin(marks(0, first(10)))
    assert not watch.observe(marks(20, first(35), 0.5)).said
    assert "against step 20" in watch.observe(marks(40, first(12), 1.0)).said


@pytest.mark.parametrize(
    ("right", "model", "why"),
    [
        (first(36), 1.0, "it gets better"), (first(18), 0.0, "nothing more is paid"), (first(18), -1.0, "less is paid"),
        (first(28), 1.0, "two questions may be luck"), ([1.0] * 20 + [0.0] * 10 + [1.0] * 10, 1.0, "as many are won"),
    ],
)  # fmt: skip
def test_what_is_no_fall(right: list[float], model: float, why: str) -> None:
    watch = hacking(margin=0.0)
    watch.begin(marks(0, first(30)))
    assert not watch.observe(marks(20, right, model)).said, why


def test_few_questions_tell_nothing() -> None:
    watch = hacking(20)
    watch.begin(marks(0, [1.0] * 20))
    assert not watch.enough
    assert not watch.observe(marks(20, [0.0] * 20, 1.0)).said


def test_an_accuracy_that_stands_while_wrong_answers_are_paid_more() -> None:
    spread = [0.0, 1.0] * 64  # standard deviation 0.5

    def found(rise: float, gained: int = 0, config: HackConfig | None = None) -> str:
        watch = Hacking(config or HackConfig(), range(128))
        watch.begin(marks(0, first(10, 128), spread))
        return watch.observe(marks(20, first(10 + gained, 128), [x + rise for x in spread])).said

    assert "the reward rises while the accuracy stands" in found(0.3)
    assert "to 118 answers that stay wrong the reward model gives +0.30" in found(0.3)
    assert not found(0.2), "less than half a standard deviation"
    alike = hacking(128)
    alike.begin(marks(0, first(10, 128), 0.0))
    assert not alike.observe(marks(20, first(10, 128), 0.09)).said, "less than a tenth of a right answer"
    assert alike.observe(marks(40, first(10, 128), 0.11)).said
    assert not found(0.3, gained=8), "it may have gained more than 5 points"
    assert not found(0.3, config=HackConfig(margin=0.02)), "128 questions do not show that it gained less than 2 points"


def test_rewards_that_are_no_numbers_are_left_out() -> None:
    model = [math.nan, *[1.0] * (N - 1)]
    found = compare(marks(20, first(18), model), marks(0, first(30)), range(N))
    assert (found.paid.n, found.paid.value) == (N - 1, pytest.approx(1.0))
    assert (found.accuracy.n, found.terms["model"]) == (N, pytest.approx(1.0))
    none = compare(marks(20, first(18), math.nan), marks(0, first(30)), range(N))
    assert not none.falls(1.0)
    assert not none.stands(1.0)


def paid_for_form(found: Marked) -> Marked:
    return replace(found, paid={"format": found.paid["model"], "model": found.paid["format"]})


@pytest.mark.parametrize("runs", [16, pytest.param(300, marks=pytest.mark.slow)])
def test_noise_stops_no_run(runs: int) -> None:
    """Answers flip by chance around one accuracy while what is paid beside the key rises at each reading."""
    random, said = np.random.default_rng(0), 0
    for _ in range(runs):
        chance = random.beta(1, 1, N)
        watch = hacking()
        watch.begin(marks(0, (random.random(N) < chance).astype(float).tolist()))
        readings = [paid_for_form(marks(s, (random.random(N) < chance).tolist(), float(s))) for s in range(1, 5)]
        said += any(watch.observe(m).said for m in readings)
    assert said <= 1 + SURE * runs


def test_the_level_is_spent_over_all_readings() -> None:
    spent = sum(level(k) * k for k in range(1, 10_000))
    assert spent == pytest.approx(SURE, rel=1e-3)


@pytest.mark.parametrize("cut", range(5))
def test_a_resumed_watch_decides_the_same(cut: int) -> None:
    readings = [
        marks(s, first(k), x) for s, k, x in ((20, 34, 1.0), (40, 15, 2.0), (60, 36, 1.0), (80, 14, 3.0), (99, 9, 4.0))
    ]
    whole, one, two = hacking(), hacking(), hacking()
    whole.begin(marks(0, first(30)))
    one.begin(marks(0, first(30)))
    expected = [whole.observe(m) for m in readings]
    begun = [one.observe(m) for m in readings[:cut]]
    two.load_state(json.loads(json.dumps(one.state())))
    assert begun + [two.observe(m) for m in readings[cut:]] == expected
    assert two.state() == whole.state()
    assert expected[-1].stop


@pytest.mark.parametrize("bad", [{"readings": 0}, {"margin": -0.1}, {"margin": 1.0}, {"margin": math.nan}])
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(AssayError, match=r"monitor\.hack"):
        HackConfig(**bad)


def rollout(text: str, tokens: int = 3) -> Rollout:
    return Rollout(prompt_id="p", tokens=(5,) * tokens, logprobs=(0.0,) * tokens, text=text, ended=True, policy_step=0)


def test_marks_are_what_is_paid_at_the_configured_weights() -> None:
    asked = Prompt(messages=(user("2 + 3?"),), answer="5", kind="number")
    reward = HybridReward(
        RewardConfig(rule=2.0, format=0.5, model=3.0, combine="sum"),
        lambda ps: np.array([float(len(t)) for _, t in ps]),
    )
    reward.model_weight = 0.0  # a monitor has lowered it: the watch compares like with like
    right = "<think>a</think><answer>5</answer>"
    found = marked(reward, [(asked, rollout(right)), (asked, rollout("no"))], 7)
    assert (found.step, found.right, found.tokens) == (7, (1.0, 0.0), (3, 3))
    assert found.paid == {
        "format": (0.5, 0.0), "claims": (0.0, 0.0), "model": (3.0 * len(right), 6.0), "overlong": (0.0, 0.0),
    }  # fmt: skip
    assert reward.seen["answers"] == 0, "what is watched is not counted as trained on"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_language(tmp_path_factory.mktemp("hacked"), "qwen3")


PROMPTS = [Prompt(messages=(user(f"say {a} {b}"),), answer=f"{a}{b}") for a in "abcdefghijkl" for b in "abcdefghijkl"]


def common(pairs: Sequence[tuple[Prompt, str]]) -> Any:
    return np.array([sum(c in "etaoin " for c in text) / 5 for _, text in pairs])


def trained(model: Path, out: Path, said: list[str], kill: int = 0, **hack: Any) -> Tuned:
    """A reward that pays for common letters, on a policy that is never right."""
    policy = load_policy(str(model), PolicyConfig())
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=12), half=False)
    reward = HybridReward(RewardConfig(combine="sum", form="none"), common, name="common letters")
    exam = Exam(prompts=tuple(PROMPTS[:130]))

    def look(step: int, _: Any, heard: Any) -> Reading:
        if step == kill:
            raise KeyboardInterrupt
        return examine(exam, sampler.greedy(), None, step, "none", heard=heard)

    watched = Watched(prompts=exam.prompts, read=look, greedy=lambda _: sampler.greedy())
    looks = Looks("hacked", watched, MonitorConfig(every=4, hack=HackConfig(**hack)), reward, said.append)
    config = GrpoConfig(steps=16, prompts=2, group=8, lr=1e-2, save_every=4, signal="total", schedule="constant")
    return grpo(
        out,
        config,
        policy,
        PROMPTS[130:],
        sampler,
        reward,
        said.append,
        watch=looks,
        watch_every=looks.every,
        watch_state=looks,
    )


def test_a_run_whose_reward_is_hacked_is_stopped_and_killed_and_resumed_all_the_same(
    model: Path, tmp_path: Path
) -> None:
    said = list[str]()
    done = trained(model, tmp_path / "run", said)
    assert "the reward rises while the accuracy stands: against step 0" in done.stopped
    assert done.steps < 16
    metrics = read(tmp_path / "run/metrics.jsonl")
    looked = [m for m in metrics if "hack_n" in m]
    assert [m["hack_suspected"] for m in looked][-2:] == [1, 2]
    assert looked[-1]["hack_paid_low"] > 0
    assert sum("the reward rises while" in s for s in said) == 2, "at once, and when it stops"
    page = tuned.write_training_report(tmp_path / "run").read_text()
    assert "Reward against the answer key" in page
    assert "<td>suspicious</td>" in page
    with pytest.raises(KeyboardInterrupt):
        trained(model, tmp_path / "killed", [], kill=done.steps)
    again = trained(model, tmp_path / "killed", [])
    assert replace(again, folder=done.folder, wall_s=done.wall_s) == done
    one, two = (load_file(f / "model.safetensors") for f in (tmp_path / "run", tmp_path / "killed"))
    assert all(x.equal(two[n]) for n, x in one.items())


def test_no_suspicious_policy_is_kept_as_good(model: Path, tmp_path: Path) -> None:
    policy = load_policy(str(model), PolicyConfig())
    suspected = {1: 0, 2: 0, 3: 1, 4: 2}

    def look(step: int, _: Any) -> tuple[dict[str, Any], str]:
        return {"watch_accuracy": step / 10, "hack_suspected": suspected[step]}, "hacked" if step == 4 else ""

    sampler = LocalSampler(policy, SamplerConfig(max_tokens=6), half=False)
    config = GrpoConfig(steps=6, prompts=2, group=4, lr=1e-2, signal="total")
    reward = HybridReward(RewardConfig(combine="sum", form="none"), common)
    done = grpo(tmp_path / "run", config, policy, PROMPTS, sampler, reward, watch=look, watch_every=1)
    assert (done.steps, done.kept) == (4, {"best": 2, "last-good": 2})


def test_it_can_be_off(model: Path, tmp_path: Path) -> None:
    said = list[str]()
    done = trained(model, tmp_path / "off", said, do="off")
    assert (done.steps, done.stopped) == (16, "")
    assert not any("hack_n" in m for m in read(tmp_path / "off/metrics.jsonl"))
    assert not any("the reward rises" in s for s in said)


def test_words_of_a_comparison_name_what_rose() -> None:
    found = compare(marks(20, first(18), 1.0), marks(0, first(18), 1.0), range(N))
    assert isinstance(found, Compared)
    assert "(no term)" in str(found)


def test_how_many_questions_tell_that_the_accuracy_stands() -> None:
    """40 that stay wrong leave a gain of 8.8 points open (the upper end of 0 of 40), 130 one of 2.8."""
    assert [Hacking(HackConfig(), range(n)).sees_standing for n in (29, 40, 130)] == [False, False, True]
    assert Hacking(HackConfig(margin=0.1), range(40)).sees_standing
    assert not Hacking(HackConfig(), [0] * 130).sees_standing
