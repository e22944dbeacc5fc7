"""One reward training in its own process (or several): `python train_once.py FOLDER DATA JSON-OF-TRAIN-CONFIG`.

DATA is a JSON file of [prompt, chosen, rejected] texts, or a folder of Parquet preferences, of which "window" rows are held
at a time. Prints the rank's steps.
"""

import json
import sys
from pathlib import Path

from assay.records import Pair, Preference, Response, user
from assay.reward.config import EngineConfig, LossConfig, TrainConfig
from assay.reward.data import ParquetPairs
from assay.reward.train import train


def preferences(rows: list[list[str]]) -> list[Preference]:
    made = []
    for prompt, chosen, rejected in rows:
        good = Response.of(chosen)
        made.append(Pair.of((user(prompt),), good, Response.of(rejected)).preferring(good.id))
    return made


def main() -> None:
    folder, data, text = sys.argv[1:4]
    fields = json.loads(text)
    window = fields.pop("window", 65_536)
    fields["engine"] = EngineConfig(**fields.get("engine", {}))
    fields["loss"] = LossConfig(**fields.get("loss", {}))
    path = Path(data)
    everything = preferences(json.loads((path.parent / "gold.json").read_text()))
    pairs = ParquetPairs(path, window) if path.is_dir() else preferences(json.loads(path.read_text()))
    train(Path(folder), TrainConfig(**fields), pairs, everything, print)


if __name__ == "__main__":
    main()
