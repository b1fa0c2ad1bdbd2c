"""A completion in one pass, trained on Chamfer distance: the competitor of `teacher_town` and its students."""

from mmengine.config import read_base

with read_base():
    from .teacher_town import *

from perception.completion.model import OnePassModel

model = dict(type=OnePassModel, profile=profile)
