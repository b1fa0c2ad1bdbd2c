"""`make demo-control` at a tiny budget, from the collection to the report."""

import pytest
from PIL import Image

from control import demo


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_reaches_its_report_and_a_second_run_trains_nothing(tmp_path):
    options = ["--work-dir", str(tmp_path), "--demonstrations", "3", "--iterations", "101", "--episodes", "2"]
    assert demo.main([*options, "--steps", "16"]) == 0
    text = (tmp_path / "report.md").read_text()
    for title in demo.TITLES.values():
        assert text.count(f"| {title} |") == 1
    assert "actions differ by at most" in text and "over 2 episodes" in text and "miss rate" in text
    for name in ("latency", *demo.TITLES):
        assert Image.open(tmp_path / f"{name}.png").size[0] > 400
    checkpoint = next(tmp_path.glob("policy/iter_101.pth"))
    before = checkpoint.stat().st_mtime_ns
    assert demo.main([*options, "--steps", "16"]) == 0
    assert checkpoint.stat().st_mtime_ns == before
