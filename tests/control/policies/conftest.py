import numpy as np
import pytest
import torch

from common.diffusion.levels import delayed_ladder, equal, iid
from common.diffusion.process import vp_cosine
from common.nn.unet1d import ConditionalUNet1D
from control.demonstrations.store import Episode
from control.policies.encoders import StateEncoder
from control.policies.model import DiffusionPolicyModel
from control.policies.windows import WindowDataset


def sines(count=6, steps=40, seed=0):
    """Episodes whose two actions follow the state's phase; a third action dimension is constant."""
    random = np.random.default_rng(seed)
    episodes = []
    for number in range(count):
        phase = random.uniform(0, 2 * np.pi) + 0.15 * np.arange(steps + 1)
        state = np.stack([np.sin(phase), np.cos(phase), 0 * phase + 5], 1).astype(np.float32)
        action = np.stack([300 + 100 * np.sin(phase[1:]), 50 * np.cos(phase[1:]), 0 * phase[1:] + 7], 1)
        episodes.append(Episode({"state": state}, action.astype(np.float32), np.zeros(steps, np.float32), True, number))
    return episodes


@pytest.fixture
def windows():
    return WindowDataset(sines(), horizon=20)


def tiny_model(widths=(16, 32), steps=100, seed=0, **kwargs):
    torch.manual_seed(seed)
    patterns = {
        "equal": (0.2, dict(type=equal, steps=steps)),
        "ladder": (0.6, dict(type=delayed_ladder, steps=steps, execute=1, max_delay=4)),
        "iid": (0.2, dict(type=iid, steps=steps)),
    }
    arguments = dict(
        action_dim=3,
        horizon=20,
        encoders={"state": dict(type=StateEncoder, width=3)},
        net=dict(type=ConditionalUNet1D, widths=widths, groups=4, level_width=16),
        process=dict(type=vp_cosine, steps=steps),
        patterns=patterns,
    )
    return DiffusionPolicyModel(**{**arguments, **kwargs})


def fitted(windows, **kwargs):
    model = tiny_model(prediction="x0", **kwargs)  # untrained noise predictions would end at the clipping bounds
    model.fit(windows)
    return model.eval()


@pytest.fixture
def model(windows):
    return fitted(windows)


@pytest.fixture
def published(windows):
    """With Diffusion Policy's alignment: position 0 belongs to the oldest observation, position 1 to now."""
    return fitted(windows, offset=1)


class Oracle(torch.nn.Module):
    """An exact denoiser (float64) in the place of a model's `denoiser`; conditions change nothing."""

    def __init__(self, net, denoise):
        super().__init__()
        self.net, self.denoise = net, denoise

    def forward(self, x, t, condition):
        return self.denoise(x.double(), t.double()).to(x.dtype)


def observations(batch, steps, seed=0):
    episodes = sines(batch, steps, seed)
    return [{"state": np.stack([e.observations["state"][k] for e in episodes])} for k in range(steps)]


def run(policy, seeds, seen):
    """(B, steps, A) actions of an episode."""
    policy.reset(seeds)
    return np.stack([policy.select_action(one) for one in seen], 1)
