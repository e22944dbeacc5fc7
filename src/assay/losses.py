"""Losses as pure functions of rewards and of log-probabilities. All are sums: the caller divides by the global batch."""

from dataclasses import dataclass
from typing import Literal

import torch


def bradley_terry(
    margin_B: torch.Tensor, offset_B: torch.Tensor | None = None, certainty_B: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum over pairs of -log sigmoid(r_chosen - r_rejected); paper A's only reward-model loss (A.8).

    Args:
        margin_B: r_chosen - r_rejected, shape (B,).
        offset_B: By how much the chosen response should win, subtracted from the margin (Llama 2, eq. 2).
        certainty_B: The probability that the label is right, in (0.5, 1]; the other order weighs the rest (soft labels).

    A sum, not a mean: the caller divides by the size of the global batch, so that accumulation and data parallelism
    give the same gradient as one large batch.
    """
    if offset_B is not None:
        margin_B = margin_B - offset_B
    right = -torch.nn.functional.logsigmoid(margin_B)
    if certainty_B is None:
        return right.sum()
    return (certainty_B * right - (1 - certainty_B) * torch.nn.functional.logsigmoid(-margin_B)).sum()


def centering(chosen_B: torch.Tensor, rejected_B: torch.Tensor) -> torch.Tensor:
    """The sum over pairs of (r_chosen + r_rejected)^2: Bradley-Terry leaves the level of rewards free; this pins it."""
    return (chosen_B + rejected_B).square().sum()


def accuracy(margin_B: torch.Tensor) -> torch.Tensor:
    """The number of pairs whose chosen response scores strictly higher, over a batch of margins."""
    return (margin_B > 0).sum()


def dpo(chosen_B: torch.Tensor, rejected_B: torch.Tensor) -> torch.Tensor:
    """The sum over pairs of -log sigmoid(r_c - r_r), the preference loss L_p (paper B, eq. 3).

    `chosen_B` and `rejected_B` are implicit rewards, beta (log pi - log pi_0) of whole responses, shape (B,).
    """
    return -torch.nn.functional.logsigmoid(chosen_B - rejected_B).sum()


def bco(chosen_B: torch.Tensor, rejected_B: torch.Tensor, shift: float | torch.Tensor = 0.0) -> torch.Tensor:
    """The sum over pairs of -log sigmoid(r_c - delta) - log sigmoid(delta - r_r), the quality loss L_q (paper B, eq. 4).

    `shift` is delta, the moving average of past rewards. TRL's bco_pair since 0.29 has no delta, which is shift = 0: once
    rewards have drifted to one side of zero, one of its two halves has nothing left to teach.
    """
    quality = torch.nn.functional.logsigmoid
    return -(quality(chosen_B - shift) + quality(shift - rejected_B)).sum()


def nll(logp_B: torch.Tensor, tokens_B: torch.Tensor) -> torch.Tensor:
    """The sum over responses of -log pi(y | x) / |y|, the generation loss L_g (paper B, eq. 5).

    InternVL's script takes the mean over all tokens of the batch instead; we keep the formula.
    """
    return -(logp_B / tokens_B).sum()


@dataclass(slots=True)
class Shift:
    """BCO's delta: the mean of all rewards of past steps (TRL 0.9.6, which InternVL used, takes in the current batch
    first; ours does not, so that accumulation and data parallelism change nothing)."""

    total: float = 0.0
    count: int = 0

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else 0.0

    def add(self, total: float, count: int) -> None:
        """Take in a step's rewards: their sum and number."""
        self.total, self.count = self.total + total, self.count + count


def grpo(
    logp_M: torch.Tensor, old_M: torch.Tensor, advantage_M: torch.Tensor, epsilon: float = 0.2,
    epsilon_high: float | None = None, most: float | None = None,
) -> torch.Tensor:  # fmt: skip
    """Each token's clipped surrogate, negated to be minimised, shape (M,) (paper B, eq. 8).

    -min(ratio A, clip(ratio, 1 - e, 1 + e) A) with ratio = exp(logp - old), `old_M` being what the policy that sampled the
    token gave it: for a token from the buffer, that of some steps ago. `most` bounds the ratio from above (dual clip, Ye et
    al. 2020): as printed, a replayed token of negative advantage that has become likelier since has no bound at all.
    """
    ratio_M = (logp_M - old_M).exp()
    if most is not None:
        ratio_M = ratio_M.clamp(max=most)
    high = epsilon if epsilon_high is None else epsilon_high
    return -torch.minimum(ratio_M * advantage_M, ratio_M.clamp(1 - epsilon, 1 + high) * advantage_M)


def kl_to(logp_M: torch.Tensor, reference_M: torch.Tensor) -> torch.Tensor:
    """Each token's estimate of KL(pi || pi_ref), shape (M,): exp(d) - d - 1 with d = log pi_ref - log pi ("k3")."""
    d_M = reference_M - logp_M
    return d_M.exp() - d_M - 1


def importance(
    log_ratio_M: torch.Tensor, lengths_N: torch.Tensor, per: Literal["token", "sequence"] = "token",
    beyond: Literal["truncate", "mask"] = "truncate", most: float = 2.0, least: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """What each token counts for, shape (M,), where another engine sampled than trains: w = pi(token) / sampler(token).

    Per token (Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"), or one for each
    response, the product over its tokens (Liu et al. 2025, "When Speed Kills Stability"). "truncate": w within [least, most]
    (TIS); "mask": what lies outside counts for nothing (MIS; with `least` above 0 and per token, IcePop). The same as TRL's
    `vllm_importance_sampling_mode` and verl's `rollout_is`, except that nobody is left out of a mean's denominator.

    Args:
        log_ratio_M: log pi - log sampler of the responses' tokens, one response after another, without gradient.
        lengths_N: Tokens of each response; they add up to M.
    """
    if per == "sequence":
        sums_N = torch.stack([part.sum() for part in torch.split(log_ratio_M, lengths_N.tolist())])
        log_ratio_M = sums_N.repeat_interleave(lengths_N)
    weight_M = log_ratio_M.clamp(max=20.0).exp()
    if beyond == "truncate":
        return weight_M.clamp(least, most)
    return weight_M * ((weight_M >= least) & (weight_M <= most))
