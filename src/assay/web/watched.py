"""What the live page knows of one run: its state, its trainings' curves, its sampled answers, its changed pairs.

All of it is read from the run's files, a little at a time, and nothing is written there. So the page and the run may each be
killed and started again; the page then shows what the files say.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from markupsafe import Markup

from assay.charts import Line, chart
from assay.errors import AssayError
from assay.examples import FATES, changed, pairs_told
from assay.policy.shown import FOLDER, ShownAnswer
from assay.stages import noted
from assay.state import RunState, state, written_at
from assay.tables import Table
from assay.web.tail import Tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """One chart: numbers of `metrics.jsonl` with their names in words, `times` so much, in `unit`. `intervals`: where the
    file has a standard error (NAME_se), the 95% interval is drawn."""

    title: str
    names: tuple[tuple[str, str], ...]
    times: float = 1.0
    unit: str = ""
    intervals: bool = False


CHARTS = (
    Curves(title="Loss", names=(("loss", "loss"), ("nll", "NLL of a token"), ("dpo", "preference"), ("bco", "quality"),
                                ("replay_loss", "on answers of the buffer"))),
    Curves(title="Accuracy", unit=" %", times=100, intervals=True, names=(
        ("accuracy", "pairs that it trains on, in the right order"), ("gold_accuracy", "held gold"),
        ("right", "sampled answers right"), ("watch_accuracy", "watched questions right"))),
    Curves(title="Reward", names=(("reward", "reward"), ("model", "by the reward model"), ("format", "form"),
                                  ("claims", "claims"), ("margin", "margin of pairs"))),
    Curves(title="Length of answers, tokens", names=(("length", "tokens"),)),
    Curves(title="Entropy, nats", names=(("entropy", "entropy"),)),
    Curves(title="Hallucination", unit=" %", times=100, intervals=True, names=(
        ("watch_hallucination_rate", "answers with a false claim"), ("watch_false_claims_rate", "false of the claims"),
        ("watch_judged_rate", "answers, by a judge"))),
    Curves(title="With signal", unit=" %", times=100, names=(
        ("effective_rule", "groups, by rules"), ("effective_total", "groups, by the whole reward"),
        ("batch_effective", "batch, with the buffer"))),
    Curves(title="Age of the buffer, steps", names=(("buffer_age", "age"),)),
    Curves(title="Distance", names=(("kl", "KL to the reference, nats"), ("sampler_gap", "sampler to policy, nats"))),
    Curves(title="Norm of the gradient", names=(("grad_norm", "norm"),)),
)  # fmt: skip
_NAMES = {n for c in CHARTS for name, _ in c.names for n in (name, f"{name}_se")}
TOLD = (("loss", "loss"), ("reward", "reward"), ("lr", "learning rate"), ("tokens_per_s", "tokens a second"),
        ("samples", "samples"))  # fmt: skip
"""No shares: those of a step are of a few pairs, often of those that it trains on."""

LONG = 1_500
"""Characters of a text on the page; that the rest is left out is told."""


def key(folder: Path) -> str:
    """A run's name in addresses: nothing that a request says becomes a path."""
    return sha256(str(folder.absolute()).encode()).hexdigest()[:12]


class Training:
    """One training of a run, finished or under way (then its folder ends in `.partial`)."""

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.place = name, place
        self.id = f"t-{sha256(name.encode()).hexdigest()[:12]}"
        self.tail = Tail(place / "metrics.jsonl", _NAMES)

    @property
    def finished(self) -> bool:
        return not self.place.name.endswith(".partial")

    @property
    def step(self) -> int:
        return int(self.tail.last.get("step", 0))

    def told(self) -> list[tuple[str, str]]:
        """The last values, in words."""
        last = self.tail.last
        return [(title, f"{last[n]:,.4g}") for n, title in TOLD if isinstance(last.get(n), (int, float))]

    def charts(self) -> list[Markup]:
        return [c for curves in CHARTS if (c := self._chart(curves)) is not None]

    def _chart(self, curves: Curves) -> Markup | None:
        lines = []
        for n, (name, label) in enumerate(curves.names, 1):
            values = self.tail.series.get(name)
            if not values or (len(curves.names) > 1 and all(v == 0.0 for _, v in values)):
                continue
            errors = dict(self.tail.series.get(f"{name}_se", ())) if curves.intervals else {}
            bands = (
                [(v - 1.96 * errors.get(s, 0.0), v + 1.96 * errors.get(s, 0.0)) for s, v in values] if errors else []
            )
            times = curves.times
            lines.append(
                Line(label=label, colour=n, values=[(s, times * v) for s, v in values], points=len(values) < 12,
                     bands=[(times * a, times * b) for a, b in bands])
            )  # fmt: skip
        return chart(lines, curves.title, unit=curves.unit) if lines else None

    def steps(self) -> list[int]:
        """Those of which sampled answers were kept."""
        folder = self.place / FOLDER
        return sorted(int(p.stem) for p in folder.glob("*.parquet") if p.stem.isdigit()) if folder.is_dir() else []

    def answers(self, step: int) -> list[ShownAnswer]:
        """The sampled answers of a step, best first within each question; [] where they are gone."""
        try:
            rows = Table(self.place / FOLDER, ShownAnswer).read(f"{step:08d}")
        except (AssayError, OSError, pa.ArrowException):
            return []
        return sorted(rows, key=lambda a: (a.prompt_id, math.inf if math.isnan(a.total) else -a.total))


class Watched:
    """A run that is watched. Not safe for many threads at once: `live.Board` has the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, key(folder)
        self._trainings: dict[str, Training] = {}

    def state(self) -> RunState | None:
        """None where the folder is no run (any more)."""
        try:
            return state(self.folder)
        except (AssayError, OSError):
            return None

    def trainings(self) -> list[Training]:
        """What trains or has trained, the one that was written last first; their new lines are read."""
        found = dict[str, Path]()
        for place in self._places():
            name = (
                str(place.relative_to(self.folder.parent)).removesuffix(".partial").removeprefix(f"{self.folder.name}/")
            )
            if name not in found or not place.name.endswith(".partial"):
                found[name] = place
        for name, place in found.items():
            held = self._trainings.get(name)
            if held is None or held.place != place:
                self._trainings[name] = Training(name, place)
        times = dict[str, float]()
        for name in list(self._trainings):
            training = self._trainings[name]
            if name not in found:
                del self._trainings[name]
                continue
            training.tail.read()
            times[name] = written_at(training.tail.path)
        shown = [t for t in self._trainings.values() if t.tail.series]
        return sorted(shown, key=lambda t: -times[t.name])

    def _places(self) -> Iterable[Path]:
        """Folders with a metrics.jsonl of a training. A run's own metrics.jsonl is one of stages, not of steps."""
        partial = self.folder.with_name(self.folder.name + ".partial")
        for top in (self.folder, partial):
            yield from (f.parent for f in (top / "metrics.jsonl",) if f.exists())
            for pattern in ("models/*/metrics.jsonl", "*/models/*/metrics.jsonl"):
                yield from (f.parent for f in sorted(top.glob(pattern)))

    def training(self, id: str) -> Training | None:
        return next((t for t in self.trainings() if t.id == id), None)

    def budget(self) -> str:
        """What the run's settings say it may spend on LLM servers, "" where they say nothing."""
        found = noted(self.folder / "config.json")
        return next((f"{v:,g}" for v in _found(found, "budget") if isinstance(v, (int, float)) and v > 0), "")

    def changed(self, fate: str, words: str, start: int, most: int) -> tuple[list[dict[str, Any]], int, dict[str, int]]:
        """Pairs whose label is not as it came: `most` of them from `start`, how many there are, and how many of each fate.

        `words` are looked for in the reason. Of their texts only those of the pairs that are shown are read.
        """
        label = changed(self.folder)
        counts = dict(label.group_by("fate").len().iter_rows())
        wanted = label.filter(pl.col("fate") == fate) if fate in FATES else label
        if words:
            wanted = wanted.filter(pl.col("reason").str.to_lowercase().str.contains(words.lower(), literal=True))
        return pairs_told(self.folder, wanted.slice(start, most), LONG), len(wanted), counts


def _found(value: Any, name: str) -> Iterable[Any]:
    """Values of that name in nested settings."""
    if isinstance(value, dict):
        if name in value:
            yield value[name]
        for inner in value.values():
            yield from _found(inner, name)


def clipped(text: str, most: int = LONG) -> str:
    return (
        text
        if len(text) <= most
        else f"{text[: most // 2]} [... {len(text) - most:,} characters ...] {text[-most // 2 :]}"
    )


def ago(at: float, now: float | None = None) -> str:
    """How long ago, in words."""
    seconds = (time.time() if now is None else now) - at
    if not at or seconds < 2:
        return "now" if at else "-"
    if seconds < 90:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 5400 else f"{seconds / 3600:.1f} h ago"


def extremes(answers: Sequence[ShownAnswer]) -> list[tuple[str, ShownAnswer]]:
    """The best and the worst of a step's answers, and one that was cut off."""
    ranked = sorted((a for a in answers if not math.isnan(a.total)), key=lambda a: -a.total)
    if not ranked:
        return []
    found = [("best", ranked[0]), *([("worst", ranked[-1])] if len(ranked) > 1 else [])]
    cut = next((a for a in ranked[1:-1] if not a.ended), None)
    return [*found, *([("cut off", cut)] if cut else [])]
