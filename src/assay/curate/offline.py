"""Judges that need no server: named for what they are, so that no report can mistake them for an LLM.

`gold_ridge_judge` stands in for the preference-aware LLM judge of paper A3, section 3.3: it too decides by human-verified
look-alikes, and knows nothing else. It has no feature that was written for any demand and does not read what a prompt asks
for: it sees embeddings, which examples are like the pair, and what people chose there (decision 14). `longer_judge` has no
gold at all. Judges that do know the demands of the embedded pool are in `checkers`, and stand beside these in the claims
alone.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from assay.curate.attributes import response_text, retrieval_text
from assay.records import Case, Embedder, Judge, Judgement, Pair, Response

NEIGHBOURS = 64
"""Gold examples that the ridge learns from: they are cheap here, and an LLM's prompt has room for eight."""
SHARPNESS = 5.0
"""Two pairs count for each other as exp(SHARPNESS * (cosine - 1)) of what they would if they asked the same."""
RIDGE = 1.0
"""Added to the kernel's diagonal, whose mean is 1 before: people err, and no example is to be followed to the letter."""

Vectors = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldRidge:
    """See `gold_ridge_judge`. `examples`: how many it wants to be shown."""

    embed: Embedder
    examples: int = NEIGHBOURS
    name: str = "offline:gold-ridge"

    def __call__(self, cases: Sequence[Case]) -> list[Judgement]:
        known = embed_once(self.embed, (t for c in cases if c.guides for t in self._texts(c)))
        return [self._of(c, known) if c.guides else problem(c.pair, self.name, "no gold examples") for c in cases]

    def _shown(self, case: Case) -> list[Pair]:
        return [case.pair, *(e.pair for e in case.guides[: self.examples])]

    def _texts(self, case: Case) -> list[str]:
        pairs = self._shown(case)
        return [retrieval_text(p) for p in pairs] + [_answered(p, r) for p in pairs for r in p.responses]

    def _of(self, case: Case, known: dict[str, NDArray[np.float32]]) -> Judgement:
        """One pair: a row for it, and then one for each of its examples."""
        pairs, guides = self._shown(case), case.guides[: self.examples]
        asked_ND = np.array([known[retrieval_text(p)] for p in pairs], np.float64)
        answers_N2D = np.array([[known[_answered(p, r)] for r in p.responses] for p in pairs], np.float64)
        better_E = np.array([1.0 if e.better == e.pair.responses[0].id else -1.0 for e in guides])
        f = ridge(asked_ND, answers_N2D[:, 0] - answers_N2D[:, 1], better_E)
        why = f"the answers to {len(guides)} look-alikes that people judged"
        return judgement(case.pair, f, min(1.0, (1 + abs(f)) / 2), self.name, 1, why)


def gold_ridge_judge(embed: Embedder, *, examples: int = NEIGHBOURS) -> GoldRidge:
    """A judge that learns, for each pair anew, from the nearest gold examples and from nothing else.

    A pair is the difference of the embeddings of its two answers, each read after the question. A ridge regression on the
    examples' differences says in which direction people's choices lie; an example counts the more the more its conversation
    is like the target's (`ridge`). The value estimates P(first is better) - P(second is better), so the confidence is
    (1 + |value|) / 2. A case without examples of other questions, or whose answers have the same embedding, is a problem,
    not a guess. A verdict depends on its case alone.

    Args:
        embed: Any embedder. On the embedded pool the words' vectors alone (no layer of MiniLM) do better than all six.
        examples: How many the judge asks for (`records.shown_to`).
    """
    return GoldRidge(embed=embed, examples=examples)


def ridge(asked_ND: Vectors, differences_ND: Vectors, better_E: Vectors) -> float:
    """The value of row 0 by kernel ridge regression on the N - 1 other rows, whose values are `better_E` (1 or -1).

    The kernel of two pairs is the inner product of their differences, scaled to a mean of 1 over the examples with
    themselves, times exp(SHARPNESS (cosine of what is asked - 1)): a linear rule of answers that may change from one kind
    of question to the next. Exchange the answers of row 0, and its value changes sign; of an example, and nothing changes.
    """
    inner = differences_ND @ differences_ND[1:].T
    scale = float(np.mean(np.diag(inner[1:])))
    if scale <= 1e-12:
        return 0.0
    kernel = inner / scale * np.exp(SHARPNESS * (asked_ND @ asked_ND[1:].T - 1.0))
    weights = np.linalg.solve(kernel[1:] + RIDGE * np.eye(len(better_E)), better_E)
    return float(kernel[0] @ weights)


def longer_judge() -> Judge:
    """A judge without any gold: prefers the longer answer, as unguided judges are known to. Equal lengths are a tie.

    Nothing better without gold was found for the embedded pool: closeness of an answer to the prompt is right in 38 to 47 %
    of its pairs, in any layer of MiniLM (decision 14).
    """

    def judge(cases: Sequence[Case]) -> list[Judgement]:
        lengths = [[len(response_text(r)) for r in c.pair.responses] for c in cases]
        longer = zip(cases, lengths, strict=True)
        return [
            judgement(c.pair, one - other, 0.5, "offline:longer", 1, "the longer answer") for c, (one, other) in longer
        ]

    return judge


def _answered(pair: Pair, response: Response) -> str:
    return f"{retrieval_text(pair)}\n{response_text(response)}"


def hash_embedder(dim: int = 256) -> Embedder:
    """Unit vectors of hashed character trigrams and words: no model, no torch; for tests and as a last resort."""

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), dim), dtype=np.float32)
        for row, text in enumerate(texts):
            padded = f"  {' '.join(text.lower().split())}  "
            grams = Counter(padded[i : i + 3] for i in range(len(padded) - 2)) + Counter(padded.split())
            for gram, count in grams.items():
                code = crc32(gram.encode("utf-8", "surrogatepass"))
                vectors[row, code % dim] += math.copysign(math.sqrt(count), (code >> 31) - 0.5)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(lengths, 1e-9), dtype=np.float32)

    return embed


def embed_once(embed: Embedder, texts: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """The vectors of the distinct texts."""
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, embed(distinct), strict=True)) if distinct else {}


def judgement(pair: Pair, margin: float, share: float, by: str, votes: int, why: str) -> Judgement:
    """For the first response when `margin` is positive, for the second when negative; no margin is a tie."""
    if margin == 0.0:
        return problem(pair, by, "tie", votes)
    better = pair.responses[0 if margin > 0 else 1].id
    return Judgement(
        pair_id=pair.id, better=better, by=by, kind="offline", confidence=share, votes=votes, rationale=why
    )


def problem(pair: Pair, by: str, why: str, votes: int = 0) -> Judgement:
    return Judgement(pair_id=pair.id, better=None, by=by, kind="offline", problem=why, votes=votes, confidence=0.5)
