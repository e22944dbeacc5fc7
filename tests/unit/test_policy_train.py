"""MPO and GRPO on tiny models: equal to hand-made loops, resumed bit for bit, and calm about bad input."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_models
from assay import devices, losses
from assay.errors import AssayError
from assay.journal import read
from assay.policy.config import BufferConfig, CorrectionConfig, FitConfig, GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.grpo import Grpo, grpo
from assay.policy.model import Policy, load_policy
from assay.policy.monitor import MonitorConfig
from assay.policy.mpo import Comparison, fit
from assay.policy.rewards import RewardConfig
from assay.policy.sampler import LocalSampler
from assay.records import user
from assay.rollouts import Prompt, Rollout, Score
from assay.step import Engine
from assay.tuning.config import TuneConfig
from assay.tuning.own import answer_tokens
from assay.tuning.own_grpo import run_grpo as run_own
from assay.tuning.reward_model import GoldConfig
from tiny_models import first_tokens

PROMPTS = [Prompt(messages=(user(f"say {c}"),), answer=c) for c in "abcdefgh"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_language(tmp_path_factory.mktemp("lm"), "qwen3")


def policy(folder: Path, **options: Any) -> Policy:
    return load_policy(str(folder), PolicyConfig(**options))


EXAMPLES = [
    Comparison(prompt=(5, 6, 7, 8 + i), chosen=(10 + i, *[11] * (1 + 2 * i), 1), rejected=(12, 13 + i, 14, 15, 1))
    for i in range(6)
]


def logp_of(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...], temperature: float = 1.0) -> torch.Tensor:
    ids = torch.tensor([[*prompt, *answer]])
    found = (model(input_ids=ids).logits[0] / temperature).log_softmax(-1)
    places = range(len(prompt) - 1, ids.shape[1] - 1)
    return torch.stack([found[p, t] for p, t in zip(places, answer, strict=True)])


def test_mpo_s_first_steps_equal_a_loop_by_hand(folder: Path, tmp_path: Path) -> None:
    """Answers of 3 to 13 tokens, and from the third step on a shift that is not zero."""
    config = FitConfig(batch=6, epochs=3, lr=1e-3, schedule="constant", warmup=0.0, weight_decay=0.0, clip=1e9)
    fit(tmp_path / "mpo", config, policy(folder), EXAMPLES)
    metrics = read(tmp_path / "mpo" / "metrics.jsonl")
    model = tiny_models.language("qwen3")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    lengths = torch.tensor([float(len(e.chosen)) for e in EXAMPLES])
    with torch.no_grad():
        ref = [[logp_of(model, e.prompt, a).sum() for a in (e.chosen, e.rejected)] for e in EXAMPLES]
    shift = losses.Shift()
    for step in range(3):
        chosen = torch.stack([logp_of(model, e.prompt, e.chosen).sum() for e in EXAMPLES])
        rejected = torch.stack([logp_of(model, e.prompt, e.rejected).sum() for e in EXAMPLES])
        r_c, r_r = (
            0.1 * (chosen - torch.stack([r[0] for r in ref])),
            0.1 * (rejected - torch.stack([r[1] for r in ref])),
        )
        terms = losses.dpo(r_c, r_r), losses.bco(r_c, r_r, shift.value), losses.nll(chosen, lengths)
        loss = (0.8 * terms[0] + 0.2 * terms[1] + terms[2]) / 6
        for name, term in zip(("dpo", "bco", "nll"), terms, strict=True):
            assert metrics[step][name] == pytest.approx(term.item() / 6, abs=2e-5), (step, name)
        assert metrics[step]["loss"] == pytest.approx(loss.item(), abs=2e-5)
        assert metrics[step]["shift"] == pytest.approx(shift.value, abs=2e-5)
        shift.add((r_c.sum() + r_r.sum()).item(), 12)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics[2]["shift"] > 0.01


def test_accumulation_does_not_change_mpo(folder: Path, tmp_path: Path) -> None:
    curves = []
    for tokens in (12, 4096):
        config = FitConfig(batch=6, epochs=3, lr=1e-2, seed=1)
        fit(tmp_path / f"t{tokens}", config, policy(folder, tokens=tokens), EXAMPLES)
        curves.append([m["loss"] for m in read(tmp_path / f"t{tokens}" / "metrics.jsonl")])
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


@pytest.mark.skipif(not devices.can_compile(), reason="no C++ compiler or Python headers: torch.compile cannot run")
def test_compiled_layers_learn_the_same_and_still_sample(folder: Path, tmp_path: Path) -> None:
    curves, answers = [], []

    def watch(_: int, tuned: Policy) -> dict[str, float]:
        drawn = LocalSampler(tuned, SamplerConfig(max_tokens=3, temperature=0))(PROMPTS[:2], 1)
        answers.append([r.tokens for group in drawn for r in group])
        return {}

    for compiled in ("on", "off"):
        config = FitConfig(batch=6, epochs=3, lr=1e-2)
        made = policy(folder, compile=compiled)
        fit(tmp_path / compiled, config, made, EXAMPLES, watch=watch, watch_every=2)
        layers = [m for m in made.modules() if type(m).__name__ in made._no_split_modules]
        assert all((m._compiled_call_impl is not None) == (compiled == "on") for m in layers)
        curves.append([m["loss"] for m in read(tmp_path / compiled / "metrics.jsonl")])
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    assert answers[0] == answers[1]


def test_an_answer_given_as_text_ends_as_the_template_ends_it(folder: Path, tmp_path: Path) -> None:
    """Gemma's tokenizer ends texts by <eos>, its chat template answers by <end_of_turn>; both end what is drawn."""
    assert answer_tokens(policy(folder), "ab")[-1] == 1
    made = load_policy(str(tiny_models.save_language(tmp_path / "lm", "qwen3")), PolicyConfig())
    made.tokenizer.eos_token, made.inner.generation_config.eos_token_id = "<unk>", [2, 1]
    assert made.end_ids == (2, 1)
    assert answer_tokens(made, "ab")[-1] == 1, "<end> stands behind answers in the template"
    other = load_policy(str(tmp_path / "lm"), PolicyConfig())
    other.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert answer_tokens(other, "ab")[-1] == other.end_ids[0], "a template that puts nothing there"


def test_sft_learns_its_answers_and_dpo_needs_pairs(folder: Path, tmp_path: Path) -> None:
    alone = [replace(e, rejected=()) for e in EXAMPLES]
    config = FitConfig(batch=6, epochs=30, lr=1e-2, weights=(0, 0, 1), schedule="constant")
    fit(tmp_path / "sft", config, policy(folder), alone)
    curve = [m["nll"] for m in read(tmp_path / "sft" / "metrics.jsonl")]
    assert curve[-1] < 0.3 * curve[0]
    with pytest.raises(AssayError, match="need a rejected answer"):
        fit(tmp_path / "dpo", FitConfig(), policy(folder), alone)
    with pytest.raises(AssayError, match="no examples"):
        fit(tmp_path / "none", FitConfig(), policy(folder), [])


class Killed(Exception):
    pass


def test_a_killed_mpo_resumes_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    config = FitConfig(batch=2, epochs=3, lr=1e-2, save_every=2)
    fit(tmp_path / "whole", config, policy(folder), EXAMPLES)

    def die(step: int, _: Policy) -> dict[str, float]:
        if step == 5:
            raise Killed
        return {}

    with pytest.raises(Killed):
        fit(tmp_path / "killed", config, policy(folder), EXAMPLES, watch=die, watch_every=1)
    fit(tmp_path / "killed", config, policy(folder), EXAMPLES)
    same(tmp_path / "whole", tmp_path / "killed")


def same(one: Path, other: Path) -> None:
    first, second = (read(f / "metrics.jsonl") for f in (one, other))
    assert [m["loss"] for m in first] == [m["loss"] for m in second]
    weights = [load_policy(str(f), PolicyConfig()).state_dict() for f in (one, other)]
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


def run_grpo(
    folder: Path, out: Path, reward: Any = first_tokens, watch: Any = None, **options: Any
) -> list[dict[str, Any]]:
    made = policy(folder)
    sampler = LocalSampler(made, SamplerConfig(max_tokens=6), half=False)
    settings: dict[str, Any] = {"steps": 6, "prompts": 3, "group": 4, "lr": 1e-2, "save_every": 2, **options}
    grpo(out, GrpoConfig(**settings), made, PROMPTS, sampler, reward, watch=watch, watch_every=1)
    return read(out / "metrics.jsonl")


def test_a_killed_grpo_with_its_buffer_resumes_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    whole = run_grpo(folder, tmp_path / "whole")
    assert sum(m["from_buffer"] for m in whole) > 0

    def die(step: int, _: Policy) -> tuple[dict[str, float], str]:
        if step == 5:
            raise Killed
        return {}, ""

    with pytest.raises(Killed):
        run_grpo(folder, tmp_path / "killed", watch=die)
    resumed = run_grpo(folder, tmp_path / "killed")
    same(tmp_path / "whole", tmp_path / "killed")
    for name in ("reward", "buffer_drawn", "ratio", "samples", "loss"):
        assert [m[name] for m in whole] == [m[name] for m in resumed]


class Tiring:
    """A reward, or a watch, that changes with what it has seen: its state decides what it says next."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, pairs: Any) -> list[Score]:
        self.seen += 1
        return [Score(rule=float(r.tokens[0] % 5 == self.seen % 5), format=0.0, total=self.seen % 7) for _, r in pairs]

    def look(self, step: int, _: Policy) -> tuple[dict[str, float], str]:
        self.seen += step
        return {"seen": float(self.seen)}, ""

    def state(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


def test_the_states_of_reward_and_watch_are_saved_with_the_run(folder: Path, tmp_path: Path) -> None:
    def run(out: Path, killed_at: int = 0) -> list[dict[str, Any]]:
        made, reward, watch = policy(folder), Tiring(), Tiring()

        def look(step: int, policy: Policy) -> tuple[dict[str, float], str]:
            if step == killed_at:
                raise Killed
            return watch.look(step, policy)

        sampler = LocalSampler(made, SamplerConfig(max_tokens=6), half=False)
        config = GrpoConfig(steps=6, prompts=2, group=4, lr=1e-2, save_every=2)
        grpo(out, config, made, PROMPTS, sampler, reward, watch=look, watch_every=1, watch_state=watch)
        return read(out / "metrics.jsonl")

    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", killed_at=5)
    resumed = run(tmp_path / "killed")
    for name in ("rule", "reward", "seen"):
        assert [m[name] for m in whole] == [m[name] for m in resumed]


def test_a_buffer_without_room_equals_dropping_groups_without_signal(folder: Path, tmp_path: Path) -> None:
    none = run_grpo(folder, tmp_path / "none", buffer=BufferConfig(capacity=0))
    drop = run_grpo(folder, tmp_path / "drop", zero_groups="drop")
    assert [m["loss"] for m in none] == [m["loss"] for m in drop]
    same(tmp_path / "none", tmp_path / "drop")


def test_the_buffer_fills_what_the_batch_lacks_with_true_ratios(folder: Path, tmp_path: Path) -> None:
    metrics = run_grpo(folder, tmp_path / "ssb", steps=10)
    late = [m for m in metrics if m["from_buffer"]]
    assert late
    for m in late:
        assert m["batch"] <= 12
        assert m["batch_effective"] >= m["effective_samples"]
        assert m["ratio"] != 1.0
    keep = run_grpo(folder, tmp_path / "keep", zero_groups="keep", steps=4)
    assert all(m["batch"] == 12 for m in keep)


def test_replays_are_further_steps_on_what_the_buffer_holds(folder: Path, tmp_path: Path) -> None:
    once, twice = (run_grpo(folder, tmp_path / f"{n}", steps=4, buffer=BufferConfig(replays=n)) for n in (0, 2))
    assert all("replay_loss" not in m for m in once)
    assert twice[0]["loss"] == once[0]["loss"], "the step on fresh samples comes first"
    assert twice[0]["replay_ratio"] != 1.0, "the policy has moved since they were drawn"
    assert twice[-1]["buffer_drawn"] > once[-1]["buffer_drawn"]
    weights = [load_policy(str(tmp_path / n), PolicyConfig()).state_dict() for n in "02"]
    assert any(not torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


@pytest.mark.parametrize(
    ("mean", "kl", "temperature"),
    [("response", 0.0, 1.0), ("token", 0.0, 1.0), ("response", 0.7, 1.0), ("response", 0.0, 0.5), ("token", 0.7, 0.5)],
)
def test_grpo_s_step_on_policy_is_the_policy_gradient(
    folder: Path, tmp_path: Path, mean: Any, kl: float, temperature: float
) -> None:
    """On policy the surrogate's gradient is the mean of A times d log p, over responses or over tokens, and KL's comes on
    top; log p under what was sampled from, softmax(logits / temperature)."""
    made = policy(folder)
    sampler = LocalSampler(made, SamplerConfig(max_tokens=24, temperature=temperature), half=False, seed=0)
    seen: list[tuple[Prompt, Rollout, float]] = []

    def reward(pairs: Any) -> list[Score]:
        scores = first_tokens(pairs)
        seen.extend((p, r, s.total) for (p, r), s in zip(pairs, scores, strict=True))
        return scores

    other = tiny_models.save_language(tmp_path / "other", "qwen3", seed=1)
    held = dict(policy(other).named_parameters())
    made.keep_start = lambda: setattr(made, "start", [(p, held[n].data) for n, p in made.named_parameters()])  # type: ignore[method-assign]
    config = GrpoConfig(steps=1, prompts=4, group=4, lr=1e-9, zero_groups="keep", clip=1e9, mean=mean, kl=kl)
    grpo(tmp_path / "one", config, made, PROMPTS, sampler, reward)
    found = read(tmp_path / "one" / "metrics.jsonl")[0]
    assert 0 < found["sampler_gap"] < 1e-4, "the sampler and the training pass see the same policy, to rounding"
    model, held = tiny_models.language("qwen3"), tiny_models.language("qwen3", seed=1)
    tokens = sum(len(r.tokens) for _, r, _ in seen)
    assert len({len(r.tokens) for _, r, _ in seen}) > 1, "or both means are the same"
    total, distance = torch.zeros(()), 0.0
    for at in range(0, len(seen), 4):
        group = seen[at : at + 4]
        rewards = np.array([g[2] for g in group])
        spread = rewards.std() if rewards.std() > 0 else 1.0
        for (prompt, answer, _), advantage in zip(group, (rewards - rewards.mean()) / spread, strict=True):
            both = tuple(sampler.prompt_ids(prompt)), answer.tokens, temperature
            logp, ratio = logp_of(model, *both), logp_of(held, *both).detach() - logp_of(model, *both)
            k3 = ratio.exp() - ratio - 1
            distance += k3.sum().item() / tokens
            terms = kl * k3 - advantage * logp
            total = total + (terms.mean() / len(seen) if mean == "response" else terms.sum() / tokens)
    total.backward()
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters() if p.grad is not None))
    assert found["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert found["kl"] == pytest.approx(distance if kl else 0.0, rel=1e-3)


def test_grpo_refuses_a_sampler_that_draws_one_answer_only(folder: Path, tmp_path: Path) -> None:
    made = policy(folder)
    sampler = LocalSampler(made, SamplerConfig(temperature=0), half=False)
    with pytest.raises(AssayError, match=r"sampler\.temperature 0"):
        grpo(tmp_path / "greedy", GrpoConfig(steps=1), made, PROMPTS, sampler, first_tokens)
    with pytest.raises(AssayError, match=r"sampler\.temperature 0"):
        TuneConfig(recipe="r", sampler=SamplerConfig(temperature=0))
    with pytest.raises(AssayError, match=r"sampler\.temperature 0"):
        run_own(str(folder), tmp_path / "absent.jsonl", tmp_path / "own", GrpoConfig(), PolicyConfig(),
                SamplerConfig(temperature=0), RewardConfig(), GoldConfig(), MonitorConfig(), None, "", ())  # fmt: skip


def test_what_waits_in_the_buffer_carries_the_log_probabilities_of_the_policy_that_drew_it(
    folder: Path, tmp_path: Path
) -> None:
    made = policy(folder)
    sampler = LocalSampler(made, SamplerConfig(max_tokens=6), half=False)
    config = GrpoConfig(steps=2, prompts=8, group=4, lr=1e-2)
    engine = Engine("fp32", 1.0)
    engine.prepare(made, config.lr, 0.0)
    run = Grpo(tmp_path / "run", config, made, engine, PROMPTS, sampler, first_tokens)
    model, asked = tiny_models.language("qwen3"), {p.id: p for p in PROMPTS}
    assert run.step(0)["skipped"] == 0.0, "the policy has moved"
    assert run.buffer.samples
    for sample in run.buffer.samples:
        logp = logp_of(model, tuple(sampler.prompt_ids(asked[sample.prompt_id])), sample.tokens)
        assert sample.logprobs == pytest.approx(logp.tolist(), abs=1e-4)


def test_the_share_of_right_answers_is_of_those_that_can_be_right(folder: Path, tmp_path: Path) -> None:
    """Half of the questions have no answer: their answers are not wrong."""
    prompts = [p if i % 2 else replace(p, answer="") for i, p in enumerate(PROMPTS)]

    def all_right(pairs: Any) -> list[Score]:
        return [Score(rule=float(bool(p.answer)), format=0.0, total=float(len(r.tokens))) for p, r in pairs]

    for name, some, right in (("mixed", prompts, 1.0), ("open", prompts[::2], None)):
        made = policy(folder)
        sampler = LocalSampler(made, SamplerConfig(max_tokens=3), half=False)
        said = list[str]()
        config = GrpoConfig(steps=1, prompts=len(some), group=2)
        grpo(tmp_path / name, config, made, some, sampler, all_right, said.append)
        assert said[0] == f"{name}: step 1/1: answers are drawn", "a step may take minutes"
        (found,) = read(tmp_path / name / "metrics.jsonl")
        assert found.get("right") == right
        assert found["rule"] == (right or 0.0) / 2
        assert any(f"right {len(prompts)} of {len(prompts)} " in line for line in said) == (right is not None)


def test_a_run_without_any_signal_ends_well_and_says_so(folder: Path, tmp_path: Path) -> None:
    metrics = run_grpo(folder, tmp_path / "flat", lambda pairs: [Score(rule=1.0, format=0.0, total=1.0) for _ in pairs])
    assert all(m["skipped"] == 1.0 and m["effective"] == 0.0 for m in metrics)
    before, after = policy(folder).state_dict(), load_policy(str(tmp_path / "flat"), PolicyConfig()).state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_resampling_draws_until_the_batch_is_full_or_the_limit(folder: Path, tmp_path: Path) -> None:
    metrics = run_grpo(folder, tmp_path / "dapo", zero_groups="resample", steps=4)
    assert all(m["samples"] % 12 == 0 for m in metrics)
    assert all(m["batch"] <= 12 for m in metrics)
    assert metrics[-1]["samples"] > 4 * 12


def test_kl_is_zero_at_the_start_and_then_grows(folder: Path, tmp_path: Path) -> None:
    found = [m["kl"] for m in run_grpo(folder, tmp_path / "kl", kl=0.1) if not m["skipped"]]
    assert found[0] == pytest.approx(0.0, abs=1e-6)
    assert found[-1] > 0


def test_a_watch_stops_the_run_with_its_reason(folder: Path, tmp_path: Path) -> None:
    metrics = run_grpo(folder, tmp_path / "stop", watch=lambda step, _: ({"seen": 1.0}, "enough" if step == 3 else ""))
    assert len(metrics) == 3
    assert '"stopped": "enough"' in (tmp_path / "stop" / "training.json").read_text()


class Off:
    """A sampler whose engine computes other log-probabilities than training does."""

    exact = False

    def __init__(self, sampler: LocalSampler, by: float) -> None:
        self.sampler, self.by, self.config = sampler, by, sampler.config
        self.prompt_ids, self.load = sampler.prompt_ids, sampler.load

    def __call__(self, prompts: Any, n: int, draw: int = 0) -> list[list[Rollout]]:
        def moved(r: Rollout) -> Rollout:
            shifts = (self.by * (1 if at % 2 else -3) for at in range(len(r.logprobs)))
            return replace(r, logprobs=tuple(x + s for x, s in zip(r.logprobs, shifts, strict=True)))

        return [[moved(r) for r in group] for group in self.sampler(prompts, n, draw)]


def off_run(folder: Path, out: Path, by: float, **options: Any) -> dict[str, Any]:
    made = policy(folder)
    sampler = Off(LocalSampler(made, SamplerConfig(max_tokens=6), half=False), by)
    settings: dict[str, Any] = {"steps": 1, "prompts": 4, "group": 4, "lr": 1e-9, "clip": 1e9, **options}
    grpo(out, GrpoConfig(**settings), made, PROMPTS, sampler, first_tokens)  # type: ignore[arg-type]
    return read(out / "metrics.jsonl")[0]


def test_a_sampler_of_another_policy_stops_the_run_and_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        AssayError, match=r"step 1: the log-probabilities that Off .* nats apart on average \(at most 0\.1"
    ):
        off_run(folder, tmp_path / "far", 0.1)
    near = off_run(folder, tmp_path / "near", 0.02)
    assert 0.02 < near["sampler_gap"] < 0.06
    allowed = off_run(folder, tmp_path / "allowed", 0.1, correction=CorrectionConfig(most_gap=0.0))
    assert allowed["sampler_gap"] > 0.1


def test_a_sampler_that_does_not_take_over_what_is_learned_stops_the_run(folder: Path, tmp_path: Path) -> None:
    made = policy(folder)
    stale = LocalSampler(policy(folder), SamplerConfig(max_tokens=6), half=False)
    config = GrpoConfig(steps=4, prompts=8, group=4, lr=3e-2)
    with pytest.raises(AssayError, match="step 2: the log-probabilities that LocalSampler"):
        grpo(tmp_path / "stale", config, made, PROMPTS, stale, first_tokens)


def test_what_another_engine_sampled_is_weighed_by_its_ratio(folder: Path, tmp_path: Path) -> None:
    """At a rate of nothing the update's gradient norm is that of a hand-made sum of w A d log p."""
    made, by = policy(folder), 0.2
    config = CorrectionConfig(per="token", most=1.5, most_gap=0.0)
    settings: dict[str, Any] = {"zero_groups": "keep", "correction": config}
    found = off_run(folder, tmp_path / "one", by, **settings)
    plain = off_run(folder, tmp_path / "two", by, zero_groups="keep", correction=replace(config, per="off"))
    assert "weight" not in plain
    sampler = LocalSampler(made, SamplerConfig(max_tokens=6), half=False)
    engine = Engine("fp32", 1.0)
    engine.prepare(made, 1e-9, 0.0)
    run = Grpo(
        tmp_path / "again", GrpoConfig(steps=1, prompts=4, group=4), made, engine, PROMPTS, sampler, first_tokens
    )
    graded, _, _ = run.collect(0)
    model, asked, total, weights = (
        tiny_models.language("qwen3"),
        {p.id: p for p in PROMPTS},
        torch.zeros(()),
        list[float](),
    )
    fresh = [s for g in graded for s in g.samples]
    for s in fresh:
        logp = logp_of(model, tuple(sampler.prompt_ids(asked[s.prompt_id])), s.tokens)
        w = torch.tensor([min(1.5, math.exp(-by * (1 if at % 2 else -3))) for at in range(len(s.tokens))])
        weights += w.tolist()
        total = total - (w * s.advantage * logp).mean() / len(fresh)
    total.backward()
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters() if p.grad is not None))
    assert found["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert found["weight"] == pytest.approx(np.mean(weights), rel=1e-4)
    assert found["weight_cut"] == pytest.approx(np.mean([w == 1.5 for w in weights]), abs=1e-6)
    assert plain["grad_norm"] != pytest.approx(norm, rel=1e-2)


def test_what_waits_in_the_buffer_keeps_its_weight(folder: Path, tmp_path: Path) -> None:
    made = policy(folder)
    sampler = Off(LocalSampler(made, SamplerConfig(max_tokens=6), half=False), 0.02)
    config = GrpoConfig(steps=2, prompts=8, group=4, lr=1e-2)
    engine = Engine("fp32", 1.0)
    engine.prepare(made, config.lr, 0.0)
    run = Grpo(tmp_path / "run", config, made, engine, PROMPTS, sampler, first_tokens)  # type: ignore[arg-type]
    run.step(0)
    for sample in run.buffer.samples:
        shifts = [0.02 * (1 if at % 2 else -3) for at in range(len(sample.tokens))]
        assert np.subtract(sample.sampled, sample.logprobs).tolist() == pytest.approx(shifts, abs=1e-4)
    other = Grpo(tmp_path / "run", config, made, engine, PROMPTS, sampler, first_tokens)  # type: ignore[arg-type]
    other.buffer.load_state(run.buffer.state())
    assert other.buffer.samples == run.buffer.samples


def test_further_updates_of_a_batch_go_by_the_policy_before_the_first(folder: Path, tmp_path: Path) -> None:
    runs = [run_grpo(folder, tmp_path / f"{n}", steps=2, updates=n, zero_groups="keep") for n in (1, 3)]
    assert runs[1][0]["loss"] == runs[0][0]["loss"]
    assert "update_loss" not in runs[0][0]
    assert runs[1][0]["update_ratio"] != 1.0, "the policy has moved"
    assert runs[1][0]["update_loss"] < runs[1][0]["loss"], "on the same batch every step gains"
    moved = [load_policy(str(tmp_path / n), PolicyConfig()).state_dict() for n in "13"]
    assert any(not torch.equal(moved[0][n], moved[1][n]) for n in moved[0])


def test_what_is_told_as_clipped_is_outside_of_the_range_that_clips(folder: Path, tmp_path: Path) -> None:
    """Clip-higher (`epsilon_high`) moves the upper bound: ratios below it are not clipped, and not told so."""
    settings: dict[str, Any] = {"steps": 2, "updates": 3, "zero_groups": "keep", "lr": 0.05, "epsilon": 0.9}
    wide = run_grpo(folder, tmp_path / "wide", epsilon_high=1e9, most_ratio=None, **settings)
    near = run_grpo(folder, tmp_path / "near", most_ratio=None, **settings)
    assert max(m["update_ratio"] for m in wide) > 1.4
    assert all(m["update_clipped"] == 0.0 for m in wide)
    assert any(m["update_clipped"] > 0.0 for m in near)


def test_the_entropy_bonus_s_step_raises_entropy(folder: Path, tmp_path: Path) -> None:
    runs = [run_grpo(folder, tmp_path / f"{x}", steps=4, entropy=x, zero_groups="keep", lr=3e-3) for x in (0.0, 1.0)]
    assert runs[1][0]["entropy"] == pytest.approx(runs[0][0]["entropy"], abs=1e-4)
    assert runs[1][0]["loss"] == pytest.approx(runs[0][0]["loss"] - runs[1][0]["entropy"], abs=0.02)
    assert runs[1][-1]["entropy"] > runs[0][-1]["entropy"]


def test_gdpo_trains_on_advantages_of_one_size(folder: Path, tmp_path: Path) -> None:
    def two(pairs: Any) -> list[Score]:
        told = [(float(r.tokens[0] % 3 == 0), float(len(r.tokens) % 2)) for _, r in pairs]
        return [Score(rule=a, format=b, total=a + b) for a, b in told]

    metrics = run_grpo(folder, tmp_path / "gdpo", two, combine="gdpo", steps=3)
    assert any(m["skipped"] == 0.0 for m in metrics)
    with pytest.raises(AssayError, match="gdpo"):
        GrpoConfig(combine="gdpo", scale="none")
