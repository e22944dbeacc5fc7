"""The command line in this process: `assay ARGUMENTS`, without the seconds that a process of its own takes to begin."""

import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

from assay.cli import main


def assay(*arguments: object, cwd: Path | None = None, stdin: str = "", **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr. An exception that a user would see as a traceback is raised."""
    out, err, code = StringIO(), StringIO(), 0
    line, told = ["assay", *map(str, arguments)], {"NO_PROXY": "127.0.0.1", **environment}
    with (
        chdir(cwd or Path.cwd()), patch.object(sys, "argv", line), patch.object(sys, "stdin", StringIO(stdin)),
        patch.dict(os.environ, told),
    ):  # fmt: skip
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def assay_here(*arguments: object, cwd: Path | None = None, stdin: str = "") -> CompletedProcess[str]:
    """The same as what a process leaves, on a wide terminal."""
    return CompletedProcess(arguments, *assay(*arguments, cwd=cwd, stdin=stdin, COLUMNS="200"))
