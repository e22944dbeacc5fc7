"""Who a training is: everything that its result depends on, as settings and digests, kept with it and compared.

    folder/training.json            how it went, and its identity; written last
    folder.partial/identity.json    the identity of an unfinished training

A finished folder answers for the very same training only, and an unfinished one is resumed by it only: other pairs, labels,
settings, gold or starting weights are refused, and named. A folder without an identity (an earlier version made it, or it
is something else) is refused as well, for nobody can tell what it is of. What only costs memory or time may change.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from assay.errors import AssayError
from assay.records import digest
from assay.run import changes, environment, jsonable
from assay.session import begun, carried
from assay.tables import check_vacant, remove, sibling, write_text

MODEL_FILES = (".json", ".safetensors", ".bin", ".gguf", ".model", ".txt", ".jinja", ".py")
"""Suffixes of the files that make a model: weights, config, tokenizer, processor, code."""
BENCHMARKS = "benchmarks.json"
"""What `assay bench` measured of the model in a folder."""
NOT_MODEL = ("training.json", "calibration.json", BENCHMARKS)


def settings(config: object, free: Iterable[str]) -> dict[str, Any]:
    """The fields of a config dataclass without the `free` ones."""
    return {name: value for name, value in jsonable(config).items() if name not in free}


def of_file(path: Path) -> str:
    """A digest of a file's bytes, or of a folder's files by name; read once in a process as long as size and time stay."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return digest([[str(p.relative_to(path)), of_file(p)] for p in files])
    try:
        found = path.stat()
        return _bytes(path.resolve(), found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise AssayError(f"{path}: cannot be read ({error})") from error


@lru_cache(maxsize=4_096)
def _bytes(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def of_model(folder: Path) -> str:
    """A digest of the files of a model folder: config, weights, tokenizer; not of what only tells how it was trained."""
    files = (p for p in folder.iterdir() if p.suffix in MODEL_FILES and p.name not in NOT_MODEL and p.is_file())
    return digest(sorted([p.name, of_file(p)] for p in files))


def check_output(path: Path, identity: Mapping[str, Any], holds: str) -> None:
    """Keep beside a file that grows, as PATH.identity.json, what it is of. Raises AssayError where it is of something else,
    or nobody knows of what."""
    kept, now = sibling(path, ".identity.json"), json.loads(json.dumps(jsonable(identity)))
    if path.exists() and path.stat().st_size:
        if not kept.exists():
            raise AssayError(
                f"{path} does not say whose {holds} it has ({kept.name} is missing), so they could be mixed; "
                "choose another file"
            )
        if (before := json.loads(kept.read_text())) != now:
            raise AssayError(
                f"{path} has {holds} of other inputs ({', '.join(changes(before, now))}); choose another file, or give the "
                "same inputs to go on"
            )
    write_text(kept, json.dumps(now, indent=2))


class Training:
    """Where one training is kept, by its identity.

    Args:
        identity: What the result depends on, of values that JSON can hold.
        holds: What such a folder holds, for messages.

    Raises AssayError where `path` has no name of its own.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], holds: str) -> None:
        self.path, self.partial, self.holds = path, sibling(path, ".partial"), holds
        self.identity = json.loads(json.dumps(identity))

    def finished(self) -> dict[str, Any] | None:
        """What the finished training came to; None where it has yet to begin, or to go on.

        Raises AssayError where the folder or the unfinished one beside it holds anything else, which would be replaced.
        """
        found = self._kept(self.path / "training.json")
        if found is None:
            self._kept(self.partial / "identity.json")
        else:
            self._tidy()
        return found

    def _kept(self, file: Path) -> dict[str, Any] | None:
        place = file.parent
        if not place.exists() or (place.is_dir() and all(p.suffix == ".tmp" for p in place.iterdir())):
            return None  # a kill may have left a file that was being written
        kept = json.loads(file.read_text()) if file.exists() else {}
        if "identity" not in kept:
            if kept or (place == self.partial and (place / "state").exists()):
                raise AssayError(
                    f"{place} holds no {self.holds} of this version: it does not say what it was trained on, so it cannot "
                    "be told whether it is the one that is asked for; choose another folder (as a model it can be used)"
                )
            check_vacant(place, self.holds)
        if (before := kept.pop("identity")) != self.identity:
            raise AssayError(
                f"{place} holds a training with other inputs ({', '.join(changes(before, self.identity))}); "
                "choose another folder, remove that one, or give the same inputs to resume"
            )
        kept.pop("machines", None)
        return dict(kept)

    def _tidy(self) -> None:
        """Remove what a kill between the last two moves of `finish` left beside a finished folder."""
        shutil.rmtree(sibling(self.partial, ".removing"), ignore_errors=True)
        file = self.partial / "identity.json"
        if file.exists() and json.loads(file.read_text()).get("identity") == self.identity:
            remove(self.partial)

    def begin(self) -> None:
        """Keep the identity, before anything else is written, and on which machines it was worked on."""
        machines = self._machines()
        if (here := environment()) not in machines:
            machines.append(here)
        kept = {"identity": self.identity, "machines": machines}
        write_text(self.partial / "identity.json", json.dumps(kept, indent=2))
        begun(self.partial)

    def _machines(self) -> list[dict[str, Any]]:
        file = self.partial / "identity.json"
        return list(json.loads(file.read_text()).get("machines", [])) if file.exists() else []

    def finish(self, model: Path, result: Mapping[str, Any]) -> None:
        """Turn `model`, a folder within the unfinished one, into the finished folder in one move: with metrics, trackers'
        files and `result`. Killed before it, all is kept."""
        if (self.partial / "metrics.jsonl").exists():
            shutil.copy(self.partial / "metrics.jsonl", model)
        if (self.partial / "trackers").exists():
            shutil.copytree(self.partial / "trackers", model / "trackers", dirs_exist_ok=True)
        carried(self.partial, model)
        for left in model.glob("*.tmp"):
            left.unlink()
        told = {**result, "machines": self._machines(), "identity": self.identity}
        write_text(model / "training.json", json.dumps(told, indent=2))
        os.umask(mask := os.umask(0o077))
        for file in (p for p in model.rglob("*") if p.is_file()):
            file.chmod(0o666 & ~mask)  # as any file of this user: safetensors makes its own readable for nobody else
        model.rename(self.path)
        remove(self.partial)


def check_place(name: str) -> None:
    """Raise AssayError where the name of a model (a folder, or a hub id) is a folder's that is not there, or a run's."""
    place = Path(name)
    beside_runs = name.count("/") == 1 and any(place.parent.glob("*/run.toml"))
    if (name.count("/") > 1 or beside_runs) and ":" not in name and not place.exists():  # no hub id
        beside = sorted(p.name for p in place.parent.glob("*/"))
        there = f"; beside it: {', '.join(beside[:12])}" if beside else ""
        raise AssayError(f"cannot load the model '{name}': there is no such folder{there}")
    made = sorted(place.glob("seed-*/models/final")) or [p.parent for p in sorted(place.glob("models/*/config.json"))]
    if made:
        raise AssayError(f"'{name}' is a run, not a model; its models: {', '.join(map(str, made))}")
