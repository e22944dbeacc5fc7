"""Remove pairs that share text with the prompts of benchmarks (paper A2, C.1; A3, D.1).

The paper's rule: a pair goes when it shares one 13-gram with a (first-turn) prompt of any benchmark. We compare words
in lower case without punctuation, so that re-wrapped text still matches. Prompts of fewer than n words have no n-gram:
they match when a whole message of the pair equals the whole prompt. A hit is confirmed on the words themselves, so a
collision of hashes removes nothing.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from assay.records import Conversation, Pair

Fields = Literal["prompt", "all"]
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


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


def words(text: str) -> list[str]:
    """Lower-case words; each Chinese, Japanese and Korean character is a word, for they write no spaces."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


@dataclass(frozen=True)
class Index:
    """The n-grams of all benchmark prompts by their 64-bit hash, and the prompts' words to confirm a match on."""

    n: int
    prompts: list[tuple[str, int, tuple[str, ...]]] = field(default_factory=list)
    grams: defaultdict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    whole: defaultdict[tuple[str, ...], list[int]] = field(default_factory=lambda: defaultdict(list))

    @staticmethod
    def of(benchmarks: Mapping[str, Iterable[str]], n: int = 13) -> "Index":
        """Read every prompt once. Raises ValueError when n is below 1."""
        if n < 1:
            raise ValueError(f"n-grams need n of at least 1, not {n}")
        index = Index(n)
        for name, prompts in benchmarks.items():
            for number, prompt in enumerate(prompts):
                said = tuple(words(prompt))
                if not said:
                    continue
                entry = len(index.prompts)
                index.prompts.append((name, number, said))
                index.whole[said].append(entry)
                for start in range(len(said) - n + 1):
                    index.grams[hash(said[start : start + n])].append((entry, start))
        return index

    def hits(self, pair: Pair, fields: Fields = "prompt") -> list[Hit]:
        """One hit for each benchmark prompt that the pair's history (or, with "all", its responses too) shares text with."""
        found: dict[int, tuple[str, bool]] = {}
        for message in _texts(pair, fields):
            said = tuple(words(message))
            for entry in self.whole.get(said, ()):
                found[entry] = (" ".join(said), True)
            for start in range(len(said) - self.n + 1):
                gram = said[start : start + self.n]
                for entry, at in self.grams.get(hash(gram), ()):
                    if entry not in found and self.prompts[entry][2][at : at + self.n] == gram:
                        found[entry] = (" ".join(gram), False)
        return [
            Hit(pair_id=pair.id, benchmark=self.prompts[e][0], prompt=self.prompts[e][1], span=span, whole=whole)
            for e, (span, whole) in sorted(found.items())
        ]


def _texts(pair: Pair, fields: Fields) -> Iterator[str]:
    conversations: list[Conversation] = [pair.prompt]
    if fields == "all":
        conversations += [response.messages for response in pair.responses]
    return (message.content for conversation in conversations for message in conversation)


def matched(
    pairs: Iterable[Pair], benchmarks: Mapping[str, Iterable[str]], n: int = 13, fields: Fields = "prompt"
) -> Iterator[tuple[Pair, list[Hit]]]:
    """Every pair with its hits, one in memory at a time; a pair without hits is clean."""
    index = Index.of(benchmarks, n)
    return ((pair, index.hits(pair, fields)) for pair in pairs)


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
