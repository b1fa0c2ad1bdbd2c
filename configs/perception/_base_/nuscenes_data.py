"""Data of nuScenes, or of any set written in its format. One path to change: the environment variable NUSCENES
(and NUSCENES_VERSION=v1.0-mini for the mini split), or the two lines below."""

import os

from mmengine.config import read_base
from mmengine.dataset import pseudo_collate

with read_base():
    from .runtime import *

from perception.datasets.infos import TASK_CLASSES
from perception.datasets.metric import NuScenesSequenceMetric
from perception.datasets.nuscenes import NuScenesSequenceDataset
from perception.datasets.preprocessor import BEVDataPreprocessor
from perception.datasets.sampler import SceneSampler, SequenceBatchSampler, SequenceSampler
from perception.datasets.transforms.bev import AugmentBEV, FilterBoxRange
from perception.datasets.transforms.images import LoadAndAugmentImages
from perception.datasets.transforms.lidar import LoadLidarDepth
from perception.datasets.transforms.pack import PackBEVInputs
from perception.visualization_hook import PictureHook

data_root = os.environ.get("NUSCENES", "data/nuscenes")
version = os.environ.get("NUSCENES_VERSION", "v1.0-trainval")
metainfo = dict(classes=TASK_CLASSES, version=version)

image_hw = (256, 704)
past_frames = 8

train_pipeline = [
    dict(type=LoadAndAugmentImages, size=image_hw),
    dict(type=AugmentBEV),
    dict(type=FilterBoxRange, x=(-51.2, 51.2), y=(-51.2, 51.2)),
    dict(type=LoadLidarDepth, low=1.0, high=60.0),
    dict(type=PackBEVInputs),
]
test_pipeline = [
    dict(type=LoadAndAugmentImages, size=image_hw, training=False),
    dict(type=LoadLidarDepth, low=1.0, high=60.0, keep_points=True),
    dict(type=PackBEVInputs, trajectories=False),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type=SequenceSampler),
    batch_sampler=dict(type=SequenceBatchSampler),
    collate_fn=dict(type=pseudo_collate),
    dataset=dict(
        type=NuScenesSequenceDataset,
        data_root=data_root,
        ann_file="tutelage_infos_train.pkl",
        metainfo=metainfo,
        pipeline=train_pipeline,
        trajectory_frames=past_frames,
        split_sequences=2,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=SceneSampler),
    collate_fn=dict(type=pseudo_collate),
    dataset=dict(
        type=NuScenesSequenceDataset,
        data_root=data_root,
        ann_file="tutelage_infos_val.pkl",
        metainfo=metainfo,
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=NuScenesSequenceMetric, data_root=data_root, ann_file="tutelage_infos_val.pkl")
test_evaluator = val_evaluator
data_preprocessor = dict(type=BEVDataPreprocessor)
custom_hooks += [dict(type=PictureHook, frames=4)]
