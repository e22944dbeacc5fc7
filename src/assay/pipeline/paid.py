"""Whether the reward model of curated labels makes better policies than that of all raw ones: paired, by question."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assay.bench.best_of_n import Candidates, expected
from assay.figures import verdict
from assay.run import Run
from assay.statistics import paired_over_seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Valued:
    """How good an answer to a question is, from 0 to 1; of n above 1 that of the best of n, on average. `place`: its number
    among the answers."""

    question: str
    n: int
    place: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The reward of an answer; None: the reward model could not read it, or there is nothing to read."""

    prompt_id: str
    reward: float | None


def picked(question: str, rewards: NDArray[np.float64], values: Sequence[float], n: int) -> float:
    """What the best of n answers is worth, on average over all choices of n of them (`bench.best_of_n.expected`); (m,)
    each. One without a reward is picked only where all are."""
    known = np.isfinite(rewards)
    told = np.where(known, rewards, rewards[known].min(initial=0.0) - 1.0)
    return expected(Candidates(id=question, rewards=tuple(told.tolist()), correct=tuple(values)), n)


def compared(run: Run, seeds: Iterable[int], trainings: int, most: int, by: str) -> dict[str, Any]:
    """The curated arm less the raw one, for the best of `most` and for policies after GRPO; and each arm's policies less the
    untuned one. `by`: who measured."""
    table = run.table("values", Valued)

    def frame(name: str, n: int = 1) -> pl.DataFrame:
        return table.frame(name).filter(pl.col("n") == n)

    picks = [(frame(f"best-of-n-curated-{s}", most), frame(f"best-of-n-raw-{s}", most)) for s in seeds]
    after = {arm: [frame(f"{arm}-{i}") for i in range(trainings)] for arm in ("raw", "curated")}
    start = frame("start")
    skipped = {arm: sum("skipped" in run.result(f"grpo/{arm}-{i}") for i in range(trainings)) for arm in after}
    return {
        "measured_by": by, "most": most, "trainings": trainings, "skipped": skipped,
        "best_of_n": apart(picks, "all raw labels", f"picks of {most}"),
        "grpo": apart(list(zip(after["curated"], after["raw"], strict=True)), "all raw labels", "shares"),
        **{f"{arm}_than_start": apart([(f, start) for f in frames], "the untuned policy", "shares")
           for arm, frames in after.items()},
    }  # fmt: skip


def apart(seeds: Sequence[tuple[pl.DataFrame, pl.DataFrame]], than: str, what: str) -> dict[str, Any]:
    """`Valued` rows of one and the other by seed: the mean over questions of the difference of what their answers are worth
    on average, however many each has; in numbers and in words."""
    means = [[f.group_by("question").agg(pl.col("value").mean()) for f in both] for both in seeds]
    rows = [one.join(other, on="question", suffix="_other").sort("question") for one, other in means]
    asked = [r["question"].to_list() for r in rows]
    found = paired_over_seeds([r["value"].to_list() for r in rows], [r["value_other"].to_list() for r in rows], asked)
    questions = len({q for seed in asked for q in seed})
    return {"difference": asdict(found), "questions": questions, "verdict": verdict(found, questions, than, what)}
