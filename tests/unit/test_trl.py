"""Our losses against TRL's own code in the same numbers, where the definitions agree (`make bench-policy` installs TRL).

Hand-computed values for machines without it stand in test_policy_losses.py.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_models
from assay.journal import read
from assay.policy.config import CorrectionConfig, FitConfig, GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.model import Policy, load_policy
from assay.policy.mpo import Comparison, fit
from assay.policy.rewards import overlong
from assay.policy.sampler import LocalSampler
from assay.policy.update import Update
from assay.records import user
from assay.rollouts import Prompt, Sample
from assay.step import Engine

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
CLOSE = {"abs": 1e-5, "rel": 1e-5}
PLAIN = {"use_cpu": True, "bf16": False, "report_to": [], "gradient_checkpointing": False, "disable_tqdm": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_language(tmp_path_factory.mktemp("lm"), "llama")


def model(weights: dict[str, torch.Tensor] | None = None) -> Any:
    made = tiny_models.language("llama")
    if weights is not None:
        made.load_state_dict(weights)
    return made


def padded(rows: list[tuple[int, ...]], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of one width, and where they are not padding."""
    width = max(map(len, rows))
    gaps = [(0,) * (width - len(r)) for r in rows]
    ids = torch.tensor([(*g, *r) if left else (*r, *g) for r, g in zip(rows, gaps, strict=True)])
    mask = [
        [0] * len(g) + [1] * len(r) if left else [1] * len(r) + [0] * len(g) for r, g in zip(rows, gaps, strict=True)
    ]
    return ids, torch.tensor(mask)


EXAMPLES = [
    Comparison(
        prompt=tuple(range(6, 9 + i)), chosen=(20 + i, 30, 31 + i, 1), rejected=(*range(40, 42 + i), 1)
    )
    for i in range(6)
]  # fmt: skip
"""Chosen answers of one length: TRL's "sft" is a mean over all tokens, eq. 5 one over responses of means over tokens."""


def test_the_terms_of_mpo_are_trl_s(folder: Path, tmp_path: Path) -> None:
    """In the second step, when the policy has left its reference; without BCO's shift, which TRL does not have."""
    policy, seen = load_policy(str(folder), PolicyConfig()), []

    def watch(step: int, policy: Policy) -> dict[str, float]:
        seen.append({n: x.detach().clone() for n, x in policy.inner.state_dict().items()})
        return {}

    config = FitConfig(batch=6, epochs=2, lr=1e-2, schedule="constant", warmup=0.0, weight_decay=0.0, shift=False)
    fit(tmp_path / "mpo", config, policy, EXAMPLES, watch=watch, watch_every=1)
    ours = read(tmp_path / "mpo" / "metrics.jsonl")[1]
    data = datasets.Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    trainer = trl.DPOTrainer(
        model(seen[0]), ref_model=model(), train_dataset=data, processing_class=tiny_models.tokenizer(),
        args=trl.DPOConfig(output_dir=str(tmp_path / "trl"), beta=0.1, **PLAIN),
    )  # fmt: skip
    answers = [e.chosen for e in EXAMPLES] + [e.rejected for e in EXAMPLES]
    prompts = [e.prompt for e in EXAMPLES] * 2
    ids_BT, mask_BT = padded([(*p, *a) for p, a in zip(prompts, answers, strict=True)])
    answer_BT = mask_BT.clone()
    for row, prompt in zip(answer_BT, prompts, strict=True):
        row[: len(prompt)] = 0
    batch = {"input_ids": ids_BT, "attention_mask": mask_BT, "completion_mask": answer_BT}

    def theirs(**weights: float) -> float:
        trainer.loss_types, trainer.loss_weights = list(weights), list(weights.values())
        return float(trainer.compute_loss(trainer.model, dict(batch)).detach())

    assert abs(ours["margin"]) > 0.05, "the policy must have moved, or the losses are constants"
    assert ours["dpo"] == pytest.approx(theirs(sigmoid=1.0), **CLOSE)
    assert ours["bco"] == pytest.approx(theirs(bco_pair=1.0), **CLOSE)
    assert ours["nll"] == pytest.approx(theirs(sft=1.0), **CLOSE)
    assert ours["loss"] == pytest.approx(theirs(sigmoid=0.8, bco_pair=0.2, sft=1.0), **CLOSE)


PROMPTS = [Prompt(messages=(user("say a"),), answer="a"), Prompt(messages=(user("say no more"),), answer="b")]


def samples(old: bool) -> list[Sample]:
    """Answers of several lengths and signs, with the log-probabilities of an older policy where `old`."""
    random = np.random.default_rng(0)
    made = []
    for at in range(8):
        tokens = tuple(int(t) for t in random.integers(6, 60, 2 + at % 4))
        logprobs = tuple(float(x) for x in random.normal(-4.4, 0.6, len(tokens))) if old else (0.0,) * len(tokens)
        advantage = float(random.normal())
        made.append(Sample(
            prompt_id=PROMPTS[at // 4].id, group=str(at // 4), tokens=tokens, logprobs=logprobs, advantage=advantage,
            policy_step=0,
        ))  # fmt: skip
    return made


@pytest.mark.parametrize(
    ("old", "changes", "theirs"),
    [
        (False, {}, {}),
        (True, {}, {}),
        (True, {"epsilon_high": 0.28, "most_ratio": 1.6}, {"epsilon_high": 0.28, "delta": 1.6}),
        (True, {"mean": "token"}, {"loss_type": "bnpo"}),
        (True, {"kl": 0.3}, {"use_bias_correction_kl": False}),
    ],
    ids=["on policy", "replayed", "other bounds", "mean over tokens", "kl"],
)
def test_grpo_s_loss_and_gradient_are_trl_s(
    folder: Path, tmp_path: Path, old: bool, changes: dict[str, Any], theirs: dict[str, Any]
) -> None:
    made_up = CorrectionConfig(most_gap=0.0)
    config = replace(GrpoConfig(steps=1, most_ratio=None, lr=1e-3, clip=1e9, correction=made_up), **changes)
    policy, engine = load_policy(str(folder), PolicyConfig()), Engine("fp32", 1e9)
    first = tiny_models.language("llama", seed=1)
    before = {n: x.detach().clone() for n, x in policy.inner.state_dict().items()}
    engine.prepare(policy, config.lr, 0.0)
    policy.inner.load_state_dict(first.state_dict())
    policy.keep_start()
    policy.inner.load_state_dict(before)
    sampler = LocalSampler(policy, SamplerConfig(), half=False)
    run = Update(tmp_path / "grpo", config, policy, engine, PROMPTS, sampler)
    batch = samples(old)
    ours = run.train(batch, 0 if old else len(batch), 0)

    options = {"loss_type": "grpo", **theirs, **PLAIN}
    trainer = trl.GRPOTrainer(
        model(before), reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=datasets.Dataset.from_dict({"prompt": ["a"]}), processing_class=tiny_models.tokenizer(),
        args=trl.GRPOConfig(output_dir=str(tmp_path / "trl"), num_generations=2, per_device_train_batch_size=2, **options),
    )  # fmt: skip
    trainer.beta = config.kl  # given to the constructor, it would look for the reference on the hub
    by_id = {p.id: tuple(sampler.prompt_ids(p)) for p in PROMPTS}
    prompt_ids, prompt_mask = padded([by_id[s.prompt_id] for s in batch], left=True)
    answer_ids, answer_mask = padded([s.tokens for s in batch])
    inputs = {
        "prompt_ids": prompt_ids, "prompt_mask": prompt_mask, "completion_ids": answer_ids,
        "completion_mask": answer_mask, "advantages": torch.tensor([s.advantage for s in batch]),
        "num_items_in_batch": answer_mask.sum(),
    }  # fmt: skip
    if old:
        gaps = [answer_ids.shape[1] - len(s.tokens) for s in batch]
        inputs["old_per_token_logps"] = torch.tensor(
            [s.logprobs + (0.0,) * g for s, g in zip(batch, gaps, strict=True)]
        )
    whole, mask = torch.cat([prompt_ids, answer_ids], 1), torch.cat([prompt_mask, answer_mask], 1)
    with torch.no_grad():
        places = (mask.cumsum(1) - 1).clamp(min=0)
        logits = first(input_ids=whole, attention_mask=mask, position_ids=places).logits[
            :, -answer_ids.shape[1] - 1 : -1
        ]
    inputs["ref_per_token_logps"] = logits.log_softmax(-1).gather(2, answer_ids[..., None])[..., 0]
    loss = trainer.compute_loss(trainer.model.eval(), inputs)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]).norm()
    assert ours["loss"] == pytest.approx(loss.item(), **CLOSE)
    assert ours["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_the_overlong_punishment_is_trl_s() -> None:
    from trl.rewards import get_soft_overlong_punishment

    theirs = get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=5)
    lengths = range(1, 24)
    assert theirs(completion_ids=[[1] * n for n in lengths]) == pytest.approx([overlong(n, 20, 5) for n in lengths])
