"""Few-step students of a completion teacher: score distillation with preferences (Distillation-DPO, arXiv 2504.11447,
with a loss that has a gradient).

Four noise predictors under one frozen encoder: the frozen teacher, the student, and an assistant each for winners and
for losers, all of which begin as the teacher. Assistants learn the noise prediction of the student's own scenes; the
student follows teacher minus assistant. A student of N steps is trained on the steps that it will make.
"""

import copy
from dataclasses import replace

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from common.distill.fake_score import TwoTimeScale, frozen
from common.distill.primitives.preference import PRESETS, as_released, contrast_direction, preference, ranked, vsd
from common.distill.primitives.score import direction, dmd_weight, eps_weight
from common.distill.rollout import backward_simulation
from common.distill.states import as_level
from common.distill.times import uniform
from common.errors import ConfigError
from common.nn.sparse.unet3d import BatchNorm
from perception.completion.losses import nearest, noise_loss
from perception.completion.metrics import CELL, jsd_bev, overlap
from perception.completion.model import CompletionModel, complete, guided_denoiser, predictions
from perception.completion.network import NoisePredictor, Scan, cloud
from perception.completion.sampling import consistent_levels, lidiff_local, start

WEIGHTS = ("eps", "dmd")
ROLES = ("winner", "loser")
CONTRAST = "contrast"


@torch.no_grad()
def worse(
    points: Tensor, scene: Tensor, metric: str, radius: float = 50.0, random: torch.Generator | None = None
) -> Tensor:
    """(B,) how bad each cloud (B, N, 3) is: "cd" mean of both directed distances to the scene, "recall" the scene's
    distance to the cloud alone, "jsd" divergence of the occupied columns and "iou" one minus the overlap of voxels of
    0.5 m, both within radius; "random" a coin (a negative control)."""
    if metric == "random":
        return torch.rand(len(points), generator=random).to(points.device)
    if metric in ("jsd", "iou"):
        pairs = [(p.detach().cpu().numpy(), t.cpu().numpy()) for p, t in zip(points, scene, strict=True)]
        if metric == "jsd":
            return points.new_tensor([jsd_bev(p, t, radius) for p, t in pairs])
        counts = [overlap(p, t, CELL, radius) for p, t in pairs]
        return points.new_tensor([1 - both / max(1, both + more + less) for both, more, less in counts])
    rows = []
    for cloud_, truth in zip(points, scene, strict=True):
        back = (truth - cloud_[nearest(truth, cloud_)]).norm(dim=-1).mean()
        there = (cloud_ - truth[nearest(cloud_, truth)]).norm(dim=-1).mean() if metric == "cd" else back
        rows.append((there + back) / 2)
    return torch.stack(rows)


@torch.no_grad()
def better_regions(first: Tensor, second: Tensor, anchor: Tensor, scene: Tensor, edge: float) -> Tensor:
    """(B, N) whether first's point belongs to a region where first is nearer to the scene than second.

    A region is a cube of edge metres; a completed point belongs to that of the scan's point it started at, anchor
    (B, N, 3), so both completions have the same points in it. Its distance is the mean of both directed halves.
    """
    rows = []
    for a, b, start_, truth in zip(first, second, anchor, scene, strict=True):
        cubes = torch.floor(torch.cat([start_, truth]) / edge).long()
        cubes, of = torch.unique(cubes, dim=0, return_inverse=True)
        ours, theirs = of[: len(start_)], of[len(start_) :]
        gap = a.new_zeros(len(cubes))
        for cloud_, sign in ((a, 1.0), (b, -1.0)):
            there = (cloud_ - truth[nearest(cloud_, truth)]).norm(dim=-1)
            back = (truth - cloud_[nearest(truth, cloud_)]).norm(dim=-1)
            for values, index in ((there, ours), (back, theirs)):
                count = torch.bincount(index, minlength=len(cubes)).clamp_min(1)
                gap += sign * gap.new_zeros(len(cubes)).index_add_(0, index, values) / count
        rows.append((gap < 0)[ours])
    return torch.stack(rows)


@MODELS.register_module()
class CompletionDistillation(BaseModel):
    """Args:
    teacher: config of the `CompletionModel` that `checkpoint` belongs to; steps N of the student; preset and its kappa
    (anchored, contrast) or omega (paper); critic_updates per update of the student; guidance of the teacher's score,
    which goes into a student of one evaluation per step; metric that ranks a pair; scales of a pair's starting noise,
    and whether it is shared; region: rank a pair not as a whole but cube by cube of so many metres, by Chamfer
    distance; weight of the score difference: "eps" or "dmd"; low, high: range of the levels at which scores are
    compared; released: the loss as published, without gradient; assistants: 2, or 1 that is told by a learnt vector on
    the scan's features whether it sees a winner or a loser (a quarter less memory).

    A training iteration is one update, of the assistants or of the student in turn: `optim_wrapper` is a dictionary
    with the keys "student" and "assistants". Evaluation runs the student.
    """

    METRICS = ("cd", "recall", "jsd", "iou", "random")

    def __init__(
        self, teacher: dict, checkpoint: str | None = None, steps: int = 1, preset: str = "anchored",
        kappa: float = 0.25, omega: float = 1.0, critic_updates: int = 3, guidance: float = 2.0, metric: str = "cd",
        scales: tuple[float, float] = (1.0, 1.1), shared_noise: bool = True, weight: str = "dmd", low: float = 0.02,
        high: float = 0.98, released: bool = False, assistants: int = 2, region: float | None = None,
        data_preprocessor: dict | None = None,
    ):  # fmt: skip
        super().__init__(data_preprocessor)
        for name, value, known in (
            ("preset", preset, (*PRESETS, CONTRAST)),
            ("metric", metric, self.METRICS),
            ("weight", weight, WEIGHTS),
        ):
            if value not in known:
                raise ConfigError(f"{name}={value!r}: choose one of {', '.join(known)}")
        if assistants not in (1, 2):
            raise ConfigError(f"assistants={assistants}: one for winners and one for losers, 2, or 1 for both")
        if shared_noise and scales[0] == scales[1]:
            raise ConfigError(f"scales={tuple(scales)} with shared noise make identical pairs: change one of them")
        arguments = {"anchored": {"kappa": kappa}, "paper": {"omega": omega}}.get(preset, {})
        self.contrast = kappa if preset == CONTRAST else None
        self.coefficients = vsd() if preset == CONTRAST else PRESETS[preset](**arguments)
        base = CompletionModel(**{key: value for key, value in teacher.items() if key != "type"})
        if checkpoint:
            from common.engine.checkpoint import load_weights

            load_weights(base, checkpoint)
        self.profile, self.encoder, self.teacher = base.profile, base.encoder, base.predict
        self.regulariser = base.regulariser
        names = ROLES if assistants == 2 else ("assistant",)
        self.networks = nn.ModuleDict({name: copy.deepcopy(base.predict) for name in ("student", *names)})
        if assistants == 1:
            self.roles = nn.Embedding(2, self.profile.down[-1])
            nn.init.zeros_(self.roles.weight)
        for module in (self.encoder, self.teacher):
            module.requires_grad_(False)
        self.turns, self.steps, self.guidance = TwoTimeScale(critic_updates), steps, guidance
        self.metric, self.scales, self.shared_noise = metric, tuple(scales), shared_noise
        self.region = region
        self.weight, self.range, self.released = weight, (low, high), released
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @property
    def student(self) -> NoisePredictor:
        return self.networks["student"]

    @property
    def assistants(self) -> list[nn.Module]:
        """All that the assistants' turn trains."""
        return [
            *(one for name, one in self.networks.items() if name != "student"),
            *([self.roles] if "roles" in self._modules else []),
        ]

    def assistant(self, role: str, seen: Scan) -> tuple[NoisePredictor, Scan]:
        """The network of a role, and the scan as it is told to it."""
        if role in self.networks:
            return self.networks[role], seen
        told = seen.features + self.roles.weight[ROLES.index(role)]
        return self.networks["assistant"], replace(seen, features=told)

    def train(self, mode: bool = True):
        """Encoder and teacher evaluate, whatever the mode; a batch norm of the others keeps the teacher's numbers."""
        super().train(mode)
        self.encoder.eval()
        self.teacher.eval()
        for module in self.networks.modules():
            if isinstance(module, BatchNorm):
                module.eval()
        return self

    def train_step(self, data: dict, optim_wrapper) -> dict[str, Tensor]:
        """One update: critic_updates of the assistants, then one of the student, over and over."""
        data = self.data_preprocessor(data, True)
        turn = self.turns.students_turn(int(self.updates))
        still = self.assistants if turn else [self.student]
        with frozen(*still):
            losses = self.student_losses(**data) if turn else self.assistant_losses(**data)
            total, logs = self.parse_losses(losses)
            optim_wrapper["student" if turn else "assistants"].update_params(total)
        self.updates += 1
        return logs

    def forward(
        self, scan: Tensor, scene: Tensor, seed: Tensor | None = None, dense: Tensor | None = None,
        mode: str = "predict",
    ):  # fmt: skip
        if mode != "predict":
            raise ConfigError(f"forward(mode={mode!r}): a distillation trains by train_step and predicts")
        return predictions(self.complete(scan, seed), scan, scene, seed, dense)

    def complete(self, scan: Tensor, seed: Tensor, steps: int | None = None) -> Tensor:
        """(B, N, 3) by the student, unguided, with the noise that a teacher would get."""
        return complete(self.encoder, self.student, self.profile, scan, seed, steps=steps or self.steps)

    def as_model(self) -> CompletionModel:
        """The student as a completion model that shares its weights, for export."""
        model = CompletionModel(self.profile, steps=self.steps, guidance=1.0)
        model.encoder, model.predict = self.encoder, self.student
        return model

    def pair(self, scan: Tensor) -> tuple[Tensor, Tensor]:
        """Two scenes (B, N, 3) of the student at one of its steps, from different starts, made in one batch."""
        process, levels = lidiff_local(), consistent_levels(self.steps)
        anchor = scan.repeat(1, self.profile.copies, 1)
        noise = torch.randn_like(anchor)
        other = noise if self.shared_noise else torch.randn_like(anchor)
        starts = [start(anchor, process, scale * z) for scale, z in zip(self.scales, (noise, other), strict=True)]
        last = int(torch.randint(self.steps, ()))
        denoise = guided_denoiser(self.student, self.seen(torch.cat([scan, scan])), None, 1.0)
        return backward_simulation(denoise, process, torch.cat(starts), levels, last).chunk(2)

    def judged(self, scan: Tensor, scene: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Winners, losers, and whether the first start won; by regions: each put together of the regions that won."""
        first, second = self.pair(scan)
        if self.region:
            anchor = scan.repeat(1, self.profile.copies, 1)
            won = better_regions(first.detach(), second.detach(), anchor, scene, self.region)
            return torch.where(won[..., None], first, second), torch.where(won[..., None], second, first), won
        bad = [worse(one.detach(), scene, self.metric, self.profile.radius) for one in (first, second)]
        return ranked(first, second, *bad)

    @torch.no_grad()
    def seen(self, scan: Tensor) -> Scan:
        """What the frozen encoder says of scans."""
        return self.encoder(scan)

    def assistant_losses(
        self, scan: Tensor, scene: Tensor, seed: Tensor | None = None, dense: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Noise prediction of the student's winners and losers, each by its assistant, with the teacher's regulariser:
        a score of another loss would differ by more than the data."""
        with torch.no_grad():
            winner, loser, _ = self.judged(scan, scene)
        seen, losses = self.seen(scan), {}
        for name, clean in zip(ROLES, (winner, loser), strict=True):
            t, eps = self.levels(clean), torch.randn_like(clean)
            noised = lidiff_local().noise(clean, t, eps)
            predict, told = self.assistant(name, seen)
            losses[f"loss_{name}"] = noise_loss(predict(noised, t, told), eps, self.regulariser)
        return losses

    def student_losses(
        self, scan: Tensor, scene: Tensor, seed: Tensor | None = None, dense: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The preset's loss of a fresh pair, level and noise shared."""
        winner, loser, won = self.judged(scan, scene)
        seen, empty = self.seen(scan), self.encoder.empty(len(scan)) if self.guidance != 1 else None
        t, eps = self.levels(winner), torch.randn_like(winner)
        noised = [lidiff_local().noise(y, t, eps) for y in (winner, loser)]
        gradients = [
            self.gradient(x.detach(), y, t, role, seen, empty)
            for role, x, y in zip(ROLES, noised, (winner, loser), strict=True)
        ]
        if self.released:
            terms = [as_released(*one) for one in zip((winner, loser), noised, gradients, strict=True)]
            loss = sum(c * term for c, term in zip(self.coefficients, terms, strict=True))
        else:
            loss = preference(winner, loser, *gradients, self.coefficients)
        return {"loss_student": loss.mean(), "first_won": won.float().mean()}

    @torch.no_grad()
    def gradient(self, x: Tensor, y: Tensor, t: Tensor, role: str, seen: Scan, empty: Scan | None) -> Tensor:
        """(B, N, 3) eps_teacher - eps_assistant at x, or the difference of their estimates normalised as DMD does."""
        teacher = guided_denoiser(self.teacher, seen, empty, self.guidance)
        fakes = {name: guided_denoiser(*self.assistant(name, seen), None, 1.0) for name in ROLES}
        x = cloud(x, self.teacher.spec)
        if self.contrast is None:
            difference, truth = direction(fakes[role], teacher, x, t)
        else:
            truth = teacher(x, t)
            difference = contrast_direction(truth, *(fakes[name](x, t) for name in ROLES), self.contrast)
        return difference * (dmd_weight(y, truth) if self.weight == "dmd" else eps_weight(lidiff_local(), t))

    def levels(self, like: Tensor) -> Tensor:
        """Levels (B, 1, 1) of the scores."""
        return as_level(uniform(len(like), *self.range), like)
