"""`assay run`: the flow with its people, judges and models put in place, from the pool to the report."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.curate.offline import gold_vote_judge, relevance_judge
from assay.curate.stage1 import Tools
from assay.curate.verify import oracle
from assay.recipes.claims import Claims, test_claims
from assay.recipes.flow import Curated, FlowConfig, Prepared, curate, prepare, trainer
from assay.recipes.pools import Pool
from assay.records import Case, Embedder, Judge, Judgement
from assay.run import Run


def run_job(folder: Path, config: FlowConfig, pool: Pool, people: Judge, judge: Judge | None = None) -> None:
    """Run or resume the whole job in `folder`. Without `judge`, the offline gold-vote judge labels the silver pairs."""
    from assay.models import load_embedder

    run = Run(folder, config)
    embed = remember(load_embedder(config.embedder))
    prepared = prepare(run, config, pool, embed)
    for seed in range(config.seeds):
        run.say(f"[bold]seed {seed}[/bold] ({seed + 1} of {config.seeds})")
        part = Run(folder / f"seed-{seed}", replace(config, seeds=1), run.console)
        train = trainer(part, config, seed)
        tools = Tools(people=people, judge=judge or gold_vote_judge(embed), train=train)
        curated = curate(part, config, prepared, tools, seed)
        test_claims(
            Claims(run=part, config=config, prepared=prepared, curated=curated, judge=tools.judge,
                   unguided=relevance_judge(embed), train=train, seed=seed)
        )  # fmt: skip


def remember(embed: Embedder) -> Embedder:
    """The same embedder, computing each distinct text once per process."""
    known: dict[str, NDArray[np.float32]] = {}

    def remembered(texts: Sequence[str]) -> NDArray[np.float32]:
        new = sorted({t for t in texts if t not in known})
        if new:
            known.update(zip(new, embed(new), strict=True))
        return np.stack([known[t] for t in texts])

    return remembered
