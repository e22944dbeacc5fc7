"""Part B's stages on a user's own model and questions, one by one: GRPO, MPO, the offline filter of the prompt pool."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from assay.errors import AssayError
from assay.images import ImageStore
from assay.policy.config import FitConfig, GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.rewards import HybridReward, RewardConfig
from assay.recipes.questions import jsonl
from assay.records import Prompt
from assay.tables import write_text


def questions(path: Path, store: ImageStore) -> list[Prompt]:
    """The questions of a file; what was refused is printed by reason. Raises AssayError when none is left."""
    prompts, rejections = jsonl(path, store)
    first = {r.reason: r.row for r in reversed(rejections)}
    for reason, n in Counter(r.reason for r in rejections).most_common():
        print(f"{path}: {n:,} rows left out, row {first[reason]:,} the first: {reason}")
    if not prompts:
        raise AssayError(f"{path}: no usable question")
    return prompts


def fitting(prompts: Sequence[Prompt], policy: Any, sampler: Any, room: int) -> list[Prompt]:
    """The prompts that leave room for an answer within the model's positions; how many do not is printed."""
    from assay import vision

    limit = getattr(vision.language_model(policy.inner).config, "max_position_embeddings", None) or 1 << 30
    kept = [p for p in prompts if len(sampler.prompt_ids(p)) + room <= limit]
    if len(kept) < len(prompts):
        print(
            f"{len(prompts) - len(kept):,} questions left out: longer than {limit - room:,} tokens with their pictures"
        )
    if not kept:
        raise AssayError("every question is too long for this model")
    return kept


def run_grpo(
    model: str, path: Path, out: Path, config: GrpoConfig, settings: PolicyConfig, sampling: SamplerConfig,
    rewards: RewardConfig, answer_start: str, trackers: Sequence[str],
    backend: Literal["auto", "vllm"] = "auto",
) -> str:  # fmt: skip
    """GRPO with rule and format rewards; returns a line that says how it went."""
    from assay.policy.folder import beside
    from assay.policy.grpo import grpo
    from assay.policy.model import load_policy
    from assay.policy.sampler import make_sampler

    sampling.training_temperature()
    store = ImageStore(beside(out, ".images"))
    prompts = questions(path, store)
    unanswered = sum(not p.answer for p in prompts)
    if unanswered == len(prompts):
        raise AssayError(f"{path}: no question has an answer, so the rules have nothing to reward")
    if unanswered:
        print(f"{unanswered:,} questions without an answer are left out: without a reward model nothing rewards them")
    policy = load_policy(model, settings, store)
    if not policy.packed:
        drawn = "" if backend == "vllm" else ", and answers drawn by transformers' generate"
        print(f"batches are padded{drawn}: {policy.reason}")
    sampler = make_sampler(backend, policy, sampling, store, config.seed, answer_start, out.parent)
    prompts = fitting([p for p in prompts if p.answer], policy, sampler, sampling.max_tokens)
    reference = load_policy(model, settings, store).requires_grad_(False) if config.kl else None
    reward = HybridReward(rewards, None, None, answer_start)
    done = grpo(out, config, policy, prompts, sampler, reward, print, trackers, reference=reference)
    return f"{len(prompts):,} questions, {done.steps:,} steps, {done.samples:,} answers -> {out}"


def run_mpo(
    model: str, folder: Path, out: Path, config: FitConfig, settings: PolicyConfig, trackers: Sequence[str]
) -> str:
    """MPO on Parquet preferences; returns a line that says how it went."""
    from assay.policy.model import load_policy
    from assay.policy.mpo import Comparison, fit
    from assay.render import render_prompt
    from assay.reward.data import ParquetPairs

    source = ParquetPairs(folder)
    policy = load_policy(model, settings)
    made = []
    for _, pair in source.take(config.seed, 0, range(len(source))):
        answers = [
            (*policy.tokenizer(r.text, add_special_tokens=False)["input_ids"], policy.end_ids[0])
            for r in (pair.chosen, pair.rejected)
        ]
        prompt = tuple(render_prompt(policy.processor, pair.prompt))
        made.append(Comparison(prompt=prompt, chosen=answers[0], rejected=answers[1]))
    done = fit(out, config, policy, made, print, trackers)
    return f"{done.examples:,} pairs, {done.steps:,} steps, loss {done.loss:.3f} -> {out}"


def run_filter(model: str, path: Path, out: Path, samples: int, sampling: SamplerConfig, answer_start: str) -> str:
    """Keep the questions whose sampled answers differ in being right; returns a line with the counts."""
    from assay.policy.folder import beside
    from assay.policy.model import load_policy
    from assay.policy.sampler import local_sampler

    store = ImageStore(beside(out, ".images"))
    prompts = [p for p in questions(path, store) if p.answer]
    if not prompts:
        raise AssayError(f"{path}: no question has an answer, so none can be found too easy or too hard")
    policy = load_policy(model, PolicyConfig(train=("llm",)), store)
    sampler = local_sampler(policy, sampling, store, 0, answer_start)
    prompts = fitting(prompts, policy, sampler, sampling.max_tokens)
    shares = right_shares(prompts, sampler, samples, answer_start)
    kept = [(p, s) for p, s in zip(prompts, shares, strict=True) if 0 < s < 1]
    rows = [
        {
            "question": p.messages[-1].content, "answer": p.answer, "kind": p.kind, "right": s,
            **({"image": str(store.folder / f"{p.images[0]}.png")} if p.images else {}),
        }
        for p, s in kept
    ]  # fmt: skip
    write_text(out, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    easy, hard = sum(s == 1 for s in shares), sum(s == 0 for s in shares)
    return f"{len(kept):,} of {len(prompts):,} questions kept; {easy:,} always right, {hard:,} never -> {out}"


def right_shares(prompts: Sequence[Prompt], sampler: Any, samples: int, answer_start: str) -> list[float]:
    """The share of right answers among `samples` of each prompt."""
    reward = HybridReward(RewardConfig(), None, None, answer_start)
    return [
        sum(s.rule > 0 for s in reward([(p, r) for r in group])) / samples
        for p, group in zip(prompts, sampler(prompts, samples), strict=True)
    ]  # fmt: skip
