"""Remove pairs that share text with the prompts of benchmarks (paper A2, C.1; A3, D.1).

The paper's rule: a pair goes when it shares one 13-gram with a (first-turn) prompt of any benchmark. We compare words
in lower case without punctuation, so that re-wrapped text still matches. Prompts of fewer than n words have no n-gram:
they match when a whole message of the pair equals the whole prompt. A hit is confirmed on the words themselves, so a
collision of hashes removes nothing.
"""

import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay import native
from assay.curate.words import Hashes, characters, hashes, read, runs, strings, whole, words
from assay.records import Conversation, Pair

Fields = Literal["prompt", "all"]
_SOURCE = Path(__file__).with_name("decontaminate.cpp")
_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A pair that shares text with prompt number `prompt` of a benchmark; `whole` if a message is that whole prompt."""

    pair_id: str
    benchmark: str
    prompt: int
    span: str
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decontaminated:
    """The clean pairs, those removed, and every match."""

    kept: list[Pair]
    removed: list[Pair]
    hits: list[Hit]

    def lines(self) -> list[str]:
        """What matched what, benchmark by benchmark, with one example each."""
        total = len(self.kept) + len(self.removed)
        lines = [f"{len(self.removed)} of {total} pairs removed: they share text with benchmark prompts"]
        for benchmark, count in sorted(Counter(h.benchmark for h in self.hits).items()):
            hits = [h for h in self.hits if h.benchmark == benchmark]
            pairs, prompts = len({h.pair_id for h in hits}), len({h.prompt for h in hits})
            whole = len({h.prompt for h in hits if h.whole})
            lines.append(f"  {benchmark}: {count} matches of {pairs} pairs with {prompts} prompts ({whole} as a whole)")
            lines.append(f"    as in pair {hits[0].pair_id}, prompt {hits[0].prompt}: {hits[0].span[:100]!r}")
        return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkPrompt:
    """A benchmark's prompt number `number`; `said`: its words, a space between each two."""

    benchmark: str
    number: int
    said: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """The prompts of all benchmarks, and where in them each hash of n words is: what every worker needs, small to send.

    `grams` (G,) sorted, with its prompt `prompt_of` (G,) and place there `place_of` (G,); `wholes` (W,) sorted hashes of
    whole prompts, with `whole_of` (W,).
    """

    n: int
    prompts: list[BenchmarkPrompt]
    grams: Hashes
    prompt_of: NDArray[np.int32]
    place_of: NDArray[np.int32]
    wholes: Hashes
    whole_of: NDArray[np.int32]

    @staticmethod
    def of(benchmarks: Mapping[str, Iterable[str]], n: int = 13) -> "Index":
        """Read every prompt once. Raises ValueError when n is below 1."""
        if n < 1:
            raise ValueError(f"n-grams need n of at least 1, not {n}")
        prompts: list[BenchmarkPrompt] = []
        grams, wholes = [np.zeros(0, np.uint64)], []
        for name, texts in benchmarks.items():
            for number, text in enumerate(texts):
                if said := words(text):
                    prompts.append(BenchmarkPrompt(benchmark=name, number=number, said=" ".join(said)))
                    grams.append(runs(of := hashes(said), n))
                    wholes.append(whole(of))
        every, all_whole = np.concatenate(grams), np.array(wholes, np.uint64)
        prompt_of = np.repeat(np.arange(len(prompts), dtype=np.int32), [len(g) for g in grams[1:]])
        place_of = np.concatenate([np.arange(len(g), dtype=np.int32) for g in grams])
        order, whole_of = np.argsort(every, kind="stable"), np.argsort(all_whole, kind="stable")
        return Index(
            n=n, prompts=prompts, grams=every[order], prompt_of=prompt_of[order], place_of=place_of[order],
            wholes=all_whole[whole_of], whole_of=whole_of.astype(np.int32),
        )  # fmt: skip

    def hits(self, pair: Pair, fields: Fields = "prompt") -> list[Hit]:
        """One hit for each benchmark prompt that the pair's history (or, with "all", its responses too) shares text with."""
        return next(matched_by(self, [pair], fields))[1]

    def matches(self, text: str) -> list[tuple[int, str, bool]]:
        """(prompt, the words shared, whether all of both) of every prompt that shares text with this one, each once."""
        said = words(text)
        of, line = hashes(said), " ".join(said)
        found = {p: (line, True) for p in _at(self.wholes, self.whole_of, whole(of)) if self.prompts[p].said == line}
        grams = runs(of, self.n)
        shared = np.flatnonzero(_within(grams, self.grams))
        first, last = (np.searchsorted(self.grams, grams[shared], side).tolist() for side in ("left", "right"))
        for start, low, high in zip(shared.tolist(), first, last, strict=True):
            for p, place in zip(self.prompt_of[low:high].tolist(), self.place_of[low:high].tolist(), strict=True):
                gram = said[start : start + self.n]
                if p not in found and self.prompts[p].said.split()[place : place + self.n] == gram:
                    found[p] = (" ".join(gram), False)
        return [(p, span, complete) for p, (span, complete) in found.items()]

    def hit(self, pair_id: str, prompt: int, span: str, complete: bool) -> Hit:
        at = self.prompts[prompt]
        return Hit(pair_id=pair_id, benchmark=at.benchmark, prompt=at.number, span=span, whole=complete)

    def suspects(self, texts: pa.Array) -> NDArray[np.bool_]:
        """(texts,) whether a text may share words with a prompt: true for all that do, and for hardly any others."""
        if not self.prompts:
            return np.zeros(len(texts), bool)
        library, found = native.library(_SOURCE), np.zeros(len(texts), np.uint8)
        if library is None:
            for i, text in enumerate(texts.to_pylist()):
                of = hashes(words(text))
                found[i] = _within(np.append(runs(of, self.n), np.uint64(whole(of))), self._keys).any()
            return found.astype(bool)
        (entries, sequences), (filter_, filter_shift), (starts, starts_shift) = characters(), self._filter, self._starts

        def reading(data: int, offsets: int, count: int, done: int, states: NDArray[np.uint8]) -> None:
            library.contaminated(
                *native.places(data, offsets), *native.longs(count), done, *native.places(states, entries, sequences),
                *native.longs(self.n), *native.places(self._keys, filter_, starts), filter_shift, starts_shift,
                *native.places(found),
            )  # fmt: skip

        read(texts, reading)
        return found.astype(bool)

    @functools.cached_property
    def _keys(self) -> Hashes:
        return np.union1d(self.grams, self.wholes)

    @functools.cached_property
    def _filter(self) -> tuple[Hashes, int]:
        """For each hash three bits in one of the words, which its highest bits name; 16 to 32 bits a key in all."""
        size = max(1, (len(self._keys) // 4).bit_length())
        filter_ = np.zeros(1 << size, np.uint64)
        for low in (0, 6, 12):
            bits = np.uint64(1) << ((self._keys >> np.uint64(low)) & np.uint64(63))
            np.bitwise_or.at(filter_, (self._keys >> np.uint64(64 - size)).astype(np.int64), bits)
        return filter_, 64 - size

    @functools.cached_property
    def _starts(self) -> tuple[NDArray[np.uint32], int]:
        """Where the keys of each value of their highest bits begin; about one key a value."""
        size = max(1, len(self._keys).bit_length())
        begins = np.arange(1 << size, dtype=np.uint64) << np.uint64(64 - size)
        return np.append(np.searchsorted(self._keys, begins), len(self._keys)).astype(np.uint32), 64 - size

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}


def _within(some: Hashes, all_sorted: Hashes) -> NDArray[np.bool_]:
    if not len(all_sorted):
        return np.zeros(len(some), bool)
    found: NDArray[np.bool_] = all_sorted[np.searchsorted(all_sorted, some).clip(max=len(all_sorted) - 1)] == some
    return found


def _at(keys: Hashes, values: NDArray[np.int32], key: int) -> list[int]:
    first, last = (np.searchsorted(keys, np.uint64(key), side) for side in ("left", "right"))
    found: list[int] = values[first:last].tolist()
    return found


def hits_of(rows: pa.Table | pa.RecordBatch, index: Index, fields: Fields = "prompt") -> list[Hit]:
    """The hits of pairs in Arrow, in the order of the rows: columns pair_id, prompt, and responses for "all".

    Equal to `Index.hits` of every pair. Texts are read where they lie; only of those that a hash speaks against are the
    words compared.
    """
    table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
    hits: list[Hit] = []
    for batch in table.select(["pair_id", "prompt", *(["responses"] if fields == "all" else [])]).to_batches():
        columns = [_contents(batch.column("prompt"))]
        if fields == "all":
            columns.append(_answers(batch.column("responses")))
        for found in _confirmed(index, batch.column("pair_id"), columns).values():
            hits += found
    return hits


def _contents(conversations: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """What is said in each message, and the row of its conversation."""
    rows = pc.list_parent_indices(conversations).to_numpy(zero_copy_only=False)
    return strings(pc.struct_field(pc.list_flatten(conversations), "content")), rows


def _answers(responses: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    rows = pc.list_parent_indices(responses).to_numpy(zero_copy_only=False)
    texts, of = _contents(pc.struct_field(pc.list_flatten(responses), "messages"))
    return texts, rows[of]


def _confirmed(
    index: Index, ids: Sequence[Any], columns: Sequence[tuple[pa.Array, NDArray[np.int64]]]
) -> dict[int, list[Hit]]:
    """The hits of rows of messages, by row. A text that is said again (a system prompt, a question) is compared once."""
    suspected: defaultdict[int, list[str]] = defaultdict(list)
    for texts, rows in columns:
        for i in np.flatnonzero(index.suspects(texts)).tolist():
            suspected[int(rows[i])].append(texts[i].as_py())
    matches = {text: index.matches(text) for text in {t for said in suspected.values() for t in said}}
    hits = {}
    for row, said in sorted(suspected.items()):
        found: dict[int, tuple[str, bool]] = {}
        for p, span, complete in itertools.chain.from_iterable(matches[text] for text in said):
            if complete or p not in found:
                found[p] = (span, complete)
        hits[row] = [index.hit(str(ids[row]), p, *how) for p, how in sorted(found.items())]
    return hits


def matched_by(index: Index, pairs: Iterable[Pair], fields: Fields = "prompt") -> Iterator[tuple[Pair, list[Hit]]]:
    """Every pair with its hits, about a thousand in memory at a time; a pair without hits is clean."""
    stream = iter(pairs)
    while some := list(itertools.islice(stream, _AT_ONCE)):
        said = [[text.encode("utf-8", "replace") for text in _texts(pair, fields)] for pair in some]
        rows = np.repeat(np.arange(len(some)), [len(texts) for texts in said])
        texts = pa.array([text for texts in said for text in texts], pa.large_string())
        hits = _confirmed(index, [pair.id for pair in some], [(texts, rows)])
        yield from ((pair, hits.get(row, [])) for row, pair in enumerate(some))


def _texts(pair: Pair, fields: Fields) -> Iterator[str]:
    conversations: list[Conversation] = [pair.prompt]
    if fields == "all":
        conversations += [response.messages for response in pair.responses]
    return (message.content for conversation in conversations for message in conversation)


def matched(
    pairs: Iterable[Pair], benchmarks: Mapping[str, Iterable[str]], n: int = 13, fields: Fields = "prompt"
) -> Iterator[tuple[Pair, list[Hit]]]:
    """`matched_by` an index of these benchmarks (name -> prompts)."""
    return matched_by(Index.of(benchmarks, n), pairs, fields)


def decontaminate(
    pairs: Iterable[Pair], benchmarks: Mapping[str, Iterable[str]], n: int = 13, fields: Fields = "prompt"
) -> Decontaminated:
    """`pairs` without those that share an n-gram with a prompt of any benchmark (name -> prompts).

    `fields` is what of a pair is searched: the conversation history, or "all" of (prompt, chosen, rejected) as in A3 D.1.
    """
    result = Decontaminated(kept=[], removed=[], hits=[])
    for pair, hits in matched(pairs, benchmarks, n, fields):
        (result.removed if hits else result.kept).append(pair)
        result.hits.extend(hits)
    return result
