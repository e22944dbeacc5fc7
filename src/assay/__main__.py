"""`assay` and `python -m assay`: the command line, whose modules take a second to load."""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Threads that wait for others sleep: beside other work, threads that spin made a run five times as long."""


def main() -> None:
    """`assay.cli.main`; Ctrl-C while it is loaded is a line as well."""
    try:
        from assay.cli import main as command
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
