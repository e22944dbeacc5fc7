"""The paper's claims, tested in every run: what each way of labelling does to the labels and to a reward model.

Each set of labels trains one reward model under the same settings and the same number of pair presentations, and is
measured on pairs that no set contains. The paper's numbers beside ours are of other models and benchmarks: the
comparison is of directions, not of sizes.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from assay.bench.reward.pairs import evaluate_pairs
from assay.curate.settle import settle_all
from assay.curate.stage1 import Material, Train, cases, is_held, preferences, win_probabilities
from assay.recipes.flow import Curated, FlowConfig, Prepared, label_accuracy
from assay.records import Judge, Judgement, Label, Preference, Scorer, question_id
from assay.run import Run

SETS: dict[str, str] = {
    "raw": "raw labels",
    "raw-more": "more raw labels",
    "unguided": "judge without gold guidance",
    "stage1": "stage 1",
    "filtered": "stage 1 + stage 2 filtered",
    "flipped": "stage 1 + stage 2 filtered + flipped",
    "nohuman-filtered": "no people: filtered",
    "nohuman-flipped": "no people: filtered + flipped",
    "truth": "true labels (ceiling)",
}
"""Name -> what the report calls it. `raw` has as many pairs as `stage1`; `raw-more` and `truth` have the whole pool."""
MODELS = {"stage1": "best-rm", "unguided": "nohuman-rm"}
"""Sets whose model the run makes anyway, and its name."""
CANDIDATES = ("stage1", "filtered", "flipped")
"""The sets whose models may be the run's product: the one that is best on held gold is `models/final`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The inputs that every set is made from."""

    run: Run
    config: FlowConfig
    prepared: Prepared
    curated: Curated
    judge: Judge
    unguided: Judge
    train: Train
    seed: int


def test_claims(claims: Claims) -> None:
    """Build, train and measure every set, and the judges and filters without training; results are steps `claims/...`.

    Where the pool knows no truth, the held gold that chose the checkpoints measures as well: optimistic, and said so.
    """
    sets = label_sets(claims)
    held = claims.curated.stage1.held
    evaluation = claims.prepared.evaluation() or held
    for name, pairs in sets.items():
        claims.run.once(f"claims/{name}", lambda n=name, p=pairs: _measure(claims, n, p, held, evaluation))  # type: ignore[misc]
    claims.run.once("final", lambda: _choose(claims))
    claims.run.once("claims-judges", lambda: _judges(claims))
    claims.run.once("claims-filters", lambda: _filters(claims))


def _measure(
    claims: Claims, name: str, pairs: Sequence[Preference], held: Sequence[Preference], evaluation: Sequence[Preference]
) -> dict[str, object]:
    n, right = label_accuracy(pairs, claims.prepared.pool.truth)
    scorer = claims.train(model_name(name), pairs, held)
    result = evaluate_pairs(evaluation, scorer)
    assert result.headline is not None
    return {"pairs": len(pairs), "labels_checked": n, "label_accuracy": right, "n": result.n,
            "accuracy": result.headline.value / 100, "se": result.headline.se / 100}  # fmt: skip


def _choose(claims: Claims) -> dict[str, object]:
    """Release the candidate that is best on held gold, the later one on a tie: more data must earn its place.

    Paper A releases the model of the filtered set, and that of the flipped set for research only.
    """
    models = claims.run.folder / "models"
    held = {n: json.loads((models / model_name(n) / "training.json").read_text())["gold_accuracy"] for n in CANDIDATES}
    best = max(CANDIDATES, key=lambda n: (held[n], CANDIDATES.index(n)))
    for folder in ("final", "final.saving"):
        shutil.rmtree(models / folder, ignore_errors=True)
    shutil.copytree(models / model_name(best), models / "final.saving")
    (models / "final.saving").rename(models / "final")
    return {"set": best, "held": held}


def model_name(name: str) -> str:
    """The folder under `models/` of the model that the set `name` trained."""
    return MODELS.get(name, f"claims-{name}")


def label_sets(claims: Claims) -> dict[str, list[Preference]]:
    """The training set of every claim, each a list of preferences without any held gold prompt."""
    prepared, first = claims.prepared, claims.curated.stage1
    ids = [*prepared.split.stage1, *prepared.split.stage2]
    material = prepared.material(ids)
    held = {question_id(h.prompt) for h in first.held}

    def view(labels: Sequence[Label]) -> list[Preference]:
        chosen = preferences(labels, material.pairs)
        return [p for p in chosen if question_id(p.prompt) not in held]

    raw = view(settle_all(material.wild, "raw"))
    share = claims.config.stage1.held_share
    guided = [p for p in view(first.labels) if not is_held(question_id(p.prompt), share)]  # what best-rm was trained on
    kept = view([label for label in claims.curated.stage2 if label.fate == "kept"])
    flipped = view([label for label in claims.curated.stage2 if label.fate == "flipped"])
    rng = np.random.default_rng(claims.seed)
    few = [raw[i] for i in sorted(rng.permutation(len(raw))[: len(guided)])]
    unguided = view(_unguided(claims, material, [p.pair_id for p in guided]))
    nohuman_kept, nohuman_flipped = _without_people(claims, unguided, raw)
    sets = {
        "raw": few, "raw-more": raw, "unguided": unguided, "stage1": guided,
        "filtered": guided + kept, "flipped": guided + kept + flipped,
        "nohuman-filtered": unguided + nohuman_kept, "nohuman-flipped": unguided + nohuman_kept + nohuman_flipped,
        "truth": view([_true(i, prepared.pool.truth[i]) for i in ids if i in prepared.pool.truth]),
    }  # fmt: skip
    return {name: sets[name] for name in SETS if sets[name]}


def _true(pair_id: str, better: str) -> Label:
    return Label(pair_id=pair_id, chosen=better, tier="gold", fate="kept", reason="truth", by=("truth",), stage="truth")


def _unguided(claims: Claims, material: Material, ids: Sequence[str]) -> list[Label]:
    """The pairs of stage 1 labelled by a judge that sees no gold."""
    rows = claims.run.table("claims", Judgement).once("unguided", lambda: claims.unguided(cases(ids, material, {}, 0)))
    return settle_all(rows, "unguided")


def _without_people(
    claims: Claims, unguided: Sequence[Preference], raw: Sequence[Preference]
) -> tuple[list[Preference], list[Preference]]:
    """Stage 2 without any person: one RM trained on unguided labels keeps what it agrees with and flips the rest.

    The paper's "LLM + best RM (no human)" (A3 Table 20); its exact rule is not stated.
    """
    wild = {p.pair_id: p for p in raw if p.pair_id in set(claims.prepared.split.stage2)}
    scorer = claims.train(MODELS["unguided"], unguided, claims.curated.stage1.held)
    p = win_probabilities(scorer, list(wild.values()))
    pairs = claims.prepared.pool.pairs
    kept = [w for i, w in wild.items() if p[i] > 0.5]
    flipped = [pairs[i].preferring(w.rejected.id) for i, w in wild.items() if p[i] < 0.5]
    return kept, flipped


def _judges(claims: Claims) -> dict[str, object]:
    """Label agreement with the truth: no gold, random gold, nearest gold (paper A, A3 Table 14)."""
    prepared, first = claims.prepared, claims.curated.stage1
    silver = [
        label.pair_id for label in first.labels if label.tier == "silver" and label.pair_id in prepared.pool.truth
    ]
    material = prepared.material(prepared.split.stage1)
    rng = np.random.default_rng(claims.seed)
    pool = list(first.examples.values())
    nearest = cases(silver, material, first.examples, claims.config.stage1.examples)
    k = min(claims.config.stage1.examples, len(pool))
    chance = [replace(c, examples=tuple(pool[i] for i in rng.permutation(len(pool))[:k])) for c in nearest]
    if not silver:
        return {}
    ways: dict[str, Callable[[], list[Judgement]]] = {
        "no gold": lambda: claims.unguided(cases(silver, material, {}, 0)),
        "random gold": lambda: claims.judge(chance),
        "nearest gold": lambda: claims.judge(nearest),
    }
    return {name: _agreement(ask(), prepared.pool.truth) for name, ask in ways.items()}


def _agreement(judgements: Sequence[Judgement], truth: Mapping[str, str]) -> dict[str, object]:
    decided = [j for j in judgements if j.better is not None]
    right = sum(j.better == truth[j.pair_id] for j in decided)
    return {
        "n": len(judgements),
        "undecided": len(judgements) - len(decided),
        "agreement": right / max(1, len(decided)),
    }


def _filters(claims: Claims) -> dict[str, object]:
    """How often keeping and flipping agree with the truth: best RM alone, gold RM alone, both (A3 Table 19)."""
    prepared, first = claims.prepared, claims.curated.stage1
    ids = [i for i in prepared.split.stage2 if i in prepared.pool.truth]
    labels = settle_all(prepared.material(ids).wild, "raw")
    views = preferences(labels, prepared.pool.pairs)
    right = {v.pair_id: v.chosen.id == prepared.pool.truth[v.pair_id] for v in views}

    def sure(scorer: Scorer) -> dict[str, float]:
        return win_probabilities(scorer, views)

    best, gold = sure(first.best), sure(first.gold_rm)
    ways = {"best RM": (best,), "gold RM": (gold,), "best + gold RM": (best, gold)}
    result: dict[str, object] = {}
    for name, models in ways.items():
        keep = [i for i in right if all(m[i] > 0.5 for m in models)]
        flip = [i for i in right if all(m[i] < 0.5 for m in models)]
        result[name] = {
            "kept": len(keep), "keep_agreement": sum(right[i] for i in keep) / max(1, len(keep)),
            "flipped": len(flip), "flip_agreement": sum(not right[i] for i in flip) / max(1, len(flip)),
        }  # fmt: skip
    return result
