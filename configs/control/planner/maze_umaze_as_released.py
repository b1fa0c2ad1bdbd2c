"""`maze_umaze` with what the published code does otherwise, for the comparison only: a generator without a mask that
predicts absolute values, a noised start, goals with statistics of their own, linear noise, half of the plans without
their return, 32 copies of one plan, and a choice by softmax."""

from mmengine.config import read_base

with read_base():
    from .maze_umaze import *

from common.diffusion.process import vp_linear

model.update(
    generator=dict(residual=False, width=128, depth=3, heads=4, hidden=256, dropout=0.1, causal=False),
    process=dict(type=vp_linear, steps=steps, beta_start=1e-3, beta_end=2e-2),
    unconditional=0.5,
    clean=False,
    shared=False,
)
val_cfg["plans"] = dict(
    released=dict(level=5, candidates=32, choose="softmax", temperature=1.0, guidance=1.1, floor=0.33, **asks),
    generator=dict(level=0, **asks),
)
test_cfg = val_cfg
