"""A teacher tuned by preferences between its own completions: explicit Diffusion-DPO (arXiv 2311.12908, eq. 14)."""

import copy

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor

from common.distill.primitives.diffusion_dpo import diffusion_dpo, margin
from common.distill.primitives.preference import ranked
from common.distill.states import as_level
from common.distill.times import uniform
from common.errors import ConfigError
from perception.completion.distillation import worse
from perception.completion.losses import noise_loss
from perception.completion.model import CompletionModel, guided_denoiser, predictions
from perception.completion.network import NoisePredictor, Scan
from perception.completion.sampling import lidiff_local, sample_local, start


@MODELS.register_module()
class CompletionTuning(BaseModel):
    """Args: teacher: config of the `CompletionModel` that `checkpoint` belongs to; steps and guidance of the
    completions that are compared; metric that ranks them; scale: beta T omega of the loss as one number. None: one over
    the spread of the reference's own difference of errors between winner and loser, over all pairs so far, because
    published values belong to the units of pictures, and the margin itself is 0 at the start.

    Reference and encoder are frozen; the tuned network begins as the reference.
    """

    def __init__(
        self, teacher: dict, checkpoint: str | None = None, steps: int = 4, guidance: float = 2.0, metric: str = "cd",
        scale: float | None = None, data_preprocessor: dict | None = None,
    ):  # fmt: skip
        super().__init__(data_preprocessor)
        base = CompletionModel(**{key: value for key, value in teacher.items() if key != "type"})
        if checkpoint:
            from common.engine.checkpoint import load_weights

            load_weights(base, checkpoint)
        self.profile, self.encoder, self.reference = base.profile, base.encoder, base.predict
        self.predict = copy.deepcopy(base.predict)
        for module in (self.encoder, self.reference):
            module.requires_grad_(False)
        self.steps, self.guidance, self.metric, self.scale = steps, guidance, metric, scale
        self.register_buffer("pairs", torch.zeros((), dtype=torch.float64))
        self.register_buffer("squares", torch.zeros((), dtype=torch.float64))

    def train(self, mode: bool = True):
        """Encoder and reference evaluate, whatever the mode."""
        super().train(mode)
        self.encoder.eval()
        self.reference.eval()
        return self

    def forward(
        self, scan: Tensor, scene: Tensor, seed: Tensor | None = None, dense: Tensor | None = None, mode: str = "loss"
    ):
        if mode == "loss":
            return self.loss(scan, scene)
        if mode != "predict":
            raise ConfigError(f"forward(mode={mode!r}): choose 'loss' or 'predict'")
        return predictions(self.as_model().complete(scan, seed), scan, scene, seed, dense)

    def as_model(self) -> CompletionModel:
        """The tuned network as a completion model that shares its weights."""
        model = CompletionModel(self.profile, steps=self.steps, guidance=self.guidance)
        model.encoder, model.predict = self.encoder, self.predict
        return model.eval()

    @torch.no_grad()
    def compared(self, scan: Tensor, scene: Tensor, seen: Scan) -> tuple[Tensor, Tensor]:
        """Winner and loser (B, N, 3) of two completions of the reference."""
        empty = self.encoder.empty(len(scan)) if self.guidance != 1 else None
        denoise = guided_denoiser(self.reference, seen, empty, self.guidance)
        anchor = scan.repeat(1, self.profile.copies, 1)
        two = [
            sample_local(denoise, start(anchor, lidiff_local(), torch.randn_like(anchor)), self.steps) for _ in range(2)
        ]
        bad = [worse(one, scene, self.metric, self.profile.radius) for one in two]
        return ranked(*two, *bad)[:2]

    def loss(self, scan: Tensor, scene: Tensor) -> dict[str, Tensor]:
        """Diffusion-DPO on a fresh pair; level and noise are shared, which lowers the variance."""
        with torch.no_grad():
            seen = self.encoder(scan)
        pair = self.compared(scan, scene, seen)
        t, eps = as_level(uniform(len(scan), 0.02, 0.98), scene), torch.randn_like(pair[0])

        def errors(predict: NoisePredictor) -> list[Tensor]:
            return [noise_error(predict(lidiff_local().noise(one, t, eps), t, seen), eps) for one in pair]

        with torch.no_grad():
            reference = errors(self.reference)
        tuned = errors(self.predict)
        margins = margin(tuned[0], reference[0], tuned[1], reference[1])
        return {
            "loss": diffusion_dpo(margins, self.fitted_scale(reference[0] - reference[1])).mean(),
            "preferred": (margins < 0).float().mean(),
        }

    def fitted_scale(self, gap: Tensor) -> float:
        """The scale; where it is measured, this batch's gaps (B,) count too."""
        if self.scale is not None:
            return self.scale
        if self.training:
            self.pairs += len(gap)
            self.squares += gap.double().square().sum()
        return float((self.pairs.clamp_min(1) / self.squares.clamp_min(1e-12)).sqrt())


def noise_error(eps_hat: Tensor, eps: Tensor) -> Tensor:
    """(B,) mean squared error of predicted noise."""
    return torch.stack([noise_loss(a, b) for a, b in zip(eps_hat, eps, strict=True)])
