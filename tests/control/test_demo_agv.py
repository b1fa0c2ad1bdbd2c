"""`make demo-agv` at a tiny budget, from the trainings to the report."""

import pytest
from PIL import Image

from control import demo_agv


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_reaches_its_report_and_a_second_run_trains_nothing(tmp_path):
    options = ["--work-dir", str(tmp_path), "--steps", "8192", "--episodes", "2", "--backend", "kinematic"]
    assert demo_agv.main(options) == 0
    text = (tmp_path / "report.md").read_text()
    for name in demo_agv.VARIANTS:
        assert text.count(f"| {name} |") == 1
    assert "actions differ by at most" in text and "over 2 episodes" in text and "miss rate" in text
    pictures = ("curves.png", "driven.png", "ppo_and_bonus_test/bonus.png", "ppo_and_bonus_test/ways.png")
    assert all(Image.open(tmp_path / name).size[0] > 400 for name in pictures)
    before = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("ppo*/iter_8192.pth"))]
    assert len(before) == 2 and demo_agv.main(options) == 0
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("ppo*/iter_8192.pth"))] == before
