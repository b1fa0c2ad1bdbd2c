"""`student_town` with one assistant for winners and losers, told which by a learnt vector: a quarter less memory."""

from mmengine.config import read_base

with read_base():
    from .student_town import *

model["assistants"] = 1
optim_wrapper["assistants"].update(modules=["networks.assistant", "roles"])
