"""A habit as one ONNX graph, and the exporters that the planners' configs get."""

import numpy as np
import pytest
import torch

from control.planning.diffuser.habit import HabitModel
from deploy.export_command import exporter
from deploy.habit_export_command import Decision
from deploy.reactive_export import difference, export_graph
from deploy.runtime.errors import InputError
from deploy.runtime.policy_manifest import ObservationSpec
from deploy.runtime.reactive import ReactivePolicy


def test_the_graph_decides_as_the_habit(tmp_path):
    torch.manual_seed(0)
    states, actions = 3 * torch.randn(200, 3) + 1, torch.rand(200, 2) * torch.tensor([1.0, 4.0])
    habit = HabitModel(3, 2, latent=4, widths=(16,))
    habit.fit(type("Decisions", (), {"states": states, "actions": actions}))
    low, high = habit.actions.low.tolist(), habit.actions.high.tolist()
    spec = ObservationSpec(name="state", shape=(3,), dtype="float32")
    export_graph(Decision(habit.eval()), tmp_path / "habit.onnx", spec, tuple(low), tuple(high), rate_hz=100.0)
    policy = ReactivePolicy(tmp_path / "habit.onnx")

    def ours(observations):
        with torch.no_grad():
            return habit.decide(torch.from_numpy(observations)).numpy()

    assert difference(ours, policy.act, (10 * states).numpy()) < 1e-5
    assert policy.select_action({"state": states[0].numpy()}).shape == (2,)
    with pytest.raises(InputError):
        policy.select_action({"state": np.full(3, np.nan, np.float32)})


@pytest.mark.parametrize(
    ("config", "module"),
    [("maze_umaze", "planner"), ("student_maze_umaze", "planner"), ("habit_maze_umaze", "habit")],
)
def test_every_planner_finds_its_exporter(config, module):
    assert exporter(f"configs/control/planner/{config}.py") == f"deploy.{module}_export_command"
