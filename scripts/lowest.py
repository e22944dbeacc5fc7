"""The lowest versions that pyproject.toml allows, as constraints for pip: `python scripts/lowest.py policy lora dev`.

Of the extras that are named and of what they name. torch stays as constraints.txt has it: its plain wheels bring CUDA.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
KEPT = ("torch",)


def lowest(extras: list[str]) -> list[str]:
    """`name==version` for each requirement with a lower bound, and what is kept as it is pinned."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo, seen, found = [""], set[str](), dict[str, str]()
    todo += extras
    while todo:
        extra = todo.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for one in project["optional-dependencies"][extra] if extra else project["dependencies"]:
            if own := re.match(r"assay-rm\[(.+)\]", one):
                todo += own[1].split(",")
            elif bound := re.match(r"([\w-]+)(?:\[\w+\])?(?:>=|==)([\d.]+)", one):
                found[bound[1]] = bound[2]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    return [f"{n}=={pinned[n] if n in KEPT else v}" for n, v in sorted(found.items())]


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))
