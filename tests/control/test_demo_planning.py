"""The planning demo, small: data, trainings, pictures, export, an ONNX that drives a maze; and a kill on the way."""

import json

import numpy as np
import pytest
from PIL import Image

from control import demo_planning


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_writes_its_report_and_goes_on_where_it_was(tmp_path):
    given = ["--work-dir", str(tmp_path), "--steps", "3000", "--iterations", "360", "--episodes", "2"]
    assert demo_planning.main(given) == 0
    report = (tmp_path / "report.md").read_text()
    assert all(title in report for title in demo_planning.SHOWN.values())
    assert "actions differ by at most" in report and "return" in report
    driven = json.loads((tmp_path / "driven.json").read_text())
    assert len(driven) == 2 and all(one["steps"] == 300 for one in driven)
    for name in ("plans.png", "driven.png"):
        assert np.asarray(Image.open(tmp_path / name).convert("L")).std() > 5
    before = (tmp_path / "planner" / "iter_360.pth").stat().st_mtime_ns
    (tmp_path / "planner.json").unlink()
    assert demo_planning.main(given) == 0
    assert (tmp_path / "planner" / "iter_360.pth").stat().st_mtime_ns == before
