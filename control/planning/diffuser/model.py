"""What is trained: generator, optimiser, inverse dynamics, values and a cloned policy, all from the same windows.

The losses share no parameter, so their sum trains each network as if alone. Letters: B batch, H horizon of a plan, K
states of history at most, L = K + H - 1 of a window, S state, A action.
"""

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor

from common.diffusion.denoiser import Denoiser
from common.diffusion.process import Process
from common.errors import ConfigError
from control.planning.diffuser.generator import TrajectoryGenerator
from control.planning.diffuser.networks import InverseDynamics, ReturnEmbedding, expectile, mlp
from control.planning.diffuser.refine import clean_start
from control.policies.model import build
from control.policies.normaliser import MeanStdNormaliser, MinMaxNormaliser


@MODELS.register_module()
class TrajectoryDiffuserModel(BaseModel):
    """Args:
    state_dim S; action_dim A; horizon H, of which position 0 is now; observed K; stride: environment steps between
        a plan's states.
    generator: arguments of `TrajectoryGenerator`; net: config of a network like `ConditionalUNet1D`, its action_dim
        and condition_dim are filled in; process; unconditional: share of plans that the optimiser learns without
        their return.
    tau: expectile of the values; 0.5 is the mean.
    clean: False noises position 0 as the release does (its level is the plan's, its noise 0) and learns it too.
    shared: False normalises the inverse dynamics' goals by statistics of their own, as the release does.
    discount: of the returns, as the windows'.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        horizon: int,
        net: dict,
        process: dict | Process,
        generator: dict | None = None,
        observed: int = 1,
        stride: int = 1,
        unconditional: float = 0.25,
        tau: float = 0.9,
        inverse_widths: tuple[int, ...] = (256, 256),
        clean: bool = True,
        shared: bool = True,
        discount: float = 1.0,
        data_preprocessor: dict | None = None,
    ):
        super().__init__(data_preprocessor)
        if horizon < 2 or observed < 1 or stride < 1:
            raise ConfigError(f"horizon={horizon}, observed={observed}, stride={stride}: at least 2, 1 and 1")
        self.state_dim, self.action_dim, self.horizon = state_dim, action_dim, horizon
        self.observed, self.stride, self.discount = observed, stride, discount
        self.unconditional, self.tau, self.clean = unconditional, tau, clean
        self.states = MeanStdNormaliser(state_dim)
        self.goals = None if shared else MeanStdNormaliser(state_dim)
        self.actions = MinMaxNormaliser(action_dim)
        for name in ("return_low", "return_high", "return_scale"):
            self.register_buffer(name, torch.tensor(torch.nan))
        self.register_buffer("generator_error", torch.zeros(()))  # 0: not measured; averaged weights average it too
        self.process = build(process)
        self.generator = TrajectoryGenerator(state_dim, observed + horizon - 1, **(generator or {}))
        self.embedding = ReturnEmbedding()
        self.denoiser = Denoiser(
            build(net, action_dim=state_dim, condition_dim=self.embedding.width), self.process, "eps", self.states.most
        )
        self.inverse = InverseDynamics(state_dim, action_dim, stride, inverse_widths)
        self.value, self.plan_value = mlp(state_dim, 1), mlp(horizon * state_dim, 1)
        self.cloning = mlp(state_dim + 1, action_dim)

    def fit(self, windows) -> None:
        """Take statistics from the training windows."""
        self.states.fit(windows.states)
        self.actions.fit(windows.actions)
        if self.goals:
            follows = torch.ones(len(windows.states), dtype=torch.bool)
            follows[windows.first] = False
            self.goals.fit(windows.states[follows])
        begun = windows.returns[windows.starts]
        self.return_low.copy_(begun.min())
        self.return_high.copy_(begun.max())
        self.return_scale.copy_(windows.returns.abs().max().clamp_min(1e-6))

    def check(self) -> None:
        """Raises DataError while the statistics are missing."""
        self.states.check()

    def condition(self, returns: Tensor) -> Tensor:
        """The optimiser's condition (B, C) of normalised returns (B,)."""
        return self.denoiser.net.project(self.embedding(returns))

    def guided(self, weight: float) -> Denoiser:
        """The optimiser with classifier-free guidance of that weight, in one doubled batch; shares all parameters."""
        most = self.states.most  # no data are further out, and near pure noise an estimate is divided by almost 0
        return Denoiser(self.denoiser.net, self.process, "eps", most, weight, lambda c: (torch.zeros_like(c),))

    @property
    def observes(self) -> tuple[str, ...]:
        """Names of the observations that it plans from."""
        return ("state",)

    def actor(self, plan: dict):
        """What rolls it out: a `Planner` with the settings of `plan`, or with kind="cloning" the cloned policy."""
        from control.planning.diffuser.planner import Cloned, Planner
        from control.planning.diffuser.plans import PlanSettings

        plan = dict(plan)
        kind = plan.pop("kind", "planner")
        if kind not in ("planner", "cloning"):
            raise ConfigError(f"plan.kind={kind!r}: choose planner or cloning")
        try:
            settings = PlanSettings(**plan)
        except TypeError as error:
            raise ConfigError(f"plan: {error}") from error
        return Planner(self, settings) if kind == "planner" else Cloned(self, settings)

    def act(self, state: Tensor, goal: Tensor, gap: Tensor) -> Tensor:
        """(B, A) in the environment's units, within the range of the data: normalised states (B, S)."""
        if self.goals:
            goal = self.goals(self.states.inverse(goal))
        return self.actions.inverse(self.inverse(state, goal, gap).clamp(-1, 1))

    def forward(self, states: Tensor, returns: Tensor, mode: str = "tensor", **pair):
        """mode "loss": a loss per network. states (B, L, S), returns (B, L), pair as `PlanWindows` gives it."""
        if mode != "loss":
            raise ConfigError(f"forward(mode={mode!r}): a planner is evaluated by rollouts (control/planning/diffuser)")
        normal, asked = self.states(states), returns / self.return_scale
        offset = int(torch.randint(self.observed, ()))  # plans from the whole window: beginnings and ends
        plan, goal_return = normal[:, offset : offset + self.horizon], asked[:, offset]
        origin, own = self.states(pair["origin"]), pair["asked"] / self.return_scale
        written, promised = self.generator.errors(normal, asked)
        if self.training:
            self._note(written.detach().sqrt())
        acted = self.inverse(origin, (self.goals or self.states)(pair["goal"]), pair["gap"])
        cloned, action = self.cloning(torch.cat([origin, own[:, None]], -1)), self.actions(pair["action"])
        return {
            "loss_generator": written + promised,
            "loss_optimiser": self.optimiser_loss(plan, goal_return),
            "loss_inverse": (acted - action).square().mean(),
            "loss_cloning": (cloned - action).square().mean(),
            "loss_value": expectile(own - self.value(origin)[:, 0], self.tau).mean(),
            "loss_plan_value": (goal_return - self.plan_value(plan.flatten(1))[:, 0]).square().mean(),
        }

    def _note(self, error: Tensor) -> None:
        """Running mean of the generator's error of one step, a deviation in normalised units."""
        before = torch.where(self.generator_error == 0, error, self.generator_error)
        self.generator_error.copy_(before + 0.01 * (error - before))

    def optimiser_loss(self, plan: Tensor, returns: Tensor) -> Tensor:
        """Noise prediction on plans (B, H, S) whose position 0 is given, the state of now, and is not learnt."""
        B, H, N = len(plan), self.horizon, self.process.steps
        level = (torch.randint(1, N + 1, (B,), device=plan.device) / N).to(plan)
        keep = (torch.rand(B, 1, device=plan.device) >= self.unconditional).to(plan)
        condition, eps = keep * self.condition(returns), torch.randn_like(plan)
        learnt = (torch.arange(H, device=plan.device) > 0).to(plan)[:, None]
        if self.clean:
            return self.denoiser.loss(plan, clean_start(level, H), eps, condition, weight=learnt)
        return self.denoiser.loss(plan, level[:, None, None], eps * learnt, condition)
