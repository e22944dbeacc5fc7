"""`assay run`: the flow with its people, judges and models put in place, from the pool to the report."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from assay.bench.benchmark import Benchmark
from assay.bench.benchmark import run as run_benchmark
from assay.bench.reward import BENCHMARKS
from assay.bench.reward.pairs import evaluate_pairs
from assay.bench.table import as_json
from assay.curate.annotate import prompts_version
from assay.curate.book import AT_ONCE, set_aside
from assay.curate.material import Material
from assay.curate.measuring import Measuring
from assay.curate.offline import gold_ridge_judge, longer_judge
from assay.curate.prepare import Use
from assay.curate.shards import Pool
from assay.curate.stage1 import Tools
from assay.engine import Engine, Here
from assay.errors import AssayError, Refused
from assay.judges.embedders import Encoder, remember
from assay.llm.chat import Chat
from assay.pipeline import policies
from assay.pipeline.arms import Arms, run_arms
from assay.pipeline.claims import Claims, test_claims
from assay.pipeline.flow import Curated, FlowConfig, by_rules, curate, prepared
from assay.pipeline.hits import held_out
from assay.pipeline.people_on_file import PeopleOnFile
from assay.pipeline.pools import SmallPool
from assay.pipeline.product import Product, first_results, make_product
from assay.pipeline.training import OnDevices, score_together, trainer
from assay.records import Attributes, Case, Judge, Scorer, digest
from assay.run import Run, jsonable, nothing_left
from assay.store import Place
from assay.tables import read_json
from assay.telling import Telling


def run_job(
    folder: Path, config: FlowConfig, pool: Pool | SmallPool, people: Judge, judge: Judge | None = None,
    chat: Chat | None = None, *, asked: Mapping[str, Any] | None = None, accepted: Callable[[], None] = lambda: None,
    resettle: bool = False, at_chance: bool = False, engine: Engine | None = None, processes: int = 0,
    at_once: int = AT_ONCE, after_stage1: Callable[[Path], None] = lambda _: None, trackers: Sequence[str] = (),
) -> Path:  # fmt: skip
    """Run or resume the whole job in `folder`.

    Without `judge` the offline judge labels pairs, where `config` asks for it, or none does; without `chat`, rules give the
    attributes. `at_chance`: go on with judges that agree with people no more than a coin would. `asked` says who people,
    judge and chat are: a run does not go on with others, nor with another pool; a pool that has more pairs than before is
    gone on with, and told. `accepted` is called when the folder is known to be of these. `resettle`: where people have
    changed their minds since the labels were made, make these and what follows anew. `engine` says where stages run,
    `processes` on how many devices models are trained and score (0: on each accelerator there is; one without any),
    `at_once` how many pairs the judge is asked about at a time. `after_stage1` is called with a seed's folder when its first
    results are there. `trackers` (`assay.trackers`) get each training's metrics and the numbers of every step. The
    engine is closed.
    """
    from assay.reward.launch import cluster_of, how_many

    who = _who(config, judge, chat, asked or {})
    kept = _kept(config, who)
    standing = people if isinstance(people, PeopleOnFile) else None
    engine = engine or Here()
    processes = how_many(processes, engine)
    cluster = cluster_of(engine, processes)
    _refuse(folder, config, pool)
    with (
        nothing_left(folder), closing(engine), closing(Run(folder, kept, accepted=accepted)) as run,
        Telling(run, trackers) as telling,
    ):  # fmt: skip
        pool = _laid_down(run, config, kept, pool, standing)
        encoder = Encoder(config)
        describer = digest(jsonable(who["attributes"])) if chat else ""
        material = prepared(run, config, pool, encoder, OnDevices(engine, processes), chat, describer)
        embed = remember(encoder)
        judge = gold_ridge_judge(embed) if judge is None and config.offline_judge else judge
        measured = measuring(run, material, people, resettle=resettle)
        for seed in range(config.seeds):
            run.say(f"[bold]seed {seed}[/bold] ({seed + 1} of {config.seeds})")
            with closing(run.part(folder / f"seed-{seed}", {**kept, "seeds": 1})) as part:
                part.telling = telling
                by_seed = partial(
                    trainer, config=config, seed=seed, processes=processes, cluster=cluster, telling=telling
                )
                tools = Tools(people=measured, judge=judge, train=by_seed(part), standing=standing, at_once=at_once,
                              score=score_together, at_chance=at_chance)  # fmt: skip
                product = _of_seed(part, config, material, tools, seed, after_stage1, resettle=resettle)
                if config.claims and judge is not None:
                    test_claims(Claims(product=product, judge=judge, unguided=longer_judge(), at_once=at_once))
                if config.claims and judge is not None and standing is None and pool.knows:
                    run_arms(Arms(  # of people who answer at once, and a truth to measure by
                        product=product, people=people, judge=judge, embed=embed, at_once=at_once, trainer=by_seed,
                        by_rules=partial(by_rules, run, config, material, encoder),
                        held=held_out(material, config.evaluation_pairs),
                    ))  # fmt: skip
        if config.tune:
            policies.tune_policies(run, config, material, telling)
    return folder


def _who(config: FlowConfig, judge: Judge | None, chat: Chat | None, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Who people, judge and chat are, as the run keeps it."""
    given = f"{getattr(judge, '__module__', '')}:{getattr(judge, '__qualname__', type(judge).__qualname__)}"
    if config.claims and judge is None and not config.offline_judge:
        raise AssayError(
            "the papers' claims are about judges too: name one, or add --offline-judge; or leave out --claims"
        )
    named = given if judge else "offline:gold-ridge" if config.offline_judge else "none"
    who = {"people": "", "judge": named, "attributes": "rules", **asked}
    if chat is not None or "judge" in asked:
        who["prompts"] = prompts_version()
    return who


def _kept(config: FlowConfig, who: Mapping[str, Any]) -> dict[str, Any]:
    """What shapes a run: its config.json."""
    kept = {**jsonable(config), "inputs": {"embedder": Encoder(config).identity, **who}}
    for name in ("claims", "tune", "tuning"):  # they change nothing of a run: a finished one can be given them
        del kept[name]
    return kept


def _refuse(folder: Path, config: FlowConfig, pool: Pool | SmallPool) -> None:
    """Raises AssayError where the folder cannot have a run of this pool, and, before people work, for a model that is not
    there."""
    from assay.models import load_config

    if isinstance(pool, Pool) and not pool.pairs:
        raise AssayError(f"{pool.place}: no pairs in this pool; its rejections say what was wrong with the files")
    if (folder / "tables" / "pairs").is_dir():
        raise AssayError(f"{folder}: an earlier version of Assay made this run, in another layout; use another --out")
    if isinstance(pool, Pool) and pool.place.path is not None and pool.place.path.resolve() == folder.resolve():
        raise AssayError(f"{folder}: this is the pool; a run has a folder of its own: use another --out")
    if not (folder / "config.json").exists():
        load_config(config.train.backbone)
    if config.tune:
        policies.check(config, int(os.environ.get("WORLD_SIZE", "1")))


def _laid_down(
    run: Run, config: FlowConfig, kept: Mapping[str, Any], pool: Pool | SmallPool, standing: PeopleOnFile | None
) -> Pool:
    """The run's pool on disk: the one that it had, and that people's answers are of. Raises AssayError where it is another,
    or cannot feed the loss."""
    laid = pool.put(Place.of(run.folder.absolute()) / "pool") if isinstance(pool, SmallPool) else pool
    if config.train.loss.margin and not has_strengths(laid):
        raise Refused("no pair of the pool has a strength: train.loss.margin would do nothing; leave it out")
    meet(run, kept, laid)
    if standing is not None:
        standing.are_of(laid)
    return laid


def _of_seed(
    run: Run, config: FlowConfig, material: Material, tools: Tools, seed: int, after_stage1: Callable[[Path], None], *,
    resettle: bool,
) -> Product:  # fmt: skip
    """Both stages, the sets that come of them, their models, and how good these are."""
    make = partial(Product, run=run, config=config, material=material, train=tools.train, seed=seed, score=tools.score)

    def first(curated: Curated) -> None:
        first_results(make(curated=curated))
        after_stage1(run.folder)

    product = make(curated=curate(run, config, material, tools, seed, resettle=resettle, between=first))
    make_product(product)
    benchmark(run, config, material)
    return product


def measuring(run: Run, material: Material, people: Judge, *, resettle: bool) -> Judge:
    """`people`, who verify the pairs that only measure as well. Where they have changed their minds about some of these,
    that is told, and with `resettle` all models are measured anew."""
    rows = material.to_measure()
    cases = [Case(pair=k.pair, attributes=k.attributes) for k in material.known(rows).values()]
    asked = Measuring(material.out, cases, people)
    said = people.words([c.pair for c in cases]) if isinstance(people, PeopleOnFile) else {}
    if (words := asked.today(said)) and resettle:
        run.say("people have changed their minds about pairs that only measure: the models are measured anew")
        for seed in sorted(run.folder.glob("seed-*")):
            of_models = "steps/sets/*.json", "steps/arms/*.json", "steps/bench/held-out.json", "tables/hits/*.parquet"
            for file in (f for made in of_models for f in sorted(seed.glob(made)) if not f.name.startswith("judge-")):
                file.unlink()
        asked.take(words)
    elif words:
        run.say(
            "[bold]warning:[/bold] people have changed their minds about pairs that only measure since they were asked; "
            "the numbers are of what they said before: add --resettle to measure anew"
        )
    return asked


def has_strengths(pool: Pool) -> bool:
    """Whether any source says by how much a response is better."""
    shards = (s.name for s in pool.shards if s.votes)
    return any(bool((pool.table("votes").frame(s, columns=["strength"])["strength"] != 0.0).any()) for s in shards)


def meet(run: Run, kept: Mapping[str, Any], pool: Pool) -> None:
    """Keep what the run's pool is, and compare it with what it was. Where it has grown, what was made of all pairs is set
    aside and made anew; what was collected stays. Raises AssayError where it is another pool."""
    note = run.folder / "shards.json"
    now = {s.name: [s.part, s.pairs, s.content, s.said] for s in pool.shards}
    before = read_json(note).get("shards") if note.exists() else None
    if before is None and (run.folder / "steps" / "prepare" / "pool.json").exists():
        raise AssayError(
            f"{note}: does not say which pool this run is of, so it cannot go on with any; use another --out"
        )
    if before is not None and before != now:
        pairs, told = sum(n for _, n, _, _ in before.values()), pool.pairs
        if any(now.get(name) != shard for name, shard in before.items()):
            raise AssayError(
                f"{run.folder}: the pool has changed since this run began: {pairs:,} pairs then, {told:,} now"
                f"{' with other content' if pairs == told else ''}; a run is of one pool: use another --out, or the pool as "
                "it was"
            )
        run.say(
            f"[bold]the pool has grown[/bold]: {pairs:,} pairs when this run began, {told:,} now; it goes on with all. "
            "People and judges are asked about new pairs in the iterations of stage 1 that are left; after the last one, "
            "those of its questions have the labels of their sources only"
        )
        for seed in range(kept["seeds"]):
            if (run.folder / f"seed-{seed}" / "config.json").exists():
                with closing(run.part(run.folder / f"seed-{seed}", {**kept, "seeds": 1})) as part:
                    run.say(f"what was made of the pool as it was is in {set_aside(part, iterations=True)}")
        for step in sorted((run.folder / "steps" / "prepare").rglob("*.json")):
            if step.name != "benchmarks.json":
                step.unlink()
    Place.of(note).keep_text(json.dumps({"shards": now}, indent=1))


def benchmark(run: Run, config: FlowConfig, material: Material) -> None:
    """Score the final model on the held-out pairs and on every public benchmark that lies in `config.benchmarks`.

    Each is a step `bench/NAME`; the held-out pairs, and with `config.claims` those of unseen kinds, are told apart by the
    first quality that their prompt asks for.
    """
    from assay.reward.scorer import load_scorer

    final = run.folder / "models" / "final"
    scorer = load_scorer(final, config.train.max_tokens, config.train.engine.tokens, config.train.precision)
    _held_out(run, config, material, scorer, "evaluation", "held-out pairs")
    if config.claims:
        _held_out(run, config, material, scorer, "unseen", "unseen kinds")
    if folder := config.benchmarks:
        for key, bench in BENCHMARKS.items():
            run.once(f"bench/{key}", partial(_measure, bench, folder, scorer, config.bench_limit))


def _held_out(run: Run, config: FlowConfig, material: Material, scorer: Scorer, use: Use, name: str) -> None:
    measured = material.evaluation(config.evaluation_pairs, use)
    if len(measured):
        known, chosen = material.known(measured), measured.select("pair_id", "chosen").iter_rows()
        pairs = [known[i].pair.preferring(better, 1.0, 0.0) for i, better in chosen]
        parts = {i: _demand(k.attributes) for i, k in known.items()}
        step = f"bench/{name.removesuffix(' pairs').replace(' ', '-')}"
        run.once(step, lambda: as_json(evaluate_pairs(pairs, scorer, name, parts=parts)))


def _measure(bench: Benchmark[Any], folder: Path, scorer: Scorer, limit: int) -> dict[str, Any]:
    return as_json(run_benchmark(bench, folder, scorer, limit))


def _demand(attributes: Attributes) -> str:
    """The kind of the first desired quality, without its number or word: "is long", "uses the word"."""
    return re.split(r"[:\"\d]", "".join(attributes.desired[:1]))[0].strip()
