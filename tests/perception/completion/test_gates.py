"""The smallest profile from towns to a one-step student: what must hold wherever the method works at all.

At this size the student beats its teacher's one step of the released sampler, not that of the local one.
"""

import pytest
import torch

from common.engine.config import load_config
from common.engine.train import train
from perception.completion.dataset import TownScenes
from perception.completion.evaluation import evaluate
from perception.completion.model import CompletionModel, seeded_noise
from perception.completion.profiles import PROFILES
from perception.completion.sampling import lidiff_local, start

CI = PROFILES["ci"]
TEACHER, STUDENT = 400, 180  # iterations
FOLDER = "configs/perception/completion"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Teacher and plain score-distillation student of one step, and the held-out scenes."""
    folder = tmp_path_factory.mktemp("gates")
    shared = {"profile": "ci", "radius": CI.radius, "towns": str(folder / "towns"), "val_dataloader.dataset.count": 1}

    def run(name, iterations, **options):
        cfg = load_config(f"{FOLDER}/{name}_town.py", {**shared, "iterations": iterations, **options})
        cfg.work_dir, cfg.randomness = str(folder / name), dict(seed=0)
        runner = train(cfg)
        return runner, folder / name / f"iter_{iterations}.pth"

    _, checkpoint = run("teacher", TEACHER)
    rates = {"optim_wrapper.student.optimizer.lr": 1e-4, "optim_wrapper.assistants.optimizer.lr": 3e-4}
    distilled = {
        "model.checkpoint": str(checkpoint),
        "model.steps": 1,
        "model.preset": "vsd",
        "model.critic_updates": 2,
    }
    _, student = run("student", STUDENT, **distilled, **rates)
    from deploy.completion_export_command import load_completion

    models = [
        load_completion(load_config(f"{FOLDER}/{name}_town.py", shared), str(path))
        for name, path in (("teacher", checkpoint), ("student", student))
    ]
    scenes = TownScenes(str(folder / "towns"), CI, train=False, dense=8)
    return *models, [scenes[i] for i in range(len(scenes))]


def copied(scan, seed):
    return scan.repeat(1, CI.copies, 1)


def noisy(scan, seed):
    anchor = copied(scan, seed)
    return start(anchor, lidiff_local(), seeded_noise(seed, anchor.shape[1:], anchor))


def score(complete, scenes):
    return evaluate(complete, scenes, CI.radius)["means"]


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_teacher_completes_and_a_student_of_one_step_beats_its_own_step(trained):
    teacher, student, scenes = trained
    a0, a1 = score(copied, scenes), score(noisy, scenes)
    t20 = score(lambda scan, seed: teacher.complete(scan, seed, 20), scenes)
    local = score(lambda scan, seed: teacher.complete(scan, seed, 1), scenes)
    offset = score(lambda scan, seed: teacher.complete(scan, seed, 1, "vp_offset"), scenes)
    ours = score(student.complete, scenes)
    assert t20["cd"] < 0.8 * a1["cd"], "the teacher takes the noise away"
    assert t20["cd_to_prediction"] < 0.8 * a0["cd_to_prediction"], "it completes and does not copy"
    assert local["cd"] < 0.7 * offset["cd"], "the released sampler overshoots in one step"
    assert ours["cd"] < 0.7 * offset["cd"] and ours["cd"] < 0.9 * a1["cd"]


def test_an_untrained_teacher_does_not_pass(trained):
    _, _, scenes = trained
    torch.manual_seed(0)
    raw, two = CompletionModel(CI).eval(), scenes[:2]
    found = score(lambda scan, seed: raw.complete(scan, seed, 4), two)
    assert found["cd"] > 0.8 * score(noisy, two)["cd"]
