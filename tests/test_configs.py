"""Every config loads, dumps and loads again to the same thing, builds its model, and agrees with itself."""

import functools
from pathlib import Path

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config

from common.engine.config import load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    file for file in (ROOT / "configs").rglob("*.py") if "_base_" not in file.parts and file.name != "__init__.py"
)
VCD = [file for file in CONFIGS if file.parent.name == "vcd"]

load = functools.cache(load_config)
every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
every_vcd_config = pytest.mark.parametrize("path", VCD, ids=lambda path: path.stem)


def test_the_three_kinds_of_detector_have_configs():
    assert {path.stem.split("_")[0] for path in VCD} == {"apprentice", "baseline", "expert"}


@every_config
def test_the_resolved_config_loads_again_to_itself(path, tmp_path):
    cfg = load(path)
    dumped = tmp_path / path.name
    cfg.dump(str(dumped))
    assert Config.fromfile(str(dumped)).to_dict() == cfg.to_dict()


@every_config
def test_the_classes_that_the_config_names_exist(path):
    """A lazily imported class is resolved only when it is built; here every `type` is resolved at once."""
    missing = []

    def walk(node, where):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            if key == "type" and not isinstance(value, str) and not callable(value):
                missing.append(f"{where}.type = {value!r}")
            if isinstance(value, dict | list | tuple):
                walk(value, f"{where}.{key}")

    walk(load(path)._cfg_dict, path.stem)
    assert not missing, missing


@every_config
def test_checkpoints_are_kept_in_twos(path):
    hook = (load(path).get("default_hooks") or {}).get("checkpoint") or {}
    assert hook.get("max_keep_ckpts", -1) != 1


def detectors(cfg) -> list:
    """The model, and the expert inside an apprentice: one batch goes through both."""
    distiller = cfg.model.get("distiller")
    return [cfg.model, distiller.expert] if distiller else [cfg.model]


def steps(cfg, name: str) -> list:
    """The steps called `name` in the training, validation and test pipelines."""
    pipelines = [cfg[key].dataset.pipeline for key in ("train_dataloader", "val_dataloader", "test_dataloader")]
    return [step for pipeline in pipelines for step in pipeline if step.type.__name__ == name]


@every_vcd_config
def test_the_model_and_its_expert_build_and_their_parts_fit_together(path):
    """On `meta`, which allocates and computes nothing: every part gets what the one before it yields."""
    for config in detectors(load(path)):
        with torch.device("meta"), torch.no_grad():
            model = MODELS.build({key: value for key, value in config.items() if key != "distiller"})
            core = model.core.eval()
            (_, Y, X), K = core.grid.shape, core.history_frames
            logits, context = core.image_features(torch.empty(1, 6, 3, *core.image_hw), torch.empty(1, 6, 27))
            assert logits.shape[2:] == (core.depth_bins.count, *(side // core.stride for side in core.image_hw))
            current = core.pre_fusion(torch.empty(1, context.shape[2], Y, X))
            fused = torch.empty(1, current.shape[1] * (K + 1), Y, X)  # `fuse_history` warps K maps and joins them
            outputs = core.head(core.bev_encoder(fused))
        assert {tuple(value.shape[-2:]) for value in outputs.values()} == {(Y, X)}
        classes = [name for task in core.head.tasks for name in task]
        assert classes == list(load(path).train_dataloader.dataset.metainfo.classes)


@every_vcd_config
def test_pipelines_and_networks_agree_on_image_size_grid_depth_and_history(path):
    cfg = load(path)
    images, ranges, depths = (steps(cfg, n) for n in ("LoadAndAugmentImages", "FilterBoxRange", "LoadLidarDepth"))
    assert len(images) == len(depths) == 3 and len(ranges) == 1
    for model in detectors(cfg):
        assert {tuple(step["size"]) for step in images} == {tuple(model.image_hw)}
        assert [(tuple(r["x"]), tuple(r["y"])) for r in ranges] == [
            (tuple(model.grid["x"][:2]), tuple(model.grid["y"][:2]))
        ]
        for step in depths:
            assert (step["low"], step["high"]) == (model.depth_bins["low"], model.depth_bins["high"])
        assert cfg.train_dataloader.dataset.trajectory_frames == model.history_frames or "distiller" not in cfg.model


@every_vcd_config
def test_an_apprentices_expert_uses_lidar_on_the_students_own_grid(path):
    student, *experts = detectors(load(path))
    assert len(experts) == path.stem.startswith("apprentice")
    assert bool(student.get("lidar_prior")) == path.stem.startswith("expert")
    for expert in experts:
        assert expert.lidar_prior
        for key in ("grid", "depth_bins", "image_hw", "stride", "history_frames", "history_at_start"):
            assert expert.get(key) == student.get(key), key
        assert expert.bev_encoder.get("out_channels") == student.bev_encoder.get("out_channels")
