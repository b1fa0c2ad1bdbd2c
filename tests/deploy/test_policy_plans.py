"""Which plans can be exported, and how late their answers are."""

from types import SimpleNamespace

import pytest

from common.errors import ConfigError
from control.policies.streaming import chunk_plan, delayed_plan, ladder_plan
from deploy.policy_export import delay_of
from deploy.policy_export_command import exportable


def test_a_primer_that_the_graph_does_not_have_is_refused():
    known = {"a": {"type": "x"}, "b": {"type": "x", "primer": "zero"}, "c": {"type": "x", "primer": "denoise"}}
    assert exportable(known, "a") == exportable(known, "b") == {"type": "x"}
    with pytest.raises(ConfigError, match=r"test_cfg\.plans\.c\.primer='denoise'"):
        exportable(known, "c")
    with pytest.raises(ConfigError, match="has the plans a, b, c"):
        exportable(known, "d")
    assert known["b"] == {"type": "x", "primer": "zero"}


def test_a_plan_counts_its_delay_from_the_models_offset():
    now, before = SimpleNamespace(offset=0), SimpleNamespace(offset=1)
    assert delay_of(now, delayed_plan(20, 1, 3)) == 3 and delay_of(now, ladder_plan(20, 2)) == 0
    assert delay_of(before, chunk_plan(20, 8, 10, first=1)) == 0
    assert delay_of(before, delayed_plan(20, 1, 3)) == 2
    with pytest.raises(ConfigError, match="for 1 steps ago; set first=1"):
        delay_of(before, chunk_plan(20, 8, 10))
