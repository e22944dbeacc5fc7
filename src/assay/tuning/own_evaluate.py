"""`assay policy evaluate`: a policy measured on a user's own questions, by everything that they allow."""

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from assay.errors import AssayError
from assay.images import ImageStore
from assay.policy.config import AS_THEY_ARE, HERE, AskConfig, Form, PolicyConfig, SamplerConfig, VllmConfig
from assay.policy.reading import RATES, Reading
from assay.run import environment, jsonable
from assay.statistics import interval
from assay.tables import check_new, sibling, write_text
from assay.tuning.exam import exam_of, examine
from assay.tuning.own import content, fitting, opened, questions, teller
from assay.tuning.parted import PartedSampler, kept
from assay.tuning.reward_model import fingerprint
from assay.tuning.shared import Shared

SHOWN = {
    "accuracy": ("right", "no question has an answer"),
    "format": ("well-formed", ""),
    "hallucination_rate": ("invents something (hallucination rate)", "no question has facts or absent"),
    "hallucination_short": ("... of the shortest third of answers", "fewer than three answers can be checked"),
    "hallucination_middle": ("... of the middle third", "fewer than three answers can be checked"),
    "hallucination_long": ("... of the longest third", "fewer than three answers can be checked"),
    "false_claims_rate": ("of its claims are false", "nothing that can be checked is claimed"),
    "named": ("of the facts named", "no question has facts"),
    "blind_agreement": ("same answer to a blank picture", "no clear answer to a picture"),
    "swap_agreement": ("same answer to another picture", "no question is asked of another picture with another answer"),
    "cannot_see": ('"can\'t see the picture"', "no question has a picture"),
}
"""What each rate is called, and why it may be missing."""


def run_evaluate(
    model: str, path: Path, out: Path | None, settings: PolicyConfig, sampling: SamplerConfig, answer_start: str,
    console: Console, answer_field: str = "", vllm: VllmConfig = HERE, form: Form = "think-answer",
    ask: AskConfig = AS_THEY_ARE,
) -> str:  # fmt: skip
    """Greedy answers to the questions, measured: a table, and a file that machines read. Returns a line with the counts.
    With a file the same command goes on after a kill; several processes share the questions."""
    from assay.step import Engine

    if sampling.temperature:
        raise AssayError("answers that are drawn agree less by chance: evaluate with --sampler.temperature 0")
    engine = Engine(settings.precision, 1.0)
    if out is not None:
        engine.lead_says(lambda: check_new(out))
    settled = {
        "sampler": sampling,
        "policy": settings,
        "answer_start": answer_start,
        "form": form,
        "ask": ask,
        **vllm.drawn_by,
    }
    about = engine.lead_says(lambda: jsonable(
        {"model": fingerprint(model), "questions": content(path), "answer_field": answer_field, **settled}
    ))  # fmt: skip
    with ExitStack() as stack:
        beside = engine.lead_says(lambda: stack.enter_context(TemporaryDirectory())) if out is None else ""
        folder = Path(beside) / "partial" if out is None else sibling(out, ".partial")
        run = stack.enter_context(kept(engine, folder, about, out))
        shared = stack.enter_context(Shared(engine, run.folder / "questions"))
        store, left = ImageStore(run.folder / "images"), Counter[str]()
        prompts = shared.questions(lambda: {"all": questions(path, store, left, answer_field, ask)})["all"]
        policy, sampler = opened(
            model, settings, sampling, store, 0, answer_start, vllm, shared.folder, teller(shared), trains=False
        )
        prompts = fitting(prompts, policy, sampler, sampling.max_tokens, left, shared)
        exam = shared.lead(lambda: exam_of(prompts))
        reading = examine(exam, PartedSampler(sampler, run, engine), store, form=form, lead=engine.lead_says)
        sampler.close()
        missing = {name: why for name, (_, why) in SHOWN.items() if getattr(reading, name) is None}
        if engine.lead:
            console.print(_table(reading))
            for name, why in missing.items():
                console.print(f"not measured: {SHOWN[name][0]}: {why}")
            if out is not None:
                told = {
                    "model": model,
                    "questions": str(path),
                    **settled,
                    "left_out": left,
                    "environment": environment(),
                }
                write_text(out, json.dumps(jsonable({**measures(reading), "not_measured": missing, **told}), indent=2))
    where = f" -> {out}" if out is not None else ""
    return f"{reading.n:,} questions, {reading.unclear:,} without a clear final answer{where}"


def measures(reading: Reading) -> dict[str, Any]:
    """A reading by name: rates with their 95% interval, standard error and n; chance, excess, entropy; counts."""
    found = {k: v for k, v in asdict(reading).items() if k not in (*RATES, "step")}
    found |= {"blind_excess": reading.blind_excess, "swap_excess": reading.swap_excess}
    for name in RATES:
        if (rate := getattr(reading, name)) is not None:
            low, high = interval(rate)
            found[name] = {**asdict(rate), "low": low, "high": high}
    return found


def _table(reading: Reading) -> Table:
    table = Table("measure", "%", "95% interval", "n", box=box.SIMPLE)
    chance = {"blind_agreement": reading.chance_agreement, "swap_agreement": reading.swap_chance}
    for name, (shown, _) in SHOWN.items():
        if (rate := getattr(reading, name)) is not None:
            low, high = interval(rate)
            by_chance = chance.get(name)
            more = f" (by chance {100 * by_chance:.1f})" if by_chance is not None else ""
            table.add_row(
                shown + more, f"{100 * rate.value:.1f}", f"{100 * low:.1f} to {100 * high:.1f}", f"{rate.n:,}"
            )
    if reading.onset_entropy is not None:
        table.add_row(
            "entropy at the onset of reasoning", f"{reading.onset_entropy:.3f} nats", "", f"{reading.onsets:,}"
        )
    return table
