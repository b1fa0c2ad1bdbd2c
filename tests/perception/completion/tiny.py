"""The smallest profile and a batch of it."""

import torch

from perception.completion.profiles import PROFILES, Profile

TINY = Profile(**{**vars(PROFILES["ci"]), "scan_points": 40, "copies": 3, "down": (8, 8, 12), "up": (12, 8)})


def batch(B=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    scale = torch.tensor([5.0, 5.0, 0.5])
    scan, scene = (torch.randn(B, n, 3, generator=g) * scale for n in (40, 120))
    return {"scan": scan, "scene": scene, "seed": torch.arange(B) + 7}
