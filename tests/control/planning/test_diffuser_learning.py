"""What the inverse dynamics learn of a maze's data, judged on a run that they have not seen."""

import numpy as np
import torch

from control.demonstrations.mazes import stream
from control.planning.diffuser.networks import InverseDynamics
from control.planning.diffuser.windows import PlanWindows
from control.policies.normaliser import MeanStdNormaliser, MinMaxNormaliser

STRIDE = 8


def pairs(seed: int, episodes: int) -> PlanWindows:
    return PlanWindows(stream("Maze2D-UMaze-v0", seed, episodes, 0.0)[0], 4, STRIDE)


def drawn(windows: PlanWindows, count: int) -> dict[str, torch.Tensor]:
    return windows.__getitems__(torch.randint(len(windows), (count,)).tolist())


def test_actions_between_true_states_are_told_and_states_come_back_from_their_normal_form():
    torch.manual_seed(0)
    seen, held_out = pairs(0, 20), pairs(1, 5)
    states, actions = MeanStdNormaliser(4), MinMaxNormaliser(2)
    states.fit(seen.states)
    actions.fit(seen.actions)
    torch.testing.assert_close(states.inverse(states(seen.states)), seen.states, atol=1e-6, rtol=1e-6)
    net = InverseDynamics(4, 2, STRIDE, (128, 128))
    adam = torch.optim.AdamW(net.parameters(), 2e-3)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 600)

    def error(one: dict[str, torch.Tensor], goal: torch.Tensor) -> torch.Tensor:
        return (net(states(one["origin"]), states(goal), one["gap"]) - actions(one["action"])).square().mean()

    for _ in range(600):
        one = drawn(seen, 256)
        adam.zero_grad()
        error(one, one["goal"]).backward()
        adam.step()
        fall.step()
    one = drawn(held_out, 4000)
    with torch.no_grad():
        found, shuffled = error(one, one["goal"]), error(one, one["goal"][torch.randperm(4000)])
    spread = np.var(actions(one["action"]).numpy(), axis=0).mean()
    assert found < 0.25 * spread and shuffled > 2 * found, (float(found), float(shuffled), float(spread))
