"""What the votes that lie in a folder of `assay annotate` come to: merged, and reported as often as one likes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from assay.curate.judge_page import markdown, page, sections, show
from assay.curate.judge_report import JudgeReport, judge_report
from assay.curate.merging import Gold, Merge, merge_votes
from assay.curate.shards import Pool
from assay.errors import AssayError
from assay.judges.asking import Model, spending
from assay.judges.sources import read_material
from assay.records import Judgement
from assay.run import environment, jsonable
from assay.tables import Table, plain, stream_shard, write_text


def report(folder: Path, merge: Merge, models: Sequence[Model] | None = None) -> JudgeReport:
    """Merge the votes that lie in `folder`, write judgements.jsonl and the report as JSON, Markdown and HTML."""
    check_layout(folder)
    votes = Table(folder / "tables" / "votes", Judgement).read()
    if not votes:
        raise AssayError(f"{folder}: no votes here; make them with: assay annotate run")
    pool = Pool.open(folder / "pool")
    better = dict(pool.table("truth").frame(columns=["pair_id", "better"]).iter_rows())
    index = pool.table("index").frame(columns=["pair_id", "question_id"])
    known = read_material(folder).attributes.of(better)
    gold = Gold(better=better, questions=dict(index.iter_rows()))
    merged = merge_votes(votes, merge, gold)
    costs = _costs(folder, models)
    found = judge_report(votes, merged, merge, lengths(pool), known, gold, costs)
    write_text(folder / "judgements.jsonl", "".join(json.dumps(plain(j)) + "\n" for j in merged))
    about = environment()
    write_text(folder / "report.json", json.dumps({"environment": about, **jsonable(found)}, indent=2) + "\n")
    tables = sections(found)
    write_text(folder / "report.md", markdown(tables))
    write_text(folder / "report.html", page(tables, f"LLM judges: {folder.name}", about))
    return found


def lengths(pool: Pool) -> dict[str, dict[str, int]]:
    """The characters of the last turn of both responses of every pair, by pair id and response id."""
    last = pl.element().struct.field("messages").list.last().struct.field("content").str.len_chars()
    found: dict[str, dict[str, int]] = {}
    for name in (s.name for s in pool.shards if s.pairs):
        ids = pool.table("index").frame(name, columns=["pair_id", "first", "second"])
        texts = (pl.DataFrame(pl.from_arrow(t)) for t in stream_shard(pool.table("pairs").file(name), ["responses"]))
        sizes = pl.concat([t.select(pl.col("responses").list.eval(last)) for t in texts])["responses"]
        found |= {p: {a: n, b: m} for (p, a, b), (n, m) in zip(ids.iter_rows(), sizes, strict=True)}
    return found


def _costs(folder: Path, models: Sequence[Model] | None) -> list[dict[str, Any]]:
    """Costs with today's prices; without servers at hand, those of the last report."""
    if models is not None:
        return spending(models)
    path = folder / "report.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["costs"]) if path.exists() else []


def show_report(found: JudgeReport, folder: Path, console: Console) -> None:
    show(sections(found), console)
    console.print(f"judgements: {folder / 'judgements.jsonl'}; report: {folder / 'report.html'}, .md, .json")


def check_layout(folder: Path) -> None:
    """Raise AssayError for a folder of an earlier version, which held its pairs in a table."""
    if (folder / "tables" / "pairs").is_dir():
        raise AssayError(
            f"{folder}: an earlier version of Assay made this folder, in another layout; use another --out (with the "
            f"replies of {folder}/replies.sqlite copied there, nothing is asked twice)"
        )
