"""The processes of one training (`assay.reward.launch` starts them): `python -m assay.reward.worker JOB`.

The first is torchrun's; it starts the others, which train. Each ends when its parent does.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from assay.errors import AssayError
from assay.processes import end_with

AGENT = "ASSAY_TORCHRUN"


def main() -> None:
    job = Path(sys.argv[1])
    told = json.loads(job.read_text())
    if AGENT in os.environ:
        end_with(int(os.environ[AGENT]))
        work(job, told)
    else:
        end_with(told["parent"])
        os.environ[AGENT] = str(os.getpid())
        from torch.distributed import run

        many = ["--standalone", f"--nproc-per-node={told['processes']}"]
        run.main([*many, "-m", "assay.reward.worker", str(job)])


def work(job: Path, told: dict[str, Any]) -> None:
    """Train, as one of several processes. What is wrong goes into a file beside the job."""
    from assay.records import Preference
    from assay.reward.config import TrainConfig
    from assay.reward.data import ParquetPairs
    from assay.reward.train import train
    from assay.store import Place
    from assay.tables import Table, build, write_text

    config = build(TrainConfig, told["config"])
    config = replace(config, images=None if config.images is None else Path(config.images))
    gold = Table(job.parent / "gold", Preference).read() if told["gold"] else []
    folder, trackers = Path(told["folder"]), told["trackers"]
    try:
        train(folder, config, ParquetPairs(Place(told["view"])), gold, _said, trackers, told["identity"])
    except AssayError as error:
        write_text(job.parent / f"problem-{os.environ['RANK']}", str(error))
        sys.exit(2)


def _said(line: str) -> None:
    print(json.dumps({"say": line}), flush=True)


if __name__ == "__main__":
    main()
