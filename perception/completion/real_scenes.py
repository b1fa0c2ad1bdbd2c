"""Recorded scenes as completion data: SemanticKITTI's sequences and nuScenes' sweeps."""

from pathlib import Path

from mmengine.registry import DATASETS
from torch.utils.data import Dataset
from tqdm import tqdm

from common.errors import ConfigError
from perception.completion import nuscenes_sweeps as sweeps
from perception.completion.profiles import Profile, profile_of
from perception.completion.semantic_kitti import TRAIN, VALIDATION, Sequence
from perception.completion.stored import drawn, keep, kept


@DATASETS.register_module()
class KittiScenes(Dataset):
    """SemanticKITTI: every scan with the map around it. The maps are built on first use and kept beside the scans.

    Items as `TownScenes`'. Args: root with the sequences' folders; profile; train; sequences: default the published
    split (08 for evaluation); every: take each n-th scan; dense.
    """

    def __init__(
        self, root: str, profile: str | Profile, train: bool = True, sequences: tuple[str, ...] | None = None,
        every: int = 1, dense: int = 0,
    ):  # fmt: skip
        self.profile, self.train, self.dense = profile_of(profile), train, dense
        names = sequences or (TRAIN if train else VALIDATION)
        self.sequences = [Sequence.load(Path(root) / name) for name in names]
        self.maps = [one.map() for one in self.sequences]
        self.index = [(s, i) for s, one in enumerate(self.sequences) for i in range(0, len(one.scans), every)]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int) -> dict:
        s, i = self.index[item]
        sequence = self.sequences[s]
        scan, scene = sequence.sample(i, self.maps[s], self.profile.radius)
        return drawn(scan, scene, self.profile, item, self.train, str(sequence.scans[i]), self.dense)


@DATASETS.register_module()
class SweepScenes(Dataset):
    """nuScenes: every key frame's LIDAR_TOP sweep with what the sweeps around it saw standing still, x ahead.

    Items as `TownScenes`'. Args: root; version; folder for the samples, made on first use; profile; train: the devkit's
    split; dense. Raises: ConfigError where the version has no scene of the split.
    """

    def __init__(
        self, root: str, version: str, folder: str, profile: str | Profile, train: bool = True, dense: int = 0
    ):
        from nuscenes import NuScenes
        from nuscenes.utils.splits import create_splits_scenes

        self.profile, self.train, self.dense = profile_of(profile), train, dense
        nusc = NuScenes(version=version, dataroot=root, verbose=False)
        part = ("mini_" if version.endswith("mini") else "") + ("train" if train else "val")
        names = set(create_splits_scenes()[part])
        scenes = [scene for scene in nusc.scene if scene["name"] in names]
        if not scenes:
            raise ConfigError(f"{root}: {version} holds no scene of {part}")
        self.folder = Path(folder) / version / f"r{self.profile.radius:g}"
        self.tokens: list[str] = []
        for scene in tqdm(scenes, desc="sweeps", unit="scene"):
            self.tokens += self._prepare(nusc, scene)

    def _prepare(self, nusc, scene: dict) -> list[str]:
        """Tokens of the scene's key frames; makes the samples that are missing."""
        records = sweeps.sweeps_of(nusc, scene)
        keys = {i: one["token"] for i, one in enumerate(records) if one["is_key_frame"]}
        missing = [i for i, token in keys.items() if not (self.folder / f"{token}.npz").is_file()]
        if missing:
            read = sweeps.scene_sweeps(nusc, scene, self.profile.radius)
            for i in missing:
                keep(self.folder / f"{keys[i]}.npz", *sweeps.sample(read, i, self.profile.radius))
        return list(keys.values())

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, item: int) -> dict:
        path = self.folder / f"{self.tokens[item]}.npz"
        return drawn(*kept(path), self.profile, item, self.train, str(path), self.dense)
