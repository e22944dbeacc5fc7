"""Pairs that a model cannot learn from: which, why, and how many. They are named, never trained on, and end nothing."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from assay.tables import write_text

SAME = "both answers are the same tokens to this model"
NAMED = 3
"""Pairs that are named in the line that tells of them; the file names all."""


class LeftOut:
    """The pairs that were left out so far by this process, each once; `of` says of what (pairs, gold pairs)."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], str] = {}
        self.told = self.shared = 0

    def add(self, pair_id: str, reason: str, of: str = "pairs") -> None:
        self.found.setdefault((of, pair_id), reason)

    def counts(self, of: str = "pairs") -> dict[str, int]:
        """How many for each reason, the most frequent first."""
        found = Counter(r for (what, _), r in self.found.items() if what == of)
        return dict(sorted(found.items(), key=lambda c: (-c[1], c[0])))

    def news(self) -> list[tuple[str, str, str]]:
        """(id, reason, of what) of what was added since the last `share`."""
        return [(i, reason, of) for (of, i), reason in islice(self.found.items(), self.shared, None)]

    def share(self, news: Iterable[tuple[str, str, str]]) -> None:
        """Take in the news of all processes, which now know the same."""
        for one in news:
            self.add(*one)
        self.shared = len(self.found)

    def tell(self, say: Callable[[str], None], name: str) -> None:
        """Say what was left out, if there is more of it than when it was said last."""
        if len(self.found) > self.told:
            self.told = len(self.found)
            for of in dict.fromkeys(what for what, _ in self.found):
                for reason, n in self.counts(of).items():
                    ids = [i for (what, i), r in self.found.items() if (what, r) == (of, reason)]
                    more = ", ..." if n > NAMED else ""
                    what = of if n > 1 else of.removesuffix("s")
                    say(f"{name}: {n:,} {what} left out: {reason} ({', '.join(ids[:NAMED])}{more})")

    def save(self, path: Path) -> None:
        """Write a line for each pair, if there is any."""
        if self.found:
            rows = [{"pair_id": i, "of": of, "reason": reason} for (of, i), reason in self.found.items()]
            write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def load(self, path: Path) -> None:
        """Take in what was saved, by any process."""
        for line in _lines(path):
            row = json.loads(line)
            self.add(row["pair_id"], row["reason"], row["of"])


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        yield from filter(None, path.read_text(encoding="utf-8").split("\n"))
