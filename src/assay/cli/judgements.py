"""`assay judgements`: pairs out to other annotation tools, judgements back in, and how far the judges agree."""

import json
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table as Grid
from tyro.conf import Positional

from assay.cli.arguments import App
from assay.curate.interchange import Format
from assay.errors import AssayError

app = App()


@app.command(name="export")
def judgements_export(run: Positional[Path], out: Path, to: Format = "jsonl", seed: int = 0) -> None:
    """Write the pairs that a run waits for, with the judgements given so far, as a file for another annotation tool.

    Args:
        run: The run folder that asked for people.
        out: The file to write; for argilla and label-studio, what their project needs is written beside it.
        to: jsonl and parquet keep everything; argilla and label-studio are JSON files for these tools.
        seed: Changes the random order of the two responses.
    """
    from assay.curate import argilla, label_studio
    from assay.curate.interchange import entries, write
    from assay.curate.verify import read_judgements
    from assay.pipeline.people_on_file import read_queue
    from assay.tables import write_text

    cases = read_queue(run / "queue")
    given = read_judgements(run / "judgements.jsonl")
    count = write(out, to, entries(cases, given, seed))
    print(f"{count:,} pairs with {len(given):,} judgements -> {out}")
    if to == "argilla":
        write_text(out.with_suffix(".settings.json"), json.dumps(argilla.settings(), indent=2) + "\n")
        print(f"settings of the dataset -> {out.with_suffix('.settings.json')}")
    if to == "label-studio":
        write_text(out.with_suffix(".config.xml"), label_studio.CONFIG)
        print(f"labelling interface -> {out.with_suffix('.config.xml')}")


@app.command(name="import")
def judgements_import(
    file: Positional[Path], run: Positional[Path], format: Format = "jsonl", users: Path | None = None
) -> None:
    """Add the judgements of people in FILE to a run; giving the same file again adds nothing.

    Args:
        file: What Argilla or Label Studio exported, or a file of `assay judgements export`.
        run: The run folder that asked for people.
        format: The format of the file.
        users: A JSON object that gives names to the other tool's user ids.
    """
    from assay.curate.interchange import read
    from assay.curate.verify import add_judgements
    from assay.pipeline.people_on_file import read_queue

    cases = read_queue(run / "queue")
    waiting = {c.pair.id for c in cases}
    found = read(file, format, cases=cases, users=_names(users))
    people = [j for j in found.judgements if j.kind in ("lead", "human")]
    wanted = [j for j in people if j.pair_id in waiting]
    added = add_judgements(run / "judgements.jsonl", wanted)
    for problem in found.problems[:20]:
        print(f"{file}: {problem}")
    if len(found.problems) > 20:
        print(f"... and {len(found.problems) - 20:,} more")
    print(
        f"{added:,} judgements added, {len(wanted) - added:,} were there already, {len(people) - len(wanted):,} are about"
        f" other pairs, {len(found.judgements) - len(people):,} are not by people, {len(found.problems):,} could not be read"
    )
    if found.problems and not people:
        raise AssayError(f"{file}: no judgement could be read as {format}; the reasons are above")


def _names(users: Path | None) -> dict[str, str]:
    if users is None:
        return {}
    try:
        names = json.loads(users.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssayError(f"--users {users}: {error}") from error
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise AssayError(f'--users {users}: write a JSON object such as {{"3": "ann"}}')
    return names


@app.command(name="agreement")
def judgements_agreement(
    files: Positional[tuple[Path, ...]], undecided: Literal["category", "missing"] = "category", raters: bool = False
) -> None:
    """Agreement of people, judges and reward models beyond chance, with 95% intervals.

    Args:
        files: Files of judgements (JSON lines), such as RUN/judgements.jsonl.
        undecided: Ties and "cannot decide": a category of their own, or left out.
        raters: Also Cohen's kappa of every two judges.
    """
    from assay.curate.agreement import rater_kappas, report
    from assay.curate.verify import read_judgements

    missing = next((f for f in files if not f.exists()), None)
    if not files or missing:
        raise AssayError(f"{missing}: no such file" if missing else "give a file of judgements")
    rows = [j for f in files for j in read_judgements(f)]
    found = report(rows, undecided=undecided) + (rater_kappas(rows, undecided=undecided) if raters else [])
    if not found:
        raise AssayError("no pair has two judgements, so there is no agreement to measure")
    grid = Grid("between", "measure", "value", "95% interval", "same answer", "pairs", "judgements", "judges")
    for a in found:
        between = "too few pairs" if a.low is None else f"{_number(a.low)} to {_number(a.high)}"
        numbers = [_number(a.value), between, _number(a.observed)]
        grid.add_row(a.between, a.measure, *numbers, str(a.pairs), str(a.ratings), str(a.raters))
    Console(highlight=False).print(grid)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
