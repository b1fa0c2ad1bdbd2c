"""Packing, collating and the loaders that mmengine builds, up to a resumed training loop."""

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.runner import Runner

from common.engine.loops import ResumableIterLoop
from perception.datasets import (
    TASK_CLASSES,
    AugmentBEV,
    BEVDataPreprocessor,
    FilterBoxRange,
    LoadAndAugmentImages,
    LoadLidarDepth,
    NuScenesSequenceDataset,
    PackBEVInputs,
    SceneSampler,
    SequenceBatchSampler,
    SequenceSampler,
)

PIPELINE = [
    {"type": LoadAndAugmentImages, "size": (32, 88)},
    {"type": LoadLidarDepth, "keep_points": True},
    {"type": AugmentBEV},
    {"type": FilterBoxRange, "x": (-51.2, 51.2), "y": (-51.2, 51.2)},
    {"type": PackBEVInputs},
]


def loader_config(root, batch_size=2, workers=0, split="train", **dataset):
    train = split == "train"
    sampler = (
        {"sampler": {"type": SequenceSampler}, "batch_sampler": {"type": SequenceBatchSampler}}
        if train
        else {"sampler": {"type": SceneSampler}}
    )
    return dict(
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        dataset=dict(
            type=NuScenesSequenceDataset,
            data_root=str(root),
            ann_file=f"tutelage_infos_{split}.pkl",
            metainfo={"classes": TASK_CLASSES},
            pipeline=PIPELINE,
            trajectory_frames=3,
            test_mode=not train,
            **dataset,
        ),
        **sampler,
    )


def first_batches(config, count, start=0):
    loader = Runner.build_dataloader(config, seed=11)
    if start:
        loader.batch_sampler.set_start(start)
    iterator = iter(loader)
    return [next(iterator) for _ in range(count)]


@pytest.fixture(scope="module")
def samples(small_root, make_dataset):
    dataset = make_dataset(small_root, pipeline=PIPELINE)
    return [dataset[1], dataset[3]]  # 3 is the empty frame


@pytest.fixture(scope="module")
def batch(samples):
    return BEVDataPreprocessor()(pseudo_collate(samples))


def test_the_batch_has_the_keys_shapes_and_types_of_the_conventions(batch):
    inputs = batch["inputs"]
    got = {key: (tuple(v.shape), v.dtype) for key, v in inputs.items() if isinstance(v, torch.Tensor)}
    f32 = torch.float32
    assert got == {
        "imgs": ((2, 6, 3, 32, 88), f32), "cam2img": ((2, 6, 3, 3), f32), "cam2lidar": ((2, 6, 4, 4), f32),
        "img_aug": ((2, 6, 3, 3), f32), "bev_aug": ((2, 4, 4), f32), "lidar2global": ((2, 4, 4), torch.float64),
        "start": ((2,), torch.bool), "lidar_depth": ((2, 6, 32, 88), f32),
    }  # fmt: skip
    lists = {key: [tuple(v.shape) for v in inputs[key]] for key in ("trajectories", "trajectories_unaligned", "points")}
    objects = len(batch["data_samples"][0].gt_instances_3d.labels_3d)
    assert lists["trajectories"] == lists["trajectories_unaligned"] == [(objects, 4, 3), (0, 4, 3)]
    assert [shape[1] for shape in lists["points"]] == [5, 5]


def test_data_samples_carry_the_meta_information_of_the_conventions(batch):
    sample = batch["data_samples"][0]
    wanted = {
        "sample_idx", "token", "scene_token", "frame_idx", "timestamp", "img_paths", "cam_names", "box_type_3d",
        "box_mode_3d", "lidar_path", "num_pts_feats", "instance_tokens",
    }  # fmt: skip
    assert wanted <= set(sample.metainfo_keys())
    assert len(sample.instance_tokens) == len(sample.gt_instances_3d.labels_3d) > 5
    assert len(sample.img_paths) == len(sample.cam_names) == 6


def test_images_are_normalised_with_the_statistics_of_their_own_channel(samples):
    preprocess = BEVDataPreprocessor(mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0))
    imgs = preprocess(pseudo_collate(samples))["inputs"]["imgs"][0, 2]
    raw = samples[0]["inputs"]["imgs"][2].float()
    for channel, (mean, std) in enumerate([(10, 1), (20, 2), (30, 4)]):
        assert torch.allclose(imgs[channel], (raw[channel] - mean) / std)


def test_the_statistics_stay_out_of_the_checkpoint():
    assert not BEVDataPreprocessor().state_dict()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("imgs", torch.zeros(6, 3, 16, 88), r"inputs\['imgs'\]\[1\] has shape \(6, 3, 16, 88\).*H = 32"),
        ("imgs", torch.zeros(6, 1, 32, 88), r"inputs\['imgs'\]\[1\].*3 = 3"),
        ("cam2img", torch.zeros(5, 3, 3), r"inputs\['cam2img'\]\[1\].*N = 6"),
        ("cam2lidar", torch.zeros(6, 3, 4), r"inputs\['cam2lidar'\]\[1\] has shape \(6, 3, 4\)"),
        ("lidar_depth", torch.zeros(6, 32, 80), r"inputs\['lidar_depth'\]\[1\].*W = 88.*same cameras and image size"),
        ("start", torch.zeros(1), r"inputs\['start'\]\[1\]"),
    ],
)
def test_a_wrong_shape_is_named_with_sample_key_and_wanted_shape(samples, key, value, message):
    data = pseudo_collate(samples)
    data["inputs"][key] = [data["inputs"][key][0], value]
    with pytest.raises(ValueError, match=message):
        BEVDataPreprocessor()(data)


def test_a_missing_key_is_named(samples):
    data = pseudo_collate(samples)
    del data["inputs"]["cam2lidar"]
    with pytest.raises(ValueError, match=r"lack 'cam2lidar'.*PackBEVInputs"):
        BEVDataPreprocessor()(data)


def test_workers_and_the_main_process_give_the_same_batches(small_root):
    alone = first_batches(loader_config(small_root, workers=0), 6)
    shared = first_batches(loader_config(small_root, workers=2), 6)
    for a, b in zip(alone, shared, strict=True):
        assert [s.draw for s in a["data_samples"]] == [s.draw for s in b["data_samples"]]
        for key in ("imgs", "bev_aug", "lidar_depth"):
            assert all(torch.equal(x, y) for x, y in zip(a["inputs"][key], b["inputs"][key], strict=True))


def test_a_jump_gives_the_very_tensors_of_the_uninterrupted_run(small_root):
    whole = first_batches(loader_config(small_root), 9)
    resumed = first_batches(loader_config(small_root), 2, start=7)
    for a, b in zip(whole[7:], resumed, strict=True):
        for key in ("imgs", "img_aug", "bev_aug", "start", "lidar_depth", "points"):
            assert all(torch.equal(x, y) for x, y in zip(a["inputs"][key], b["inputs"][key], strict=True))


def test_evaluation_loads_every_sample_once_without_randomness(small_root):
    def run():
        return list(Runner.build_dataloader(loader_config(small_root, 1, split="val"), seed=0))

    first, second = run(), run()
    assert [b["data_samples"][0].sample_idx for b in first] == [0, 1, 2, 3, 4]
    assert [bool(b["inputs"]["start"][0]) for b in first] == [True] + [False] * 4
    assert all(torch.equal(a["inputs"]["imgs"][0], b["inputs"]["imgs"][0]) for a, b in zip(first, second, strict=True))


class Recorder(BaseModel):
    """A model of one number that notes what it was given."""

    def __init__(self):
        super().__init__(data_preprocessor=BEVDataPreprocessor())
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, inputs, data_samples=None, mode="loss"):
        self.seen.append([sample.draw for sample in data_samples])
        return {"loss": ((inputs["imgs"].mean((1, 2, 3, 4)) + inputs["bev_aug"][:, 0, 0] - self.weight) ** 2).mean()}


def train(root, work_dir, iterations, resume=False, workers=0):
    runner = Runner(
        model=Recorder(),
        work_dir=str(work_dir),
        train_dataloader=loader_config(root, workers=workers),
        train_cfg={"type": ResumableIterLoop, "max_iters": iterations},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 5, "by_epoch": False}},
        resume=resume,
        randomness={"seed": 4},
        log_level="ERROR",
        experiment_name=f"{work_dir.name}{iterations}{resume}",
    )
    runner.train()
    return runner.model


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])  # stopping workers takes seconds
def test_a_resumed_loop_continues_with_the_batches_and_weights_of_the_uninterrupted_one(
    small_root, tmp_path, workers, monkeypatch
):
    load = torch.load  # mmengine's own checkpoint of this test holds its history buffers
    monkeypatch.setattr(torch, "load", lambda *a, **k: load(*a, **{**k, "weights_only": False}))
    whole = train(small_root, tmp_path / "whole", 8, workers=workers)
    train(small_root, tmp_path / "cut", 5, workers=workers)
    resumed = train(small_root, tmp_path / "cut", 8, resume=True, workers=workers)
    assert resumed.seen == whole.seen[5:]
    assert torch.equal(resumed.weight, whole.weight)
