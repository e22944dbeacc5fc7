"""What every run releases: measured pair by pair on what it never trained on, and never the more changed labels on a tie."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from test_claims import CONFIG, PAIRS, Says, Trains

import small_material as small
from assay.curate.prepare import SplitConfig
from assay.curate.stage1 import Tools
from assay.curate.verify import oracle
from assay.curate.views import LabelSet
from assay.errors import AssayError
from assay.figures import told as share_told
from assay.pipeline.flow import curate
from assay.pipeline.hits import Hit
from assay.pipeline.product import CANDIDATES, SETS, Product, first_results, make_product, model_name
from assay.records import Preference, Scorer
from assay.run import Run
from assay.statistics import Estimate


class Saves(Trains):
    """A stand-in for training that leaves a model's folder, with the accuracy on gold that is asked for."""

    def __init__(self, folder: Path, gold: dict[str, float]) -> None:
        super().__init__()
        self.folder, self.accuracy = folder, gold

    def __call__(self, name: str, labels: LabelSet, gold: Sequence[Preference]) -> Scorer:
        made = self.folder / name
        made.mkdir(parents=True, exist_ok=True)
        told = {"gold_accuracy": self.accuracy.get(name, 0.5), "name": name, "presented": 1, "tokens": 1, "wall_s": 0.1}
        (made / "training.json").write_text(json.dumps(told))
        (made / "README.md").write_text(f"# {name}\n")
        return super().__call__(name, labels, gold)


@pytest.mark.parametrize(
    ("gold", "released"),
    [
        ({}, "stage1"),
        ({"filtered": 0.7, "flipped": 0.7}, "filtered"),
        ({"best-rm": 0.7, "filtered": 0.7, "flipped": 0.6}, "stage1"),
        ({"best-rm": 0.7, "filtered": 0.7, "flipped": 0.8}, "flipped"),
    ],
)
def test_a_later_candidate_must_be_better(tmp_path: Path, gold: dict[str, float], released: str) -> None:
    material = small.material(tmp_path, split=SplitConfig(eval_share=0.2, stage1_share=0.6, held_share=0.3))
    with closing(Run(tmp_path / "seed-0", {})) as run:
        train = Saves(run.folder / "models", gold)
        people = oracle({i: small.truth(p) for i, p in PAIRS.items()})
        curated = curate(run, CONFIG, material, Tools(people=people, judge=Says(), train=train, at_once=5), 0)
        product = Product(run=run, config=CONFIG, material=material, curated=curated, train=train, seed=0)
        make_product(product)
        final, table = run.result("final"), run.table("hits", Hit)
        assert (final["set"], final["n"]) == (released, len(curated.stage1.held))
        assert set(final["held"]) == set(CANDIDATES)
        assert json.loads((run.folder / "models/final/training.json").read_text())["name"] == model_name(released)
        measured = Estimate(**run.result(f"sets/{released}")["accuracy"])
        told_of = (run.folder / "models/final/README.md").read_text()
        assert f"- pairs of the run that nothing was made of: {share_told(measured)} ranked rightly" in told_of
        asked = set(material.evaluation()["pair_id"])
        assert set(table.shards()) == set(SETS)
        for name in SETS:
            hits, told = table.read(name), run.result(f"sets/{name}")["accuracy"]
            assert {h.pair_id for h in hits} == asked
            assert all(h.question_id == PAIRS[h.pair_id].question_id for h in hits)
            assert told["value"] == pytest.approx(np.mean([h.right for h in hits]))
            score = Trains()(model_name(name), curated.stage1.guided, ())
            for h in hits:
                pair, better = PAIRS[h.pair_id], small.truth(PAIRS[h.pair_id])
                one, two = score([pair.prompt + pair.response(r).messages for r in (better, pair.other(better))])
                assert h.right == float(one > two)


class Blind(Saves):
    """Its models cannot read some conversations, as a chat template refuses turns."""

    def __init__(self, folder: Path, unread: set[str]) -> None:
        super().__init__(folder, {})
        self.unread = unread

    def __call__(self, name: str, labels: LabelSet, gold: Sequence[Preference]) -> Scorer:
        score = super().__call__(name, labels, gold)
        return lambda flat: np.where([c[0].content in self.unread for c in flat], np.nan, score(flat))


def test_a_pair_that_a_model_cannot_read_is_no_miss(tmp_path: Path) -> None:
    """It was one for the arms, and ended the run with a traceback for the product."""
    material = small.material(tmp_path, split=SplitConfig(eval_share=0.2, stage1_share=0.6, held_share=0.3))
    asked = sorted(material.evaluation()["pair_id"])
    for n, unread in enumerate((asked[:1], asked)):
        with closing(Run(tmp_path / f"seed-{n}", {})) as run:
            train = Blind(run.folder / "models", {PAIRS[i].prompt[0].content for i in unread})
            people = oracle({i: small.truth(p) for i, p in PAIRS.items()})
            curated = curate(run, CONFIG, material, Tools(people=people, judge=Says(), train=train, at_once=5), 0)
            product = Product(run=run, config=CONFIG, material=material, curated=curated, train=train, seed=0)
            if unread == asked:
                with pytest.raises(AssayError, match="can read none of the"):
                    first_results(product)
                continue
            first_results(product)
            told, kept = run.result("sets/stage1"), {h.pair_id for h in run.table("hits", Hit).read("stage1")}
            missing = {i for i in asked if PAIRS[i].prompt[0].content in train.unread}
            assert kept == set(asked) - missing
            assert (told["accuracy"]["n"], told["unread"]) == (len(kept), len(missing))
