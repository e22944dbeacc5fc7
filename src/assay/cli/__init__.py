"""The command line: one command per stage, made from the functions' signatures and the config dataclasses."""

import errno
import os
import sys
import time
from collections.abc import Sequence

from assay import __version__
from assay.cli import bench, curate, fetch, guide, judgements, judges, policy, pool, reward, run, runs, serve, web
from assay.cli.arguments import App, named
from assay.cli.run_file import prepared
from assay.errors import AssayError, Elsewhere, Paused
from assay.llm.budget import BudgetSpent
from assay.processes import end_with

app = App()
app.command(
    run.app,
    name="run",
    help="The whole path from pairs to a reward model and a report.",
)
app.command(
    reward.app, name="reward", help="Train reward models, export what they are trained on, and measure scaling."
)
app.command(policy.app, name="policy", help="Assemble, tune and evaluate a policy.")
pool_app = App()
pool_app.command(name="add")(curate.pool_add)
pool_app.command(name="near-duplicates")(pool.near_duplicates)
app.command(
    pool_app, name="pool", help="Import files of preference pairs into a pool, and find what is almost alike in it."
)
app.command(name="runs")(runs.list_runs)
app.command(name="resume")(runs.resume)
app.command(name="compare")(runs.compare_runs)
app.command(name="delete")(runs.delete_run)
app.command(name="verify")(curate.verify_pairs)
app.command(
    judgements.app, name="judgements", help="Exchange people's judgements with other tools, and measure agreement."
)
app.command(name="attributes")(judges.attributes)
app.command(judges.app, name="annotate", help="Have LLM judges label pairs, guided by gold examples.")
app.command(name="guidance")(judges.guidance)
app.command(name="web")(web.web)
app.command(name="web-user")(web.web_user)
app.command(name="watch")(web.watch)
app.command(name="show")(curate.show_pair)
app.command(name="report")(curate.report)
app.command(bench.app, name="bench", help="Measure reward models on benchmarks, and compare two results.")
app.command(name="best-of-n")(bench.best_of_n)
app.command(name="serve")(serve.serve_model)
app.command(name="fetch")(fetch.fetch)


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""What a disk says that is full, or not to be written on."""
_PATH = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
"""What it says of a path that is a folder where a file is meant, or the other way round."""


def _command(arguments: Sequence[str]) -> object:
    return app.cli(
        prog="assay",
        args=arguments,
        description="Curate preferences, train reward models you can trust, and measure them.",
    )


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2, a budget that has ended exit code 3, a
    run that waits for people exit code 4."""
    if sys.argv[1:] == ["--version"]:
        print(f"assay {__version__}")
        return None
    arguments = judges.with_default(bench.with_default(named(sys.argv[1:] or ["--help"])))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with(os.getppid())  # torchrun gives its processes sessions of their own, and they would outlive it
    try:
        if (text := guide.helped(arguments, _command)) is not None:
            return print(text, flush=True)
        _command(prepared(arguments))
    except Paused as pause:
        print(f"paused: {pause}", file=sys.stderr)
        sys.exit(4)
    except BudgetSpent as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        sys.exit(3)
    except Elsewhere:
        time.sleep(1)  # torchrun ends all when one ends, and the other is to say it first
        sys.exit(2)
    except AssayError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 2:
            print(*guide.hints(arguments, _command), sep="\n", file=sys.stderr)
        raise
    except BrokenPipeError:  # the reader has enough (`assay ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # of what is still in the buffer
        sys.exit(141)
    except OSError as error:
        if error.errno not in _DISK | _PATH:
            raise
        what = f"{error.filename or 'a file'}: {error.strerror}"
        then = (
            "what was done before is kept, and the same command goes on" if error.errno in _DISK else "correct the path"
        )
        print(f"error: {what}; {then}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # of several processes one says it
            print("interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)
