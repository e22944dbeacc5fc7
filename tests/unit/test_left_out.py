"""Pairs that a backbone cannot read: found before training, left out, counted, named; the others train as alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from assay import models
from assay.errors import AssayError, CannotRead
from assay.records import Conversation, Message, Pair, Preference, Response, assistant, user
from assay.reward.config import TrainConfig
from assay.reward.data import MemoryPairs, ParquetPairs
from assay.reward.left_out import SAME
from assay.reward.renderer import Renderer
from assay.reward.scorer import LocalScorer, load_scorer
from assay.reward.train import train
from assay.tables import Table

STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}"
    "[{{ m['role'][0] }}]{{ m['content'].split('</think>')[-1] }}"
    "{% if m['role'] == 'assistant' %}<end>{% endif %}{% endfor %}"
)
SYSTEM = Message(role="system", content="be kind")
CONFIG = {"batch_pairs": 4, "checks": 1, "lr": 1e-3, "max_tokens": 128}


def preference(n: int, *before: Message, good: str = "good", bad: str = "bad") -> Preference:
    chosen, rejected = Response.of(f"{good} {n}"), Response.of(f"{bad} {n}")
    return Pair.of((*before, user(f"question {n}")), chosen, rejected).preferring(chosen.id)


PAIRS = [preference(n) for n in range(10)]
SYSTEMS = [preference(n, SYSTEM) for n in (20, 21)]
THOUGHT = preference(30, good="<think>one</think> same", bad="<think>two</think> same")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tiny_models.save_language(tmp_path_factory.mktemp("strict"))
    made = tiny_models.tokenizer()
    made.chat_template = STRICT
    made.save_pretrained(folder)
    return str(folder)


def weights(folder: Path) -> Any:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def test_refused_pairs_are_named_and_the_model_is_that_of_the_others(backbone: str, tmp_path: Path) -> None:
    said: list[str] = []
    config = TrainConfig(backbone=backbone, **CONFIG)
    trained = train(tmp_path / "m", config, [*SYSTEMS, *PAIRS, THOUGHT], [*SYSTEMS[:1], *PAIRS[:2]], said.append)
    reason = "the chat template refuses it: no system turn here"
    assert trained.left_out == {reason: 2, SAME: 1}
    assert (trained.pairs, trained.gold_pairs) == (10, 2)
    first = next(i for i, line in enumerate(said) if "step" in line)
    ids = f"({', '.join(sorted(p.pair_id for p in SYSTEMS))})"
    assert said[:first].count(f"m: 2 pairs left out: {reason} {ids}") == 1, "before anything is trained"
    assert f"m: 1 gold pair left out: {reason} ({SYSTEMS[0].pair_id})" in said
    rows = [json.loads(line) for line in (tmp_path / "m" / "left_out.jsonl").read_text().splitlines()]
    assert {(r["of"], r["pair_id"]) for r in rows} == {
        *(("pairs", p.pair_id) for p in (*SYSTEMS, THOUGHT)), ("gold pairs", SYSTEMS[0].pair_id),
    }  # fmt: skip
    plain = train(tmp_path / "plain", config, PAIRS, PAIRS[:2])
    assert plain.left_out == {}
    assert not (tmp_path / "plain" / "left_out.jsonl").exists()
    one, other = weights(tmp_path / "m"), weights(tmp_path / "plain")
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_streamed_pairs_are_left_out_as_they_come(backbone: str, tmp_path: Path) -> None:
    table = Table(tmp_path / "shards", Preference)
    table.write("a", [*SYSTEMS, *PAIRS])
    table.write("b", [preference(n, SYSTEM) for n in range(40, 48)])
    trained = train(tmp_path / "m", TrainConfig(backbone=backbone, **CONFIG), ParquetPairs(tmp_path / "shards", 4), [])
    assert trained.left_out == {"the chat template refuses it: no system turn here": 10}
    assert len((tmp_path / "m" / "left_out.jsonl").read_text().splitlines()) == 10
    steps = [json.loads(line) for line in (tmp_path / "m" / "metrics.jsonl").read_text().splitlines()]
    assert sum(s["pairs"] for s in steps) == trained.presented == 10


def test_nothing_left_is_an_error_with_its_reason(backbone: str, tmp_path: Path) -> None:
    with pytest.raises(
        AssayError, match="none of the 2 pairs can be read by this model: the chat template refuses it: no sys"
    ):
        train(tmp_path / "m", TrainConfig(backbone=backbone, **CONFIG), SYSTEMS, [])
    Table(tmp_path / "shards", Preference).write("a", SYSTEMS)
    for window, says in ((100, "none of the 2 pairs can be read"), (1, "none of the first 2 pairs can be read")):
        source = ParquetPairs(tmp_path / "shards", window)
        with pytest.raises(AssayError, match=says):
            train(tmp_path / "n", TrainConfig(backbone=backbone, **CONFIG), source, [])


def test_every_process_checks_its_share_and_all_know_what_is_left_out(backbone: str) -> None:
    made = models.load_tokenizer(backbone)
    pairs = MemoryPairs([*SYSTEMS, *PAIRS])
    found = [
        [(i, p.pair_id, "why") for i, p in enumerate(pairs.pairs) if p in SYSTEMS and i % 2 == rank] for rank in (0, 1)
    ]
    for rank in (0, 1):
        render = Renderer(made, 100)
        kept = render.readable(pairs, lambda own, rank=rank: [*own, *found[1 - rank]], rank, 2)  # type: ignore[misc]
        assert [p for p in pairs.pairs if p not in SYSTEMS] == [p for _, p in sorted(kept.take(0, 0, range(len(kept))))]
        numbered = kept.take(0, 0, range(len(kept)))
        again = Renderer(made, 100)(numbered)
        for one, other in zip(render(numbered), again, strict=True):
            assert one.group.answers[0].tolist() == other.group.answers[0].tolist(), (
                "what is remembered has its new number"
            )


def test_answers_that_become_the_same_by_cutting_are_left_out(backbone: str) -> None:
    render = Renderer(models.load_tokenizer("minilm"), 24)
    same = preference(1, good="word " * 40 + "good", bad="word " * 40 + "bad")
    assert render.render([same, PAIRS[0]])
    assert list(render.left.counts()) == [f"{SAME}, cut to 24 of them"]


def test_a_scorer_gives_no_number_for_what_it_cannot_read(backbone: str, tmp_path: Path) -> None:
    folder = tiny_models.reward(tmp_path / "r")
    made = tiny_models.tokenizer()
    made.chat_template = STRICT
    made.save_pretrained(folder)
    scorer = load_scorer(folder, 100)
    assert isinstance(scorer, LocalScorer)
    chats: list[Conversation] = [(user("q"), assistant("a")), (SYSTEM, user("q"), assistant("a"))]
    rewards = scorer(chats)
    assert np.isfinite(rewards).tolist() == [True, False]
    assert scorer.problems == {"the chat template refuses it: no system turn here": 1}
    assert list(scorer.refused) == [chats[1]]
    scorer.model.model.score.weight.data.fill_(float("nan"))
    with pytest.raises(AssayError, match="1 of 1 rewards are no numbers"):
        scorer(chats)


def test_a_remembered_pair_keeps_its_place(backbone: str) -> None:
    render = Renderer(models.load_tokenizer(backbone), 100)
    (one,) = render.tried(SYSTEMS[:1])
    assert isinstance(one, CannotRead)
    assert len(render([(0, PAIRS[0]), (1, SYSTEMS[0]), (2, PAIRS[1])])) == 2
    assert len(render([(1, SYSTEMS[0])])) == 0
