"""`assay policy filter`: the offline pass of the sample buffer on a user's own questions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.errors import AssayError
from assay.images import ImageStore
from assay.policy.config import AS_THEY_ARE, HERE, AskConfig, PolicyConfig, SamplerConfig, VllmConfig
from assay.policy.rewards import HybridReward, RewardConfig
from assay.rollouts import Prompt
from assay.run import jsonable
from assay.tables import check_new, sibling, write_text
from assay.tuning.own import content, fitting, opened, questions, teller
from assay.tuning.parted import PartedSampler, kept
from assay.tuning.questions import as_row, asked_so
from assay.tuning.reward_model import fingerprint
from assay.tuning.shared import Shared


def run_filter(
    model: str, path: Path, out: Path, samples: int, sampling: SamplerConfig, answer_start: str, answer_field: str = "",
    vllm: VllmConfig = HERE, settings: PolicyConfig | None = None, ask: AskConfig = AS_THEY_ARE,
) -> str:  # fmt: skip
    """Keep the questions whose sampled answers differ in being right; returns a line with the counts. The same command goes
    on after a kill; several processes share the questions."""
    from assay.step import Engine

    if samples < 2:
        raise AssayError(f"--samples {samples}: whether answers differ takes two at least")
    sampling.training_temperature()
    settings = settings or PolicyConfig()
    engine = Engine(settings.precision, 1.0)
    engine.lead_says(lambda: check_new(out))
    about = engine.lead_says(lambda: jsonable({
        "model": fingerprint(model), "questions": content(path), "samples": samples, "sampler": sampling, "policy": settings,
        "answer_start": answer_start, "answer_field": answer_field, "ask": ask, **vllm.drawn_by,
    }))  # fmt: skip
    store = ImageStore(sibling(out, ".images"))

    def reading() -> dict[str, list[Prompt]]:
        prompts = [p for p in questions(path, store, answer_field=answer_field) if p.answer]
        if not prompts:
            raise AssayError(f"{path}: no question has an answer, so none can be found too easy or too hard")
        return {"all": prompts}

    with (
        kept(engine, sibling(out, ".partial"), about, out) as run,
        Shared(engine, run.folder / "questions") as shared,
    ):
        plain, say = shared.questions(reading)["all"], teller(shared)
        put = asked_so(plain, ask)
        own = {a.id: p for a, p in zip(put, plain, strict=True)}
        policy, sampler = opened(
            model, settings, sampling, store, 0, answer_start, vllm, shared.folder, say, trains=False
        )
        prompts = fitting(put, policy, sampler, sampling.max_tokens, shared=shared)
        shares = right_shares(prompts, PartedSampler(sampler, run, engine), samples, answer_start)
        sampler.close()
        rows = [
            {**as_row(own[p.id], store.folder), "right": s}
            for p, s in zip(prompts, shares, strict=True) if 0 < s < 1
        ]  # fmt: skip
        if engine.lead:
            write_text(out, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    easy, hard = sum(s == 1 for s in shares), sum(s == 0 for s in shares)
    return f"{len(rows):,} of {len(prompts):,} questions kept; {easy:,} always right, {hard:,} never -> {out}"


def right_shares(prompts: Sequence[Prompt], sampler: Any, samples: int, answer_start: str) -> list[float]:
    """The share of right answers among `samples` of each prompt."""
    from assay.render import begun

    begins = begun(sampler.policy.processor, prompts[0].messages) if prompts else ""
    reward = HybridReward(RewardConfig(), None, None, answer_start, begun=begins)
    return [
        sum(s.rule > 0 for s in reward([(p, r) for r in group])) / samples
        for p, group in zip(prompts, sampler(prompts, samples), strict=True)
    ]  # fmt: skip
