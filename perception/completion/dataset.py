"""Completion samples for training and evaluation: simulated towns, kept on disk once made."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from mmengine.registry import DATASETS
from torch.utils.data import Dataset
from tqdm import tqdm

from perception.completion.profiles import Profile, profile_of
from perception.completion.stored import drawn, keep, kept
from perception.completion.town import make_town, static

HELD_OUT = 1_000_000  # town seeds from here on are for evaluation


def town_file(folder: Path, seed: int, radius: float) -> Path:
    """Where a town of a radius is kept."""
    return folder / f"r{radius:g}" / f"{seed}.npz"


def write_town(folder: Path, seed: int, radius: float) -> None:
    """Make a town's scan of what stands still and its scene, and keep both."""
    path = town_file(folder, seed, radius)
    if path.is_file():
        return
    town = make_town(seed, radius)
    keep(path, static(town), town.scene)


def write_towns(folder: Path, seeds: range, radius: float, workers: int = 1, progress: bool = True) -> None:
    """Make those towns that are missing, several at a time; a second call goes on where a killed one stopped."""
    missing = [seed for seed in seeds if not town_file(folder, seed, radius).is_file()]
    bar = tqdm(total=len(missing), desc=f"towns of {radius:g} m", unit="town", disable=not progress or not missing)
    if workers <= 1 or len(missing) < 2:
        for seed in missing:
            write_town(folder, seed, radius)
            bar.update()
    else:
        with ProcessPoolExecutor(workers) as pool:
            for done in [pool.submit(write_town, folder, seed, radius) for seed in missing]:
                done.result()
                bar.update()
    bar.close()


@DATASETS.register_module()
class TownScenes(Dataset):
    """Towns of a profile, made on first use.

    Items: {"scan": (n, 3), "scene": (N, 3), "seed": int}, and "dense" (dense N, 3) where asked for. Training draws a
    new thinning and augmentation every time, from PyTorch's generator; evaluation always the same.
    Args: folder; profile: name or `Profile`; train; count: default the profile's; workers that make them; dense.
    """

    def __init__(
        self, folder: str, profile: str | Profile, train: bool = True, count: int | None = None, workers: int = 1,
        dense: int = 0,
    ):  # fmt: skip
        self.profile = profile_of(profile)
        self.folder, self.train, self.dense = Path(folder), train, dense
        count = count or (self.profile.train_scenes if train else self.profile.val_scenes)
        first = 0 if train else HELD_OUT
        self.seeds = range(first, first + count)
        write_towns(self.folder, self.seeds, self.profile.radius, workers)

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> dict:
        seed = self.seeds[index]
        path = town_file(self.folder, seed, self.profile.radius)
        return drawn(*kept(path), self.profile, seed, self.train, str(path), self.dense)
