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

import numpy as np
import pyarrow.parquet as pq

from assay.errors import AssayError
from assay.images import ImageStore
from assay.locks import together
from assay.policy.config import (
    AS_THEY_ARE,
    HERE,
    AskConfig,
    FitConfig,
    PairConfig,
    PolicyConfig,
    SamplerConfig,
    VllmConfig,
)
from assay.policy.prompt_ids import Ids
from assay.policy.rewards import HybridReward, RewardConfig
from assay.records import Preference, Response, digest
from assay.rollouts import AnswerPair, Prompt
from assay.run import Run, changes, jsonable
from assay.tables import Table, check_vacant, remove, sibling, write_text
from assay.tuning.own import answer_tokens, content, fitting, legible, opened, questions, room, teller
from assay.tuning.parted import ASKED, keep_answers
from assay.tuning.reward_model import RewardModelConfig, fingerprint, load_reward_model
from assay.tuning.shared import Shared

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
    judge: RewardModelConfig, answer_start: str, round: int, seed: int, answer_field: str = "", vllm: VllmConfig = HERE,
    ask: AskConfig = AS_THEY_ARE,
) -> str:  # fmt: skip
    """Sample, score, pair; returns what it came to, in words. The same command goes on after a kill; several processes share
    the questions, and how many they are changes nothing."""
    from assay.step import Engine

    if config.threshold is not None and not judge.reward_model:
        raise AssayError("--threshold is a margin of a reward model's scores: give --reward-model")
    sampling.training_temperature()
    engine = Engine(settings.precision, 1.0)

    def settled() -> dict[str, Any]:
        who = replace(judge, ask=RewardModelConfig().ask)  # how a judge is asked may change
        who = replace(who, reward_model=fingerprint(judge.reward_model)) if judge.reward_model else who
        named = {"config": config, "policy": settings, "sampler": sampling, "judge": who, "answer_start": answer_start}
        found: dict[str, Any] = jsonable(
            {"model": fingerprint(model), "questions": content(path), **named, "round": round, "seed": seed}
        )
        found |= {"answer_field": answer_field} if answer_field else {}
        found |= vllm.drawn_by
        return found | ({"ask": jsonable(ask)} if ask != AS_THEY_ARE else {})

    opened_here = list[Run]()

    def begun() -> tuple[str, Any, bool]:
        settings_now, partial = settled(), sibling(out, ".partial")
        if (kept := _finished(out, settings_now)) is not None:
            return _summary(kept, out), None, False
        fresh = not partial.exists()
        opened_here.append(Run(partial, settings_now))
        if (kept := _finished(out, settings_now)) is not None:  # by another command, which ended meanwhile
            opened_here[0].close()
            return _summary(kept, out), None, False
        return "", opened_here[0].place, fresh

    told, place, fresh = engine.lead_says(begun)
    if told:
        return told
    run = opened_here[0] if engine.lead else Run.joined(*place)
    done = False
    try:
        same = json.loads((run.folder / "config.json").read_text())  # before the lead may have taken the folder away
        made = _Making(run, engine, path, config, answer_start, round, seed, answer_field, ask)
        kept = {"settings": same, **made.work(model, settings, sampling, judge, vllm)}
        if engine.lead:
            write_text(made.whole / "pairs.json", json.dumps(kept, indent=2))
            if out.exists():
                out.rmdir()
            made.whole.rename(out)
        done = True
    finally:
        begun_already = any((run.folder / name).exists() for name in ("steps/pairs", ASKED))
        if engine.lead and (done or (fresh and not begun_already)):
            remove(run.folder)
        run.close()
    return _summary(kept, out)


def _finished(out: Path, settled: dict[str, Any]) -> dict[str, Any] | None:
    """What `out` holds of these very pairs; None where they have yet to be made. Raises AssayError where it holds others."""
    if not (out / "pairs.json").exists():
        check_vacant(out, "pairs")
        return None
    kept: dict[str, Any] = json.loads((out / "pairs.json").read_text())
    if kept["settings"] != settled:
        changed = ", ".join(changes(kept["settings"], settled))
        raise AssayError(f"{out}: holds pairs of other questions, models or settings ({changed}); use another --out")
    if (sibling(out, ".partial") / "config.json").exists():  # a kill came between the last two moves
        remove(sibling(out, ".partial"))
    return kept


def _summary(kept: dict[str, Any], out: Path) -> str:
    told = ", ".join(f"{n:,} {reason}" for reason, n in kept["counts"].items() if reason != "pairs")
    by = ", ".join(f"{n:,} by {source}" for source, n in kept["told_by"].items())
    return f"{kept['counts']['pairs']:,} pairs ({by}); questions: {told} -> {out}"


class _Making:
    """What one call of `run_pairs` shares between its parts of the questions."""

    def __init__(
        self, run: Run, engine: Any, path: Path, config: PairConfig, answer_start: str, round: int, seed: int,
        answer_field: str, ask: AskConfig,
    ) -> None:  # fmt: skip
        self.run, self.engine, self.path, self.config = run, engine, path, config
        self.answer_field, self.ask = answer_field, ask
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

        left, engine = Counter[str](), self.engine
        with Shared(engine, self.run.folder / "questions") as shared:
            prompts = shared.questions(lambda: {"all": self.questions(left)})["all"]
            say = teller(shared)
            policy, sampler = opened(
                model, settings, sampling, self.store, self.seed, self.answer_start, vllm, shared.folder, say, False
            )
            sampler.load(self.round)
            keep_answers(sampler, self.run)
            prompts = fitting(prompts, policy, sampler, sampling.max_tokens, left, shared)
            pictures = any(p.images for p in prompts)
            scorer = load_reward_model(judge, self.store, pictures, say) if judge.reward_model else None
            prompts = prompts if scorer is None else legible(scorer, prompts, shared, left)
            begins = begun(policy.processor, prompts[0].messages) if prompts else ""
            scheme = RewardConfig(combine="sum", form=self.config.form)
            reward = HybridReward(scheme, scorer, None, self.answer_start, begun=begins)
            parts = [prompts[at : at + PART] for at in range(0, len(prompts), PART)]
            for number in range(engine.rank, len(parts), engine.world):
                self.part(number, parts[number], sampler, reward)
            engine.wait()  # engines of one machine read one folder
            sampler.close()
            return shared.lead(lambda: self.gathered(len(parts), len(prompts), left))

    def questions(self, left: Counter[str]) -> list[Prompt]:
        prompts = questions(self.path, self.store, left, self.answer_field, self.ask)
        asked = digest([p.id for p in prompts])
        if self.run.once("questions", lambda: {"digest": asked})["digest"] != asked:
            raise AssayError(
                f"{self.path}: its pictures are others than when these pairs were begun; use another --out"
            )
        return prompts

    def gathered(self, parts: int, n: int, left: Counter[str]) -> dict[str, Any]:
        counts = Counter[str]()
        for number in range(parts):
            counts.update(self.run.result(f"pairs/{number:05d}")["counts"])
        rows = Table(self.whole, SampledPreference).once("pairs", self.table.read)
        if not rows:
            raise AssayError(f"{self.path}: no pairs came of {n:,} questions: {dict(counts)}")
        by = Counter(r.told_by for r in rows)
        return {"counts": {**counts, **left, "pairs": len(rows)}, "told_by": dict(by)}

    @property
    def table(self) -> Table[SampledPreference]:
        return self.run.table("pairs", SampledPreference)

    def part(self, number: int, prompts: Sequence[Prompt], sampler: Any, reward: HybridReward) -> None:
        from assay.policy.pairs import all_pairs

        def work() -> dict[str, Any]:
            groups = sampler(prompts, self.config.samples, number)
            scores = [reward([(p, r) for r in g]) for p, g in zip(prompts, groups, strict=True)]
            made = all_pairs(prompts, groups, scores, sampler, self.config, self.round, self.seed + number)
            known = {p.id: p for p in prompts}
            rows = [self.preference(n, known[p.prompt_id], p) for n, p in enumerate(made.pairs)]
            self.table.once(f"{number:05d}", lambda: rows)
            return {"counts": made.counts}

        self.run.once(f"pairs/{number:05d}", work)

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
    from assay.step import Engine

    engine = Engine(settings.precision, config.clip, settings.shard)
    store = ImageStore(images or folder / "images")
    pairs = _read(folder, config.seed)
    with together(engine, out), Shared(engine, sibling(out, ".questions")) as shared:
        policy = load_policy(model, settings, store)

        def tokens(i: int) -> list[Sequence[int]]:
            pair = pairs[i]
            answers = [
                _tokens(policy, response.text, pair.start, ids)
                for response, ids in ((pair.chosen, pair.chosen_ids), (pair.rejected, pair.rejected_ids))
            ]
            return [render_prompt(policy.processor, pair.prompt, store, pair.start), *answers]

        made, left, most = list[Comparison](), Counter[str](), room(policy)
        for pair, (reason, ids) in zip(pairs, shared.ids(len(pairs), tokens), strict=True):
            if why := reason or _unusable(pair, ids, most):
                left[why] += 1
            else:
                pictures = tuple(i for m in pair.prompt for i in m.images)
                made.append(Comparison(prompt=ids[0], chosen=ids[1], rejected=ids[2], images=pictures))
        for reason, n in left.most_common():
            teller(shared)(f"{folder}: {n:,} pairs left out: {reason}")
        done = fit(out, config, policy, made, print, trackers, engine=engine)
    return f"{done.examples:,} pairs, {done.steps:,} steps, loss {done.loss:.3f} -> {out}"


def _unusable(pair: SampledPreference, ids: Sequence[Ids], most: int) -> str:
    """Why nothing is learned from a pair with these ids of prompt, chosen and rejected ("": it is)."""
    if len(pair.chosen.messages) > 1 or len(pair.rejected.messages) > 1:
        return "answers of several turns"
    if any(m.tool_calls or m.reasoning for r in (pair.chosen, pair.rejected) for m in r.messages):
        return "answers with tool calls or reasoning"
    if not pair.chosen.text.removeprefix(pair.start).strip():
        return "the chosen answer is empty"
    if np.array_equal(ids[1], ids[2]):
        return "the same answer twice"
    return f"longer than {most:,} tokens" if len(ids[0]) + max(len(ids[1]), len(ids[2])) > most else ""


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
