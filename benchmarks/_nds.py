"""NDS and mAP of resampled scenes: the devkit's metric from per-detection records, so that a bootstrap is cheap.

`tests/benchmarks/test_nds.py` holds it equal to the devkit's own result on the whole split.
"""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.utils import attr_acc, center_distance, scale_iou, velocity_l2, yaw_diff
from nuscenes.eval.detection.evaluate import NuScenesEval
from scipy import stats

ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
UNDEFINED = {"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")}


@dataclass
class ClassRecords:
    """Detections of one class, best first: scene (M,), score (M,), hit (4, M) at the four distances, errors (5, M) of
    the 2 m matches (NaN elsewhere), truth (S,) boxes per scene."""

    scene: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    errors: np.ndarray
    truth: np.ndarray


def records(nusc, submission: Path, eval_set: str, out_dir: Path) -> tuple[dict[str, ClassRecords], list[str]]:
    """Per class the records of a submission JSON, and the names of the scenes. nusc: the loaded `NuScenes`."""
    config = config_factory("detection_cvpr_2019")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = NuScenesEval(nusc, config, str(submission), eval_set, str(out_dir), verbose=False)
    tokens = evaluation.sample_tokens
    scene_of = {token: nusc.get("scene", nusc.get("sample", token)["scene_token"])["name"] for token in tokens}
    scenes = sorted(set(scene_of.values()))
    return {
        name: _class_records(evaluation, name, config, {t: scenes.index(s) for t, s in scene_of.items()}, len(scenes))
        for name in config.class_names
    }, scenes


def _class_records(evaluation, name: str, config, scene_of: dict, num_scenes: int) -> ClassRecords:
    found = [box for box in evaluation.pred_boxes.all if box.detection_name == name]
    confidence = [box.detection_score for box in found]
    order = [i for _, i in sorted((value, i) for i, value in enumerate(confidence))][::-1]
    found = [found[i] for i in order]
    truth_of = {token: [box for box in evaluation.gt_boxes[token] if box.detection_name == name] for token in scene_of}
    truth = np.zeros(num_scenes)
    for token, boxes in truth_of.items():
        truth[scene_of[token]] += len(boxes)
    hit = np.zeros((len(config.dist_ths), len(found)), bool)
    errors = np.full((len(ERRORS), len(found)), np.nan)
    taken = [set() for _ in config.dist_ths]
    for m, box in enumerate(found):
        candidates = truth_of[box.sample_token]
        distances = np.array([center_distance(true, box) for true in candidates])
        for k, limit in enumerate(config.dist_ths):
            free = [n for n in range(len(candidates)) if (box.sample_token, n) not in taken[k]]
            if not free:
                continue
            nearest = free[int(np.argmin(distances[free]))]
            if distances[nearest] >= limit:
                continue
            taken[k].add((box.sample_token, nearest))
            hit[k, m] = True
            if limit == config.dist_th_tp:
                errors[:, m] = _errors(candidates[nearest], box, name)
    scene = np.array([scene_of[box.sample_token] for box in found], int)
    return ClassRecords(scene, np.array([box.detection_score for box in found]), hit, errors, truth)


def _errors(true, box, name: str) -> list[float]:
    period = np.pi if name == "barrier" else 2 * np.pi
    return [
        center_distance(true, box),
        1 - scale_iou(true, box),
        yaw_diff(true, box, period=period),
        velocity_l2(true, box),
        1 - attr_acc(true, box),
    ]


def present(classes: dict[str, ClassRecords], weight: np.ndarray) -> dict[str, ClassRecords]:
    """The classes with a true box in a bootstrap sample of the scenes; the devkit would count the others as 0."""
    return {name: record for name, record in classes.items() if record.truth @ weight}


def score(classes: dict[str, ClassRecords], weight: np.ndarray | None = None) -> dict[str, float]:
    """NDS, mAP and the five mean errors. weight (S,): times each scene counts (a bootstrap sample)."""
    aps, errors = [], {key: [] for key in ERRORS}
    for name, record in classes.items():
        times = np.ones_like(record.truth) if weight is None else np.asarray(weight, float)
        w = times[record.scene]
        positives = float(record.truth @ times)
        use = w > 0
        curves = [_curve(hit[use], record.score[use], w[use], positives) for hit in record.hit]
        aps.append(np.mean([_average_precision(curve) for curve in curves]))
        two_metres = 2  # index of 2.0 in the devkit's distances .5, 1, 2, 4
        for row, key in enumerate(ERRORS):
            if key in UNDEFINED.get(name, ()):
                continue
            errors[key].append(_error(curves[two_metres], record.hit[two_metres][use], record.errors[row][use],
                                      record.score[use], w[use]))  # fmt: skip
    means = {key: float(np.nanmean(values)) for key, values in errors.items()}
    m_ap = float(np.mean(aps))
    nds = (5 * m_ap + sum(1 - min(1.0, value) for value in means.values())) / 10
    return {"NDS": nds, "mAP": m_ap, **means}


def _curve(hit, confidence, w, positives):
    """Precision and confidence over 101 recalls, or None without a match."""
    if positives == 0 or not hit.any():
        return None
    tp, fp = np.cumsum(w * hit), np.cumsum(w * ~hit)
    recall = np.linspace(0, 1, 101)
    precision = np.interp(recall, tp / positives, tp / (tp + fp), right=0)
    return precision, np.interp(recall, tp / positives, confidence, right=0)


def _average_precision(curve, min_recall: float = 0.1, min_precision: float = 0.1) -> float:
    if curve is None:
        return 0.0
    precision = np.clip(curve[0][round(100 * min_recall) + 1 :] - min_precision, 0, None)
    return float(precision.mean()) / (1 - min_precision)


def _error(curve, hit, values, confidence, w, min_recall: float = 0.1) -> float:
    if curve is None:
        return 1.0
    first = round(100 * min_recall) + 1
    last = np.nonzero(curve[1])[0]
    last = last[-1] if len(last) else 0
    if last < first:
        return 1.0
    values, weights = values[hit], w[hit]
    known = ~np.isnan(values)
    if not known.any():
        running = np.ones_like(values)
    else:
        count = np.cumsum(weights * known)
        running = np.divide(np.cumsum(np.where(known, values, 0) * weights), count, out=np.zeros_like(values),
                            where=count != 0)  # fmt: skip
    resampled = np.interp(curve[1][::-1], confidence[hit][::-1], running[::-1])[::-1]
    return float(resampled[first : last + 1].mean())


def paired_interval(
    first: list,
    second: list,
    key: str,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    scenes=None,
    memory: dict | None = None,
) -> dict:
    """Difference second - first of a metric with two intervals.

    Args: first, second: one `records` result per training seed, seeds and scenes in the same order; scenes: positions
    of the scenes that count, by default all; memory: a dictionary that keeps the scores of the draws, the same for
    every comparison of as many seeds and scenes.
    Returns: mean; per_seed, the difference of every seed; low, high: percentile bootstrap over seeds (as pairs) and
    scenes; t_low, t_high: Student's t over the seeds alone, on these scenes. With three seeds the bootstrap cannot know
    the spread between seeds well, and t is wide; an effect is convincing when both exclude 0.
    """
    rng = np.random.default_rng(seed)
    memory = {} if memory is None else memory
    count = len(next(iter(first[0].values())).truth)
    scenes = np.arange(count) if scenes is None else np.asarray(scenes)

    def difference(i: int, weight: np.ndarray) -> float:
        return _scored(second[i], weight, memory)[key] - _scored(first[i], weight, memory)[key]

    if len(scenes) == count:  # every class of the devkit counts, the absent ones too
        per_seed = np.array([score(b)[key] - score(a)[key] for a, b in zip(first, second, strict=True)])
    else:
        once = np.bincount(scenes, minlength=count)
        per_seed = np.array([difference(i, once) for i in range(len(first))])
    values = []
    for _ in range(draws):
        weight = np.bincount(scenes[rng.integers(len(scenes), size=len(scenes))], minlength=count)
        picked = rng.integers(len(first), size=len(first))
        values.append(np.mean([difference(i, weight) for i in picked]))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    spread = per_seed.std(ddof=1) / np.sqrt(len(per_seed)) if len(per_seed) > 1 else np.nan
    reach = stats.t.ppf((1 + level) / 2, max(1, len(per_seed) - 1)) * spread
    mean = float(per_seed.mean())
    interval = {"mean": mean, "low": float(low), "high": float(high)}
    return {**interval, "t_low": mean - reach, "t_high": mean + reach, "per_seed": per_seed.tolist()}


def _scored(classes: dict, weight: np.ndarray, memory: dict) -> dict[str, float]:
    """`score` of a bootstrap sample, remembered; the callers hold `classes`, so its id stays its own."""
    key = (id(classes), weight.tobytes())
    if key not in memory:
        memory[key] = score(present(classes, weight), weight)
    return memory[key]
