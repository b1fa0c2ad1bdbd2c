"""nuScenes as sequences: mmdet3d's data set plus poses, trajectories and scene order."""

import os.path as osp
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from mmdet3d.datasets import NuScenesDataset
from mmdet3d.registry import DATASETS
from mmengine.logging import print_log

from common.errors import ConfigError, DataError

from .infos import OFFICIAL_CLASSES, check_infos, label_mapping, load_infos
from .trajectories import FrameObjects, past_centers


class SequenceItem(NamedTuple):
    """What the samplers hand to `NuScenesSequenceDataset.__getitem__`.

    index: position in the data set. start: first frame of its walk, the history is reset. draw: number of this draw in
    the run, the same whatever the number of ranks' workers; augmentation is a function of (seed, draw). walk: number of
    the walk through a sequence that the draw belongs to. seed: of the run.
    """

    index: int
    start: bool
    draw: int
    walk: int
    seed: int = 0


@DATASETS.register_module()
class NuScenesSequenceDataset(NuScenesDataset):
    """Key frames of nuScenes in sequence order, from infos of `perception.datasets.converter`.

    Args:
        data_root: folder with `samples/`. ann_file: info file, relative to `data_root` or absolute.
        metainfo: `classes` in task order (required); `version` optional, checked against the file.
        pipeline: transforms of `perception.datasets.transforms`.
        trajectory_frames: K past key frames whose object centres are added (the released online code: 4).
        drop_boxes_without_points: leave out boxes in which neither LiDAR nor radar has a point (as the metric does).
        split_sequences: parts that every scene is cut into, histories and trajectories too; test sets are never cut.
        on_error: 'raise', or 'skip' (training only): a frame whose files cannot be read is logged and the nearest
            readable frame of its sequence takes its place.
        lidar_shuffle_seed: negative control. The depth map, and nothing else, is made from another sample's sweep.

    Keys given to the pipeline besides mmdet3d's: `lidar2global` (4, 4) float64, `instance_tokens`, `trajectories`,
    `trajectories_unaligned` (Q, K+1, 3), `gt_bboxes_3d`, `gt_labels_3d`, `start`, `draw`, `walk`, `seed`,
    `depth_source` (the sample the depth map is made from).
    Raises: ConfigError, DataError; both name the key or the file.
    """

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        *,
        metainfo: dict,
        pipeline=(),
        trajectory_frames: int = 8,
        drop_boxes_without_points: bool = True,
        split_sequences: int = 1,
        on_error: str = "raise",
        lidar_shuffle_seed: int | None = None,
        test_mode: bool = False,
        data_prefix: dict | None = None,
        **kwargs,
    ):
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error = {on_error!r}: one of 'raise', 'skip'")
        if on_error == "skip" and test_mode:
            raise ConfigError("on_error = 'skip' is for training: the metric needs every sample; use 'raise'")
        if split_sequences < 1 or trajectory_frames < 0:
            raise ConfigError(
                f"split_sequences = {split_sequences} (>= 1 needed), trajectory_frames = {trajectory_frames} (>= 0)"
            )
        if kwargs.pop("filter_empty_gt", False):
            raise ConfigError("filter_empty_gt = True would break sequences: empty frames are kept; leave it out")
        if kwargs.get("indices") is not None or kwargs.get("filter_cfg") is not None:
            raise ConfigError("indices, filter_cfg: they break sequences and the metric; make infos of fewer scenes")
        self.trajectory_frames = trajectory_frames
        self.split_sequences = 1 if test_mode else split_sequences
        self.on_error = on_error
        self.lidar_shuffle_seed = lidar_shuffle_seed
        metainfo = dict(metainfo or {})
        self._asked_version = metainfo.pop("version", None)  # not given to mmengine: it opens strings as files
        if "classes" not in metainfo:
            raise ConfigError(
                "metainfo.classes is missing: pass perception.datasets.infos.TASK_CLASSES; a label is an index into it"
            )
        label_mapping({name: index for index, name in enumerate(OFFICIAL_CLASSES)}, metainfo["classes"], ann_file)
        super().__init__(
            data_root=data_root,
            ann_file=ann_file,
            metainfo=metainfo,
            pipeline=list(pipeline),
            modality={"use_camera": True, "use_lidar": True},
            filter_empty_gt=False,
            use_valid_flag=drop_boxes_without_points,
            test_mode=test_mode,
            data_prefix=data_prefix or {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP"},
            **kwargs,
        )

    # -- reading the info file ---------------------------------------------------------------------------------------

    def load_data_list(self) -> list[dict]:
        """Checked infos in file order (the metric counts on it); fills the sequences and the objects of every frame."""
        infos = load_infos(self.ann_file)
        check_infos(infos, self.ann_file, self._asked_version)
        self._metainfo["version"] = infos["metainfo"]["version"]
        self._metainfo["absent_scenes"] = infos["metainfo"].get("absent_scenes", [])
        self.label_mapping = label_mapping(infos["metainfo"]["categories"], self._metainfo["classes"], self.ann_file)
        raw = infos["data_list"]
        for camera in {camera for info in raw for camera in info["images"]}:
            self.data_prefix.setdefault(camera, osp.join(self.data_root or "", "samples", camera))
        position = {info["token"]: index for index, info in enumerate(raw)}
        self.sequences = split_scenes(raw, self.split_sequences)
        for index in (sequence[0] for sequence in self.sequences):  # no history reaches over a cut, so no path may
            position.pop(raw[index]["prev_token"], None)
        self._objects = [self._frame_objects(info, position) for info in raw]
        self._place = {index: (s, k) for s, seq in enumerate(self.sequences) for k, index in enumerate(seq)}
        return [self.parse_data_info(info) for info in raw]

    @staticmethod
    def _frame_objects(info: dict, position: dict) -> FrameObjects:
        instances = info.get("instances", [])
        return FrameObjects(
            tokens={instance["instance_token"]: row for row, instance in enumerate(instances)},
            centers=np.array([instance["bbox_3d"][:3] for instance in instances], np.float64).reshape(-1, 3),
            lidar2global=_lidar2global(info),
            previous=position.get(info["prev_token"]),
        )

    def parse_data_info(self, info: dict) -> dict:
        """mmdet3d's keys, absolute paths and boxes; sweeps and monocular boxes are left out."""
        info.pop("cam_instances", None)
        info.pop("lidar_sweeps", None)
        info.setdefault("instances", [])
        info = super().parse_data_info(info)
        info.pop("instances")
        return info

    def parse_ann_info(self, info: dict) -> dict:
        """Boxes of the ten classes: `gt_bboxes_3d` (Q, 9), an unknown velocity as NaN, `gt_labels_3d` (Q,),
        `instance_token` (Q,) strings."""
        annotations = super().parse_ann_info(info)
        keep = annotations["gt_labels_3d"] >= 0
        unknown = annotations.get("unknown_velocity", np.zeros(0, bool))
        annotations["gt_bboxes_3d"].tensor[np.flatnonzero(unknown), 7:9] = np.nan
        tokens = annotations.get("instance_token", np.zeros(0, "<U32"))
        return {
            "gt_bboxes_3d": annotations["gt_bboxes_3d"][keep],
            "gt_labels_3d": annotations["gt_labels_3d"][keep],
            "instance_token": tokens[keep],
        }

    def _filter_with_mask(self, ann_info: dict) -> dict:
        # mmdet3d writes 0 over them after this; a velocity nobody measured would then be taught as standing still
        ann_info["unknown_velocity"] = np.isnan(ann_info["velocities"]).any(-1)
        if self.use_valid_flag:
            return super()._filter_with_mask(ann_info)
        return ann_info

    # -- one sample --------------------------------------------------------------------------------------------------

    def __getitem__(self, item) -> dict:
        """The sample after the pipeline. `item`: a SequenceItem, or an int (start and draw then follow from the index).

        Raises: DataError if a file cannot be read and on_error is 'raise', or no frame of the sequence is readable.
        """
        item = self._as_item(item)
        if self.on_error == "raise":
            return self.prepare_data(item)
        sequence, place = self._place[item.index]
        frames = self.sequences[sequence]
        for index in sorted(frames, key=lambda index: abs(self._place[index][1] - place)):
            try:
                return self.prepare_data(item._replace(index=index))
            except (DataError, FileNotFoundError) as error:
                print_log(f"frame {index} of sequence {sequence} is skipped: {error}", "current", level=30)
                last = error
        raise DataError(f"no frame of sequence {sequence} can be read; the last error was: {last}") from last

    def _as_item(self, item) -> SequenceItem:
        if isinstance(item, SequenceItem):
            return item
        index = int(item) % len(self)
        sequence, place = self._place[index]
        return SequenceItem(index, place == 0, index, sequence)

    def prepare_data(self, item) -> dict:
        """The sample of `item` after the pipeline."""
        return self.pipeline(self.raw_sample(item))

    def raw_sample(self, item) -> dict:
        """What the pipeline gets: a fresh dictionary that the transforms may change."""
        item = self._as_item(item)
        results = self.get_data_info(item.index)
        annotations = results.pop("ann_info", None) or results.pop("eval_ann_info", None)
        results.update(
            box_type_3d=self.box_type_3d,
            box_mode_3d=self.box_mode_3d,
            lidar2global=self._objects[item.index].lidar2global.copy(),
            depth_source=self._depth_source(item, results),
            **item._asdict(),
        )
        if annotations is not None:
            tokens = annotations["instance_token"]
            aligned, unaligned = past_centers(self._objects, item.index, tokens, self.trajectory_frames)
            results.update(
                gt_bboxes_3d=annotations["gt_bboxes_3d"],
                gt_labels_3d=annotations["gt_labels_3d"],
                instance_tokens=tokens,
                trajectories=aligned,
                trajectories_unaligned=unaligned,
            )
        return results

    def _depth_source(self, item: SequenceItem, own: dict) -> dict:
        """The sample whose sweep and calibration make the depth map: this one, or in the negative control another."""
        if self.lidar_shuffle_seed is None or len(self) < 2:
            source = own
        else:
            other = np.random.default_rng((self.lidar_shuffle_seed, item.draw)).integers(len(self) - 1)
            source = self.get_data_info(int(other) + (other >= item.index))
        return {
            "lidar_path": source["lidar_path"],
            "num_pts_feats": source["num_pts_feats"],
            "lidar2cam": {camera: image["lidar2cam"] for camera, image in source["images"].items()},
            "cam2img": {camera: image["cam2img"] for camera, image in source["images"].items()},
        }


def _lidar2global(info: dict) -> np.ndarray:
    if "lidar2global" in info:
        return np.array(info["lidar2global"], np.float64)
    return np.array(info["ego2global"], np.float64) @ np.array(info["lidar_points"]["lidar2ego"], np.float64)


def split_scenes(infos: list[dict], parts: int) -> list[list[int]]:
    """Index lists: one per scene, sorted by time, each cut into `parts` whose sizes differ by at most one.

    A scene with fewer frames than `parts` gives one sequence per frame. Order: by the scene's first appearance.
    """
    scenes = defaultdict(list)
    for index, info in enumerate(infos):
        scenes[info["scene_token"]].append(index)
    sequences = []
    for indices in scenes.values():
        ordered = sorted(indices, key=lambda index: infos[index]["timestamp"])
        sequences += [part.tolist() for part in np.array_split(ordered, parts) if len(part)]
    return sequences
