"""Loss functions: pure functions of tensors, each with the equation that it implements."""

from torch import Tensor
from torch.nn import functional as F


def bradley_terry(margin_B: Tensor) -> Tensor:
    """The summed negative log-likelihood of B preferences: -log sigmoid(r_w - r_l) (paper A, A2 section 1).

    `margin_B` is r(x, chosen) - r(x, rejected), shape (B,). The sum, not the mean, is returned: the caller divides by the
    pairs of the *global* batch, so that accumulating gradients cannot change the result.
    """
    return -F.logsigmoid(margin_B).sum()


def accuracy(margin_B: Tensor) -> Tensor:
    """How many of B margins are strictly positive; a tie is wrong."""
    return (margin_B > 0).sum()
