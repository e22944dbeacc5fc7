"""A run with trackers and one training in it, without any model: `python tracked_once.py FOLDER FIRST LAST TRACKER...`.

The run has done step FIRST / 10; the training goes on after step FIRST and dies after step LAST, where that is not the 20th.
"""

import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

from assay.journal import Journal
from assay.run import Run
from assay.telling import Telling


def main(folder: Path, first: int, last: int, trackers: list[str]) -> None:
    with closing(Run(folder, {"recipe": "small", "train": {"lr": 0.5}, "inputs": {}})) as run, Telling(run, trackers):
        run.once(f"stage{first}", lambda: {"pairs": first, "on_held": {"value": 0.75, "clusters": 4.0}})
        settings = {"lr": 0.5, "layers": None, "labels": {"digest": "abc"}}
        with Journal(folder / "models/final.partial", trackers, settings, print) as journal:
            journal.resume(first)
            for step in range(first + 1, last + 1):
                journal.log(step, {"loss": 1 / step, "watch/right": step / 20, "note": "no number"})
                time.sleep(0.1)
            if last < 20:
                time.sleep(1)
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
