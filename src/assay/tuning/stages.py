"""Part B's main path: assemble -> align -> reward model -> MPO -> GRPO with the sample buffer -> evaluation, report.

    models/base       vision encoder + new adapter + language model (or a text model, as it is)
    models/aligned    imitates worked answers: the adapter learns to show, a small language model the answer's form
    models/reward     Bradley-Terry on the aligned policy's right against wrong answers (with its eyes, where it has some)
    models/mpo-1      MPO on pairs of the policy's own answers; models/mpo-2 ... on those of the one before
    models/grpo       GRPO + Selective Sample Buffer, rule + format + calibrated reward model; hallucination is watched

Every stage is a step of the run folder: the same command goes on where it was killed. A stage that has nothing to learn from
is skipped, with its reason; the policy that it would have begun from stands for its own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.errors import AssayError
from assay.figures import told
from assay.images import ImageStore
from assay.policy.config import FitConfig, GrpoConfig, PolicyConfig
from assay.policy.gate import ModelTerm
from assay.policy.reading import Reading
from assay.policy.rewards import EMPTY, HybridReward
from assay.records import Preference, Response
from assay.rollouts import AnswerPair, Prompt, Rollout, Score
from assay.run import Run, nothing_left
from assay.statistics import Estimate, mean
from assay.telling import Telling
from assay.tuning.benchmark_questions import watching
from assay.tuning.config import Task, TuneConfig
from assay.tuning.exam import Exam, examine
from assay.tuning.reward_model import RolloutRewards
from assay.tuning.reward_model import calibrate as calibrated
from assay.tuning.watching import Looks, Watched
from assay.workers import Beside


def tune(out: Path, config: TuneConfig, task: Callable[[ImageStore], Task], trackers: Sequence[str] = ()) -> Path:
    """The whole path, or what is left of it. Returns the run folder. `trackers` (`assay.trackers`) get each training's
    metrics and the numbers of every step.

    The reward model is made beside MPO and the examinations of the policies so far (`_side_by_side`), where MPO does not ask
    it. GRPO has all threads.
    """
    store, given = ImageStore(out / "images"), list[Task]()

    def accepted() -> None:
        given.append(watching(task(store), config, store, print))

    with nothing_left(out), closing(Run(out, config, accepted=accepted)) as run, Telling(run, trackers) as telling:
        tuner = Tuner(run, config, given[0])
        tuner.trackers = telling.names
        tuner.base()
        tuner.align()
        with _side_by_side(config.gold_prompts > 0 and not tuner.scored_pairs) as other:
            if not tuner.has_reward:
                other.begin(_reward_model, tuner.job())
            tuner.evaluate("aligned")
            last = "aligned"
            for number in range(1, config.rounds + 1):
                made = tuner.mpo(f"mpo-{number}", last, number)
                if made != last:
                    tuner.evaluate(made)
                last = made
            other.wait()
        made = tuner.grpo("grpo", last)
        if made != last:
            tuner.evaluate(made)
    return out


@contextmanager
def _side_by_side(wanted: bool) -> Iterator[Beside]:
    """Another process, with half of this one's threads for as long as this lasts; none where it is not wanted, where this
    one has but one thread, or an accelerator. It hangs on the config, not on what is left to do: results round alike."""
    import torch

    threads = torch.get_num_threads()
    other = Beside(threads // 2 if wanted and not torch.accelerator.is_available() else 0)
    torch.set_num_threads(threads - other.threads)
    try:
        yield other
    finally:
        other.close()
        torch.set_num_threads(threads)


Job = tuple[tuple[Path, int, float, dict[str, Any]], TuneConfig, Task, tuple[str, ...]]
"""What a process needs to do a stage of a run that another one has open."""


def _reward_model(job: Job) -> None:
    place, config, task, trackers = job
    tuner = Tuner(Run.joined(*place), config, task)
    tuner.trackers = trackers
    tuner.reward_model()


def _made(folder: Path) -> str:
    raise AssertionError(f"{folder}: the base is made before any other process begins")


class Tuner:
    """The stages, each a method that does nothing twice; ablations call them in other orders and with other settings."""

    def __init__(self, run: Run, config: TuneConfig, task: Task) -> None:
        self.run, self.config, self.task = run, config, task
        self.store = ImageStore(run.folder / "images")
        self.models = run.folder / "models"
        self.visual = bool(task.test.prompts[0].images)
        self.trackers: tuple[str, ...] = ()

    def job(self) -> Job:
        return self.run.place, self.config, replace(self.task, base=_made), self.trackers

    def base(self) -> None:
        def work() -> dict[str, Any]:
            return {"model": self.task.base(self.models / "base")}

        self.run.once("base", work)

    def skip(self, name: str, reason: str, **told: Any) -> dict[str, Any]:
        """The result of a stage that has nothing to learn from."""
        self.run.say(f"{name}: skipped: {reason}")
        return {"skipped": reason, **told}

    def load(self, name: str, settings: PolicyConfig) -> Any:
        """The policy of a stage; where that was skipped, the one that it would have begun from."""
        from assay.policy.model import load_policy

        while not (self.models / name).exists() and "start" in (step := self.run.result(name)):
            name = step["start"]
        return load_policy(str(self.models / name), settings, self.store if self.visual else None)

    def sampler(self, policy: Any, **changes: Any) -> Any:
        from assay.policy.sampler import local_sampler

        settings = replace(self.config.sampler, **changes)
        return local_sampler(policy, settings, self.store, self.config.seed, self.config.answer_start)

    def align(self) -> None:
        """Imitate worked answers."""
        from assay.policy.mpo import Comparison, fit

        def work() -> dict[str, Any]:
            policy = self.load("base", self.config.align_policy)
            sampler, tokenizer = self.sampler(policy), policy.tokenizer
            examples = [
                Comparison(
                    prompt=tuple(sampler.prompt_ids(p)), images=p.images,
                    chosen=(*tokenizer(w, add_special_tokens=False)["input_ids"], policy.turn_end),
                )
                for p, w in zip(self.task.align, self.task.worked, strict=True)
            ]  # fmt: skip
            settings = replace(self.config.align, weights=(0.0, 0.0, 1.0), seed=self.config.seed)
            return _told(fit(self.models / "aligned", settings, policy, examples, self.run.say, self.trackers))

        self.run.once("align", work)

    def evaluate(self, name: str) -> Reading:
        """Greedy answers to the test questions: accuracy, false claims, and agreement without the picture."""

        def work() -> dict[str, Any]:
            policy = self.load(name, self.config.policy)
            reading = self.reading(0, policy, self.task.test)
            shown = f"right {told(reading.accuracy)}" if reading.accuracy else "nothing asked"
            rate = reading.hallucination_rate
            self.run.say(f"{name}: {shown}" + (f", hallucination rate {told(rate)}" if rate else ""))
            return {"reading": asdict(reading)}

        return reading_from(self.run.once(f"evaluate/{name}", work)["reading"])

    @property
    def exam(self) -> Exam:
        """What is watched while a policy is tuned: the first of a recipe's own questions, or all drawn of a benchmark."""
        return self.task.watched if self.config.watch else self.task.watched.first(self.config.monitor.prompts)

    def watched(self, step: int, policy: Any, heard: Any = None) -> Reading:
        return self.reading(step, policy, self.exam, heard)

    def greedy(self, policy: Any) -> Any:
        return self.sampler(policy, temperature=0.0)

    def reading(self, step: int, policy: Any, exam: Exam, heard: Any = None) -> Reading:
        return examine(exam, self.greedy(policy), self.store if self.visual else None, step, heard=heard)

    def answers(self, name: str, policy: Any, prompts: Sequence[Prompt], n: int) -> list[list[Rollout]]:
        """n sampled answers of each prompt, kept in a table."""

        def work() -> list[Rollout]:
            sampler = self.sampler(policy)
            sampler.load(0)
            return [r for group in sampler(prompts, n) for r in group]

        rows = self.run.table("rollouts", Rollout).once(name, work)
        return [rows[at : at + n] for at in range(0, len(rows), n)]

    def reward_model(self) -> None:
        """Train on right against wrong answers of five in eight gold questions, choose the checkpoint on one in eight, and
        calibrate on the answers to the rest, which have had no say so far."""
        if self.has_reward:
            return
        from assay.reward.train import train

        policy = self.load("aligned", self.config.policy)
        groups = self.answers("gold", policy, self.task.gold, self.config.pairs.samples)
        rules = self.rules()
        scores = [rules([(p, r) for r in g]) for p, g in zip(self.task.gold, groups, strict=True)]
        asked = [p.id for p, g in zip(self.task.gold, groups, strict=True) for _ in g]
        share = told(mean([float(s.rule > 0) for g in scores for s in g], asked))
        self.run.say(f"aligned, so far: {share} of sampled answers to gold questions are right")
        cut, chosen = 5 * len(groups) // 8, 3 * len(groups) // 4
        taught = [self.preferences(p, g, s) for p, g, s in zip(self.task.gold, groups, scores, strict=True)]

        def work() -> dict[str, Any]:
            images = self.store.folder if self.visual else None
            settings = replace(
                self.config.reward_model, backbone=str(self.models / "aligned"), images=images, seed=self.config.seed
            )
            pairs, held = [x for t in taught[:cut] for x in t], [x for t in taught[cut:chosen] for x in t]
            if not pairs:
                return self.skip("reward-model", "no gold question has both right and wrong answers")
            found = train(self.models / "reward", settings, pairs, held, self.run.say, self.trackers)
            return {"pairs": found.pairs, "held": len(held), "gold_accuracy": found.gold_accuracy}

        def calibrate() -> dict[str, Any]:
            held = [(p, r, s) for p, g, x in list(zip(self.task.gold, groups, scores, strict=True))[chosen:]
                    for r, s in zip(g, x, strict=True) if s.problem != EMPTY]  # fmt: skip
            term = calibrated(self.scorer(), held, self.config.rewards)
            self.run.say(str(term))
            return asdict(term)

        if "skipped" not in self.run.once("reward-model", work):
            self.run.once("reward-term", calibrate)

    @property
    def has_reward(self) -> bool:
        """Is `reward_model` done, or is there nothing for it to do?"""
        return not self.config.gold_prompts or self.run.has("reward-term") or (
            self.run.has("reward-model") and "skipped" in self.run.result("reward-model")
        )  # fmt: skip

    def preferences(self, prompt: Prompt, group: Sequence[Rollout], scores: Sequence[Score]) -> list[Preference]:
        told = [(r.text, s.rule > 0) for r, s in zip(group, scores, strict=True) if s.problem != EMPTY]
        texts = [list(dict.fromkeys(t for t, good in told if good == wanted)) for wanted in (True, False)]
        pairs = [(c, r) for c in texts[0] for r in texts[1] if c != r]
        return [
            Preference(
                pair_id=f"{prompt.id}-{n}", prompt=prompt.messages, chosen=Response.of(c), rejected=Response.of(r)
            )
            for n, (c, r) in enumerate(pairs[:6])
        ]  # fmt: skip

    def scorer(self) -> Any:
        """The reward model as a function of (prompt, answer) pairs."""
        from assay.reward.scorer import load_scorer

        settings = self.config.reward_model
        score = load_scorer(
            self.models / "reward", settings.max_tokens, settings.engine.tokens, settings.precision,
            self.store.folder if self.visual else None,
        )  # fmt: skip
        return RolloutRewards(score)

    def reward(self) -> Any:
        """The hybrid reward, with the reward model where there is one."""
        if not self.config.gold_prompts or "skipped" in self.run.result("reward-model"):
            return self.rules()
        told = {k: v for k, v in self.run.result("reward-term").items() if k != "wall_s"}
        return self.rules(self.scorer(), ModelTerm(**told))

    def rules(self, scorer: Any = None, term: ModelTerm | None = None) -> HybridReward:
        """The rewards that need no model, and those of a model where one is given."""
        config = self.config
        most = config.sampler.max_tokens
        return HybridReward(config.rewards, scorer, term, config.answer_start, max_tokens=most)

    @property
    def scored_pairs(self) -> bool:
        """Does the reward model decide which answers make a pair? Where all right answers are known, only by a threshold."""
        return self.config.pairs.threshold is not None or not all(p.answer for p in self.task.pairs)

    def margin(self, quantile: float, start: str = "aligned") -> float:
        """A quantile of the reward model's margins between right and wrong answers of `start`; 0.0 where there are none."""
        from assay.policy.pairs import make_pairs

        reward = self.reward()
        policy = self.load(start, self.config.policy)
        groups = self.answers(f"pairs-{start}", policy, self.task.pairs, self.config.pairs.samples)
        scores = [reward([(p, r) for r in g]) for p, g in zip(self.task.pairs, groups, strict=True)]
        every = replace(self.config.pairs, threshold=None)
        found = make_pairs(self.task.pairs, groups, scores, every, 1, self.config.seed).pairs
        return float(np.quantile([p.margin for p in found], quantile)) if found else 0.0

    def mixed(self, start: str) -> tuple[Prompt, ...]:
        """The questions for GRPO that `start` answers neither always nor never right: the buffer's offline pass."""
        policy = self.load(start, self.config.policy)
        groups = self.answers(f"offline-{start}", policy, self.task.tune, self.config.grpo.group)
        rules = self.rules()
        kept = []
        for prompt, group in zip(self.task.tune, groups, strict=True):
            hits = sum(s.rule > 0 for s in rules([(prompt, r) for r in group]))
            if 0 < hits < len(group):
                kept.append(prompt)
        self.run.say(f"{len(kept):,} of {len(groups):,} questions are answered neither always nor never right")
        return tuple(kept)

    def mpo(self, name: str, start: str, number: int, settings: FitConfig | None = None, watch_every: int = 0) -> str:
        """Pairs of the answers of `start`, and MPO (or what the weights make of it) from there. Returns the policy to go on
        from."""
        from assay.policy.mpo import fit
        from assay.policy.pairs import all_pairs, comparisons

        settings = settings or self.config.mpo

        def work() -> dict[str, Any]:
            policy = self.load(start, self.config.policy)
            groups = self.answers(f"pairs-{start}", policy, self.task.pairs, self.config.pairs.samples)
            reward = self.reward() if self.scored_pairs else self.rules()
            scores = [reward([(p, r) for r in g]) for p, g in zip(self.task.pairs, groups, strict=True)]
            sampler, settled = self.sampler(policy), self.config.pairs
            made = all_pairs(self.task.pairs, groups, scores, sampler, settled, number, self.config.seed)
            counts = made.counts
            rows = self.run.table("answer_pairs", AnswerPair).once(name, lambda: made.pairs)
            self.run.say(f"{name}: {len(rows):,} pairs; questions: {counts}")
            if not rows:
                return self.skip(name, f"no preference pairs among the answers of {start}", start=start, counts=counts)
            examples = comparisons(rows, self.task.pairs, sampler)

            def watch(step: int, policy: Any) -> dict[str, float]:
                return self.watched(step, policy).as_metrics()

            done = fit(
                self.models / name, replace(settings, seed=self.config.seed), policy, examples, self.run.say,
                self.trackers, watch=watch if watch_every else None, watch_every=watch_every,
            )  # fmt: skip
            return {**_told(done), "counts": counts}

        return start if "skipped" in self.run.once(name, work) else name

    def grpo(
        self, name: str, start: str, settings: GrpoConfig | None = None, policy: PolicyConfig | None = None
    ) -> str:
        """GRPO from `start`, watched. Returns the policy to go on from."""
        from assay.policy.grpo import grpo

        settings = replace(settings or self.config.grpo, seed=self.config.seed)

        def work() -> dict[str, Any]:
            if not self.task.tune:
                return self.skip(name, "no questions to learn from", start=start)
            tuned = self.load(start, policy or self.config.policy)
            watched, reward = Watched(prompts=self.exam.prompts, read=self.watched, greedy=self.greedy), self.reward()
            looks = Looks(name, watched, self.config.monitor, reward, self.run.say)
            done = grpo(
                self.models / name, settings, tuned, self.task.tune, self.sampler(tuned), reward, self.run.say,
                self.trackers, watch=looks, watch_every=looks.every, watch_state=looks,
            )  # fmt: skip
            return _told(done)

        return start if "skipped" in self.run.once(name, work) else name


def reading_from(row: dict[str, Any]) -> Reading:
    """A reading as it was kept in a step's file. Raises AssayError for one of an older Assay."""
    old = next((k for k, v in row.items() if isinstance(v, dict) and "clusters" not in v), None)
    if old:
        raise AssayError(f"the reading's {old} has no number of clusters: an older Assay made this run, run it anew")
    values: dict[str, Any] = {k: Estimate(**v) if isinstance(v, dict) else v for k, v in row.items()}
    return Reading(**values)


def _told(done: Any) -> dict[str, Any]:
    return {k: v for k, v in asdict(done).items() if k not in ("folder", "wall_s")}
