"""`assay run`: the flow with its people, judges and models put in place, from the pool to the report."""

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.bench.benchmark import Benchmark
from assay.bench.benchmark import run as run_benchmark
from assay.bench.reward import BENCHMARKS
from assay.bench.reward.pairs import evaluate_pairs
from assay.bench.table import as_json
from assay.chat import Chat
from assay.curate.offline import gold_vote_judge, relevance_judge
from assay.curate.settle import settle
from assay.curate.stage1 import Tools
from assay.curate.verify import oracle, read_judgements
from assay.errors import AssayError
from assay.recipes.claims import Claims, test_claims
from assay.recipes.embedders import load_embedder
from assay.recipes.flow import FlowConfig, Prepared, curate, prepare, trainer
from assay.recipes.pools import Pool
from assay.records import Attributes, Case, Embedder, Judge, Judgement, Scorer, digest
from assay.run import Run
from assay.tables import Table


def run_job(
    folder: Path, config: FlowConfig, pool: Pool, people: Judge, judge: Judge | None = None, chat: Chat | None = None
) -> Path:
    """Run or resume the whole job in `folder`.

    Without `judge`, the offline gold-vote judge labels the silver pairs; without `chat`, rules give the attributes.
    """
    with closing(Run(folder, config)) as run:
        embed = remember(load_embedder(config))
        prepared = prepare(run, config, pool, embed, chat)
        for seed in range(config.seeds):
            run.say(f"[bold]seed {seed}[/bold] ({seed + 1} of {config.seeds})")
            with closing(Run(folder / f"seed-{seed}", replace(config, seeds=1), run.console)) as part:
                train = trainer(part, config, seed)
                tools = Tools(people=people, judge=judge or gold_vote_judge(embed), train=train)
                curated = curate(part, config, prepared, tools, seed)
                claims = Claims(
                    run=part, config=config, prepared=prepared, curated=curated, judge=tools.judge,
                    unguided=relevance_judge(embed), train=train, seed=seed,
                )  # fmt: skip
                test_claims(claims)
                benchmark(part, config, prepared)
    return folder


def benchmark(run: Run, config: FlowConfig, prepared: Prepared) -> None:
    """Score the final model on the held-out pairs and on every public benchmark that lies in `config.benchmarks`.

    Each is a step `bench/NAME`; the held-out pairs are told apart by the first quality that their prompt asks for.
    """
    from assay.reward.scorer import load_scorer

    final = run.folder / "models" / "final"
    scorer = load_scorer(final, config.train.max_tokens, config.train.engine.tokens, config.train.precision)
    evaluation, folder = prepared.evaluation(), config.benchmarks
    if evaluation:
        parts = {p.pair_id: _demand(prepared.attributes[p.pair_id]) for p in evaluation}
        run.once("bench/held-out", lambda: as_json(evaluate_pairs(evaluation, scorer, parts=parts)))
    if folder:
        for key, bench in BENCHMARKS.items():
            run.once(f"bench/{key}", partial(_measure, bench, folder, scorer, config.bench_limit))


def _measure(bench: Benchmark[Any], folder: Path, scorer: Scorer, limit: int) -> dict[str, Any]:
    return as_json(run_benchmark(bench, folder, scorer, limit))


def _demand(attributes: Attributes) -> str:
    """The kind of the first desired quality, without its number or word: "is long", "uses the word"."""
    return re.split(r"[:\"\d]", "".join(attributes.desired[:1]))[0].strip()


def remember(embed: Embedder) -> Embedder:
    """The same embedder, computing each distinct text once per process."""
    known: dict[str, NDArray[np.float32]] = {}

    def remembered(texts: Sequence[str]) -> NDArray[np.float32]:
        new = sorted({t for t in texts if t not in known})
        if new:
            known.update(zip(new, embed(new), strict=True))
        return np.stack([known[t] for t in texts])

    return remembered


def recorded_people(truth: Mapping[str, str]) -> Judge:
    """People who answered before: their recorded labels, given when the loop asks."""
    answer = oracle(truth)

    def people(cases: Sequence[Case]) -> list[Judgement]:
        return [replace(j, kind="human", by="people:recorded") for j in answer(cases)]

    return people


def people_on_file(judgements: Path, queue: Path) -> Judge:
    """People who answer with `assay verify`: what they have not answered yet is put in the queue, and the run stops.

    Raises AssayError, saying how to go on, as long as a pair that was asked about has no answer.
    """

    def people(cases: Sequence[Case]) -> list[Judgement]:
        wanted = {c.pair.id for c in cases}
        given: dict[str, list[Judgement]] = {}
        for j in read_judgements(judgements):
            if j.pair_id in wanted:
                given.setdefault(j.pair_id, []).append(j)
        answers = {pair_id: together(rows) for pair_id, rows in given.items()}
        missing = [c for c in cases if c.pair.id not in answers]
        if missing:
            shard = digest(sorted(c.pair.id for c in missing))[:16]
            table = Table(queue, Case)
            if not table.done(shard):
                table.write(shard, [replace(c, examples=()) for c in missing])
            raise AssayError(
                f"{len(missing)} of {len(cases)} pairs wait for people; run: assay verify {queue.parent}"
                f" (or the page: assay web {queue.parent}) - then give this command again"
            )
        return [answers[c.pair.id] for c in cases]

    return people


def together(rows: Sequence[Judgement]) -> Judgement:
    """One judgement for what several people said of a pair: what `settle` makes of them, by the last who said so."""
    if len(rows) == 1:
        return rows[0]
    label = settle(rows, "people")
    if label.chosen is None:
        undecided = next((j for j in reversed(rows) if j.by in label.by and j.better is None), None)
        return undecided or replace(rows[-1], better=None, problem="people disagree", by=" and ".join(label.by))
    return next(j for j in reversed(rows) if j.better == label.chosen and j.by in label.by)


def read_queue(queue: Path) -> list[Case]:
    """The cases that wait for people, each once. Raises AssayError when a run has not asked for any."""
    cases = {c.pair.id: c for c in Table(queue, Case).stream()} if queue.is_dir() else {}
    if not cases:
        raise AssayError(f"{queue}: no pairs wait here; start a run first: assay run pool POOL --out {queue.parent}")
    return list(cases.values())
