"""A generative judge on the benchmarks: it reads two answers and names the better one, in both orders.

Of the two verdicts on a pair each counts +1, -1 or 0 (a tie); the right answer wins when their sum is above 0, so that one
verdict and a tie suffice, and a judge that always says "A" wins nothing (JudgeBench's rule, arXiv 2410.12784). He may be
asked several times: the sum then is that of the draws whose two verdicts can both be read, which must be most of them.
Another pair is a failure: it is in no number, and coverage says how many there are. Where a published protocol scores
failures, that number is given under its own name. So are verdicts that are cut off, quoted, or contradicted.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from assay.bench.benchmark import Item
from assay.bench.results import Cell, cell
from assay.errors import AssayError
from assay.llm.chat import Chat, Request
from assay.llm.outage import ask_all
from assay.llm.parsing import after_thoughts
from assay.llm.replies import Reply
from assay.records import Conversation, user
from assay.templates import plain_turn

PROMPT = (Path(__file__).parent / "prompts" / "pairwise.md").read_text(encoding="utf-8")
_MARK = re.compile(
    r"\[\[\s*([ABC])(?:\s*(>|<|=)+\s*([AB]))?\s*\]\]|\\boxed\{\s*([ABC])\s*\}|(?<![\w*])\*\*\s*([ABC])\s*\*\*(?![\w*])|"
    r"(?<![\w\[])\[\s*([ABC])\s*\](?![\w(\]])", re.IGNORECASE,
)  # fmt: skip
_LEAD = re.compile(
    r"(?:^|[.!?:;。：\n]|\b(?:verdict|answer|winner|decision|judge?ment|conclusion|choice|is|choose|pick|prefer|select|for|with|"
    r"better|best|stronger|(?:so|thus|hence|therefore),?)\b,?)[\s*_\-–—>#$]*$", re.IGNORECASE,
)  # fmt: skip
"""What stands before a judge's own verdict: the end of a sentence, or a word that gives one."""
_CLAUSE = re.compile(r"[.!?;。\n]\s*|\b(?:so|but|and|while|whereas|thus|hence|therefore|because)\b", re.IGNORECASE)
_REPORT = re.compile(
    r"\b(?:claim|say|said|write|wrote|written|state|tell|told|ask|instruct|want|demand|end|quote|assert|insist|suggest|print|"
    r"output|read|finish)(?:s|es|ed|ing)?\b", re.IGNORECASE,
)  # fmt: skip
"""Words of a clause that reports a verdict instead of giving it."""

Duel = tuple[Conversation, Conversation]
"""(right, wrong)."""
Draw = tuple[int | None, int | None]
"""+1 where the right answer won, -1 where it lost, 0 for a tie, None for no verdict: shown first, and shown last."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The sum of the verdicts on each pair (right, wrong), in -2..2 for each draw that counts, and every draw. Pairs without
    enough of them are in `failed`."""

    sums: Mapping[Duel, int]
    draws: Mapping[Duel, tuple[Draw, ...]] = field(default_factory=dict)
    failed: frozenset[Duel] = frozenset()

    def beats(self, right: Conversation, wrong: Conversation) -> bool:
        return self.sums[right, wrong] > 0

    def with_failures(self, right: bool) -> "Verdicts":
        """The same with every failure as a win of the right answer, or of the wrong one."""
        return Verdicts({**self.sums, **dict.fromkeys(self.failed, 2 if right else -2)})


class PairJudge:
    """A chat model as a judge of pairs, asked `draws` times in each order. `problems` counts why verdicts are missing.

    Raises AssayError for an even number of draws, which may have no majority.
    """

    def __init__(self, chat: Chat, draws: int = 1) -> None:
        if draws < 1 or draws % 2 == 0:
            raise AssayError(f"a judge is asked 1, 3, 5, ... times in each order, for a majority; not {draws}")
        self.chat, self.draws, self.problems = chat, draws, Counter[str]()

    def verdicts(self, items: Sequence[Item]) -> Verdicts:
        """The verdicts on every pair of the items, each asked once. Raises Unreached where the server did not answer."""
        duels = list(dict.fromkeys(d for item in items for d in item.duels))
        requests = [
            request(a, b, draw)
            for right, wrong in duels for draw in range(self.draws) for a, b in ((right, wrong), (wrong, right))
        ]  # fmt: skip
        read = [self._read(reply) for reply in ask_all(self.chat, requests)]
        pairs: list[Draw] = [
            (first, None if last is None else -last) for first, last in zip(read[::2], read[1::2], strict=True)
        ]
        draws = {d: tuple(pairs[n * self.draws : (n + 1) * self.draws]) for n, d in enumerate(duels)}
        sums = {}
        for duel, told in draws.items():
            whole = [first + last for first, last in told if first is not None and last is not None]
            if 2 * len(whole) > self.draws:
                sums[duel] = sum(whole)
        return Verdicts(sums, draws, frozenset(d for d in duels if d not in sums))

    def _read(self, reply: Reply) -> int | None:
        verdict = None if reply.problem else read_verdict(reply.text)
        if verdict is None:
            self.problems[reply.problem or "no verdict"] += 1
        return verdict

    def by_position(self, items: Sequence[Item], verdicts: Verdicts) -> tuple[Cell, ...]:
        return by_position(items, verdicts)


def request(first: Conversation, second: Conversation, draw: int = 0) -> Request:
    """The question which of two answers to one prompt is better, with the tools, calls, thoughts and pictures of both."""
    shortest = min(len(first), len(second)) - 1
    shared = next((i for i in range(shortest) if first[i] != second[i]), shortest)
    tools = [f"tools: {m.tools}" for m in first[:shared] if m.tools]
    fields = {
        "conversation": "\n\n".join([*tools, *_turns(first[:shared])]),
        "answer_a": _answer(first[shared:]), "answer_b": _answer(second[shared:]),
    }  # fmt: skip
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: fields[found[1]], PROMPT)
    shown = tuple(dict.fromkeys(i for m in (*first, *second[shared:]) for i in m.images))
    return Request(messages=(replace(user(text), images=shown),), sample=draw)


def _turns(messages: Conversation) -> list[str]:
    return [f"{m.role}: {plain_turn(m)}" for m in messages]


def _answer(messages: Conversation) -> str:
    return plain_turn(messages[0]) if len(messages) == 1 else "\n\n".join(_turns(messages))


def read_verdict(text: str) -> int | None:
    """+1 for A, -1 for B, 0 for a tie, by the mark that ends the answer, or by one that stands alone in its line if no mark
    differs from it; None without one, and where the mark is quoted, reported, or inside a thought that does not end."""
    said = after_thoughts(text)
    marks = [] if said is None else list(_MARK.finditer(said))
    if said is None or not marks:
        return None
    last = marks[-1]
    if not re.search(r"\w", said[last.end() :]):
        return _side(last) if _gives(said, last) else None
    if len({_side(m) for m in marks}) > 1:
        return None
    alone = [m for m in marks if not re.search(r"\w", said[m.end() :].partition("\n")[0]) and _gives(said, m)]
    return _side(alone[0]) if alone else None


def _gives(said: str, mark: re.Match[str]) -> bool:
    """Whether a mark is the judge's own word: after a sentence or a word that gives a verdict, and in no quotation marks."""
    before = said[: mark.start()]
    clause = _CLAUSE.split(before)[-1]
    return bool(_LEAD.search(before)) and not _REPORT.search(clause)


def _side(mark: re.Match[str]) -> int:
    one, sign, other = mark[1] or mark[4] or mark[5] or mark[6], mark[2], mark[3]
    if sign and other and (sign == "=" or one.upper() == other.upper()):
        return 0
    better = other if sign == "<" else one
    return {"A": 1, "B": -1, "C": 0}[better.upper()]


def by_position(items: Sequence[Item], verdicts: Verdicts) -> tuple[Cell, ...]:
    """How often the answer shown first wins, of verdicts that are no ties, and how often both orders agree: 50 and 100 where
    position has no say."""
    first: list[tuple[float, Conversation]] = []
    agree: list[tuple[float, Conversation]] = []
    for item in items:
        for duel in item.duels:
            for front, back in verdicts.draws.get(duel, ()):
                if front is not None and back is not None:
                    first += [(float(x > 0), item.prompt) for x in (front, -back) if x]
                    agree.append((float(front == back), item.prompt))
    told = {"first shown wins": first, "both orders agree": agree}
    return tuple(cell(n, [v for v, _ in rows], [p for _, p in rows]) for n, rows in told.items() if rows)
