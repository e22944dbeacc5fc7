"""From reward models to policies: does curation pay there? `assay run --tune` (paper A, Table 17, in small).

    RUN/policies/   a run folder of its own; what was made of reward models that are no more is in superseded/
      start           the untuned policy's answers to the questions that measure
      gate/ARM-S      what the scores of a seed's reward model are worth, fitted on its held gold
      best-of-n/ARM-S it picks among the untuned policy's answers
      grpo/ARM-I      GRPO with it as the reward; models/grpo-ARM-I
      policy/ARM-I    the tuned policy's answers, measured
      compared-K      the reward model of curated labels less that of all raw ones, of K trainings each

Both arms have the same policy, questions, settings and seeds; only the reward model differs. Who measures had no say in
either.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay import session
from assay.curate.material import Material
from assay.curate.views import read_set
from assay.errors import AssayError
from assay.images import ImageStore
from assay.pipeline.flow import FlowConfig
from assay.pipeline.paid import Scored, Valued, compared, picked
from assay.pipeline.policy_config import EMBEDDED, TuningConfig
from assay.pipeline.policy_questions import Questions, asked, check_judge, own
from assay.policy.gate import ModelTerm, fit_model_term
from assay.policy.rewards import HybridReward
from assay.records import Preference, assistant, digest, question_id
from assay.rollouts import Prompt, Rollout, RolloutScorer
from assay.run import Run, jsonable
from assay.stages import arm_title
from assay.statistics import mean
from assay.store import Place
from assay.tables import read_json
from assay.telling import Telling

ARMS: Mapping[str, str] = {"raw": "raw-more", "curated": "final"}
"""The reward models that are compared, by the folder of each."""
MOST_FAILED = 0.1
"""Of the answers, that a judge may fail on; where it is more, something is wrong with the judge."""


def check(config: FlowConfig, processes: int) -> None:
    """Raises AssayError for what `--tune` would find out only after hours of work. `processes`: of an allocation."""
    import importlib.util

    from assay import models

    if processes > 1:
        raise AssayError(
            "--tune works in one process: leave it out here, and give it to the finished run (assay resume OUT --tune ...)"
        )
    if config.tune != EMBEDDED and not Path(config.tune).exists():
        raise AssayError(
            f"--tune {config.tune}: no such file or folder of questions; '{EMBEDDED}' names those of the embedded pool"
        )
    place, packaged = models.locate(config.tuning.model)
    if not packaged:
        models.load_config(place)
    if config.tuning.policy.lora_rank and importlib.util.find_spec("peft") is None:
        from assay.errors import missing_extra

        raise missing_extra("peft", "lora")
    check_judge(config.tuning.judge)
    with TemporaryDirectory() as room, redirect_stdout(StringIO()):  # what is left out is told when they are asked
        if config.tune != EMBEDDED:
            own(config.tune, config.tuning, frozenset(), ImageStore(Path(room)))


def tune_policies(run: Run, config: FlowConfig, material: Material, telling: Telling) -> None:
    """All of it for a run whose seeds have their reward models, or what is left of it."""
    from assay.pipeline.training import let_go
    from assay.tuning.reward_model import fingerprint

    let_go()
    folder, settings = run.folder / "policies", config.tuning
    known = {q for _, frame in material.frames(["question_id"]) for q in frame["question_id"].to_list()}
    store = ImageStore(folder / "images")
    questions, truth, by = asked(config.tune, settings, known, store)
    models = {
        f"{arm}-{s}": run.folder / f"seed-{s}" / "models" / of for s in range(config.seeds) for arm, of in ARMS.items()
    }
    named = {name: fingerprint(str(place)) for name, place in models.items()}
    supersede(run, folder, named)
    about = jsonable(asdict(settings))
    del about["seeds"], about["ask"]  # which add to what is there, or change nothing of it
    identity = {
        "tuning": about, "model": fingerprint(settings.model), "reward_models": named, "measured_by": by,
        "questions": {n: digest([p.id for p in getattr(questions, n)]) for n in ("train", "test")},
    }  # fmt: skip
    with closing(run.part(folder, identity)) as part:
        part.telling = telling
        if questions.of_pool:
            part.say(f"{questions.of_pool:,} questions are of the run's pool: they are trained on, and measure nothing")
        Policies(part, config, material, questions, truth, by, models, telling).all()


def supersede(run: Run, folder: Path, named: Mapping[str, str]) -> None:
    """Set aside what was made of other reward models than the run has now."""
    file = folder / "config.json"
    if not file.exists() or read_json(file).get("reward_models") == named:
        return
    place = run.folder / "superseded"
    number = max((int(p.name.rpartition("-")[2]) + 1 for p in place.glob("policies-*")), default=0)
    place.mkdir(exist_ok=True)
    folder.rename(place / f"policies-{number}")
    run.say(
        f"the reward models have changed since policies were tuned by them: these are in {place / f'policies-{number}'}"
    )


@dataclass
class Policies:
    """The steps, each a method that does nothing twice."""

    run: Run
    config: FlowConfig
    material: Material
    questions: Questions
    truth: RolloutScorer
    by: str
    models: Mapping[str, Path]
    telling: Telling

    @property
    def settings(self) -> TuningConfig:
        return self.config.tuning

    def all(self) -> None:
        seeds = range(self.config.seeds)
        self.start()
        for seed in seeds:
            for arm in ARMS:
                self.gate(f"{arm}-{seed}")
                self.best_of_n(f"{arm}-{seed}")
        for i in range(self.settings.seeds):
            for arm in ARMS:
                self.grpo(arm, i)
                self.measure(arm, i)
        k = self.settings.seeds
        self.run.once(f"compared-{k}", lambda: compared(self.run, seeds, k, self.settings.candidates, self.by))

    # -- the untuned policy, and what reward models make of it ----------------------------------------------------------

    @cached_property
    def policy(self) -> Any:
        return self.loaded(self.settings.model)

    def loaded(self, model: str, trains: bool = False) -> Any:
        from assay.policy.model import load_policy

        return load_policy(model, self.settings.policy, ImageStore(self.run.folder / "images"), trains=trains)

    def sampler(self, policy: Any, seed: int) -> Any:
        from assay.policy.sampler import local_sampler

        return local_sampler(policy, self.settings.sampler, ImageStore(self.run.folder / "images"), seed)

    @cached_property
    def asked(self) -> Questions:
        """The questions that the policy and the reward models can read."""
        from assay.tuning.own import fitting

        sampler, found = self.sampler(self.policy, 0), {}
        for name in ("train", "test"):
            prompts = fitting(getattr(self.questions, name), self.policy, sampler, self.settings.sampler.max_tokens)
            for scorer in map(self.scorer, self.models):
                prompts = scorer.readable(prompts)
            found[name] = tuple(prompts)
        return replace(self.questions, train=found["train"], test=found["test"])

    def start(self) -> None:
        """Answers of the untuned policy, and how good they are."""

        def work() -> dict[str, Any]:
            groups = self.answers("start", lambda: self.policy, self.settings.candidates, 0)
            return {"train": len(self.asked.train), "measured_by": self.by, **self.valued("start", groups)}

        self.run.once("start", work)

    def answers(self, name: str, policy: Callable[[], Any], n: int, seed: int) -> list[list[Rollout]]:
        """n answers to each question that measures, sampled as in training; kept in the table `answers`, part by part."""
        table, test = self.run.table("answers", Rollout), self.asked.test
        drawing = lru_cache(1)(lambda: self.sampler(policy(), seed))  # loaded where anything is left to draw
        found = list[list[Rollout]]()
        for k, part in enumerate(test[at : at + PART] for at in range(0, len(test), PART)):

            def work(part: Sequence[Prompt] = part, draw: int = MEASURING + k) -> list[Rollout]:
                return [r for group in drawing()(part, n, draw) for r in group]

            there = table.done(f"{name}-{k:04d}")
            rows = table.once(f"{name}-{k:04d}", work)
            found += [rows[at : at + n] for at in range(0, len(rows), n)]
            if not there:
                session.at(f"answers, {arm_title(name)}", len(found), len(test), self.run.say)
        return found

    def valued(self, name: str, groups: Sequence[Sequence[Rollout]]) -> dict[str, Any]:
        """What the answers are worth, kept in the table `values` by `name`, and that in numbers."""

        def work() -> list[Valued]:
            pairs = [(p, r.text) for p, group in zip(self.asked.test, groups, strict=True) for r in group]
            values = np.asarray(self.truth(pairs), dtype=np.float64)
            failed = int((~np.isfinite(values)).sum())
            if failed > MOST_FAILED * len(values):
                why = getattr(self.truth, "problems", {})
                raise AssayError(
                    f"{self.by} failed on {failed:,} of {len(values):,} answers {dict(why)}; resume asks again"
                )
            return [
                Valued(question=p.id, n=1, place=k % len(groups[0]), value=float(v))
                for k, ((p, _), v) in enumerate(zip(pairs, values, strict=True)) if np.isfinite(v)
            ]  # fmt: skip

        rows, flat = self.run.table("values", Valued).once(name, work), [r for group in groups for r in group]
        return {
            "value": asdict(mean([r.value for r in rows], [r.question for r in rows])), "unmeasured": len(flat) - len(rows),
            "answers": len(flat), "tokens": float(np.mean([len(r.tokens) for r in flat])),
            "cut_off": float(np.mean([not r.ended for r in flat])),
        }  # fmt: skip

    def scorer(self, name: str) -> Any:
        """The reward model of an arm's seed, of (prompt, answer) pairs."""
        from assay.reward.scorer import Model
        from assay.tuning.reward_model import RolloutRewards

        train = self.config.train
        model = Model(str(self.models[name]), train.max_tokens, train.engine.tokens, train.precision)
        return RolloutRewards(model.load(), sees=False)

    def rewards(self, name: str, of: str, groups: Sequence[Sequence[Rollout]]) -> NDArray[np.float64]:
        """The rewards that `name` gives to the answers `of` a policy, (questions, answers); kept in the table `rewards`."""

        def work() -> list[Scored]:
            pairs = [(p, r.text) for p, group in zip(self.asked.test, groups, strict=True) for r in group]
            said = [k for k, (_, text) in enumerate(pairs) if text.strip()]
            found = np.full(len(pairs), np.nan)
            found[said] = self.scorer(name)([pairs[k] for k in said])
            return [Scored(prompt_id=p.id, reward=float(x) if np.isfinite(x) else None)
                    for (p, _), x in zip(pairs, found, strict=True)]  # fmt: skip

        rows = self.run.table("rewards", Scored).once(f"{name}-of-{of}", work)
        return np.array([np.nan if r.reward is None else r.reward for r in rows]).reshape(len(groups), -1)

    def gate(self, name: str) -> ModelTerm:
        """What the scores of a reward model are worth: fitted on both responses of each pair of the seed's held gold, which
        chose the checkpoints of both and trained neither. How it does on answers of the untuned policy is told beside it."""

        def work() -> dict[str, Any]:
            seed = int(name.rpartition("-")[2])
            gold = read_set(
                self.material, Place.of(self.run.folder.parent / f"seed-{seed}" / "tables"), "held"
            ).preferences()
            term = fitted(self.scorer(name).score, gold, self.config)
            groups = self.answers("start", lambda: self.policy, self.settings.candidates, 0)
            rewards, rows = self.rewards(name, "start", groups), self.run.table("values", Valued).read("start")
            index = {p.id: k for k, p in enumerate(self.asked.test)}
            given = [float(rewards[index[r.question], r.place]) for r in rows]
            through = [math.isfinite(x) and term(x) > 0 for x in given]
            held = [r for r, is_open in zip(rows, through, strict=True) if is_open]
            precision = mean([r.value for r in held], [r.question for r in held]) if held else None
            self.run.say(f"{name}: {term}")
            return {
                "term": asdict(term), "told": str(term), "precision": None if precision is None else asdict(precision),
                "open": asdict(mean([float(x) for x in through], [r.question for r in rows])),
            }  # fmt: skip

        return ModelTerm(**self.run.once(f"gate/{name}", work)["term"])

    def best_of_n(self, name: str) -> None:
        """What its pick of the untuned policy's answers is worth, for n of 2, 4, ... candidates."""
        most, table = self.settings.candidates, self.run.table("values", Valued)
        sizes = [n for n in (1 << k for k in range(1, 16)) if n < most] + [most]

        def work() -> dict[str, Any]:
            groups = self.answers("start", lambda: self.policy, most, 0)
            rewards, known = self.rewards(name, "start", groups), dict[str, dict[int, float]]()
            for r in table.read("start"):
                known.setdefault(r.question, {})[r.place] = r.value
            whole = [(p, x) for p, x in zip(self.asked.test, rewards, strict=True) if len(known.get(p.id, {})) == most]
            rows = [
                Valued(question=p.id, n=n, place=0, value=picked(p.id, x, [known[p.id][k] for k in range(most)], n))
                for p, x in whole for n in sizes
            ]  # fmt: skip
            table.once(f"best-of-n-{name}", lambda: rows)
            return {str(n): asdict(mean([r.value for r in rows if r.n == n])) for n in sizes}

        self.run.once(f"best-of-n/{name}", work)

    # -- tuned policies -------------------------------------------------------------------------------------------------

    def grpo(self, arm: str, i: int) -> None:
        """GRPO with the arm's reward model of the i-th seed in turn."""
        from assay.policy.grpo import grpo
        from assay.render import begun
        from assay.tuning.reward_model import fingerprint

        def work() -> dict[str, Any]:
            name, settings = f"{arm}-{i % self.config.seeds}", self.settings
            term, rewards = self.gate(name), settings.rewards
            if (
                rewards.combine == "calibrated"
                and not np.isfinite(term.threshold)
                and not (rewards.rule or rewards.format)
            ):
                self.run.say(f"grpo-{arm}-{i}: skipped: {term.reason}")
                return {"skipped": term.reason}
            prompts = self.asked.train
            self.__dict__.pop("policy", None)  # one policy in memory at a time
            policy = self.loaded(settings.model, trains=True)
            most, begins = settings.sampler.max_tokens, begun(policy.processor, prompts[0].messages)
            reward = HybridReward(
                rewards, self.scorer(name), term, "", fingerprint(str(self.models[name])), begins, most
            )
            done = grpo(
                self.run.folder / "models" / f"grpo-{arm}-{i}", replace(settings.grpo, seed=i), policy, prompts,
                self.sampler(policy, i), reward, self.run.say, self.telling.names,
            )  # fmt: skip
            return {"steps": done.steps, "samples": done.samples, "stopped": done.stopped}

        self.run.once(f"grpo/{arm}-{i}", work)

    def measure(self, arm: str, i: int) -> None:
        """The tuned policy's answers; where its gate let nothing through, that is the untuned one, with its own. How both
        reward models of the seed score them is told too. Of a policy that only compares, the weights go."""
        name, folder = f"{arm}-{i}", self.run.folder / "models" / f"grpo-{arm}-{i}"
        n, seed = self.settings.samples, i % self.config.seeds

        def work() -> dict[str, Any]:
            if "skipped" in self.run.result(f"grpo/{name}"):
                groups = [g[:n] for g in self.answers("start", lambda: self.policy, self.settings.candidates, 0)]
            else:
                groups = self.answers(name, partial(self.loaded, str(folder)), n, i)
            scored = {of: self.rewards(f"{of}-{seed}", name, groups) for of in ARMS}
            told = {f"reward_{of}": float(np.nanmean(x)) for of, x in scored.items() if np.isfinite(x).any()}
            return {**self.valued(name, groups), **told}

        self.run.once(f"policy/{name}", work)
        for file in folder.glob("*.safetensors") if arm == "raw" else ():
            file.unlink()


PART = 32
"""Questions between two writes."""
MEASURING = 1 << 21
"""From here on draws of samplers are such as no training takes."""


def fitted(score: Callable[..., NDArray[np.float64]], gold: Sequence[Preference], config: FlowConfig) -> ModelTerm:
    """The term of a reward model on verified pairs: chosen responses are right, rejected ones wrong."""
    answers = [(p, r, right) for p in gold for r, right in ((p.chosen, True), (p.rejected, False))]
    raw = np.asarray(score([(*p.prompt, assistant(r.text)) for p, r, _ in answers]), dtype=np.float64)
    right = np.array([right for *_, right in answers])
    return fit_model_term(raw, right, config.tuning.rewards, [question_id(p.prompt) for p, *_ in answers])
