"""One call instead of k: a student of the optimiser, by endpoint regression on the teacher's own plans.

The student's jump from what the teacher begins with, a written plan or noise, must land where the teacher's chain ends.
"""

import torch
from mmengine.registry import MODELS
from torch import Tensor

from common.distill.metrics import valid_mean
from common.distill.primitives.endpoint import endpoint
from common.distill.states import States
from common.engine.checkpoint import load_weights
from common.errors import ConfigError
from control.planning.diffuser.model import TrajectoryDiffuserModel
from control.planning.diffuser.plans import PlanMaker, PlanSettings
from control.planning.diffuser.refine import clean_start


@MODELS.register_module()
class PlannerStudent(TrajectoryDiffuserModel):
    """A `TrajectoryDiffuserModel` whose optimiser learns to make the teacher's plans in one evaluation; all else is the
    teacher's. It is run, exported and tested as its teacher is, with steps=1, eta=0 and no guidance.

    Args: checkpoint of the teacher, needed to train; plan: the teacher's settings as a config writes them, of which its
    candidates, its temperature and what it executes do not count: its chain runs without noise of its own, so that its
    end is a function of its start. The others as the teacher's.
    """

    def __init__(self, checkpoint: str | None = None, plan: dict | None = None, **kwargs):
        super().__init__(**kwargs)
        self.plan = dict(plan or {})
        self._teacher: list[PlanMaker] = []  # no submodule: it is neither trained nor saved
        if checkpoint:
            load_weights(self, checkpoint)
            teacher = TrajectoryDiffuserModel(**kwargs)
            load_weights(teacher, checkpoint)
            settings = PlanSettings(**{**self.plan, "temperature": 0.0, "candidates": 1, "execute": 1})
            self._teacher.append(PlanMaker(teacher.eval().requires_grad_(False), settings))
            entry = self._teacher[0].settings
            if entry.start == "previous" or not entry.level:
                raise ConfigError(
                    f"model.plan: start={entry.start!r}, level={entry.level}: a student learns from plans that begin "
                    "as written or as noise, at a level above 0"
                )
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("denoiser.net."))

    def fit(self, windows) -> None:
        """The statistics are the teacher's. Raises: ConfigError, for there is none."""
        raise ConfigError("model.checkpoint is not set: give the teacher's, --cfg-options model.checkpoint=CKPT")

    def forward(self, states: Tensor, returns: Tensor, mode: str = "tensor", **pair):
        """mode "loss": {"loss_student"} on plans from the windows' first states."""
        if mode != "loss":
            return super().forward(states, returns, mode, **pair)
        (make,) = self._teacher
        now = self.states(states[:, :1])
        held = make.settings.update == "hold"  # what the teacher will be asked for; else what the data had left
        left = make.settings.wanted(self) if held else returns[:, 0]
        asked = make.settings.asked(self, now[:, 0], left)[:, None].detach()
        target = make(now, asked, draws(now))
        t = clean_start(torch.tensor(make.settings.level / self.process.steps), self.horizon).to(now)
        condition = self.condition(asked[:, 0])

        def jump(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return self.process.step(x, t, s, self.denoiser(x, t, condition))

        learnt = (t > 0).to(now)[None]
        pairs = States(make.written.flatten(0, 1), t[None], torch.zeros_like(t)[None], target)
        return {"loss_student": endpoint(jump, pairs, lambda a, b, mask: valid_mean((a - b).square(), learnt)).mean()}


def draws(like: Tensor):
    """Standard normals for a batch, as `PlanMaker` asks for them."""

    def draw(*shape: int, leading: bool = False) -> Tensor:
        whole = (shape[0], len(like), *shape[1:]) if leading else (len(like), *shape)
        return torch.randn(whole, dtype=like.dtype, device=like.device)

    return draw
