"""Refinement: a second network makes six points of each completed one, on the surface (LiDiff, CVPR 2024).

Trained without any diffusion model: true scenes with clipped noise go in, a denser draw of the same scene is the target
of a squared Chamfer distance.
"""

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor

from common.errors import ConfigError
from perception.completion.losses import squared_chamfer
from perception.completion.model import predictions, seeded_noise
from perception.completion.network import Refiner
from perception.completion.profiles import Profile, profile_of

SPREAD, CLIP = 0.2, 0.3  # m of the noise per coordinate, and where it is cut


@MODELS.register_module()
class RefinementModel(BaseModel):
    """Args: profile: name or `Profile`; norm.

    forward(scan (B, n, 3), scene (B, N, 3), seed (B,), dense (B, M, 3)): mode "loss" {"loss"} with `dense` as the
    target; mode "predict": noised scenes, refined, as `SceneMetric` takes them.
    """

    def __init__(self, profile: str | Profile, norm: str = "instance", data_preprocessor: dict | None = None):
        super().__init__(data_preprocessor)
        self.profile = profile_of(profile)
        self.refine = Refiner(self.profile.spec, self.profile.down, self.profile.up, norm)

    def forward(
        self, scan: Tensor, scene: Tensor, seed: Tensor | None = None, dense: Tensor | None = None, mode: str = "loss"
    ):
        if mode == "loss":
            return {"loss": self.loss(scene, dense)}
        if mode != "predict":
            raise ConfigError(f"forward(mode={mode!r}): choose 'loss' or 'predict'")
        noised = scene + disturbance(seeded_noise(seed, scene.shape[1:], scene))
        return predictions(self.refine(noised), scan, scene, seed, dense)

    def loss(self, scene: Tensor, dense: Tensor | None) -> Tensor:
        """Squared Chamfer distance, m^2, of the refined noisy scene to the dense one. Raises ConfigError without it."""
        if dense is None:
            raise ConfigError("the samples hold no dense scene: set train_dataloader.dataset.dense=2")
        return squared_chamfer(self.refine(scene + disturbance(torch.randn_like(scene))), dense).mean()


def disturbance(noise: Tensor) -> Tensor:
    """Standard normal noise to what training adds, in metres."""
    return (SPREAD * noise).clamp(-CLIP, CLIP)
