"""The recipe without pictures end to end, on a model of a few thousand weights: sums in, a report out."""

from dataclasses import replace
from pathlib import Path

import pytest

import tiny_models
from assay.cli.policy import policy_report
from assay.cli.run_file import COMMANDS
from assay.policy.config import FitConfig, PairConfig, SamplerConfig
from assay.recipes import policies
from assay.records import user
from assay.rollouts import Prompt
from assay.tuning import outcome as tuned


def sums(n: int, seed: int, terms: int) -> list[Prompt]:
    """Sums by which a policy that only guesses is right in one of three: there are pairs to make, and signal to learn."""
    asked = [(a, b) for b in range(n // 3) for a in (1, 2, 3)]
    return [Prompt(messages=(user(f"sum: {a} + {b} - {b}"),), answer=str(a), kind="number") for a, b in asked]


def base(folder: Path) -> str:
    tiny_models.save_language(folder, "llama", width=64)
    return "tiny"


def test_a_text_run_ends_with_a_table_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(policies, "_packaged_text", base)
    monkeypatch.setattr(policies, "arithmetic", sums)
    whole = policies.tiny_text()
    config = replace(
        whole, align_prompts=24, pair_prompts=8, tune_prompts=16, test_prompts=12, sampler=SamplerConfig(max_tokens=56),
        align=FitConfig(batch=8, epochs=25, lr=5e-3, schedule="constant", weight_decay=0.0), mpo=FitConfig(batch=4),
        pairs=PairConfig(samples=6), grpo=replace(whole.grpo, steps=4, prompts=4, group=4, save_every=2),
        monitor=replace(whole.monitor, every=2, prompts=6),
    )  # fmt: skip
    out = tmp_path / "run"
    COMMANDS["policy run tiny-text"](config, out)
    page = (out / "report.html").read_text()
    assert page.count('<svg class="plot"') == 4, "curves of each stage; nothing to plot of hallucination"
    assert "hallucination rate, %" not in page
    assert all(f"<td>{name}</td>" in page for name in ("aligned", "mpo-1", "grpo"))
    readings = tuned.policies(out)
    assert all(r.n == 12 and r.accuracy is not None and r.hallucination_rate is None for r in readings.values())
    said = capsys.readouterr().out
    assert f"report: {out / 'report.html'}" in said
    assert "right, %" in said
    assert "invents" not in said, "a column that no policy has is left out"
    (out / "report.html").unlink()
    policy_report(out)
    assert (out / "report.html").exists()
