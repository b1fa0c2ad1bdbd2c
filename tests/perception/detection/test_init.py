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
    model = with_resnet(detector, tmp_path / "resnet50-gone.pth")
    with pytest.raises(FileNotFoundError, match=r"resnet50-gone\.pth"):
        model.init_weights()


def test_our_convolutions_start_with_hes_variance_and_the_heatmaps_with_their_prior(detector):
    model = detector()
    before = {key: value.clone() for key, value in model.core.image_backbone.state_dict().items()}
    bias = model.core.head.state_dict()
    bias = {key: value.clone() for key, value in bias.items() if key.endswith("bias")}
    model.init_weights()
    for layer in model.core.bev_encoder.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.numel() > 1000:
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1] // layer.groups
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)
    for key, value in bias.items():
        torch.testing.assert_close(model.core.head.state_dict()[key], value, msg=key)
    for key, value in before.items():  # a backbone without `init_weights` is left alone
        torch.testing.assert_close(model.core.image_backbone.state_dict()[key], value, msg=key)
