"""Reading a metrics.jsonl that grows: each line once, torn ones later, replaced files anew."""

import json
from pathlib import Path

import pytest

from assay.journal import Journal
from assay.web import tail as module
from assay.web.tail import Tail


def of(path: Path) -> Tail:
    tail = Tail(path, ["loss", "accuracy"])
    tail.read()
    return tail


def test_only_what_was_added_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.log(1, {"loss": 0.7, "accuracy": 0.5, "other": 3.0})
    tail = of(tmp_path / "metrics.jsonl")
    first = tail.offset
    assert tail.series == {"loss": [(1.0, 0.7)], "accuracy": [(1.0, 0.5)]}
    assert not tail.read()
    journal.log(2, {"loss": 0.6})
    assert tail.read()
    assert tail.series["loss"] == [(1.0, 0.7), (2.0, 0.6)]
    assert tail.offset > first
    assert tail.last == {"step": 2, "loss": 0.6}


def test_a_resumed_training_takes_its_later_steps_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(1, 6):
        journal.log(step, {"loss": float(step)})
    tail = of(tmp_path / "metrics.jsonl")
    journal.resume(3)
    journal.log(4, {"loss": 40.0})
    journal.log(5, {"loss": 50.0})
    assert tail.read()
    assert tail.series["loss"] == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (4.0, 40.0), (5.0, 50.0)]


def test_a_torn_line_counts_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = json.dumps({"step": 2, "loss": 0.25})
    path.write_text(f'{{"step": 1, "loss": 0.5}}\n{whole[:9]}')
    tail = of(path)
    assert tail.series["loss"] == [(1.0, 0.5)]
    with path.open("a") as file:
        file.write(f"{whole[9:]}\n")
    assert tail.read()
    assert tail.series["loss"] == [(1.0, 0.5), (2.0, 0.25)]


def test_lines_that_are_no_steps_and_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": "stage1/it0", "loss": 1}\n[1]\nnonsense\n{"step": 1, "loss": NaN, "accuracy": "<b>"}\n'
                    '{"step": 2, "loss": true, "accuracy": 0.5}\n{"step": true, "loss": 1}\n')  # fmt: skip
    assert of(path).series == {"accuracy": [(2.0, 0.5)], "loss": []}


def test_a_file_that_goes_is_forgotten_and_one_that_comes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = of(path)
    assert tail.series == {}
    path.write_text('{"step": 1, "loss": 0.5}\n')
    assert tail.read()
    path.unlink()
    assert tail.read()
    assert tail.series == {}


def test_of_a_long_training_points_go_and_the_ends_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 50)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {n}, "loss": {n}}}\n' for n in range(1, 1001)))
    kept = of(path).series["loss"]
    assert len(kept) <= 50
    assert (kept[0], kept[-1]) == ((1.0, 1.0), (1000.0, 1000.0))
    assert [s for s, _ in kept] == sorted({s for s, _ in kept})
