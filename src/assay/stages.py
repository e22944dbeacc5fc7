"""The stages of a run in plain words, with what is done of them, as its folder tells it.

`effort` is in passes of a pair (or of an answer) through a model, of which a training step takes three: with the seconds of
what is done it says how long the rest will take. What LLM servers and people need is not in it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

TRAIN = 3.0
"""Passes that a training step on a pair takes: forward, and twice as much backward."""
DRAWN = 6.0
"""Passes that a sampled answer takes, of the order of what the embedded policies need on two cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage. `left` is what is left of its `effort`; `seconds` what was done of it took, 0.0 where nothing tells. A
    pass of a policy may take many times one of a reward model: `of` says whose speed it goes at."""

    title: str
    done: bool
    effort: float = 0.0
    left: float = 0.0
    seconds: float = 0.0
    of: str = ""


def of_run(place: Path, config: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The stages of an `assay run`; `asked`: what its run file asks of it besides."""
    claims = bool(asked.get("claims"))
    split = noted(place / "steps" / "prepare" / "split.json")
    prepared = (place / "steps" / "prepare" / "split.json").exists()
    found = [Stage(title="preparing the pool: who is held out, attributes, vectors", done=prepared)]
    seeds = int(config.get("seeds", 1))
    for n in range(seeds):
        which = f" (seed {n + 1} of {seeds})" if seeds > 1 else ""
        part = _of_seed(place / f"seed-{n}", config, split, claims)
        found += [replace(s, title=s.title + which) for s in part]
    if asked.get("tune") and "tuning" in asked:
        made = all((place / f"seed-{n}" / "steps" / "final.json").exists() for n in range(seeds))
        where = "policies" if made else "not-begun"  # what lies there was made of models that are no more
        found += _of_policies(place / where, asked["tuning"], seeds)
    return _in_order(found)


def _of_policies(place: Path, tuning: Mapping[str, Any], seeds: int) -> list[Stage]:
    """Those of `--tune`, with the reward models of so many seeds."""
    steps, trainings, grpo = place / "steps", int(tuning["seeds"]), tuning["grpo"]
    names = [f"{arm}-{i}" for i in range(trainings) for arm in ("raw", "curated")]
    drawn, done = DRAWN * int(tuning["test_prompts"]) * int(tuning["candidates"]), (steps / "start.json").exists()
    took = float(noted(steps / "start.json").get("wall_s", 0.0))
    found = [Stage(title="answers of the untuned policy", done=done, effort=drawn, left=0.0 if done else drawn, seconds=took,
                   of="policy")]  # fmt: skip
    picked = _files(steps / "best-of-n", "*.json") >= 2 * seeds
    found.append(Stage(title="the best of n, by either reward model, and their gates", done=picked))
    each = (DRAWN + TRAIN) * int(grpo["steps"]) * int(grpo["prompts"]) * int(grpo["group"])
    tuned = training("GRPO", False, {place / "models" / f"grpo-{n}": each for n in names
                                     if not (steps / "policy" / f"{n}.json").exists()})  # fmt: skip
    asked = DRAWN * int(tuning["test_prompts"]) * int(tuning["samples"])
    over, told = 0.0, 0.0
    for name in names:
        over += asked if not (steps / "policy" / f"{name}.json").exists() else 0.0
        trained = noted(steps / "grpo" / f"{name}.json")
        told += float(trained.get("wall_s", 0.0)) if "skipped" not in trained else 0.0
    whole, last = (each + asked) * len(names), (steps / f"compared-{trainings}.json").exists()
    times = f"{trainings} training{'s' * (trainings > 1)} each"
    found.append(Stage(title=f"GRPO with either reward model, {times}", done=last, effort=whole,
                       left=0.0 if last else tuned.left + over, seconds=told, of="policy"))  # fmt: skip
    return found


def _of_seed(place: Path, config: Mapping[str, Any], split: Mapping[str, Any], claims: bool) -> list[Stage]:
    steps, first = place / "steps", config["stage1"]
    rounds, sets = int(first["iterations"]), place / "tables" / "sets"
    gold, silver = int(first["seed_gold"]), int(first["seed_silver"])
    labelled, each = place / "tables" / "labels" / "stage1.parquet", int(first["per_iteration"])
    wild, some = int(split.get("stage2", 0)), int(split.get("stage1", 0))

    def trained(title: str, done: bool, models: Mapping[str, float]) -> Stage:
        return training(
            title, done, {place / "models" / name: TRAIN * _presented(config, n) for name, n in models.items()}
        )

    known = min(some, silver)
    found = [Stage(title="the first answers of people and judges", done=(sets / "stage1-it0.json").exists())]
    for k in range(rounds):
        done = labelled.exists() if k + 1 == rounds else (sets / f"stage1-it{k + 1}.json").exists()
        found.append(trained(f"round {k + 1} of {rounds}: what the model gets wrong is asked about", done,
                             {f"stage1-it{k}": known}))  # fmt: skip
        known = min(some, known + each)
    first_models = {"best-rm": known, "gold-rm": min(some, gold), "raw-more": some + wild}
    found.append(trained("training on stage 1's pairs", (steps / "sets" / "stage1.json").exists(), first_models))
    judged, effort = _files(place / "tables" / "labels", "stage2-*.parquet"), 2.0 * wild
    scored = max(1, _files(place / "tables" / "rewards", "*/*.parquet"))
    found.append(Stage(title="scoring and judging pairs in the wild", done=(steps / "labels.json").exists(),
                       effort=effort, left=effort * max(0.0, 1 - judged / scored)))  # fmt: skip
    more = {"filtered": known + wild // 2, "flipped": known + wild}
    found.append(trained("training on stage 2's pairs, choosing the model", (steps / "final.json").exists(), more))
    if config.get("benchmarks"):
        benched = any(f.stem != "held-out" for f in (steps / "bench").glob("*.json"))
        found.append(Stage(title="benchmarks", done=benched))
    if claims:
        arms = {f"claims-{name}": some + wild for name in ("raw", "nohuman-filtered", "nohuman-flipped", "truth")}
        arms |= {"nohuman-rm": known}
        found.append(trained("the papers' comparison models", (steps / "claims-filters.json").exists(), arms))
    return found


def _presented(config: Mapping[str, Any], pairs: float) -> float:
    most = float(config.get("presentations") or math.inf)
    return min(float(config["train"]["epochs"]) * pairs, most)


def of_tuning(place: Path, config: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The stages of an `assay policy run`."""
    steps, models, drawn = place / "steps", place / "models", DRAWN

    def stage(title: str, step: str, effort: float, model: str = "", *more: float) -> Stage:
        told = noted(steps / f"{step}.json")
        done, extra = bool(told), sum(more)
        part = 0.0 if done or not model else _share(models / model)
        return Stage(title=title, done=done, effort=effort + extra, left=0.0 if done else effort * (1 - part) + extra,
                     seconds=float(told.get("wall_s", 0.0)))  # fmt: skip

    def fit(name: str, n: float) -> float:
        return TRAIN * float(config[name]["epochs"]) * n

    each, asked = int(config["pairs"]["samples"]), drawn * int(config["test_prompts"])
    found = [stage("the base model", "base", 0.0)]
    found.append(
        stage("alignment: imitating worked answers", "align", fit("align", config["align_prompts"]), "aligned")
    )
    if gold := int(config["gold_prompts"]):
        teach = TRAIN * 4 * gold * float(config["reward_model"]["epochs"])
        found.append(stage("the reward model, on answers of the aligned policy", "reward-model", teach, "reward",
                           drawn * gold * each))  # fmt: skip
    found.append(stage("examining the aligned policy", "evaluate/aligned", asked))
    for n in range(1, int(config["rounds"]) + 1):
        pairs = int(config["pair_prompts"])
        found.append(stage(f"MPO, round {n} of {config['rounds']}: preferences between own answers", f"mpo-{n}",
                           fit("mpo", 2 * 2 * pairs), f"mpo-{n}", drawn * each * pairs))  # fmt: skip
        found.append(stage(f"examining the policy of MPO's round {n}", f"evaluate/mpo-{n}", asked))
    grpo = config["grpo"]
    answers = int(grpo["steps"]) * int(grpo["prompts"]) * int(grpo["group"])
    found.append(stage("GRPO: reinforcement learning", "grpo", (drawn + TRAIN) * answers, "grpo"))
    found.append(stage("examining the tuned policy", "evaluate/grpo", asked))
    return _in_order(_skipped(found, steps))


def _skipped(stages: Sequence[Stage], steps: Path) -> list[Stage]:
    """A stage that had nothing to learn from has no policy to examine either."""
    told = {s.title: s for s in stages}
    for step in steps.glob("*.json"):
        if "skipped" in noted(step):
            name = step.stem.replace("mpo-", "the policy of MPO's round ").replace("grpo", "the tuned policy")
            if (s := told.get(f"examining {name}")) is not None:
                told[s.title] = Stage(title=s.title, done=True)
    return list(told.values())


def of_training(place: Path, identity: Mapping[str, Any]) -> tuple[str, tuple[Stage, ...]]:
    """The kind of a training by itself, and its one stage."""
    config = identity.get("config", {})
    if "group" in config:
        kind, title = "policy grpo", "GRPO"
    elif "examples" in identity:
        aligns = config.get("weights", [1.0])[:2] == [0.0, 0.0]
        kind, title = ("policy align", "alignment") if aligns else ("policy mpo", "MPO")
    else:
        kind, title = "reward train", "training"
    done, steps = (place / "training.json").exists(), _steps(identity)
    share = 0.0 if not steps else min(1.0, _last(place).get("step", 0) / steps)
    seconds = float(noted(place / "training.json").get("wall_s", 0.0))
    left = 0.0 if done else float(steps) * (1 - share)
    return kind, (Stage(title=title, done=done, effort=float(steps), left=left, seconds=seconds),)


def _steps(identity: Mapping[str, Any]) -> int:
    """The optimiser steps of a training; 0 where its identity does not tell."""
    config = identity.get("config", {})
    if "group" in config:
        return int(config["steps"])
    batch, n = int(config.get("batch") or config.get("batch_pairs") or 0), 0
    for name in ("examples", "pairs", "labels"):
        told = identity.get(name)
        n = n or int(told.get("n", 0) if isinstance(told, Mapping) else told if isinstance(told, int) else 0)
    return math.ceil(max(1, round(float(config.get("epochs", 1.0)) * n)) / min(batch, n)) if batch and n else 0


def training(title: str, done: bool, models: Mapping[Path, float]) -> Stage:
    """A stage of trainings, each with its effort."""
    left, seconds = 0.0, 0.0
    for folder, effort in models.items():
        told = noted(folder / "training.json")
        seconds += float(told.get("wall_s", 0.0))
        left += 0.0 if told or done else effort * (1 - _share(folder))
    worked = sum(e for f, e in models.items() if (f / "training.json").exists()) if not done else sum(models.values())
    return Stage(title=title, done=done, effort=worked + left, left=left, seconds=seconds if worked else 0.0)


def _share(folder: Path) -> float:
    """What share of an unfinished training's steps is done."""
    partial = folder.with_name(folder.name + ".partial")
    if not (partial / "metrics.jsonl").exists():
        return 1.0 if (folder / "training.json").exists() else 0.0
    steps = _steps(noted(partial / "identity.json").get("identity") or {})
    return min(1.0, _last(partial).get("step", 0) / steps) if steps else 0.0


def _last(folder: Path) -> dict[str, Any]:
    """The last whole line of its metrics; only the end of the file is read."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - (1 << 15)))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def _in_order(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """A stage is done as well where a later one is: an older version may not have left its mark."""
    last = max((n for n, s in enumerate(stages) if s.done), default=-1)
    return tuple(s if s.done or n > last else replace(s, done=True, left=0.0) for n, s in enumerate(stages))


def _files(folder: Path, pattern: str) -> int:
    return sum(1 for _ in folder.glob(pattern)) if folder.is_dir() else 0


def noted(file: Path) -> dict[str, Any]:
    """What a small JSON file says; {} where there is none that can be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# -- names ----------------------------------------------------------------------------------------------------------

_MODELS = {
    "best-rm": "the model on stage 1's pairs", "stage1": "the model on stage 1's pairs",
    "gold-rm": "the model on people's gold alone", "raw-more": "the model on all raw labels",
    "filtered": "the model on stage 1 and what stage 2 keeps",
    "flipped": "the model on stage 1 and what stage 2 keeps and turns round",
    "raw": "comparison: raw labels of as many pairs", "unguided": "comparison: labels without people",
    "nohuman-rm": "comparison: labels without people", "nohuman-filtered": "comparison: no people, kept pairs",
    "nohuman-flipped": "comparison: no people, kept and turned pairs", "truth": "comparison: true labels",
    "aligned": "the aligned policy", "reward": "the reward model", "grpo": "GRPO", "base": "the base model",
    "final": "the released model",
}  # fmt: skip
_STEPS = {
    "prepare/benchmarks": "the benchmarks' prompts", "prepare/contamination": "text shared with benchmarks: looked for",
    "prepare/near-duplicates": "near-duplicates: looked for", "prepare/index": "the pool: indexed and split",
    "prepare/attributes": "attributes: given", "prepare/vectors": "vectors: made", "prepare/pool": "counting the pool",
    "prepare/split": "counting the split", "labels": "counting the labels", "final": "choosing the model to release",
    "stage2/judges": "what judges turned over in stage 2", "bench/held-out": "held-out pairs by kind",
    "base": "the base model",
    "align": "alignment: imitating worked answers", "reward-model": "the reward model", "grpo": "GRPO",
    "reward-term": "calibrating the reward model", "claims-judges": "judges with and without gold, against the truth",
    "claims-unseen": "judges on unseen kinds", "claims-filters": "filters, against the truth",
    "control": "judges that are shown a coin's labels", "start": "answers of the untuned policy",
}  # fmt: skip


def model_title(name: str) -> str:
    """What a model of a run is called in words: by its folder, or by the set that it is trained on."""
    kind, _, number = name.partition("-it") if name.startswith("stage1-it") else name.partition("-")
    if name.startswith("stage1-it") and number.isdecimal():
        return f"the model of round {int(number) + 1}"
    if kind == "mpo" and number.isdecimal():
        return f"MPO, round {number}"
    if kind == "grpo" and number:
        return f"GRPO, {arm_title(number)}"
    return _MODELS.get(name.removeprefix("claims-"), name)


def arm_title(name: str) -> str:
    """What an arm of `--tune` is called in words: its reward model, and the number of the seed or training."""
    arm, _, number = name.rpartition("-")
    if not arm:
        return "the untuned policy"
    return f"the reward model of {'all raw' if arm == 'raw' else 'curated'} labels, {int(number) + 1}"


def step_title(step: str) -> str:
    """What a step of a run is called in words."""
    where, _, name = step.rpartition("/")
    if step.startswith("compared-"):
        return "whether curation pays in the policy"
    if step in _STEPS or not where:
        return _STEPS.get(step) or model_title(step)
    if where == "stage1":
        if name.startswith("judges-"):
            turn = name.removeprefix("judges-it")
            return f"judges against people, {f'round {int(turn) + 1}' if turn.isdecimal() else 'the first answers'}"
        return f"what {model_title(f'stage1-{name}')} gets wrong, and what is asked next"
    if where in ("gate", "best-of-n", "grpo", "policy"):
        what = {
            "gate": "the gate of ",
            "best-of-n": "the best of n, by ",
            "grpo": "GRPO, ",
            "policy": "measuring GRPO, ",
        }
        return f"{what[where]}{arm_title(name)}"
    before = {"sets": "measuring ", "evaluate": "examining ", "unseen": "on unseen kinds: ", "bench": "benchmark "}
    return f"{before[where]}{model_title(name)}" if where in before else step
