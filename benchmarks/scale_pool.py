"""Pools of any size that are like real ones, as JSONL files: lengths, duplicates, contradictions, overlaps, label noise.

    python benchmarks/scale_pool.py --out /tmp/pool --pairs 1000000            # 2.5 KB of text a pair
    python benchmarks/scale_pool.py --out /tmp/pool --pairs 10000000 --bytes 250

What is drawn from are the numbers in scale_measured.json (`scale_measure.py` makes them); words are made up here, so nothing
of a real text is in a pool. A pool is a function of the arguments, and is written a batch at a time, whatever its size.

FOLDER/part-NN.jsonl     the rows, in five layouts (`LAYOUTS`)
FOLDER/benchmark.jsonl   4,000 prompts; so many of the pool's questions hold one of them as do in the real sets
FOLDER/known.json        `Known`: the true counts
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scale_rows import LAYOUTS, PIECES, Segments, Writer
from scale_words import MEASURED, Bank, Ints, draw

BATCH_BYTES = 24_000_000
PROMPTS = 4_000
LEAST_PROMPT, LEAST_RESPONSE = 6, 5
"""Words. So that no two texts are equal by chance."""
LEAST_NEAR = 40
"""Words of a response of which another one is nearly a copy: in a shorter one a changed word is too much."""
RUN = 15
"""Words of a benchmark prompt that a question holds in its midst; 13 are enough."""


@dataclass
class Known:
    """What is true of a pool: `rows` of the files are `votes` and `malformed`; votes are on `pairs`, of which `repeats` are
    on pairs that an earlier row has. `contaminated` pairs hold a benchmark prompt; `near` are near-duplicates of another
    pair, planted (twins of a question and its pairs) and `near_responses` those of another response to their question."""

    rows: int = 0
    votes: int = 0
    pairs: int = 0
    questions: int = 0
    repeats: int = 0
    conflicts: int = 0
    ties: int = 0
    malformed: int = 0
    contaminated: int = 0
    near: int = 0
    near_responses: int = 0
    text_bytes: int = 0
    file_bytes: int = 0


class Maker:
    """Writes a pool, a batch of questions at a time."""

    def __init__(
        self, out: Path, pairs: int, mean_bytes: int, seed: int, layouts: Sequence[str], prompts: int = PROMPTS
    ) -> None:
        self.out, self.pairs, self.seed = out, pairs, seed
        self.bank, self.known = Bank(), Known()
        self.scale = _scale(mean_bytes, self.bank.word_bytes)
        self.batch = int(max(1, min(pairs, BATCH_BYTES // (2 * mean_bytes))))
        self.layouts = layouts
        self.late = [b""] * len(layouts)
        self.pieces = np.array([self.bank.literal(text) for text in PIECES.values()])
        self.benchmark = self._benchmark(np.random.default_rng([seed, 1]), prompts)
        self.used = np.zeros(prompts, bool)

    def write(self) -> Known:
        self.out.mkdir(parents=True, exist_ok=True)
        self._write_benchmark()
        names = [f"part-{n:02d}.jsonl" for n in range(len(self.layouts))]
        files = [(self.out / name).open("wb") for name in names]
        done = number = 0
        while done < self.pairs:
            made = Batch(
                self, np.random.default_rng([self.seed, 2, number]), min(self.batch, self.pairs - done), number
            )
            last = done + made.pairs >= self.pairs
            for n, (file, (now, later)) in enumerate(zip(files, Writer(made).files(), strict=True)):
                for part in (now, self.late[n], *((later,) if last else ())):
                    file.write(part)
                    self.known.file_bytes += len(part)
                self.late[n] = bytes(later)
            done, number = done + made.pairs, number + 1
        for file in files:
            file.close()
        self.known.questions += int(self.used.sum())
        (self.out / "known.json").write_text(json.dumps(asdict(self.known), indent=1))
        return self.known

    def _benchmark(self, rng: np.random.Generator, prompts: int) -> tuple[Ints, Segments]:
        length = self.words(rng, "prompt_bytes", prompts, LEAST_PROMPT)
        tokens = self.tokens(rng, length)
        return tokens, Segments.after(length)

    def _write_benchmark(self) -> None:
        tokens, texts = self.benchmark
        text = bytes(self.bank.text(tokens)).decode()
        sizes = np.array([len(t) for t in self.bank.tokens])[tokens]
        ends = np.cumsum(np.add.reduceat(sizes, texts.start)).tolist()
        with (self.out / "benchmark.jsonl").open("w", encoding="utf-8") as file:
            for n, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
                file.write(f'{{"id": {n}, "prompt": "{text[begin:end]}"}}\n')

    def words(self, rng: np.random.Generator, name: str, n: int, least: int) -> Ints:
        """(n,) how many tokens texts have, the full stop included."""
        words = np.rint(draw(rng, name, n) * self.scale / self.bank.word_bytes)
        return np.maximum(least, words).astype(np.int64) + 1

    def tokens(self, rng: np.random.Generator, length: Ints) -> Ints:
        """Texts of these lengths, one after another."""
        total = int(length.sum())
        tokens = self.bank.by_chance[rng.integers(0, 1 << 20, total, dtype=np.uint32)]
        tokens += self.bank.before[rng.integers(0, 1 << 10, total, dtype=np.uint16)]
        ends = np.cumsum(length)
        begin = ends - length
        tokens[begin] += Bank.FIRST - (tokens[begin] - self.bank.word) % 6
        tokens[ends - 1] = self.bank.stop
        return tokens


class Batch:
    """Questions with their pairs: first all texts, as tokens, then the rows of every file."""

    def __init__(self, maker: Maker, rng: np.random.Generator, pairs: int, number: int) -> None:
        self.maker, self.rng, self.pairs, self.number = maker, rng, pairs, number
        size = np.maximum(1, np.rint(draw(rng, "pairs_a_question", pairs))).astype(np.int64)
        size = size[: int(np.searchsorted(np.cumsum(size), pairs)) + 1]
        size[-1] -= size.sum() - pairs
        self.size, self.questions = size, len(size)
        self.question = np.repeat(np.arange(self.questions), size)
        self._choose()
        self._write_texts()

    def _choose(self) -> None:
        """What happens to each question: turns, overlap with a benchmark, a near-duplicate."""
        rng, n, known = self.rng, self.questions, self.maker.known
        single = self.size == 1
        several = 1 - MEASURED["prompt_messages"]["1"]
        talks = any(layout != "texts" for layout in self.maker.layouts)
        dialogue = talks & single & (rng.random(n) < several / max(0.05, single.mean()))
        odd = np.array([[int(k), share] for k, share in MEASURED["prompt_messages"].items() if int(k) % 2 and k != "1"])
        self.turns = np.where(dialogue, rng.choice(odd[:, 0].astype(np.int64), n, p=odd[:, 1] / odd[:, 1].sum()), 1)
        self.home = rng.integers(0, 1 << 40, n)
        contaminated = rng.random(n) < MEASURED["contaminated"]
        self.twin = np.full(n, -1)
        clean = np.flatnonzero(~contaminated)
        twins = clean[
            (rng.random(len(clean)) < MEASURED["near_duplicates"]) & (clean > clean[0] if len(clean) else False)
        ]
        for t in twins.tolist():
            of = clean[int(rng.integers(0, np.searchsorted(clean, t)))]
            if self.twin[of] < 0:
                self.twin[t] = of
                self.turns[t] = self.turns[of]
        texts = self.maker.benchmark[1]
        self.entry = np.where(contaminated, rng.integers(0, len(texts.start), n), -1)
        long = texts.length[self.entry] > RUN + 1
        self.partial = contaminated & long & (rng.random(n) > MEASURED["contaminated_whole"])
        whole = contaminated & ~self.partial
        self.maker.used[self.entry[whole]] = True
        known.contaminated += int(self.size[contaminated].sum())
        known.questions += n - int(whole.sum())
        self.whole = whole

    def _write_texts(self) -> None:
        """All texts: the turns of every question in turn, then its responses, one more than it has pairs."""
        rng, maker, n = self.rng, self.maker, self.questions
        turn_of = np.repeat(np.arange(n), self.turns)
        self.turn = Segments.after(self.turns)
        place = np.arange(len(turn_of)) - self.turn.start[turn_of]
        answer = place % 2 == 1
        length = np.where(
            answer, maker.words(rng, "response_bytes", len(turn_of), LEAST_RESPONSE),
            maker.words(rng, "prompt_bytes", len(turn_of), LEAST_PROMPT),
        )  # fmt: skip
        first = self.turn.start
        texts = maker.benchmark[1]
        length[first[self.whole]] = texts.length[self.entry[self.whole]]
        length[first[self.partial]] += RUN
        self.reply = Segments.after(self.size + 1, len(turn_of))
        replies = int(self.size.sum()) + n
        length = np.concatenate([length, maker.words(rng, "response_bytes", replies, LEAST_RESPONSE)])
        copy = self._copies(length)
        length = np.where(copy >= 0, length[copy], length)
        text = Segments.after(length)
        tokens = maker.tokens(rng, length)
        self._flavour(tokens, text, turn_of)
        self._overlap(tokens, text, first)
        self._number(tokens, text, first)
        self._copy(tokens, text, copy, first)
        maker.known.text_bytes += self._bytes(text, turn_of)
        self.text, self.tokens = text, tokens

    def _copies(self, length: Ints) -> Ints:
        """(texts,) of which text each is nearly a copy; -1 for none."""
        texts = len(length)
        copy = np.full(texts, -1)
        for t in np.flatnonzero(self.twin >= 0).tolist():
            of = self.twin[t]
            turns = slice(self.turn.start[t], self.turn.start[t] + self.turns[t])
            copy[turns] = np.arange(self.turn.start[of], self.turn.start[of] + self.turns[t])
            n = 1 + min(self.size[t], self.size[of])
            copy[self.reply.start[t] : self.reply.start[t] + n] = np.arange(
                self.reply.start[of], self.reply.start[of] + n
            )
            self.maker.known.near += int(n - 1)
        later = np.arange(texts) - np.repeat(
            np.concatenate([self.turn.start, self.reply.start]), np.concatenate([self.turns, self.size + 1])
        )
        near = np.flatnonzero((np.arange(texts) >= self.reply.start[0]) & (later > 0) & (copy < 0))
        near = near[self.rng.random(len(near)) < MEASURED["near_duplicates"] / 2]
        of = near - later[near]
        able = (copy[of] < 0) & (length[of] >= LEAST_NEAR)
        near, of = near[able], of[able]
        copy[near] = of
        self.maker.known.near_responses += len(near)
        return copy

    def _flavour(self, tokens: Ints, text: Segments, turn_of: Ints) -> None:
        """Some questions in Chinese characters, some responses with a block of code in their middle."""
        rng, bank = self.rng, self.maker.bank
        owner = np.concatenate([turn_of, np.repeat(np.arange(self.questions), self.size + 1)])
        foreign = (rng.random(self.questions) < MEASURED["with_cjk"])[owner]
        for at in np.flatnonzero(foreign).tolist():
            part = tokens[text.start[at] : text.start[at] + text.length[at] - 1]
            word, form = np.divmod(part - bank.word, 6)
            part[:] = bank.cjk + word % Bank.CJK * 6 + form
        code = (np.arange(len(owner)) >= len(turn_of)) & ~foreign & (rng.random(len(owner)) < MEASURED["with_code"])
        for at in np.flatnonzero(code & (text.length >= 24)).tolist():
            third = int(text.length[at]) // 3
            part = tokens[text.start[at] + third : text.start[at] + 2 * third]
            part[:] = bank.code + part % Bank.CODE
            part[0], part[-1] = bank.fence, bank.unfence

    def _overlap(self, tokens: Ints, text: Segments, first: Ints) -> None:
        """Benchmark prompts as the first turn of a question, or a run of their words within it."""
        source, texts = self.maker.benchmark
        for q in np.flatnonzero(self.whole).tolist():
            entry = texts[self.entry[q] : self.entry[q] + 1]
            tokens[text.start[first[q]] : text.start[first[q]] + text.length[first[q]]] = entry.gather(source)
        for q in np.flatnonzero(self.partial).tolist():
            begin = texts.start[self.entry[q]] + 1
            at = text.start[first[q]] + text.length[first[q]] - 1 - RUN
            tokens[at : at + RUN] = source[begin : begin + RUN]

    def _number(self, tokens: Ints, text: Segments, first: Ints) -> None:
        """Three words after the first of a question that number it, so that no two are equal; not in benchmarks' own."""
        own = np.flatnonzero(~self.whole)
        serial = self.number * self.maker.batch + own
        for n in range(3):
            tokens[text.start[first[own]] + 1 + n] = self.maker.bank.number + serial // 1000**n % 1000

    def _copy(self, tokens: Ints, text: Segments, copy: Ints, first: Ints) -> None:
        """Near-duplicates: the text, with one word in forty changed, and a number of its own where it begins a question."""
        opening = np.zeros(len(copy), bool)
        opening[first] = True
        for at in np.flatnonzero(copy >= 0).tolist():
            n, to, of = int(text.length[at]), text.start[at], text.start[copy[at]]
            number = tokens[to + 1 : to + 4].copy()
            tokens[to : to + n] = tokens[of : of + n]
            if opening[at]:
                tokens[to + 1 : to + 4] = number
            else:
                spots = self.rng.integers(1, n - 1, max(1, n // 40))
                tokens[to + spots] = self.maker.bank.word + 6 * self.rng.integers(1000, Bank.WORDS, len(spots))

    def _bytes(self, text: Segments, turn_of: Ints) -> int:
        """About how many bytes of text the pairs have, each with its prompt and both responses."""
        words = np.bincount(turn_of, text.length[: len(turn_of)], minlength=self.questions) * self.size
        replies = text.length[len(turn_of) :]
        start = self.reply.start - len(turn_of)
        owner = np.repeat(np.arange(self.questions), self.size + 1)
        again = (np.arange(len(replies)) == start[owner]) * (self.size[owner] - 1)
        stops = (self.turns * self.size).sum() + 2 * self.pairs
        return int((words.sum() + (replies * (1 + again)).sum() - stops) * self.maker.bank.word_bytes + stops)


def _scale(mean_bytes: float, word_bytes: float) -> float:
    """By what all lengths are multiplied, so that a pair has so many bytes of text on average."""
    ask, answer, group = (
        np.exp(np.interp(np.linspace(0, 1, 20_001), MEASURED["quantiles_at"], np.log(MEASURED[name])))
        for name in ("prompt_bytes", "response_bytes", "pairs_a_question")
    )
    before = sum((int(turns) - 1) / 2 * share for turns, share in MEASURED["prompt_messages"].items()) / group.mean()
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = (low * high) ** 0.5
        prompt = np.maximum(LEAST_PROMPT * word_bytes, ask * middle).mean()
        response = np.maximum(LEAST_RESPONSE * word_bytes, answer * middle).mean()
        found = (1 + before) * prompt + (2 + before) * response
        low, high = (middle, high) if found < mean_bytes else (low, middle)
    return low


def make(
    out: Path,
    pairs: int,
    mean_bytes: int = 2500,
    seed: int = 0,
    layouts: Sequence[str] = LAYOUTS,
    prompts: int = PROMPTS,
) -> Known:
    """Write a pool of `pairs` different pairs (rows are about a fifth more), a file for each layout, and return what is
    true of it."""
    return Maker(out, pairs, mean_bytes, seed, layouts, prompts).write()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=2500, help="of text in a pair, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS, help="a file for each")
    args = parser.parse_args()
    known = make(args.out, args.pairs, args.bytes, args.seed, args.layouts)
    print(json.dumps(asdict(known)))


if __name__ == "__main__":
    main()
