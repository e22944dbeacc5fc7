"""Questions to measure a policy by: the same for a recipe and for one's own model."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.bench.policy.answers import correct, final_answer, normalised, same
from assay.images import ImageStore, blank
from assay.policy import hallucination
from assay.policy.config import Form
from assay.policy.judge_claims import ClaimsJudge
from assay.policy.reading import Reading
from assay.rollouts import Prompt, Rollout

if TYPE_CHECKING:
    from assay.policy.sampler import LocalSampler

COMMON = 10
"""Questions of one wording from which chance agreement is told within it; rarer wordings are taken together."""
NAMED = 5
"""Questions of an overlap that are named."""
DRAWS = 8
"""Questions that are looked at for a picture to swap with, before all of the wording are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """Questions to measure a policy by. `swapped` names for each a picture for which the answer differs (none: pictures are
    not swapped; "": none is known for this one); `wordings` groups them for chance agreement (none: one group)."""

    prompts: tuple[Prompt, ...]
    swapped: tuple[str, ...] = ()
    wordings: tuple[str, ...] = ()

    def first(self, n: int) -> "Exam":
        return Exam(prompts=self.prompts[:n], swapped=self.swapped[:n], wordings=self.wordings[:n])


def exam_of(prompts: Sequence[Prompt], seed: int = 0) -> Exam:
    """Any questions as an exam: a picture is swapped with that of the same question whose right answer is another."""
    random = np.random.default_rng(seed)
    counts = Counter(map(_wording, prompts))
    shown: dict[str, list[tuple[str, Prompt]]] = {}
    for prompt in prompts:
        if prompt.answer and len(prompt.images) == 1:
            shown.setdefault(_wording(prompt), []).append((normalised(prompt.answer, prompt.kind), prompt))
    swapped = tuple(_swap(p, shown.get(_wording(p), []), random) for p in prompts)
    wordings = tuple(w if counts[w] >= COMMON else "" for w in map(_wording, prompts))
    return Exam(prompts=tuple(prompts), swapped=swapped, wordings=wordings)


def _swap(prompt: Prompt, shown: Sequence[tuple[str, Prompt]], random: np.random.Generator) -> str:
    """The picture of a random one of these questions (each with its normalised answer) whose answer is another; "" for none.

    Only the drawn one's answer is compared in full, for formulas may differ in form alone.
    """
    if not prompt.answer or len(prompt.images) != 1:
        return ""
    own = normalised(prompt.answer, prompt.kind)
    drawn = [shown[int(i)] for i in random.integers(len(shown), size=DRAWS)]
    others = [x for x in drawn if x[0] != own] or list({k: (k, p) for k, p in shown if k != own}.values())
    return next((p.images[0] for _, p in others[:DRAWS] if not same(p.answer, prompt.answer, prompt.kind)), "")


def _wording(prompt: Prompt) -> str:
    return "\n".join(m.content for m in prompt.messages)


def _question(prompt: Prompt) -> str:
    """What is asked, whatever the system prompt, case and white space."""
    return "\n".join(" ".join(m.content.casefold().split()) for m in prompt.messages if m.role != "system")


def right(prompt: Prompt, text: str) -> bool:
    """Does this whole text give the right answer? What the reward asks."""
    return correct(text, prompt.answer, prompt.kind)


def _final(prompt: Prompt, text: str) -> str | None:
    answer = final_answer(text)
    return None if answer is None else normalised(answer, prompt.kind)


def examine(
    exam: Exam, sampler: Any, store: ImageStore | None, step: int = 0, form: Form = "think-answer",
    lead: Callable[[Callable[[], str]], str] | None = None, judge: ClaimsJudge | None = None,
    heard: Callable[[Sequence[tuple[Prompt, Rollout]]], None] | None = None,
) -> Reading:  # fmt: skip
    """Greedy answers to the exam's questions, with their own, a blank and a swapped picture. `sampler` must be greedy;
    `form` says how well-formed answers look. Where several processes examine together, `lead` lets one of them do something
    for all (`Engine.lead_says`). `judge` and `heard`: see `hallucination.read`."""
    from assay.render import begun

    sampler.load(step)
    pictures = next((p.images for p in exam.prompts if p.images), ())

    def grey() -> str:
        return store.add(blank(*store.open(pictures[0]).size)) if store is not None and pictures else ""

    empty = lead(grey) if lead is not None else grey()
    return hallucination.read(
        exam.prompts, sampler, step, _final, right, blank=empty, swapped=exam.swapped,
        groups=exam.wordings or None, entropies=_entropies(sampler) if hasattr(sampler, "entropies") else None, form=form,
        begun=begun(sampler.policy.processor, exam.prompts[0].messages) if exam.prompts else "",
        judge=judge, heard=heard,
    )  # fmt: skip


def overlap(sets: Mapping[str, Sequence[Prompt]]) -> list[str]:
    """What sets of questions have in common, in words, a line for each two that share any: questions by their text, whatever
    their pictures and answers, and pictures. Questions that are the same with their pictures are named, a few of them."""
    told, names = list[str](), [n for n, prompts in sets.items() if prompts]
    for a, b in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
        same = {(_question(p), p.images) for p in sets[a]}
        texts, pictures = {_question(p) for p in sets[a]}, {i for p in sets[a] for i in p.images}
        shared = [p for p in sets[b] if (_question(p), p.images) in same]
        by_text, by_picture = (
            sum(_question(p) in texts for p in sets[b]),
            sum(any(i in pictures for i in p.images) for p in sets[b]),
        )
        if by_text or by_picture:
            told.append(
                f"of {len(sets[b]):,} questions that are {b}, {len(shared):,} are {a} as well; {by_text:,} have a text and "
                f"{by_picture:,} a picture of these"
            )
        first = [" ".join(p.messages[-1].content.split())[:60] for p in shared[:NAMED]]
        told += [f"  both {a} and {b}: {text!r}" for text in dict.fromkeys(first)]
        told += [f"  ... and {len(shared) - NAMED:,} more"] if len(shared) > NAMED else []
    return told


def asked(exam: Exam) -> str:
    """What these questions allow to be measured, in words."""
    counts = Counter[str]()
    for prompt, other in zip(exam.prompts, exam.swapped or [""] * len(exam.prompts), strict=True):
        marks = {
            "a known answer": prompt.answer, "a picture": prompt.images, "a picture to swap with": other,
            "facts or absent": prompt.facts or prompt.absent,
        }  # fmt: skip
        counts.update({name: int(bool(mark)) for name, mark in marks.items()})
    return ", ".join(f"{n:,} with {name}" for name, n in counts.items())


def _entropies(sampler: "LocalSampler") -> hallucination.Entropies:
    """Token entropies of greedy answers, which the sampler knows: no other pass over them is needed."""

    def entropies(answers: Sequence[tuple[Prompt, Rollout]]) -> list[tuple[Sequence[str], Sequence[float]]]:
        names = sampler.policy.tokenizer.convert_ids_to_tokens  # None for ids that pad a vocabulary, which can be drawn
        return [
            ([sampler.answer_start, *(t or "" for t in names(list(r.tokens)))], [0.0, *sampler.entropies[p.id]])
            for p, r in answers
        ]  # fmt: skip

    return entropies
