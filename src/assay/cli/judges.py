"""`assay attributes`, `assay annotate`, `assay guidance`: language models describe pairs and judge them."""

from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional

from assay.cli.arguments import App, Flat
from assay.cli.run_file import kept
from assay.curate.merging import Merge
from assay.judges.annotate import JudgeConfig
from assay.judges.asking import AskConfig
from assay.judges.attributes import AttributesConfig

app = App()
NAMES = ("run", "report")


def attributes(
    source: Positional[str],
    server: tuple[str, ...],
    out: Path,
    config: Annotated[AttributesConfig, Flat] = AttributesConfig(),  # noqa: B008
    asking: Annotated[AskConfig, Flat] = AskConfig(),  # noqa: B008
    sets: tuple[str, ...] = (),
    dry_run: bool = False,
) -> None:
    """Have LLM servers describe pairs: category, objectivity, controversiality, desired qualities, guideline.

    The pairs are dealt out over the servers; what one cannot describe goes to the next. Killed or stopped by its budget
    (exit code 3), the same command goes on.

    Args:
        source: A pool folder (or its URL in an object store), a run folder, or a folder of published sets (see --sets).
        server: MODEL@URL of OpenAI-compatible servers (https://HOST/v1); the key is $OPENAI_API_KEY.
        out: The folder of the attributes; `assay annotate --attributes` reads it.
        config: What shapes the answers.
        asking: How the servers are asked.
        sets: Names of the published sets that lie in SOURCE.
        dry_run: Print requests, tokens and cost, and stop.
    """
    from assay.judges.attributes import describe

    console = Console(highlight=False)
    found = describe(source, out, server, config, asking, sets=sets, dry_run=dry_run, console=console)
    if found is None:
        return
    by = ", ".join(f"{count:,} by {who}" for who, count in found["by"].items())
    print(f"{found['pairs']:,} pairs: {by} -> {out}/tables/attributes")
    for problem, count in found["problems"].items():
        print(f"failed: {count:,} times: {problem}")
    for row in found["costs"]:
        print(f"{row['judge']}: {row['tokens_in']:,} tokens in, {row['tokens_out']:,} out, cost {row['cost']:.4g}")


@app.command(name="run")
@kept("annotate run")
def annotate_run(
    source: Positional[str],
    judge: tuple[str, ...],
    out: Path,
    gold: tuple[Path, ...] = (),
    config: Annotated[JudgeConfig, Flat] = JudgeConfig(),  # noqa: B008
    asking: Annotated[AskConfig, Flat] = AskConfig(),  # noqa: B008
    merge: Merge = "majority",
    attributes: Path | None = None,
    sets: tuple[str, ...] = (),
    dry_run: bool = False,
) -> None:
    """Have LLM judges, guided by gold examples, vote on pairs; `assay annotate SOURCE` is short for `annotate run SOURCE`.

    Killed or stopped by its budget (exit code 3), the same command goes on and asks nothing twice.

    Args:
        source: A pool folder (or its URL in an object store), a run folder, or a folder of published sets (see --sets). Give
            a folder of the name run or report as ./run.
        judge: MODEL@URL of OpenAI-compatible servers (https://HOST/v1), all asked at once; the key is $OPENAI_API_KEY.
            MODEL@local: a model of this machine, read by which verdict it finds likelier (with --answers verdict).
        out: The folder of votes, judgements and report.
        gold: What people chose: files of judgements, or pools and runs whose labels are people's.
        config: What shapes the votes.
        asking: How the servers are asked.
        merge: Votes to judgements: majority, weighted (by agreement with gold), dawid-skene.
        attributes: A folder of `assay attributes` (default: those in SOURCE, else rules).
        sets: Names of the published sets that lie in SOURCE; what people chose there is gold.
        dry_run: Print requests, tokens and cost, and stop.
    """
    from assay.judges.annotate import annotate
    from assay.judges.votes import show_report

    console = Console(highlight=False)
    found = annotate(
        source, out, judge, gold, config, asking, merge=merge, attributes=attributes, sets=sets, dry_run=dry_run,
        console=Console(stderr=True, highlight=False),
    )  # fmt: skip
    if found is not None:
        show_report(found, out, console)


@app.command(name="report")
def annotate_report(folder: Positional[Path], merge: Merge = "majority") -> None:
    """Merge the votes in FOLDER again and print the report; asks nothing.

    Args:
        folder: The folder of an `assay annotate`, finished or not.
        merge: Votes to judgements: majority, weighted (by agreement with gold), dawid-skene.
    """
    from assay.judges.votes import report, show_report

    show_report(report(folder, merge), folder, Console(highlight=False))


def guidance(
    source: Positional[str],
    judge: tuple[str, ...],
    out: Path,
    gold: tuple[Path, ...] = (),
    config: Annotated[JudgeConfig, Flat] = JudgeConfig(samples=2, examples=4),  # noqa: B008
    asking: Annotated[AskConfig, Flat] = AskConfig(),  # noqa: B008
    attributes: Path | None = None,
    sets: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0,),
) -> None:
    """Compare a judge without examples, with random gold examples and with the nearest ones, on the same gold pairs.

    Args:
        source: A pool folder (or its URL in an object store), a run folder, or a folder of published sets (see --sets).
        judge: MODEL@URL of OpenAI-compatible servers, or MODEL@local (with --answers verdict).
        out: The folder of all arms; the same command goes on.
        gold: What people chose: files of judgements, or pools and runs whose labels are people's.
        config: What shapes the votes; guidance and pairs are set by the arms.
        asking: How the servers are asked.
        attributes: A folder of `assay attributes` (default: those in SOURCE, else rules).
        sets: Names of the published sets that lie in SOURCE; what people chose there is gold.
        seeds: Each arm is run once for each; a seed changes the orders and the random examples, not the pairs.
    """
    from assay.judges.guidance import compare, show_guidance

    found = compare(source, out, judge, gold, config, asking, sets=sets, attributes=attributes, seeds=seeds)
    show_guidance(found, out, Console(highlight=False))


def with_default(arguments: list[str]) -> list[str]:
    """`annotate SOURCE` as `annotate run SOURCE`."""
    if arguments[:1] == ["annotate"] and len(arguments) > 1 and arguments[1] not in (*NAMES, "-h", "--help"):
        return ["annotate", "run", *arguments[1:]]
    return arguments
