"""The policy's losses, log-probabilities, advantages and buffer, against values computed by hand."""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import head
from assay.head import chosen_logprobs
from assay.losses import Shift, bco, dpo, grpo, importance, kl_to, nll
from assay.policy.advantage import advantages, apart, grade, over_batch
from assay.policy.buffer import Buffer
from assay.policy.config import BufferConfig
from assay.rollouts import Rollout, Sample, Score


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_mpo_terms_by_hand() -> None:
    chosen, rejected = torch.tensor([0.5, -0.2]), torch.tensor([0.1, 0.3])
    assert dpo(chosen, rejected).item() == pytest.approx(-math.log(sigmoid(0.4)) - math.log(sigmoid(-0.5)))
    expected = sum(-math.log(sigmoid(c - 0.25)) - math.log(sigmoid(0.25 - r)) for c, r in ((0.5, 0.1), (-0.2, 0.3)))
    assert bco(chosen, rejected, 0.25).item() == pytest.approx(expected)
    assert nll(torch.tensor([-6.0, -4.0]), torch.tensor([3.0, 8.0])).item() == pytest.approx(2.5)


def test_bco_without_its_shift_is_trl_s_bco_pair_and_differs_with_it() -> None:
    chosen, rejected = torch.tensor([5.0]), torch.tensor([3.0])
    plain = -torch.nn.functional.logsigmoid(chosen) - torch.nn.functional.logsigmoid(-rejected)
    assert bco(chosen, rejected).item() == pytest.approx(plain.item())
    slope = []
    for shift in (0.0, 4.0):
        reward = torch.tensor([5.0], requires_grad=True)
        bco(reward, rejected, shift).backward()
        slope.append(-reward.grad.item())
    assert slope == [pytest.approx(sigmoid(-5.0)), pytest.approx(sigmoid(-1.0))]


def test_the_shift_is_the_mean_of_past_rewards() -> None:
    shift = Shift()
    assert shift.value == 0.0
    shift.add(3.0, 4)
    shift.add(9.0, 2)
    assert shift.value == 2.0


def test_grpo_surrogate_by_hand() -> None:
    logp = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5]))
    terms = grpo(logp, torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2)
    assert terms.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert grpo(logp[:1], torch.zeros(1), torch.ones(1), 0.2, 0.4).item() == pytest.approx(-1.4)
    far = torch.log(torch.tensor([50.0, 50.0]))
    assert grpo(far, torch.zeros(2), torch.tensor([-1.0, 1.0]), 0.2).tolist() == pytest.approx([50.0, -1.2])
    assert grpo(far, torch.zeros(2), torch.tensor([-1.0, 1.0]), 0.2, None, 3.0).tolist() == pytest.approx([3.0, -1.2])
    assert kl_to(torch.tensor([-1.0]), torch.tensor([-2.0])).item() == pytest.approx(math.exp(-1) + 1 - 1)


@pytest.mark.parametrize("keep", [0, 1 << 30])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("compiled", [True, False])
def test_chunked_logprobs_equal_the_full_softmax(
    monkeypatch: pytest.MonkeyPatch, keep: int, temperature: float, compiled: bool
) -> None:
    if compiled and head.library() is None:
        pytest.skip("no C++ compiler: the compiled softmax is not tested")
    if not compiled:
        monkeypatch.setattr(head, "library", lambda: None)
    monkeypatch.setattr(head, "ROWS", 3)
    monkeypatch.setattr(head, "CHUNK_CPU", 1)
    monkeypatch.setattr(head, "KEEP", keep)
    torch.manual_seed(0)
    hidden, weight = torch.randn(10, 6, requires_grad=True), torch.randn(37, 6, requires_grad=True)
    targets, bias = torch.randint(37, (10,)), torch.randn(37)
    slope = torch.randn(10)
    logp, entropy = chosen_logprobs(hidden, weight, targets, temperature, bias)
    (logp * slope).sum().backward()
    ours = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    full = ((hidden @ weight.t() + bias) / temperature).log_softmax(-1)
    torch.testing.assert_close(logp, full.gather(1, targets[:, None]).squeeze(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, -(full.exp() * full).sum(-1), atol=1e-5, rtol=1e-5)
    (full.gather(1, targets[:, None]).squeeze(1) * slope).sum().backward()
    torch.testing.assert_close(ours[0], hidden.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours[1], weight.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(head.library() is None, reason="no C++ compiler: the compiled softmax is not tested")
@given(st.integers(1, 70), st.floats(0, 200), st.integers(0, 10**6))
@settings(max_examples=50)
def test_the_compiled_softmax_is_pytorch_s_for_any_logits(vocabulary: int, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    logits, targets = torch.randn(5, vocabulary) * scale + 50, torch.randint(vocabulary, (5,))
    full, entropy = logits.double().log_softmax(-1), torch.empty(5)
    logp, total = head._exponentials(logits, targets, entropy)
    torch.testing.assert_close(logp.double(), full.gather(1, targets[:, None]).squeeze(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((logits / total[:, None]).double(), full.exp(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), torch.special.entr(full.exp()).sum(-1), atol=1e-5, rtol=1e-5)


def test_a_certain_answer_has_no_gradient_left() -> None:
    hidden, weight = torch.tensor([[30.0, -2.0]], requires_grad=True), torch.tensor([[4.0, 0.1], [-4.0, 0.3]])
    chosen_logprobs(hidden, weight, torch.tensor([0]))[0].backward()
    assert hidden.grad.tolist() == [[0.0, 0.0]]


def test_advantages_by_hand() -> None:
    assert advantages([1.0, 0.0, 0.0, 1.0]) == [1.0, -1.0, -1.0, 1.0]
    assert advantages([2.0, 0.0, 1.0], "none") == [1.0, -1.0, 0.0]
    with pytest.raises(ValueError, match="finite"):
        advantages([1.0, math.nan])


@given(st.floats(-20, 20), st.integers(2, 16))
def test_equal_rewards_have_no_signal_whatever_their_value(value: float, n: int) -> None:
    assert advantages([value] * n) == [0.0] * n


@given(st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=2, max_size=12))
def test_advantages_have_mean_zero_and_unit_spread(rewards: list[float]) -> None:
    found = advantages(rewards)
    assert math.fsum(found) == pytest.approx(0.0, abs=1e-6)
    if len(set(rewards)) > 1:
        assert np.std(found) == pytest.approx(1.0)


def rollout(tokens: tuple[int, ...], prompt: str = "p") -> Rollout:
    return Rollout(prompt_id=prompt, tokens=tokens, logprobs=(-1.0,) * len(tokens), text="", ended=True, policy_step=0)


def test_a_group_with_a_model_term_has_signal_in_the_total_but_none_in_the_rule_part() -> None:
    scores = [Score(rule=1.0, format=1.0, model=m, total=2.0 + m) for m in (0.1, 0.3)]
    graded = grade([rollout((1,)), rollout((2,))], scores)
    assert (graded.signal, graded.rule_signal, graded.total_signal) == (True, False, True)
    strict = grade([rollout((1,)), rollout((2,))], scores, signal="rule")
    assert (strict.signal, strict.total_signal, [s.advantage for s in strict.samples]) == (False, True, [0.0, 0.0])
    mixed = [Score(rule=r, format=1.0, model=m, total=1.0 + r + m) for r, m in ((1.0, 0.1), (0.0, 0.3))]
    both = [grade([rollout((1,)), rollout((2,))], mixed, signal=s).samples for s in ("total", "rule")]  # type: ignore[arg-type]
    assert both[0] == both[1], "where the rules tell answers apart, the model's term counts in either"


def test_what_nobody_pays_for_is_no_signal_in_the_rules() -> None:
    """A format without a weight, and a right answer without a form beside a wrong one with it, by weights that differ."""
    rollouts = [rollout((1,)), rollout((2,))]
    shaped = [Score(rule=0.0, format=f, model=m, total=m) for f, m in ((1.0, 0.30), (0.0, 0.31))]
    free = grade(rollouts, shaped, signal="rule", weights={"format": 0.0})
    assert (free.signal, free.rule_signal, free.total_signal) == (False, False, True)
    assert grade(rollouts, shaped, signal="rule", weights={"format": 0.1}).signal
    assert not grade(rollouts, shaped, signal="rule", weights={"format": 0.0}, combine="gdpo").signal
    crossed = [Score(rule=r, format=1 - r, total=r + (1 - r) / 2) for r in (1.0, 0.0)]
    assert [s.advantage for s in grade(rollouts, crossed, signal="rule", weights={"format": 0.5}).samples] == [
        1.0,
        -1.0,
    ]
    assert not grade(rollouts, crossed, signal="rule").rule_signal, "worth the same in the sum"
    assert grade(rollouts, crossed, signal="rule", combine="gdpo").rule_signal, "each by itself tells them apart"


def test_an_answer_without_tokens_counts_in_the_mean_but_is_no_sample() -> None:
    scores = [Score(rule=r, format=0.0, total=r) for r in (1.0, 0.0, 0.0)]
    graded = grade([rollout((1, 2)), rollout(()), rollout((3,))], scores)
    assert [s.tokens for s in graded.samples] == [(1, 2), (3,)]
    assert graded.samples[0].advantage == pytest.approx(math.sqrt(2))


def sample(n: int, advantage: float, step: int = 0, group: str = "g") -> Sample:
    return Sample(prompt_id="p", group=group, tokens=(n,), logprobs=(-1.0,), advantage=advantage, policy_step=step)


def test_the_buffer_draws_by_the_size_of_the_advantage() -> None:
    counts = np.zeros(3)
    buffer = Buffer(BufferConfig(capacity=10, max_age=99), seed=1)
    buffer.add([sample(0, 1.0), sample(1, -2.0), sample(2, 3.0)])
    for _ in range(3000):
        counts[buffer.draw(1, 0)[0].tokens[0]] += 1
    np.testing.assert_allclose(counts / 3000, [1 / 6, 2 / 6, 3 / 6], atol=0.03)


def test_equal_priorities_are_drawn_evenly_and_never_twice() -> None:
    buffer = Buffer(BufferConfig(capacity=10, max_age=99, alpha=0.0), seed=1)
    buffer.add([sample(n, 1.0 + n) for n in range(4)])
    counts = np.zeros(4)
    for _ in range(2000):
        drawn = [s.tokens[0] for s in buffer.draw(2, 0)]
        assert len(set(drawn)) == 2
        counts[drawn] += 1
    np.testing.assert_allclose(counts / 4000, 0.25, atol=0.03)


@pytest.mark.parametrize(("unit", "n"), [("sample", 3), ("sample", 8), ("group", 8)])
def test_what_is_drawn_is_on_average_what_the_buffer_holds(unit: Literal["sample", "group"], n: int) -> None:
    """Two groups of 8, one with one wrong answer and one with two; the wrong ones' advantages are large, so they are drawn
    more often, and without the correction count twice for it: the sum of what is drawn is then far below zero."""
    few, two = -(7**0.5), -(3**0.5)
    held = [sample(i, few if i == 0 else 7**-0.5, group="a") for i in range(8)]
    held += [sample(8 + i, two if i < 2 else 3**-0.5, group="b") for i in range(8)]
    sums = {beta: np.zeros(16) for beta in (0.0, 1.0)}
    for beta, sum_ in sums.items():
        buffer = Buffer(BufferConfig(max_age=99, beta=beta, unit=unit), seed=1)
        buffer.add(held)
        for _ in range(4000):
            for drawn in buffer.draw(n, 0):
                sum_[drawn.tokens[0]] += drawn.advantage / 4000
        assert buffer.samples == held, "the buffer keeps them as they were"
    evenly = np.array([s.advantage for s in held]) * n / len(held)
    np.testing.assert_allclose(sums[1.0], evenly, atol=0.1 * np.abs(evenly).max())
    if unit == "group":
        assert buffer.metrics(0)["buffer_net"] == pytest.approx(0, abs=1e-12)
    else:
        assert abs(sums[1.0].sum()) < 0.05 * np.abs(sums[1.0]).sum()
        assert sums[0.0].sum() < -0.15 * np.abs(sums[0.0]).sum()


def test_nothing_is_corrected_where_all_come_back() -> None:
    buffer = Buffer(BufferConfig(max_age=99), seed=1)
    buffer.add([sample(0, 1e-9), sample(1, -2.0), sample(2, 3.0)])
    assert buffer.draw(3, 0) == buffer.samples


def test_capacity_age_and_zero_advantages() -> None:
    buffer = Buffer(BufferConfig(capacity=3, max_age=2), seed=0)
    buffer.add([sample(0, 0.0), *(sample(n, 1.0, step=n) for n in range(1, 6))])
    assert [s.tokens[0] for s in buffer.samples] == [3, 4, 5]
    assert {s.tokens[0] for s in buffer.draw(9, 6)} == {4, 5}
    assert (buffer.evicted, buffer.aged) == (2, 1)
    empty = Buffer(BufferConfig(capacity=0), seed=0)
    empty.add([sample(1, 1.0)])
    assert len(empty) == 0
    assert empty.draw(4, 0) == []


def test_whole_groups_are_drawn_whole() -> None:
    buffer = Buffer(BufferConfig(capacity=99, max_age=99, unit="group"), seed=3)
    buffer.add([sample(n, 1.0, group=f"g{n // 4}") for n in range(12)])
    for n, expected in ((3, 0), (4, 4), (9, 8), (50, 12)):
        drawn = buffer.draw(n, 0)
        assert len(drawn) == expected
        assert all(sum(s.group == d.group for s in drawn) == 4 for d in drawn)


def test_whole_groups_leave_whole() -> None:
    buffer = Buffer(BufferConfig(capacity=10, max_age=99, unit="group"), seed=3)
    buffer.add([sample(n, 1.0, group=f"g{n // 4}") for n in range(12)])
    assert [s.group for s in buffer.samples] == ["g1"] * 4 + ["g2"] * 4
    assert buffer.evicted == 4
    buffer.add([sample(n, 1.0, group="g3") for n in range(11)])
    assert (len(buffer), buffer.evicted) == (0, 23), "a group that is larger than the capacity has no place"
    single = Buffer(BufferConfig(capacity=10, max_age=99), seed=3)
    single.add([sample(n, 1.0, group=f"g{n // 4}") for n in range(12)])
    assert (len(single), single.evicted) == (10, 2)


@settings(max_examples=20)
@given(st.integers(0, 5), st.integers(0, 6))
def test_a_restored_buffer_draws_the_same(before: int, n: int) -> None:
    one, other = (Buffer(BufferConfig(capacity=8, max_age=5), seed=s) for s in (1, 2))
    one.add([sample(i, i - 3.5) for i in range(8)])
    for _ in range(before):
        one.draw(3, 0)
    other.load_state(one.state())
    assert other.draw(n, 1) == one.draw(n, 1)
    assert other.metrics(1) == one.metrics(1)


def test_weights_between_two_engines_by_hand_and_as_trl_has_them() -> None:
    """Three responses of 2, 1 and 3 tokens."""
    ratios = [1.5, 0.5, 4.0, 1.0, 0.25, 1.2]
    log_M, lengths_N = torch.log(torch.tensor(ratios)), torch.tensor([2, 1, 3])
    found = importance(log_M, lengths_N, "token", "truncate", 2.0)
    assert found.tolist() == pytest.approx([1.5, 0.5, 2.0, 1.0, 0.25, 1.2])
    found = importance(log_M, lengths_N, "token", "mask", 2.0, 0.5)
    assert found.tolist() == pytest.approx([1.5, 0.5, 0.0, 1.0, 0.0, 1.2])
    found = importance(log_M, lengths_N, "sequence", "truncate", 2.0, 0.5)
    assert found.tolist() == pytest.approx([0.75, 0.75, 2.0, 0.5, 0.5, 0.5])
    found = importance(log_M, lengths_N, "sequence", "mask", 2.0)
    assert found.tolist() == pytest.approx([0.75, 0.75, 0.0, 0.3, 0.3, 0.3])
    # TRL's four modes, on padded rows (grpo_trainer.py, `vllm_importance_sampling_mode`)
    random = torch.Generator().manual_seed(0)
    log_M, rows = torch.randn(6, generator=random), torch.zeros(3, 3)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    rows[mask.bool()] = log_M
    for per in ("token", "sequence"):
        ratio = (rows.sum(-1, keepdim=True) if per == "sequence" else rows).exp().expand(3, 3)
        cut = ratio.clamp(0.6, 1.5)[mask.bool()]
        masked = ratio.masked_fill((ratio < 0.6) | (ratio > 1.5), 0.0)[mask.bool()]
        assert importance(log_M, lengths_N, per, "truncate", 1.5, 0.6).tolist() == pytest.approx(cut.tolist())  # type: ignore[arg-type]
        assert importance(log_M, lengths_N, per, "mask", 1.5, 0.6).tolist() == pytest.approx(masked.tolist())  # type: ignore[arg-type]
    assert math.isfinite(importance(torch.tensor([500.0]), torch.tensor([1]), "token", "mask").item())


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_entropy_s_gradient_is_autograd_s(
    monkeypatch: pytest.MonkeyPatch, built: bool, kept: bool, temperature: float
) -> None:
    if not built:
        monkeypatch.setattr(head, "library", lambda: None)
    if not kept:
        monkeypatch.setattr(head, "KEEP", 0)
    torch.manual_seed(0)
    start = torch.randn(5, 8), torch.randn(40, 8)
    targets, bias = torch.tensor([3, 0, 39, 7, 7]), torch.randn(40)
    by_logp, by_entropy = torch.randn(5), torch.randn(5)
    grads = []
    for ours in (True, False):
        hidden, weight = (x.clone().requires_grad_() for x in start)
        if ours:
            logp, entropy = chosen_logprobs(hidden, weight, targets, temperature, bias, "gradient")
        else:
            whole = ((hidden @ weight.t() + bias) / temperature).log_softmax(-1)
            logp, entropy = whole.gather(1, targets[:, None])[:, 0], -(whole.exp() * whole).sum(-1)
        (logp @ by_logp + entropy @ by_entropy).backward()
        grads.append((hidden.grad, weight.grad))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)
    hidden = start[0].clone().requires_grad_()
    logp, entropy = chosen_logprobs(hidden, start[1], targets, temperature, bias)
    assert not entropy.requires_grad, "no gradient unless asked for"


def test_gdpo_by_hand() -> None:
    """Four answers, one of them right, another well-formed."""
    rows = [(1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    scores = [Score(rule=r, format=f, total=r + f) for r, f in rows]
    rule = [1 / math.sqrt(3) * x for x in (3, -1, -1, -1)]
    form = [1 / math.sqrt(3) * x for x in (-1, -1, 3, -1)]
    assert apart(scores, {}) == pytest.approx([a + b for a, b in zip(rule, form, strict=True)])
    assert apart(scores, {"format": 0.5}) == pytest.approx([a + b / 2 for a, b in zip(rule, form, strict=True)])
    flat = [Score(rule=1.0, format=0.0, total=1.0)] * 3
    assert apart(flat, {}) == [0.0] * 3
    rollouts = [rollout((i,)) for i in range(4)]
    graded = grade(rollouts, scores, weights={"format": 0.5}, combine="gdpo")
    found = [s.advantage for s in graded.samples]
    assert found == pytest.approx(apart(scores, {"format": 0.5}))
    made = over_batch(graded.samples, sum(a * a for a in found), 4)
    assert np.std([s.advantage for s in made]) == pytest.approx(1.0)
    assert over_batch(graded.samples, 0.0, 0) == list(graded.samples)


def test_gdpo_is_trl_s_normalise_then_sum_up_to_its_epsilon_and_sample_deviations() -> None:
    """`grpo_trainer.py`, multi_objective_aggregation: its std is of samples (n - 1), ours of the group, which the division
    by the batch's spread takes back."""
    random = np.random.default_rng(0)
    raw, weights = random.normal(size=(3, 6, 2)), np.array([1.0, 0.3])
    theirs = (raw - raw.mean(1, keepdims=True)) / raw.std(1, ddof=1, keepdims=True)
    total = (theirs @ weights).ravel()
    expected = (total - total.mean()) / total.std(ddof=1)
    samples: list[Sample] = []
    for group in raw:
        scores = [Score(rule=float(a), format=float(b), total=0.0) for a, b in group]
        samples += grade([rollout((i,)) for i in range(6)], scores, weights={"format": 0.3}, combine="gdpo").samples
    found = over_batch(samples, sum(s.advantage**2 for s in samples), len(samples))
    ours = np.array([s.advantage for s in found])
    np.testing.assert_allclose(ours, expected * math.sqrt(18 / 17), atol=1e-9)


def test_cut_off_answers_count_in_the_mean_and_give_no_sample_where_they_are_masked() -> None:
    rollouts = [rollout((1,)), replace(rollout((2,)), ended=False), rollout((3,))]
    scores = [Score(rule=r, format=0.0, total=r) for r in (1.0, 0.0, 0.0)]
    whole, masked = grade(rollouts, scores).samples, grade(rollouts, scores, cut=False).samples
    assert [s.tokens for s in masked] == [(1,), (3,)]
    assert [s.advantage for s in masked] == [s.advantage for s in whole if s.tokens != (2,)]
