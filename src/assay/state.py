"""What a folder is a run of, where it is, and what it waits for: read by `assay runs`, `assay resume`, the terminal and the
live page.

It is read from small files, cheaply, and nothing is written. A run may be live, killed, or of an older version, which left
no `session.json`: then its lock says whether a process has it open, and its results how far it came.
"""

import fcntl
import json
import sqlite3
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from assay.curate.waiting import Waits, waits
from assay.errors import AssayError
from assay.processes import alive
from assay.session import PROGRESS, RUN_FILE, SESSION, duration
from assay.stages import Stage, noted, of_run, of_training, of_tuning

How = Literal["running", "paused", "finished", "failed", "killed", "stopped"]
"""paused: it waits for people (with `--wait` its process lives on); stopped: by Ctrl-C, or at a budget; killed: it ended
without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a run has cost so far. `tokens_in`, `tokens_out`: of LLM servers, what no server told counted at its most.
    `answers` of people, and the `people_s` that these took, where that was measured. `training_s`: in finished trainings."""

    tokens_in: int = 0
    tokens_out: int = 0
    dollars: float | None = None
    """At the prices that the run was given; None where it was given none."""
    answers: int = 0
    people_s: float = 0.0
    training_s: float = 0.0

    def __str__(self) -> str:
        found = []
        if self.dollars is not None:
            found.append(f"${self.dollars:,.2f}")
        elif self.tokens_in or self.tokens_out:
            found.append(f"{self.tokens_in + self.tokens_out:,} LLM tokens")
        if self.answers:
            found.append(f"{self.answers:,} answers" + (f" ({duration(self.people_s)})" if self.people_s else ""))
        if self.training_s:
            found.append(f"{duration(self.training_s)} of training")
        return ", ".join(found) or "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What `state` finds. `stage` counts from 1, and is 0 where the stages of this kind are not known; `doing` says what of
    the stage is done now. `started` (of the first call) and `changed` (the last write) are in seconds since 1970. `eta_s`
    are the seconds that machines will need; None where nothing tells it, and people's time comes on top."""

    folder: Path
    kind: str
    name: str
    state: How
    live: bool
    """Whether a process works in it, or waits in it."""
    why: str
    stage: int
    stages: tuple[Stage, ...]
    doing: str
    waits_for: str
    waits: Waits | None
    cost: Cost
    started: float
    changed: float
    eta_s: float | None
    process: int | None = None
    """The number of its process, on the machine where it runs."""
    progress: Mapping[str, Any] = field(default_factory=dict)

    @property
    def at(self) -> str:
        """Where it is, in plain words: "stage 3 of 8: training on stage 1's pairs"."""
        if not self.stage:
            return self.doing
        return f"stage {self.stage} of {len(self.stages)}: {self.stages[self.stage - 1].title}"


def state(folder: Path) -> RunState:
    """The state of the run in `folder`. Raises AssayError where it is none."""
    folder = Path(folder)
    place, kind, stages = _what(folder)
    session, progress = noted(place / SESSION), noted(place / PROGRESS)
    lives = _lives(folder, place, session)
    lacks, damaged = _waits(place)
    how, why = _how(lives, session, stages, lacks)
    finished = how == "finished"
    stage = len(stages) if finished else next((n for n, s in enumerate(stages, 1) if not s.done), len(stages))
    now = progress if lives else {}
    doing = f"{now['what']}, {now['done']:,} of {now['of']:,}" if now else ""
    return RunState(
        folder=folder, kind=str(session.get("command", kind)), name=folder.name, state=how, live=lives, why=why, stage=stage,
        stages=stages, doing=doing, waits_for=damaged or _waits_for(how, why, lacks), waits=lacks, cost=_cost(place),
        started=_started(place, session), changed=_changed(place, now), process=session.get("number") if lives else None,
        eta_s=0.0 if finished else _eta(stages, now), progress=now,
    )  # fmt: skip


def runs(top: Path) -> list[RunState]:
    """The runs in a folder and in its folders, two levels deep, the last changed first. Parts of a run are none."""
    found = dict[Path, RunState]()
    for folder in _folders(top, 2):
        try:
            found[folder] = state(folder)
        except AssayError:
            continue
    return sorted(found.values(), key=lambda s: -s.changed)


def is_run(folder: Path) -> bool:
    """Whether `state` knows what this folder is."""
    partial = folder.with_name(folder.name + ".partial")
    return ((folder / "config.json").exists() and (folder / "environments.jsonl").exists()) or any(
        file.exists() for file in (folder / "training.json", partial / "identity.json", folder / SESSION)
    )  # fmt: skip


def _folders(top: Path, deep: int) -> Iterator[Path]:
    if is_run(top):
        yield top
    elif deep and top.is_dir():
        for name in sorted({p.name.removesuffix(".partial") for p in top.iterdir() if p.is_dir()}):
            yield from _folders(top / name, deep - 1)


def _what(folder: Path) -> tuple[Path, str, tuple[Stage, ...]]:
    """Where the files are, the kind of run, and its stages."""
    partial = folder.with_name(folder.name + ".partial")
    for place in (folder, partial):
        if (place / "environments.jsonl").exists() and (place / "config.json").exists():
            config = noted(place / "config.json")
            if "stage1" in config and "recipe" in config:
                return place, "run", of_run(place, config, _settings(place))
            if "grpo" in config and "rounds" in config:
                return place, "policy run", of_tuning(place, config)
            return place, "run of parts", ()
    done, begun = folder / "training.json", partial / "identity.json"
    if done.exists() or begun.exists():
        place = folder if done.exists() else partial
        identity = noted(done if done.exists() else begun).get("identity") or {}
        return place, *of_training(place, identity)
    if (folder / SESSION).exists():
        return folder, "", ()
    raise AssayError(
        f"{folder}: no run here (there is neither config.json nor a training); assay runs lists those that are"
    )


def _lives(folder: Path, place: Path, session: Mapping[str, Any]) -> bool:
    """Whether a process has the folder open: the one of its session, or any that holds its lock."""
    if session and "ended" not in session and alive(session.get("process", "")):
        return True
    return any(map(_locked, (place / "lock", folder.with_name(folder.name + ".lock"))))


def _locked(file: Path) -> bool:
    """Whether a process holds this lock. It is given back at once where it was free."""
    try:
        with file.open() as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _how(lives: bool, session: Mapping[str, Any], stages: tuple[Stage, ...], lacks: Waits | None) -> tuple[How, str]:
    if lives:
        return ("paused" if lacks and lacks.missing else "running"), ""
    if "ended" in session:
        return session.get("how", "stopped"), str(session.get("why", ""))
    if stages and all(s.done for s in stages):
        return "finished", ""
    if lacks and lacks.missing:
        return "paused", ""
    return "killed", "it ended without a word: killed, or the machine went down"


def _waits_for(how: How, why: str, lacks: Waits | None) -> str:
    if lacks is not None and how in ("paused", "killed", "stopped"):
        return str(lacks)
    return why if how in ("failed", "stopped", "killed") else ""


def _waits(place: Path) -> tuple[Waits | None, str]:
    """What it waits for, or why that cannot be told."""
    try:
        return waits(place), ""
    except AssayError as error:
        return None, str(error)


def _cost(place: Path) -> Cost:
    tokens_in, tokens_out = _spent(place / "replies.sqlite")
    price = (_settings(place).get("price") or (0.0, 0.0)) if tokens_in or tokens_out else (0.0, 0.0)
    dollars = (tokens_in * price[0] + tokens_out * price[1]) / 1e6 if any(price) else None
    answers, people_s = _answered(place)
    training = sum(float(noted(f).get("wall_s", 0.0)) for f in _trainings(place))
    return Cost(tokens_in=tokens_in, tokens_out=tokens_out, dollars=dollars, answers=answers, people_s=people_s,
                training_s=round(training, 1))  # fmt: skip


def _trainings(place: Path) -> list[Path]:
    found = [
        place / "training.json",
        *place.glob("models/*/training.json"),
        *place.glob("seed-*/models/*/training.json"),
        *place.glob("policies/models/*/training.json"),
    ]
    return [f for f in found if f.parent.name != "final" and f.exists()]


def _answered(place: Path) -> tuple[int, float]:
    """Standing and withdrawn answers of people, and the seconds that they took."""
    number, seconds = 0, 0.0
    try:
        lines = (place / "judgements.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0, 0.0
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "pair_id" in row:
            number, seconds = number + 1, seconds + float(row.get("seconds") or 0.0)
    return number, round(seconds, 1)


def _spent(cache: Path) -> tuple[int, int]:
    """Tokens in and out, at the usual price, of a ledger that may be in use."""
    if not cache.exists():
        return 0, 0
    live = cache.with_name(cache.name + "-wal").exists()  # else opening it would make that file
    try:
        with closing(sqlite3.connect(f"file:{cache}?mode=ro{'' if live else '&immutable=1'}", uri=True)) as database:
            sums = "SELECT TOTAL(tokens_in * share), TOTAL(tokens_out * share) FROM spending"
            told = database.execute(sums).fetchone()
    except sqlite3.Error:
        return 0, 0
    return round(told[0]), round(told[1])


def _started(place: Path, session: Mapping[str, Any]) -> float:
    try:
        with (place / "environments.jsonl").open(encoding="utf-8") as file:
            return datetime.fromisoformat(json.loads(file.readline())["begun"]).timestamp()
    except (OSError, ValueError, KeyError):
        pass
    if "begun" in session:
        return datetime.fromisoformat(session["begun"]).timestamp()
    return written_at(place / "identity.json") or written_at(place)


def _changed(place: Path, progress: Mapping[str, Any]) -> float:
    """The last write of those files that are written often."""
    names = ("metrics.jsonl", "judgements.jsonl", "replies.sqlite-wal", "config.json", "identity.json", "training.json",
             SESSION, "asked.json")  # fmt: skip
    some = ["seed-*/metrics.jsonl", "seed-*/models", "models", "models/*.partial/metrics.jsonl",
            "seed-*/models/*.partial/metrics.jsonl", "policies/metrics.jsonl",
            "policies/models/*.partial/metrics.jsonl"]  # fmt: skip
    times = [written_at(place / n) for n in names] + [written_at(p) for pattern in some for p in place.glob(pattern)]
    return max([float(progress.get("at", 0.0)), *times, 0.0]) or written_at(place)


def _eta(stages: tuple[Stage, ...], progress: Mapping[str, Any]) -> float | None:
    """The rest of the work at the speed of what is done: each stage knows its work in passes of a pair through a model, and
    those that are done how long they took. A policy's passes (`Stage.of`) have a speed of their own: until one is known,
    `AS_LONG` times that of the others."""
    left, now = dict[str, float](), None
    for s in stages:
        left[s.of] = left.get(s.of, 0.0) + (0.0 if s.done else s.left)
    if progress and progress["done"] > progress["first"]:
        rate = (progress["at"] - progress["since"]) / (progress["done"] - progress["first"])
        now = (progress["of"] - progress["done"]) * rate
    known = {of: pace for of in left if (pace := _pace(stages, of)) is not None}
    if known:
        other = known.get("", 0.0) * AS_LONG
        return max(sum(n * known.get(of, other) for of, n in left.items()), now or 0.0)
    return now if sum(not s.done for s in stages) <= 1 else None


AS_LONG = 40.0
"""So many times as long as a pass of the embedded reward model takes one of the embedded policy, on two cores."""


def _pace(stages: tuple[Stage, ...], of: str) -> float | None:
    """Seconds of a pass, as far as those that are done tell."""
    spent = [(s.effort - (0.0 if s.done else s.left), s.seconds) for s in stages
             if s.of == of and s.seconds > 0.0 and s.effort > 0.0]  # fmt: skip
    work, seconds = sum(e for e, _ in spent), sum(t for _, t in spent)
    return seconds / work if work > 0.0 and seconds > 0.0 else None


def _settings(place: Path) -> dict[str, Any]:
    """What the run file says; {} where there is none."""
    try:
        return tomllib.loads((place / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def written_at(path: Path) -> float:
    """When a file was last written, in unix seconds; 0.0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
