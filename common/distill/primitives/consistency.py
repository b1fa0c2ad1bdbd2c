"""Discrete backward consistency: two neighbouring states of one path must jump to the same place.

s = 0: consistency distillation (arXiv 2303.01469). Any s < t: consistency trajectory models (arXiv 2310.02279); s
within t's segment: TSCD (arXiv 2404.13686).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from common.distill.metrics import pseudo_huber
from common.distill.states import Jump


def consistency(
    student: Jump,
    target: Jump,
    step: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    u: Tensor,
    s: Tensor,
    metric: Callable = pseudo_huber,
    mask: Tensor | None = None,
) -> Tensor:
    """(B,) metric(f(x, t, s), sg f'(Psi(x, t -> u), u, s)) for s <= u < t.

    Args: student f; target f', f itself or an average of it; step Psi: one or more solver steps of the teacher,
    (x, t, u) -> x_u, or the same-noise pair for consistency training.
    """
    with torch.no_grad():
        there = target(step(x, t, u), u, s)
    return metric(student(x, t, s), there, mask)
