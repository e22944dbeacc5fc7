"""Preference pairs of the policy's own answers, for MPO (paper B, section 3.2; construction: MPO paper, section 3.1).

    known answer      right, ended and well-formed (`PairConfig.form`) against wrong, or without a clear final answer
    no known answer   with a reward model, the higher score of an answer that ended against the lower
    ... of a picture  DropoutNTP: an answer against its first half, continued without looking at the picture

With a reward model, a pair is kept where the margin of its scores reaches a threshold, our reading of section 4.4. Why
answers came to no pair is counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from assay.errors import AssayError
from assay.policy.config import PairConfig
from assay.policy.mpo import Comparison
from assay.rollouts import AnswerPair, Prompt, Rollout, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The pairs of one round, and what became of the prompts and of pairs that were left out, by reason."""

    pairs: tuple[AnswerPair, ...]
    counts: dict[str, int]


def make_pairs(
    prompts: Sequence[Prompt], groups: Sequence[Sequence[Rollout]], scores: Sequence[Sequence[Score]], config: PairConfig,
    round: int = 0, seed: int = 0,
) -> Pairs:  # fmt: skip
    """Pairs of sampled answers: by the rules where the answer is known, else by the reward model's score (`Score.raw`).

    Of a prompt's candidates whose margin reaches the threshold a random choice is taken. Not the widest margins: with a weak
    reward model these are its own outliers (docs/log.md, 9).
    """
    random, counts = np.random.default_rng([seed, round]), Counter[str]()
    found: list[AnswerPair] = []
    for prompt, group, scored in zip(prompts, groups, scores, strict=True):
        candidates, reason = _candidates(prompt, group, scored, config, random)
        found += [replace(c, round=round) for c in candidates]
        counts[reason or "paired"] += 1
    counts["pairs"] = len(found)
    return Pairs(pairs=tuple(found), counts=dict(counts))


def _candidates(
    prompt: Prompt, group: Sequence[Rollout], scores: Sequence[Score], config: PairConfig, random: np.random.Generator
) -> tuple[list[AnswerPair], str]:
    if prompt.answer:
        right = [i for i, s in enumerate(scores) if s.rule > 0]
        whole = [i for i in right if group[i].ended]
        good = [i for i in whole if scores[i].format > 0]
        bad = [i for i, s in enumerate(scores) if s.rule <= 0]
        formed = (
            f"right answers do not have the form '{config.form}' (pairs.form)" if whole else "right answers are cut off"
        )
        source, reason = "rule", "all right" if not bad else formed if right else "none right"
    else:
        bad = [i for i, s in enumerate(scores) if s.raw is not None]
        good = [i for i in bad if group[i].ended]
        scored = "fewer than two scores of the reward model" if good else "all answers are cut off"
        source, reason = "model", scored if bad else "no reward model"
    pairs = {(group[g].tokens, group[b].tokens): (g, b) for g, b in product(good, bad) if g != b}
    made = [_pair(prompt, group, scores, g, b, source) for g, b in pairs.values()]
    made = [p for p in made if p.chosen != p.rejected and p.chosen and p.rejected]
    if not made:
        return [], "the same or empty answers" if pairs else reason
    floor = config.threshold if config.threshold is not None else (0.0 if source == "model" else -np.inf)
    kept = [p for p in made if p.margin >= floor and (source == "rule" or p.margin > 0)]
    if not kept:
        return [], "margin below the threshold"
    order = random.permutation(len(kept))[: config.per_prompt]
    return [kept[i] for i in sorted(order.tolist())], ""


def _pair(
    prompt: Prompt, group: Sequence[Rollout], scores: Sequence[Score], good: int, bad: int, source: str
) -> AnswerPair:
    raw = scores[good].raw, scores[bad].raw
    return AnswerPair(
        prompt_id=prompt.id, chosen=group[good].tokens, rejected=group[bad].tokens, chosen_text=group[good].text,
        rejected_text=group[bad].text, margin=raw[0] - raw[1] if raw[0] is not None and raw[1] is not None else 0.0,
        source=source,
    )  # fmt: skip


def all_pairs(
    prompts: Sequence[Prompt], groups: Sequence[Sequence[Rollout]], scores: Sequence[Sequence[Score]], sampler: Any,
    config: PairConfig, round: int = 0, seed: int = 0,
) -> Pairs:  # fmt: skip
    """`make_pairs`, and `dropout_pairs` of the questions about pictures whose answer is not known."""
    made = make_pairs(prompts, groups, scores, config, round, seed)
    blind = [(p, g) for p, g in zip(prompts, groups, strict=True) if p.images and not p.answer]
    if not blind:
        return made
    less = dropout_pairs([p for p, _ in blind], [g for _, g in blind], sampler, config, round)
    counts = {**made.counts, **{f"DropoutNTP: {reason}": n for reason, n in less.counts.items()}}
    return Pairs(pairs=(*made.pairs, *less.pairs), counts={**counts, "pairs": len(made.pairs) + len(less.pairs)})


def dropout_pairs(
    prompts: Sequence[Prompt], groups: Sequence[Sequence[Rollout]], sampler: Any, config: PairConfig, round: int = 0,
) -> Pairs:  # fmt: skip
    """DropoutNTP: the first answer of each group against its first part continued without the picture.

    For questions without a known answer: looking should beat not looking. The sampler must take `starts`.
    """
    usable = [
        (p, g[0]) for p, g in zip(prompts, groups, strict=True) if p.images and len(g[0].tokens) > 1 and g[0].ended
    ]
    counts = Counter({"without a picture, unfinished or too short": len(prompts) - len(usable)})
    blind = [replace(p, messages=tuple(replace(m, images=()) for m in p.messages)) for p, _ in usable]
    starts = [r.tokens[: max(1, int(len(r.tokens) * config.dropout_cut))] for _, r in usable]
    ends = sampler(blind, 1, 7919 + round, starts) if usable else []
    found = []
    for (prompt, whole), start, end in zip(usable, starts, ends, strict=True):
        rejected = (*start, *end[0].tokens)
        if rejected == whole.tokens:
            counts["the same without the picture"] += 1
            continue
        found.append(AnswerPair(
            prompt_id=prompt.id, chosen=whole.tokens, rejected=rejected, chosen_text=whole.text,
            rejected_text=sampler.answer_start + sampler.policy.tokenizer.decode(rejected, skip_special_tokens=True),
            margin=0.0, source="dropout", round=round,
        ))  # fmt: skip
    counts["pairs"] = len(found)
    return Pairs(pairs=tuple(found), counts=dict(counts))


def comparisons(pairs: Sequence[AnswerPair], prompts: Sequence[Prompt], sampler: Any) -> list[Comparison]:
    """What MPO trains on. Raises AssayError for a pair whose prompt is not given."""
    known = {p.id: p for p in prompts}
    missing = next((p.prompt_id for p in pairs if p.prompt_id not in known), None)
    if missing is not None:
        raise AssayError(f"a pair belongs to the prompt {missing}, which is not among the prompts")
    return [
        Comparison(
            prompt=tuple(sampler.prompt_ids(known[p.prompt_id])), chosen=p.chosen, rejected=p.rejected,
            images=known[p.prompt_id].images,
        )
        for p in pairs
    ]  # fmt: skip
