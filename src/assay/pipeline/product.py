"""What every run makes of its labels: sets, a reward model for each, a measure of each, and the one that is released.

Each set trains one reward model under the same settings and the same number of pair presentations, and is measured on pairs
that no set contains. The model on all raw labels is what the others have to beat. What else the papers compare is in
`pipeline.claims`.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl

from assay.curate.material import Material
from assay.curate.prepare import Slice
from assay.curate.scores import Together
from assay.curate.stage1 import Train
from assay.curate.views import LABELS, LabelSet, label_set, of_frame
from assay.errors import AssayError
from assay.figures import told as share_told
from assay.memory import compact
from assay.pipeline import hits
from assay.pipeline.against_truth import right
from assay.pipeline.flow import Curated, FlowConfig
from assay.records import Preference
from assay.reward import card
from assay.run import Run
from assay.statistics import Estimate
from assay.store import Place

SETS: dict[str, str] = {
    "raw-more": "all raw labels",
    "stage1": "stage 1",
    "filtered": "stage 1 + stage 2 filtered",
    "flipped": "stage 1 + stage 2 filtered + flipped",
}
"""Name -> what the report calls it."""
CANDIDATES = ("stage1", "filtered", "flipped")
"""The sets whose models may be the run's product, those whose labels machines changed least first: a later one must be
better than all before it on held gold to be `models/final`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """The inputs that every set is made from. `score`: how a reward model scores many pairs."""

    run: Run
    config: FlowConfig
    material: Material
    curated: Curated
    train: Train
    seed: int
    score: Together | None = None

    @property
    def place(self) -> Place:
        return Place.of(self.run.folder) / "tables"

    def keep(self, name: str, labels: Callable[[Slice], pl.DataFrame]) -> LabelSet:
        return label_set(self.material, self.place, name, labels)


def make_product(product: Product) -> None:
    """Build, train and measure every set, and release the best candidate; results are steps `sets/NAME` and `final`, and
    the table `hits`. A candidate with the same labels as the one before it has no model of its own.

    Where nothing is set aside to measure, the held gold that chose the checkpoints does: optimistic, and said so.
    """
    sets = product_sets(product)
    known = [name for name in CANDIDATES if name in sets]
    again = {b for a, b in itertools.pairwise(known) if len(sets[a]) == len(sets[b])}
    _measured(product, {n: labels for n, labels in sets.items() if n not in again})
    product.run.once("final", lambda: _choose(product, [n for n in known if n not in again]))


def first_results(product: Product) -> None:
    """What is known when stage 1 is done: its model, and the one on all raw labels."""
    _measured(product, _first_sets(product))


def _measured(product: Product, sets: Mapping[str, LabelSet]) -> None:
    measured = measured_on(product)
    for name, labels in sets.items():
        work = partial(measure, product, name, model_name(name), labels, product.curated.stage1.held, measured)
        product.run.once(f"sets/{name}", work)


def measured_on(product: Product) -> Sequence[Preference]:
    """The pairs that measure: those for evaluation, or held gold where there are none."""
    material = product.material
    measured, there = material.evaluation(product.config.evaluation_pairs), material.size("evaluation")
    if len(measured) < there:
        product.run.say(f"{len(measured):,} of the {there:,} pairs for evaluation measure, drawn at random")
    return material.preferences(measured) or product.curated.stage1.held


def measure(
    product: Product,
    name: str,
    model: str,
    labels: LabelSet,
    held: Sequence[Preference],
    measured: Sequence[Preference],
) -> dict[str, object]:
    """Train `model` on the set `name`, with `held` to choose its checkpoint, and measure it pair by pair (table `hits`).

    Pairs that it cannot read are no misses: they are left out, counted and told. Raises AssayError where it can read none.
    """
    found = hits.measured(product.run, name, product.train(model, labels, held), {"evaluation": measured})
    if found["accuracy"] is None:
        raise AssayError(f"{model} can read none of the {len(measured):,} pairs that measure; see its left_out.jsonl")
    if unread := found["accuracy_unread"]:
        product.run.say(
            f"{model} cannot read {unread:,} of the {len(measured):,} pairs that measure: they are left out"
        )
    told = right(product.material, lambda part: pl.concat([labels.of(s) for s in part]))
    on_held = measured is product.curated.stage1.held
    return {
        "pairs": len(labels), "labels": told, "accuracy": found["accuracy"], "unread": unread, "on_held": on_held,
    }  # fmt: skip


def _choose(product: Product, names: Sequence[str]) -> dict[str, object]:
    """Release the candidate that is best on held gold; on a tie that whose labels machines changed least.

    Paper A releases the model of the filtered set, and that of the flipped set for research only.
    """
    models = product.run.folder / "models"
    trained = {n: json.loads((models / model_name(n) / "training.json").read_text()) for n in names}
    held = {n: t["gold_accuracy"] for n, t in trained.items()}
    gold = {n: t.get("gold") for n, t in trained.items()}
    best = max(names, key=lambda n: held[n])  # of equal ones the first
    for folder in ("final", "final.saving"):
        shutil.rmtree(models / folder, ignore_errors=True)
    shutil.copytree(models / model_name(best), models / "final.saving")
    card.entitle(models / "final.saving", f"final ({SETS[best]})")
    card.put(models / "final.saving", "Labels", [
        f"- {SETS[best]}: chosen of {', '.join(SETS[n] for n in names)} by held gold",
        *_measured_told(product, best),
        *(f"- held gold, which chose, {SETS[n]}: {share_told(Estimate(**g) if g else None)} ranked rightly"
          for n, g in gold.items()),
        "- who judged, what was dropped and why, and how it compares with the raw labels: report.html of the run",
    ])  # fmt: skip
    (models / "final.saving").rename(models / "final")
    return {"set": best, "held": held, "gold": gold, "n": len(product.curated.stage1.held)}


def _measured_told(product: Product, name: str) -> list[str]:
    """What the pairs that only measure say of the model of a set, for its card; [] where there are none."""
    done = product.run.result(f"sets/{name}")
    share = share_told(Estimate(**done["accuracy"]))
    return [] if done["on_held"] else [f"- pairs of the run that nothing was made of: {share} ranked rightly"]


def model_name(name: str) -> str:
    """The folder under `models/` of the model that the set `name` trained."""
    return "best-rm" if name == "stage1" else name


# -- sets of labels -------------------------------------------------------------------------------------------------


def product_sets(product: Product) -> Mapping[str, LabelSet]:
    """Every set that has any labels, none with a question of held gold; each is kept in the run (`tables/sets`), where
    sweeps and exports find it, and beside them the held gold as "held"."""
    not_held = partial(without, held_questions(product))
    kept, kept_flipped = (
        partial(_and_wild, product, not_held, fates) for fates in (("kept",), ("kept", "flipped"))
    )  # fmt: skip
    sets = {"filtered": product.keep("filtered", kept), "flipped": product.keep("flipped", kept_flipped)}
    return _first_sets(product) | {name: labels for name, labels in sets.items() if len(labels)}


def _first_sets(product: Product) -> dict[str, LabelSet]:
    not_held = partial(without, held_questions(product))
    raw = product.keep("raw-more", partial(raw_labels, not_held))
    sets = {"raw-more": raw, "stage1": product.curated.stage1.guided}
    return {name: labels for name, labels in sets.items() if len(labels)}


Without = Callable[[pl.DataFrame], pl.DataFrame]
"""Rows with `question_id` less those of held gold's questions."""


def held_questions(product: Product) -> pl.Series:
    """The questions of held gold, which is kept as the set "held"."""
    labels = product.curated.stage1.labels
    held = product.keep("held", of_frame(labels.filter(pl.col("held") & (pl.col("tier") == "gold"))))
    found = [pl.Series("question_id", [], pl.String)]
    for part, frame in held.frames():
        asked = part.frame(["pair_id", "question_id"]).join(frame, on="pair_id", how="semi")
        found.append(compact(asked.select(pl.col("question_id").unique()))["question_id"])
    return pl.concat(found).unique()


def without(questions: pl.Series, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows that ask none of the questions."""
    return frame.filter(~pl.col("question_id").is_in(questions.implode()))


_KEPT = ["pair_id", "question_id", "use", "first", "second", "original", "certainty", "strength", "truth"]


def open_pairs(not_held: Without, part: Slice, *uses: str) -> pl.DataFrame:
    """A shard's pairs of some uses that may be trained on, with what is kept of them."""
    return not_held(part.frame(_KEPT).filter(pl.col("use").is_in(uses)))


def raw_labels(not_held: Without, part: Slice, *uses: str) -> pl.DataFrame:
    """The sources' own labels."""
    return open_pairs(not_held, part, *(uses or ("stage1", "stage2"))).with_columns(
        chosen=pl.col("original"), margin=pl.col("strength").clip(lower_bound=0.0)
    )  # fmt: skip


def _and_wild(product: Product, not_held: Without, fates: Sequence[str], part: Slice) -> pl.DataFrame:
    """The labels of stage 1 and those of some fates of stage 2."""
    wild = product.curated.stage2.of(part, *fates).join(part.frame(["pair_id", "question_id"]), on="pair_id")
    return pl.concat([product.curated.stage1.guided.of(part).select(LABELS), not_held(wild).select(LABELS)])
