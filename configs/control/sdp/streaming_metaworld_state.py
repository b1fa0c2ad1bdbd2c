"""One network for every way of running: a noise level per action position, trained on a mixture of level patterns.

0.4 ladders of single actions behind a clean prefix of 0 to 4 positions (streaming, with and without delay), 0.2 ladders
of chunks of 2, 4 or 8 actions (Streaming Diffusion Policy), 0.2 equal levels (Diffusion Policy), 0.2 independent ones.
Evaluated as DDPM, as DDIM, also with a call per action, as a ladder of chunks, and as a ladder of single actions: one
evaluation per control step.

Windows reach behind their episode: a policy that is called every step acts on the last observations too."""

from mmengine.config import read_base

with read_base():
    from .._base_.policy import *

from common.diffusion.levels import delayed_ladder, equal, iid
from common.diffusion.process import vp_cosine
from common.nn.unet1d import ConditionalUNet1D
from control.policies.encoders import StateEncoder
from control.policies.model import DiffusionPolicyModel
from control.policies.streaming import chunk_plan, ladder_plan

model = dict(
    type=DiffusionPolicyModel,
    action_dim=4,
    horizon=horizon,
    observed=observed,
    encoders=dict(state=dict(type=StateEncoder, width=39)),
    net=dict(type=ConditionalUNet1D, widths=(32, 64), level_width=32, level_scale=float(steps)),
    process=dict(type=vp_cosine, steps=steps),
    prediction="x0",
    patterns=dict(
        equal=(0.2, dict(type=equal, steps=steps)),
        ladder=(0.4, dict(type=delayed_ladder, steps=steps, execute=1, max_delay=4)),
        chunks=(0.2, dict(type=delayed_ladder, steps=steps, execute=(2, 4, 8), max_delay=0)),
        iid=(0.2, dict(type=iid, steps=steps)),
    ),
)
val_cfg.update(
    plans=dict(
        DDPM100=dict(type=chunk_plan, execute=8, evaluations=100, eta=1.0),
        DDIM10=dict(type=chunk_plan, execute=8, evaluations=10),
        DDIM10x1=dict(type=chunk_plan, execute=1, evaluations=10),
        SDP=dict(type=ladder_plan, execute=8, evaluations=50, eta=1.0),
        streaming=dict(type=ladder_plan, execute=1, evaluations=1),
    )
)
train_dataloader["dataset"].update(after=horizon - 1)
test_cfg = val_cfg
