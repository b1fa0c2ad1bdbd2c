"""The second backbone: a small transformer with a noise level per action token, otherwise
`streaming_metaworld_state`."""

from mmengine.config import read_base

with read_base():
    from .streaming_metaworld_state import *

from common.nn.transformer import ConditionalTransformer

model["net"] = dict(type=ConditionalTransformer, horizon=horizon, width=64, depth=3, heads=4, level_scale=float(steps))
