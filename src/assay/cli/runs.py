"""`assay runs`, `resume`, `compare`, `delete`: what runs there are, where they are, how two differ."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from tyro.conf import Positional, arg

from assay.errors import AssayError
from assay.run import jsonable
from assay.session import duration
from assay.state import RunState, runs, state
from assay.tables import remove

TOP = Path("runs")


def list_runs(folder: Positional[Path] = TOP, as_json: Annotated[bool, arg(name="json")] = False) -> None:
    """List runs and trainings: kind, state, stage, what they wait for, what they cost so far.

    States: running; paused (it waits for people); finished; stopped (Ctrl-C, or a spent budget); failed; killed (it ended
    without a word). All but finished ones go on with `assay resume RUN`. Nothing is written.

    Args:
        folder: Where they lie, up to two levels deep; or one run.
        as_json: For programs, with every field; times are seconds since 1970.
    """
    if not folder.is_dir():
        raise AssayError(f"{folder}: no such folder; name the one in which your runs lie: assay runs DIR")
    found = runs(folder)
    if as_json:
        return print(json.dumps([_row(s) for s in found], indent=2))
    if not found:
        return print(f"{folder}: no runs here")
    grid = Grid("run", "kind", "state", "stage", "cost so far", "changed", box=box.SIMPLE_HEAD)
    for s in found:
        inside = s.folder.relative_to(folder) if s.folder != folder else Path(s.name)
        grid.add_row(str(inside), s.kind, _state_told(s), s.at, str(s.cost), _ago(s.changed))
    Console(highlight=False, markup=False).print(grid)
    for s in found:
        if s.waits_for and s.state != "finished":
            print(f"{s.folder}: {s.waits_for}")
    return None


def _state_told(s: RunState) -> str:
    if s.state == "paused":
        return "paused for people" + (", waits in its process" if s.live else "")
    left = f", about {duration(s.eta_s)} left" if s.state == "running" and s.eta_s else ""
    return s.state + left + (f" ({s.doing})" if s.doing and s.live else "")


def _row(s: RunState) -> dict[str, object]:
    stages = [x.title for x in s.stages]
    return {**jsonable(s), "stages": stages, "at": s.at, "cost": {**jsonable(s.cost), "told": str(s.cost)}}


def _ago(at: float) -> str:
    return f"{duration(max(0.0, time.time() - at))} ago" if at else "-"


def resume(run: Positional[Path]) -> None:
    """Go on with a run, a training or a policy run where it was: it knows its command, its pool and its options.

    Flags of that command may follow, and win: `assay resume runs/mine --budget 50`. Works after Ctrl-C, `kill -9`, a full
    disk, and when people have answered.

    Args:
        run: The folder of the run, as `assay runs` lists it.
    """
    raise AssayError(f"assay resume RUN: the folder comes first, then flags; {run} was not first")


def compare_runs(
    one: Positional[Path], other: Positional[Path], as_json: Annotated[bool, arg(name="json")] = False
) -> None:
    """How two runs differ: settings, labels pair by pair with examples, models on the pairs that both measured.

    Exit code 0: the same settings and labels, and no model is shown to differ; 1: they differ. Differences of models are
    paired, second less first, with 95% intervals.

    Args:
        one: The folder of a run, of a policy run, or of a training.
        other: Another one of that kind.
        as_json: For programs.
    """
    from assay.report import compared

    found = compared.compare(one, other)
    print(compared.as_json(found) if as_json else "\n".join(compared.lines(found)))
    sys.exit(0 if found.same else 1)


def delete_run(run: Positional[Path], yes: bool = False) -> None:
    """Delete a run or a training with all that is in it, people's answers too. Asks first; refuses one that is at work.

    Args:
        run: The folder.
        yes: Do not ask.
    """
    found = state(run)
    if run.is_symlink():
        raise AssayError(f"{run}: a link; name the folder itself: {run.resolve()}")
    if found.live:
        raise AssayError(
            f"{run}: a process{f' ({found.process})' if found.process else ''} works in it; end that first"
        )
    parts = [p for p in (run, run.with_name(run.name + ".partial")) if p.exists()]
    size = sum(f.stat().st_size for p in parts for f in p.rglob("*") if f.is_file() and not f.is_symlink())
    answers = f", with {found.cost.answers:,} answers of people" if found.cost.answers else ""
    if not yes:
        if not sys.stdin.isatty():
            raise AssayError(f"{run}: nobody is here to be asked; give --yes to delete it")
        told = f"{run}: {found.kind}, {found.state}, {size / 1e6:,.0f} MB{answers}. Delete it? y or n > "
        if input(told).strip().lower() not in ("y", "yes"):
            return print("kept")
    for part in parts:
        remove(part)
    return print(f"deleted: {', '.join(map(str, parts))} ({size / 1e6:,.0f} MB{answers})")
