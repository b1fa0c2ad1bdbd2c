"""Preference-weighted score distillation: two samples of the student, one of them better, one assistant for each.

    L = c_w mean(d_w . y_w) + c_l mean(d_l . y_l),  d = sg(eps_teacher - eps_assistant) at the noised sample

Distillation-DPO (arXiv 2504.11447, eq. 18) has the coefficients (-1/omega, 1/omega). What winner and loser have in
common cancels in their difference, so the paper's form steers what separates a pair and does not distil; `anchored`
adds it to plain score distillation.
"""

import torch
from torch import Tensor

from common.distill.primitives.score import surrogate


def vsd() -> tuple[float, float]:
    """Plain score distillation of both samples."""
    return 0.5, 0.5


def paper(omega: float = 1.0) -> tuple[float, float]:
    """Distillation-DPO, eq. 18."""
    return -1 / omega, 1 / omega


def anchored(kappa: float = 0.25) -> tuple[float, float]:
    """Score distillation plus kappa times the preference; 1/2 distils losers alone."""
    return 0.5 - kappa, 0.5 + kappa


def first_release() -> tuple[float, float]:
    """The sign of the first released code: a negative control."""
    return 1.0, -1.0


def contrast_direction(teacher: Tensor, winner: Tensor, loser: Tensor, kappa: float) -> Tensor:
    """x0_fake - x0_teacher + kappa (x0_loser - x0_winner), the fake estimate being the mean of both assistants'.

    All three estimates are made at the same noised sample, whichever it is. The second term is the gradient of
    -log(p_winner / p_loser), of the odds that a sample like this one wins: it leads to winners from everywhere, and is
    0 where winners and losers are alike.
    """
    return (winner + loser) / 2 - teacher + kappa * (loser - winner)


PRESETS = {"vsd": vsd, "paper": paper, "anchored": anchored, "first_release": first_release}


def ranked(first: Tensor, second: Tensor, worse: Tensor, worse_second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Winners, losers (B, ...) and whether `first` won (B,), where smaller numbers (B,) are better; a tie goes to it.

    Raises: ValueError for two identical samples: a pair must differ, by its noise or by its scale.
    """
    if torch.equal(first, second):
        raise ValueError("both samples of the pair are identical: give them different noise, or scales other than 1")
    won = worse <= worse_second
    which = won.reshape(-1, *[1] * (first.dim() - 1))
    return torch.where(which, first, second), torch.where(which, second, first), won


def preference(
    winner: Tensor,
    loser: Tensor,
    winner_gradient: Tensor,
    loser_gradient: Tensor,
    coefficients: tuple[float, float],
    mask: Tensor | None = None,
) -> Tensor:
    """(B,) L above; the gradients are those of `score.direction`, weighted, and are not differentiated."""
    c_w, c_l = coefficients
    return c_w * surrogate(winner, winner_gradient, mask) + c_l * surrogate(loser, loser_gradient, mask)


def as_released(y: Tensor, noised: Tensor, difference: Tensor) -> Tensor:
    """(B,) the loss of the released code, mean(d . (y_t - y)), for its regression test alone: with y_t = y + constant
    noise its gradient with respect to y is d - d = 0."""
    return surrogate(noised - y, difference)
