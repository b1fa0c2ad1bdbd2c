"""Data of nuScenes, or of any set written in its format.

One path to change: put the set (or a link to it) at data/nuscenes, edit `data_root`, or pass --cfg-options data_root=P
(and version=v1.0-mini for the mini split): `linked` carries both to every place that uses them."""

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
from perception.picture_hook import PictureHook

data_root = "data/nuscenes"
version = "v1.0-trainval"
linked = dict(
    data_root=[
        "train_dataloader.dataset.data_root",
        "val_dataloader.dataset.data_root",
        "test_dataloader.dataset.data_root",
        "val_evaluator.data_root",
        "test_evaluator.data_root",
    ],
    version=[
        "train_dataloader.dataset.metainfo.version",
        "val_dataloader.dataset.metainfo.version",
        "test_dataloader.dataset.metainfo.version",
    ],
)
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
    dict(type=PackBEVInputs),
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
        on_error="raise",  # "skip" logs unreadable frames and takes a neighbour
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
val_evaluator = dict(type=NuScenesSequenceMetric, data_root=data_root, ann_file="tutelage_infos_val.pkl", out_dir=None)
test_evaluator = val_evaluator
data_preprocessor = dict(type=BEVDataPreprocessor)
custom_hooks += [dict(type=PictureHook, frames=4)]
