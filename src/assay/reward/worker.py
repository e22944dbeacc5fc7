"""The processes of one training (`assay.reward.launch` starts them): `python -m assay.reward.worker JOB`, or actors of Ray.

Of JOB the first is torchrun's; it starts the others, which train. Each ends when its parent does.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from assay import ray_gang
from assay.errors import AssayError
from assay.processes import end_with

AGENT = "ASSAY_TORCHRUN"


def main() -> None:
    job = Path(sys.argv[1])
    told = json.loads(job.read_text())
    if AGENT in os.environ:
        end_with(int(os.environ[AGENT]))
        try:
            work(told, _said)
        except AssayError as error:
            (job.parent / f"problem-{os.environ['RANK']}").write_text(str(error))
            sys.exit(2)
    else:
        end_with(told["parent"])
        os.environ[AGENT] = str(os.getpid())
        from torch.distributed import run

        many = ["--standalone", f"--nproc-per-node={told['processes']}"]
        run.main([*many, "-m", "assay.reward.worker", str(job)])


def on_ray(told: dict[str, Any]) -> None:
    """In an actor of Ray: train, as one of several processes."""
    work(told, ray_gang.tell)


def work(told: dict[str, Any], say: Callable[[str], None]) -> None:
    """Train, as one of several processes. Raises AssayError for what is wrong."""
    from assay.records import Preference
    from assay.reward.config import TrainConfig
    from assay.reward.data import ParquetPairs
    from assay.reward.train import train
    from assay.store import Place
    from assay.tables import Table, build

    config = build(TrainConfig, told["config"])
    config = replace(config, images=None if config.images is None else Path(config.images))
    gold = Table(Path(told["place"]) / "gold", Preference).read() if told["gold"] else []
    train(
        Path(told["folder"]), config, ParquetPairs(Place(told["view"])), gold, say, told["trackers"], told["identity"]
    )


def _said(line: str) -> None:
    print(json.dumps({"say": line}), flush=True)


if __name__ == "__main__":
    main()
