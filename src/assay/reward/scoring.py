"""Rewards of a shard's pairs by one or several reward models, in one pass, in memory that does not grow with the shard.

    rows --> runs of one prompt --> chunks of a few passes' tokens --> token ids, once for all models that read alike
                                                                   --> packed passes of each model --> (n, 2) rewards

Each response is scored once, in however many pairs of its prompt it occurs: a shard is sorted by prompt. What is too long
is cut as in training, the two responses of a pair on one history; such a response is scored in each of its pairs anew, for
what is left of its prompt depends on the pair. So a pair's rewards depend on nothing but the pair, beyond rounding.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.errors import AssayError, CannotRead
from assay.pack import Group
from assay.records import Conversation, Scorer
from assay.render import Rendered, attempts
from assay.reward.scorer import LocalScorer, Model, group_of
from assay.tables import build

ROWS, RUN = 256, 1_024
"""Rows that are made into records at a time, and the most that one prompt has in one run."""
PASSES, LETTERS = 8, 4
"""A chunk has text for about so many passes, at so many characters a token."""
OTHERS = 1 << 20
"""Characters of a chunk for scorers that are not models in this process (servers, functions)."""
Slots = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What one reward model says of n pairs: (n, 2) rewards, of a pair's two responses in their order; NaN for a response
    that it cannot read, with a count by reason in `problems`."""

    rewards: NDArray[np.float32]
    problems: Counter[str]


def score_pairs(scorers: Sequence[Scorer], pairs: pa.Table | Iterable[pa.RecordBatch]) -> list[Scored]:
    """The rewards of each of some scorers, `Model`s or any others, in order.

    Args:
        scorers: Those that make the same tokens of a conversation share them; each chunk is read once for all.
        pairs: Rows with the columns prompt and responses of `Pair`; rows of one prompt should follow one another.

    Raises AssayError where a model gives no number for what it can read.
    """
    loaded = [s.load() if isinstance(s, Model) else s for s in scorers]
    parts: list[list[NDArray[np.float32]]] = [[] for _ in loaded]
    problems = [Counter[str]() for _ in loaded]
    chunks = _read(_chunks(pairs, _letters(loaded)), loaded)
    with ThreadPoolExecutor(1, "reading") as ahead:
        coming = ahead.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = ahead.submit(next, chunks, None)  # the next chunk becomes tokens while this one is scored
            for number, scorer in enumerate(loaded):
                rewards, refused = chunk.scored(scorer)
                parts[number].append(rewards)
                problems[number] += refused
    none = np.zeros((0, 2), np.float32)
    return [Scored(rewards=np.concatenate([none, *p]), problems=c) for p, c in zip(parts, problems, strict=True)]


def _letters(scorers: Sequence[Scorer]) -> int:
    """Characters of a chunk."""
    tokens = [s.model.engine.tokens for s in scorers if isinstance(s, LocalScorer)]
    return max((PASSES * LETTERS * t for t in tokens), default=OTHERS)


@dataclass(frozen=True, slots=True)
class _Units:
    """A chunk as token ids: groups of sequences that are scored together, and for each group the places in (rows, 2) where
    its answers' rewards go (a shared response has several). `refused`: why some have none, a reason for each place."""

    groups: list[Group]
    places: list[list[list[int]]]
    refused: list[str]


@dataclass(frozen=True)
class _Chunk:
    """Some rows: `whole` conversations, each once for its run of one prompt, `runs` of their numbers, (rows, 2) numbers."""

    whole: list[Conversation] = field(default_factory=list)
    runs: list[range] = field(default_factory=list)
    rows: list[tuple[int, int]] = field(default_factory=list)
    units: dict[tuple[str, bool], _Units] = field(default_factory=dict)

    @cached_property
    def slots(self) -> Slots:
        return np.array(self.rows, np.int64).reshape(-1, 2)

    def add(self, prompt: Conversation, responses: Sequence[tuple[Conversation, Conversation]]) -> int:
        """Take in a run of rows; returns its characters."""
        known: dict[Conversation, int] = {}
        start = len(self.whole)
        for pair in responses:
            first, second = (known.setdefault(r, start + len(known)) for r in pair)
            self.rows.append((first, second))
        self.whole.extend(prompt + response for response in known)
        self.runs.append(range(start, len(self.whole)))
        return sum(len(m.content) for c in self.whole[start:] for m in c)

    def read(self, scorer: LocalScorer) -> None:
        """Make it tokens as this scorer reads, unless another one read it so."""
        key = scorer.reading, scorer.model.shares
        if key not in self.units:
            self.units[key] = self._units(scorer)

    def _units(self, scorer: LocalScorer) -> _Units:
        most, tokenizer, store = scorer.max_tokens, scorer.tokenizer, scorer.store
        found = attempts(tokenizer, self.whole, most, store, together=[])
        long = np.array([isinstance(one, Rendered) and len(one.ids) > most for one in found])
        over = np.flatnonzero(long[self.slots].any(1)) if len(self.rows) else np.zeros(0, np.int64)
        both = [self.whole[i] for row in over for i in self.rows[row]]
        cut = attempts(tokenizer, both, most, store, [(at, at + 1) for at in range(0, len(both), 2)])
        units = _Units([], [], [])
        places: list[list[int]] = [[] for _ in self.whole]
        for row in np.setdiff1d(np.arange(len(self.rows)), over).tolist():
            for side, number in enumerate(self.rows[row]):
                places[number].append(2 * row + side)
        for run in self.runs:
            self._add(units, scorer.model.shares, [(self.whole[i], found[i], places[i]) for i in run if places[i]])
        for at, row in enumerate(over.tolist()):
            sides = [(both[2 * at + s], cut[2 * at + s], [2 * row + s]) for s in (0, 1)]
            self._add(units, scorer.model.shares, sides)
        return units

    def _add(
        self, units: _Units, shares: bool, answers: Sequence[tuple[Conversation, Rendered | CannotRead, list[int]]]
    ) -> None:
        """Answers to one prompt, as one group; each alone where the model shares no prefix."""
        units.refused.extend(str(one) for _, one, places in answers if isinstance(one, CannotRead) for _ in places)
        read = [(c, one, places) for c, one, places in answers if isinstance(one, Rendered)]
        for some in [read] if shares and read else [[one] for one in read]:
            units.groups.append(group_of(some[0][0], [one for _, one, _ in some]))
            units.places.append([places for _, _, places in some])

    def scored(self, scorer: Scorer) -> tuple[NDArray[np.float32], Counter[str]]:
        """(rows, 2) rewards, and a count of those that are missing by reason."""
        rewards = np.full(2 * len(self.rows), np.nan, np.float32)
        if isinstance(scorer, LocalScorer):
            units = self.units[scorer.reading, scorer.model.shares]
            for places, own in zip(units.places, scorer.of_groups(units.groups), strict=True):
                for where, reward in zip(places, own, strict=True):
                    rewards[where] = reward
            given, refused = len(rewards) - len(units.refused), Counter(units.refused)
        else:
            found = scorer(self.whole)
            rewards[:] = np.asarray(found)[self.slots].ravel()
            missing = Counter(np.array(self.rows).ravel()[np.isnan(rewards)].tolist())
            why = getattr(scorer, "refused", {})
            refused = Counter[str]()
            for number, times in missing.items():
                refused[why.get(self.whole[number], "the scorer gave no number for it")] += times
            given = len(rewards) - missing.total() if getattr(scorer, "may_fail", False) else len(rewards)
        if (bad := given - int(np.isfinite(rewards).sum())) > 0:
            raise AssayError(
                f"{bad:,} of {given:,} rewards are no numbers; check the reward model's weights and precision"
            )
        return rewards.reshape(-1, 2), refused


def _read(chunks: Iterator[_Chunk], scorers: Sequence[Scorer]) -> Iterator[_Chunk]:
    """The chunks, as tokens for all models in this process."""
    for chunk in chunks:
        for scorer in scorers:
            if isinstance(scorer, LocalScorer):
                chunk.read(scorer)
        yield chunk


def _chunks(pairs: pa.Table | Iterable[pa.RecordBatch], letters: int) -> Iterator[_Chunk]:
    """Runs of one prompt, together until they have so many characters."""
    batches = pairs.to_batches() if isinstance(pairs, pa.Table) else pairs
    parts = (b.select(["prompt", "responses"]).slice(at, ROWS) for b in batches for at in range(0, len(b), ROWS))
    rows = (row for part in parts for row in part.to_pylist())
    chunk, size = _Chunk(), 0
    for told, same in groupby(rows, key=lambda row: row["prompt"]):
        prompt = build(Conversation, told)
        while some := [build(tuple[Conversation, ...], _said(row)) for row in islice(same, RUN)]:
            size += chunk.add(prompt, some)
            if size >= letters:
                yield chunk
                chunk, size = _Chunk(), 0
    if chunk.rows:
        yield chunk


def _said(row: dict[str, list[dict[str, object]]]) -> list[object]:
    return [response["messages"] for response in row["responses"]]
