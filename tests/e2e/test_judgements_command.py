"""`assay judgements`: out to another tool, back in, and what agreement comes to."""

import json
from pathlib import Path

import pytest

from assay.curate.rules import rule_attributes
from assay.curate.verify import read_judgements
from assay.records import Case, Pair, Response, user
from assay.tables import Table
from in_process import assay_here

CASES = [Case(pair=p, attributes=rule_attributes(p))
         for p in (Pair.of((user(f"Q{n}?"),), Response.of(f"a{n}"), Response.of(f"b{n}")) for n in range(4))]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    Table(tmp_path / "run" / "queue", Case).write("waiting", CASES)
    return tmp_path / "run"


@pytest.mark.parametrize("format", ["label-studio", "argilla"])
def test_out_and_in_again(run: Path, format: str) -> None:
    out = run.parent / "out.json"
    done = assay_here("judgements", "export", run, "--out", out, "--to", format)
    assert done.returncode == 0, done.stderr
    assert "4 pairs with 0 judgements" in done.stdout
    assert len(list(run.parent.glob("out.*"))) == 2
    rows = json.loads(out.read_text())
    for who in ("3", "4"):
        for row in rows:
            if format == "argilla":
                row["responses"].setdefault("better", []).append({"value": "response_1", "user_id": who})
            else:
                value = {"from_name": "better", "to_name": "better", "type": "pairwise", "value": {"selected": "left"}}
                row["annotations"].append({"completed_by": int(who), "result": [value]})
    out.write_text(json.dumps(rows))
    (run.parent / "users.json").write_text('{"3": "ann", "4": "bob"}')
    again = ("judgements", "import", out, run, "--format", format, "--users", run.parent / "users.json")
    for added, there in ((8, 0), (0, 8)):
        done = assay_here(*again)
        assert done.returncode == 0, done.stderr
        assert f"{added} judgements added, {there} were there already" in done.stdout
    found = read_judgements(run / "judgements.jsonl")
    assert {(j.by, j.kind) for j in found} == {("ann", "human"), ("bob", "human")}
    assert all(j.better == j.shown[0] for j in found)
    done = assay_here("judgements", "agreement", run / "judgements.jsonl", "--raters")
    assert done.returncode == 0, done.stderr
    assert "people among themselves" in done.stdout
    assert "ann and bob" in done.stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("export nowhere --out x", "no pairs wait here"),
        ("import none.json run --format argilla", "none.json: no such file"),
        ("import run/users run --users run/users", "--users run/users: "),
        ("agreement none", "none: no such file"),
        ("agreement empty", "no pair has two judgements"),
    ],
)
def test_mistakes_are_one_line(run: Path, command: str, message: str) -> None:
    (run / "users").write_text("[]")
    (run.parent / "empty").write_text("")
    done = assay_here("judgements", *command.split(), cwd=run.parent)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
