"""What a text asserts about a picture, by words: claims of a closed vocabulary, and "I can't see the image".

Definitions are ours; the paper reports a hallucination rate (B3 Table 3) without saying what is counted or how it is found.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from assay.records import Prompt


def vocabulary(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The words that claims are looked for: all facts and absent things of these prompts, sorted."""
    return tuple(sorted({w for p in prompts for w in (*p.facts, *p.absent)}))


def reasoning(text: str) -> str:
    """The part of an answer that reasons: what stands before </think> or <answer>, or all of it without such a template."""
    return re.split(r"</think>|<answer>", text, maxsplit=1)[0]


_QUOTE = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|`[^`\n]*`|(?<!\w)'[^'\n]*'(?!\w)")
_ASKS = re.compile(r"\b(?:whether|if|question (?:is|was|says|mentions|wants)|ask(?:s|ed|ing)?)\b", re.I)
_NOT = re.compile(r"\b(?:not(?! only)|no|never|neither|nor|without|cannot|lacks?|absent|missing)\b|n't\b", re.I)
_TURN = re.compile(r"[:()]|\b(?:but|instead|rather|however|although|though|because|so)\b", re.I)
_AFTER = re.compile(
    r"(?:\s+\w+){0,2}?\s+(?:(?:is|are|was|were|does|do|can)(?:n't|not| not)\s+(?:be\s+)?"
    r"(?:there|present|visible|shown|seen|in|appear|exist)|(?:is|are)\s+(?:absent|missing))\b",
    re.I,
)


def claims_in(text: str, words: Sequence[str], question: str = "") -> tuple[str, ...]:
    """The distinct words of a closed vocabulary that a text asserts, in order; "circles" is "circle".

    No claims are: what is negated ("no red", "not a circle", "a circle is not there"), whole questions, what follows "if",
    "whether" or "the question asks", and what is quoted from `question`: in quotation marks, or four of its words in a row.
    A rule of thumb for English, not a parser: it would rather miss a claim than invent one.
    """
    if not words:
        return ()
    text = text.replace("’", "'")
    longest = sorted(map(re.escape, words), key=len, reverse=True)
    pattern = re.compile(rf"\b({'|'.join(longest)})(?:e?s)?\b", re.I)
    following = re.compile(rf"\s*(?:(?:and|or|nor)\s+)?(?:an?\s+)?{pattern.pattern}", re.I)
    lower = {w.lower(): w for w in words}
    quoted = _quoted(text, question)
    found: dict[str, None] = {}
    for sentence in re.finditer(r"[^.!?;\n]+[.!?;\n]?", text):
        if sentence[0].endswith("?"):
            continue
        asks = _ASKS.search(sentence[0])
        end = asks.start() if asks else len(sentence[0])
        for match in pattern.finditer(sentence[0], 0, end):
            at = sentence.start() + match.start()
            spared = any(a <= at < b for a, b in quoted)
            if not spared and not _negated(sentence[0], match, following):
                found[lower[match[1].lower()]] = None
    return tuple(found)


def _negated(sentence: str, match: re.Match[str], following: re.Pattern[str]) -> bool:
    """Whether a negation reaches the word: to a contrast, or to a comma after which no list of words goes on."""
    if _AFTER.match(sentence, match.end()):
        return True
    before = list(_NOT.finditer(sentence, 0, match.start()))
    if not before:
        return False
    last = before[-1]
    between = sentence[last.end() : match.start()]
    commas = (last.end() + c.end() for c in re.finditer(",", between))
    return not _TURN.search(between) and all(following.match(sentence, c) for c in commas)


def _quoted(text: str, question: str) -> list[tuple[int, int]]:
    """Where a text repeats the question: quotation marks around a part of it, or a run of four of its words."""
    asked = [w.lower() for w in re.findall(r"\w+", question)]
    spans = []
    for quote in _QUOTE.finditer(text):
        inner = re.findall(r"\w+", quote[0].lower())
        if inner and f" {' '.join(inner)} " in f" {' '.join(asked)} ":
            spans.append(quote.span())
    run = min(4, len(asked))
    runs = {tuple(asked[i : i + run]) for i in range(len(asked) - run + 1)} if run else set()
    said = list(re.finditer(r"\w+", text))
    for i in range(len(said) - run + 1 if run else 0):
        if tuple(w[0].lower() for w in said[i : i + run]) in runs:
            spans.append((said[i].start(), said[i + run - 1].end()))
    return spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What answers asserted about pictures: of `claims`, `false` ones name what is known to be absent, and `unchecked` ones
    what is known neither way; `spoke` answers claimed anything. `marks` says of each answer whether it made a false claim,
    None where nothing is known of its picture; `named` which share of its prompt's facts it asserted, None where there are
    none: an answer that says nothing invents nothing, so the one is worth little without the other."""

    claims: int
    false: int
    unchecked: int
    spoke: int
    marks: tuple[bool | None, ...]
    named: tuple[float | None, ...]

    @property
    def answers(self) -> int:
        """Answers to pictures of which something is known; the others are left out."""
        return sum(m is not None for m in self.marks)

    @property
    def rate(self) -> float | None:
        """The hallucination rate: the share of answers with at least one false claim, None where none can be checked. This
        definition is ours; the paper gives none."""
        return sum(m is True for m in self.marks) / self.answers if self.answers else None


def check_claims(prompts: Sequence[Prompt], texts: Sequence[str]) -> Claims:
    """Check the claims of the reasoning of each answer against its prompt's `facts` and `absent`.

    A word that is in both counts as a fact. Without a think template the final answer is part of the reasoning, and a wrong
    colour is a false claim. Raises ValueError when the lists differ in length.
    """
    words = vocabulary(prompts)
    claims = false = unchecked = spoke = 0
    marks: list[bool | None] = []
    named: list[float | None] = []
    for prompt, text in zip(prompts, texts, strict=True):
        if not prompt.facts and not prompt.absent:
            marks.append(None)
            named.append(None)
            continue
        said = claims_in(reasoning(text), words, prompt.messages[-1].content)
        other = [w for w in said if w not in prompt.facts]
        wrong = sum(w in prompt.absent for w in other)
        claims, false, unchecked = claims + len(said), false + wrong, unchecked + len(other) - wrong
        spoke += len(said) > 0
        marks.append(wrong > 0)
        named.append(sum(f in said for f in prompt.facts) / len(prompt.facts) if prompt.facts else None)
    return Claims(claims=claims, false=false, unchecked=unchecked, spoke=spoke, marks=tuple(marks), named=tuple(named))


_PICTURE = r"(?:images?|pictures?|photos?|figures?|diagrams?|charts?|graphs?|visuals?|attachments?)"
_WHICH = r"(?:(?:the|an?|any|this|that|your|actual|provided|attached)\s+)*"
_BLIND = re.compile(
    rf"(?:can't|can\s*not|couldn't|could not|unable to|not able to)\s+(?:actually\s+|directly\s+|really\s+)?"
    rf"(?:see|view|access|look at|perceive)\s+{_WHICH}{_PICTURE}\b"
    rf"|\bno\s+{_PICTURE}\s+(?:(?:is|was|were|has been|have been)\s+)?"
    rf"(?:provided|attached|given|included|available|shown|uploaded|supplied)"
    rf"|\b{_PICTURE}\s+(?:is|was|are|were|has|have)(?:n't|\s+not)\s+(?:been\s+)?"
    rf"(?:provided|attached|given|included|available|shown|uploaded|supplied|visible)"
    rf"|\b(?:no|don't have|do not have|without)\s+(?:any\s+|direct\s+|visual\s+)*access to\s+{_WHICH}{_PICTURE}\b"
    rf"|\bwithout\s+(?:seeing|viewing|being able to see)\s+{_WHICH}{_PICTURE}\b"
    rf"|\b(?:as|am|'m)\s+(?:only\s+)?an?\s+text[- ](?:based|only)\s+(?:AI|(?:language\s+)?model|assistant)\b",
    re.I,
)


def cannot_see(text: str) -> bool:
    """Whether an answer says that there is no picture to look at: "can't see the image", "no image provided", "as a
    text-based model" (R1V3, Table 5: 47 of 900 MMMU answers, inherited from R1V2)."""
    return _BLIND.search(" ".join(text.replace("’", "'").split())) is not None
