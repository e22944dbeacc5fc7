"""A small job through the real code: 80 prompts of the embedded pool, one layer of MiniLM, an oracle for people.

Imported by the tests, and run by them as a program that can be killed: `python small_job.py FOLDER [DIE_AT [SECONDS]]`.
With DIE_AT the program kills itself right before the DIE_AT-th change to a file of the folder (it opens one for writing,
renames it or removes one), which is where a half-written state would be left behind. With SECONDS the kernel kills it so
long after its DIE_AT-th line of progress: an instant of its own work, however late others on this machine come to look.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

from assay.curate.stage1 import Stage1Config
from assay.curate.stage2 import Stage2Config
from assay.pipeline.flow import FlowConfig
from assay.pipeline.pools import SmallPool, constraint_pool
from assay.records import Pair
from assay.reward.config import EngineConfig, TrainConfig

PROMPTS, PAIRS_PER_PROMPT = 80, 2


def small_config() -> FlowConfig:
    """Two iterations and eleven reward models, each trained in eight steps; the papers' claims are tested."""
    return FlowConfig(
        recipe="small",
        presentations=64,
        claims=True,
        offline_judge=True,
        stage1=Stage1Config(iterations=2, seed_gold=16, seed_silver=12, per_iteration=8, gold_share=0.4, k_max=4),
        stage2=Stage2Config(),
        train=TrainConfig(
            backbone="minilm", layers=1, train_embeddings=False, max_tokens=64, batch_pairs=8,
            engine=EngineConfig(tokens=2_048), epochs=4, lr=4e-4, checks=2,
        ),
    )  # fmt: skip


def small_pool(prompts: int = PROMPTS, per_prompt: int = PAIRS_PER_PROMPT) -> SmallPool:
    """The pairs of a few prompts of the embedded pool, always the same ones."""
    whole = constraint_pool()
    by_prompt: dict[str, list[Pair]] = {}
    for pair in sorted(whole.pairs.values(), key=lambda p: p.id):
        by_prompt.setdefault(pair.question_id, []).append(pair)
    pairs = {p.id: p for name in sorted(by_prompt)[:prompts] for p in by_prompt[name][:per_prompt]}
    return SmallPool(
        pairs=pairs,
        wild=[j for j in whole.wild if j.pair_id in pairs],
        truth={i: better for i, better in whole.truth.items() if i in pairs},
    )


def die_before_change(folder: Path, number: int) -> None:
    """Kill this process, without any clean-up, before the `number`-th change to a file under `folder`."""
    left = number

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        changes = event in ("os.rename", "os.remove") or (
            event == "open" and isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        )
        if changes and isinstance(args[0], str | os.PathLike) and os.fspath(args[0]).startswith(str(folder)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


class Killing:
    """Standard error that begins the time of this process's death with its `lines`-th line."""

    def __init__(self, file: TextIO, lines: int, seconds: float) -> None:
        self.file, self.lines, self.seconds = file, lines, seconds

    def write(self, text: str) -> int:
        before, self.lines = self.lines, self.lines - text.count("\n")
        if before > 0 >= self.lines:
            signal.setitimer(signal.ITIMER_REAL, self.seconds)  # SIGALRM, which nothing handles here
        return self.file.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def main(folder: Path, die_at: int | None = None, seconds: float = 0.0) -> None:
    import torch

    from assay.curate.verify import oracle
    from assay.pipeline.job import run_job

    torch.set_num_threads(1)
    if seconds and die_at is not None:
        sys.stderr = Killing(sys.stderr, die_at, seconds)  # type: ignore[assignment]
    elif die_at is not None:
        die_before_change(folder, die_at)
    pool = small_pool()
    run_job(folder, small_config(), pool, people=oracle(pool.truth))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]), *map(float, sys.argv[3:4]))
