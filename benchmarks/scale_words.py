"""The words that made-up texts are of, as often and about as long as those of real ones (scale_measured.json)."""

import json
import random
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]
MEASURED: dict[str, Any] = json.loads(Path(__file__).with_name("scale_measured.json").read_text())


_ONSETS, _VOWELS, _CODAS = (
    "b c d f g h l m n p r s t v w st tr pl ch sh",
    "a e i o u a e i o u ai ea ou",
    "n r s t l nd",
)


def draw(rng: np.random.Generator, name: str, n: int) -> NDArray[np.float64]:
    """(n,) values of a measured distribution, between its quantiles by their logarithm."""
    return np.exp(np.interp(rng.random(n), MEASURED["quantiles_at"], np.log(MEASURED[name])))


class Bank:
    """Every token that files are made of, as JSON text. A word stands in six forms, one after another; `PLAIN`, `COMMA`,
    `SENTENCE`, `PARAGRAPH`, `QUOTED`: with what comes before it; `FIRST`: at the start of a text."""

    PLAIN, COMMA, SENTENCE, PARAGRAPH, QUOTED, FIRST = range(6)
    WORDS, CJK, CODE, NUMBERS = 30_000, 3_000, 400, 1_000

    def __init__(self) -> None:
        rng = random.Random(19)
        self.tokens: list[str] = []
        self.word = self._add([f for w in self._words(rng) for f in self._forms(w, w.capitalize(), " ")])
        self.cjk = self._add([f for w in self._cjk(rng) for f in self._forms(w, w, "")])
        self.code = self._add([*self._lines(rng)])
        self.number = self._add([f" {n:03d}" for n in range(self.NUMBERS)])
        self.fence, self.unfence, self.stop = (self._add([t]) for t in ("\\n\\n```python", "\\n```\\n\\nThis", "."))
        self.literals: dict[str, int] = {}

    def _add(self, tokens: list[str]) -> int:
        self.tokens += tokens
        return len(self.tokens) - len(tokens)

    def literal(self, text: str) -> int:
        """The token of a piece of JSON between texts."""
        if text not in self.literals:
            self.literals[text] = self._add([text])
        return self.literals[text]

    @cached_property
    def array(self) -> pa.Array:
        return pa.array(self.tokens, pa.large_string())

    def text(self, tokens: Ints) -> memoryview:
        """The bytes of tokens, one after another."""
        return memoryview(self.array.take(pa.array(tokens)).buffers()[2])

    @staticmethod
    def _forms(word: str, first: str, space: str) -> list[str]:
        comma, stop = (", ", ". ") if space else ("，", "。")
        quoted, paragraph = f'{space}\\"{word}\\"', f"{stop.strip()}\\n\\n{first}"
        return [f"{space}{word}", f"{comma}{word}", f"{stop}{first}", paragraph, quoted, first]

    def _words(self, rng: random.Random) -> list[str]:
        """Made-up words, frequent ones shorter; a few with accents, as often as real texts have any."""
        onsets, vowels, codas = _ONSETS.split(), _VOWELS.split(), ["", "", "", *_CODAS.split()]
        found: dict[str, None] = {}
        while len(found) < self.WORDS:
            n = 1 if len(found) < 120 else rng.choice((1, 2, 2, 3)) if len(found) < 3000 else rng.choice((2, 3, 3, 4))
            word = "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(n)) + rng.choice(codas)
            if len(found) > 1000 and len(found) % 200 == 0:
                word += "é"
            found.setdefault(word)
        return sorted(list(found)[:120], key=len) + list(found)[120:]

    def _cjk(self, rng: random.Random) -> list[str]:
        return [
            "".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(rng.choice((1, 2, 2, 3))))
            for _ in range(self.CJK)
        ]

    def _lines(self, rng: random.Random) -> list[str]:
        names = ["total", "count", "items", "result", "value", "index", "left", "right", "node", "path"]
        return [
            f"\\n{'    ' * rng.randrange(3)}{rng.choice(names)} = {rng.choice(names)}[{n}] + {rng.choice(names)}"
            for n in range(self.CODE)
        ]

    @cached_property
    def by_chance(self) -> NDArray[np.int64]:
        """(2^20,) the first form of words, each as often as a word of its rank is met in real texts."""
        told = {int(n): share for n, share in MEASURED["share_of_top_words"].items()}
        ranks, shares = np.array([*told, self.WORDS]), np.array([*told.values(), 1.0])
        share = np.interp(np.log(np.arange(1, self.WORDS + 1)), np.log(ranks), shares)
        size = 1 << 20
        return np.searchsorted(share, (np.arange(size) + 0.5) / size * share[-1]) * 6 + self.word

    @cached_property
    def before(self) -> NDArray[np.int64]:
        """(1024,) the form of a word: sentences and paragraphs as long as real ones."""
        paragraph, sentence = 1024 / MEASURED["words_a_paragraph"], 1024 / MEASURED["words_a_sentence"]
        stops = max(8.0, sentence - paragraph / 2)
        counts = {self.PARAGRAPH: paragraph, self.SENTENCE: stops, self.COMMA: 48, self.QUOTED: 4}
        forms = np.concatenate([np.full(int(n), form) for form, n in counts.items()])
        return np.pad(forms, (0, 1024 - len(forms)))

    @cached_property
    def word_bytes(self) -> float:
        """The mean length of a word of a text, with what comes before it."""
        sizes = np.array([len(t.encode()) - t.count("\\") for t in self.tokens[: self.cjk]])
        forms = np.bincount(self.before, minlength=6)[:6] / 1024
        return float(sizes.reshape(-1, 6)[(self.by_chance - self.word) // 6].mean(0) @ forms)
