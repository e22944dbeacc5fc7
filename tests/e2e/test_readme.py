"""The README's commands, and those of the judges' page, run as they stand there, in order, in an empty folder with a small
pool of one's own: those of the first block as processes, the others in this one."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import httpx
import polars as pl
import pytest
from PIL import Image

import tiny_models
from assay.pipeline.pools import constraint_pool
from assay.records import Judgement
from assay.tables import plain
from in_process import assay_here
from outage_server import OutageServer
from ports import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
JUDGES = (ROOT / "docs" / "judges.md").read_text()
LONGEST = 1_078
"""Words: half of what it once grew to."""
EXPECTED = {
    "assay pool add": (0, "0 rejected"),
    "assay run pool": (4, "answers missing; "),
    "assay resume": (4, "answers missing; "),
    "assay web": (0, "page: http://127.0.0.1"),
    "assay show": (0, "wild"),
}
"""Command -> exit code and a part of what it prints; a run stops at its first need of people."""


def blocks(page: str = README) -> list[str]:
    return re.findall(r"```bash\n(.*?)```", page, re.DOTALL)


def commands(of: str = "assay pool add", page: str = README) -> list[str]:
    block = next(b for b in blocks(page) if of in b)
    return [line.split("#")[0].strip() for line in block.splitlines() if line.startswith("assay ")]


MANY = 1_200
"""Pairs of which stage 1 has more than the 200 that people are asked about by default."""


def own_pool(folder: Path, many: int = MANY) -> None:
    rows, pairs = [], list(constraint_pool().pairs.values())[:many]
    for pair in pairs:
        first, second = pair.responses
        rows.append({"prompt": pair.prompt[0].content, "chosen": first.text, "rejected": second.text})
    (folder / "prefs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:40]))
    pl.DataFrame(rows[40:]).write_parquet(folder / "more.parquet")


def ended_when_it_answers(argv: list[str], folder: Path, port: int) -> "subprocess.CompletedProcess[str]":
    """A server, ended by SIGTERM as soon as it answers."""
    with subprocess.Popen(argv, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        process.terminate()
        out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def test_the_readmes_commands_do_what_it_says(tmp_path: Path) -> None:
    own_pool(tmp_path)
    ran = set()
    for command in commands():
        name = next(n for n in EXPECTED if command.startswith(n))
        argv = [sys.executable, "-m", "assay", *shlex.split(command)[1:]]
        if name == "assay web":
            done = ended_when_it_answers([*argv, "--port", str(port := free_port())], tmp_path, port)
        else:
            with judge_server() if "--judge" in command else nullcontext():
                done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, env=os.environ, timeout=900)
        code, part = EXPECTED[name]
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        assert part in done.stdout + done.stderr, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        ran.add(name)
    assert ran == EXPECTED.keys()


def judge_server() -> AbstractContextManager[OutageServer]:
    """A judge where the README has one."""
    (url,) = set(re.findall(r"@http://localhost:(\d+)/v1", README))
    try:
        return OutageServer(int(url))
    except OSError:
        pytest.skip(f"port {url}, where the README has a server, is taken on this machine")


def test_the_judging_commands(tmp_path: Path) -> None:
    own_pool(tmp_path, 120)
    assert assay_here("pool", "add", "prefs.jsonl", "more.parquet", "--out", "pool", cwd=tmp_path).returncode == 0
    pairs = {p.id: p for p in list(constraint_pool().pairs.values())[:120]}
    gold = [
        plain(Judgement(pair_id=i, better=p.responses[0].id, by="ann", kind="human"))
        for i, p in list(pairs.items())[:20]
    ]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(r) + "\n" for r in gold))
    run = "run pool pool --out runs/mine --embedder hash --stage1.seed-gold 4 --stage1.seed-silver 4"
    waits = assay_here(*run.split(), cwd=tmp_path)
    assert "answers missing" in waits.stderr, waits.stderr
    (tmp_path / "runs" / "mine" / "judgements.jsonl").write_bytes((tmp_path / "gold.jsonl").read_bytes())
    (tmp_path / "prices.toml").write_text('["Qwen/Qwen3-32B"]\nin = 0.1\nout = 0.4\n')
    expected = {
        "assay judgements export": "argilla.json", "assay attributes": "cost", "assay annotate": "judgements: votes",
        "assay guidance": "guid",
    }  # fmt: skip
    with judge_server():
        for command in commands("assay guidance", JUDGES):
            part = expected.pop(next(n for n in expected if command.startswith(n)))
            done = assay_here(*shlex.split(command)[1:], cwd=tmp_path)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            assert part in done.stdout + done.stderr, f"{command}\n{done.stdout}\n{done.stderr}"
            assert not command.startswith("assay attributes") or not re.search(r"cost (at most )?0(?!\.)", done.stdout)
    assert not expected


def test_every_command_of_the_readme_is_run_by_a_test_here() -> None:
    known = ("assay pool add", "assay best-of-n", "assay reward export", "make policy", "make run")
    for block in blocks():
        assert sum(name in block for name in known) == 1, block


def test_the_readme_stays_short() -> None:
    assert len(README.split()) <= LONGEST


SHORTER = {"assay reward sweep": "--seeds 1 --fractions 1 --sets filtered"}
"""What the test adds to a command so that it ends soon."""


def test_the_readmes_training_commands(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(finished)
    expected = {
        "assay reward export": "preferences -> prefs", "assay reward train": "no gold pairs to check on -> models/mine",
        "assay reward sweep": "plot: sweeps/tiny/sweep.png", "assay reward paper": '"gpu_hours"',
    }  # fmt: skip
    for command in commands("assay reward export"):
        name = next(n for n in expected if command.startswith(n))
        done = assay_here(*shlex.split(f"{command} {SHORTER.get(name, '')}")[1:], cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert expected.pop(name) in done.stdout
    assert not expected


def test_the_readmes_measuring_commands(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(finished)
    rows = [
        {"pair_id": str(n), "source": s, "question": f"{n}?", "response_A": "yes", "response_B": "no no", "label": "A>B"}
        for n, s in enumerate(("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench"))
    ]  # fmt: skip
    (tmp_path / "DIR" / "judgebench").mkdir(parents=True)
    data = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / "DIR" / "judgebench" / "gpt-4o-2024-05-13.jsonl").write_text(data)
    (tmp_path / "questions.jsonl").write_text('{"question": "2+3?"}\n')
    tiny_models.save_language(tmp_path / "policy", "qwen3")
    expected = {
        "assay bench runs": ("", "mean of the four slices"), "assay bench compare": ("", "95% interval"),
        "assay best-of-n": ("-n 2 --sampler.max-tokens 4", "1 questions, best of 2"),
    }  # fmt: skip
    for command in commands("assay best-of-n"):
        if command.startswith("assay serve"):
            continue  # tests/e2e/test_serve.py starts it, asks it and ends it
        more, part = expected.pop(next(n for n in expected if command.startswith(n)))
        done = assay_here(*shlex.split(f"{command} {more}")[1:], cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert part in done.stdout
        if command.startswith("assay bench runs"):
            (tmp_path / "other.json").write_bytes((tmp_path / "mine.json").read_bytes())
    assert not expected


def test_the_readmes_policy_commands(tmp_path: Path) -> None:
    tiny_models.save_language(tmp_path / "language", "qwen3")
    encoder, processor = tiny_models.encoder("siglip", 224, patch=32)
    encoder.save_pretrained(tmp_path / "encoder")
    processor.save_pretrained(tmp_path / "encoder")
    pictures = [tmp_path / f"{n}.png" for n in ("red", "blue")]
    for path in pictures:
        Image.new("RGB", (40, 30), path.stem).save(path)
    rows = [{"question": "which?", "answer": p.stem, "image": str(p)} for p in pictures] * 2
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "prefs").mkdir()
    said = [{"role": r, "content": r[:3], "images": []} for r in ("user", "assistant")]
    answers = [{"messages": [{**said[1], "content": text}]} for text in ("yes", "no")]
    pair = {"pair_id": "0", "prompt": said[:1], "chosen": answers[0], "rejected": answers[1]}
    pl.DataFrame([pair]).write_parquet(tmp_path / "prefs/part.parquet")
    short = "--sampler.max-tokens 4"
    added = {
        "assay policy assemble": ("", "-> vlm"),
        "assay policy grpo": (f"--steps 2 --prompts 2 --group 2 {short}", "2 steps"),
        "assay policy evaluate": (short, "4 questions"),
        "assay policy mpo": ("", "1 pairs"), "assay policy filter": (short, "questions kept"),
        "assay policy ablate": ("--dry-run", "MPO + GRPO"),
    }  # fmt: skip
    for command in commands("make policy"):
        more, part = added.pop(next(n for n in added if command.startswith(n)))
        done = assay_here(*shlex.split(f"{command} {more}")[1:], cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert part in done.stdout
    assert not added


def test_make_has_the_readmes_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    assert "assay run tiny" in makefile
    (shown,) = set(re.findall(r"assay show \S+ (\w+)", README))
    assert sum(i.startswith(shown) for i in constraint_pool().pairs) == 1
