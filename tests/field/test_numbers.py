"""Numbers as people get them from the command line: few prompts are never sure, gold that is trained on chooses nothing."""

import json
from pathlib import Path

from assay.bench import compare
from assay.bench.results import BenchmarkResult, cell
from assay.curate.verify import add_judgements
from assay.records import Judgement, Pair, Preference, Response, user
from assay.tables import Table
from in_process import assay_here


def results(path: Path, values: list[float], prompts: int) -> Path:
    made = cell("total", values, [(user(f"prompt {n % prompts}"),) for n in range(len(values))])
    compare.save(path, path.stem, {}, [BenchmarkResult(
        name="own", n=len(values), total=len(values), headline=made, slices=(), notes=(), protocol="p",
    )])  # fmt: skip
    return path


def test_two_models_on_four_prompts_are_not_told_apart(tmp_path: Path) -> None:
    """Forty pairs of four prompts; one model is right on all, the other on those of three. A bootstrap of four prompts
    says 0 to 75 points, 68% of draws above 0; exchanging names, one of four prompts is nothing."""
    a = results(tmp_path / "a.json", [1.0] * 40, 4)
    b = results(tmp_path / "b.json", [float(n % 4 > 0) for n in range(40)], 4)
    done = assay_here("bench", "compare", a, b)
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "own" in line)
    assert "+25.00" in row
    assert "1.000" in row
    low, high = (float(x) for x in row.split("+25.00")[1].split()[0:3:2])
    assert low < 0 < 25 < high
    same = assay_here("bench", "compare", a, a)
    assert "+0.00 to +0.00" not in same.stdout
    headline = json.loads(a.read_text())["results"][0]["headline"]
    assert headline["high"] == 100
    assert headline["low"] < 45, "four prompts, not forty pairs"


def test_two_people_who_agree_on_five_pairs_are_not_known_to_agree(tmp_path: Path) -> None:
    rows = [
        Judgement(pair_id=f"p{n}", better=f"p{n}{'ab'[n % 2]}", by=by, kind="human", shown=(f"p{n}a", f"p{n}b"))
        for n in range(5) for by in ("ann", "bob")
    ]  # fmt: skip
    add_judgements(tmp_path / "judgements.jsonl", rows)
    done = assay_here("judgements", "agreement", tmp_path / "judgements.jsonl")
    assert done.returncode == 0, done.stderr
    assert "1.000 to 1.000" not in done.stdout
    assert "to 1.000" in done.stdout


def test_gold_that_is_trained_on_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    def write(folder: str, questions: list[str]) -> Path:
        pairs = [Pair.of((user(q),), Response.of(f"yes, {q}"), Response.of(f"no, {q}")) for q in questions]
        Table(tmp_path / folder, Preference).write("part-0", [p.preferring(p.responses[0].id) for p in pairs])
        return tmp_path / folder

    taught = write("prefs", [f"Is {n} even?" for n in range(20)])
    gold = write("gold", ["Is 3  even?", "Is 50 even?"])
    done = assay_here("reward", "train", taught, "--out", tmp_path / "rm", "--gold", gold, "--backbone", "nowhere")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    told = " ".join(done.stderr.split())
    assert "1 of 20 pairs ask a question of" in told
    assert not (tmp_path / "rm").exists()
