"""A small job from the pool to the report: every pair accounted for, nothing leaked, nothing done twice."""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from browser import assert_readable, picture
from commands import run_assay
from small_job import small_config, small_pool

from assay.curate.material import Material
from assay.curate.verify import oracle
from assay.errors import AssayError
from assay.journal import read
from assay.order import draws
from assay.pipeline.job import run_job
from assay.pipeline.training import Streamed
from assay.records import Attributes, Judgement, Label, Pair, Preference, question_id
from assay.report.page import SECTIONS, write_report
from assay.reward import train as training
from assay.store import Place
from assay.tables import Table


@dataclass
class Training:
    """One call of `train`: what it was given, and whether it was already done."""

    name: str
    done: bool
    pairs: Sequence[Preference]
    gold: Sequence[Preference]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """Every call of the real `train`, written down on its way."""
    calls: list[Training] = []
    real = training.train

    def watched(folder: Path, config: Any, pairs: Streamed, gold: Sequence[Preference], *more: Any) -> Any:
        calls.append(Training(folder.name, (folder / "training.json").exists(), pairs.labels.preferences(), gold))
        return real(folder, config, pairs, gold, *more)

    monkeypatch.setattr(training, "train", watched)
    return calls


def resume(folder: Path, **changes: Any) -> None:
    pool = small_pool()
    run_job(folder, replace(small_config(), **changes), pool, people=oracle(pool.truth))


def pairs_of(folder: Path) -> dict[str, Pair]:
    return {p.id: p for p in Material.open(Place.of(folder)).pool.table("pairs").read()}


def split(folder: Path) -> dict[str, list[str]]:
    """Ids of pairs by use."""
    found: dict[str, list[str]] = {}
    for _, frame in Material.open(Place.of(folder)).frames(["pair_id"]):
        for pair_id, use in frame.select("pair_id", "use").iter_rows():
            found.setdefault(use, []).append(pair_id)
    return found


def asked_in_stage1(folder: Path) -> list[Judgement]:
    table = Table(folder / "seed-0/tables/judgements", Judgement)
    return table.read(*(s for s in table.shards() if s.startswith("stage1-")))


def test_every_pair_that_was_looked_at_has_one_label_and_a_reason(finished: Path) -> None:
    table = Table(finished / "seed-0/tables/labels", Label)
    first = table.read("stage1")
    second = table.read(*(s for s in table.shards() if s != "stage1"))
    asked = [j.pair_id for j in asked_in_stage1(finished)]
    assert len(asked) == len(set(asked)) > 30
    assert sorted(label.pair_id for label in first) == sorted(asked)
    assert sorted(label.pair_id for label in second) == sorted(split(finished)["stage2"])
    assert set(asked) <= set(split(finished)["stage1"])
    assert max(Counter(label.pair_id for label in (*first, *second)).values()) == 1
    for label in (*first, *second):
        assert label.reason
        assert label.by
    assert {label.tier for label in first} == {"gold", "silver"}
    assert {label.tier for label in second} == {"wild"}
    assert {label.fate for label in second} == {"kept", "flipped", "dropped"}


def test_the_oracle_is_always_right_and_always_named(finished: Path) -> None:
    truth = small_pool().truth
    gold = [label for label in Table(finished / "seed-0/tables/labels", Label).read() if label.tier == "gold"]
    assert gold
    assert all(label.chosen == truth[label.pair_id] and label.by == ("oracle",) for label in gold)


def test_no_question_is_in_two_splits(finished: Path) -> None:
    parts, pairs = split(finished), pairs_of(finished)
    questions = [{pairs[i].question_id for i in parts[use]} for use in ("evaluation", "stage1", "stage2")]
    assert all(questions)
    assert sum(map(len, questions)) == len(set.union(*questions)) == len({p.question_id for p in pairs.values()})


def test_held_gold_and_evaluation_are_in_no_training_set(
    finished: Path, place: Path, trainings: list[Training]
) -> None:
    """Every model asks for its training again once the measurements of the claims are forgotten, in a copy."""
    folder = place / "run"
    shutil.copytree(finished, folder, copy_function=_link_weights)
    shutil.rmtree(folder / "seed-0/steps/sets")
    resume(folder)
    pairs, share = pairs_of(folder), small_config().stage1.held_share
    gold = [j.pair_id for j in asked_in_stage1(folder) if j.kind == "oracle"]
    held = {i for i in gold if draws([pairs[i].question_id], "held")[0] < share}
    never = {pairs[i].question_id for i in (*held, *split(folder)["evaluation"])}
    assert 0 < len(held) < len(gold)
    models = {p.parent.name for p in (folder / "seed-0/models").glob("*/training.json")} - {"final"}
    assert {t.name for t in trainings} == models > {"stage1-it1", "best-rm", "gold-rm", "nohuman-rm", "claims-truth"}
    for t in trainings:
        assert t.done, t.name
        assert t.pairs, t.name
        assert not never & {question_id(p.prompt) for p in t.pairs}, t.name
        assert {g.pair_id for g in t.gold} <= held, t.name
    assert {g.pair_id for t in trainings for g in t.gold} == held


def test_training_obeys_its_budget(finished: Path) -> None:
    """No model is shown more pairs than the config allows, so that no set of labels buys more compute."""
    for path in (finished / "seed-0/models").glob("*/training.json"):
        assert json.loads(path.read_text())["presented"] <= small_config().presentations, path


def test_the_report_is_one_page_that_needs_nothing_else(finished: Path) -> None:
    page = write_report(finished).read_text(encoding="utf-8")
    assert "NOT ACCOUNTED FOR" not in page
    assert not re.search(r"<(script|link|iframe|object|embed)\b|@import|url\((?!#)", page, re.IGNORECASE)
    assert all(found.startswith("data:image/png;base64,") for found in re.findall(r'src="([^"]*)', page))
    assert all(found.startswith("#") for found in re.findall(r'href="([^"]*)', page))
    assert not re.search(r"https?://", re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL))
    for name, _ in SECTIONS:
        there = name != "policies"  # this run tunes none
        assert (page.count(f'id="{name}"'), page.count(f'href="#{name}"')) == (there, there)
    assert "The people of this run are simulated" in page
    assert "offline:gold-ridge" in page
    assert "This pool knows no truth" not in page
    assert "nan" not in re.sub(r"<pre.*?</pre>|base64,[^\"]*", "", page, flags=re.DOTALL).lower().split()
    for title in (
        "raw labels",
        "stage 1 + stage 2 filtered",
        "true labels (ceiling)",
        "nearest gold",
        "best + gold RM",
    ):
        assert title in page


def test_show_prints_the_life_of_a_pair(finished: Path) -> None:
    words = Table(finished / "seed-0/tables/judgements", Judgement)
    pair_id = words.read(words.shards("stage2-")[0])[0].pair_id
    done = run_assay("show", finished, pair_id[:20])
    assert done.returncode == 0, done.stderr
    pair = pairs_of(finished)[pair_id]
    label = next(x for x in Table(finished / "seed-0/tables/labels", Label).stream() if x.pair_id == pair_id)
    a = next(x for x in Table(finished / "tables/attributes", Attributes).stream() if x.pair_id == pair_id)
    words = " ".join(done.stdout.split())
    for text in (pair.prompt[-1].content, pair.responses[0].text, pair.responses[1].text, label.reason, a.category):
        assert " ".join(text.split()) in words
    first_words = [line.split(" ")[0] for line in done.stdout.splitlines()]
    tables = [w for w in first_words if w in ("votes", "attributes", "judgements", "evidence", "labels", "truth")]
    assert set(tables) == {"votes", "truth", "attributes", "judgements", "evidence", "labels"}


def test_the_same_again_does_no_work_and_changes_nothing(finished: Path, trainings: list[Training]) -> None:
    before, results = _state(finished), _results(finished)
    resume(finished)
    assert trainings
    assert all(t.done for t in trainings)
    assert _state(finished) == before
    assert _results(finished) == results


def test_another_config_in_the_same_folder_is_refused(finished: Path) -> None:
    before = _state(finished)
    with pytest.raises(AssayError, match=r"presentations: 64 -> 65.*--out"):
        resume(finished, presentations=65)
    with pytest.raises(AssayError, match=r"train\.lr: 0\.0004 -> 0\.001"):
        resume(finished, train=replace(small_config().train, lr=1e-3))
    assert _state(finished) == before


def test_the_report_is_readable(browser: Any, finished: Path) -> None:
    assert_readable(browser, write_report(finished), picture("written-run"))


def test_what_held_gold_says_is_in_the_curves(finished: Path) -> None:
    """The best of the curve that the live page draws is what the training came to."""
    drawn = 0
    for told in sorted((finished / "seed-0/models").glob("*/training.json")):
        gold = [m["gold_accuracy"] for m in read(told.with_name("metrics.jsonl")) if "gold_accuracy" in m]
        assert max(gold, default=0.0) == json.loads(told.read_text())["gold_accuracy"], told
        drawn += len(gold) > 0
    assert drawn > 0


def _link_weights(source: str, target: str) -> None:
    (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file that a finished run should leave alone."""
    rewritten = {"lock", "environments.jsonl", "report.html"}
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in rewritten]
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def _results(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("steps/**/*.json"))}
