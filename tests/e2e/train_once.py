"""Reward trainings: one in this process (`train_once`), or `python train_once.py JSON` with [folder, data, config] of each.

With a second argument it stops (SIGSTOP) as soon as it has saved a state, for whoever kills it then.

DATA is a JSON file of [prompt, chosen, rejected] texts, or a folder of Parquet preferences, of which "window" rows are held
at a time. Prints the rank's steps.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay.records import Pair, Preference, Response, user
from assay.reward.config import EngineConfig, LossConfig, TrainConfig
from assay.reward.data import ParquetPairs
from assay.reward.train import train
from assay.step import Engine


def preferences(rows: list[list[str]]) -> list[Preference]:
    made = []
    for prompt, chosen, rejected in rows:
        good = Response.of(chosen)
        made.append(Pair.of((user(prompt),), good, Response.of(rejected)).preferring(good.id))
    return made


def train_once(folder: Path, data: Path, fields: dict[str, Any], say: Callable[[str], None] = print) -> None:
    fields = dict(fields)
    window = fields.pop("window", 65_536)
    fields["engine"] = EngineConfig(**fields.get("engine", {}))
    fields["loss"] = LossConfig(**fields.get("loss", {}))
    everything = preferences(json.loads((data.parent / "gold.json").read_text()))
    pairs = ParquetPairs(data, window) if data.is_dir() else preferences(json.loads(data.read_text()))
    train(folder, TrainConfig(**fields), pairs, everything, say)


def stand_still() -> None:
    """Stop this process when it has saved its next state."""
    save = Engine.save

    def saved(*arguments: Any) -> None:
        save(*arguments)
        os.kill(os.getpid(), signal.SIGSTOP)

    Engine.save = saved  # type: ignore[method-assign]


if __name__ == "__main__":
    if sys.argv[2:]:
        stand_still()
    for folder, data, fields in json.loads(sys.argv[1]):
        train_once(Path(folder), Path(data), fields)
