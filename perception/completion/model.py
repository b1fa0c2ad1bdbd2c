"""The completion teacher: noise prediction on local diffusion under a scan, and sampling with guidance."""

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor

from common.diffusion.samplers import Denoise
from common.distill.states import as_level, guided
from common.errors import ConfigError
from perception.completion.losses import noise_loss, squared_chamfer
from perception.completion.network import Cloud, Encoder, NoisePredictor, Scan, cloud
from perception.completion.profiles import Profile, profile_of
from perception.completion.sampling import SAMPLERS, STEPS, lidiff_local, start


def denoiser(predict: NoisePredictor, scan: Scan) -> Denoise:
    """(x, t) -> estimate of the clean points, x - sigma eps_hat."""
    process = lidiff_local()

    def x0(x: Tensor | Cloud, t: Tensor) -> Tensor:
        points = x.points if isinstance(x, Cloud) else x
        return points - process.sigma(t) * predict(x, t, scan)

    return x0


def guided_denoiser(predict: NoisePredictor, scan: Scan, empty: Scan | None, weight: float) -> Denoise:
    """`denoiser` under classifier-free guidance; both evaluations share the points' tables."""
    seen = denoiser(predict, scan)
    if weight == 1:
        return seen
    both = guided(seen, denoiser(predict, empty), weight)
    return lambda x, t: both(x if isinstance(x, Cloud) else cloud(x, predict.spec), t)


def seeded_noise(seeds: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """(B, *shape) standard normal, a function of each sample's seed: comparisons are paired."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(rows).to(like)


@torch.no_grad()
def complete(
    encoder: Encoder, predict: NoisePredictor, profile: Profile, scan: Tensor, seed: Tensor, *, steps: int,
    sampler: str = "local", guidance: float = 1.0,
) -> Tensor:  # fmt: skip
    """(B, N, 3) from scans (B, n, 3); the starting noise is each sample's seed's."""
    anchor = scan.repeat(1, profile.copies, 1)
    seen, empty = encoder(scan), encoder.empty(len(scan)) if guidance != 1 else None
    noise = seeded_noise(seed, (steps + 1, *anchor.shape[1:]), anchor).transpose(0, 1)
    x = start(anchor, lidiff_local(), noise[0])
    denoise = guided_denoiser(predict, seen, empty, guidance)
    return SAMPLERS[sampler](denoise, x, steps, anchor, noise=noise[1:])


def predictions(found: Tensor, scan: Tensor, scene: Tensor, seed: Tensor, dense: Tensor | None = None) -> list[dict]:
    """What `SceneMetric` takes: a dictionary per sample, clouds before the output filter. The truth is the dense scene
    where there is one: distances to a thinned truth are mostly distances between its points."""
    rows = zip(found, scene if dense is None else dense, scan, seed, strict=True)
    return [{"prediction": p, "truth": t, "scan": s, "seed": int(i)} for p, t, s, i in rows]


@MODELS.register_module()
class CompletionModel(BaseModel):
    """Args: profile: name or `Profile`; drop: share of training samples whose scan is hidden, for guidance;
    regulariser of `noise_loss`; sampler "local" or "vp_offset"; steps and guidance of sampling; norm.

    forward(scan (B, n, 3), scene (B, N, 3), seed (B,), dense (B, M, 3)): mode "loss" {"loss"}; mode "predict" a list of
    {"prediction", "truth", "scan", "seed"}, clouds before the output filter.
    """

    def __init__(
        self, profile: str | Profile, drop: float = 0.1, regulariser: float = 0.0, sampler: str = "local",
        steps: int = 20, guidance: float = 2.0, norm: str = "instance", data_preprocessor: dict | None = None,
    ):  # fmt: skip
        super().__init__(data_preprocessor)
        if sampler not in SAMPLERS:
            raise ConfigError(f"sampler={sampler!r}: choose one of {', '.join(SAMPLERS)}")
        self.profile = profile_of(profile)
        spec = self.profile.spec
        self.encoder = Encoder(spec, self.profile.down, norm)
        self.predict = NoisePredictor(spec, self.profile.down, self.profile.up, norm)
        self.drop, self.regulariser = drop, regulariser
        self.sampler, self.steps, self.guidance = sampler, steps, guidance

    def forward(
        self, scan: Tensor, scene: Tensor, seed: Tensor | None = None, dense: Tensor | None = None, mode: str = "loss"
    ):
        if mode == "loss":
            return {"loss": self.loss(scan, scene)}
        if mode != "predict":
            raise ConfigError(f"forward(mode={mode!r}): choose 'loss' or 'predict'")
        return predictions(self.complete(scan, seed), scan, scene, seed, dense)

    def loss(self, scan: Tensor, scene: Tensor) -> Tensor:
        """Noise prediction at uniform levels; a hidden scan is one voxel at the origin."""
        B = len(scan)
        t = as_level((torch.randint(STEPS, (B,)) + 1) / STEPS, scene)
        hidden = as_level((torch.rand(B) < self.drop).float(), scan)
        eps = torch.randn_like(scene)
        seen = self.encoder(scan * (1 - hidden))
        return noise_loss(self.predict(lidiff_local().noise(scene, t, eps), t, seen), eps, self.regulariser)

    def complete(self, scan: Tensor, seed: Tensor, steps: int | None = None, sampler: str | None = None,
                 guidance: float | None = None) -> Tensor:  # fmt: skip
        """(B, N, 3) from scans (B, n, 3); other steps, sampler or guidance than the model's own on demand."""
        return complete(
            self.encoder, self.predict, self.profile, scan, seed, steps=steps or self.steps,
            sampler=sampler or self.sampler, guidance=self.guidance if guidance is None else guidance,
        )  # fmt: skip


@MODELS.register_module()
class OnePassModel(CompletionModel):
    """The competitor without diffusion: the same networks take the noisy copies of the scan to the scene in one
    evaluation at the highest level, trained on squared Chamfer distance (the idea of LiNeXt, arXiv 2511.10209)."""

    def __init__(self, profile: str | Profile, norm: str = "instance", data_preprocessor: dict | None = None):
        super().__init__(profile, drop=0.0, steps=1, guidance=1.0, norm=norm, data_preprocessor=data_preprocessor)

    def loss(self, scan: Tensor, scene: Tensor) -> Tensor:
        """Squared Chamfer distance, m^2, of one step from fresh noise."""
        anchor = scan.repeat(1, self.profile.copies, 1)
        x = start(anchor, lidiff_local(), torch.randn_like(anchor))
        found = denoiser(self.predict, self.encoder(scan))(x, x.new_ones(()))
        return squared_chamfer(found, scene).mean()
