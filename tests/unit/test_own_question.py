"""Gold of a pair's own question guides nobody who judges the pair, in no command: it often shows the very answer, with
people's verdict on it."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
from test_claims import Trains

import small_material as small
from assay.curate.offline import gold_ridge_judge, hash_embedder
from assay.curate.prepare import SplitConfig
from assay.curate.shards import create
from assay.curate.stage1 import Stage1Config, Tools
from assay.curate.verify import oracle
from assay.judges.annotate import Guide, JudgeConfig, targets
from assay.judges.sources import read_material
from assay.pipeline.flow import FlowConfig, curate
from assay.records import Case, Judgement
from assay.run import Run
from assay.tables import plain

PEOPLE = oracle({p.id: small.truth(p) for p in small.PAIRS})


def shares_question(cases: Sequence[Case]) -> list[Case]:
    return [c for c in cases if any(e.pair.question_id == c.pair.question_id for e in c.examples)]


def test_of_all_that_a_run_asks(tmp_path: Path) -> None:
    """Two pairs to a question, and every other question has gold: the nearest gold of most pairs is their own question's."""
    material = small.material(tmp_path, split=SplitConfig(eval_share=0.1, stage1_share=0.7, held_share=0.2))
    config = FlowConfig(recipe="own", stage1=Stage1Config(
        iterations=2, seed_gold=20, seed_silver=12, per_iteration=12, gold_share=0.3, k_max=4
    ))  # fmt: skip
    ridge, asked = gold_ridge_judge(hash_embedder(), examples=11), list[Case]()

    class Watched:
        examples = ridge.examples

        def __call__(self, cases: Sequence[Case]) -> list[Judgement]:
            asked.extend(cases)
            return ridge(cases)

    with closing(Run(tmp_path / "seed-0", {})) as run:
        found = curate(run, config, material, Tools(people=PEOPLE, judge=Watched(), train=Trains()), 0)
    gold = {e.pair.question_id for e in found.stage1.gold.examples}
    assert len([c for c in asked if c.pair.question_id in gold]) > 3, "else nothing is tested"
    assert len(asked) > 30
    assert max(len(c.examples) for c in asked) == 11
    assert not shares_question(asked)


@pytest.mark.parametrize("guidance", ["nearest", "random"])
@pytest.mark.parametrize("pairs", ["all", "gold", "open"])
def test_of_all_that_annotate_and_guidance_ask(
    tmp_path: Path, guidance: Literal["nearest", "random"], pairs: Literal["all", "gold", "open"]
) -> None:
    """One pair of each question is gold: a pair that is none is not shown the gold of its question either."""
    create(tmp_path / "pool", small.PAIRS, [])
    said = PEOPLE([Case(pair=p, attributes=None) for p in small.PAIRS[::2]])  # type: ignore[arg-type]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(plain(j)) + "\n" for j in said))
    config = JudgeConfig(embedder="hash", guidance=guidance, pairs=pairs)
    given = read_material(tmp_path / "pool", [tmp_path / "gold.jsonl"])
    cases = Guide.of(given, config).cases(targets(given, config))
    assert len(cases) == (120 if pairs == "all" else 60)
    assert {len(c.examples) for c in cases} == {8}
    assert not shares_question(cases)
