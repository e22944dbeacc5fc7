"""The published numbers of the released benchmark data, through the same `report` that a local model uses.

The data are not in the repository: set ASSAY_SHARED_DATA, or put them at ../shared/data.
"""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from assay.bench.benchmark import conversations, run
from assay.bench.best_of_n import Candidates, best_of_n
from assay.bench.results import BenchmarkResult
from assay.bench.reward import BENCHMARKS, judgebench, prompts, rmb, rmbench

SHARED = Path(os.environ.get("ASSAY_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")
DATA = SHARED / "benchmarks"
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no benchmark data at {DATA}; set ASSAY_SHARED_DATA to the folder that holds benchmarks/"
)

JUDGEBENCH = {
    "Skywork_Skywork-Reward-Gemma-2-27B": (64.29, (59.74, 66.33, 83.93, 50.00)),
    "Skywork_Skywork-Reward-Llama-3.1-8B": (62.29, (59.09, 64.29, 76.79, 50.00)),
    "internlm_internlm2-20b-reward": (63.43, None),
    "internlm_internlm2-7b-reward": (59.43, None),
    "Ray2333_GRM-Gemma-2B-rewardmodel-ft": (59.43, None),
}


@pytest.mark.parametrize("model", JUDGEBENCH)
def test_judgebench_of_five_real_reward_models(model: str) -> None:
    items = judgebench.load(DATA / "judgebench")
    assert len(items) == 350
    shipped = {}
    for line in (DATA / "judgebench" / "reference_rm_outputs" / f"{model}.jsonl").read_text().splitlines():
        row = json.loads(line)
        shipped[row["pair_id"]] = np.ravel(row["judgments"][0]["judgment"]["scores"])
    scores = {c: float(s) for i in items for c, s in zip((i.a, i.b), shipped[i.id], strict=True)}
    result = judgebench.report(items, scores)
    headline, slices = JUDGEBENCH[model]
    assert result.headline is not None
    assert round(result.headline.value, 2) == headline
    found = {c.name: round(c.value, 2) for c in result.slices}
    assert result.headline.se == pytest.approx(100 * np.sqrt(headline / 100 * (1 - headline / 100) / 349), abs=0.01)
    if slices:
        assert tuple(found[n] for n in ("knowledge", "reasoning", "math", "code")) == slices
        assert found["mean of the four slices"] == pytest.approx(np.mean(slices), abs=0.01)
    assert {c.name: c.n for c in result.slices[:4]} == {"knowledge": 154, "reasoning": 98, "math": 56, "code": 42}


def test_judgebench_ties_are_read_as_its_code_does_and_named() -> None:
    items = judgebench.load(DATA / "judgebench")
    result = judgebench.report(items, dict.fromkeys(conversations(items), 0.0))
    assert result.headline is not None
    assert result.headline.value == pytest.approx(44.86, abs=0.005)
    assert any("350 ties" in n and "counted as wrong: 0.00" in n for n in result.notes)


def test_rm_bench_rows_and_a_length_scorer() -> None:
    items = rmbench.load(DATA / "rm-bench")
    assert Counter(i.domain for i in items) == {"chat": 129, "code": 228, "safety": 441}
    scores = {c: float(len(c[-1].content)) for c in conversations(items)}
    result = rmbench.report(items, scores)
    assert result.headline is None
    assert any("math absent, so no total" in n for n in result.notes)
    found = {c.name: c.value for c in result.slices}
    for domain in ("chat", "code", "safety"):
        grids = [
            [[len(a[-1].content) > len(b[-1].content) for b in i.rejected] for a in i.chosen]
            for i in items
            if i.domain == domain
        ]
        m = np.array(grids).mean(axis=0)
        assert found[f"{domain}, hard"] == pytest.approx(100 * np.mean([m[0, 1], m[0, 2], m[1, 2]]))
        assert found[f"{domain}, normal"] == pytest.approx(100 * np.mean([m[0, 0], m[1, 1], m[2, 2]]))
        assert found[f"{domain}, easy"] == pytest.approx(100 * np.mean([m[1, 0], m[2, 0], m[2, 1]]))
        levels = [found[f"{domain}, {level}"] for level in ("easy", "normal", "hard")]
        assert found[domain] == pytest.approx(np.mean(levels))


def test_rmb_counts_and_what_is_absent() -> None:
    items = rmb.load(DATA / "rmb")
    assert Counter(i.stratum.split(" ")[0] for i in items) == {"pairwise": 14_543, "best-of-N": 3_785}
    (absent,) = rmb.caveats(items)
    assert absent.startswith("3 category files absent")
    flat = conversations(items)
    assert len(flat) == len(set(flat)) < sum(len(i.conversations) for i in items)
    best = {i.best for i in items}
    result = rmb.report(items, {c: float(c in best) for c in flat})
    assert [c.name for c in result.slices] == list(rmb.SECTIONS)
    assert sum(c.n for c in result.slices) == 18_328
    assert any("17 items have a loser equal to the best answer" in n for n in result.notes)


def test_prompts_of_every_part() -> None:
    found = prompts(DATA)
    assert set(found) == {
        "judgebench", "rm-bench/chat", "rm-bench/code", "rm-bench/safety-refuse", "rm-bench/safety-response", "rmb",
    }  # fmt: skip
    assert len(found["judgebench"]) == 350
    assert len(found["rm-bench/chat"]) == 129


def test_a_sample_says_so() -> None:
    def length(flat: object) -> np.ndarray:
        return np.array([float(len(c[-1].content)) for c in flat])  # type: ignore[attr-defined]

    result = run(BENCHMARKS["judgebench"], DATA, length, limit=50)
    assert isinstance(result, BenchmarkResult)
    assert (result.n, result.total) == (50, 350)
    assert {c.name: c.n for c in result.slices[:4]} == {"knowledge": 22, "reasoning": 14, "math": 8, "code": 6}
    assert "sample of 50 of 350 items, stratified, seed 0" in result.notes


def test_best_of_eight_with_a_real_reward_model() -> None:
    rows = [json.loads(line) for line in (DATA / "qwen-math-bon" / "math_cot_100.jsonl").read_text().splitlines()]
    found = best_of_n([
        Candidates(id=str(r["idx"]), rewards=tuple(np.ravel(r["pred_score"])), correct=tuple(r["score"])) for r in rows
    ])  # fmt: skip
    assert (found.k, found.mean.value, found.rm_at_k.value, found.pass_at_k.value) == (8, pytest.approx(91.0), 94, 96)
    assert found.pairs is not None
    assert (found.mixed, found.pairs.n, round(found.pairs.value, 2)) == (10, 128, 89.06)
