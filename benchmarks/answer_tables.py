"""How often the rules that read answers differ from a person's verdicts.

    .venv/bin/python benchmarks/answer_tables.py                               # every table, by the rules of this tree
    .venv/bin/python benchmarks/answer_tables.py --tables 9969daf --only ninth # the tables as that commit has them
    .venv/bin/python benchmarks/answer_tables.py --rules 9969daf --show        # by that commit's rules; what differs

A table (tests/unit/answer_pairs*) has a person's verdict on each pair: is the given answer, or that of a whole text, the
right one? Told are the share of pairs on which the rules differ, that of wrong answers that are paid and that of right ones
that are refused, also of texts that mark their final answer and of those which do not, with 95 % intervals
(Clopper-Pearson: pairs of one kind are alike, so true ones are wider).
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
Row = dict[str, str | bool]
MARKED = re.compile(
    r"\\boxed|<answer>|####|\b(?:ans(?:wers?)?|antwort|réponse|respuesta)\b|答案|故选|正确的?选项", re.I
)
"""Texts that mark their final answer, as those who train ask for; others tell it in their last sentence."""


def unpacked(commit: str, folder: str, into: str) -> Path:
    """`folder` as a commit has it, unpacked below `into`."""
    packed = subprocess.run(["git", "-C", ROOT, "archive", commit, folder], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(into, filter="data")
    return Path(into) / folder


def tables(folder: Path, only: str) -> Iterator[tuple[str, list[Row]]]:
    """Name and rows of each table; one in several files has a part of that name for each."""
    for file in sorted([*folder.glob("answer_pairs*.jsonl"), *folder.glob("answer_pairs*/*.jsonl")], key=str):
        name = "/".join(file.relative_to(folder).with_suffix("").parts)
        if only in name:
            yield name, [json.loads(line) for line in file.read_text(encoding="utf8").splitlines()]


def share(rows: list[tuple[Row, bool]]) -> str:
    """Count and share of those which differ, with its interval."""
    from assay.statistics import clopper_pearson

    wrong, n = sum(told != row["same"] for row, told in rows), len(rows)
    if not n:
        return "-"
    low, high = clopper_pearson(wrong / n, n)
    return f"{wrong} of {n}: {100 * wrong / n:.1f} [{100 * float(low):.1f}, {100 * float(high):.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", metavar="COMMIT", help="the tables of this commit; else those of this tree")
    parser.add_argument("--rules", metavar="COMMIT", help="the rules of this commit; else those of this tree")
    parser.add_argument("--only", default="", metavar="NAME", help="tables with this in their name")
    parser.add_argument("--show", action="store_true", help="print what differs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.rules:
            source = unpacked(options.rules, "src", temporary)
            arguments = [
                a for pair in (("--tables", options.tables), ("--only", options.only)) if pair[1] for a in pair
            ]
            command = [sys.executable, __file__, *arguments, *["--show"] * options.show]
            sys.exit(subprocess.run(command, env={**os.environ, "PYTHONPATH": str(source)}, check=False).returncode)
        folder = unpacked(options.tables, "tests/unit", temporary) if options.tables else ROOT / "tests" / "unit"
        measure(list(tables(folder, options.only)), options.show)


def measure(found: list[tuple[str, list[Row]]], show: bool) -> None:
    """Judge every pair; print a line for each table, for its parts and for each kind."""
    from assay.bench.policy.answers import correct, same

    judged = defaultdict[str, list[tuple[Row, bool]]](list)
    for name, rows in found:
        for row in rows:
            ask = correct if "text" in row else same
            told = ask(row.get("text") or row.get("given", ""), row["right"], row["kind"])
            groups = {name, name.split("/")[0], f"all {row['kind']}", "all"}
            if "text" in row:
                groups.add(f"{name.split('/')[0]} {'marked' if MARKED.search(str(row['text'])) else 'unmarked'}")
            for group in groups:
                judged[group].append((row, told))
            if show and told != row["same"]:
                print("PAID   " if told else "REFUSED", json.dumps(row, ensure_ascii=False), name)
    print(f"{'table':36} {'differ, %':32} {'paid though wrong, %':32} refused though right, %")
    for group in sorted(judged, key=lambda g: (g.startswith("all"), g)):
        rows_ = judged[group]
        parts = [[r for r in rows_ if r[0]["same"] is told] for told in (False, True)]
        print(f"{group:36} {share(rows_):32} {share(parts[0]):32} {share(parts[1])}")


if __name__ == "__main__":
    main()
