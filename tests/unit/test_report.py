"""What the report reads of tables: judgements summed by who gave them, and a few pairs of every fate."""

import io
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from assay import figures
from assay.errors import AssayError
from assay.examples import CHARACTERS, _example, examples
from assay.records import Judgement, Label, Pair, Response, user
from assay.report.page import _cost, _judgements, _who, summary, write_report
from assay.report.run import RunSteps
from assay.statistics import Estimate, mean
from assay.tables import Table
from pools import better, old_layout, small_pool, small_run


def test_judgements_are_summed_by_who_gave_them(tmp_path: Path) -> None:
    _, pairs = small_pool(tmp_path / "pool")
    said = [
        Judgement(pair_id=p.id, better=better(k) if k % 2 else None, by="llm:m", kind="llm", votes=3, tokens=10,
                  seconds=0.5, problem="" if k % 2 else "tie")
        for k, p in enumerate(pairs)
    ]  # fmt: skip
    for seed in range(2):
        table = Table(tmp_path / f"run/seed-{seed}/tables/judgements", Judgement)
        table.write("a", said[:15])
        table.write("b", said[15:])
        table.write("people", [Judgement(pair_id=pairs[0].id, better=better(0), by="ann", kind="human")])
    Table(tmp_path / "run/seed-0/tables/claims", Judgement).write("unguided", said[:4])
    judged = _judgements(tmp_path / "run")
    assert _who(judged, "lead", "human", "oracle") == "ann"
    assert _who(judged, "llm", "offline") == "llm:m"
    assert _who(judged, "oracle") == "none"
    assert _cost(judged).rows == [
        ["ann", "human", "curation", "2", "2", "0", "0", "0"],
        ["llm:m", "llm", "curation", "80", "240", "40", "800", "40"],
        ["llm:m", "llm", "ablation only", "4", "12", "2", "40", "2"],
    ]


def test_a_few_pairs_of_every_fate_are_shown(tmp_path: Path) -> None:
    pool, pairs = small_pool(tmp_path / "run/pool", known=True)
    small_run(tmp_path / "run", pool)
    table = Table(tmp_path / "run/seed-0/tables/labels", Label)

    def label(k: int, fate: str, reason: str) -> Label:
        chosen = None if fate == "dropped" else better(k)
        return Label(pair_id=pairs[k].id, chosen=chosen, tier="wild", fate=fate, reason=reason, by=(), stage="s")  # type: ignore[arg-type]

    table.write("stage1", [label(k, "relabelled", "judges prefer the other response") for k in range(5, 10)])
    table.write("stage2-a", [label(k, "dropped", "one") for k in range(10, 15)] + [label(20, "kept", "models agree")])
    table.write("stage2-b", [label(15, "dropped", "two"), label(16, "flipped", "all say so")])
    found = examples(tmp_path / "run")
    assert [e["fate"] for e in found] == ["relabelled"] * 3 + ["flipped"] + ["dropped"] * 3
    assert {e["reason"] for e in found if e["fate"] == "dropped"} == {"one", "two"}
    first = next(e for e in found if e["id"] == pairs[5].id)
    numbers = [r.id for r in pairs[5].responses]
    assert first["wild"] == f"The source (wild:web) preferred response {2 - numbers.index(better(5))}. "
    assert first["truth"] == f"In truth response {numbers.index(better(5)) + 1} is better."
    shown, mark = first["responses"][numbers.index(better(5))]
    assert "good 5" in shown
    assert mark == "good"


def test_a_long_text_is_cut_and_that_is_told() -> None:
    long, short = Response.of("a" * CHARACTERS + "b"), Response.of("c" * CHARACTERS)
    row = {"fate": "flipped", "reason": "all say so", "chosen": short.id, "original": long.id, "truth": None}
    shown = _example(Pair.of((user("what?"),), long, short), row, "wild:web")
    texts = [text.partition("] ")[2] for text, _ in shown["responses"]]
    assert sorted(texts) == ["a" * CHARACTERS + " ...", "c" * CHARACTERS]


def test_a_pool_without_truth_has_no_empty_tables(tmp_path: Path) -> None:
    """What cannot be measured without a truth is left out, in the terminal and on the page."""
    pool, _ = small_pool(tmp_path / "run/pool")
    small_run(tmp_path / "run", pool)
    reached = {"value": 0.75, "se": 0.1, "n": 1234, "clusters": 10.0}
    filters = {"kept": 0, "keep_agreement": None, "flipped": 0, "flip_agreement": None}
    loop = {"gold": 1, "held": 1, "silver": 1, "mistakes": 0, "retrieved": 0, "free": 0, "gold_accuracy": reached}
    of_gold = asdict(mean([1.0] * 70 + [0.0] * 30, [n // 4 for n in range(100)]))  # four pairs to a question
    judged = {"asked": 4, "agreement": reached, "overturned": reached}
    length = {"name": "longer wins", "value": 68.3, "low": 64.1, "high": 72.3, "n": 893, "clusters": 258.0}
    counts = {"rows": None, "rejected": {}, "read": 2, "duplicates": 0, "conflicting": 0, "pool": 2, "contaminated": 0,
              "near_duplicates": 0, "aside": 0, "pairs": 2, "prompts": 1, "wrong": None}  # fmt: skip
    steps = {"prepare/split": {"evaluation": 0, "stage1": 1, "stage2": 1, "by_people": True}, "prepare/pool": counts}
    of_set = {"pairs": 1, "labels": None, "accuracy": reached, "on_held": True}
    of_seed = {
        **{f"sets/{name}": of_set for name in ("raw-more", "stage1")},
        "claims-judges": {}, "claims-filters": {"best RM": filters},
        "final": {"set": "stage1", "held": {"stage1": 0.7}, "gold": {"stage1": of_gold}, "n": 139}, "labels": {"counts": {}},
        "stage1/it0": loop, "stage1/it1": loop, "stage1/judges-seed": judged, "stage1/judges-it0": judged,
        "bench/held-out": {"title": "held-out pairs", "cells": [], "notes": [], "diagnostics": [length]},
    }  # fmt: skip
    (tmp_path / "run/config.json").write_text(json.dumps({"recipe": "pool"}))
    machine = {"processor": "Another Processor", "cores": 96, "python": "3.12.1"}
    (tmp_path / "run/environments.jsonl").write_text(f"{json.dumps(machine)}\n" * 2)
    for folder, some in ((tmp_path / "run", steps), (tmp_path / "run/seed-0", of_seed)):
        for name, told in some.items():
            (folder / f"steps/{name}.json").parent.mkdir(parents=True, exist_ok=True)
            (folder / f"steps/{name}.json").write_text(json.dumps({**told, "wall_s": 0.1}))
    console = Console(file=io.StringIO(), width=100)
    summary(tmp_path / "run", console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "reward models by training labels" in printed
    assert "agreement with the truth" not in printed
    assert "rightly kept" not in printed
    page = write_report(tmp_path / "run").read_text()
    assert "agree with the truth cannot be told: the pool knows none" in page
    assert "1,234 pairs of held gold: they chose the checkpoints" in " ".join(page.split())
    for said in ("<th>round</th>", "<td>1</td>", "<td>2</td>", "<td>the first answers</td>", "<td>round 1</td>"):
        assert said in page, "rounds are numbered as the terminal numbers them"
    assert "the model prefers the longer one" in page
    assert "Another Processor, 96 cores, Python 3.12.1 &middot;" in page, "the run's machine, once"
    assert f"stage 1 {figures.told(Estimate(**of_gold), '')}" in page
    assert figures.counted(70, 100) not in page, "pairs of a question are not independent"
    for name in ("raw-more", "stage1"):
        (tmp_path / f"run/seed-0/steps/sets/{name}.json").unlink()
    with pytest.raises(AssayError, match="an older Assay made this run; run it anew"):
        summary(tmp_path / "run", console)


def test_a_run_without_such_labels_shows_none(tmp_path: Path) -> None:
    pool, _ = small_pool(tmp_path / "run/pool")
    small_run(tmp_path / "run", pool)
    Table(tmp_path / "run/seed-0/tables/labels", Label).write("stage1", [])
    assert examples(tmp_path / "run") == []


def test_folders_that_cannot_be_reported_on_say_why(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="not a run folder"):
        write_report(tmp_path)
    (old_layout(tmp_path / "old") / "config.json").write_text("{}")
    with pytest.raises(AssayError, match="earlier version of Assay made this run"):
        RunSteps.open(tmp_path / "old")
    pool, _ = small_pool(tmp_path / "run/pool")
    small_run(tmp_path / "run", pool)
    (tmp_path / "run/config.json").write_text("{}")
    with pytest.raises(AssayError, match="has not finished a seed yet"):
        RunSteps.open(tmp_path / "run")
