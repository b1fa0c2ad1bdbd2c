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


@pytest.fixture
def model(windows):
    model = tiny_model(prediction="x0")  # untrained noise predictions would end at the clipping bounds
    model.fit(windows)
    return model.eval()
