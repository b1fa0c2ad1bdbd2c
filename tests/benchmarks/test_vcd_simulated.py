"""Probes of trained networks are kept for the checkpoint they were made of, and for no other."""

import importlib
import json
import os
import sys
from pathlib import Path

from common.engine.experiments import Job

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
vcd = importlib.import_module("vcd_simulated")


def test_metrics_of_an_older_or_another_checkpoint_are_made_anew(tmp_path):
    job = Job("baseline/0", "c.py", tmp_path / "baseline", 5)
    out = tmp_path / "probe"
    for folder in (job.work_dir, out):
        folder.mkdir()
    job.checkpoint.touch()
    assert not vcd.tested(out, job)
    (out / "metrics.json").write_text(json.dumps({"checkpoint": str(job.checkpoint), "metrics": {}}))
    assert vcd.tested(out, job)
    os.utime(job.checkpoint, (later := (out / "metrics.json").stat().st_mtime + 1, later))
    assert not vcd.tested(out, job)
    os.utime(job.checkpoint, (0, 0))
    (out / "metrics.json").write_text(json.dumps({"checkpoint": str(tmp_path / "other.pth"), "metrics": {}}))
    assert not vcd.tested(out, job)
