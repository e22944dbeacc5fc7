"""The paper's claims, tested in every run: what each way of labelling does to the labels and to a reward model.

Each set of labels trains one reward model under the same settings and the same number of pair presentations, and is
measured on pairs that no set contains. The paper's numbers beside ours are of other models and benchmarks: the
comparison is of directions, not of sizes.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import polars as pl

from assay.bench.reward.pairs import evaluate_pairs
from assay.curate.book import AT_ONCE, Asked, Gold, blocks, judged
from assay.curate.material import VOTES, Known, Material
from assay.curate.prepare import Slice
from assay.curate.scores import Together, chances, rewards
from assay.curate.settle import settle_frame
from assay.curate.stage1 import Train
from assay.curate.views import LABELS, LabelSet, drawn, label_set, of_frame
from assay.memory import compact
from assay.recipes.against_truth import filters, known_places, right
from assay.recipes.flow import Curated, FlowConfig
from assay.records import Case, Judge, Judgement, Preference, digest, shown_to
from assay.run import Run
from assay.store import Place
from assay.tables import read_frame

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
    """The inputs that every set is made from. `at_once`: pairs that judges are asked about at a time; `score`: how a reward
    model scores many pairs."""

    run: Run
    config: FlowConfig
    material: Material
    curated: Curated
    judge: Judge
    unguided: Judge
    train: Train
    seed: int
    at_once: int = AT_ONCE
    score: Together | None = None

    @property
    def place(self) -> Place:
        return Place.of(self.run.folder) / "tables"

    def keep(self, name: str, labels: Callable[[Slice], pl.DataFrame]) -> LabelSet:
        return label_set(self.material, self.place, name, labels)


def test_claims(claims: Claims) -> None:
    """Build, train and measure every set, and the judges and filters without training; results are steps `claims/...`.

    Where the pool knows no truth, the held gold that chose the checkpoints measures as well: optimistic, and said so.
    """
    sets = label_sets(claims)
    held = claims.curated.stage1.held
    measured, there = claims.material.evaluation(claims.config.evaluation_pairs), claims.material.size("evaluation")
    if len(measured) < there:
        claims.run.say(f"{len(measured):,} of the {there:,} pairs for evaluation measure, drawn at random")
    evaluation = claims.material.preferences(measured) or held
    for name, labels in sets.items():
        claims.run.once(f"claims/{name}", partial(_measure, claims, name, labels, held, evaluation))
    claims.run.once("final", lambda: _choose(claims))
    claims.run.once("claims-judges", lambda: _judges(claims))
    claims.run.once("claims-filters", lambda: filters(claims.material, claims.curated.stage2.evidence))


def _measure(
    claims: Claims, name: str, labels: LabelSet, held: Sequence[Preference], evaluation: Sequence[Preference]
) -> dict[str, object]:
    scorer = claims.train(model_name(name), labels, () if name in WITHOUT_PEOPLE else held)
    result = evaluate_pairs(evaluation, scorer)
    assert result.headline is not None
    told = right(claims.material, lambda part: pl.concat([labels.of(s) for s in part]))
    return {"pairs": len(labels), "labels": told, "accuracy": asdict(result.headline.estimate)}


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


# -- sets of labels -------------------------------------------------------------------------------------------------


def label_sets(claims: Claims) -> dict[str, LabelSet]:
    """The training set of every claim that has any labels, none with a question of held gold; each is kept in the run
    (`tables/sets`), where sweeps and exports find it, and beside them the held gold as "held"."""
    first, keep = claims.curated.stage1, claims.keep
    held = keep("held", of_frame(first.labels.filter(pl.col("held") & (pl.col("tier") == "gold"))))
    not_held = partial(_without, _questions(held))
    guided = first.guided
    more = keep("raw-more", partial(_raw, not_held))
    unguided = keep("unguided", of_frame(_unguided(claims, guided)))
    kept, kept_flipped = (partial(_and_wild, claims, not_held, some) for some in (("kept",), ("kept", "flipped")))
    alone, alone_flipped = _without_people(claims, unguided, not_held)
    sets = {
        "raw": drawn(more, len(guided), claims.place, "raw", "raw", claims.seed), "raw-more": more, "unguided": unguided,
        "stage1": guided, "filtered": keep("filtered", kept), "flipped": keep("flipped", kept_flipped),
        "nohuman-filtered": keep("nohuman-filtered", alone), "nohuman-flipped": keep("nohuman-flipped", alone_flipped),
        "truth": keep("truth", partial(_true, not_held)),
    }  # fmt: skip
    return {name: sets[name] for name in SETS if len(sets[name])}


Without = Callable[[pl.DataFrame], pl.DataFrame]
"""Rows with `question_id` less those of held gold's questions."""


def _questions(held: LabelSet) -> pl.Series:
    """The questions of a set."""
    found = [pl.Series("question_id", [], pl.String)]
    for part, frame in held.frames():
        asked = part.frame(["pair_id", "question_id"]).join(frame, on="pair_id", how="semi")
        found.append(compact(asked.select(pl.col("question_id").unique()))["question_id"])
    return pl.concat(found).unique()


def _without(questions: pl.Series, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(~pl.col("question_id").is_in(questions.implode()))


_KEPT = ["pair_id", "question_id", "use", "first", "second", "original", "certainty", "strength", "truth"]


def _open(not_held: Without, part: Slice, *uses: str) -> pl.DataFrame:
    """A shard's pairs of some uses that may be trained on, with what is kept of them."""
    return not_held(part.frame(_KEPT).filter(pl.col("use").is_in(uses)))


def _raw(not_held: Without, part: Slice, *uses: str) -> pl.DataFrame:
    """The sources' own labels."""
    return _open(not_held, part, *(uses or ("stage1", "stage2"))).with_columns(
        chosen=pl.col("original"), margin=pl.col("strength").clip(lower_bound=0.0)
    )  # fmt: skip


def _true(not_held: Without, part: Slice) -> pl.DataFrame:
    known = _open(not_held, part, "stage1", "stage2")
    return known.with_columns(chosen=pl.col("truth"), certainty=pl.lit(1.0), margin=pl.lit(0.0))


def _and_wild(claims: Claims, not_held: Without, fates: Sequence[str], part: Slice) -> pl.DataFrame:
    """The labels of stage 1 and those of some fates of stage 2."""
    wild = claims.curated.stage2.of(part, *fates).join(part.frame(["pair_id", "question_id"]), on="pair_id")
    return pl.concat([claims.curated.stage1.guided.of(part).select(LABELS), not_held(wild).select(LABELS)])


def _unguided(claims: Claims, guided: LabelSet) -> pl.DataFrame:
    """The pairs of stage 1 labelled by a judge that sees no gold."""
    rows = guided.frame().select("pair_id", "at")
    words = _said(claims, "unguided", rows, claims.unguided, _plain)
    return settle_frame(words, "unguided").join(rows, on="pair_id", maintain_order="left")


def _without_people(
    claims: Claims, unguided: LabelSet, not_held: Without
) -> tuple[Callable[[Slice], pl.DataFrame], Callable[[Slice], pl.DataFrame]]:
    """Stage 2 without any person: one RM trained on unguided labels keeps what it agrees with and flips the rest.

    The paper's "LLM + best RM (no human)" (A3 Table 20); its exact rule is not stated. No gold chooses the checkpoint.
    """
    name = MODELS["unguided"]
    if not len(unguided):
        return (lambda _: _NONE), (lambda _: _NONE)
    model = {name: claims.train(name, unguided, ())}
    files = rewards(claims.material, claims.place, model, claims.run.say, claims.score)

    def kept(part: Slice) -> pl.DataFrame:
        raw = _raw(not_held, part, "stage2").filter(pl.col("original").is_not_null())
        sure = chances(read_frame(files[part.name]), name, raw)
        return pl.concat([unguided.of(part).select(LABELS), raw.filter(sure > 0.5).select(LABELS)])

    def kept_and_flipped(part: Slice) -> pl.DataFrame:
        raw = _raw(not_held, part, "stage2").filter(pl.col("original").is_not_null())
        sure = chances(read_frame(files[part.name]), name, raw)
        other = pl.when(pl.col("original") == pl.col("first")).then("second").otherwise("first")
        turned = raw.filter(sure < 0.5).with_columns(chosen=other, certainty=pl.lit(1.0), margin=pl.lit(0.0))
        return pl.concat([kept(part), turned.select(LABELS)])

    return kept, kept_and_flipped


_NONE = pl.DataFrame(schema={"pair_id": pl.String, "chosen": pl.String, "certainty": pl.Float64, "margin": pl.Float64})


# -- judges and filters against the truth ---------------------------------------------------------------------------


def _plain(known: Sequence[Known]) -> list[Case]:
    return [Case(pair=k.pair, attributes=k.attributes) for k in known]


def _said(
    claims: Claims, name: str, rows: pl.DataFrame, judge: Judge, shown: Callable[[Sequence[Known]], list[Case]]
) -> pl.DataFrame:
    """What `judge` says of pairs, asked block by block, each once; Raises Unreached where a server did not answer."""
    table = claims.run.table("claims", Judgement)
    told = [table.empty(VOTES)]
    for number, some in blocks(rows.sort("at", "pair_id"), claims.at_once):
        shard = f"{name}-{number:05d}-{digest(some['pair_id'].to_list())[:12]}"
        if not table.done(shard):
            table.write(shard, judged(judge, shown(list(claims.material.known(some).values()))))
        told.append(table.frame(shard, columns=VOTES))
    return pl.concat(told)


def _judges(claims: Claims) -> dict[str, object]:
    """Agreement of judges with the truth: no gold, random gold, nearest gold (paper A, A3 Table 14).

    The pairs are those that judges were asked about. "nearest gold" are their verdicts as they were given, by the gold that
    people had verified until then, and the random examples are of that gold: what came later would flatter both. No example
    is of the target's own question. What was asked for a set of labels is not asked again.
    """
    words, random, plain = list[pl.DataFrame](), list[pl.DataFrame](), list[pl.DataFrame]()
    before = claims.run.table("claims", Judgement)
    shards = before.shards("unguided-")
    known = before.frame(*shards, columns=VOTES).unique("pair_id", keep="any") if shards else before.empty(VOTES)
    for turn, said, gold in _rounds(claims):
        rows = said.select("pair_id", "at")
        asked = known.join(rows, on="pair_id", how="semi")
        left = rows.join(asked, on="pair_id", how="anti")
        plain += [asked, _said(claims, f"plain-{turn}", left, claims.unguided, _plain)]
        shown = partial(gold.drawn, k=shown_to(claims.judge, claims.config.stage1.examples), seed=claims.seed)
        random.append(_said(claims, f"random-{turn}", rows, claims.judge, shown))
        words.append(said.select(VOTES))
    if not any(map(len, words)):
        return {}
    ways = {"no gold": plain, "random gold": random, "nearest gold": words}
    return {name: _agreement(claims, pl.concat(said)) for name, said in ways.items()}


def _agreement(claims: Claims, said: pl.DataFrame) -> dict[str, object]:
    decided = said.filter(pl.col("better").is_not_null()).select("pair_id", chosen="better")
    told = right(claims.material, lambda _: decided)
    return {"n": len(said), "undecided": len(said) - len(decided), "agreement": told}


def _rounds(claims: Claims) -> Iterator[tuple[str, pl.DataFrame, Gold]]:
    """Every time that stage 1 asked judges, in order: what they said about pairs whose truth is known, with `at`, and the
    gold that could guide them then."""
    gold, table, verified = claims.curated.stage1.gold, claims.run.table("judgements", Judgement), set[str]()
    asked = claims.run.table("asked", Asked)
    for turn in ("seed", *(f"it{n}" for n in range(claims.config.stage1.iterations))):
        people, judges = (table.shards(f"stage1-{turn}-{who}-") for who in ("people", "judges"))
        verified |= set(table.frame(*people, columns=["pair_id"])["pair_id"]) if people else set()
        if judges:
            places = known_places(claims.material, asked.frame(f"stage1-{turn}", columns=["pair_id", "at"]))
            said = table.frame(*judges, columns=VOTES).join(places, on="pair_id", maintain_order="left")
            until = np.array([e.pair.id in verified for e in gold.examples], bool)
            seen = tuple(e for e, then in zip(gold.examples, until, strict=True) if then)
            yield turn, said, Gold(examples=seen, vectors=gold.vectors[until])
