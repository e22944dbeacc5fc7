"""vLLM as a contender: a child process with its own interpreter (which has vLLM, not Assay), told what to do line by line.

    PYTHON benchmarks/peer_vllm.py score|decode MODEL [OPTIONS]   # {"ready": ...}, then a line of JSON for each line of it

OPTIONS is a JSON object of further arguments of `vllm.LLM`.

CPU seconds are of this process and all that it has started (vLLM's engine core), user and system, by the operating system's
counts. The engine is made before; its compilation and the start are told apart ("ready"). Its caches of prefixes are emptied
before each task, else a repetition would find the one before.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SETTINGS = {
    "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1",
}  # fmt: skip


DEFAULT = os.environ.get("ASSAY_VLLM_PYTHON", ".venv-vllm/bin/python")
NONE = """
******** vLLM IS NOT MEASURED: there is no {python}. `make .venv-vllm/.installed` makes it, or give --vllm PYTHON ********
"""


def there(python: str) -> bool:
    """Is there such an interpreter? If not, that is said so that nobody misses it."""
    found = shutil.which(python) is not None
    if not found:
        print(NONE.format(python=python), file=sys.stderr, flush=True)
    return found


def write_between(doc: Path, name: str, page: str) -> None:
    """Put a page between a document's markers of this name."""
    before, begin, end = doc.read_text(), f"<!-- {name} -->", f"<!-- /{name} -->"
    start = before.index(begin) + len(begin)
    doc.write_text(before[:start] + "\n" + page + "\n" + before[before.index(end) :])


def told(ready: dict[str, Any]) -> str:
    return (
        f"vLLM {ready['vllm']} on torch {ready['torch']}; its start and compilation, which are not counted, took "
        f"{ready['s']:.0f} s and {ready['cpu_s']:.0f} CPU seconds"
    )


class Contender:
    """vLLM in a process of its own: `ask` gives what one task found, and its CPU seconds. `ready` tells of its start."""

    def __init__(self, python: str, what: str, model: str, **options: Any) -> None:
        core = {"VLLM_CPU_OMP_THREADS_BIND": str(min(os.sched_getaffinity(0)))}
        self.child = subprocess.Popen(
            [python, __file__, what, model, json.dumps(options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={n: x for n, x in os.environ.items() if n != "PYTHONPATH"} | SETTINGS | core,
        )  # fmt: skip
        self.ready = self._line()["ready"]

    def ask(self, task: dict[str, Any]) -> tuple[Any, float]:
        assert self.child.stdin is not None
        print(json.dumps(task), file=self.child.stdin, flush=True)
        line = self._line()
        return line["found"], line["cpu_s"]

    def _line(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            sys.exit("vLLM's process has ended; what it says above has the reason")
        return json.loads(line)  # type: ignore[no-any-return]

    def close(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        try:
            self.child.wait(120)
        except subprocess.TimeoutExpired:
            self.child.kill()


def spent() -> float:
    """CPU seconds so far of this process and its children."""
    import psutil

    own = psutil.Process()
    each = [p.cpu_times() for p in (own, *own.children(recursive=True))]
    return sum(t.user + t.system for t in each)


def score(llm: Any, task: dict[str, Any]) -> list[float]:
    from vllm import PoolingParams

    settings = PoolingParams(task="classify", use_activation=False)
    found = llm.encode(
        [{"prompt_token_ids": ids} for ids in task["ids"]], settings, pooling_task="classify", use_tqdm=False
    )
    return [float(f.outputs.data) for f in found]


def decode(llm: Any, task: dict[str, Any]) -> list[list[Any]]:
    """Of each prompt the answers, each as [tokens, log-probabilities]."""
    from vllm import SamplingParams

    settings = SamplingParams(
        n=task["answers"], temperature=1.0, max_tokens=task["new"], ignore_eos=True, logprobs=0, detokenize=False,
    )  # fmt: skip
    found = llm.generate([{"prompt_token_ids": ids} for ids in task["ids"]], settings, use_tqdm=False)
    return [
        [
            [list(o.token_ids), [p[t].logprob for t, p in zip(o.token_ids, o.logprobs, strict=True)]]
            for o in f.outputs
        ]
        for f in found
    ]  # fmt: skip


def main() -> None:
    what, model, *options = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints, in its own processes too, is no answer of ours
    start, cpu = time.monotonic(), spent()
    import vllm

    more = {"runner": "pooling", "convert": "classify"} if what == "score" else {"logprobs_mode": "raw_logprobs"}
    more |= json.loads(options[0]) if options else {}
    llm = vllm.LLM(model=model, dtype="bfloat16", max_model_len=4096, seed=0, generation_config="vllm", **more)
    work = {"score": score, "decode": decode}[what]

    def say(**found: Any) -> None:
        print(json.dumps(found), file=out, flush=True)

    import torch

    say(
        ready={
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "s": time.monotonic() - start,
            "cpu_s": spent() - cpu,
        }
    )
    for line in sys.stdin:
        llm.reset_prefix_cache()
        start, cpu = time.monotonic(), spent()
        found = work(llm, json.loads(line))
        say(cpu_s=spent() - cpu, s=time.monotonic() - start, found=found)


if __name__ == "__main__":
    main()
