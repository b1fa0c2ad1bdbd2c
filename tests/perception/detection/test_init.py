"""The weights a training starts from: `init_weights` reaches the image backbone's own `init_cfg`."""

import pytest
import torch
from mmdet.models import ResNet


def resnet(checkpoint=None):
    init_cfg = dict(type="Pretrained", checkpoint=str(checkpoint)) if checkpoint else None
    return dict(type=ResNet, depth=18, base_channels=8, out_indices=(1, 2), init_cfg=init_cfg)


def with_resnet(detector, checkpoint=None):
    """A detector whose ResNet-18 of 8 channels yields strides 8 and 16."""
    from perception.detection.neck import FinestFPN

    neck = dict(type=FinestFPN, in_channels=(16, 32), out_channels=8)
    return detector(image_backbone=resnet(checkpoint), image_neck=neck)


def test_pretrained_weights_of_the_image_backbone_are_loaded_and_none_of_its_layers_keeps_another(detector, tmp_path):
    weights = with_resnet(detector).core.image_backbone.state_dict()
    weights = {
        key: torch.randn_like(value) if value.is_floating_point() else value + 3 for key, value in weights.items()
    }
    torch.save(weights, tmp_path / "resnet.pth")
    model = with_resnet(detector, tmp_path / "resnet.pth")
    model.init_weights()
    loaded = model.core.image_backbone.state_dict()
    assert loaded.keys() == weights.keys()
    for key, value in weights.items():
        torch.testing.assert_close(loaded[key], value, rtol=0, atol=0, msg=key)


def test_a_missing_file_of_pretrained_weights_is_named(detector, tmp_path):
    from perception.detection.convnext import ConvNeXt

    model = with_resnet(detector, tmp_path / "resnet50-gone.pth")
    with pytest.raises(FileNotFoundError, match=r"resnet50-gone\.pth"):
        model.init_weights()
    with pytest.raises(FileNotFoundError, match=r"model\.image_backbone\.init_cfg: .*random ones with --cfg-options"):
        model.init_weights()
    with pytest.raises(FileNotFoundError, match=r"model\.image_weights: gone\.pth: .*model\.image_weights=None"):
        detector(
            image_weights="gone.pth", image_backbone=dict(type=ConvNeXt, arch=((1, 1, 1, 1), (4, 4, 8, 8)))
        ).init_weights()


def test_boxes_and_scores_start_from_their_bias_and_a_backbone_without_init_weights_is_left_alone(detector):
    model = detector()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.init_weights()
    last = {
        f"core.head.task_heads.{task}.{name}.1.weight"
        for task, head in enumerate(model.core.head.task_heads)
        for name, _ in head.named_children()
    }
    for key, value in model.state_dict().items():
        if key in last:
            assert value.std().item() == pytest.approx(0.01, rel=0.35), key
        else:
            torch.testing.assert_close(value, before[key], msg=key)
    heat = model.core.head(torch.randn(1, model.core.head.shared_conv.conv.in_channels, 8, 8))["heatmap"]
    torch.testing.assert_close(heat.sigmoid(), torch.full_like(heat, 0.1), atol=0.02, rtol=0)
