"""Jobs: finished ones are kept, another's folder is refused, what a job is named by decides."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.engine.experiments import RESULT, Job, tutelage
from common.errors import ConfigError


def job(tmp_path, **changes):
    given = dict(name="a", config="c.py", work_dir=tmp_path / "a", iterations=5, options={"x": 1}, seed=0)
    return Job(**{**given, **changes})


def finished(tmp_path):
    first = job(tmp_path)
    first.claim()
    first.checkpoint.touch()
    (first.work_dir / RESULT).write_text(json.dumps({"job": first._identity(), "metrics": {"NDS": 0.5}}))
    return first


def test_a_finished_job_is_kept_and_one_with_other_options_is_not_taken_for_it(tmp_path):
    assert finished(tmp_path).result() == {"NDS": 0.5}
    for changes in ({"options": {"x": 2}}, {"iterations": 6}, {"seed": 1}, {"config": "d.py"}, {"processes": 2}):
        assert job(tmp_path, **changes).result() is None


def test_a_folder_of_another_job_is_refused_so_that_nothing_resumes_from_it(tmp_path):
    finished(tmp_path).claim()
    with pytest.raises(ConfigError, match="holds a training with other settings"):
        job(tmp_path, options={"x": 2}).claim()


def test_the_command_trains_in_several_processes_only_when_asked(tmp_path):
    assert "torch.distributed.run" not in job(tmp_path).command()
    command = job(tmp_path, processes=2).command()
    assert command[command.index("--nproc_per_node") + 1] == "2"
    assert command[command.index("--launcher") + 1] == "pytorch"
    assert {"iterations=5", "x=1"} <= set(command)


def test_the_command_line_returns_what_it_printed_and_a_failure_carries_its_end(capfd):
    assert "train" in tutelage("--help", echo=False) and capfd.readouterr().out == ""
    assert tutelage("--help") and "$ tutelage --help" in capfd.readouterr().out
    with pytest.raises(RuntimeError, match=r"train nothing\.py failed with exit code \d+: (.|\n)*nothing\.py"):
        tutelage("train", "nothing.py", echo=False)


LONG = """
import sys
from common.engine.experiments import Job, run

class Sleeps(Job):
    def command(self):
        return [sys.executable, "-c", "import os, time; open({pid!r}, 'w').write(str(os.getpid())); time.sleep(120)"]

run([Sleeps("a", "c.py", __import__("pathlib").Path({folder!r}), 5)])
"""


def alive(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes follow their parent on Linux only")
def test_a_training_ends_with_its_killed_benchmark_so_that_two_never_write_one_folder(tmp_path):
    pid = tmp_path / "pid"
    code = LONG.format(pid=str(pid), folder=str(tmp_path / "a"))
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[3],
                              stderr=subprocess.DEVNULL)  # fmt: skip
    limit = time.time() + 60
    while not (pid.exists() and pid.read_text()) and time.time() < limit:
        time.sleep(0.05)
    child = int(pid.read_text())
    assert alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while alive(child) and time.time() < limit:
        time.sleep(0.05)
    try:
        assert not alive(child)
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)
