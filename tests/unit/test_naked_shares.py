"""Numbers that never flatter: no page and no terminal prints a share without n and an interval that has width."""

import io
import json
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from test_claims import CONFIG, PAIRS, Says, Trains
from test_product import Saves

import shares
import small_material as small
from assay.bench.reward.pairs import evaluate_pairs
from assay.bench.table import as_json
from assay.curate.prepare import SplitConfig
from assay.curate.stage1 import Tools
from assay.curate.verify import oracle
from assay.figures import NEEDED, told, verdict
from assay.pipeline import claims
from assay.pipeline.claims import Claims
from assay.pipeline.counted import counted
from assay.pipeline.flow import curate
from assay.pipeline.hits import Hit
from assay.pipeline.product import Product, make_product, measured_on
from assay.report.counts import judges_doubted, sums
from assay.report.page import headline, summary, write_report
from assay.report.run import RunSteps
from assay.run import Run, jsonable
from assay.statistics import Difference, Estimate, mean, over_seeds, paired, paired_over_seeds
from assay.store import Place
from assay.tables import Table

SPLIT = SplitConfig(eval_share=0.2, stage1_share=0.6, held_share=0.3)


@pytest.fixture(scope="module", params=["claims", "own"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two seeds, with real steps and tables: only its models are stand-ins."""
    folder = tmp_path_factory.mktemp("run")
    known = {} if request.param == "own" else None
    material = small.material(folder, known=known, split=SPLIT)
    config = replace(CONFIG, seeds=2)
    people = oracle({i: small.truth(p) for i, p in PAIRS.items()})
    with closing(Run(folder, jsonable(config))) as whole:
        whole.once("prepare/pool", lambda: counted(material.pool, material, SPLIT))
        sizes = {use: material.size(use) for use in ("evaluation", "stage1", "stage2")}  # type: ignore[arg-type]
        whole.once("prepare/split", lambda: {**sizes, "by_people": not material.pool.knows})
    material.save(Place.of(folder))
    for seed in range(2):
        with closing(Run(folder / f"seed-{seed}", {})) as part:
            train = Saves(part.folder / "models", {"filtered": 0.5 + 0.1 * seed})
            judge = Says() if known is None else None
            tools = Tools(people=people, judge=judge, train=train, at_once=5, at_chance=True)
            curated = curate(part, config, material, tools, seed)
            product = Product(run=part, config=config, material=material, curated=curated, train=train, seed=seed)
            make_product(product)
            if judge is not None:
                claims.test_claims(Claims(product=product, judge=judge, unguided=Says(), at_once=5))
            bench = as_json(evaluate_pairs(measured_on(product)[:7], Trains()("stage1", curated.stage1.guided, ())))
            part.once("bench/held-out", lambda bench=bench: bench)  # type: ignore[misc]
    return folder


def terminal(folder: Path) -> str:
    console = Console(file=io.StringIO(), width=250)
    summary(folder, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_no_share_of_the_report_lacks_its_n(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    found, tables = shares.naked(page)
    assert found == []
    assert tables > 5
    assert not re.search(r"±|\((\d+\.\d) to \1[;)]", page), "an interval has width"
    assert "too few to say" in page


def test_no_share_of_the_terminal_lacks_its_n(run: Path) -> None:
    printed = terminal(run)
    assert "±" not in printed
    rows = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines() if re.search(r"\d", line)]
    cells = [cell for row in rows for cell in row if re.fullmatch(r"[-+]?\d+\.\d.*", cell)]
    papers = [c for c in cells if re.search(r"\(seed\)|\(it\. |Fig\.|pure|human|retrieval|\d\d / \d\d", c)]
    assert [c for c in cells if "; n " not in c and c not in papers] == []
    assert shares.in_prose(printed.splitlines()[-1] if run else "") == []
    assert shares.in_prose(headline(RunSteps.open(run))) == []


def test_the_checker_sees_what_lacks_its_n() -> None:
    """It can fail: each of these is what an older report printed."""
    assert shares.in_prose("Held-out accuracy of the final reward model: 100.0 %, against 98.0 % on raw labels")
    assert shares.in_table(["set", "RM held out, %"], [["raw", "75.0 (66.1 to 82.3)"]])
    assert shares.in_table(["set", "right, %"], [["raw", "75.0"]])
    assert not shares.in_table(["set", "n", "right, %"], [["raw", "100", "75.0"]])
    assert not shares.in_prose("60.0 % (49.7 to 69.7; n 100) at 95% intervals")
    page = "<p>right in 60 %</p><table><tr><th>a</th><th>%</th></tr><tr><td>b</td><td>3.0</td></tr></table>"
    assert shares.naked(page) == (["right in 60 %", "%: b: 3.0"], 1)


def test_counts_add_up_from_rows_to_labels(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert "NOT ACCOUNTED FOR" not in page
    found = sums(RunSteps.open(run))
    assert len(found) == 4
    for (title, whole), parts in found:
        assert [sum(column) for column in zip(*(values for _, values in parts), strict=True)] == whole, title


def test_a_count_that_is_missing_is_told(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run, tmp_path / "run")
    step = tmp_path / "run/steps/prepare/pool.json"
    step.write_text(json.dumps({**json.loads(step.read_text()), "pool": 121}))
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "NOT ACCOUNTED FOR" in page


def test_the_headline_says_whether_it_is_shown(run: Path) -> None:
    text = headline(RunSteps.open(run))
    assert re.search(r"\. (Not shown to be|Too few to say whether it is|Shown to be) ", text)
    assert re.search(r"[-+]\d+\.\d points \(-?\+?\d+\.\d to [-+]\d+\.\d\), \d+ pairs of \d+ questions", text)
    by_people = "optimistic" in text
    assert ("which chose it" in text) is by_people
    assert ("RM on the gold that chose it, %" in write_report(run).read_text("utf-8")) is by_people
    assert by_people is (json.loads((run / "steps/prepare/split.json").read_text())["evaluation"] == 0)


@pytest.mark.parametrize(("n", "right", "on_held", "begins", "shown"), [
    (6, 6, True, "Too few to say how good the released reward model (stage 1) is: it ranks 100.0 % (", "Too few to say"),
    (6, 6, False, "Too few to say how good the released reward model", "Too few to say whether"),
    (200, 180, True, "The released reward model (stage 1) ranks 90.0 % (", "Not shown to be better than raw labels, for"),
    (200, 180, False, "The released reward model (stage 1) ranks 90.0 % (", "Shown to be better than raw labels: +40.0"),
])  # fmt: skip
def test_the_headline_of_few_pairs_and_of_gold_that_chose_the_model(
    tmp_path: Path, n: int, right: int, on_held: bool, begins: str, shown: str
) -> None:
    hits = Table(tmp_path / "tables" / "hits", Hit)
    for name, some in (("stage1", right), ("raw-more", n // 2 if n > 6 else 0)):
        hits.write(name, [
            Hit(pair_id=f"{k:032d}", question_id=str(k), right=float(k < some)) for k in range(n)
        ])  # fmt: skip
    sets = {
        f"sets/{name}": {"accuracy": asdict(mean([1.0] * k + [0.0] * (n - k))), "on_held": on_held}
        for name, k in (("stage1", right), ("raw-more", n // 2))
    }
    steps = {"prepare/split": {"by_people": True, "evaluation": n}}
    text = headline(RunSteps(tmp_path, {}, steps, [{"final": {"set": "stage1"}, **sets}], [tmp_path]))
    assert text.startswith(begins)
    assert f". {shown}" in text
    assert shares.in_prose(text) == []


def test_words_for_differences() -> None:
    def of(value: float, low: float, high: float, n: int = 210) -> Difference:
        return Difference(value=value, low=low, high=high, n=n)

    assert verdict(of(0.03, -0.05, 0.11), 190, "raw labels").startswith(
        "not shown to be better than raw labels: +3.0 points (-5.0 to +11.0), 210 pairs of 190 questions; a difference of "
        "this size takes about 1,500 to show"
    )
    assert verdict(of(0.08, 0.01, 0.15), 190, "raw") == (
        "shown to be better than raw: +8.0 points (+1.0 to +15.0), 210 pairs of 190 questions"
    )
    assert verdict(of(-0.08, -0.15, -0.01), 190, "raw").startswith("shown to be worse than raw: -8.0 points")
    assert verdict(of(0.0, -0.1, 0.1), 190, "raw").endswith("210 pairs of 190 questions")
    assert verdict(of(1.0, 0.1, 1.0, 3), 3, "raw").startswith(
        "too few to say whether it is better than raw: +100.0 points"
    )
    assert f"at least {NEEDED} questions are needed" in verdict(of(1.0, 0.1, 1.0, 3), 3, "raw")


def test_words_for_shares() -> None:
    assert told(mean([1.0] * 3)) == "100.0 % (29.2 to 100.0; n 3, too few to say: 30 needed)"
    assert told(mean([1.0, 0.0] * 50)) == "50.0 % (39.7 to 60.3; n 100)"
    clustered = mean([1.0, 1.0, 0.0, 0.0] * 20, [n // 8 for n in range(80)])
    assert re.search(r"; n 80 like 10 independent ones, too few to say: 30 needed\)$", told(clustered))
    assert told(None) == "not known"
    assert told(over_seeds([mean([1.0, 0.0] * 50)] * 2), "").startswith("50.0 (")


def test_judges_that_may_be_a_coin_are_doubted(tmp_path: Path) -> None:
    def steps(right: int, n: int, turn: str) -> dict[str, dict[str, object]]:
        return {f"stage1/judges-{turn}": {"agreement": asdict(mean([1.0] * right + [0.0] * (n - right)))}}

    def doubted(*seeds: dict[str, dict[str, object]]) -> str:
        return judges_doubted(RunSteps(tmp_path, {}, {}, list(seeds), [tmp_path] * len(seeds)))

    assert re.search(r"64\.3 % \(.*; n 14, .*\): not shown to be better than a coin\. ", doubted(steps(9, 14, "seed")))
    assert doubted(steps(9, 14, "seed") | steps(90, 120, "it0")) == "", "the last round has all of it"
    assert ": worse than a coin. " in doubted(steps(20, 100, "seed") | steps(30, 120, "it10"))
    assert doubted({}) == ""


def test_seeds_are_paired_and_their_spread_counts() -> None:
    one, other = [1.0] * 60 + [0.0] * 40, [1.0] * 50 + [0.0] * 50
    questions = [f"q{n // 2}" for n in range(100)]
    alone = paired(one, other, questions)
    assert paired_over_seeds([one], [other], [questions]) == alone
    twice = paired_over_seeds([one, one], [other, other], [questions, questions])
    assert (twice.value, twice.n) == (pytest.approx(alone.value), 100)
    assert (twice.low, twice.high) == (pytest.approx(alone.low, abs=0.01), pytest.approx(alone.high, abs=0.01))
    worse: Callable[[int], list[float]] = lambda n: [0.0] * n + [1.0] * (100 - n)  # noqa: E731
    apart = paired_over_seeds([one, one], [other, worse(60)], [questions, questions])
    assert apart.high - apart.low > 2 * (twice.high - twice.low), "seeds that differ say little"
    assert isinstance(Estimate(value=0.5, se=0.1, n=3, clusters=3.0), Estimate)


def _printed(text: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table in aligned columns."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]
    return lines[0], [row for row in lines[1:] if len(row) == len(lines[0])]


def test_benchmarks_and_their_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table in a terminal, the page, and two models beside each other."""
    from assay.bench import page, table
    from assay.bench.compare import save
    from assay.cli.bench import compare_models

    monkeypatch.setenv("COLUMNS", "250")
    pairs = [p.preferring(small.truth(p)) for p in small.PAIRS[:80]]
    results = []
    for name in ("one", "two"):
        found = evaluate_pairs(pairs, Trains()(name, None, ()), parts={p.pair_id: p.pair_id[0] for p in pairs})  # type: ignore[arg-type]
        results.append(found)
        save(tmp_path / f"{name}.json", name, {}, [found])
    header, rows = _printed(table.text([results[0]]).partition("\n\n")[0])
    assert "n" in header
    assert shares.in_table(header, rows) == []
    assert len(rows) > 10
    assert "too few to say" in table.text([results[0]])
    assert shares.in_prose(table.text([results[0]])) == []
    made = page.write(tmp_path / "bench.html", "one", {}, [results[0]], {}).read_text()
    assert shares.naked(made)[0] == []
    compare_models(tmp_path / "one.json", tmp_path / "two.json", 100)
    printed = capsys.readouterr().out
    assert re.search(r"held-out pairs: A: (not )?shown to be (better|worse) than B: [-+]\d", printed)
    assert printed.count("; n 80") >= 2
    assert not re.search(r"\d %(?! \()", printed)


def test_the_report_on_judges_and_the_table_of_policies() -> None:
    from test_judge_report import report as made

    from assay.curate.judge_page import page, sections
    from assay.policy.reading import Reading
    from assay.tuning import outcome as tuned

    found = sections(made.__wrapped__())  # type: ignore[attr-defined]
    told, tables = shares.naked(page(found, "judges", {}))
    assert told == []
    assert tables >= 5
    cells = [cell for s in found for row in s.rows for cell in row if re.match(r"\d+\.\d \(", cell)]
    assert cells
    assert [c for c in cells if "; n " not in c] == []
    right = mean([1.0, 0.0, 1.0] * 20)
    reading = Reading(step=0, n=60, accuracy=right, unclear=0)
    header, rows = tuned.grid({"base": reading, "tuned": reading})
    assert shares.in_table(header, rows) == []
    assert rows[0][1] == "66.7 (52.9 to 78.6; n 60)"
    assert tuned._of([right, None, mean([1.0] * 3)]) == "\nn 3 to 60\ntoo few to say"


def test_trainings_speak_of_counts_and_their_cards_and_comparisons_of_intervals(tmp_path: Path) -> None:
    from test_monitor import metrics

    from assay.policy import grpo, mpo
    from assay.policy.gate import ModelTerm
    from assay.report.compared import compare, lines
    from assay.reward import calibration, card
    from assay.reward.config import TrainConfig
    from assay.reward.monitor import Monitor

    said: list[str] = []
    with Monitor(tmp_path / "a", 1, said.append) as monitor:
        monitor.log(metrics(1))
    step = {"reward": 0.5, "right": 0.75, "keyed": 8, "effective": 0.5, "groups": 2, "batch_effective": 1.0, "wanted": 16,
            "length": 3.0, "grad_norm": 1.0, "loss": 0.1, "accuracy": 0.75, "margin": 1.0, "pairs": 16}  # fmt: skip
    said += [grpo._line(step), mpo._line(step)]
    assert "right 6 of 8  effective 1 of 2 groups -> batch 16 of 16" in said[1]
    assert "fits 12 of 16" in said[2]
    said.append(str(ModelTerm(temperature=1.0, center=0.0, threshold=0.5, precision=0.9, precision_low=0.81, kept=0.5,
                              n_gold=40, bound=1.0)))  # fmt: skip
    assert "20 of 40 gold answers; 18 of these 20 are right" in said[-1]
    assert re.search(r"fits \d+ of \d+", said[0])
    assert [line for line in said if shares.in_prose(re.sub(r"padding \d+\.\d%", "", line))] == []

    gold = {n: {"value": right / 60, "se": 0.06, "n": 60, "clusters": 60.0} for n, right in (("one", 45), ("two", 50))}
    for name, of in gold.items():
        (tmp_path / name).mkdir()
        kept = {"pairs": 9, "steps": 1, "left_out": {}, "gold": of, "identity": {"config": {}}}
        fitted = calibration.fit(np.where(np.arange(60) < 60 * of["value"], 1.0, -1.0))
        card.write(tmp_path / name, name, TrainConfig(backbone="minilm"), kept, fitted)
        (tmp_path / name / "training.json").write_text(json.dumps(kept))
        text = (tmp_path / name / card.CARD).read_text()
        assert shares.in_prose(text) == []
        assert f"gold that chose the checkpoint: {told(Estimate(**of))} ranked rightly" in text  # type: ignore[arg-type]
    found = "\n".join(lines(compare(tmp_path / "one", tmp_path / "two")))
    assert "75.0 % (" in found
    assert shares.in_prose(found) == []


COUNTED = {
    "bench/benchmark.py": 1, "bench/reasoning/estimates.py": 1,  # coverage, of all items that there are
    "bench/policy/words.py": 1,  # reads "a hundred percent"
    "body_cpu.py": 1, "sight.py": 1, "policy/assemble.py": 1,  # how far two numbers of one pass are apart
    "curate/cost.py": 2, "recipes/suite.py": 1,  # what a forecast assumes
    "reward/monitor.py": 1,  # padding
    "policy/monitor.py": 4, "policy/gate.py": 2,  # limits, and the low end of an interval
    "llm/replies.py": 1,  # SQL
}  # fmt: skip
"""Where the package writes a percent sign behind a value and not by `figures`: how often, and why that is no naked share."""


def test_shares_are_written_by_figures_alone() -> None:
    """Whatever prints a percentage anywhere else has to be looked at, and entered here with its reason."""
    sign, found = re.compile(r":[,.\d]*%\}|\} ?%"), {}
    root = Path(shares.__file__).parents[1] / "src/assay"
    for file in sorted(f for end in ("py", "html", "jinja") for f in root.rglob(f"*.{end}")):
        text = file.read_text(encoding="utf-8")
        lines = [
            x for x in text.splitlines() if sign.search(x if file.suffix == ".py" else re.sub(r"\{%.*?%\}", "", x))
        ]
        if lines and file.name != "figures.py":
            found[file.relative_to(root).as_posix()] = len(lines)
    assert found == COUNTED
