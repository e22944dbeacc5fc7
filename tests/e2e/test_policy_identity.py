"""What decides a training by rewards is kept with it: another judge, gate or sampler does not go on with it in silence, and
what a reward model is worth is measured again for another policy."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from assay.errors import AssayError
from assay.judges.asking import AskConfig as HowAsked
from assay.policy.config import AskConfig, GrpoConfig, PairConfig, PolicyConfig, SamplerConfig
from assay.policy.monitor import MonitorConfig
from assay.policy.rewards import RewardConfig
from assay.policy.update import Update
from assay.policy.vllm_sampler import VllmSampler
from assay.policy.vllm_servers import ServerSampler
from assay.records import Conversation
from assay.tuning import own_pairs, reward_model
from assay.tuning.own_grpo import run_grpo
from assay.tuning.own_pairs import run_pairs
from assay.tuning.reward_model import GoldConfig, RewardModelConfig
from judge_server import Judged

SMALL = GrpoConfig(steps=2, prompts=4, group=2, save_every=1)
DRAWN = SamplerConfig(max_tokens=4)
PATIENT = HowAsked(concurrency=2, tries=2)


def vowels(conversations: Sequence[Conversation]) -> list[float]:
    """A reward model that is a function."""
    return [float(sum(c in "aeiou" for c in talk[-1].content)) for talk in conversations]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tiny_models.save_language(tmp_path / "lm", "qwen3")
    rows = [{"question": f"say {c}", "answer": c} for c in "abcdefghij"]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def tune(home: Path, gold: GoldConfig, rewards: RewardConfig) -> str:
    return run_grpo(
        str(home / "lm"), home / "q.jsonl", home / "tuned", SMALL, PolicyConfig(), DRAWN, rewards, gold, MonitorConfig(),
        None, "", (),
    )  # fmt: skip


def killed(monkeypatch: pytest.MonkeyPatch, home: Path, gold: GoldConfig, rewards: RewardConfig) -> None:
    """A training that dies at its second step."""
    before = Update.train

    def train(self: Update, batch: Any, fresh: int, step: int) -> Any:
        if step:
            raise RuntimeError("killed")
        return before(self, batch, fresh, step)

    with monkeypatch.context() as patched:
        patched.setattr(Update, "train", train)
        with pytest.raises(RuntimeError, match="killed"):
            tune(home, gold, rewards)


def test_another_way_of_judging_is_another_training(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Judged(lambda text: '{"reason": "", "score": 5, "better": "tie"}') as judge:
        asks, plain = GoldConfig(reward_model=f"judge:m@{judge.url}"), RewardConfig(combine="sum")
        killed(monkeypatch, home, asks, plain)
        others: list[dict[str, Any]] = [{"judge_by": "group"}, {"judge_sees": True}, {"judge_tokens": 2048}]
        for other in others:
            with pytest.raises(AssayError, match=r"other inputs \(reward"):
                tune(home, replace(asks, **other), plain)
        assert "2 steps" in tune(home, replace(asks, ask=PATIENT), plain), "how often is no matter"


def test_a_gate_that_is_measured_at_other_steps_is_another_training(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gold = GoldConfig(reward_model=f"{__name__}:vowels")
    killed(monkeypatch, home, gold, RewardConfig())
    with pytest.raises(AssayError, match=r"other inputs \(reward"):
        tune(home, replace(gold, gate_every=1), RewardConfig())


def test_a_policy_that_was_trained_anew_in_its_folder_is_calibrated_anew(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = list[int]()
    before = reward_model.calibrate

    def calibrate(*given: Any) -> Any:
        fitted.append(1)
        return before(*given)

    monkeypatch.setattr(reward_model, "calibrate", calibrate)
    gold = GoldConfig(reward_model=f"{__name__}:vowels")
    for seed, expected in ((0, 1), (0, 1), (1, 2)):
        tiny_models.save_language(home / "lm", "qwen3", seed=seed)
        shutil.rmtree(home / "tuned", ignore_errors=True)
        tune(home, gold, RewardConfig())
        assert len(fitted) == expected, "once for each policy"


def test_who_draws_is_part_of_a_training() -> None:
    assert (VllmSampler.of, ServerSampler.of) == ("vllm", "servers")


def test_pairs_go_on_however_their_judge_is_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How often, how patiently and for how much shapes no answer of his: a budget that is spent can be raised."""
    monkeypatch.setattr(own_pairs, "PART", 2)
    given = (PairConfig(samples=2, form="none"), PolicyConfig(), DRAWN)

    def pairs(judge: RewardModelConfig) -> str:
        return run_pairs(str(home / "lm"), home / "q.jsonl", home / "pairs", *given, judge, "", 1, 0, ask=AskConfig())

    with Judged(lambda text: json.dumps({"reason": "", "score": len(text) % 11})) as judge:
        named, part = f"judge:m@{judge.url}", own_pairs._Making.part
        (home / "q.jsonl").write_text("".join(json.dumps({"question": f"say {c}"}) + "\n" for c in "abcdefghij"))
        with monkeypatch.context() as patched:
            patched.setattr(own_pairs._Making, "part", lambda s, n, *x: part(s, n, *x) if n < 3 else _dies())
            with pytest.raises(RuntimeError, match="killed"):
                pairs(RewardModelConfig(reward_model=named))
        with pytest.raises(AssayError, match="no pairs came of 10 questions"):  # it went on to the end
            pairs(RewardModelConfig(reward_model=named, ask=PATIENT))


def _dies() -> None:
    raise RuntimeError("killed")
