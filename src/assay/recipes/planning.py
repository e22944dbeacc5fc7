"""The cost of stage 2 of a run that is planned, or that has begun: the `--dry-run` of `assay run pool`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from assay.curate.cost import Assumed, Count, Forecast, Judging, Size, forecast, of_material, of_pool
from assay.curate.material import Material
from assay.curate.prepare import SplitConfig
from assay.curate.shards import Pool
from assay.errors import AssayError
from assay.recipes.flow import FlowConfig
from assay.records import Label, Pair
from assay.store import Place
from assay.tables import Table


def stage2_cost(
    pool: Pool, config: FlowConfig, folder: Path, judging: Judging | None = None, assumed: Assumed | None = None
) -> Forecast:
    """What stage 2 will cost: of the run in `folder`, where it is prepared, else of the pool.

    Tokens are counted with the tokenizer of the reward models, where it is here.
    """
    tables = Place.of(folder / "seed-0" / "tables")
    labels = Table(tables / "labels", Label)
    labelled = None
    if labels.done("stage1"):
        tiers = labels.frame("stage1", columns=["tier"])["tier"]
        labelled = int((tiers == "gold").sum()), int((tiers == "silver").sum())
    return forecast(_size(pool, config, folder, tables), config.stage1, judging, assumed, _tokenizer(config), labelled,
                    config.offline_judge)  # fmt: skip


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
