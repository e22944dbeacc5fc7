#!/bin/sh
# Does what a CPU cannot run work on this accelerator, and how fast? Under 8 minutes; the last line of stdout is JSON.
#
#     scripts/gpu_check.sh            # with the environment of `make`, or PYTHON=... of another one (Assay need not be in it)
#     scripts/gpu_check.sh --small    # tiny sizes, on a CPU as well: does the check itself run?
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-.venv/bin/python}" benchmarks/gpu_check.py "$@"
