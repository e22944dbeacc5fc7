"""What models cannot read, from the command line: named, left out, counted; the command goes on and says so."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from assay.bench.reward.pairs import evaluate_pairs
from assay.records import Message, Pair, Preference, Response, user
from assay.reward.scorer import load_scorer
from in_process import assay

ALTERNATE = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must alternate, the user first') }}{% endif %}[{{ m['role'][0] }}]{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<end>{% endif %}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('a system turn is unknown') }}{% endif %}"
    "{% for m in messages %}[{{ m['role'][0] }}]{{ m['content'].split('</think>')[-1] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)
SHARED = Path(os.environ.get("ASSAY_SHARED_FIELD", Path(__file__).parents[3] / "shared" / "field"))


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def row(prompt: list[dict[str, str]], good: str, bad: str) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": [turn("assistant", good)], "rejected": [turn("assistant", bad)]}


GOOD_ROWS = [row([turn("user", f"How tall is hill {n}?")], f"It is {n} m.", "Who knows.") for n in range(12)]
SYSTEM_ROW = row([turn("system", "answer in metres"), turn("user", "How tall is hill 77?")], "It is 77 m.", "No idea.")
TWICE_ROW = row([turn("user", "How tall"), turn("user", "is hill 78?")], "It is 78 m.", "Hm.")
THOUGHT_ROW = row([turn("user", "How tall is hill 79?")], "<think>by map</think> 79 m", "<think>by eye</think> 79 m")


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def with_template(folder: Path, template: str) -> Path:
    made = tiny_models.tokenizer()
    made.chat_template = template
    made.bos_token = "<pad>"
    made.save_pretrained(folder)
    return folder


def train(tmp_path: Path, file: Path, template: str) -> tuple[int, str, list[dict[str, str]]]:
    backbone = with_template(tiny_models.save_language(tmp_path / "backbone"), template)
    assert assay("pool", "add", file, "--out", tmp_path / "pool")[0] == 0
    line = ("--backbone", backbone, "--batch-pairs", 8, "--max-tokens", 256, "--lr", 1e-3, "--checks", 1)
    code, said, _ = assay("reward", "train", tmp_path / "pool", "--out", tmp_path / "model", *line)
    named = tmp_path / "model" / "left_out.jsonl"
    return code, said, [json.loads(x) for x in named.read_text().splitlines()] if named.exists() else []


@pytest.mark.parametrize(
    ("template", "bad", "reason"),
    [
        (ALTERNATE, [SYSTEM_ROW, TWICE_ROW], "turns must alternate, the user first"),
        (NO_SYSTEM, [SYSTEM_ROW], "a system turn is unknown"),
        (NO_SYSTEM, [THOUGHT_ROW], "both answers are the same tokens to this model"),
    ],
)
def test_training_names_the_pairs_that_it_leaves_out_and_goes_on(
    tmp_path: Path, template: str, bad: list[dict[str, Any]], reason: str
) -> None:
    code, said, named = train(tmp_path, write(tmp_path / "rows.jsonl", [*GOOD_ROWS, *bad]), template)
    assert code == 0
    assert len(named) == len(bad)
    assert all(reason in n["reason"] for n in named)
    assert all(n["pair_id"] in said for n in named)
    assert said.index("left out") < said.index(": step "), "before anything is trained"
    trained = json.loads((tmp_path / "model" / "training.json").read_text())
    assert trained["pairs"] + trained["gold_pairs"] == len(GOOD_ROWS)


@pytest.mark.parametrize(
    ("folder", "template", "left"), [("15-turns-refused", ALTERNATE, 3), ("16-gemma-system", NO_SYSTEM, 1)]
)
def test_the_field_s_rows_end_as_a_person_expects(tmp_path: Path, folder: str, template: str, left: int) -> None:
    if not (SHARED / folder).exists():
        pytest.skip(f"no {SHARED / folder}: name its folder by ASSAY_SHARED_FIELD")
    code, said, named = train(tmp_path, SHARED / folder / "rows.jsonl", template)
    assert (code, len(named)) == (0, left), said


def test_a_base_model_ends_in_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    backbone = tiny_models.save_language(tmp_path / "base")
    made = tiny_models.tokenizer()
    made.chat_template = None
    made.save_pretrained(backbone)
    (backbone / "chat_template.jinja").unlink(missing_ok=True)
    assay("pool", "add", write(tmp_path / "rows.jsonl", GOOD_ROWS), "--out", tmp_path / "pool")
    code, _, error = assay("reward", "train", tmp_path / "pool", "--out", tmp_path / "m", "--backbone", backbone)
    assert code == 2
    assert error.count("\n") == 1
    assert "has no chat template (a base model?)" in error
    assert "tokenizer.chat_template" in error


def test_best_of_n_says_which_questions_and_candidates_have_no_reward(tmp_path: Path) -> None:
    policy = tiny_models.save_language(tmp_path / "policy")
    reward = with_template(tiny_models.reward(tmp_path / "reward"), NO_SYSTEM)
    asked = [{"question": "How tall is hill 1?"}, {"messages": [turn("system", "be brief"), turn("user", "hill 2?")]}]
    write(tmp_path / "q.jsonl", asked)
    line = ("best-of-n", tmp_path / "q.jsonl", "--policy", policy, "-n", 2, "--sampler.max-tokens", 3)
    code, said, error = assay(*line, "--reward", reward, "--out", tmp_path / "out.jsonl")
    assert code == 0, error
    first, second = (json.loads(x) for x in (tmp_path / "out.jsonl").read_text().splitlines())
    assert first["best"] is not None
    assert second["best"] is None
    assert {c["problem"] for c in second["candidates"]} == {
        "no reward: the chat template refuses it: a system turn is unknown"
    }
    assert "2 candidates without a reward" in said
    strict = with_template(policy, ALTERNATE)
    code, said, error = assay(*line[:3], strict, *line[4:], "--reward", reward, "--out", tmp_path / "two.jsonl")
    assert code == 0, error
    assert "1 questions left out: the chat template refuses it: turns must alternate" in said
    assert "hill 2?" in said
    assert len((tmp_path / "two.jsonl").read_text().splitlines()) == 1


def test_a_policy_is_evaluated_on_the_questions_that_it_can_read(tmp_path: Path) -> None:
    policy = with_template(tiny_models.save_language(tmp_path / "policy"), NO_SYSTEM)
    asked = [
        {"question": "hill 1?", "answer": "1"},
        {"messages": [turn("system", "be brief"), turn("user", "hill 2?")], "answer": "2"},
    ]
    line = ("policy", "evaluate", policy, write(tmp_path / "q.jsonl", asked), "--out", tmp_path / "e.json")
    code, said, error = assay(*line, "--sampler.max-tokens", 3, "--sampler.temperature", 0)
    assert code == 0, error
    assert "1 questions left out: the chat template refuses it: a system turn is unknown" in said
    assert json.loads((tmp_path / "e.json").read_text())["left_out"]


def test_a_benchmark_counts_what_the_model_cannot_read_as_coverage(tmp_path: Path) -> None:
    scorer = load_scorer(with_template(tiny_models.reward(tmp_path / "reward"), NO_SYSTEM))
    system = Message(role="system", content="be brief")
    pairs: list[Preference] = []
    for n in range(10):
        answers = Response.of(f"{n} m"), Response.of(f"<think>{n}</think>{n + (n > 1)} m")
        prompt = (system, user(f"hill {n}?")) if n > 7 else (user(f"hill {n}?"),)
        pairs.append(Pair.of(prompt, *answers).preferring(answers[0].id))
    result = evaluate_pairs(pairs, scorer)
    assert (result.total, result.failed) == (10, 2)
    assert any("coverage 80.0%: 2 of 10 items" in note for note in result.notes)
    assert any(note.startswith("2 of 8 comparisons are exact ties") for note in result.notes)
    assert dict(scorer.problems) == {"the chat template refuses it: a system turn is unknown": 4}  # type: ignore[attr-defined]
    assert np.isnan(scorer([(system, user("hill"), *Response.of("1 m").messages)])).all()
