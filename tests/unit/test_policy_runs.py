"""What a training of a policy is asked for, kept and refused: nothing is overwritten, mixed up, or answered stale."""

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from assay.errors import AssayError
from assay.journal import read
from assay.policy import folder as folders
from assay.policy.advantage import advantages, grade
from assay.policy.config import BufferConfig, FitConfig, GrpoConfig, PairConfig, PolicyConfig, SamplerConfig
from assay.policy.gate import ModelTerm
from assay.policy.grpo import grpo
from assay.policy.model import Policy, load_policy
from assay.policy.monitor import MonitorConfig, Watch
from assay.policy.mpo import Comparison, Fitted, fit
from assay.policy.rewards import HybridReward, RewardConfig
from assay.policy.sampler import LocalSampler
from assay.records import user
from assay.reward.config import TrainConfig
from assay.rollouts import Prompt, Rollout, Score
from assay.tables import sibling
from assay.tuning.config import TuneConfig
from assay.tuning.reward_model import fingerprint
from tiny_models import first_tokens

PROMPTS = [Prompt(messages=(user(f"say {c}"),), answer=c) for c in "abcdefgh"]
PAIRS = [
    Comparison(prompt=(5, 6, 7, 8 + i), chosen=(10 + i, 11, 1), rejected=(12, 13 + i, 14, 15, 1)) for i in range(6)
]


TERM = ModelTerm(
    temperature=1.0, center=0.0, threshold=0.5, precision=1.0, precision_low=0.9, kept=0.5, n_gold=9, bound=0.5
)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_language(tmp_path_factory.mktemp("lm"), "qwen3")


def tune(
    model: Path, out: Path, prompts: Any = PROMPTS, reward: Any = first_tokens, kill: int = 0, say: Any = print,
    max_tokens: int = 6, **options: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    def watch(step: int, _: Policy) -> tuple[dict[str, float], str]:
        if step == kill:
            raise Killed
        return {}, ""

    policy = load_policy(str(model), PolicyConfig())
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=max_tokens), half=False)
    settings: dict[str, Any] = {"steps": 3, "prompts": 3, "group": 4, "lr": 1e-2, "save_every": 2, **options}
    grpo(out, GrpoConfig(**settings), policy, prompts, sampler, reward, say, watch=watch, watch_every=1)
    return read(out / "metrics.jsonl")


def prefer(model: Path, out: Path, pairs: Any = PAIRS, kill: int = 0, say: Any = print, **options: Any) -> Fitted:
    def watch(step: int, _: Policy) -> dict[str, float]:
        if step == kill:
            raise Killed
        return {}

    settings: dict[str, Any] = {"batch": 2, "lr": 1e-2, "save_every": 2, **options}
    policy = load_policy(str(model), PolicyConfig())
    return fit(out, FitConfig(**settings), policy, pairs, say, watch=watch, watch_every=1)


@pytest.mark.parametrize("train", [tune, prefer])
def test_what_is_there_is_never_replaced(model: Path, tmp_path: Path, train: Any) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(AssayError, match="holds no training of a policy"):
        train(model, precious)
    assert [p.name for p in precious.iterdir()] == ["thesis.txt"]
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "thesis.txt").write_text("years of work")
    with pytest.raises(AssayError, match=r"new.partial is there already"):
        train(model, tmp_path / "new")
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(AssayError, match="file is there already"):
        train(model, tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "training.json").write_text('{"pairs": 3}')
    with pytest.raises(AssayError, match="holds no training of a policy"):
        train(model, tmp_path / "other")
    (tmp_path / "empty").mkdir()
    train(model, tmp_path / "empty")
    assert (tmp_path / "empty" / "training.json").exists()


def test_the_learning_rate_of_grpo_falls_unless_it_is_held(model: Path, tmp_path: Path) -> None:
    rates = [round(m["lr"], 6) for m in tune(model, tmp_path / "falls", steps=4, zero_groups="keep")]
    assert rates == [0.01, 0.0075, 0.005, 0.0025]
    rates = [m["lr"] for m in tune(model, tmp_path / "held", steps=2, zero_groups="keep", schedule="constant")]
    assert rates == [0.01, 0.01]


@pytest.mark.parametrize("train", [tune, prefer])
def test_the_model_is_never_replaced(tmp_path: Path, train: Any) -> None:
    model = tiny_models.save_language(tmp_path / "lm", "qwen3")
    before = (model / "model.safetensors").read_bytes()
    for own in (model, tmp_path / "lm" / ".." / "lm"):
        with pytest.raises(AssayError, match="is the model that is to be tuned"):
            train(model, own)
    assert (model / "model.safetensors").read_bytes() == before


def test_a_path_without_a_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the function alone, in a folder where nothing could be lost: a training that took such a path would empty it."""
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in" / "deeper")
    for name in (".", "..", "../..", "/"):
        with pytest.raises(AssayError, match="name a new folder"):
            sibling(Path(name), ".partial")
    assert sibling(Path("a/b."), ".partial") == Path("a/b..partial")


def test_a_finished_training_answers_its_own_call_only(
    model: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tune(model, tmp_path / "grpo")
    assert len(tune(model, tmp_path / "grpo", save_every=7)) == 3, "how often it is saved does not matter"
    changed: list[tuple[str, dict[str, Any]]] = [
        (r"config.lr: 0.01 -> 0.001", {"lr": 1e-3}), ("config.steps: 3 -> 9", {"steps": 9}),
        ("examples.digest: .*, examples.n: 8 -> 3", {"prompts": PROMPTS[:3]}),
        ("sampler.max_tokens: 6 -> 7", {"max_tokens": 7}),
        ("examples.digest", {"prompts": [replace(PROMPTS[0], facts=("red",)), *PROMPTS[1:]]}),
    ]  # fmt: skip
    for named, options in changed:
        with pytest.raises(AssayError, match=f"other inputs .*{named}"):
            tune(model, tmp_path / "grpo", **options)
    other = tiny_models.save_language(tmp_path_factory.mktemp("lm"), "qwen3", seed=1)
    with pytest.raises(AssayError, match=r"other inputs \(model: "):
        tune(other, tmp_path / "grpo")
    done = prefer(model, tmp_path / "mpo")
    assert prefer(model, tmp_path / "mpo") == done
    for options in ({"lr": 1e-3}, {"pairs": PAIRS[::-1]}, {"weights": (0, 0, 1)}):
        with pytest.raises(AssayError, match="other inputs"):
            prefer(model, tmp_path / "mpo", **options)


def test_an_unfinished_training_is_resumed_by_its_own_call_only(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        tune(model, tmp_path / "grpo", kill=3)
    others = [Prompt(messages=(user(f"tell {c}"),), answer=c) for c in "abcdefgh"]
    for options in ({"prompts": others}, {"lr": 1e-3}, {"group": 2}):
        with pytest.raises(AssayError, match=r"grpo.partial holds a training with other inputs"):
            tune(model, tmp_path / "grpo", **options)
    assert [m["step"] for m in tune(model, tmp_path / "grpo")] == [1, 2, 3]
    with pytest.raises(Killed):
        prefer(model, tmp_path / "mpo", kill=3)
    changed = [replace(PAIRS[0], chosen=(20, 21, 1)), *PAIRS[1:]]
    for pairs in (PAIRS[:4], changed):
        with pytest.raises(AssayError, match=r"mpo.partial holds a training with other inputs"):
            prefer(model, tmp_path / "mpo", pairs)
    assert prefer(model, tmp_path / "mpo").steps == 3


def test_another_reward_model_or_other_questions_are_another_training(model: Path, tmp_path: Path) -> None:
    policy, found = load_policy(str(model), PolicyConfig()), []
    for name, term, of in (("a", None, "1"), ("b", None, "1"), ("a", TERM, "1"), ("a", None, "2")):
        reward = HybridReward(RewardConfig(combine="sum"), lambda pairs: [0.0] * len(pairs), term, name=name)
        others = {"reward": reward, "watch": Watch(MonitorConfig(), of)}
        found.append(json.dumps(folders.Folder(tmp_path / "x", GrpoConfig(), policy, PROMPTS, **others).identity))
    assert len(set(found)) == 4
    judge = tiny_models.reward(tmp_path / "judge")
    before = fingerprint(str(judge))
    assert fingerprint(str(judge)) == before
    tiny_models.reward(judge, seed=1)
    assert fingerprint(str(judge)) != before, "trained anew in place"
    assert fingerprint("http://judge") == "http://judge"


def test_lora_s_random_start_does_not_change_the_identity(model: Path, tmp_path: Path) -> None:
    config, found = PolicyConfig(lora_rank=2), []
    for seed in range(2):
        torch.manual_seed(seed)
        made = folders.Folder(tmp_path / "x", FitConfig(), load_policy(str(model), config), PAIRS)
        found.append(made.identity)
    assert found[0] == found[1]


def test_metrics_outlive_a_kill_at_the_end(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, seen = Path.rename, set[Path]()

    def die_once(path: Path, target: Path) -> Path:
        if path.name == "model" and path not in seen:
            seen.add(path)
            raise Killed
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", die_once)
    for name, train in (("grpo", tune), ("mpo", prefer)):
        with pytest.raises(Killed):
            train(model, tmp_path / name)  # type: ignore[operator]
        train(model, tmp_path / name)  # type: ignore[operator]
        assert [m["step"] for m in read(tmp_path / name / "metrics.jsonl")] == [1, 2, 3]
        assert not (tmp_path / f"{name}.partial").exists()


def test_trackers_files_are_kept(model: Path, tmp_path: Path) -> None:
    policy = load_policy(str(model), PolicyConfig())
    fit(tmp_path / "mpo", FitConfig(batch=2), policy, PAIRS, trackers=("tensorboard",))
    assert json.loads((tmp_path / "mpo/trackers/tensorboard.json").read_text()) == {"id": "mpo", "step": 3}
    (events,) = (tmp_path / "mpo/trackers/mpo").iterdir()
    assert str(model).encode() in events.read_bytes(), "which model it began from is a setting"


def test_a_training_that_fails_says_so_to_its_trackers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    monkeypatch.setattr("assay.trackers.TensorBoard.finish", lambda self, how: ended.append(how))
    for config in (FitConfig(batch=2), FitConfig(batch=2, lr=1e30)):
        policy = load_policy(str(model), PolicyConfig())
        with contextlib.suppress(AssayError):
            fit(tmp_path / str(config.lr), config, policy, PAIRS, trackers=("tensorboard",))
    assert ended == ["finished", "failed"]


def test_a_buffer_that_other_processes_cannot_take_over_is_told(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        tune(model, tmp_path / "grpo", kill=3)
    path = tmp_path / "grpo.partial" / "state-00000002" / "extra.pt"
    state = torch.load(path, weights_only=True)
    held = len(state["ranks"][0]["buffer"]["samples"])
    assert held
    torch.save({**state, "ranks": state["ranks"] * 2}, path)
    said: list[str] = []
    tune(model, tmp_path / "grpo", say=said.append)
    assert f"resumed by 1 processes, not 2: the buffer begins empty, {2 * held} samples are dropped" in said[0]


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_reward_that_is_no_number_is_counted_and_left_out(model: Path, tmp_path: Path, bad: float) -> None:
    def reward(pairs: Any) -> list[Score]:
        return [replace(s, total=bad) if i == 0 else s for i, s in enumerate(first_tokens(pairs))]

    metrics = tune(model, tmp_path / "some", reward=reward)
    assert all(m["problems"] == {"the reward is not a number": 3} for m in metrics)
    assert [m["samples"] for m in metrics] == [9, 18, 27], "three of four answers of a group count"
    assert all(math.isfinite(m["reward"]) and math.isfinite(m["length"]) for m in metrics)
    metrics = tune(model, tmp_path / "filled", reward=reward, steps=10)
    assert all(m["batch_effective"] == m["batch"] / 12 for m in metrics), "of 12 answers asked for"
    assert any(m["batch"] == 12 for m in metrics), "the buffer fills what is left out as well"
    metrics = tune(model, tmp_path / "all", reward=lambda pairs: [Score(rule=bad, format=0.0) for _ in pairs])
    assert [(m["skipped"], m["reward"], m["effective"]) for m in metrics] == [(1.0, 0.0, 0.0)] * 3
    assert metrics[0]["length"] > 0


def test_the_rest_of_a_group_is_graded_as_if_alone() -> None:
    rollouts = [
        Rollout(prompt_id="p", tokens=(i,), logprobs=(0.0,), text="", ended=True, policy_step=0) for i in range(4)
    ]
    scores = [Score(rule=0.0, format=0.0, total=t) for t in (1.0, math.nan, 0.0, 0.0)]
    made = grade(rollouts, scores)
    assert [s.tokens for s in made.samples] == [(0,), (2,), (3,)]
    assert [s.advantage for s in made.samples] == pytest.approx(advantages([1.0, 0.0, 0.0]))
    assert made.total_signal
    assert not made.rule_signal


@pytest.mark.parametrize("tiny", [1e-200, 5e-324])
def test_the_tiniest_spread_is_still_one(tiny: float) -> None:
    assert advantages([0.0, 2 * tiny]) == pytest.approx([-1.0, 1.0])
    assert all(map(math.isfinite, advantages([0.0, 0.0, 0.0, tiny])))


def test_examples_that_teach_nothing_are_left_out_and_counted(model: Path, tmp_path: Path) -> None:
    space = tiny_models.tokenizer()(" ", add_special_tokens=False)["input_ids"][0]
    bad = [
        replace(PAIRS[0], chosen=(1,)), replace(PAIRS[0], chosen=(space, space, 1)), replace(PAIRS[0], chosen=()),
        replace(PAIRS[0], prompt=(9,) * 509), replace(PAIRS[0], prompt=(9,) * 500, rejected=(9,) * 13),
    ]  # fmt: skip
    said: list[str] = []
    done = prefer(model, tmp_path / "mpo", [*PAIRS, *bad], say=said.append)
    assert done.examples == 6
    assert done.left_out == {"the chosen answer is empty": 3, "longer than the model's 512 positions": 2}
    assert said[:2] == [
        "mpo: 3 examples left out: the chosen answer is empty",
        "mpo: 2 examples left out: longer than the model's 512 positions",
    ]
    assert json.loads((tmp_path / "mpo" / "training.json").read_text())["left_out"] == done.left_out
    with pytest.raises(AssayError, match="no examples to train on; 3: the chosen answer is empty"):
        prefer(model, tmp_path / "none", bad[:3])
    fits = [replace(PAIRS[0], prompt=(9,) * 500, chosen=(9,) * 12)]
    assert prefer(model, tmp_path / "full", fits, weights=(0, 0, 1)).examples == 1


NAN = math.nan


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (GrpoConfig, {"seed": -1}, "grpo.seed"), (FitConfig, {"seed": -1}, "seed"), (GrpoConfig, {"lr": NAN}, "grpo.lr"),
        (FitConfig, {"lr": math.inf}, "lr"), (FitConfig, {"weight_decay": -1}, "weight_decay"),
        (GrpoConfig, {"weight_decay": NAN}, "grpo.weight_decay"), (GrpoConfig, {"kl": NAN}, "grpo.kl"),
        (GrpoConfig, {"epsilon": 5}, "grpo.epsilon"), (GrpoConfig, {"epsilon": 0}, "grpo.epsilon"),
        (GrpoConfig, {"epsilon": NAN}, "grpo.epsilon"), (GrpoConfig, {"epsilon_high": -1}, "grpo.epsilon_high"),
        (GrpoConfig, {"most_ratio": 0.5}, "grpo.most_ratio"), (GrpoConfig, {"most_ratio": 1.1}, "at least 1.2"),
        (GrpoConfig, {"most_ratio": NAN}, "grpo.most_ratio"), (FitConfig, {"weights": (NAN, 0, 1)}, "weights"),
        (FitConfig, {"weights": (math.inf, 0, 1)}, "weights"), (RewardConfig, {"rule": NAN}, "weights"),
        (RewardConfig, {"model": math.inf}, "weights"), (RewardConfig, {"bound": NAN}, "bound"),
        (BufferConfig, {"alpha": NAN}, "buffer.alpha"), (PairConfig, {"threshold": NAN}, "pairs.threshold"),
        (SamplerConfig, {"temperature": NAN}, "sampler.temp"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(kind: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(AssayError, match=named):
        kind(**options)


@pytest.mark.parametrize("options", [
    {"grpo": GrpoConfig(seed=1)}, {"mpo": FitConfig(seed=1)}, {"align": FitConfig(seed=1)},
    {"align": FitConfig(weights=(1.0, 0.0, 0.0))}, {"reward_model": TrainConfig(backbone="x")},
])  # fmt: skip
def test_what_a_run_sets_itself_cannot_be_set(options: dict[str, Any]) -> None:
    [part] = options
    with pytest.raises(AssayError, match=rf"^{part}\.\w+ is set by the run itself"):
        TuneConfig(recipe="x", **options)


def test_settings_at_their_bounds_are_taken() -> None:
    GrpoConfig(epsilon_high=0.0, most_ratio=1.0)
    GrpoConfig(epsilon=0.2, epsilon_high=0.28, most_ratio=None, weight_decay=0.0)
