"""The whole experiment, small: every arm with real trainings, people who err, unseen kinds, and the report of it."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_job import small_config, small_pool

from assay.curate.people import Annotator, erring
from assay.pipeline.arms import TITLES
from assay.pipeline.claims import SETS
from assay.pipeline.job import run_job
from assay.pipeline.pools import constraint_pool
from assay.report.page import write_report
from assay.report.run import RunSteps

PEOPLE = [Annotator(name="simulated:careful", wrong=0.3, undecided=0.1)]


@pytest.mark.slow
def test_every_arm_runs_and_is_told(place: Path) -> None:
    whole, some = constraint_pool(), small_pool(prompts=150)
    pool = replace(some, unseen=frozenset(some.pairs) & whole.unseen)
    assert len(pool.unseen) > 10
    config = replace(
        small_config(), recipe="tiny", offline_judge=True, claims=True, embedder="minilm", embedder_layers=0
    )
    config = replace(config, stage1=replace(config.stage1, iterations=1))
    run_job(place / "run", config, pool, people=erring(pool.truth, PEOPLE), at_chance=True)
    run = RunSteps.open(place / "run")
    assert {name for name in TITLES if run.done(f"arms/{name}")} == set(TITLES)
    assert {name for name in SETS if run.done(f"unseen/{name}")} == set(SETS)
    (arms,) = ({name: run.done(f"arms/{name}")[0] for name in TITLES},)
    assert {a["accuracy"]["n"] for a in arms.values()} == {arms["whole"]["accuracy"]["n"]}
    assert {a["unseen"]["n"] for a in arms.values()} == {len(pool.unseen)}
    assert arms["perfect-people"]["people"]["right"]["value"] == 1.0
    assert arms["whole"]["people"]["right"]["value"] < 1.0
    assert arms["ten-rules"]["judges"]["right"]["value"] > 0.95
    assert arms["equal-effort"]["people"]["asked"] == arms["whole"]["people"]["asked"]
    (unseen,) = run.done("bench/unseen-kinds")
    assert unseen["cells"][0]["n"] == len(pool.unseen)
    page = write_report(place / "run").read_text(encoding="utf-8")
    for title in (
        *TITLES.values(),
        "the loop is worth people",
        "Kinds of which there was no gold",
        "simulated:careful",
    ):
        assert title in page
