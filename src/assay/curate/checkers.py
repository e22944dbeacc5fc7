"""Two judges that know the ten demands of the embedded pool: rows of the claims to compare with, and nothing more.

`checker_vote_judge` decides by eight gold examples, but sees answers through features of which nine are exact checkers of
those demands (`pipeline.constraints`), several by the same expression: what the examples supply is which checker, with which
sign. `ten_rules_judge` is the same knowledge without any gold: one checker for each demand, read off the prompt, its sign
set by hand. What gold examples do for a judge is not shown by either; it was once claimed here (decision 14).
"""

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from assay.curate.annotate import MAX_EXAMPLES
from assay.curate.attributes import retrieval_text
from assay.curate.offline import embed_once, judgement, problem
from assay.curate.rules import last_user_text
from assay.records import Case, Embedder, Judge, Judgement, Pair

SHRINKAGE = 0.5
"""Variance (in units of the examples' own) that every feature is credited with: how far eight examples are mistrusted."""
SHARPNESS = 5.0
"""An example's weight is exp(SHARPNESS * cosine): one that is 0.2 less similar counts about a third."""
CLIP = 3.0
"""Standardised differences are cut here: one extreme answer must not outvote seven."""
CHECKER_VOTE = "offline:checker-vote"
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_QUOTED = re.compile(r"[\"“«`]([^\"”»`\n]{1,60})[\"”»`]|(?<!\w)['‘]([^'’\n]{1,60})['’](?!\w)")

Vectors = NDArray[np.float64]


def surface_features(prompt: str, answer: str) -> dict[str, float]:
    """What can be seen of an answer without understanding it; lengths are logarithms, shares are in [0, 1]."""
    words, asked = _WORD.findall(answer.lower()), set(_WORD.findall(prompt.lower()))
    quoted = [_WORD.findall((a or b).lower()) for a, b in _QUOTED.findall(prompt)]
    text, n = answer.strip(), max(1, len(words))
    sentences = [s for s in re.split(r"[.!?]+\s", text) if s]
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    spaced = f" {' '.join(words)} "
    return {
        "characters": math.log1p(len(text)),
        "words": math.log1p(len(words)),
        "lines": math.log1p(text.count("\n")),
        "words per sentence": math.log1p(n / max(1, len(sentences))),
        "bulleted lines": math.log1p(len(re.findall(r"^\s*[-*•+] \S", text, re.MULTILINE))),
        "numbered lines": math.log1p(len(re.findall(r"^\s*\d+[.)] \S", text, re.MULTILINE))),
        "headings and bold": math.log1p(len(re.findall(r"^#+ |\*\*", text, re.MULTILINE))),
        "code fences": float("```" in text),
        "ends with a question": float(text.endswith("?")),
        "ends with an exclamation": float(text.endswith("!")),
        "ends as a sentence": float(text.endswith((".", "!", "?", '."', '!"', '?"'))),
        "question marks": math.log1p(text.count("?")),
        "exclamation marks": math.log1p(text.count("!")),
        "has digits": float(any(c.isdigit() for c in text)),
        "digits": math.log1p(sum(c.isdigit() for c in text)),
        "quotation marks": math.log1p(len(re.findall(r"[\"“”]", text))),
        "commas": math.log1p(text.count(",")) - math.log1p(len(words)),
        "capital letters": sum(c.isupper() for c in text) / max(1, len(text)),
        "foreign letters": sum(ord(c) > 0x24F for c in text) / max(1, len(text)),
        "distinct words": len(set(words)) / n,
        "repeated phrases": 1 - len(set(trigrams)) / max(1, len(trigrams)),
        "word length": sum(map(len, words)) / n / 10,
        "prompt's words used": len(asked & set(words)) / max(1, len(asked)),
        "words from the prompt": sum(w in asked for w in words) / n,
        "quoted words used": sum(f" {' '.join(q)} " in spaced for q in quoted) / max(1, len(quoted)),
        "begins with a quoted word": float(any(q and words[: len(q)] == q for q in quoted)),
        "speaks of itself": sum(w in ("i", "i'm", "my", "me") for w in words) / n,
    }


FEATURES = tuple(surface_features("", ""))


RULES = (
    (r"use at most \d+ words", "words", -1),
    (r"use at least \d+ words", "words", 1),
    (r"(?<!not )use the word \"", "quoted words used", 1),
    (r"do not use the word \"", "quoted words used", -1),
    (r"with a bulleted list", "bulleted lines", 1),
    (r"with a numbered list", "numbered lines", 1),
    (r"end your answer with a question", "ends with a question", 1),
    (r"begin your answer with the word", "begins with a quoted word", 1),
    (r"at least one number, written in digits", "has digits", 1),
    (r"do not use any digits", "has digits", -1),
)
"""The ten demands as they stand in a prompt, the feature that checks each, and the sign with which it is better."""


def ten_rules_judge() -> Judge:
    """One checker for each demand of the embedded pool, its sign set by hand; a prompt with none of them, or two answers
    that the checker finds equal, is a problem. It uses no gold."""

    def judge(cases: Sequence[Case]) -> list[Judgement]:
        return [_by_rule(c.pair) for c in cases]

    return judge


def _by_rule(pair: Pair) -> Judgement:
    name, prompt = "offline:ten-rules", last_user_text(pair.prompt)
    found = next(((f, sign) for text, f, sign in RULES if re.search(text, prompt, re.IGNORECASE)), None)
    if found is None:
        return problem(pair, name, "none of the ten demands")
    feature, sign = found
    return judgement(pair, sign * float(_difference(pair)[FEATURES.index(feature)]), 1.0, name, 1, feature)


def checker_vote_judge(embed: Embedder) -> Judge:
    """A judge that votes by each case's gold examples (nearest first, at most eight) and by nothing else.

    An example's vote weighs more the more similar its (x, a) text is to the target's. The confidence is the winner's
    share of the weighted votes. A case without examples, or whose responses differ in no feature that the examples
    speak of, is a problem, not a guess. A verdict depends on its case alone: features are measured in units of the
    examples' own differences, whatever else is judged with it. A call embeds each distinct (x, a) text once; responses are
    not embedded (their embedding differences were measured as a further feature and did not help).
    """

    def judge(cases: Sequence[Case]) -> list[Judgement]:
        differences = {p.id: _difference(p) for p in _pairs(cases)}
        vectors = embed_once(embed, (t for c in cases if c.guides for t in _texts(c)))
        return [
            _vote(case, differences, [vectors[t] for t in _texts(case)])
            if case.guides
            else problem(case.pair, CHECKER_VOTE, "no gold examples")
            for case in cases
        ]

    return judge


def _difference(pair: Pair) -> Vectors:
    """(features,) of the first response minus the second."""
    prompt = last_user_text(pair.prompt)
    first, second = (np.array(list(surface_features(prompt, r.text).values())) for r in pair.responses)
    return np.asarray(first - second)


def _pairs(cases: Sequence[Case]) -> list[Pair]:
    """Every distinct pair of the batch, examples included."""
    return list({p.id: p for c in cases for p in (c.pair, *(e.pair for e in c.guides))}.values())


def _vote(case: Case, differences: dict[str, Vectors], texts: list[NDArray[np.float32]]) -> Judgement:
    """The weighted vote of at most eight examples; `texts` are the vectors of the target and of its examples."""
    examples = case.guides[:MAX_EXAMPLES]
    signs = np.array([1.0 if e.better == e.pair.responses[0].id else -1.0 for e in examples])
    raw_EF = np.stack([differences[e.pair.id] for e in examples])
    scale_F = np.maximum(np.sqrt(np.mean(raw_EF**2, axis=0)), 1e-3)  # symmetric: which response is first means nothing
    wins_EF = np.clip(raw_EF / scale_F, -CLIP, CLIP) * signs[:, None]
    weight_E = np.exp(SHARPNESS * (np.stack(texts[1:]) @ texts[0]).astype(np.float64))
    weight_E /= weight_E.sum()
    mean_F = weight_E @ wins_EF
    agreement_F = (weight_E @ np.sign(wins_EF)) ** 2
    trust_F = agreement_F / (weight_E @ (wins_EF - mean_F) ** 2 + SHRINKAGE)
    target_F = np.clip(differences[case.pair.id] / scale_F, -CLIP, CLIP)
    vote_E = weight_E * ((wins_EF * trust_F) @ target_F)
    total = float(np.abs(vote_E).sum())
    share = 0.5 + 0.5 * abs(float(vote_E.sum())) / total if total > 0 else 0.5
    reasons = mean_F * trust_F * target_F
    return judgement(case.pair, float(vote_E.sum()), share, CHECKER_VOTE, len(examples), _why(reasons, mean_F))


def _why(reasons_F: Vectors, mean_F: Vectors) -> str:
    """The three features that spoke loudest for the winner, with what the examples' better responses have of them."""
    order = np.argsort(-np.abs(reasons_F))[:3]
    return "examples prefer " + ", ".join(f"{'more' if mean_F[i] > 0 else 'less'} {FEATURES[i]}" for i in order)


def _texts(case: Case) -> list[str]:
    """The (x, a) texts of the target and of its examples."""
    own = [retrieval_text(case.pair, case.attributes)]
    return own + [retrieval_text(e.pair, e.attributes) for e in case.guides[:MAX_EXAMPLES]]
