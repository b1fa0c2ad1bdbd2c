"""Implicit Q-learning on a chain of states whose values are known."""

import functools

import pytest
import torch

from common.errors import ConfigError
from control.rl.rl100.critics import Critics, expectile

STATES, GAMMA = 5, 0.9  # state i steps right with action +1 (reward 1 on leaving the last one), stays with -1


def transitions() -> dict[str, torch.Tensor]:
    """Every state with both actions, once each: a behaviour that steps half of the time."""
    rows = []
    for state in range(STATES):
        for action in (-1.0, 1.0):
            right = action > 0
            last = right and state == STATES - 1
            rows.append((state, action, float(last), min(state + right, STATES - 1), 0.0 if last else GAMMA))
    state, action, reward, following, discount = (torch.tensor(column) for column in zip(*rows, strict=True))
    eye = torch.eye(STATES)
    return dict(condition=eye[state], action=action.view(-1, 1, 1), reward=reward, following=eye[following],
                discount=discount)  # fmt: skip


def behaviour_values() -> torch.Tensor:
    """V of stepping with probability 1/2: v = (g v + g v_next) / 2, the last (g v + 1) / 2."""
    values = torch.zeros(STATES)
    values[-1] = 0.5 / (1 - 0.5 * GAMMA)
    for state in reversed(range(STATES - 1)):
        values[state] = 0.5 * GAMMA * values[state + 1] / (1 - 0.5 * GAMMA)
    return values


@functools.cache
def trained(omega: float, steps: int = 800) -> Critics:
    torch.manual_seed(0)
    critics, data = Critics(STATES, 1, (32,), omega, tau=0.05), transitions()
    adam = torch.optim.Adam([p for p in critics.parameters() if p.requires_grad], 3e-3)
    for _ in range(steps):
        found = critics.losses(**data)
        adam.zero_grad()
        (found["loss_v"] + found["loss_q"]).backward()
        adam.step()
        critics.follow()
    return critics


def test_at_expectile_one_half_v_is_that_of_the_behaviour():
    values = trained(0.5).values(torch.eye(STATES)).detach()
    torch.testing.assert_close(values, behaviour_values(), atol=0.02, rtol=0)


def test_values_rise_with_the_expectile_towards_the_best_action_of_the_data_and_stay_in_their_range():
    best = GAMMA ** torch.arange(STATES - 1, -1, -1.0)
    curves = torch.stack([trained(omega).values(torch.eye(STATES)).detach() for omega in (0.5, 0.8, 0.98)])
    assert (curves[1:] > curves[:-1]).all() and (curves[-1] - best).abs().max() < 0.1
    assert curves.min() > -0.02 and curves.max() < 1.02


def test_a_termination_stops_the_bootstrap_and_a_time_limit_does_not():
    critics = Critics(3, 2, (8,))
    with torch.no_grad():
        critics.v[-1].weight.zero_()
        critics.v[-1].bias.fill_(2.0)
        for net in critics.q:
            net[-1].weight.zero_()
            net[-1].bias.zero_()
    one = torch.ones(1)
    given = dict(condition=torch.zeros(1, 3), action=torch.zeros(1, 2, 1), following=torch.zeros(1, 3))
    cut = critics.losses(**given, reward=one, discount=0.5 * one)["loss_q"].item()
    ended = critics.losses(**given, reward=one, discount=0 * one)["loss_q"].item()
    assert cut == pytest.approx(2 * (1 + 0.5 * 2) ** 2) and ended == pytest.approx(2 * 1)
    bounded = Critics(3, 2, (8,), bounds=(0.0, 1.0))
    bounded.load_state_dict(critics.state_dict())
    assert bounded.losses(**given, reward=one, discount=0.5 * one)["loss_q"].item() == pytest.approx(2)


def test_an_expectile_of_one_half_is_half_the_squared_error_and_others_lean():
    error = torch.tensor([-1.0, 2.0])
    assert expectile(error, 0.5) == pytest.approx(0.5 * 2.5)
    assert expectile(error, 0.8) == pytest.approx((0.2 * 1 + 0.8 * 4) / 2)
    with pytest.raises(ConfigError, match=r"omega=1\.0"):
        Critics(3, 2, omega=1.0)


def test_the_slow_copies_move_by_tau_and_are_in_no_gradient():
    critics = Critics(3, 2, (8,), tau=0.25)
    before = [p.clone() for p in critics.slow.parameters()]
    with torch.no_grad():
        for p in critics.q.parameters():
            p += 1
    critics.follow()
    for old, new in zip(before, critics.slow.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
        assert not new.requires_grad
