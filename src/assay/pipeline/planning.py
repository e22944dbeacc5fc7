"""What a run will ask of people, and what stage 2 will cost, before it begins and while it goes (`assay run pool`)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from assay.curate.cost import Count, Forecast, Judging, Size, forecast, of_material, of_pool
from assay.curate.material import Material
from assay.curate.measuring import AT_MOST
from assay.curate.prepare import SplitConfig
from assay.curate.shards import Pool
from assay.curate.verify import read_judgements
from assay.curate.waiting import SECONDS_A_PAIR, seconds_a_pair
from assay.errors import AssayError
from assay.pipeline.flow import FlowConfig
from assay.records import Label, Pair
from assay.session import duration
from assay.store import Place
from assay.tables import Table


def stage2_cost(pool: Pool, config: FlowConfig, folder: Path, judging: Judging | None = None) -> Forecast:
    """What stage 2 will cost: of the run in `folder`, where it is prepared, else of the pool.

    Tokens are counted with the tokenizer of the reward models, where it is here.
    """
    tables = Place.of(folder / "seed-0" / "tables")
    labels = Table(tables / "labels", Label)
    labelled = None
    if labels.done("stage1"):
        tiers = labels.frame("stage1", columns=["tier"])["tier"]
        labelled = int((tiers == "gold").sum()), int((tiers == "silver").sum())
    return forecast(_size(pool, config, folder, tables), config.stage1, judging, None, _tokenizer(config), labelled,
                    config.offline_judge)  # fmt: skip


def people_forecast(pool: Pool, config: FlowConfig, folder: Path, judgements: Path) -> list[str]:
    """How many answers of people the run will ask for at most, in how many rounds, and how long these take; [] where none
    are left.

    A pair takes as long as it took people in this run so far (the median), else an assumed minute, and this is said.
    """
    first = config.stage1
    measured = min(config.evaluation_gold, int(pool.pairs * AT_MOST)) if not pool.knows else 0
    share = (1 - config.eval_share if pool.knows else 1.0) * (1.0 if pool.chosen else config.stage1_share)
    each, most = round(first.gold_share * first.per_iteration), max(1, round(share * pool.pairs)) + measured
    turns = [f"seed-{n}/tables/wins/stage1-it{k}.parquet" for n in range(config.seeds) for k in range(first.iterations)]
    rounds = config.seeds + len(turns) - sum((folder / turn).exists() for turn in turns)
    start = min(first.seed_gold + measured, most)
    given = read_judgements(judgements)
    left = min(most, config.seeds * (first.seed_gold + first.iterations * each) + measured)
    left -= len({j.pair_id for j in given})
    if left <= 0 or all((folder / f"seed-{n}" / "steps" / "final.json").exists() for n in range(config.seeds)):
        return []
    seconds = seconds_a_pair(given)
    how = "the median so far" if seconds else "assumed, for no answer was timed yet"
    seconds, then = seconds or SECONDS_A_PAIR, min(each, most - start)
    later = f", then at most {then:,} each" if then else ""
    return [
        f"people: at most {left:,} {'more ' if given else ''}answers in {rounds} rounds ({start:,} first{later}), about "
        f"{duration(left * seconds)} of people's time at {seconds:.0f} s a pair ({how})"
    ]


def _size(pool: Pool, config: FlowConfig, folder: Path, tables: Place) -> Size:
    if (folder / "material.json").exists():
        begun = Material.open(Place.of(folder))
        if replace(begun.pool, place=pool.place) == pool:  # wherever it lies
            return of_material(begun, tables)
    split = SplitConfig(eval_share=config.eval_share, stage1_share=config.stage1_share)
    return of_pool(pool, split)


def _tokenizer(config: FlowConfig) -> tuple[str, Count] | None:
    """The tokenizer of the reward models' backbone; None where it (or what reads it) is not here."""
    from assay.pack import share
    from assay.render import Rendered, attempts

    try:
        from assay.models import load_tokenizer

        tokenizer = load_tokenizer(config.train.backbone)
    except AssayError:
        return None

    def count(pairs: Sequence[Pair]) -> int:
        """With the prompt once for both responses, where the model can share it."""
        whole = [p.prompt + r.messages for p in pairs for r in p.responses]
        together = [(at, at + 1) for at in range(0, len(whole), 2)]
        found = attempts(tokenizer, whole, config.train.max_tokens, None, together)
        read = [one.ids if isinstance(one, Rendered) else [] for one in found]
        if not tokenizer.chat_template:
            return sum(map(len, read))
        return sum(share([one, two]).tokens for one, two in zip(read[::2], read[1::2], strict=True) if one and two)

    return config.train.backbone, count
