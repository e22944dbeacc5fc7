"""The rows of a batch of questions, as JSON lines in the layout of each file: votes, copies, ties, and what is malformed."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scale_words import MEASURED, Ints

if TYPE_CHECKING:
    from scale_pool import Batch

LAYOUTS = ("messages", "texts", "messages", "prompt", "messages", "texts", "dialogue", "conversation")
"""Of files, in turn: chosen and rejected as message lists, as texts beside a prompt (no dialogues), as messages beside those
of a prompt and with scores, as dialogues in the style of HH, and two conversations with a winner."""
BAD = ("equal", "empty", "cut", "unnamed")
"""Kinds of malformed rows: both responses the same (as nearly all in the real sets are), one without text, a line that is
cut off, a missing field."""
_BAD_SHARES = (0.92, 0.04, 0.02, 0.02)
PIECES = {
    "m first": '{"role": "user", "content": "', "m user": ', {"role": "user", "content": "',
    "m assistant": ', {"role": "assistant", "content": "', "m end": '"}',
    "d first": "\\n\\nHuman: ", "d user": "\\n\\nHuman: ", "d assistant": "\\n\\nAssistant: ", "d end": "",
    "chosen [": '{"chosen": [', "]} rejected [": '"}], "rejected": [', "]} rejectd [": '"}], "rejectd": [', "]}": '"}]}\n',
    "chosen": '{"chosen": "', "rejected": '", "rejected": "', "rejectd": '", "rejectd": "', "end": '"}\n',
    "prompt": '{"prompt": "', "t chosen": '", "chosen": "',
    "prompt [": '{"prompt": [', "p chosen [": '], "chosen": [{"role": "assistant", "content": "',
    "p rejected [": '"}], "rejected": [{"role": "assistant", "content": "',
    "p rejectd [": '"}], "rejectd": [{"role": "assistant", "content": "',
    "a [": '{"conversation_a": [', "b [": '"}], "conversation_b": [', "b? [": '"}], "conversation_c": [',
    "a": '"}], "winner": "model_a"}\n', "b": '"}], "winner": "model_b"}\n', "tie": '"}], "winner": "tie"}\n', "cut": "\n",
    **{f"score {n}": f'"}}], "score_chosen": {5 + n}, "score_rejected": 5}}\n' for n in range(1, 5)},
}  # fmt: skip


@dataclass
class Segments:
    """Where pieces lie in an array of tokens."""

    start: Ints
    length: Ints

    @staticmethod
    def after(length: Ints, base: int = 0) -> "Segments":
        """Pieces of these lengths, one after another."""
        return Segments(base + np.cumsum(length) - length, length)

    def __getitem__(self, at: Any) -> "Segments":
        return Segments(self.start[at], self.length[at])

    def gather(self, tokens: Ints) -> Ints:
        """The pieces, one after another."""
        ends = np.cumsum(self.length)
        total = int(ends[-1]) if len(ends) else 0
        return tokens[np.repeat(self.start - (ends - self.length), self.length) + np.arange(total)]


@dataclass
class Rows:
    """Rows to be written, (rows,) each: the number of the file and of the pair, whether the vote is turned round, tied,
    malformed (place in `BAD`, -1 for not), shown the other way round, a difference of scores, and whether the row is a copy,
    which goes behind the next batch."""

    file: Ints
    pair: Ints
    turned: NDArray[np.bool_]
    tie: NDArray[np.bool_]
    bad: Ints
    swapped: NDArray[np.bool_]
    strength: Ints
    late: NDArray[np.bool_]

    def __getitem__(self, at: Any) -> "Rows":
        return Rows(*(getattr(self, f.name)[at] for f in fields(self)))

    @staticmethod
    def of(batch: "Batch") -> "Rows":
        """A vote for each pair, more for some, and malformed rows, as often as in real sets; counted in `batch.known`."""
        rng, known, n = batch.rng, batch.maker.known, batch.pairs
        votes = _repeat_votes()
        repeated = rng.random(n) < MEASURED["repeats"] / (1 - MEASURED["repeats"]) / (votes - 1).mean()
        extra = np.where(repeated, rng.choice(votes, n) - 1, 0)
        conflict = repeated & (rng.random(n) < MEASURED["conflicts"])
        copies = np.repeat(np.arange(n), extra)
        pair = np.concatenate([np.arange(n), copies])
        file = _files(batch, pair)
        turned = np.zeros(len(pair), bool)
        turned[n + np.searchsorted(copies, np.flatnonzero(conflict))] = True
        judged = np.array([layout == "conversation" for layout in batch.maker.layouts])[file]
        rate = MEASURED["ties"] * max(1.0, len(judged) / max(1, judged.sum()))
        tie = judged & ~turned & (rng.random(len(pair)) < rate)
        share = MEASURED["malformed"] / (1 - MEASURED["malformed"])
        bad = rng.choice(len(BAD), int(rng.binomial(len(pair), share)), p=_BAD_SHARES)
        one, other = np.bincount(pair[~turned & ~tie], minlength=n), np.bincount(pair[turned], minlength=n)
        known.pairs += n
        known.votes += len(pair)
        known.repeats += len(copies)
        known.conflicts += int(((one > 0) & (other > 0)).sum())
        known.ties += int(tie.sum())
        known.malformed += len(bad)
        known.rows += len(pair) + len(bad)
        total, none, picked = len(pair) + len(bad), np.zeros(len(bad), bool), rng.integers(0, n, len(bad))
        late = np.arange(total) >= n
        late[len(pair) :] = False
        rows = Rows(
            np.concatenate([file, _files(batch, picked)]), np.concatenate([pair, picked]),
            np.concatenate([turned, none]), np.concatenate([tie, none]), np.concatenate([np.full(len(pair), -1), bad]),
            rng.random(total) < 0.5, rng.integers(1, 5, total), late,
        )  # fmt: skip
        return rows[rng.permutation(total)]


def _files(batch: "Batch", pair: Ints) -> Ints:
    """A file for each of these pairs: the questions of a batch have one each, other rows of a pair come in others."""
    every = np.arange(len(batch.maker.layouts))
    talk = np.array([n for n in every if batch.maker.layouts[n] != "texts"], np.int64)
    question = batch.question[pair]
    dialogue = batch.turns[question] > 1
    count = np.where(dialogue, len(talk), len(every))
    again = np.arange(len(pair)) >= batch.pairs
    step = np.where(again, 1 + batch.rng.random(len(pair)) * (count - 1), 0).astype(np.int64)
    place = (batch.home[question] + step) % np.maximum(1, count)
    return np.where(dialogue, talk[place % max(1, len(talk))] if len(talk) else 0, every[place % len(every)])


def _repeat_votes() -> Ints:
    at = np.linspace(0, 1, 200)
    return np.rint(np.interp(at, MEASURED["quantiles_at"], MEASURED["votes_a_repeated_pair"])).astype(np.int64)


class Writer:
    """Puts the texts of a batch between pieces of JSON."""

    def __init__(self, batch: "Batch") -> None:
        self.batch = batch
        self.at = {name: len(batch.tokens) + n for n, name in enumerate(PIECES)}

    def files(self) -> list[tuple[bytes, bytes]]:
        """For each file, its rows of this batch, and those that go behind the next batch."""
        rows = Rows.of(self.batch)
        return [
            (self._lines(n, rows[(rows.file == n) & ~rows.late]), self._lines(n, rows[(rows.file == n) & rows.late]))
            for n in range(len(self.batch.maker.layouts))
        ]

    @cached_property
    def _source(self) -> tuple[Ints, int]:
        """All tokens, then one of each piece of JSON; where these begin."""
        return np.concatenate([self.batch.tokens, self.batch.maker.pieces]), len(self.batch.tokens)

    @cached_property
    def _winner(self) -> tuple[Ints, Ints]:
        """The texts of the chosen and the rejected response of each pair: the longer wins as often as in the real sets."""
        place = np.arange(self.batch.pairs) - (np.cumsum(self.batch.size) - self.batch.size)[self.batch.question]
        one, two = self.batch.reply.start[self.batch.question], self.batch.reply.start[self.batch.question] + 1 + place
        longer = self.batch.text.length[one] > self.batch.text.length[two]
        first = np.where(self.batch.rng.random(self.batch.pairs) < MEASURED["longer_wins"], longer, ~longer)
        return np.where(first, one, two), np.where(first, two, one)

    def _prompts(self, style: str) -> tuple[Ints, Segments]:
        """Every question's turns as JSON, and where each question's are."""
        source, base = self._source
        turns = int(self.batch.turns.sum())
        place = np.arange(turns) - np.repeat(self.batch.turn.start, self.batch.turns)
        at = {k: base + n for n, k in enumerate(PIECES)}
        opening = np.where(place % 2 == 1, at[f"{style} assistant"], at[f"{style} user"])
        opening[self.batch.turn.start] = at[f"{style} first"]
        start = np.stack([opening, self.batch.text.start[:turns], np.full(turns, at[f"{style} end"])], 1).ravel()
        length = np.stack(
            [np.ones(turns, np.int64), self.batch.text.length[:turns], np.ones(turns, np.int64)], 1
        ).ravel()
        each = np.add.reduceat(self.batch.text.length[:turns] + 2, self.batch.turn.start)
        return Segments(start, length).gather(source), Segments.after(each)

    @cached_property
    def _messages(self) -> tuple[Ints, Segments]:
        return self._prompts("m")

    @cached_property
    def _dialogue(self) -> tuple[Ints, Segments]:
        return self._prompts("d")

    def _lines(self, file: int, rows: Rows) -> bytes:
        layout = self.batch.maker.layouts[file]
        tokens, prompts = self._dialogue if layout == "dialogue" else self._messages
        source, _ = self._source
        question, text = self.batch.question[rows.pair], self.batch.text
        prompt = Segments(len(source) + prompts.start[question], prompts.length[question])
        chosen, rejected = (side[rows.pair] for side in self._winner)
        win, lose = np.where(rows.turned, rejected, chosen), np.where(rows.turned, chosen, rejected)
        lose = np.where(rows.bad == BAD.index("equal"), win, lose)
        empty = rows.bad == BAD.index("empty")
        better, worse = text[win], Segments(text.start[lose], np.where(empty, 0, text.length[lose]))
        if layout == "texts":
            turn = self.batch.turn.start[question]
            prompt = text[turn]
        row = (self._judged if layout == "conversation" else self._chosen)(layout, rows, prompt, better, worse)
        start, length = (np.stack([getattr(s, k) for s in row], 1).ravel() for k in ("start", "length"))
        return bytes(self.batch.maker.bank.text(Segments(start, length).gather(np.concatenate([source, tokens]))))

    def _chosen(
        self, layout: str, rows: Rows, prompt: "Segments", better: "Segments", worse: "Segments"
    ) -> list["Segments"]:
        n = len(rows.pair)
        unnamed, cut = rows.bad == BAD.index("unnamed"), rows.bad == BAD.index("cut")
        if layout == "prompt":
            middle = self._either(unnamed, "p rejectd [", "p rejected [")
            score = np.where(cut, self.at["cut"], self.at["score 1"] + rows.strength - 1)
            return [self._piece("prompt [", n), prompt, self._piece("p chosen [", n), better, middle, worse,
                    Segments(score, np.ones(n, np.int64))]  # fmt: skip
        if layout == "texts":
            return [self._piece("prompt", n), prompt, self._piece("t chosen", n), better,
                    self._either(unnamed, "rejectd", "rejected"), worse, self._either(cut, "cut", "end")]  # fmt: skip
        if layout == "dialogue":
            says, begin, end = "d assistant", "chosen", self._either(cut, "cut", "end")
            middle = self._either(unnamed, "rejectd", "rejected")
        else:
            says, begin, end = "m assistant", "chosen [", self._either(cut, "cut", "]}")
            middle = self._either(unnamed, "]} rejectd [", "]} rejected [")
        says_ = self._piece(says, n)
        return [self._piece(begin, n), prompt, says_, better, middle, prompt, says_, worse, end]

    def _judged(
        self, _: str, rows: Rows, prompt: "Segments", better: "Segments", worse: "Segments"
    ) -> list["Segments"]:
        n, swap, at = len(rows.pair), rows.swapped, self.at
        a, b = (
            Segments(np.where(swap, one.start, other.start), np.where(swap, one.length, other.length))
            for one, other in ((worse, better), (better, worse))
        )
        winner = np.where(rows.tie, at["tie"], np.where(swap, at["b"], at["a"]))
        winner = np.where(rows.bad == BAD.index("cut"), at["cut"], winner)
        middle = self._either(rows.bad == BAD.index("unnamed"), "b? [", "b [")
        says = self._piece("m assistant", n)
        return [self._piece("a [", n), prompt, says, a, middle, prompt, says, b, Segments(winner, np.ones(n, np.int64))]

    def _piece(self, name: str, n: int) -> "Segments":
        return Segments(np.full(n, self.at[name]), np.ones(n, np.int64))

    def _either(self, flag: NDArray[np.bool_], yes: str, no: str) -> "Segments":
        return Segments(np.where(flag, self.at[yes], self.at[no]), np.ones(len(flag), np.int64))
