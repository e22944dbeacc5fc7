"""A finished `assay run`, read back: its sets of labels and what to measure on, for sweeps and for export.

raw        the pool's own labels, of all pairs that are neither for evaluation nor held gold
stage1     what people and guided judges labelled
filtered   stage 1 and the pairs of stage 2 that were kept
flipped    filtered, and the discarded pairs with their label turned round
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from assay.curate.settle import settle_all
from assay.curate.stage1 import is_held, preferences
from assay.errors import AssayError
from assay.recipes.flow import FlowConfig, split_by_prompt
from assay.recipes.pools import Pool, folder_pool
from assay.recipes.settings import SETS
from assay.records import Judgement, Label, Pair, Preference, Truth, question_id
from assay.reward.config import TrainConfig
from assay.reward.data import Pairs, ParquetPairs
from assay.tables import Table, build


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The label sets of one seed of a run. `held` gold chooses checkpoints, `evaluation` measures; no set has either."""

    sets: dict[str, list[Preference]]
    held: list[Preference]
    evaluation: list[Preference]
    train: TrainConfig
    presentations: int


def read_run(folder: Path, seed: int = 0) -> Finished:
    """Read the label sets of a run folder. Raises AssayError when it is none, or has not finished stage 2."""
    if not (folder / "config.json").exists() or not (folder / "tables" / "pairs").is_dir():
        raise AssayError(f"{folder}: not a run folder; give the --out folder of an `assay run`")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    try:
        settings = build(TrainConfig, config["train"])
    except KeyError as error:
        raise AssayError(
            f"{folder}/config.json: no train.{error.args[0]}; an older Assay made this run, run it anew"
        ) from error
    labels = Table(folder / f"seed-{seed}" / "tables" / "labels", Label)
    if not any(s.startswith("stage2-") for s in labels.shards()):
        raise AssayError(f"{folder}: seed {seed} has no labels of stage 2; run the same `assay run` again to finish it")
    pool = Pool(
        pairs={p.id: p for p in Table(folder / "tables" / "pairs", Pair).stream()},
        wild=Table(folder / "tables" / "wild", Judgement).read(),
        truth={t.pair_id: t.better for t in Table(folder / "tables" / "truth", Truth).stream()},
    )
    shares = {k: config[k] for k in ("eval_share", "stage1_share", "evaluation_pairs")}
    measured = split_by_prompt(pool, FlowConfig(recipe="finished", **shares)).evaluation
    first, second = labels.read("stage1"), labels.read(*(s for s in labels.shards() if s.startswith("stage2-")))
    share = config["stage1"]["held_share"]
    apart = {pool.pairs[i].question_id for i in measured}

    def usable(some: list[Label]) -> list[Preference]:
        seen = preferences(some, pool.pairs)
        return [p for p in seen if question_id(p.prompt) not in apart and not _held(p, share, gold)]

    gold = {label.pair_id for label in first if label.tier == "gold"}
    held = [p for p in preferences(first, pool.pairs) if _held(p, share, gold)]
    apart |= {question_id(p.prompt) for p in held}
    kept = usable([label for label in second if label.fate == "kept"])
    flipped = usable([label for label in second if label.fate == "flipped"])
    guided = usable(first)
    evaluation = [pool.pairs[i].preferring(pool.truth[i]) for i in measured] or held
    return Finished(
        sets={"raw": usable(settle_all(pool.wild, "raw")), "stage1": guided, "filtered": guided + kept,
              "flipped": guided + kept + flipped},
        held=held, evaluation=evaluation, train=settings,
        presentations=config["presentations"],
    )  # fmt: skip


def _held(preference: Preference, share: float, gold: set[str]) -> bool:
    return preference.pair_id in gold and is_held(question_id(preference.prompt), share)


def labelled(source: Path, name: str) -> Iterator[Preference]:
    """The preferences of a run folder's set, or of a pool folder ("raw"), one shard of the pool in memory at a time."""
    if (source / "config.json").exists():
        yield from read_run(source).sets[name]
        return
    pairs, wild = Table(source / "tables" / "pairs", Pair), Table(source / "tables" / "wild", Judgement)
    if not pairs.shards():
        raise AssayError(f"{source}: neither a run folder (assay run) nor a pool folder (assay pool add)")
    if name != "raw":
        raise AssayError(
            f"{source}: a pool has its raw labels only; the sets {', '.join(SETS[1:])} are made by `assay run`"
        )
    seen: set[str] = set()
    for shard in pairs.shards():
        here = {p.id: p for p in pairs.stream(shard) if p.id not in seen}
        seen.update(here)
        votes = [j for j in wild.stream(*([shard] if wild.done(shard) else [])) if j.pair_id in here]
        yield from preferences(settle_all(votes, "raw"), here)


def export(source: Path, out: Path, name: str, shard: int = 100_000) -> int:
    """Write `labelled` as Parquet shards of `Preference` rows and return their number. `out` must be new."""
    _known(name)
    if out.exists() and any(out.iterdir()):
        raise AssayError(f"{out}: not empty; export into a new folder, for its shards are all read together")
    table, rows, total = Table(out, Preference), labelled(source, name), 0
    for number in range(1_000_000):
        part = list(islice(rows, shard))
        if not part:
            break
        total += table.write(f"part-{number:05d}", part)
    if not total:
        raise AssayError(f"{source}: no labelled pairs in '{name}'")
    return total


def training_data(
    source: Path, name: str, gold: Path | None, say: Callable[[str], None] = lambda _: None
) -> tuple[Sequence[Preference] | Pairs, list[Preference]]:
    """What `assay reward train` trains on, and the gold that chooses its checkpoint.

    No question is in both: pairs that ask one of `gold` are left out and told. Streamed Parquet that has some is refused.
    """
    _known(name)
    if not source.is_dir():
        raise AssayError(f"{source}: no such folder; give a pool folder, a run folder, or one of Parquet preferences")
    chosen = Table(gold, Preference).read() if gold else None
    if gold and not chosen:
        raise AssayError(f"{gold}: no Parquet preferences here to choose the checkpoint by")
    if (source / "config.json").exists():
        run = read_run(source)
        return (_apart(run.sets[name], chosen, say), chosen) if chosen else (run.sets[name], run.held)
    if (source / "tables").is_dir():
        pool = folder_pool(source)
        everything = preferences(settle_all(pool.wild, "pool"), pool.pairs)
        if chosen:
            return _apart(everything, chosen, say), chosen
        held = [p for p in everything if is_held(question_id(p.prompt), 0.1)]
        return [p for p in everything if not is_held(question_id(p.prompt), 0.1)], held
    pairs = ParquetPairs(source)
    taught = pairs.asking(g.prompt for g in chosen or ())
    if taught:
        raise AssayError(
            f"{source}: {len(taught):,} of {len(pairs):,} pairs ask a question of {gold} (the first is {taught[0]}); gold "
            "that is trained on cannot choose the checkpoint: take these questions out of either"
        )
    return pairs, chosen or []


def _apart(pairs: Sequence[Preference], gold: Sequence[Preference], say: Callable[[str], None]) -> list[Preference]:
    """The pairs that ask no question of the gold."""
    asked = {question_id(g.prompt) for g in gold}
    kept = [p for p in pairs if question_id(p.prompt) not in asked]
    if len(kept) < len(pairs):
        say(f"{len(pairs) - len(kept):,} of {len(pairs):,} pairs ask a question of the gold: left out of training")
    if not kept:
        raise AssayError("every pair asks a question of the gold, so none is left to train on; give other gold")
    return kept


def _known(name: str) -> None:
    if name not in SETS:
        raise AssayError(f"unknown labels '{name}'; a run has {', '.join(SETS)}, a pool has raw")
