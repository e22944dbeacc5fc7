"""Preference pairs of a policy's answers to a user's own questions, and MPO on these or on any preferences.

pairs.parquet   `Preference` rows, for `assay policy mpo` and `assay reward train`, with the sampled token ids beside
images/         the pictures that their prompts name
pairs.json      settings, and what became of questions and answers, by reason
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from assay.errors import AssayError, CannotRead
from assay.identity import of_file
from assay.images import ImageStore
from assay.policy.config import HERE, FitConfig, PairConfig, PolicyConfig, SamplerConfig, VllmConfig
from assay.policy.rewards import HybridReward, RewardConfig
from assay.recipes.own import answer_tokens, fitting, opened, questions, room
from assay.recipes.reward_model import RewardModelConfig, fingerprint, load_reward_model
from assay.records import AnswerPair, Preference, Prompt, Response, digest
from assay.run import Run, changes, jsonable
from assay.tables import Table, check_vacant, remove, sibling, write_text

PART = 32
"""Questions between two writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledPreference(Preference):
    """A preference between a policy's own answers: the token ids that it sampled, which are not tokenised again where the
    same tokenizer reads them; `start` is the text that they were made to begin with, `told_by` rule, model or dropout."""

    start: str = ""
    chosen_ids: tuple[int, ...] = ()
    rejected_ids: tuple[int, ...] = ()
    told_by: str = ""
    round: int = 0


def run_pairs(
    model: str, path: Path, out: Path, config: PairConfig, settings: PolicyConfig, sampling: SamplerConfig,
    judge: RewardModelConfig, answer_start: str, round: int, seed: int, answer_field: str = "",
    vllm: VllmConfig = HERE,
) -> str:  # fmt: skip
    """Sample, score, pair; returns what it came to, in words. The same command goes on after a kill."""
    if config.threshold is not None and not judge.reward_model:
        raise AssayError("--threshold is a margin of a reward model's scores: give --reward-model")
    sampling.training_temperature()
    who = replace(judge, reward_model=fingerprint(judge.reward_model)) if judge.reward_model else judge
    named = {"config": config, "policy": settings, "sampler": sampling, "judge": who, "answer_start": answer_start}
    settled = jsonable({"model": fingerprint(model), "questions": of_file(path), **named, "round": round, "seed": seed})
    settled |= {"answer_field": answer_field} if answer_field else {}
    settled |= vllm.drawn_by
    partial = sibling(out, ".partial")
    if (out / "pairs.json").exists():
        kept = json.loads((out / "pairs.json").read_text())
        if kept["settings"] != settled:
            changed = ", ".join(changes(kept["settings"], settled))
            raise AssayError(
                f"{out}: holds pairs of other questions, models or settings ({changed}); use another --out"
            )
        if (partial / "config.json").exists():  # a kill came between the last two moves
            remove(partial)
        return _summary(kept, out)
    check_vacant(out, "pairs")
    done = False
    fresh = not partial.exists()
    run = Run(partial, settled)
    try:
        made = _Making(run, path, config, answer_start, round, seed, answer_field)
        kept = {"settings": settled, **made.work(model, settings, sampling, judge, vllm)}
        write_text(made.whole / "pairs.json", json.dumps(kept, indent=2))
        if out.exists():
            out.rmdir()
        made.whole.rename(out)
        done = True
    finally:
        begun = (partial / "steps" / "pairs").exists()
        run.close()
        if done or (fresh and not begun):
            remove(partial)
    return _summary(kept, out)


def _summary(kept: dict[str, Any], out: Path) -> str:
    told = ", ".join(f"{n:,} {reason}" for reason, n in kept["counts"].items() if reason != "pairs")
    by = ", ".join(f"{n:,} by {source}" for source, n in kept["told_by"].items())
    return f"{kept['counts']['pairs']:,} pairs ({by}); questions: {told} -> {out}"


class _Making:
    """What one call of `run_pairs` shares between its parts of the questions."""

    def __init__(
        self, run: Run, path: Path, config: PairConfig, answer_start: str, round: int, seed: int, answer_field: str
    ) -> None:
        self.run, self.path, self.config, self.answer_field = run, path, config, answer_field
        self.answer_start, self.round, self.seed = answer_start, round, seed
        self.whole = run.folder / "whole"
        self.store = ImageStore(self.whole / "images")

    def work(
        self,
        model: str,
        settings: PolicyConfig,
        sampling: SamplerConfig,
        judge: RewardModelConfig,
        vllm: VllmConfig = HERE,
    ) -> dict[str, Any]:
        from assay.render import begun

        left = Counter[str]()
        prompts = questions(self.path, self.store, left, self.answer_field)
        asked = digest([p.id for p in prompts])
        if self.run.once("questions", lambda: {"digest": asked})["digest"] != asked:
            raise AssayError(
                f"{self.path}: its pictures are others than when these pairs were begun; use another --out"
            )
        policy, sampler = opened(model, settings, sampling, self.store, self.seed, self.answer_start, vllm)
        sampler.load(self.round)
        prompts = fitting(prompts, policy, sampler, sampling.max_tokens, left)
        scorer = load_reward_model(judge, self.store, any(p.images for p in prompts)) if judge.reward_model else None
        prompts = prompts if scorer is None else scorer.readable(prompts, left)
        begins = begun(policy.processor, prompts[0].messages) if prompts else ""
        reward = HybridReward(
            RewardConfig(combine="sum", form=self.config.form), scorer, None, self.answer_start, begun=begins
        )
        counts = Counter[str]()
        for number, at in enumerate(range(0, len(prompts), PART)):
            counts.update(self.part(number, prompts[at : at + PART], sampler, reward))
        sampler.close()
        rows = Table(self.whole, SampledPreference).once("pairs", self.table.read)
        if not rows:
            raise AssayError(f"{self.path}: no pairs came of {len(prompts):,} questions: {dict(counts)}")
        by = Counter(r.told_by for r in rows)
        return {"counts": {**counts, **left, "pairs": len(rows)}, "told_by": dict(by)}

    @property
    def table(self) -> Table[SampledPreference]:
        return self.run.table("pairs", SampledPreference)

    def part(self, number: int, prompts: Sequence[Prompt], sampler: Any, reward: HybridReward) -> dict[str, int]:
        from assay.policy.pairs import all_pairs

        def work() -> dict[str, Any]:
            groups = sampler(prompts, self.config.samples, number)
            scores = [reward([(p, r) for r in g]) for p, g in zip(prompts, groups, strict=True)]
            made = all_pairs(prompts, groups, scores, sampler, self.config, self.round, self.seed + number)
            known = {p.id: p for p in prompts}
            rows = [self.preference(n, known[p.prompt_id], p) for n, p in enumerate(made.pairs)]
            self.table.once(f"{number:05d}", lambda: rows)
            return {"counts": made.counts}

        return dict(self.run.once(f"pairs/{number:05d}", work)["counts"])

    def preference(self, number: int, prompt: Prompt, pair: AnswerPair) -> SampledPreference:
        return SampledPreference(
            pair_id=f"{prompt.id}-{self.round}-{number}", prompt=prompt.messages, chosen=Response.of(pair.chosen_text),
            rejected=Response.of(pair.rejected_text), margin=pair.margin, start=self.answer_start,
            chosen_ids=pair.chosen, rejected_ids=pair.rejected, told_by=pair.source, round=self.round,
        )  # fmt: skip


def run_mpo(
    model: str, folder: Path, out: Path, config: FitConfig, settings: PolicyConfig, images: Path | None,
    trackers: Sequence[str],
) -> str:  # fmt: skip
    """MPO on Parquet preferences, with the pictures of `images` (default: FOLDER/images); returns how it went, in words."""
    from assay.policy.model import load_policy
    from assay.policy.mpo import Comparison, fit
    from assay.render import render_prompt

    store = ImageStore(images or folder / "images")
    pairs = _read(folder, config.seed)
    policy = load_policy(model, settings, store)
    made, left, most = list[Comparison](), Counter[str](), room(policy)
    for pair in pairs:
        try:
            answers = [
                _tokens(policy, response.text, pair.start, ids)
                for response, ids in ((pair.chosen, pair.chosen_ids), (pair.rejected, pair.rejected_ids))
            ]
            prompt = tuple(render_prompt(policy.processor, pair.prompt, store, pair.start))
        except CannotRead as error:
            left[str(error)] += 1
            continue
        if len(pair.chosen.messages) > 1 or len(pair.rejected.messages) > 1:
            left["answers of several turns"] += 1
        elif any(m.tool_calls or m.reasoning for r in (pair.chosen, pair.rejected) for m in r.messages):
            left["answers with tool calls or reasoning"] += 1
        elif not pair.chosen.text.removeprefix(pair.start).strip():
            left["the chosen answer is empty"] += 1
        elif answers[0] == answers[1]:
            left["the same answer twice"] += 1
        elif len(prompt) + max(map(len, answers)) > most:
            left[f"longer than {most:,} tokens"] += 1
        else:
            pictures = tuple(i for m in pair.prompt for i in m.images)
            made.append(Comparison(prompt=prompt, chosen=answers[0], rejected=answers[1], images=pictures))
    for reason, n in left.most_common():
        print(f"{folder}: {n:,} pairs left out: {reason}")
    done = fit(out, config, policy, made, print, trackers)
    return f"{done.examples:,} pairs, {done.steps:,} steps, loss {done.loss:.3f} -> {out}"


def _read(folder: Path, seed: int) -> list[SampledPreference]:
    """The preferences of a folder in random order, with sampled token ids where they are kept."""
    from assay.reward.data import ParquetPairs

    source = ParquetPairs(folder)
    own = {f.name for f in fields(SampledPreference)}
    if all(own <= set(pq.read_schema(file).names) for file in folder.glob("*.parquet")):
        return Table(folder, SampledPreference).read()
    taken = source.take(seed, 0, range(len(source)))
    return [SampledPreference(**{f.name: getattr(p, f.name) for f in fields(Preference)}) for _, p in taken]


def _tokens(policy: Any, text: str, start: str, ids: tuple[int, ...]) -> tuple[int, ...]:
    """An answer's tokens: those that were sampled, if they mean this text here; else the text's, and the end."""
    rest = text.removeprefix(start)
    if ids and policy.tokenizer.decode(ids, skip_special_tokens=True) == rest:
        return ids
    return answer_tokens(policy, rest)
