"""The papers' other claims, tested with `--claims`: what further ways of labelling do to the labels and to a reward model,
and how often judges and filters agree with the truth.

Each arm trains one reward model as the product's sets do (`pipeline.product`), and is measured on the same pairs. The
paper's numbers beside ours are of other models and benchmarks: the comparison is of directions, not of sizes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl

from assay.curate.book import AT_ONCE, Asked, Gold, blocks, judged
from assay.curate.material import VOTES, Known
from assay.curate.prepare import Slice
from assay.curate.scores import chances, rewards
from assay.curate.settle import settle_frame
from assay.curate.views import LABELS, LabelSet, drawn, of_frame
from assay.pipeline import product as product_of
from assay.pipeline.against_truth import filters, known_places, right
from assay.pipeline.hits import Held, Hit, measured
from assay.pipeline.product import (
    Product,
    Without,
    held_questions,
    measure,
    measured_on,
    open_pairs,
    raw_labels,
    without,
)
from assay.records import Case, Judge, Judgement, Preference, digest, shown_to
from assay.tables import read_frame

SETS: dict[str, str] = {
    "raw": "as many raw labels as stage 1",
    "unguided": "judge without gold guidance",
    "nohuman-filtered": "no people: filtered",
    "nohuman-flipped": "no people: filtered + flipped",
    "truth": "true labels (ceiling)",
}
"""Name -> what the report calls it. `raw` has as many pairs as `stage1`, `truth` has the whole pool."""
WITHOUT_PEOPLE = ("unguided", "nohuman-filtered", "nohuman-flipped")
"""Sets that no person had a part in: people's gold does not choose their checkpoints either, the last one is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What the arms are made from, beside the product's sets. `at_once`: pairs that judges are asked about at a time."""

    product: Product
    judge: Judge
    unguided: Judge
    at_once: int = AT_ONCE


def test_claims(claims: Claims) -> None:
    """Build, train and measure every arm, and the judges and filters without training; results are steps `sets/NAME`,
    `unseen/NAME`, `claims-judges`, `claims-unseen` and `claims-filters`."""
    product = claims.product
    pairs, sets = measured_on(product), arm_sets(claims)
    for name, labels in sets.items():
        work = partial(measure, product, name, model_name(name), labels, _chooses(claims, name), pairs)
        product.run.once(f"sets/{name}", work)
    _measure_unseen(claims, sets)
    product.run.once("claims-judges", lambda: _judges(claims))
    product.run.once("claims-unseen", lambda: _judges_of_unseen(claims))
    product.run.once("claims-filters", lambda: filters(product.material, product.curated.stage2.evidence))


def _chooses(claims: Claims, name: str) -> Sequence[Preference]:
    """The gold that chooses the checkpoint of a set's model."""
    return () if name in WITHOUT_PEOPLE else claims.product.curated.stage1.held


def _measure_unseen(claims: Claims, sets: Mapping[str, LabelSet]) -> None:
    """How often the models of all sets, which are trained by now, are right on pairs of unseen kinds."""
    product = claims.product
    material, limit = product.material, product.config.evaluation_pairs
    held: Held = {"unseen": material.preferences(material.evaluation(limit, "unseen"))}
    trained = product.run.table("hits", Hit)
    others = {n: (product_of.model_name(n), labels) for n, labels in product_of.product_sets(product).items()}
    known = others | {n: (model_name(n), labels) for n, labels in sets.items()}
    for name, (model, labels) in known.items() if held["unseen"] else ():
        if trained.done(name):  # a set like the one before it has no model of its own
            scorer = partial(product.train, model, labels, _chooses(claims, name))
            product.run.once(f"unseen/{name}", lambda n=name, s=scorer: measured(product.run, n, s(), held))  # type: ignore[misc]


def model_name(name: str) -> str:
    """The folder under `models/` of the model that the arm `name` trained."""
    return "nohuman-rm" if name == "unguided" else f"claims-{name}"


# -- sets of labels -------------------------------------------------------------------------------------------------


def arm_sets(claims: Claims) -> Mapping[str, LabelSet]:
    """The training set of every arm that has any labels, none with a question of held gold."""
    product = claims.product
    guided, keep = product.curated.stage1.guided, product.keep
    not_held = partial(without, held_questions(product))
    more = product_of.product_sets(product)["raw-more"]
    unguided = keep("unguided", of_frame(_unguided(claims, guided)))
    alone, alone_flipped = _without_people(claims, unguided, not_held)
    sets = {
        "raw": drawn(more, len(guided), product.place, "raw", "raw", product.seed), "unguided": unguided,
        "nohuman-filtered": keep("nohuman-filtered", alone), "nohuman-flipped": keep("nohuman-flipped", alone_flipped),
        "truth": keep("truth", partial(_true, not_held)),
    }  # fmt: skip
    return {name: labels for name, labels in sets.items() if len(labels)}


def _true(not_held: Without, part: Slice) -> pl.DataFrame:
    known = open_pairs(not_held, part, "stage1", "stage2")
    return known.with_columns(chosen=pl.col("truth"), certainty=pl.lit(1.0), margin=pl.lit(0.0))


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
    name, product = model_name("unguided"), claims.product
    if not len(unguided):
        return (lambda _: _NONE), (lambda _: _NONE)
    model = {name: product.train(name, unguided, ())}
    files = rewards(product.material, product.place, model, product.run.say, product.score)

    def kept(part: Slice) -> pl.DataFrame:
        raw = raw_labels(not_held, part, "stage2").filter(pl.col("original").is_not_null())
        sure = chances(read_frame(files[part.name]), name, raw)
        return pl.concat([unguided.of(part).select(LABELS), raw.filter(sure > 0.5).select(LABELS)])

    def kept_and_flipped(part: Slice) -> pl.DataFrame:
        raw = raw_labels(not_held, part, "stage2").filter(pl.col("original").is_not_null())
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
    table = claims.product.run.table("claims", Judgement)
    told = [table.empty(VOTES)]
    for number, some in blocks(rows.sort("at", "pair_id"), claims.at_once):
        shard = f"{name}-{number:05d}-{digest(some['pair_id'].to_list())[:12]}"
        if not table.done(shard):
            table.write(shard, judged(judge, shown(list(claims.product.material.known(some).values()))))
        told.append(table.frame(shard, columns=VOTES))
    return pl.concat(told)


def _judges(claims: Claims) -> dict[str, object]:
    """Agreement of judges with the truth: no gold, random gold, nearest gold (paper A, A3 Table 14).

    The pairs are those that judges were asked about. "nearest gold" are their verdicts as they were given, by the gold that
    people had verified until then, and the random examples are of that gold: what came later would flatter both. No example
    is of the target's own question. What was asked for a set of labels is not asked again.
    """
    words, random, plain = list[pl.DataFrame](), list[pl.DataFrame](), list[pl.DataFrame]()
    before = claims.product.run.table("claims", Judgement)
    shards = before.shards("unguided-")
    known = before.frame(*shards, columns=VOTES).unique("pair_id", keep="any") if shards else before.empty(VOTES)
    for turn, said, gold in _rounds(claims):
        rows = said.select("pair_id", "at")
        asked = known.join(rows, on="pair_id", how="semi")
        left = rows.join(asked, on="pair_id", how="anti")
        plain += [asked, _said(claims, f"plain-{turn}", left, claims.unguided, _plain)]
        k = shown_to(claims.judge, claims.product.config.stage1.examples)
        shown = partial(gold.drawn, k=k, seed=claims.product.seed)
        random.append(_said(claims, f"random-{turn}", rows, claims.judge, shown))
        words.append(said.select(VOTES))
    if not any(map(len, words)):
        return {}
    ways = {"no gold": plain, "random gold": random, "nearest gold": words}
    for name, told in ways.items():
        claims.product.run.table("hits", Hit).once(f"judge-{name}", partial(_hits, claims, pl.concat(told)))
    return {name: _agreement(claims, pl.concat(told)) for name, told in ways.items()}


def _hits(claims: Claims, said: pl.DataFrame) -> list[Hit]:
    """What was said pair by pair, where the truth is known: right, wrong, or a half where the judge did not decide."""
    found = list[Hit]()
    for _, frame in claims.product.material.frames(["pair_id", "question_id", "truth"]):
        rows = frame.join(said, on="pair_id").filter(pl.col("truth").is_not_null()).with_columns(
            right=(pl.col("better") == pl.col("truth")).cast(pl.Float64).fill_null(0.5)
        )  # fmt: skip
        found += [
            Hit(pair_id=i, question_id=q, right=r)
            for i, q, r in rows.select("pair_id", "question_id", "right").iter_rows()
        ]
    return found


def _judges_of_unseen(claims: Claims) -> dict[str, object]:
    """The same on pairs of unseen kinds, of which there is no gold: with all gold of the run at the end. Nobody trains on
    what is said of them."""
    product, gold = claims.product, claims.product.curated.stage1.gold
    rows = product.material.evaluation(product.config.evaluation_pairs, "unseen").select("pair_id", "at")
    if not len(rows):
        return {}
    k = shown_to(claims.judge, product.config.stage1.examples)
    ways = {
        "no gold": _said(claims, "unseen-plain", rows, claims.unguided, _plain),
        "random gold": _said(claims, "unseen-random", rows, claims.judge, partial(gold.drawn, k=k, seed=product.seed)),
        "nearest gold": _said(claims, "unseen-nearest", rows, claims.judge, partial(gold.cases, k=k)),
    }
    return {name: _agreement(claims, said) for name, said in ways.items()}


def _agreement(claims: Claims, said: pl.DataFrame) -> dict[str, object]:
    decided = said.filter(pl.col("better").is_not_null()).select("pair_id", chosen="better")
    told = right(claims.product.material, lambda _: decided)
    return {"n": len(said), "undecided": len(said) - len(decided), "agreement": told}


def _rounds(claims: Claims) -> Iterator[tuple[str, pl.DataFrame, Gold]]:
    """Every time that stage 1 asked judges, in order: what they said about pairs whose truth is known, with `at`, and the
    gold that could guide them then."""
    gold, table, verified = (
        claims.product.curated.stage1.gold,
        claims.product.run.table("judgements", Judgement),
        set[str](),
    )
    asked = claims.product.run.table("asked", Asked)
    for turn in ("seed", *(f"it{n}" for n in range(claims.product.config.stage1.iterations))):
        people, judges = (table.shards(f"stage1-{turn}-{who}-") for who in ("people", "judges"))
        verified |= set(table.frame(*people, columns=["pair_id"])["pair_id"]) if people else set()
        if judges:
            places = known_places(claims.product.material, asked.frame(f"stage1-{turn}", columns=["pair_id", "at"]))
            said = table.frame(*judges, columns=VOTES).join(places, on="pair_id", maintain_order="left")
            until = np.array([e.pair.id in verified for e in gold.examples], bool)
            seen = tuple(e for e, then in zip(gold.examples, until, strict=True) if then)
            yield turn, said, Gold(examples=seen, vectors=gold.vectors[until])
