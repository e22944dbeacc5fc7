"""`assay policy grpo`: GRPO on a user's own model and questions, on as many processes as there are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.errors import AssayError
from assay.images import ImageStore
from assay.locks import together
from assay.policy.config import AS_THEY_ARE, HERE, AskConfig, GrpoConfig, PolicyConfig, SamplerConfig, VllmConfig
from assay.policy.monitor import MonitorConfig
from assay.policy.rewards import HybridReward, RewardConfig
from assay.rollouts import Prompt
from assay.tables import sibling
from assay.trackers import check
from assay.tuning.benchmark_questions import asking, benchmark_of, questions_of
from assay.tuning.exam import Exam, asked, exam_of, examine, overlap
from assay.tuning.own import fitting, legible, opened, questions, teller
from assay.tuning.questions import asked_so
from assay.tuning.reward_model import (
    JUDGE,
    GateCheck,
    GoldConfig,
    claims_judge,
    fingerprint,
    load_reward_model,
    own_term,
    purse_of,
    refuse,
)
from assay.tuning.shared import Shared
from assay.tuning.watching import Looks, Watched

if TYPE_CHECKING:
    from assay.policy.grpo import Tuned


def run_grpo(
    model: str, path: Path, out: Path, config: GrpoConfig, settings: PolicyConfig, sampling: SamplerConfig,
    rewards: RewardConfig, gold: GoldConfig, monitor: MonitorConfig, watch: Path | str | None, answer_start: str,
    trackers: Sequence[str], vllm: VllmConfig = HERE, answer_field: str = "", ask: AskConfig = AS_THEY_ARE,
    watch_data: Path | None = None,
) -> str:  # fmt: skip
    """GRPO with rules, format, and what else is named: a reward model, questions to watch (a file of them, or NAME:N of a
    benchmark in `watch_data`). Returns how it went, in words.

    The order matters where there are several devices: the engine takes this process's, and policy, the decoder's copy and
    reward model are loaded onto it.
    """
    from assay.policy.grpo import grpo
    from assay.render import begun
    from assay.step import Engine

    sampling.training_temperature()
    check(trackers)
    engine = Engine(settings.precision, config.clip, settings.shard)
    store, purse = ImageStore(sibling(out, ".images")), purse_of(gold.ask)
    benchmark = benchmark_of(str(watch)) if watch else None
    if benchmark is not None:
        monitor = replace(monitor, prompts=benchmark[1] or monitor.prompts)

    def reading() -> dict[str, list[Prompt]]:
        prompts = questions(path, store, answer_field=answer_field, ask=ask)
        refuse(rewards, gold, prompts, monitor.judge)
        watched, alike = _to_watch(watch, benchmark, monitor, config.seed, store, answer_field, ask, watch_data)
        held, rest = _apart(path, prompts, gold, rewards, store, config.seed, answer_field, ask)
        for line in overlap({"trained on": rest, "watched": alike, "gold": held}):
            print(line)
        return {"train": rest, "watch": watched, "gold": held}

    with together(engine, out), Shared(engine, sibling(out, ".questions")) as shared:
        read, say = shared.questions(reading), teller(shared)
        policy, sampler = opened(
            model, settings, sampling, store, config.seed, answer_start, vllm, shared.folder, say, True
        )
        if getattr(sampler, "collective", False):
            sampler.load(0)  # servers may have another command's weights; and rank 0 alone calibrates
        prompts = fitting(read["train"], policy, sampler, sampling.max_tokens, shared=shared)
        made = _Making(model, out, config, sampling, rewards, gold, store, shared, policy, sampler, answer_start)
        prompts, reward, gate = made.reward(prompts, read["gold"], begun(policy.processor, prompts[0].messages), purse)
        some = fitting(read["watch"], policy, sampler, sampling.max_tokens, shared=shared) if read["watch"] else []
        exam = shared.lead(lambda: _exam(some, monitor, config.seed, say))
        judge = claims_judge(monitor.judge, gold.ask, store, purse) if monitor.judge else None

        def look(step: int, _: Any, heard: Any) -> Any:
            return examine(exam, sampler.greedy(), store, step, rewards.form, judge=judge, heard=heard)

        watched = Watched(prompts=exam.prompts, read=look, greedy=lambda _: sampler.greedy(), judge=judge, gate=gate)
        looks = Looks(out.name, watched, monitor, reward, print)
        done = grpo(
            out, config, policy, prompts, sampler, reward, print, trackers,
            watch=looks, watch_every=looks.every, watch_state=looks, engine=engine,
        )  # fmt: skip
        sampler.close()
    return _told(done, model, out, len(prompts))


def _exam(some: Sequence[Prompt], monitor: MonitorConfig, seed: int, say: Callable[[str], None]) -> Exam:
    """What the monitor asks, of the questions that can be asked."""
    if not some:
        return Exam(prompts=())
    exam = exam_of(_sample(some, monitor.prompts, seed), seed)
    say(f"watched every {monitor.every} steps: {len(exam.prompts):,} questions, {asked(exam)}")
    return exam


def _told(done: "Tuned", model: str, out: Path, questions: int) -> str:
    others = "".join(f"; {out / name} is that of step {step}" for name, step in done.kept.items())
    none = "" if "last-good" in done.kept else f"; no policy after {model} was read and found good"
    ended = f", stopped: {done.stopped}; {out} is the policy that was stopped{none}" if done.stopped else ""
    return f"{questions:,} questions, {done.steps:,} steps, {done.samples:,} answers -> {out}{ended}{others}"


@dataclass(frozen=True, slots=True)
class _Making:
    """What the reward of one call of `run_grpo` is made of."""

    model: str
    out: Path
    config: GrpoConfig
    sampling: SamplerConfig
    rewards: RewardConfig
    gold: GoldConfig
    store: ImageStore
    shared: Shared
    policy: Any
    sampler: Any
    answer_start: str

    def reward(
        self, prompts: list[Prompt], held: list[Prompt], begins: str, purse: Any
    ) -> tuple[list[Prompt], HybridReward, GateCheck | None]:
        """The reward, what measures its gate again, and the prompts that it can be given for."""
        gold, rewards, shared, most = self.gold, self.rewards, self.shared, self.sampling.max_tokens
        if not gold.reward_model:
            return prompts, HybridReward(rewards, None, None, self.answer_start, begun=begins, max_tokens=most), None
        pictures = any(p.images for p in prompts)
        scorer, term = load_reward_model(gold, self.store, pictures, teller(shared), purse), None
        model, named = shared.lead(lambda: (fingerprint(self.model), fingerprint(gold.reward_model)))
        judged = [gold.judge_by, gold.judge_sees, gold.judge_tokens] if gold.reward_model.startswith(JUDGE) else []
        who = " ".join(map(str, [named, gold.reward_tokens, *judged]))
        prompts, held = (legible(scorer, some, shared) for some in (prompts, held))
        if held:
            held = fitting(held, self.policy, self.sampler, most, shared=shared)
            drawn = [self.policy.config.precision, self.policy.config.quantize, getattr(self.sampler, "of", "")]
            identity = [model, who, self.sampling, self.answer_start, self.config.seed, drawn]
            kept, group = sibling(self.out, ".calibration.json"), self.config.group
            term = shared.lead(lambda: own_term(kept, scorer, held, self.sampler, group, rewards, identity))
            who += f" {gold.gate_every} {gold.gate_questions}"
        reward = HybridReward(rewards, scorer, term, self.answer_start, who, begins, most)
        if term is None or not gold.gate_every:
            return prompts, reward, None
        return (
            prompts,
            reward,
            GateCheck(reward, held, self.sampler, gold.gate_every, gold.gate_questions, self.config.seed),
        )


def _sample(prompts: Sequence[Prompt], n: int, seed: int) -> list[Prompt]:
    """n random prompts, in their order."""
    order = np.random.default_rng(seed).permutation(len(prompts))[:n]
    return [prompts[i] for i in sorted(order.tolist())]


def _to_watch(
    watch: Path | str | None, benchmark: tuple[str, int] | None, monitor: MonitorConfig, seed: int, store: ImageStore,
    answer_field: str, ask: AskConfig, data: Path | None,
) -> tuple[list[Prompt], list[Prompt]]:  # fmt: skip
    """The questions of readings, and how they would be asked in training: of a benchmark, or as a file has them."""
    if benchmark is None:
        found = _watched(Path(watch) if watch else None, monitor, store, answer_field, ask)
        return found, found
    plain, line = questions_of(*benchmark, seed, data, store)
    print(f"watches {line}")
    if monitor.judge and not any(p.images for p in plain):
        raise AssayError(f"--watch {watch}: no question has a picture, so --monitor.judge has nothing to look at")
    alike = asked_so(plain, ask)
    return asking(plain) if not ask.instruction else alike, alike


def _watched(
    path: Path | None, monitor: MonitorConfig, store: ImageStore, answer_field: str, ask: AskConfig
) -> list[Prompt]:
    """The questions of readings, none where no file is named."""
    if path is not None:
        found = questions(path, store, answer_field=answer_field, ask=ask)
        if monitor.judge and not any(p.images for p in found):
            raise AssayError(f"{path}: no question has a picture, so --monitor.judge has nothing to look at")
        return found
    changed = [f.name for f in fields(monitor) if getattr(monitor, f.name) != getattr(MonitorConfig(), f.name)]
    if changed:
        raise AssayError(
            f"--monitor.{changed[0].replace('_', '-')} needs questions to watch: give --watch FILE, or a benchmark"
        )
    return []


def _apart(
    path: Path,
    prompts: Sequence[Prompt],
    gold: GoldConfig,
    rewards: RewardConfig,
    store: ImageStore,
    seed: int,
    answer_field: str,
    ask: AskConfig,
) -> tuple[list[Prompt], list[Prompt]]:
    """Gold questions, if any are needed, and those to train on: not gold, and without a reward model only answered ones."""
    known, held = [p for p in prompts if p.answer], list[Prompt]()
    unanswered = len(prompts) - len(known)
    if gold.reward_model and rewards.combine == "calibrated":
        if gold.gold is not None:
            held = [p for p in questions(gold.gold, store, answer_field=answer_field, ask=ask) if p.answer]
        elif known:
            order = np.random.default_rng(seed).permutation(len(known))
            held = [known[i] for i in order[: max(1, round(gold.gold_share * len(known)))]]
        if not held:
            raise AssayError(
                f"{gold.gold or path}: no question has an answer, so the reward model cannot be calibrated; "
                "give --gold with answers, or --rewards.combine sum"
            )
    if not known and not gold.reward_model:
        raise AssayError(f"{path}: no question has an answer, so the rules have nothing to reward; give --reward-model")
    if unanswered and not gold.reward_model:
        print(f"{unanswered:,} questions without an answer are left out: without a reward model nothing rewards them")
    spared = {p.id for p in held}
    rest = [p for p in (prompts if gold.reward_model else known) if p.id not in spared]
    if not rest:
        raise AssayError(f"{path}: all questions are gold, none is left to train on; name other ones with --gold")
    return held, rest
