"""The resampled metric of the benchmarks against the devkit's own."""

import contextlib
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
from nuscenes import NuScenes

from perception.datasets.metric import attribute, evaluate_submission, flatten

spec = importlib.util.spec_from_file_location("_nds", Path(__file__).parents[2] / "benchmarks" / "_nds.py")
nds = importlib.util.module_from_spec(spec)
spec.loader.exec_module(nds)

CLASS_OF = {"vehicle.car": "car", "human.pedestrian.adult": "pedestrian", "movable_object.trafficcone": "traffic_cone",
            "movable_object.barrier": "barrier", "vehicle.bicycle": "bicycle"}  # fmt: skip


@pytest.fixture(scope="module")
def submission(simulated_root, tmp_path_factory):
    """Noisy copies of the annotations of the training split (two scenes), some of them missing, some false."""
    rng = np.random.default_rng(0)
    with contextlib.redirect_stdout(io.StringIO()):
        nusc = NuScenes("v1.0-mini", str(simulated_root), verbose=False)
    results = {}
    for sample in nusc.sample:
        scene = nusc.get("scene", sample["scene_token"])["name"]
        if scene not in ("scene-0061", "scene-0553"):
            continue
        entries = []
        for token in sample["anns"]:
            annotation = nusc.get("sample_annotation", token)
            name = CLASS_OF.get(annotation["category_name"])
            if name is None or rng.random() < 0.2:
                continue
            velocity = np.nan_to_num(nusc.box_velocity(token))[:2] + rng.normal(0, 0.3, 2)
            entries.append({
                "sample_token": sample["token"],
                "translation": (np.array(annotation["translation"]) + rng.normal(0, 0.8, 3)).tolist(),
                "size": (np.array(annotation["size"]) * rng.uniform(0.8, 1.2, 3)).tolist(),
                "rotation": annotation["rotation"],
                "velocity": velocity.tolist(),
                "detection_name": name,
                "detection_score": float(rng.random()),
                "attribute_name": attribute(name, float(np.linalg.norm(velocity))),
            })  # fmt: skip
        results[sample["token"]] = entries
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    folder = tmp_path_factory.mktemp("nds")
    (folder / "results.json").write_text(json.dumps({"meta": meta, "results": results}))
    return nusc, folder


def test_the_records_give_the_devkits_numbers(submission, simulated_root):
    nusc, folder = submission
    classes, scenes = nds.records(nusc, folder / "results.json", "mini_train", folder)
    summary = evaluate_submission(folder / "results.json", simulated_root, "v1.0-mini", folder, "mini_train")
    wanted, got = flatten(summary), nds.score(classes)
    assert len(scenes) == 2
    assert 0.05 < wanted["mAP"] < 0.9
    assert got["NDS"] == pytest.approx(wanted["NDS"], abs=1e-9)
    assert got["mAP"] == pytest.approx(wanted["mAP"], abs=1e-9)
    for key, value in summary["tp_errors"].items():
        assert got[key] == pytest.approx(value, abs=1e-9)


def test_counting_every_scene_twice_changes_the_map_by_interpolation_only(submission):
    nusc, folder = submission
    classes, _ = nds.records(nusc, folder / "results.json", "mini_train", folder)
    assert nds.score(classes, np.array([2, 2]))["mAP"] == pytest.approx(nds.score(classes)["mAP"], abs=0.01)
    assert nds.score(classes, np.array([1, 0]))["mAP"] != nds.score(classes, np.array([0, 1]))["mAP"]


def test_the_paired_interval_of_equal_results_is_zero_and_of_different_ones_holds_their_difference(submission):
    nusc, folder = submission
    classes, _ = nds.records(nusc, folder / "results.json", "mini_train", folder)
    same = nds.paired_interval([classes] * 2, [classes] * 2, "NDS", draws=20)
    assert [same[key] for key in ("mean", "low", "high", "t_low", "t_high")] == [0] * 5
    worse = {}
    for name, record in classes.items():
        keep = np.arange(len(record.score)) % 3 == 0
        worse[name] = nds.ClassRecords(
            record.scene[keep], record.score[keep], record.hit[:, keep], record.errors[:, keep], record.truth
        )
    interval = nds.paired_interval([classes] * 2, [worse] * 2, "mAP", draws=50)
    assert interval["low"] <= interval["mean"] <= interval["high"] < 0


def one_class(*hits: int) -> dict[str, nds.ClassRecords]:
    """A car class of 200 boxes in every scene, `hits` of them found and nothing false: the precision is 1 up to the
    recall r = hits / 200, so its AP is (whole percents of r - 10) / 90. An odd number keeps r off the 1 % grid."""
    scene = np.repeat(np.arange(len(hits)), hits)
    score = np.linspace(0.9, 0.1, len(scene))
    truth = np.full(len(hits), 200.0)
    return {"car": nds.ClassRecords(scene, score, np.ones((4, len(scene)), bool), np.zeros((5, len(scene))), truth)}


def test_seeds_and_scenes_are_compared_in_pairs():
    """Two seeds that lie far apart and two scenes that do, but 18 more boxes found in each: 9 % of recall, AP + 0.1."""
    first = [one_class(41, 121), one_class(141, 161)]
    second = [one_class(59, 139), one_class(159, 179)]
    assert nds.score(first[0])["mAP"] == pytest.approx(30 / 90)  # 162 of 400
    assert nds.score(first[0], np.array([2, 0]))["mAP"] == pytest.approx(10 / 90)
    interval = nds.paired_interval(first, second, "mAP", draws=100)
    assert [interval[key] for key in ("mean", "low", "high", "t_low", "t_high")] == pytest.approx([0.1] * 5, abs=1e-9)
    crossed = nds.paired_interval(first, second[::-1], "mAP", draws=100)
    assert crossed["mean"] == pytest.approx(0.1) and crossed["high"] - crossed["low"] > 0.2


def test_an_interval_of_some_scenes_does_not_see_the_others_and_remembering_scores_changes_nothing():
    first = [one_class(41, 121, 59), one_class(61, 101, 59)]
    second = [one_class(59, 121, 41), one_class(79, 101, 41)]  # scene 0 gains 0.1, scene 2 loses it
    memory = {}
    alone = [nds.paired_interval(first, second, "mAP", draws=20, scenes=[k], memory=memory) for k in range(3)]
    assert [[alone[k][key] for key in ("low", "mean", "high")] for k in range(3)] == [
        pytest.approx([gain] * 3, abs=1e-9) for gain in (0.1, 0.0, -0.1)
    ]
    fresh = nds.paired_interval(first, second, "mAP", draws=20, scenes=[0, 1])
    assert nds.paired_interval(first, second, "mAP", draws=20, scenes=[0, 1], memory=memory) == fresh
    assert fresh["low"] == pytest.approx(0, abs=1e-9) and fresh["high"] == pytest.approx(0.1, abs=1e-9)


def test_the_interval_holds_what_the_seeds_differ_by():
    """One seed gains 0.1, the other 0.2: two draws of them have the mean 0.1, 0.15 or 0.2, a quarter of them at
    either end."""
    first = [one_class(41, 121), one_class(61, 101)]
    second = [one_class(59, 139), one_class(97, 137)]
    interval = nds.paired_interval(first, second, "mAP", draws=200)
    assert interval["per_seed"] == pytest.approx([0.1, 0.2])
    assert [interval[key] for key in ("mean", "low", "high")] == pytest.approx([0.15, 0.1, 0.2])
    t = 12.7062047  # 97.5 % of Student's t with one degree of freedom; the standard error of 0.1 and 0.2 is 0.05
    assert [interval["t_low"], interval["t_high"]] == pytest.approx([0.15 - 0.05 * t, 0.15 + 0.05 * t])
