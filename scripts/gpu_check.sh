#!/bin/sh
# Does what a CPU cannot run work on this accelerator, and how fast? Under 8 minutes; the last line of stdout is JSON.
#
#     scripts/gpu_check.sh            # with the environment of `make`, or PYTHON=... of another one (Assay need not be in it)
#     scripts/gpu_check.sh --small    # tiny sizes, on a CPU as well: does the check itself run?
#
# With trl and datasets in the environment it races TRL too.
cd "$(dirname "$0")/.." || exit 1
python="${PYTHON:-.venv/bin/python}"
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
"$python" - <<'END' || exit 1
import sys
from importlib.util import find_spec

needs = ("torch", "transformers", "accelerate", "safetensors", "numpy", "pyarrow", "polars", "rich", "psutil", "jinja2")
if missing := [name for name in needs if not find_spec(name)]:
    sys.exit(f"{sys.executable} lacks {', '.join(missing)}: install them, or name another Python by PYTHON=")
END
exec "$python" benchmarks/gpu_check.py "$@"
