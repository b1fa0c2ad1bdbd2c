"""Jobs: finished ones are kept, another's folder is refused, what a job is named by decides."""

import json

import pytest

from common.engine.experiments import RESULT, Job
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
