"""Which plans can be exported."""

from types import SimpleNamespace

import pytest

from common.errors import ConfigError
from control.policies.streaming import chunk_plan, delayed_plan, ladder_plan
from deploy.policy_export import export_policy
from deploy.policy_export_command import exportable


def test_a_primer_that_the_graph_does_not_have_is_refused():
    known = {"a": {"type": "x"}, "b": {"type": "x", "primer": "zero"}, "c": {"type": "x", "primer": "denoise"}}
    assert exportable(known, "a") == exportable(known, "b") == {"type": "x"}
    with pytest.raises(ConfigError, match=r"test_cfg\.plans\.c\.primer='denoise'"):
        exportable(known, "c")
    with pytest.raises(ConfigError, match="has the plans a, b, c"):
        exportable(known, "d")
    assert known["b"] == {"type": "x", "primer": "zero"}


@pytest.mark.parametrize(
    ("offset", "plan"),
    [(0, delayed_plan(20, 1, 3)), (0, ladder_plan(20, 2)), (1, chunk_plan(20, 8, 10, first=1))],
)
def test_a_plan_fits_the_model_whose_position_of_now_it_executes_first(offset, plan):
    plan.check_alignment(offset)
    with pytest.raises(ConfigError, match=rf"position {offset} for the action of now .* offset={1 - offset}"):
        plan.check_alignment(1 - offset)


def test_export_refuses_a_plan_that_would_execute_a_past_action(tmp_path):
    with pytest.raises(ConfigError, match="position 0 for the action of now"):
        export_policy(SimpleNamespace(offset=1), delayed_plan(20, 1, 3), {}, tmp_path / "p.onnx", rate_hz=10)
