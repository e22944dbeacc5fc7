"""Losses as pure functions of rewards."""

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
