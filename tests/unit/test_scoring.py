"""A shard's pairs by several reward models in one pass: the rewards of each pair alone, each response scored once."""

import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

import tiny_models
from assay.errors import AssayError
from assay.models import Backbone, load_reward_model, load_tokenizer
from assay.records import Conversation, Message, Pair, Response, user
from assay.reward import scorer as scorers
from assay.reward import scoring
from assay.reward.scorer import LocalScorer, Model, forget, load_scorer
from assay.reward.scoring import score_pairs
from assay.tables import records, to_arrow

SYSTEM = Message(role="system", content="be kind")


def pair(prompt: str, one: str, other: str, *before: Message) -> Pair:
    return Pair.of((*before, user(prompt)), Response.of(one), Response.of(other))


def shard(pairs: Sequence[Pair]) -> pa.Table:
    return to_arrow(Pair, sorted(pairs, key=lambda p: (p.prompt_id, p.id)))


def pairs_of(questions: int, answers: int = 3) -> list[Pair]:
    """All pairs of some answers to each question, of many lengths."""
    made = []
    for q in range(questions):
        said = [f"{'well, ' * ((q + a) % 5)}number {a} of {q}" for a in range(answers)]
        made += [pair(f"question {q}{'?' * (q % 7)}", said[a], said[b]) for a in range(answers) for b in range(a)]
    return made


def alone(scorer: LocalScorer, table: pa.Table) -> NDArray[np.float64]:
    """The rewards of each pair by itself, as two conversations."""
    found = []
    for row in records(Pair, table):
        found.append(scorer([row.prompt + r.messages for r in row.responses]))
    return np.array(found)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models with one tokenizer, and one that reads otherwise."""
    place = tmp_path_factory.mktemp("models")
    made = [tiny_models.reward(place / str(seed), seed) for seed in range(3)]
    other = tiny_models.tokenizer()
    other.chat_template = tiny_models.TEMPLATE.replace("[", "(", 1)
    other.save_pretrained(made[2])
    return made


@pytest.fixture(autouse=True)
def _nothing_held() -> None:
    forget()


def test_rewards_are_those_of_each_pair_alone(folders: list[Path]) -> None:
    table = shard(pairs_of(30))
    models = [Model(str(f), 200, 512) for f in folders]
    found = score_pairs(models, table)
    for folder, scored in zip(folders, found, strict=True):
        expected = alone(load_scorer(folder, 200), table)  # type: ignore[arg-type]
        assert scored.rewards.dtype == np.float32
        np.testing.assert_allclose(scored.rewards, expected, atol=1e-5)
        assert not scored.problems
    again = score_pairs(models, iter(table.to_batches(max_chunksize=7)))
    for scored, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(scored.rewards, other.rewards)
    assert score_pairs(models[:1], table[:0])[0].rewards.shape == (0, 2)


def test_each_response_is_read_and_scored_once(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Six pairs of four answers: four answers for each question, once as tokens for two models, in groups of one prompt."""
    read: list[Conversation] = []
    groups: list[int] = []
    attempts, of_groups = scoring.attempts, LocalScorer.of_groups

    def counted(tokenizer: Any, conversations: Sequence[Conversation], *rest: Any, **options: Any) -> Any:
        read.extend(conversations)
        return attempts(tokenizer, conversations, *rest, **options)

    def grouped(self: LocalScorer, some: Sequence[Any]) -> Any:
        groups.extend(len(g.answers) for g in some)
        return of_groups(self, some)

    monkeypatch.setattr(scoring, "attempts", counted)
    monkeypatch.setattr(LocalScorer, "of_groups", grouped)
    table = shard(pairs_of(5, 4))
    models = [Model(str(f), 200) for f in folders]
    score_pairs(models[:2], table)
    assert (len(read), len(set(read)), groups) == (20, 20, [4] * 10)
    score_pairs(models, table)
    assert len(read) == 20 + 40, "the third model reads otherwise"


def test_what_is_too_long_is_cut_as_its_pair_is_in_training(folders: list[Path]) -> None:
    """A long answer takes its pair's history; the same other answer keeps it in its pair with a short one."""
    asked = "is it so, and why is it so? " * 4
    long, short, other = "because of this. " * 8, "yes", "no, it is not"
    rows = [pair(asked, long, short), pair(asked, short, other), pair(asked, long, other)]
    table = shard(rows)
    scorer = load_scorer(folders[0], 160)
    assert isinstance(scorer, LocalScorer)
    found = score_pairs([Model(str(folders[0]), 160)], table)[0].rewards
    np.testing.assert_allclose(found, alone(scorer, table), atol=1e-5)
    of = {
        (p.id, r.text): reward
        for p, rewards in zip(records(Pair, table), found, strict=True)
        for r, reward in zip(p.responses, rewards, strict=True)
    }
    assert of[rows[0].id, short] != of[rows[1].id, short], "cut beside the long answer, whole beside the other"


def test_responses_that_a_model_cannot_read_have_no_reward(folders: list[Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders[0], tmp_path / "strict"))
    strict = tiny_models.tokenizer()
    strict.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    strict.save_pretrained(folder)
    table = to_arrow(Pair, [pair("one?", "yes", "no"), pair("two?", "yes", "no", SYSTEM)])
    strict_rewards, plain = score_pairs([Model(str(folder)), Model(str(folders[0]))], table)
    assert np.isfinite(plain.rewards).all()
    assert np.isfinite(strict_rewards.rewards).tolist() == [[True, True], [False, False]]
    assert strict_rewards.problems == {"the chat template refuses it: no system turn": 2}


def test_no_number_is_never_a_reward(folders: list[Path]) -> None:
    scorer = load_scorer(folders[0])
    assert isinstance(scorer, LocalScorer)
    scorer.model.model.score.weight.data.fill_(float("nan"))
    with pytest.raises(AssayError, match="2 of 2 rewards are no numbers"):
        score_pairs([scorer], shard([pair("one?", "yes", "no")]))


def test_other_scorers_are_asked_for_each_response_once() -> None:
    asked: list[Conversation] = []

    def length(conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        asked.extend(conversations)
        return np.array([float(len(c[-1].content)) for c in conversations])

    table = shard(pairs_of(4, 3))
    found = score_pairs([length], table)[0]
    assert found.rewards.tolist() == [[len(r.text) for r in p.responses] for p in records(Pair, table)]
    assert len(asked) == 12

    def silent(conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        return np.array([np.nan if "1" in c[-1].content else 1.0 for c in conversations])

    with pytest.raises(AssayError, match="rewards are no numbers"):
        score_pairs([silent], table)
    silent.may_fail = True  # type: ignore[attr-defined]
    some = score_pairs([silent], table)[0]
    assert some.problems == {"the scorer gave no number for it": int(np.isnan(some.rewards).sum())}


def test_chunks_hold_few_passes_of_text(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the shard is; a prompt's rows stay together."""
    sizes: list[tuple[int, int]] = []
    read = scoring._Chunk.read

    def measured(self: Any, scorer: LocalScorer) -> None:
        sizes.append((sum(len(m.content) for c in self.whole for m in c), len(self.runs)))
        read(self, scorer)

    monkeypatch.setattr(scoring._Chunk, "read", measured)
    table = shard(pairs_of(60, 3))
    score_pairs([Model(str(folders[0]), 200, 64)], table)
    limit = scoring.PASSES * scoring.LETTERS * 64
    assert len(sizes) > 3
    assert max(letters for letters, _ in sizes) < limit + 200
    assert sum(runs for _, runs in sizes) == 60


def test_a_model_travels_without_weights_and_is_loaded_once_in_a_process(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = scorers.load_scorer

    def counted(folder: str, *rest: Any, **options: Any) -> Any:
        loads.append(Path(folder).name)
        assert len(scorers._LOADED) < scorers.HELD, "the oldest is let go before another is loaded"
        return load(folder, *rest, **options)

    monkeypatch.setattr(scorers, "load_scorer", counted)
    model = Model(str(folders[0]), 200)
    chats = [(*p.prompt, *r.messages) for p in pairs_of(2) for r in p.responses]
    before = model(chats)
    sent = pickle.dumps(model)
    assert len(sent) < 1_000
    other = pickle.loads(sent)
    np.testing.assert_array_equal(other(chats), before)
    Model(str(folders[1]))(chats)
    model(chats)
    assert loads == ["0", "1"]
    Model(str(folders[2]))(chats)
    model(chats)
    assert loads == ["0", "1", "2"], "the one that was asked last but one went"
    Model(str(folders[1]))(chats)
    assert loads == ["0", "1", "2", "1"]
    folder = Path(shutil.copytree(folders[0], tmp_path / "rm"))
    again = Model(str(folder))
    first = again(chats)
    shutil.rmtree(folder)
    tiny_models.reward(folder, seed=9)
    assert not np.allclose(again(chats), first), "a folder that was written anew"
    forget()
    assert not scorers._LOADED


def test_an_encoder_scores_the_same() -> None:
    tokenizer = load_tokenizer("minilm")
    torch.manual_seed(0)
    scorer = LocalScorer(load_reward_model(Backbone(name="minilm", layers=1), tokenizer).eval(), tokenizer, 64, 256)
    assert scorer.model.packed
    assert not scorer.model.shares
    table = shard(pairs_of(6, 3))
    np.testing.assert_allclose(score_pairs([scorer], table)[0].rewards, alone(scorer, table), atol=1e-4)
