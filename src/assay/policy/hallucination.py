"""Does the policy look? What it says about pictures is checked during training, and a run that invents too much is stopped.

The paper reports hallucination rates (B3 Table 3) without saying what is counted, on which set, or by which detector. The
definition here is ours: an answer hallucinates when its reasoning asserts at least one thing that is known not to be in its
picture. Beside it: answers that stay without the picture, and from R1V3 "can't see the image" (Table 5) and the entropy at
the onset of reasoning (section 5.1).
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from assay.errors import AssayError
from assay.policy.agreement import agreement, onset_entropies
from assay.policy.claims import cannot_see, check_claims
from assay.policy.config import Form
from assay.policy.judge_claims import ClaimsJudge
from assay.policy.reading import Reading
from assay.policy.rewards import format_reward, unbroken
from assay.rollouts import Prompt, Rollout, Sampler
from assay.statistics import Estimate, mean

Entropies = Callable[[Sequence[tuple[Prompt, Rollout]]], list[tuple[Sequence[str], Sequence[float]]]]
"""For each answer its tokens as text, and the entropy in nats of the distribution that each was drawn from."""


def read(
    prompts: Sequence[Prompt], sampler: Sampler, step: int, answer_of: Callable[[Prompt, str], str | None],
    right: Callable[[Prompt, str], bool], blank: str = "", swapped: Sequence[str] = (),
    groups: Sequence[Hashable] | None = None, entropies: Entropies | None = None, form: Form = "think-answer",
    begun: str = "", judge: ClaimsJudge | None = None,
    heard: Callable[[Sequence[tuple[Prompt, Rollout]]], None] | None = None,
) -> Reading:  # fmt: skip
    """Ask each prompt once with its pictures, once with blank and once with swapped ones, and count. What is the same
    question of the same picture is asked once.

    Args:
        sampler: Must be greedy (temperature 0), or agreement measures its randomness too.
        answer_of: The final answer that a text gives to a prompt, so normalised that equal answers are equal; None where it
            has none.
        right: Whether a whole text gives the right answer to a prompt: the same rule as the reward's.
        blank: Id of a blank picture in the sampler's store ("": do not ask without pictures).
        swapped: For each prompt the id of a picture for which the answer differs ("": none is known; none at all: do not ask
            with swapped ones).
        groups: For each prompt a group to take chance agreement in, such as the wording of its question.
        entropies: Computes entropies of answers; without it `onset_entropy` stays None.
        form: What a well-formed answer looks like.
        begun: What the chat template begins for every answer: part of what is read.
        judge: Reads what answers say of their own pictures.
        heard: Is told the prompts with their answers (to their own pictures), for what else is to be found in them.

    Prompts without pictures count for accuracy and claims only. Raises AssayError when `swapped` does not fit the prompts.
    """
    if swapped and len(swapped) != len(prompts):
        raise AssayError(f"{len(swapped)} swapped pictures were given for {len(prompts)} prompts; give one for each")
    if not prompts:
        return Reading(step=step, n=0)
    seen = [i for i, p in enumerate(prompts) if p.images]
    blanks = [_with(prompts[i], blank) for i in seen] if blank else []
    turned = [i for i in seen if swapped[i]] if swapped else []
    swaps = [_with(prompts[i], swapped[i]) for i in turned]
    asked = {p.id: p for p in (*prompts, *blanks, *swaps)}
    said = {r[0].prompt_id: r[0] for r in sampler(list(asked.values()), 1)}
    rollouts = [said[p.id] for p in (*prompts, *blanks, *swaps)]
    answers = [answer_of(p, begun + unbroken(r)) for p, r in zip((*prompts, *blanks, *swaps), rollouts, strict=True)]
    n, m = len(prompts), len(prompts) + len(blanks)
    blind_rate, blind_chance = _same(prompts, answers, groups, seen, answers[n:m]) if blanks else (None, None)
    swap_rate, swap_chance = _same(prompts, answers, groups, turned, answers[m:]) if swaps else (None, None)
    own = list(zip(prompts, rollouts[:n], strict=True))
    if heard is not None:
        heard(own)
    known = [(p, begun + unbroken(r)) for p, r in own if p.answer]
    onset, onsets = _onset(entropies, own)
    return replace(
        _spoken(prompts, rollouts[:n], step, getattr(sampler, "answer_start", ""), form, begun),
        **(_judged(judge, own) if judge is not None else {}),
        accuracy=_share([right(p, text) for p, text in known], _clusters([p for p, _ in known])),
        blind_agreement=blind_rate, chance_agreement=blind_chance, swap_agreement=swap_rate, swap_chance=swap_chance,
        unclear=sum(a is None for a in answers[:n]),
        onset_entropy=onset, onsets=onsets,
    )  # fmt: skip


def _spoken(
    prompts: Sequence[Prompt], rollouts: Sequence[Rollout], step: int, start: str, form: Form, begun: str
) -> Reading:
    """The part of a reading that the texts alone give; each begins with `start`, which nobody said."""
    texts = [r.text for r in rollouts]
    claims = check_claims(prompts, texts)
    clusters = _clusters(prompts)
    formed = _share([format_reward(begun + t, form) for t in texts], clusters)
    checked = [(m, c) for m, c in zip(claims.marks, clusters, strict=True) if m is not None]
    told = [(x, c) for x, c in zip(claims.named, clusters, strict=True) if x is not None]
    each = [
        (float(n < wrong), c) for (wrong, known), c in zip(claims.checked, clusters, strict=True) for n in range(known)
    ]
    thirds = _by_length([len(r.tokens) for r in rollouts], claims.marks, clusters)
    looked = [(cannot_see(t), c) for t, p, c in zip(texts, prompts, clusters, strict=True) if p.images]
    return Reading(
        step=step, n=len(prompts), format=formed,
        hallucination_rate=_share([m for m, _ in checked], [c for _, c in checked]),
        named=_share([x for x, _ in told], [c for _, c in told]),
        cannot_see=_share([x for x, _ in looked], [c for _, c in looked]), claims=claims.claims,
        false_claims_rate=_share([m for m, _ in each], [c for _, c in each]),
        hallucination_short=thirds[0], hallucination_middle=thirds[1], hallucination_long=thirds[2],
        false_claims=claims.false, unanswered=sum(not t.removeprefix(start).strip() for t in texts),
    )  # fmt: skip


def _judged(judge: ClaimsJudge, answers: Sequence[tuple[Prompt, Rollout]]) -> dict[str, Any]:
    """The fields of a reading that a judge gives; of answers to pictures alone."""
    looked = [(p, r.text) for p, r in answers if p.images]
    found = [(p.images, told) for (p, _), told in zip(looked, judge(looked), strict=True)]
    answered = [(pictures, told) for pictures, told in found if told is not None]
    claims = [(float(not true), pictures) for pictures, told in answered for true in told if true is not None]
    return {
        "judged_rate": _share([float(False in told) for _, told in answered], [p for p, _ in answered]),
        "judged_false_claims": _share([x for x, _ in claims], [p for _, p in claims]),
        "judged_claims": len(claims), "judge_failed": len(found) - len(answered),
    }  # fmt: skip


def _by_length(
    lengths: Sequence[int], marks: Sequence[bool | None], clusters: Sequence[Hashable]
) -> list[Estimate | None]:
    """The hallucination rate of the shortest third of the answers, of the middle and of the longest one."""
    order = sorted((i for i, m in enumerate(marks) if m is not None), key=lambda i: lengths[i])
    thirds = [order[len(order) * n // 3 : len(order) * (n + 1) // 3] for n in range(3)]
    return [_share([float(marks[i] is True) for i in third], [clusters[i] for i in third]) for third in thirds]


def _onset(entropies: Entropies | None, answers: Sequence[tuple[Prompt, Rollout]]) -> tuple[float | None, int]:
    found = [e for told in entropies(answers) for e in onset_entropies(*told)] if entropies else []
    return (float(np.mean(found)) if found else None), len(found)


def _with(prompt: Prompt, picture: str) -> Prompt:
    """The prompt with every picture replaced by one; what was known of its picture no longer holds."""
    messages = tuple(replace(m, images=(picture,) * len(m.images)) for m in prompt.messages)
    return replace(prompt, messages=messages, answer="", facts=(), absent=())


def _clusters(prompts: Sequence[Prompt]) -> list[tuple[str, ...]]:
    return [p.images or (p.id,) for p in prompts]


def _share(marks: Sequence[float], clusters: Sequence[Hashable]) -> Estimate | None:
    return mean([float(m) for m in marks], clusters) if marks else None


def _same(
    prompts: Sequence[Prompt], answers: Sequence[str | None], groups: Sequence[Hashable] | None, at: Sequence[int],
    others: Sequence[str | None],
) -> tuple[Estimate | None, float | None]:  # fmt: skip
    """Agreement of the answers to the prompts at these places with `others`, and chance."""
    clear = [(i, b) for i, b in zip(at, others, strict=True) if answers[i] is not None]
    rate = _share([answers[i] == b for i, b in clear], [prompts[i].images for i, _ in clear])
    among = [groups[i] for i in at] if groups is not None else None
    return rate, agreement([answers[i] for i in at], others, among).chance
