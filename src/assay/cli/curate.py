"""`assay pool`, `verify`, `show`, `report`: what goes into a run, people's answers, and what became of a pair."""

import os
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from assay.cli.arguments import hear_interrupts
from assay.errors import AssayError
from assay.locks import alone


def pool_add(
    sources: Positional[tuple[str, ...]], out: str, layout: str | None = None, name: str | None = None,
    mapped: Annotated[tuple[str, ...], arg(name="map")] = (), ignore: tuple[str, ...] = (), engine: str = "local",
    parts: int = 0,
) -> None:  # fmt: skip
    """Import preference data of (nearly) any layout into a pool folder; bad rows are counted and kept readable.

    docs/layouts.md lists the layouts, with the fields that each needs. What can be read in two ways is asked about.

    Args:
        sources: Files (JSONL, JSON, Parquet, CSV; also .gz, .zst), folders, or Hugging Face dataset ids.
        out: The pool, a folder or the URL of one in an object store (s3://bucket/pool); sources already in it are skipped.
        layout: Name the layout of the rows instead of having it detected, as in labelled:0/1 (0: the first response).
        name: Call the source this instead of by its file.
        mapped: Fields that you call otherwise, as FIELD=COLUMN (chosen=win prompt=data.question).
        ignore: Columns to read the rows without.
        engine: Where it runs: local (this process), cores or cores:N (processes of this machine), ray, ray://HOST:PORT.
        parts: Into how many parts a new pool is divided; by default as many as hold about 200 MB of text each.
    """
    from assay.curate import pool
    from assay.engine import engine_of
    from assay.formats.reading import Fields
    from assay.store import Place

    if not sources:
        raise AssayError("pool add needs at least one source: a file, a folder or a dataset id")
    if out.startswith("memory://"):
        raise AssayError(f"{out}: what is in memory is gone when this command ends; name a folder or a bucket")
    place, fields = Place.of(out), Fields.of(mapped, ignore)
    held = nullcontext() if place.path is None else alone(place.path.absolute())
    with closing(engine_of(engine)) as runs, held:
        report = pool.add(list(sources), place, layout=layout, name=name, fields=fields, engine=runs, parts=parts)
    more = f", which holds {report.held:,} different ones" if report.held != report.pairs else ""
    print(f"{report.pairs:,} pairs, {report.rejected:,} rejected ({out}/rejections) -> {out}{more}")
    if not report.pairs:
        raise AssayError(f"no usable pair in {', '.join(sources)}; the reasons are above and in {out}/rejections")


def verify_pairs(
    run: Positional[Path], annotator: str = "", judgements: Path = Path("judgements.jsonl"), seed: int = 0,
    again: bool = False,
) -> None:  # fmt: skip
    """Judge the pairs that a run waits for, in this terminal; every answer is saved at once, and the page sees it.

    What others answer meanwhile is not asked, nor what somebody has open on the page. The run goes on with
    `assay resume RUN`, or by itself where it was begun with --wait.

    Args:
        run: The run folder that asked for people.
        annotator: Your name in the judgements (default: the login name).
        judgements: The file of answers, inside the run folder.
        seed: Changes the random order in which responses are shown.
        again: All pairs that were ever asked about and that you have not answered, for a second opinion.
    """
    from assay.curate.verify import verify
    from assay.curate.waiting import Desk, waits
    from assay.pipeline.people_on_file import left, read_queue

    hear_interrupts()
    cases = read_queue(run / "queue") if again else left(run, run / judgements)
    name = annotator or os.environ.get("USER") or os.environ.get("LOGNAME") or "annotator"
    desk = Desk(run, name, run / judgements, again)
    done = verify(cases, name, run / judgements, input, Console(highlight=False), seed, desk.elsewhere, desk.hold)
    print(f"{done.judged} judged, {done.ties} ties, {done.discarded} discarded, {done.skipped} skipped")
    now = waits(run, run / judgements)
    print(now if now is not None else f"{run} waits for no answers")


def show_pair(folder: Positional[str], pair_id: Positional[str]) -> None:
    """Print the whole life of one pair: every judgement of every annotator, also those that disagree or were taken back.

    Args:
        folder: A run folder, a pool folder (or its URL in an object store), or a folder of `assay annotate`.
        pair_id: The pair's id, or enough of its beginning.
    """
    from assay.show import show

    show(folder, pair_id, Console(highlight=False))


def report(run: Positional[Path]) -> None:
    """Write the HTML report of a run again.

    Args:
        run: The run folder.
    """
    from assay.report.page import write_report

    print(write_report(run))
