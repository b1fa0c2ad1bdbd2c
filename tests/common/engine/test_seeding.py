"""Random states survive a checkpoint, and an evaluation leaves none of its draws behind."""

import random

import numpy as np
import torch

from common.engine.checkpoint import load_checkpoint, save_atomic
from common.engine.loops import undisturbed
from common.engine.seeding import preserved_rng, rng_state, set_rng_state


def draws():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()


def test_every_generator_continues_where_a_loaded_state_left_it(tmp_path):
    random.gauss(0, 1), np.random.randn()  # both hold back a second normal number: part of the state
    save_atomic(rng_state(), tmp_path / "rng.pth")
    expected = draws()
    draws()
    set_rng_state(load_checkpoint(tmp_path / "rng.pth"))
    assert draws() == expected


def test_draws_inside_leave_no_trace_even_after_an_error():
    state = rng_state()
    expected = draws()
    set_rng_state(state)
    try:
        with preserved_rng():
            draws()
            raise KeyError
    except KeyError:
        pass
    assert draws() == expected


def test_an_evaluation_leaves_the_streams_history_as_it_was():
    class Streaming(torch.nn.Module):
        history = torch.zeros(2)

        def runtime_state(self):
            return {"history": self.history.clone()}

        def load_runtime_state(self, state):
            self.history = state["history"]

    model = Streaming()
    with undisturbed(model):
        model.history = torch.ones(2)
    assert model.history.tolist() == [0, 0]
