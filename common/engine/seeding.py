"""Random states as tensors and numbers, so that a checkpoint can hold them and `weights_only` can load them."""

import contextlib
import random
import secrets

import numpy as np
import torch


def draw_seed() -> int:
    """A fresh seed in [0, 2**31)."""
    return secrets.randbelow(2**31)


def rng_state() -> dict:
    """The state of the global generators of Python, numpy, torch and the current CUDA device."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    assert name == "MT19937"
    state = {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(keys.astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict) -> None:
    """Put the generators back to a state from `rng_state`; a CUDA state is ignored where there is no CUDA."""
    python, numpy_state = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy_state["keys"].numpy().astype(np.uint32)
    rest = (numpy_state["position"], numpy_state["has_gauss"], numpy_state["cached"])
    np.random.set_state(("MT19937", keys, *rest))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextlib.contextmanager
def preserved_rng():
    """Whatever the body draws, the generators afterwards stand where they stood before."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
