from .infos import OFFICIAL_CLASSES, TASK_CLASSES, check_infos, load_infos
from .nuscenes import NuScenesSequenceDataset, SequenceItem
from .preprocessor import BEVDataPreprocessor
from .sampler import SceneSampler, SequenceBatchSampler, SequenceSampler
from .transforms import AugmentBEV, FilterBoxRange, LoadAndAugmentImages, LoadLidarDepth, PackBEVInputs

__all__ = [
    "OFFICIAL_CLASSES",
    "TASK_CLASSES",
    "AugmentBEV",
    "BEVDataPreprocessor",
    "FilterBoxRange",
    "LoadAndAugmentImages",
    "LoadLidarDepth",
    "NuScenesSequenceDataset",
    "PackBEVInputs",
    "SceneSampler",
    "SequenceBatchSampler",
    "SequenceItem",
    "SequenceSampler",
    "check_infos",
    "load_infos",
]
