"""Part B's stages on a user's own model and questions, one by one: GRPO, adapter alignment, the filter of the questions."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from assay.errors import AssayError, CannotRead
from assay.images import ImageStore
from assay.policy.config import HERE, FitConfig, GrpoConfig, PolicyConfig, SamplerConfig, VllmConfig
from assay.policy.hallucination import MonitorConfig, Watch
from assay.policy.rewards import HybridReward, RewardConfig
from assay.recipes.exam import Exam, asked, exam_of, examine, watching
from assay.recipes.questions import as_row, captions, read, reason_of
from assay.recipes.reward_model import GoldConfig, fingerprint, load_reward_model, own_term, refuse
from assay.records import Prompt, Rejection, digest
from assay.tables import check_new, sibling, write_text

LONG = 200
"""Characters from which a right answer in words is told of: hardly any answer will equal it."""


def questions(path: Path, store: ImageStore, left: Counter[str] | None = None, answer_field: str = "") -> list[Prompt]:
    """The questions of a file or folder; what was refused is printed by reason, and counted in `left`. Raises AssayError
    when none is left."""
    prompts, rejections = read(path, store, answer_field)
    told(path, rejections, left)
    if long := sum(p.kind == "text" and len(p.answer) > LONG for p in prompts):
        print(f"{path}: {long:,} answers are texts of over {LONG} characters: only the same words count as right")
    return prompts


def told(path: Path, rejections: Sequence[Rejection], left: Counter[str] | None = None) -> None:
    """Print why rows were refused, and how many."""
    counts = Counter(map(reason_of, rejections))
    first = {reason_of(r): r.row for r in reversed(rejections)}
    for reason, n in counts.most_common():
        print(f"{path}: {n:,} rows left out, row {first[reason]:,} the first: {reason}")
    if left is not None:
        left.update(counts)


def opened(
    model: str,
    settings: PolicyConfig,
    sampling: SamplerConfig,
    store: ImageStore,
    seed: int = 0,
    answer_start: str = "",
    vllm: VllmConfig = HERE,
    within: Path | None = None,
) -> tuple[Any, Any]:
    """A policy and what draws its answers (vLLM reads it from a folder in `within`). Of servers' answers the policy is an
    outline, without weights."""
    from assay.policy.model import load_policy
    from assay.policy.sampler import make_sampler

    if vllm.vllm:
        from assay.policy.vllm_servers import outline

        policy = outline(model, settings, store)
        return policy, make_sampler(vllm, policy, sampling, store, seed, answer_start)
    policy = load_policy(model, settings, store)
    if not policy.packed:
        drawn = "" if vllm.backend == "vllm" else ", and answers drawn by transformers' generate"
        print(f"batches are padded{drawn}: {policy.reason}")
    return policy, make_sampler(vllm, policy, sampling, store, seed, answer_start, within)


def room(policy: Any) -> int:
    """The places that the language model has for a prompt and its answer."""
    from assay import vision

    return getattr(vision.language_model(policy.inner).config, "max_position_embeddings", None) or 1 << 30


def fitting(
    prompts: Sequence[Prompt], policy: Any, sampler: Any, answer: int, left: Counter[str] | None = None
) -> list[Prompt]:
    """The prompts that the model can read, with room for an answer of so many tokens; those that are left out are printed by
    reason, and counted in `left`."""
    most, counts, kept, first = room(policy) - answer, Counter[str](), [], dict[str, str]()
    for prompt in prompts:
        try:
            fits = len(sampler.prompt_ids(prompt)) <= most
            reason = "" if fits else f"longer than {most:,} tokens with their pictures"
        except CannotRead as error:
            reason = str(error)
        if not reason:
            kept.append(prompt)
            continue
        counts[reason] += 1
        first.setdefault(reason, " ".join(prompt.messages[-1].content.split())[:60])
    for reason, n in counts.most_common():
        print(f"{n:,} questions left out: {reason} (the first: {first[reason]!r})")
    if left is not None:
        left.update(counts)
    if not kept:
        raise AssayError("no question is left that this model can read")
    return kept


def run_grpo(
    model: str, path: Path, out: Path, config: GrpoConfig, settings: PolicyConfig, sampling: SamplerConfig,
    rewards: RewardConfig, gold: GoldConfig, monitor: MonitorConfig, watch: Path | None, answer_start: str,
    trackers: Sequence[str], vllm: VllmConfig = HERE, answer_field: str = "",
) -> str:  # fmt: skip
    """GRPO with rules, format, and what else is named: a reward model, questions to watch. Returns how it went, in words."""
    from assay.policy.grpo import grpo
    from assay.policy.model import load_policy
    from assay.render import begun

    sampling.training_temperature()
    if vllm.vllm:
        raise AssayError(
            "--vllm: the weights change at every step, and a server keeps its own; --backend vllm starts an engine beside "
            "each process, which takes them over"
        )
    store = ImageStore(sibling(out, ".images"))
    prompts = questions(path, store, answer_field=answer_field)
    refuse(rewards, gold, prompts)
    watched = _watched(watch, monitor, store, answer_field)
    held, prompts = _apart(path, prompts, gold, rewards, store, config.seed, answer_field)
    policy, sampler = opened(model, settings, sampling, store, config.seed, answer_start, vllm, out.parent)
    prompts = fitting(prompts, policy, sampler, sampling.max_tokens)
    begins = begun(policy.processor, prompts[0].messages)
    most = sampling.max_tokens
    reward = HybridReward(rewards, None, None, answer_start, begun=begins, max_tokens=most)
    if gold.reward_model:
        scorer, term = load_reward_model(gold, store, any(p.images for p in prompts)), None
        named = fingerprint(gold.reward_model)
        prompts, held = scorer.readable(prompts), scorer.readable(held)
        if held:
            kept = sibling(out, ".calibration.json")
            held = fitting(held, policy, sampler, sampling.max_tokens)
            identity = [model, named, gold.reward_tokens, sampling, answer_start, config.seed]
            term = own_term(kept, scorer, held, sampler, config.group, rewards, identity)
        reward = HybridReward(rewards, scorer, term, answer_start, f"{named} {gold.reward_tokens}", begins, most)
    exam = Exam(prompts=())
    if watched:
        chosen = _sample(fitting(watched, policy, sampler, sampling.max_tokens), monitor.prompts, config.seed)
        exam = exam_of(chosen, config.seed)
        print(f"watched every {monitor.every} steps: {len(exam.prompts):,} questions, {asked(exam)}")

    def reading(step: int, _: Any) -> Any:
        return examine(exam, sampler.greedy(), store, step, rewards.form)

    watcher = Watch(monitor, digest([p.id for p in exam.prompts]) if watched else "")
    done = grpo(
        out, config, policy, prompts, sampler, reward, print, trackers,
        reference=load_policy(model, settings, store).requires_grad_(False) if config.kl else None,
        watch=watching(out.name, reading, watcher, reward, print) if exam.prompts else None,
        watch_every=monitor.every, watch_state=watcher,
    )  # fmt: skip
    sampler.close()
    ended = f", stopped: {done.stopped}" if done.stopped else ""
    return f"{len(prompts):,} questions, {done.steps:,} steps, {done.samples:,} answers{ended} -> {out}"


def _sample(prompts: Sequence[Prompt], n: int, seed: int) -> list[Prompt]:
    """n random prompts, in their order."""
    order = np.random.default_rng(seed).permutation(len(prompts))[:n]
    return [prompts[i] for i in sorted(order.tolist())]


def _watched(path: Path | None, monitor: MonitorConfig, store: ImageStore, answer_field: str) -> list[Prompt]:
    """The questions of readings, none where no file is named."""
    if path is not None:
        return questions(path, store, answer_field=answer_field)
    changed = [f.name for f in fields(monitor) if getattr(monitor, f.name) != getattr(MonitorConfig(), f.name)]
    if changed:
        raise AssayError(f"--monitor.{changed[0].replace('_', '-')} needs questions to watch: give --watch FILE")
    return []


def _apart(
    path: Path,
    prompts: Sequence[Prompt],
    gold: GoldConfig,
    rewards: RewardConfig,
    store: ImageStore,
    seed: int,
    answer_field: str,
) -> tuple[list[Prompt], list[Prompt]]:
    """Gold questions, if any are needed, and those to train on: not gold, and without a reward model only answered ones."""
    known, held = [p for p in prompts if p.answer], list[Prompt]()
    unanswered = len(prompts) - len(known)
    if gold.reward_model and rewards.combine == "calibrated":
        if gold.gold is not None:
            held = [p for p in questions(gold.gold, store, answer_field=answer_field) if p.answer]
        elif known:
            order = np.random.default_rng(seed).permutation(len(known))
            held = [known[i] for i in order[: max(1, round(gold.gold_share * len(known)))]]
        if not held:
            raise AssayError(
                f"{gold.gold or path}: no question has an answer, so the reward model cannot be calibrated; "
                "give --gold with answers, or --rewards.combine sum"
            )
    if not known and not gold.reward_model:
        raise AssayError(f"{path}: no question has an answer, so the rules have nothing to reward; give --reward-model")
    if unanswered and not gold.reward_model:
        print(f"{unanswered:,} questions without an answer are left out: without a reward model nothing rewards them")
    spared = {p.id for p in held}
    rest = [p for p in (prompts if gold.reward_model else known) if p.id not in spared]
    if not rest:
        raise AssayError(f"{path}: all questions are gold, none is left to train on; name other ones with --gold")
    return held, rest


def answer_tokens(policy: Any, text: str) -> tuple[int, ...]:
    """An answer's tokens, and the end. Raises CannotRead for one that holds the mark of a picture, or half a character."""
    from assay.render import encodable, picture_mark

    if (mark := picture_mark(policy.processor)) and mark in text:
        raise CannotRead(f"the answer contains {mark}, which stands for a picture")
    return (*policy.tokenizer(encodable(text), add_special_tokens=False)["input_ids"], policy.end_ids[0])


def run_align(
    model: str, path: Path, out: Path, config: FitConfig, settings: PolicyConfig, request: str, answer_start: str,
    trackers: Sequence[str],
) -> str:  # fmt: skip
    """Adapter alignment: learn to say what is in pictures. Returns how it went, in words."""
    from assay.policy.mpo import Comparison, fit

    store = ImageStore(sibling(out, ".images"))
    shown, rejections = captions(path, store, request)
    told(path, rejections)
    policy, sampler = opened(model, settings, SamplerConfig(), store, config.seed, answer_start)
    made, most, left = [], room(policy), Counter[str]()
    for prompt, caption in shown:
        try:
            text = answer_tokens(policy, caption.removeprefix(answer_start))
            example = Comparison(prompt=tuple(sampler.prompt_ids(prompt)), images=prompt.images, chosen=text)
        except CannotRead as error:
            left[str(error)] += 1
            continue
        if len(example.prompt) + len(example.chosen) <= most:
            made.append(example)
        else:
            left[f"longer than {most:,} tokens with their pictures"] += 1
    for reason, n in left.most_common():
        print(f"{n:,} captions left out: {reason}")
    done = fit(out, config, policy, made, print, trackers)
    return f"{done.examples:,} captions, {done.steps:,} steps, loss {done.loss:.3f} -> {out}"


def run_filter(
    model: str, path: Path, out: Path, samples: int, sampling: SamplerConfig, answer_start: str, answer_field: str = "",
    vllm: VllmConfig = HERE,
) -> str:  # fmt: skip
    """Keep the questions whose sampled answers differ in being right; returns a line with the counts."""

    if samples < 2:
        raise AssayError(f"--samples {samples}: whether answers differ takes two at least")
    sampling.training_temperature()
    check_new(out)
    store = ImageStore(sibling(out, ".images"))
    prompts = [p for p in questions(path, store, answer_field=answer_field) if p.answer]
    if not prompts:
        raise AssayError(f"{path}: no question has an answer, so none can be found too easy or too hard")
    policy, sampler = opened(model, PolicyConfig(), sampling, store, 0, answer_start, vllm)
    prompts = fitting(prompts, policy, sampler, sampling.max_tokens)
    shares = right_shares(prompts, sampler, samples, answer_start)
    sampler.close()
    rows = [
        {**as_row(p, store.folder.name), "right": s} for p, s in zip(prompts, shares, strict=True) if 0 < s < 1
    ]  # fmt: skip
    write_text(out, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    easy, hard = sum(s == 1 for s in shares), sum(s == 0 for s in shares)
    return f"{len(rows):,} of {len(prompts):,} questions kept; {easy:,} always right, {hard:,} never -> {out}"


def right_shares(prompts: Sequence[Prompt], sampler: Any, samples: int, answer_start: str) -> list[float]:
    """The share of right answers among `samples` of each prompt."""
    from assay.render import begun

    begins = begun(sampler.policy.processor, prompts[0].messages) if prompts else ""
    reward = HybridReward(RewardConfig(), None, None, answer_start, begun=begins)
    return [
        sum(s.rule > 0 for s in reward([(p, r) for r in group])) / samples
        for p, group in zip(prompts, sampler(prompts, samples), strict=True)
    ]  # fmt: skip
