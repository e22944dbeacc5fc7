"""What the report reads of tables: judgements summed by who gave them, and a few pairs of every fate."""

from pathlib import Path

import pytest

from assay.errors import AssayError
from assay.examples import examples
from assay.records import Judgement, Label
from assay.report import _cost, _judgements, _Run, _who, write_report
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
        _Run.open(tmp_path / "old")
    pool, _ = small_pool(tmp_path / "run/pool")
    small_run(tmp_path / "run", pool)
    (tmp_path / "run/config.json").write_text("{}")
    with pytest.raises(AssayError, match="has not finished a seed yet"):
        _Run.open(tmp_path / "run")
