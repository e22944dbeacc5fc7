"""A generative judge on the benchmarks: it reads two answers and names the better one, in both orders.

Of the two verdicts on a pair each counts +1, -1 or 0 (a tie); the right answer wins when their sum is above 0, so that one
verdict and a tie suffice, and a judge that always says "A" wins nothing (JudgeBench's rule, arXiv 2410.12784). A pair
without two readable verdicts is a failure: it is in no number, and coverage says how many there are. Where a published
protocol scores failures, that number is given under its own name.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from assay.bench.benchmark import Cell, Item, cell
from assay.chat import Chat, Request
from assay.outage import ask_all
from assay.records import Conversation, user

PROMPT = (Path(__file__).parent / "prompts" / "pairwise.md").read_text(encoding="utf-8")
_VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]", re.I)

Duel = tuple[Conversation, Conversation]
"""(right, wrong)."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The sum of the two verdicts on each pair (right, wrong), in -2..2, and of each the verdict with the right answer first
    and last. Pairs without both are in `failed`."""

    sums: Mapping[Duel, int]
    orders: Mapping[Duel, tuple[int, int]] = field(default_factory=dict)
    failed: frozenset[Duel] = frozenset()

    def beats(self, right: Conversation, wrong: Conversation) -> bool:
        return self.sums[right, wrong] > 0

    def with_failures(self, right: bool) -> "Verdicts":
        """The same with every failure as a win of the right answer, or of the wrong one."""
        return Verdicts({**self.sums, **dict.fromkeys(self.failed, 2 if right else -2)})


class PairJudge:
    """A chat model as a judge of pairs. `problems` counts why verdicts are missing."""

    def __init__(self, chat: Chat) -> None:
        self.chat, self.problems = chat, Counter[str]()

    def verdicts(self, items: Sequence[Item]) -> Verdicts:
        """Two verdicts on every pair of the items, each asked once. Raises Unreached where the server did not answer."""
        duels = list(dict.fromkeys(d for item in items for d in item.duels))
        requests = [request(a, b) for right, wrong in duels for a, b in ((right, wrong), (wrong, right))]
        replies = ask_all(self.chat, requests)
        read = []
        for reply in replies:
            verdict = None if reply.problem else read_verdict(reply.text)
            if verdict is None:
                self.problems[reply.problem or "no verdict"] += 1
            read.append(verdict)
        orders = {
            duel: (first, -last)
            for duel, first, last in zip(duels, read[::2], read[1::2], strict=True)
            if first is not None and last is not None
        }
        failed = frozenset(d for d in duels if d not in orders)
        return Verdicts({d: sum(told) for d, told in orders.items()}, orders, failed)

    def by_position(self, items: Sequence[Item], verdicts: Verdicts) -> tuple[Cell, ...]:
        return by_position(items, verdicts)


def request(first: Conversation, second: Conversation) -> Request:
    """The question which of two answers to one prompt is better."""
    history = "\n\n".join(f"{m.role}: {m.content}" for m in first[:-1])
    fields = {"conversation": history, "answer_a": first[-1].content, "answer_b": second[-1].content}
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: fields[found[1]], PROMPT)
    return Request(messages=(user(text),))


def read_verdict(text: str) -> int | None:
    """+1 for A, -1 for B, 0 for a tie, by the last mark; None without one."""
    found = _VERDICT.findall(text)
    return {"A": 1, "B": -1, "C": 0}[found[-1].upper()] if found else None


def by_position(items: Sequence[Item], verdicts: Verdicts) -> tuple[Cell, ...]:
    """How often the answer shown first wins, of verdicts that are no ties, and how often both orders agree: 50 and 100 where
    position has no say."""
    first: list[tuple[float, Conversation]] = []
    agree: list[tuple[float, Conversation]] = []
    for item in items:
        for duel in item.duels:
            if duel in verdicts.orders:
                front, back = verdicts.orders[duel]
                first += [(float(x > 0), item.prompt) for x in (front, -back) if x]
                agree.append((float(front == back), item.prompt))
    told = {"first shown wins": first, "both orders agree": agree}
    return tuple(cell(n, [v for v, _ in rows], [p for _, p in rows]) for n, rows in told.items() if rows)
