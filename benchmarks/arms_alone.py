"""Arms of `assay run human --claims` alone, without the run that they belong to: same material, people, judge and seed.

    python benchmarks/arms_alone.py ../shared/data/preferences --arms rule-attributes coin-gold --out runs/arms-alone

An arm runs stage 1 once more with one thing changed, ends with one reward model and measures it; nothing of it rests on the
rest of a run, which takes hours on six sets. `whole` is stage 1 with nothing changed, to compare with. What is there already
in the folder is not made again.
"""

from __future__ import annotations

import argparse
import os
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

from assay.curate.offline import gold_ridge_judge
from assay.engine import Here
from assay.figures import points, told
from assay.judges.embedders import Encoder, remember
from assay.pipeline import arms
from assay.pipeline.flow import FlowConfig, by_rules, prepared
from assay.pipeline.hits import Hit, compared, held_out
from assay.pipeline.job import measuring
from assay.pipeline.people_on_file import recorded_people
from assay.pipeline.pools import human_pool
from assay.pipeline.product import Product
from assay.pipeline.training import OnDevices, score_together, trainer
from assay.recipes import presets
from assay.run import Run, jsonable
from assay.statistics import Estimate
from assay.store import Place

SIX = ("hh-helpful", "mt-bench", "pandalm", "webgpt", "vicuna80", "lfqa")


def run(folder: Path, data: Path, sets: tuple[str, ...], config: FlowConfig, names: list[str], seed: int) -> list[str]:
    """The named arms, and lines that say what came of each."""
    lines, found = list[str](), human_pool(data, sets, 0, say=print)
    with closing(Run(folder, {**jsonable(config), "sets": sets})) as whole:
        pool = found.put(Place.of(folder.absolute()) / "pool")
        encoder = Encoder(config)
        material = prepared(whole, config, pool, encoder, OnDevices(Here(), 1))
        embed = remember(encoder)
        people = measuring(whole, material, recorded_people(found.truth), resettle=False)
        with closing(Run(folder / f"seed-{seed}", {**jsonable(config), "sets": sets}, whole.console)) as part:
            nothing: Any = None  # what the two stages came to is asked by no arm of the loop
            product = Product(
                run=part, config=config, material=material, curated=nothing, train=nothing, seed=seed, score=score_together
            )  # fmt: skip
            given = arms.Arms(
                product=product, people=people, judge=gold_ridge_judge(embed), embed=embed,
                trainer=lambda of: trainer(of, config, seed), by_rules=partial(by_rules, whole, config, material, encoder),
                held=held_out(material, config.evaluation_pairs),
            )  # fmt: skip
            known = {arms.WHOLE: arms.Arm(title=arms.TITLES[arms.WHOLE]), **arms.ARMS}
            for name in names:
                said = part.once(f"arms/{name}", partial(arms._arm, given, name, known[name]))
                lines.append(line(name, said))
            table = part.table("hits", Hit)
            for name in names if table.done(f"arm-{arms.WHOLE}") else ():
                both = compared([(table.frame(f"arm-{name}"), table.frame(f"arm-{arms.WHOLE}"))])
                if both is not None and name != arms.WHOLE:
                    lines.append(f"{name} less {arms.WHOLE}: {points(both.found, both.found.n)}")
    return lines


def line(name: str, said: dict[str, Any]) -> str:
    """An arm's labels and accuracy in words."""
    right = {who: told(Estimate(**said[who]["right"])) if said[who]["right"] else "-" for who in ("people", "judges")}
    held = told(Estimate(**said["accuracy"]))
    labels = f"people's labels right {right['people']}, the judge's {right['judges']}"
    return f"{name}: {said['pairs']:,} pairs; {labels}; held out {held}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SIX))
    parser.add_argument("--arms", nargs="+", default=["rule-attributes", "coin-gold"])
    parser.add_argument("--presentations", type=int, default=4_800)
    parser.add_argument("--max-tokens", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/arms-alone"))
    args = parser.parse_args()
    preset = presets.human()
    config = replace(
        preset, presentations=args.presentations, train=replace(preset.train, max_tokens=args.max_tokens)
    )  # fmt: skip
    print("\n".join(run(args.out, args.data, tuple(args.sets), config, args.arms, args.seed)))


if __name__ == "__main__":
    main()
