"""Gold that chooses a checkpoint asks no question that is trained on: by question and by pair, in a pool and in Parquet."""

from dataclasses import replace
from pathlib import Path

import pytest

from assay.curate.shards import create
from assay.errors import AssayError
from assay.pipeline.finished import training_data
from assay.records import Judgement, Pair, Preference, Response, assistant, user
from assay.reward.data import Pairs, ParquetPairs
from assay.tables import Table


def pairs_of(question: str, n: int = 2) -> list[Pair]:
    return [
        Pair.of((user(question),), Response.of(f"good {k} to {question}"), Response.of(f"bad {k} to {question}"))
        for k in range(n)
    ]


def preference(pair: Pair) -> Preference:
    return pair.preferring(next(r.id for r in pair.responses if r.text.startswith("good")))


def pool(folder: Path, pairs: list[Pair]) -> Path:
    votes = [Judgement(pair_id=p.id, better=preference(p).chosen.id, by="source", kind="wild") for p in pairs]
    create(folder, pairs, votes, parts=3)
    return folder


QUESTIONS = [f"Question  {n}, and\n what?" for n in range(6)]
PAIRS = [p for q in QUESTIONS for p in pairs_of(q)]


def gold(folder: Path) -> Path:
    """A pair that is trained on, another one of a known question, and one that goes on from a known question."""
    same, fresh = preference(PAIRS[0]), preference(pairs_of(QUESTIONS[1], 3)[2])
    longer = preference(PAIRS[4])
    longer = replace(longer, prompt=(user("Question 2, and what? "), assistant("this"), user("and then?")))
    Table(folder, Preference).write("gold", [same, fresh, longer])
    return folder


def everything(pairs: Pairs) -> list[Preference]:
    return [p for _, p in pairs.take(0, 0, range(len(pairs)))]


def test_questions_of_gold_are_left_out_of_a_pool(tmp_path: Path) -> None:
    said: list[str] = []
    place, beside = pool(tmp_path / "pool", PAIRS), tmp_path / "data"
    found, held = training_data(place, "raw", gold(tmp_path / "gold"), beside, said.append)
    assert len(held) == 3
    assert {p.prompt[0].content for p in everything(found)} == set(QUESTIONS[3:])
    assert said == ["6 of 12 pairs ask a question of the gold: left out of training"]
    said.clear()
    other = tmp_path / "other"
    Table(other, Preference).write("gold", [preference(pairs_of("Another?", 1)[0])])
    found, _ = training_data(place, "raw", other, beside, said.append)
    assert (len(everything(found)), said) == (12, [])
    Table(other, Preference).write("more", [preference(p) for p in PAIRS])
    with pytest.raises(AssayError, match="none is left to train on"):
        training_data(place, "raw", other, beside)


def test_parquet_that_asks_questions_of_gold_is_refused(tmp_path: Path) -> None:
    shards = Table(tmp_path / "prefs", Preference)
    shards.write("part-0", [preference(p) for p in PAIRS[6:]])
    kept, _ = training_data(tmp_path / "prefs", "raw", gold(tmp_path / "gold"), tmp_path / "data")
    assert len(kept) == 6
    shards.write("part-1", [preference(p) for p in PAIRS[:6]])
    with pytest.raises(AssayError, match=f"6 of 12 pairs ask a question of .*gold .the first is {PAIRS[0].id}"):
        training_data(tmp_path / "prefs", "raw", tmp_path / "gold", tmp_path / "data")
    assert not (tmp_path / "data").exists(), "what is streamed already is not made again"


def test_questions_are_found_in_every_batch_of_a_shard(tmp_path: Path) -> None:
    """A shard read four rows at a time; who asks the question later, or has it answered, does not ask it."""
    filler = preference(pairs_of("Nothing of gold?", 1)[0])
    asked = replace(filler, prompt=(user("you"), assistant("a"), user("Is it so?")))
    told = [replace(filler, prompt=(user(" Is it\tso?"),), pair_id=i) for i in ("first", "last")]
    Table(tmp_path / "prefs", Preference).write("part", [told[0], asked, *[filler] * 7, asked, told[1]])
    pairs = ParquetPairs(tmp_path / "prefs", window=4)
    found = pairs.asking([(user("Is it so?"), assistant("yes"), user("why?"))])
    assert found == ["first", "last"]
