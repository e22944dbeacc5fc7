"""Ctrl-C of the commands that ask a policy and train nothing, alone and under torchrun: one line, nothing half-written, no
process left, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assay_line, environment
from test_policy_own import assay, lines
from test_processes import torchrun

import tiny_models
from assay.tables import Table
from assay.tuning.own_pairs import SampledPreference
from descendants import below, gone

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
PARTS = 16
"""Of 32 questions: so many that a command is seen at work between two of them."""
MORE = {
    "filter": ("--samples", "8"), "evaluate": (), "pairs": ("--samples", "8", "--reward-model", "policy_commands:length")
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says 7 and ends far more often than anything else, and questions of which every other has that answer."""
    home = tmp_path_factory.mktemp("ctrl-c")
    model, tokenizer = tiny_models.language("qwen3", width=128), tiny_models.tokenizer()
    model.config.tie_word_embeddings = False
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
        model.lm_head.weight[tokenizer.convert_tokens_to_ids(["7", "<end>"]), 0] = 0.25
        model.model.embed_tokens.weight[:, 0] = 10.0
        model.model.norm.weight[1:] = 0.0
    model.save_pretrained(home / "model")
    tokenizer.save_pretrained(home / "model")
    rows = [{"question": f"what is {i}?", **({"answer": "7"} if i % 2 else {})} for i in range(32 * PARTS)]
    lines(home / "questions.jsonl", rows)
    return home


def parts(out: Path) -> dict[str, int]:
    """The finished parts of an unfinished command, and when each was written."""
    found = dict[str, int]()
    for file in out.with_name(out.name + ".partial").glob("tables/*/[!.]*.parquet"):
        with suppress(FileNotFoundError):  # the command ends just now
            found[file.name] = file.stat().st_mtime_ns
    return found


def made(out: Path) -> Any:
    """What a finished command has left, whatever its name."""
    if out.is_dir():
        return Table(out, SampledPreference).read(), json.loads((out / "pairs.json").read_text())
    return out.read_text().replace(out.name, "OUT")


@pytest.mark.parametrize(("name", "processes"), [("pairs", 1), ("pairs", 2), ("filter", 2), ("evaluate", 2)])
def test_ctrl_c_between_two_parts(home: Path, name: str, processes: int) -> None:
    """Of one process the exit code is 130; torchrun adds a report of its own, and ends with 1."""
    folder = home / f"{name}-{processes}"
    folder.mkdir()
    end = {"filter": ".jsonl", "evaluate": ".json", "pairs": ""}[name]
    asked = ("policy", name, home / "model", home / "questions.jsonl", "--sampler.max-tokens", 64, *MORE[name],
             "--policy.precision", "fp32", "--out")  # fmt: skip
    out, whole, env = folder / f"out{end}", home / f"whole-{name}{end}", environment(ACCELERATE_USE_CPU="true")
    env["PYTHONPATH"] += os.pathsep + str(HERE)
    line = [*map(str, asked), str(out)]
    line = assay_line(*line) if processes == 1 else [sys.executable, *torchrun(), "-m", "assay", *line]
    process = subprocess.Popen(line, env=env, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while len(parts(out)) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before its second part"
        time.sleep(0.01)
    everyone = {process.pid, *below(process.pid)}
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert gone(everyone, 300)
    assert process.returncode == (130 if processes == 1 else 1)
    assert told.count("interrupted; run the same command again to resume") == 1
    assert told.count("Traceback") == processes - 1, "torchrun's own"
    assert {f.name for f in folder.iterdir()} == {f"out{end}.partial"}, "no output, no lock, nothing beside them"
    kept = parts(out)
    assert 2 <= len(kept) < PARTS

    again = subprocess.Popen(line, env=env, start_new_session=True, stderr=subprocess.PIPE, text=True)
    written: dict[str, set[int]] = {n: {at} for n, at in kept.items()}
    while again.poll() is None:
        for part, at in parts(out).items():
            written.setdefault(part, set()).add(at)
        time.sleep(0.01)
    _, told = again.communicate()
    assert again.returncode == 0, told
    assert all(len(times) == 1 for times in written.values()), "a part was made twice"
    assert {f.name for f in folder.iterdir()} == {out.name}
    if not whole.exists():
        assay(*asked, whole)
    assert made(out) == made(whole)
    assert name != "filter" or 0 < len(out.read_text().splitlines()) < 16 * PARTS, "some are kept, and not all"
