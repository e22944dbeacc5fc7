"""What a run says of itself while it works: its stages in plain words with the time that is left, and no remark twice."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from assay.errors import AssayError
from assay.journal import Journal
from assay.run import Run
from assay.session import duration
from assay.stages import model_title, step_title
from assay.state import state
from assay.tables import read_json
from assay.trackers import OURS, check, how


class Telling:
    """For a run and the parts in its folder (`run.Telling`), as a context manager. `trackers` (`assay.trackers`) get the
    numbers of every step, each under a number of its own: RUN/trackers/steps.jsonl keeps both. Those of Accelerate's that
    have one run in a process are left to the trainings."""

    def __init__(self, run: Run, trackers: Sequence[str] = ()) -> None:
        self.folder, self.say, self.at = run.folder, run.say, ""
        self.remarks, self.steps, self.names = set[str](), 0, tuple(check(trackers))
        self.journal: Journal | None = None
        if ours := [name for name in self.names if name in OURS]:
            settings = read_json(run.folder / "config.json")
            self.journal = Journal(run.folder, ours, settings, run.say, file="trackers/steps.jsonl")
            self.steps = self.journal.resume()
        run.telling = self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.journal:
            self.journal.close(how(error))

    def begins(self, step: str) -> str:
        self.stage()
        return step_title(step)

    def came_to(self, folder: Path, step: str, result: Mapping[str, Any]) -> None:
        within = "" if folder == self.folder else f"{folder.name}/"
        numbers = {f"{within}{step}/{k}": v for k, v in _numbers(result, "")}
        if self.journal and numbers:
            self.steps += 1
            self.journal.log(self.steps, numbers)

    def stage(self) -> None:
        """Say at which stage the run is, where that is another than was said last."""
        try:
            now = state(self.folder)
        except AssayError:  # it has but begun
            return
        if now.stage and now.at != self.at:
            self.at = now.at
            left = f", about {duration(now.eta_s)} of work left" if now.eta_s else ""
            self.say(f"[bold]{now.at}[/bold]{left}")

    def training(self, name: str) -> Callable[[str], None]:
        """How the training of the model `name` speaks: of itself in words, and without what another one said before."""
        self.stage()

        def say(text: str) -> None:
            own = f"{name}: "
            remark = text.removeprefix(own)
            if text.startswith(own) and not remark.startswith(("step", "resumed", "stopped")):
                if remark in self.remarks:
                    return
                self.remarks.add(remark)
            self.say(text.replace(own, f"{model_title(name)}: ", 1))

        return say


def _numbers(value: Mapping[str, Any], at: str) -> list[tuple[str, float]]:
    """The numbers of a step's result, an estimate as its value."""
    found = list[tuple[str, float]]()
    for key, inner in value.items():
        name = f"{at}{key}"
        if isinstance(inner, Mapping):
            found += [(name, float(inner["value"]))] if "clusters" in inner else _numbers(inner, f"{name}/")
        elif isinstance(inner, int | float) and not isinstance(inner, bool):
            found.append((name, float(inner)))
    return found
