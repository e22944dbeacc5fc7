"""`assay run`: the flow with its people, judges and models put in place, from the pool to the report."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assay.bench.benchmark import Benchmark
from assay.bench.benchmark import run as run_benchmark
from assay.bench.reward import BENCHMARKS
from assay.bench.reward.pairs import evaluate_pairs
from assay.bench.table import as_json
from assay.chat import Chat
from assay.curate.annotate import prompts_version
from assay.curate.book import AT_ONCE, set_aside
from assay.curate.material import Material
from assay.curate.measuring import Measuring
from assay.curate.offline import gold_ridge_judge, longer_judge
from assay.curate.prepare import Use
from assay.curate.settle import settle
from assay.curate.shards import Pool
from assay.curate.stage1 import Tools
from assay.curate.verify import oracle, read_judgements, taken_back
from assay.engine import Engine, Here
from assay.errors import AssayError
from assay.recipes.arms import Arms, run_arms
from assay.recipes.claims import Claims, test_claims
from assay.recipes.embedders import Encoder
from assay.recipes.flow import Curated, FlowConfig, by_rules, curate, prepared
from assay.recipes.hits import held_out
from assay.recipes.pools import SmallPool
from assay.recipes.product import Product, first_results, make_product
from assay.recipes.training import OnDevices, score_together, trainer
from assay.records import Attributes, Case, Embedder, Judge, Judgement, Pair, Scorer, digest
from assay.run import Run, jsonable
from assay.store import Place
from assay.tables import Table, read_json


def run_job(
    folder: Path, config: FlowConfig, pool: Pool | SmallPool, people: Judge, judge: Judge | None = None,
    chat: Chat | None = None, *, asked: Mapping[str, Any] | None = None, accepted: Callable[[], None] = lambda: None,
    resettle: bool = False, at_chance: bool = False, engine: Engine | None = None, processes: int = 0,
    at_once: int = AT_ONCE, after_stage1: Callable[[Path], None] = lambda _: None,
) -> Path:  # fmt: skip
    """Run or resume the whole job in `folder`.

    Without `judge` the offline judge labels pairs, where `config` asks for it, or none does; without `chat`, rules give the
    attributes. `at_chance`: go on with judges that agree with people no more than a coin would. `asked` says who people,
    judge and chat are: a run does not go on with others, nor with another pool; a pool that has more pairs than before is
    gone on with, and told. `accepted` is called when the folder is known to be of these. `resettle`: where people have
    changed their minds since the labels were made, make these and what follows anew. `engine` says where stages run,
    `processes` on how many devices models are trained and score (0: on each accelerator there is; one without any),
    `at_once` how many pairs the judge is asked about at a time. `after_stage1` is called with a seed's folder when its first
    results are there. The engine is closed.
    """
    from assay.reward.launch import cluster_of, how_many

    given = f"{getattr(judge, '__module__', '')}:{getattr(judge, '__qualname__', type(judge).__qualname__)}"
    if config.claims and judge is None and not config.offline_judge:
        raise AssayError(
            "the papers' claims are about judges too: name one, or add --offline-judge; or leave out --claims"
        )
    named = given if judge else "offline:gold-ridge" if config.offline_judge else "none"
    who = {"people": "", "judge": named, "attributes": "rules", **(asked or {})}
    if chat is not None or "judge" in (asked or {}):
        who["prompts"] = prompts_version()
    kept = {**jsonable(config), "inputs": {"embedder": Encoder(config).identity, **who}}
    del kept["claims"]  # they add to a run and change nothing of it: a finished one can be given them
    engine = engine or Here()
    processes = how_many(processes, engine)
    cluster = cluster_of(engine, processes)
    if isinstance(pool, Pool) and not pool.pairs:
        raise AssayError(f"{pool.place}: no pairs in this pool; its rejections say what was wrong with the files")
    if (folder / "tables" / "pairs").is_dir():
        raise AssayError(f"{folder}: an earlier version of Assay made this run, in another layout; use another --out")
    if isinstance(pool, Pool) and pool.place.path is not None and pool.place.path.resolve() == folder.resolve():
        raise AssayError(f"{folder}: this is the pool; a run has a folder of its own: use another --out")
    with closing(Run(folder, kept, accepted=accepted)) as run, closing(engine):
        own = Place.of(folder.absolute()) / "pool"
        pool = pool.put(own) if isinstance(pool, SmallPool) else pool
        if config.train.loss.margin and not has_strengths(pool):
            raise AssayError("no pair of the pool has a strength: train.loss.margin would do nothing; leave it out")
        meet(run, kept, pool)
        if isinstance(people, PeopleOnFile):
            people.are_of(pool)
        encoder = Encoder(config)
        describer = digest(jsonable(who["attributes"])) if chat else ""
        material = prepared(run, config, pool, encoder, OnDevices(engine, processes), chat, describer)
        embed = remember(encoder)
        measured = measuring(run, material, people, resettle=resettle)
        for seed in range(config.seeds):
            run.say(f"[bold]seed {seed}[/bold] ({seed + 1} of {config.seeds})")
            with closing(Run(folder / f"seed-{seed}", {**kept, "seeds": 1}, run.console)) as part:
                train = trainer(part, config, seed, processes, cluster)
                standing = people if isinstance(people, PeopleOnFile) else None
                offline = gold_ridge_judge(embed) if config.offline_judge else None
                tools = Tools(people=measured, judge=judge or offline, train=train, standing=standing, at_once=at_once,
                              score=score_together, at_chance=at_chance)  # fmt: skip
                make = partial(Product, run=part, config=config, material=material, train=train, seed=seed,
                               score=score_together)  # fmt: skip

                def first(curated: Curated, made: Callable[..., Product] = make, place: Path = part.folder) -> None:
                    first_results(made(curated=curated))
                    after_stage1(place)

                product = make(curated=curate(part, config, material, tools, seed, resettle=resettle, between=first))
                make_product(product)
                benchmark(part, config, material)
                if config.claims and tools.judge is not None:
                    test_claims(Claims(product=product, judge=tools.judge, unguided=longer_judge(), at_once=at_once))
                    if standing is None and pool.knows:  # people who answer at once, and a truth to measure by
                        run_arms(Arms(
                            product=product, people=people, judge=tools.judge, embed=embed, at_once=at_once,
                            trainer=lambda of, n=seed: trainer(of, config, n, processes, cluster),  # type: ignore[misc]
                            by_rules=partial(by_rules, run, config, material, encoder),
                            held=held_out(material, config.evaluation_pairs),
                        ))  # fmt: skip
    return folder


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
                with closing(Run(run.folder / f"seed-{seed}", {**kept, "seeds": 1}, run.console)) as part:
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


REMEMBERED = 1 << 26
"""Bytes of texts and their vectors that are kept in memory."""
_OBJECTS = 400
"""Bytes that Python takes for a text and its vector, beside what is in them."""


def remember(embed: Embedder) -> Embedder:
    """The same embedder, which keeps the vectors of the texts that it met last.

    Each text is embedded alone: in a batch, its last digits would depend on the others, and these on where a run was stopped
    before. On a CPU that costs nothing, for there is no padding.
    """
    known: dict[str, NDArray[np.float32]] = {}
    held = 0

    def remembered(texts: Sequence[str]) -> NDArray[np.float32]:
        nonlocal held
        if held > REMEMBERED:
            known.clear()
            held = 0
        for text in dict.fromkeys(texts):
            if text not in known:
                (known[text],) = embed([text])
                held += known[text].nbytes + len(text) + _OBJECTS
        return np.stack([known[t] for t in texts])

    return remembered


def recorded_people(truth: Mapping[str, str]) -> Judge:
    """People who answered before: their recorded labels, given when the loop asks."""
    answer = oracle(truth)

    def people(cases: Sequence[Case]) -> list[Judgement]:
        return [replace(j, kind="human", by="people:recorded") for j in answer(cases)]

    return people


class PeopleOnFile:
    """People who answer with `assay verify` or on the page, as a `Judge`: what they have not answered yet is put in the
    queue, and the run stops."""

    def __init__(self, judgements: Path, queue: Path) -> None:
        self.judgements, self.queue = judgements, queue

    def __call__(self, cases: Sequence[Case]) -> list[Judgement]:
        """Their answers. Raises AssayError, saying how to go on, as long as a pair that was asked about has none."""
        answers = self._answers([c.pair for c in cases])
        missing = [c for c in cases if c.pair.id not in answers]
        if missing:
            self._wait(missing, len(cases))
        return [answers[c.pair.id] for c in cases]

    def are_of(self, pool: Pool) -> None:
        """Raises AssayError where a judgement is about a pair that the pool does not have."""
        told = pl.DataFrame({"pair_id": sorted(self.about())}, {"pair_id": pl.String})
        for shard in (s for s in pool.shards if s.pairs and len(told)):  # an import can bring votes alone
            told = told.join(pool.table("index").frame(shard.name, columns=["pair_id"]), on="pair_id", how="anti")
        if len(told):
            raise AssayError(
                f"{self.judgements}: {len(told):,} pairs that people judged here are not in {pool.place}, "
                f"the first is {told['pair_id'][0]}: take these lines out, or give the pool that they are about"
            )

    def about(self) -> set[str]:
        """The ids of all pairs on which a word of theirs stands."""
        return {j.pair_id for j in read_judgements(self.judgements)}

    def words(self, pairs: Sequence[Pair]) -> dict[str, Judgement]:
        """What they say today of pairs that they judged. An answer that was taken back, and not given anew, is a problem."""
        gone = taken_back(self.judgements)
        lost = {
            p.id: Judgement(pair_id=p.id, better=None, by="people", kind="human", problem="taken back")
            for p in pairs if p.id in gone
        }  # fmt: skip
        return {**lost, **self._answers(pairs)}

    def _answers(self, pairs: Sequence[Pair]) -> dict[str, Judgement]:
        wanted = {p.id: p for p in pairs}
        given: dict[str, list[Judgement]] = {}
        for j in read_judgements(self.judgements, wanted):
            if j.pair_id in wanted:
                given.setdefault(j.pair_id, []).append(j)
        return {pair_id: together(rows) for pair_id, rows in given.items()}

    def _wait(self, missing: Sequence[Case], asked: int) -> None:
        shard = digest(sorted(c.pair.id for c in missing))[:16]
        table = Table(self.queue, Case)
        if not table.done(shard):
            table.write(shard, [replace(c, examples=()) for c in missing])
        known = {c.pair.id for c in table.stream()}
        others = self.about() - known
        about = f"; {len(others):,} pairs in {self.judgements} are none that this run waits for" if others else ""
        run = self.queue.parent
        raise AssayError(
            f"{len(missing)} of {asked} pairs wait for people; run: assay verify {run} (or the page: assay web {run}) - "
            f"then give this command again{about}"
        )


def people_on_file(judgements: Path, queue: Path) -> PeopleOnFile:
    """People whose answers are lines of the file `judgements`, and whose queue is the folder `queue`."""
    return PeopleOnFile(judgements, queue)


def together(rows: Sequence[Judgement]) -> Judgement:
    """One judgement for what several people said of a pair: what `settle` makes of them, by the last who said so."""
    if len(rows) == 1:
        return rows[0]
    label = settle(rows, "people")
    if label.chosen is None:
        undecided = next((j for j in reversed(rows) if j.by in label.by and j.better is None), None)
        return undecided or replace(rows[-1], better=None, problem="people disagree", by=" and ".join(label.by))
    last = next(j for j in reversed(rows) if j.better == label.chosen and j.by in label.by)
    return replace(last, confidence=label.certainty, strength=label.margin, votes=len(rows))


def read_queue(queue: Path) -> list[Case]:
    """The cases that wait for people, each once. Raises AssayError when a run has not asked for any."""
    cases = {c.pair.id: c for c in Table(queue, Case).stream()} if queue.is_dir() else {}
    if not cases:
        raise AssayError(f"{queue}: no pairs wait here; start a run first: assay run pool POOL --out {queue.parent}")
    return list(cases.values())
