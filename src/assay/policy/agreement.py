"""Does an answer stay without its picture, and how sure is a policy where it begins to reason?"""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often an answer stays when the picture is taken away or exchanged.

    Of `n` clear answers to the right picture `same` came again; `silent` became unclear, which is a change. `chance` is the
    share expected of two raters with these marginals who know nothing of each other (Cohen 1960). `unclear` answers to the
    right picture are left out.
    """

    n: int
    same: int
    silent: int
    unclear: int
    chance: float | None

    @property
    def rate(self) -> float | None:
        """same / n, None where n is 0."""
        return self.same / self.n if self.n else None

    @property
    def excess(self) -> float | None:
        """Agreement beyond chance, in [-1, 1]. A policy that always says the same has a rate of 1 and an excess of 0."""
        return None if self.rate is None or self.chance is None else self.rate - self.chance


def agreement(
    answers: Sequence[str | None], others: Sequence[str | None], groups: Sequence[Hashable] | None = None
) -> Agreement:
    """Compare normalised final answers (None: unclear) to the right picture with those to a blank or swapped one.

    With `groups`, one per answer, chance is taken within each: a blind policy too tells "what colour?" from "is it red?".
    Raises ValueError when the lists differ in length.
    """
    held: dict[Hashable, list[tuple[str, str | None]]] = {}
    for answer, other, group in zip(answers, others, groups or [None] * len(answers), strict=True):
        if answer is not None:
            held.setdefault(group, []).append((answer, other))
    pairs = [p for members in held.values() for p in members]
    by_chance = 0.0
    for members in held.values():
        given, again = Counter(a for a, _ in members), Counter(b for _, b in members)
        by_chance += sum(k * again[answer] for answer, k in given.items()) / len(members)
    return Agreement(
        n=len(pairs), same=sum(a == b for a, b in pairs), silent=sum(b is None for _, b in pairs),
        unclear=len(answers) - len(pairs), chance=by_chance / len(pairs) if pairs else None,
    )  # fmt: skip


_ONSET = re.compile(r"\b(?:Wait|Alternatively|Hmm+|But)\b|<think>")


def onset_entropies(tokens: Sequence[str], entropies: Sequence[float]) -> list[float]:
    """The entropy, in nats, of the token after each onset of reasoning: "Wait", "Alternatively", "Hmm", "But", "<think>".

    `entropies[t]` belongs to the distribution that token t was drawn from. White space and punctuation after an onset are
    passed over. R1V3 (section 5.1) takes the onset tokens' entropy to choose a checkpoint; which token exactly is not said.
    Raises ValueError when the lists differ in length.
    """
    if len(tokens) != len(entropies):
        raise ValueError(f"{len(tokens)} tokens with {len(entropies)} entropies")
    plain = [t.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n") for t in tokens]
    starts = np.concatenate([[0], np.cumsum([len(t) for t in plain], dtype=np.int64)])
    found = []
    for onset in _ONSET.finditer("".join(plain)):
        first = int(np.searchsorted(starts[:-1], onset.end()))
        at = next((i for i in range(first, len(plain)) if re.search(r"\w", plain[i])), None)
        if at is not None:
            found.append(float(entropies[at]))
    return found
