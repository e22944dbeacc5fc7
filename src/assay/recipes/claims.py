"""The paper's claims, tested in every run: what each way of labelling does to the labels and to a reward model.

Each set of labels trains one reward model under the same settings and the same number of pair presentations, and is
measured on pairs that no set contains. The paper's numbers beside ours are of other models and benchmarks: the
comparison is of directions, not of sizes.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from assay.bench.reward.pairs import evaluate_pairs
from assay.curate.settle import settle_all
from assay.curate.stage1 import Material, Train, cases, is_held, preferences, win_probabilities
from assay.recipes.flow import Curated, FlowConfig, Prepared
from assay.records import Case, Example, Judge, Judgement, Label, Pair, Preference, Scorer, question_id
from assay.run import Run
from assay.statistics import mean

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
WITHOUT_PEOPLE = ("unguided", "nohuman-filtered", "nohuman-flipped")
"""Sets that no person had a part in: people's gold does not choose their checkpoints either, the last one is taken."""
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

    def told(self, found: Iterable[tuple[str, bool]]) -> dict[str, float] | None:
        return share(found, self.prepared.pool.pairs)


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
    truth = claims.prepared.pool.truth
    scorer = claims.train(model_name(name), pairs, () if name in WITHOUT_PEOPLE else held)
    result = evaluate_pairs(evaluation, scorer)
    assert result.headline is not None
    labels = claims.told((p.pair_id, p.chosen.id == truth[p.pair_id]) for p in pairs if p.pair_id in truth)
    return {"pairs": len(pairs), "labels": labels, "accuracy": asdict(result.headline.estimate)}


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

    The paper's "LLM + best RM (no human)" (A3 Table 20); its exact rule is not stated. No gold chooses the checkpoint.
    """
    wild = {p.pair_id: p for p in raw if p.pair_id in set(claims.prepared.split.stage2)}
    scorer = claims.train(MODELS["unguided"], unguided, ())
    p = win_probabilities(scorer, list(wild.values()))
    pairs = claims.prepared.pool.pairs
    kept = [w for i, w in wild.items() if p[i] > 0.5]
    flipped = [pairs[i].preferring(w.rejected.id) for i, w in wild.items() if p[i] < 0.5]
    return kept, flipped


def _judges(claims: Claims) -> dict[str, object]:
    """Agreement of judges with the truth: no gold, random gold, nearest gold (paper A, A3 Table 14).

    The pairs are those that judges were asked about. "nearest gold" are their verdicts as they were given, by the gold that
    people had verified until then, and the random examples are of that gold: what came later would flatter both. No example
    is of the target's own question.
    """
    truth, rounds = claims.prepared.pool.truth, _rounds(claims)
    if not any(r.judged for r in rounds):
        return {}
    material = claims.prepared.material(claims.prepared.split.stage1)
    rng, k = np.random.default_rng(claims.seed), claims.config.stage1.examples
    plain = [c for r in rounds for c in cases([j.pair_id for j in r.judged], material, {}, 0)]
    drawn = iter([r.gold for r in rounds for _ in r.judged])
    random = [replace(c, examples=_drawn(c, next(drawn), k, rng)) for c in plain]
    ways: dict[str, Callable[[], Sequence[Judgement]]] = {
        "no gold": lambda: claims.unguided(plain),
        "random gold": lambda: claims.judge(random),
        "nearest gold": lambda: [j for r in rounds for j in r.judged],
    }
    result: dict[str, object] = {}
    for name, ask in ways.items():
        given = ask()
        decided = claims.told((j.pair_id, j.better == truth[j.pair_id]) for j in given if j.better)
        result[name] = {"n": len(given), "undecided": sum(j.better is None for j in given), "agreement": decided}
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """What judges said at one time about pairs whose truth is known, and the gold that could guide them then."""

    judged: list[Judgement]
    gold: list[Example]


def _rounds(claims: Claims) -> list[_Round]:
    """Every time that stage 1 asked judges, in order."""
    first, truth = claims.curated.stage1, claims.prepared.pool.truth
    table, verified, rounds = claims.run.table("judgements", Judgement), set[str](), []
    for name in ("seed", *(f"it{n}" for n in range(claims.config.stage1.iterations))):
        verified |= {j.pair_id for j in table.read(f"stage1-{name}-people")}
        judged = [j for j in table.read(f"stage1-{name}-judges") if j.pair_id in truth]
        rounds.append(_Round(judged=judged, gold=[e for i, e in first.examples.items() if i in verified]))
    return rounds


def _drawn(case: Case, gold: Sequence[Example], k: int, rng: np.random.Generator) -> tuple[Example, ...]:
    """k random examples of other questions."""
    others = [e for e in gold if e.pair.question_id != case.pair.question_id]
    return tuple(others[i] for i in rng.permutation(len(others))[:k])


def share(found: Iterable[tuple[str, bool]], pairs: Mapping[str, Pair]) -> dict[str, float] | None:
    """The share of (pair id, whether it counts) with its error by question, as a step keeps it; None of no pairs."""
    rows = list(found)
    if not rows:
        return None
    return asdict(mean([float(hit) for _, hit in rows], [pairs[i].question_id for i, _ in rows]))


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
            "kept": len(keep), "keep_agreement": claims.told((i, right[i]) for i in keep),
            "flipped": len(flip), "flip_agreement": claims.told((i, not right[i]) for i in flip),
        }  # fmt: skip
    return result
