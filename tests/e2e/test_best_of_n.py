"""`assay best-of-n` with a local policy and with a chat: every candidate kept, the best chosen, resumed, refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from assay.errors import AssayError
from assay.images import ImageStore
from assay.llm.chat import Request
from assay.llm.outage import Loss, Unreached
from assay.llm.replies import Reply
from assay.policy.config import SamplerConfig
from assay.records import Conversation, user
from assay.reward.scorer import load_scorer
from assay.rollouts import Prompt
from assay.tuning.best_of_n import PART, Said, best_of_n, chat_answers, local_answers
from in_process import assay_here


def ask(folder: Path, n: int) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": f"what is {k}?"}) + "\n" for k in range(n)))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_local_policy_and_a_reward_model(tmp_path: Path) -> None:
    tiny_models.save_language(tmp_path / "policy", "qwen3")
    reward = tiny_models.reward(tmp_path / "reward")
    line = ("best-of-n", ask(tmp_path, PART + 2), "--policy", tmp_path / "policy", "--reward", reward,
            "--out", tmp_path / "best.jsonl", "-n", "3", "--sampler.max-tokens", "8")  # fmt: skip
    done = assay_here(*line)
    assert done.returncode == 0, done.stderr
    assert f"{PART + 2} questions, best of 3" in done.stdout
    rows = read(tmp_path / "best.jsonl")
    scorer = load_scorer(reward)
    for row in rows:
        told = {c["text"]: c["reward"] for c in row["candidates"] if not c["problem"]}
        assert len(row["candidates"]) == 3
        ended = [c["reward"] for c in row["candidates"] if not c["problem"] and not c.get("cut")]
        assert row["reward"] == max(ended or told.values()) == told[row["best"]]
        again = scorer([(user(row["question"]), *_answer(t)) for t in told])
        np.testing.assert_allclose(list(told.values()), again, atol=1e-4)
    whole = (tmp_path / "best.jsonl").read_bytes()
    torn = b"".join(whole.splitlines(keepends=True)[:PART]) + b'{"id": "half'
    (tmp_path / "best.jsonl").write_bytes(torn)
    assert assay_here(*line).returncode == 0
    assert (tmp_path / "best.jsonl").read_bytes() == whole, "a killed run goes on to the same result"
    refused = assay_here(*(*line[:-3], "4", *line[-2:]))
    assert refused.returncode == 2
    assert "answers of other inputs (n: 3 -> 4)" in refused.stderr
    other = tiny_models.reward(tmp_path / "other", seed=1)
    refused = assay_here(*line[:5], other, *line[6:])
    assert refused.returncode == 2
    assert "answers of other inputs (reward: " in refused.stderr
    assert (tmp_path / "best.jsonl").read_bytes() == whole


def _answer(text: str) -> Conversation:
    from assay.records import assistant

    return (assistant(text),)


class Chat:
    """Three answers of growing length; the second sample of question 1 fails, all of question 2."""

    name = "chat"

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        return [self.one(r) for r in requests]

    def one(self, request: Request) -> Reply:
        question = request.messages[-1].content
        if "is 2" in question or ("is 1" in question and request.sample == 1):
            return Reply(problem="refused")
        return Reply(text="x" * (1 + request.sample))


def test_failures_are_kept_and_never_chosen(tmp_path: Path) -> None:
    def longest(flat: Sequence[Conversation]) -> Any:
        return np.array(
            [np.nan if c[0].content == "what is 0?" and c[-1].content == "xxx" else len(c[-1].content) for c in flat]
        )

    store = ImageStore(tmp_path / "images")
    told = best_of_n(
        ask(tmp_path, 3), tmp_path / "out.jsonl", 3, chat_answers(Chat()), longest, store, say=lambda _: None
    )
    first, second, third = read(tmp_path / "out.jsonl")
    assert (first["best"], first["candidates"][2]["problem"]) == ("xx", "no reward")
    assert (second["best"], second["candidates"][1]["problem"]) == ("xxx", "refused")
    assert second["mean_reward"] == 2.0
    assert third["best"] is None
    assert "5 candidates without a reward" in told
    with pytest.raises(AssayError, match="give -n 1 or more"):
        best_of_n(tmp_path / "questions.jsonl", tmp_path / "o", 0, chat_answers(Chat()), longest, store)


def test_what_is_cut_off_is_the_best_of_none_that_ended(tmp_path: Path) -> None:
    """Longer is better to this reward model, so it likes what never ends; and a thought is no part of an answer."""
    first = [Said("a long one without an e", cut=True), Said("an end"), Said("the end.")]
    said = [first, [Said("cut", cut=True), Said("cu", cut=True)]]
    lengths = lambda flat: np.array([float(len(c[-1].content)) for c in flat])  # noqa: E731
    store, out = ImageStore(tmp_path / "images"), tmp_path / "out.jsonl"
    told = best_of_n(
        ask(tmp_path, 2), out, 3, lambda prompts, n, part: [[*g, *g[:1]][:n] for g in said], lengths, store,
        say=lambda _: None,
    )  # fmt: skip
    assert [r["best"] for r in read(out)] == ["the end.", "cut"]
    assert [c.get("cut", False) for c in read(out)[0]["candidates"]] == [True, False, False]
    assert "4 candidates were cut off by the limit of tokens; of 1 questions none ended" in told


def test_a_local_policy_s_thoughts_are_not_scored_and_what_the_limit_cut_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.save_language(tmp_path / "policy", "qwen3")
    answers, _ = local_answers(str(tmp_path / "policy"), ImageStore(tmp_path / "i"), SamplerConfig(max_tokens=4), 0)
    found = answers([Prompt(messages=(user("what?"),))], 6, 0)[0]
    assert any(one.cut for one in found)
    drawn = iter([("<think>hm</think>yes", True), ("<think>hm", False), ("", True), ("no", False)])

    def batch_decode(*_: Any, **__: Any) -> list[str]:
        return [text for text, _ in drawn]

    tokenizer = type(tiny_models.tokenizer())
    monkeypatch.setattr(tokenizer, "batch_decode", batch_decode)
    told = answers([Prompt(messages=(user("what?"),))], 4, 0)[0]
    assert [(x.text, x.problem) for x in told] == [
        ("yes", ""), ("", "a thought that does not end"), ("", "empty"), ("no", ""),
    ]  # fmt: skip


def test_questions_that_a_server_left_unanswered_hold_up_no_others(tmp_path: Path) -> None:
    path, out = ask(tmp_path, 2 * PART), tmp_path / "out.jsonl"
    down = [True]

    def answers(prompts: Sequence[Prompt], n: int, number: int) -> list[list[Said]]:
        if number == 0 and down[0]:
            raise Unreached([Loss(model="m", asked=n, problems=("http 503",), silent=False)])
        return [[Said(f"answer {k}") for k in range(n)] for _ in prompts]

    def scorer(conversations: Sequence[Conversation]) -> np.ndarray:
        return np.arange(len(conversations), dtype=np.float64)

    with pytest.raises(Unreached):
        best_of_n(path, out, 2, answers, scorer, ImageStore(tmp_path / "images"))
    assert len(read(out)) == PART, "the second part is there"
    down[0] = False
    best_of_n(path, out, 2, answers, scorer, ImageStore(tmp_path / "images"))
    assert len(read(out)) == 2 * PART
