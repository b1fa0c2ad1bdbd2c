"""The last observations of every environment, as a policy sees them."""

from collections import deque
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Shape = tuple[int | None, ...]


def _fits(shape: tuple[int, ...], wanted: Shape | None) -> bool:
    """None stands for any size, as a dimension or as the whole shape."""
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(b in (None, a) for a, b in zip(shape, wanted, strict=True))


class ObservationHistory:
    """Keeps `observed` steps of B environments; an episode's first observation stands in for the steps before it.

    shapes: name -> shape of one environment's observation, None where a size is free; the first observation taken fixes
    it. steps: one deque of {name: array} per environment, None before its first.
    """

    def __init__(self, shapes: Mapping[str, Shape | None], observed: int, batch: int):
        self.shapes, self.observed = dict(shapes), observed
        self.steps: list[deque | None] = [None] * batch

    @classmethod
    def of(cls, encoders: Mapping, observed: int, batch: int) -> "ObservationHistory":
        """For observation encoders {name: encoder}; an encoder's `shape` is what it takes, by default anything."""
        return cls({name: getattr(one, "shape", None) for name, one in encoders.items()}, observed, batch)

    def __len__(self) -> int:
        return len(self.steps)

    def restart(self, index: int) -> None:
        """Environment `index` begins an episode."""
        self.steps[index] = None

    def check(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{name: (B, ...)} as arrays of their own, floats as float32. Raises ValueError naming what is missing, of a
        wrong shape or not finite."""
        taken = {}
        for name, shape in self.shapes.items():
            if name not in observation:
                raise ValueError(f"observation {name!r} is missing; the policy observes {', '.join(self.shapes)}")
            values = np.array(observation[name])
            wanted = ["..."] if shape is None else ["any" if size is None else str(size) for size in shape]
            described = f"wanted ({', '.join([str(len(self)), *wanted])}) for {len(self)} environments"
            if values.dtype.kind not in "biuf":
                raise ValueError(f"observation {name!r} is of type {values.dtype}; {described}, numbers")
            if values.ndim == 0 or len(values) != len(self) or not _fits(values.shape[1:], shape):
                raise ValueError(
                    f"observation {name!r} is {values.shape}; {described}: the first axis is the environment, the "
                    "others as in the demonstrations"
                )
            if values.dtype.kind == "f":
                with np.errstate(over="ignore"):
                    values = values.astype(np.float32)
            if not np.isfinite(values).all():
                raise ValueError(f"observation {name!r} is {values.shape}, finite: False; {described}, finite")
            taken[name] = values
        return taken

    def append(self, observation: dict[str, np.ndarray]) -> None:
        """Take {name: (B, ...)} of the current step. Raises as `check`; nothing is taken then."""
        taken = self.check(observation)
        self.shapes = {name: values.shape[1:] for name, values in taken.items()}
        for index in range(len(self)):
            self.take(index, {name: values[index] for name, values in taken.items()})

    def take(self, index: int, now: dict[str, np.ndarray]) -> None:
        """Take one environment's observation {name: (...)} of its current step, as it is; the others stay."""
        if self.steps[index] is None:
            self.steps[index] = deque([now] * self.observed, maxlen=self.observed)
        else:
            self.steps[index].append(now)

    def stacked(self, rows=None) -> dict[str, Tensor]:
        """{name: (rows, observed, ...)}, oldest first, of all environments or of some."""
        chosen = self.steps if rows is None else [self.steps[row] for row in rows]
        return {
            name: torch.from_numpy(np.stack([[step[name] for step in one] for one in chosen])) for name in self.shapes
        }


def episode_rows(batch: int, seeds: list[int] | None, mask: np.ndarray | None) -> np.ndarray:
    """Indices of the environments that begin. Raises ValueError unless mask and seeds, where given, are (B,)."""
    mask = np.ones(batch, bool) if mask is None else np.asarray(mask, bool)
    if mask.shape != (batch,) or (seeds is not None and len(seeds) != batch):
        got = "none" if seeds is None else len(seeds)
        raise ValueError(
            f"reset: mask {mask.shape}, {got} seeds; this policy has {batch} environments: give a mask ({batch},) and "
            f"{batch} seeds, or no seeds"
        )
    return np.flatnonzero(mask)
