"""Endpoint regression: the student's jump against a state that the teacher was seen to reach.

With pairs of noise and the teacher's end it is knowledge distillation (arXiv 2101.02388), with straight lines between
them reflow (arXiv 2209.03003), with the teacher's own two half-steps progressive distillation (arXiv 2202.00512).
"""

from collections.abc import Callable

from torch import Tensor

from common.distill.metrics import mse
from common.distill.states import Jump, States


def endpoint(student: Jump, states: States, metric: Callable = mse, mask: Tensor | None = None) -> Tensor:
    """(B,) metric(f(x, t, s), target)."""
    return metric(student(states.x, states.t, states.s), states.target, mask)


def two_step_x0(process, x: Tensor, t: Tensor, s: Tensor, x_s: Tensor) -> Tensor:
    """The x0 whose single jump from x at t to s arrives at x_s: progressive distillation's target.

    (x_s - (sigma_s / sigma_t) x) / (alpha_s - alpha_t sigma_s / sigma_t).
    """
    ratio = process.sigma(s) / process.sigma(t)
    return (x_s - ratio * x) / (process.alpha(s) - process.alpha(t) * ratio)
