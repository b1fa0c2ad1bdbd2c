"""The published illustration: what diffusion makes of curves that a generator wrote, with and without a mask."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from toy import data, error, repaired, roughness, train_generator, train_optimiser, written

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
LEVELS = (5, 20, 50)


@pytest.fixture(scope="module")
def optimiser():
    return train_optimiser()


def test_refinement_repairs_what_the_generator_without_a_mask_writes(optimiser):
    """As released: it learns to copy its target, and its curves wander; the more levels, the nearer they come."""
    curves = written(train_generator(causal=False))
    errors = [error(curves), *(error(repaired(optimiser, curves, level)) for level in LEVELS)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * error(data(64, seed=9)) and errors[-1] < 0.5 * errors[0]


def test_a_causal_generator_needs_no_repair_and_gets_the_datas_noise_back(optimiser):
    """It writes the mean of what may follow, smoother than any curve of the data; refined it is as rough as they are,
    and as far from the true curves as their noise, no further."""
    curves, noise = written(train_generator(causal=True, residual=True)), data(64, seed=9)
    refined = [repaired(optimiser, curves, level) for level in LEVELS]
    assert max(map(error, [curves, *refined])) < 1.1 * error(noise)
    rough = [roughness(curves), *map(roughness, refined)]
    assert rough == sorted(rough)
    assert rough[0] < 0.6 * roughness(noise) and 0.7 * roughness(noise) < rough[-1] < 1.1 * roughness(noise)
