"""Bring the benchmarks' data: each by the command that its skipped line names, whole or not at all."""

import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assay.bench.benchmark import Benchmark
from assay.errors import AssayError


def fetch(folder: Path, benchmarks: Sequence[Benchmark[Any]], say: Callable[[str], None] = print) -> None:
    """Fetch what is not there yet. Raises AssayError with the names of what could not be fetched; the rest stays."""
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for benchmark in benchmarks:
        place, partial = folder / benchmark.folder, folder / f"{benchmark.folder}.partial"
        if place.is_dir():
            say(f"{benchmark.name}: already in {place}")
            continue
        shutil.rmtree(partial, ignore_errors=True)
        command = benchmark.fetch.format(shlex.quote(str(partial)))
        say(f"{benchmark.name}: {command}")
        done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, check=False)
        if done.returncode or not partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
            failed.append(f"{benchmark.name} ({(done.stderr.strip().splitlines() or ['nothing came'])[-1][:200]})")
            continue
        partial.rename(place)
    if failed:
        raise AssayError(
            f"could not fetch {'; '.join(failed)}: is there a network, and are git and hf (huggingface_hub) installed?"
        )
