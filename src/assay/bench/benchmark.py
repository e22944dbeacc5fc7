"""What every reward-model benchmark is made of, and the one way to run it.

    load(folder) -> items;  conversations(items) -> what is to be scored, each once;  report(items, scores) -> result

`report` never sees a model: scores shipped with a benchmark, those of a local model and those of a judge take one path.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from assay.bench.results import BenchmarkResult, Cell, Skipped, cell
from assay.errors import AssayError
from assay.images import ImageStore
from assay.records import Conversation, Scorer, digest

Scores = Mapping[Conversation, float]
"""The reward of every whole conversation (prompt and response)."""


class Wins(Protocol):
    """Verdicts on pairs, where nothing is known but which of two answers is better (`assay.bench.verdicts`)."""

    def beats(self, right: Conversation, wrong: Conversation) -> bool: ...


def beats(scores: Scores | Wins, right: Conversation, wrong: Conversation) -> bool:
    """Whether the right answer strictly wins."""
    return scores[right] > scores[wrong] if isinstance(scores, Mapping) else scores.beats(right, wrong)


class Item(Protocol):
    """One question of a benchmark. `id` names it in errors, `source` its part of the benchmark (for decontamination),
    `stratum` its share in a sample; `prompt` is what its candidates answer and what errors are clustered by."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def stratum(self) -> str: ...
    @property
    def prompt(self) -> Conversation: ...
    @property
    def conversations(self) -> tuple[Conversation, ...]: ...
    @property
    def duels(self) -> tuple[tuple[Conversation, Conversation], ...]:
        """Every (right, wrong) pair of answers that the benchmark compares."""
        ...


T = TypeVar("T", bound=Item)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An item that is right when its best answer strictly beats every loser. `best` and `losers` are whole conversations.

    Example: Choice(id="1", source="rmb", stratum="S1", prompt=p, best=(*p, assistant("a")), losers=((*p, assistant("b")),))
    """

    id: str
    source: str
    stratum: str
    prompt: Conversation
    best: Conversation
    losers: tuple[Conversation, ...]

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return (self.best, *self.losers)

    @property
    def duels(self) -> tuple[tuple[Conversation, Conversation], ...]:
        return tuple((self.best, loser) for loser in self.losers)

    def right(self, scores: Scores | Wins) -> bool:
        """A tie is wrong."""
        return all(beats(scores, self.best, loser) for loser in self.losers)


@runtime_checkable
class Pairwise(Protocol):
    """A judge that can only compare two answers."""

    def verdicts(self, items: Sequence[Any]) -> Any: ...
    def by_position(self, items: Sequence[Any], verdicts: Any) -> tuple[Cell, ...]: ...


def _none(items: Sequence[object]) -> tuple[str, ...]:
    return ()


def _nothing(items: Sequence[object], verdicts: object) -> tuple[Cell, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark(Generic[T]):
    """A benchmark: its folder under the data folder, where its data are published, and its pure functions.

    `load` reads the benchmark's own folder. `caveats` says what is missing in the local copy, seen before sampling: with
    any, it is not quite the published benchmark. `fetch` is the command that brings the data, with {} for the folder.
    """

    name: str
    folder: str
    home: str
    fetch: str
    load: Callable[[Path], list[T]]
    report: Callable[[Sequence[T], Scores | Wins], BenchmarkResult]
    failure: float | None = None
    """What the published protocol gives for a failure of a generative judge (None: it says nothing)."""
    caveats: Callable[[Sequence[T]], tuple[str, ...]] = _none
    shown: Callable[[Path, ImageStore], list[T]] | None = None
    """Of a benchmark with pictures: `load` with its pictures, which are put into the store. `load` gives the words alone."""
    judged: Callable[[Sequence[T], Any], tuple[Cell, ...]] = _nothing
    """What the published protocol makes of a judge's verdicts (`verdicts.Verdicts`), where it is another than ours."""


BLIND = "its questions are about pictures, and this model is shown none"


def run(
    benchmark: Benchmark[T], folder: Path, scorer: Scorer | Pairwise, limit: int | None = None, seed: int = 0,
    images: ImageStore | None = None,
) -> BenchmarkResult | Skipped:  # fmt: skip
    """Score a benchmark whose data lie under the data folder `folder`; `limit` items at most (None or 0: all). Pictures go
    to `images`; None: the scorer has no eyes, and benchmarks with pictures are skipped.

    Raises AssayError for broken data and for a scorer that returns anything but one finite reward per conversation.
    """
    place = folder / benchmark.folder
    if not place.is_dir():
        return Skipped(name=benchmark.name, reason=f"no folder {place}; {benchmark.fetch.format(place)}")
    if benchmark.shown is not None and images is None:
        return Skipped(name=benchmark.name, reason=BLIND)
    items = benchmark.shown(place, images) if benchmark.shown is not None and images else benchmark.load(place)
    if not items:
        raise AssayError(f"{place}: no items of {benchmark.name} here; fetch the data again from {benchmark.home}")
    twice = [i for i, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise AssayError(f"{place}: item {twice[0]} occurs twice; does the folder hold two copies of the data?")
    caveats = benchmark.caveats(items)
    result = evaluate(items, benchmark.report, scorer, limit, seed, caveats, benchmark.failure, benchmark.judged)
    whole = result.headline is not None and not caveats and not result.failed and result.n == result.total
    return replace(result, whole=whole)


def evaluate(
    items: Sequence[T],
    report: Callable[[Sequence[T], Scores | Wins], BenchmarkResult],
    scorer: Scorer | Pairwise,
    limit: int | None = None,
    seed: int = 0,
    notes: tuple[str, ...] = (),
    failure: float | None = None,
    judged: Callable[[Sequence[T], Any], tuple[Cell, ...]] = _nothing,
) -> BenchmarkResult:
    """Sample, score and report `items`; `notes` join those of the report.

    Where the scorer may fail (it says so by `may_fail`, and gives NaN), items with a failure are left out and counted.
    """
    chosen = sample(items, limit, seed) if limit else list(items)
    if isinstance(scorer, Pairwise):
        result, told = _judged(chosen, report, scorer, failure, judged)
    else:
        scores = score(chosen, scorer)
        told = [i for i in chosen if all(c in scores for c in i.conversations)]
        result = replace(report(_some(told, chosen), scores), diagnostics=by_length(told, scores))
        notes += _ties(told, scores)
    if len(chosen) < len(items):
        notes += (f"sample of {len(chosen):,} of {len(items):,} items, stratified, seed {seed}",)
    result = replace(result, chance=chance(told, report, seed))
    failed = len(chosen) - len(told)
    if failed:
        notes += (f"coverage {len(told) / len(chosen):.1%}: {failed:,} of {len(chosen):,} items without all rewards",)
    return replace(result, total=len(items), notes=result.notes + notes, failed=failed)


def chance(
    items: Sequence[T], report: Callable[[Sequence[T], Scores | Wins], BenchmarkResult], seed: int
) -> float | None:
    """What the benchmark's own rule gives for random rewards, in percent: the mean of draws, 20 of them or 20,000 items."""
    random = np.random.default_rng([seed, len(items)])
    draws, found = max(1, min(20, 20_000 // len(items))), list[float]()
    texts = list({c: None for item in items for c in item.conversations})
    for _ in range(draws):
        headline = report(items, dict(zip(texts, random.random(len(texts)).tolist(), strict=True))).headline
        found += [headline.value] if headline is not None else []
    return float(np.mean(found)) if found else None


def _ties(items: Sequence[Item], scores: Scores) -> tuple[str, ...]:
    """A note of comparisons that no rule decides: equal rewards, above all where two answers are the same tokens."""
    duels = [duel for item in items for duel in item.duels]
    equal = sum(scores[right] == scores[wrong] for right, wrong in duels)
    if not equal:
        return ()
    return (
        f"{equal:,} of {len(duels):,} comparisons are exact ties (the same tokens to this model, or rounded alike): no win",
    )


def _some(told: list[T], chosen: Sequence[T]) -> list[T]:
    if not told:
        raise AssayError(
            f"no item of {chosen[0].source} got all its rewards; is the server up, and can the model read these?"
        )
    return told


def _judged(
    chosen: Sequence[T], report: Callable[[Sequence[T], Scores | Wins], BenchmarkResult], judge: Pairwise,
    failure: float | None, judged: Callable[[Sequence[T], Any], tuple[Cell, ...]],
) -> tuple[BenchmarkResult, list[T]]:  # fmt: skip
    """What a judge of pairs scored: the report of the items whose pairs all have verdicts, and what the published rule for
    failures makes of all items (totals are linear in the items' values, so two reports tell it)."""
    verdicts = judge.verdicts(chosen)
    told = [i for i in chosen if not any(d in verdicts.failed for d in i.duels)]
    result = report(_some(told, chosen), verdicts)
    position = judge.by_position(told, verdicts)
    if failure is not None and len(told) < len(chosen):
        lost, won = (report(chosen, verdicts.with_failures(right)).headline for right in (False, True))
        if lost is not None and won is not None:
            share = (1 - failure) * lost.value + failure * won.value
            name = f"published rule, failures {failure:g}"
            position += (Cell(name=name, n=len(chosen), value=share, se=lost.se, clusters=lost.clusters),)
    position += judged(chosen, verdicts)
    return replace(result, diagnostics=(*by_length(told, verdicts), *position)), told


ALIKE = 0.1
"""Answers are alike in length where one has at most so much fewer characters, as a share of the other's."""


def by_length(items: Sequence[Item], scores: Scores | Wins) -> tuple[Cell, ...]:
    """Strict wins of right answers over wrong ones where the right one has more characters, where it has fewer, and where
    the two differ by a tenth at most; how often the longer one wins, and how often it is right. A model that likes length is
    right where length is; what it knows beyond length shows where lengths are alike."""
    won: dict[str, list[tuple[float, Conversation]]] = {
        "right is longer": [], "right is shorter": [], "alike in length": [], "longer wins": [], "longer is right": [],
    }  # fmt: skip
    for item in items:
        for right, wrong in item.duels:
            sizes = len(right[-1].content), len(wrong[-1].content)
            more, wins = sizes[0] - sizes[1], beats(scores, right, wrong)
            if abs(more) <= ALIKE * max(sizes):
                won["alike in length"].append((float(wins), item.prompt))
            if more:
                won["right is longer" if more > 0 else "right is shorter"].append((float(wins), item.prompt))
                won["longer wins"].append((float(wins if more > 0 else not wins), item.prompt))
                won["longer is right"].append((float(more > 0), item.prompt))
    return tuple(
        replace(cell(n, [v for v, _ in told], [p for _, p in told]), terms=None) for n, told in won.items() if told
    )


def sample(items: Sequence[T], limit: int, seed: int) -> list[T]:
    """At most `limit` items, every stratum in proportion, in the given order; which ones depends on ids and `seed` only.

    A systematic sample along the items sorted by stratum, and at random within it.
    """
    if limit < 1:
        raise AssayError(f"the limit of items must be at least 1 (or 0 for all), got {limit}")
    if limit >= len(items):
        return list(items)
    order = sorted(range(len(items)), key=lambda i: (items[i].stratum, digest([seed, items[i].id])))
    picked = {order[(2 * k + 1) * len(items) // (2 * limit)] for k in range(limit)}
    return [items[i] for i in sorted(picked)]


def conversations(items: Sequence[Item]) -> list[Conversation]:
    """All conversations to be scored, each once, in order of first use."""
    return list(dict.fromkeys(c for item in items for c in item.conversations))


def score(items: Sequence[Item], scorer: Scorer) -> dict[Conversation, float]:
    """The rewards of all conversations of the items. Raises AssayError for a wrong number of them or one not finite; of a
    scorer that may fail, what is not finite is left out."""
    flat = conversations(items)
    rewards = np.asarray(scorer(flat), dtype=np.float64)
    if rewards.shape != (len(flat),):
        raise AssayError(
            f"the scorer returned shape {rewards.shape} for {len(flat)} conversations; it must be one each"
        )
    bad = np.flatnonzero(~np.isfinite(rewards))
    if len(bad) and getattr(scorer, "may_fail", False):
        return {c: x for c, x in zip(flat, rewards.tolist(), strict=True) if np.isfinite(x)}
    if len(bad):
        first = flat[bad[0]]
        item = next(i for i in items if first in i.conversations)
        raise AssayError(
            f"item {item.id} ({item.source}): the reward of answer {item.conversations.index(first) + 1} of "
            f"{len(item.conversations)} is {rewards[bad[0]]} ({len(bad)} of {len(flat)} rewards are not finite); "
            "check the reward model's precision and weights"
        )
    return dict(zip(flat, rewards.tolist(), strict=True))
