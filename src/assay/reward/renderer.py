"""Labelled pairs as tokens: what a training computes on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.errors import AssayError, CannotRead
from assay.images import ImageStore
from assay.pack import Group, share
from assay.records import Preference, question_id
from assay.render import Rendered as Tokens
from assay.render import attempts, check
from assay.reward.data import Pairs
from assay.reward.left_out import SAME, LeftOut


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A pair as tokens: a group of two answers, chosen first; what its label says beyond the order; its question's id."""

    group: Group
    certainty: float
    margin: float
    cut: int
    question: str = ""

    @property
    def bytes(self) -> int:
        """What it takes in memory, about: whole sequences (prefix and answers are views of them), and the objects."""
        return 4 * self.group.whole + 1_000


class _Memory:
    """Rendered pairs by number, as many as fit into `room` bytes."""

    def __init__(self, room: int) -> None:
        self.room, self.used, self.kept = room, 0, dict[int, Rendered]()

    def add(self, number: int, one: Rendered) -> None:
        if number not in self.kept and self.used + one.bytes <= self.room:
            self.kept[number] = one
            self.used += one.bytes

    def renumber(self, new: Mapping[int, int]) -> None:
        self.kept = {new[n]: one for n, one in self.kept.items()}


class Renderer:
    """Pairs to tokens, remembering what fits into `room` bytes: small sets are read many times, large ones once (room 0).

    A pair that the model cannot read, or whose two answers are the same tokens to it, is left out and recorded in `left`.
    `spare` holds one pair that it can read, for a process that has none in a step.
    """

    ROOM, AT_ONCE = 1 << 28, 1_000

    def __init__(
        self, tokenizer: Any, max_tokens: int, store: ImageStore | None = None, room: int | None = None
    ) -> None:
        check(tokenizer)
        self.tokenizer, self.max_tokens, self.store = tokenizer, max_tokens, store
        self.left, self.spare = LeftOut(), list[Rendered]()
        self._memory = _Memory(self.ROOM if room is None else room)

    def __call__(self, numbered: Sequence[tuple[int, Preference]]) -> list[Rendered]:
        """The pairs that can be read, in order."""
        known = self._memory.kept
        new = {n: p for n, p in numbered if n not in known}
        fresh = dict(zip(new, self.tried(list(new.values())), strict=True))
        for n, one in fresh.items():
            if isinstance(one, Rendered):
                self._memory.add(n, one)
        found = (fresh[n] if n in fresh else known[n] for n, _ in numbered)
        return [one for one in found if isinstance(one, Rendered)]

    def render(self, pairs: Sequence[Preference], of: str = "pairs") -> list[Rendered]:
        """The pairs that can be read, in order, not remembered; `of` says what they are."""
        return [one for one in self.tried(pairs, of) if isinstance(one, Rendered)]

    def readable(
        self, source: Pairs, gather: Callable[[list[Any]], list[Any]] = list, rank: int = 0, world: int = 1
    ) -> Pairs:
        """The pairs without those that the model cannot read, before anything is trained on: all of them where they are held
        whole, each process its share of the work. What is streamed is read as it comes.

        Raises AssayError when none is left, or a sample of a stream has none.
        """
        if not source.whole:
            numbered = source.take(0, 0, range(min(self.AT_ONCE, len(source))))
            if not self.render([p for _, p in numbered]):
                raise AssayError(f"none of the first {len(numbered):,} pairs can be read: {self._reason()}")
            return source
        own = range(rank, len(source), world)
        bad: list[tuple[int, str, str]] = []
        for at in range(0, len(own), self.AT_ONCE):
            part = own[at : at + self.AT_ONCE]
            pairs = source.at(part)
            for n, pair, one in zip(part, pairs, self.tried(pairs), strict=True):
                if isinstance(one, Rendered):
                    self._memory.add(n, one)
                else:
                    bad.append((n, pair.pair_id, str(one)))
        without = {n: (pair_id, reason) for n, pair_id, reason in gather(bad)}
        for n in sorted(without):
            self.left.add(*without[n])
        if len(without) == len(source):
            raise AssayError(f"none of the {len(source):,} pairs can be read by this model: {self._reason()}")
        if not without:
            return source
        self._memory.renumber({n: new for new, n in enumerate(n for n in range(len(source)) if n not in without)})
        return source.without(without)

    def _reason(self) -> str:
        return next(iter(self.left.counts()), "there are none")

    def tried(self, pairs: Sequence[Preference], of: str = "pairs") -> list[Rendered | CannotRead]:
        """The pairs as tokens, or why not; those that cannot be read are recorded."""
        whole = [p.prompt + r.messages for p in pairs for r in (p.chosen, p.rejected)]
        together = [(at, at + 1) for at in range(0, len(whole), 2)]
        flat = attempts(self.tokenizer, whole, self.max_tokens, self.store, together)
        made = [self._pair(p, c, r) for p, c, r in zip(pairs, flat[::2], flat[1::2], strict=True)]
        for pair, one in zip(pairs, made, strict=True):
            if isinstance(one, CannotRead):
                self.left.add(pair.pair_id, str(one), of)
            elif not self.spare:
                self.spare = [one]
        return made

    def _pair(
        self, pair: Preference, chosen: Tokens | CannotRead, rejected: Tokens | CannotRead
    ) -> Rendered | CannotRead:
        if isinstance(chosen, CannotRead):
            return chosen
        if isinstance(rejected, CannotRead):
            return rejected
        cut = chosen.cut + rejected.cut
        if chosen.ids == rejected.ids:
            return CannotRead(f"{SAME}, cut to {self.max_tokens:,} of them" if cut else SAME)
        types = (chosen.second, rejected.second) if chosen.second else ()
        group = share([chosen.ids, rejected.ids], types, [i for m in pair.prompt for i in m.images])
        return Rendered(
            group=group, certainty=pair.certainty, margin=pair.margin, cut=cut, question=question_id(pair.prompt)
        )
