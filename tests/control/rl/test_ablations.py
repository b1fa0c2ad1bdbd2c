"""What the full recipe is worth, read from the record of five trainings per variant (benchmarks/agv_rnd.py)."""

import json
from pathlib import Path

import pytest

RECORD = Path(__file__).parents[3] / "benchmarks" / "results" / "agv_rnd" / "simple_twin.json"


@pytest.fixture(scope="module")
def success():
    """variant -> success at the end of training, per seed."""
    curves = json.loads(RECORD.read_text())["curves"]
    return {name: [one["success"][-1] for one in runs] for name, runs in curves.items()}


@pytest.mark.parametrize("variant", ["paper's sum", "paper's sum, raw pose", "raw pose"])
def test_the_unscaled_sum_and_the_raw_pose_stay_below_the_full_recipe(success, variant):
    for seeds in (3, 5):
        assert len(success[variant]) == 5
        assert sum(success[variant][:seeds]) < sum(success["RND"][:seeds])


def test_what_is_expected_to_be_worse_is_reported(success):
    reported = ("predictor on all samples (p = 1)", "episodic bonus", "c_I = 0.3")
    print({name: success[name] for name in ("RND", *reported)})
    assert all(len(success[name]) == 5 for name in reported)
