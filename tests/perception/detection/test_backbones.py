import pytest
import torch
import torch.nn.functional as F

from common.errors import CheckpointError, ConfigError
from perception.detection.convnext import ConvNeXt
from perception.detection.layers import make_norm
from perception.detection.neck import FinestFPN

TINY = ((1, 1, 2, 1), (8, 16, 24, 32))


@pytest.mark.parametrize(
    "arch, published, classifier, inner",
    [("tiny", 28_589_128, 768 * 1000 + 1000, 2 * 384), ("base", 88_591_464, 1024 * 1000 + 1000, 2 * 512)],
)
def test_the_parameter_count_is_the_published_one(arch, published, classifier, inner):
    """Published with the 1000-class head; the norm of the stride-16 output is not part of the classifier."""
    with torch.device("meta"):
        net = ConvNeXt(arch)
    assert sum(p.numel() for p in net.parameters()) == published - classifier + inner


def test_strides_16_and_32_come_out_normalised():
    net = ConvNeXt(TINY, layer_scale=1.0).eval()
    c16, c32 = net(torch.randn(2, 3, 64, 96))
    assert c16.shape == (2, 24, 4, 6) and c32.shape == (2, 32, 2, 3)
    for x in (c16, c32):
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), atol=1e-5, rtol=0)


def test_recomputation_changes_neither_output_nor_gradient():
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        net = ConvNeXt(TINY, layer_scale=1.0, drop_path=0.5, with_cp=with_cp).train()
        images = torch.randn(2, 3, 32, 32)
        torch.manual_seed(1)
        loss = sum(x.square().sum() for x in net(images))
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in net.parameters() if p.grad is not None)])
    assert len(gradients[0]) == len(gradients[1])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_drop_path_keeps_the_mean_of_the_residual_and_is_off_in_evaluation():
    net = ConvNeXt(TINY, drop_path=0.5, layer_scale=1.0)
    block = net.stages[3][0]
    assert block.drop_path == pytest.approx(0.5) and net.stages[0][0].drop_path == 0
    x = torch.randn(1, 32, 2, 2)
    full = block.eval()(x) - x
    with torch.no_grad():
        many = block.train()(x.expand(4000, -1, -1, -1)) - x
    # every sample is 0 or full / 0.5; the mean over 4000 coin tosses deviates by 1/sqrt(4000) of full
    torch.testing.assert_close(many.mean(0, keepdim=True), full, atol=0.08 * full.abs().max().item(), rtol=0)
    assert (many.flatten(1).abs().sum(1) == 0).float().mean().item() == pytest.approx(0.5, abs=0.04)


def official(net):
    """The state dict as the official release names it: no norm of inner outputs, a classifier on top."""
    state = {k: torch.randn_like(v) for k, v in net.state_dict().items() if not k.startswith("norm2")}
    return {**state, "head.weight": torch.randn(10, 32), "head.bias": torch.randn(10)}


def test_official_weights_load_and_the_unused_keys_are_named(tmp_path):
    net = ConvNeXt(TINY)
    state = official(net)
    torch.save({"model": state}, tmp_path / "convnext.pth")
    report = net.load_official(tmp_path / "convnext.pth")
    assert report == {"fresh": ["norm2.bias", "norm2.weight"], "ignored": ["head.bias", "head.weight"]}
    assert all(torch.equal(net.state_dict()[k], v) for k, v in state.items() if not k.startswith("head"))
    expected = {"downsample_layers.0.0.weight", "downsample_layers.3.0.bias", "stages.2.1.gamma", "norm.weight"}
    expected |= {f"stages.0.0.{name}.bias" for name in ("dwconv", "norm", "pwconv1", "pwconv2")}
    assert expected <= set(state)


def test_a_backbone_without_the_last_stage_ignores_its_weights(tmp_path):
    torch.save(official(ConvNeXt(TINY)), tmp_path / "convnext.pth")
    report = ConvNeXt(TINY, out_indices=(1, 2)).load_official(tmp_path / "convnext.pth")
    assert {"stages.3.0.gamma", "downsample_layers.3.1.weight", "norm.weight"} <= set(report["ignored"])


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    net, path = ConvNeXt(TINY), tmp_path / "convnext.pth"
    for change, message in [
        (lambda s: s.pop("stages.0.0.gamma"), "1 missing: stages.0.0.gamma"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (lambda s: s.update({"norm.weight": torch.zeros(5)}), "norm.weight \\(5,\\), wanted \\(32,\\)"),
    ]:
        state = official(net)
        change(state)
        torch.save(state, path)
        with pytest.raises(CheckpointError, match=message):
            net.load_official(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.pth: no such checkpoint"):
        net.load_official(tmp_path / "absent.pth")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Payload()}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of plain tensors"):
        ConvNeXt(TINY).load_official(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


def test_an_unknown_architecture_or_stage_is_named():
    with pytest.raises(ConfigError, match="tiny, small, base"):
        ConvNeXt("huge")
    with pytest.raises(ConfigError, match="out_indices"):
        ConvNeXt("tiny", out_indices=(4,))


def test_the_fpn_is_lateral_plus_upsampled_lateral_then_3x3():
    neck = FinestFPN((3, 5), 4)
    fine, coarse = torch.randn(2, 3, 4, 6), torch.randn(2, 5, 2, 3)
    got = neck((fine, coarse))
    up = neck.laterals[1](coarse).repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(got, neck.output(neck.laterals[0](fine) + up))
    assert got.shape == (2, 4, 4, 6)


def test_the_fpn_refuses_another_number_of_maps():
    with pytest.raises(ConfigError, match="in_channels"):
        FinestFPN((3, 5), 4)((torch.randn(1, 3, 4, 4),))


@pytest.mark.parametrize("channels, groups", [(80, 20), (64, 16), (512, 32), (27, 3), (6, 1), (1, 1)])
def test_group_norm_divides_the_channels_into_groups_of_at_least_four(channels, groups):
    assert make_norm("GN", channels).num_groups == groups
    assert torch.isfinite(make_norm("GN", channels)(torch.randn(1, channels, 3, 3))).all()


def test_the_fpn_upsamples_like_nearest_interpolation_for_odd_sizes():
    neck = FinestFPN((2, 2), 2)
    fine, coarse = torch.zeros(1, 2, 5, 7), torch.randn(1, 2, 3, 4)
    up = F.interpolate(neck.laterals[1](coarse), size=(5, 7), mode="nearest")
    torch.testing.assert_close(neck((fine, coarse)), neck.output(neck.laterals[0](fine) + up))
