"""The command line: one command per stage, made from the functions' signatures and the config dataclasses."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from assay.errors import AssayError
from assay.recipes import presets
from assay.recipes.flow import FlowConfig

app = tyro.extras.SubcommandApp()
run_app = tyro.extras.SubcommandApp()
app.command(run_app, name="run")

Flat = tyro.conf.arg(name="")


@run_app.command(name="tiny")
def run_tiny(
    config: Annotated[FlowConfig, Flat] = presets.tiny(),  # noqa: B008
    out: Path = Path("runs/tiny"),
) -> None:
    """The embedded default: checkable instructions, an oracle for people, an offline judge; minutes on two cores."""
    from assay.curate.verify import oracle
    from assay.recipes.job import run_job
    from assay.recipes.pools import constraint_pool

    pool = constraint_pool()
    run_job(out, config, pool, people=oracle(pool.truth))


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    try:
        app.cli(prog="assay", description="Curate preferences, train reward models you can trust, and measure them.")
    except AssayError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; run the same command again to resume")
        sys.exit(130)


if __name__ == "__main__":
    main()
