import pytest
import torch

from common.errors import ConfigError
from perception.detection.depth_net import CAMERA_ENTRIES, DepthNet, camera_vector


def calibration(batch=2, cameras=3):
    g = torch.Generator().manual_seed(0)
    cam2img = torch.eye(3).repeat(batch, cameras, 1, 1)
    cam2img[..., 0, 0], cam2img[..., 1, 1], cam2img[..., 0, 2], cam2img[..., 1, 2] = 1266.0, 1267.0, 816.0, 491.0
    img_aug = torch.eye(3).repeat(batch, cameras, 1, 1)
    img_aug[..., :2, :] = torch.randn(batch, cameras, 2, 3, generator=g)
    bev_aug = torch.eye(4).repeat(batch, 1, 1)
    bev_aug[:, :3, :3] = torch.randn(batch, 3, 3, generator=g)
    cam2lidar = torch.randn(batch, cameras, 4, 4, generator=g)
    return cam2img, img_aug, bev_aug, cam2lidar


def small(**kw):
    return DepthNet(8, 16, 6, 11, **{"aspp": (), "num_blocks": 1, "norm": "GN", **kw})


def test_the_camera_vector_holds_its_27_entries_in_order():
    cam2img, img_aug, bev_aug, cam2lidar = calibration()
    got = camera_vector(cam2img, img_aug, bev_aug, cam2lidar)
    assert got.shape == (2, 3, CAMERA_ENTRIES) == (2, 3, 27)
    b, n = 1, 2
    a, bev = img_aug[b, n], bev_aug[b]
    wanted = [1266.0, 1267.0, 816.0, 491.0, a[0, 0], a[0, 1], a[0, 2], a[1, 0], a[1, 1], a[1, 2]]
    wanted += [bev[0, 0], bev[0, 1], bev[1, 0], bev[1, 1], bev[2, 2], *cam2lidar[b, n, :3].flatten()]
    assert torch.equal(got[b, n], torch.tensor(wanted))


@pytest.mark.parametrize("norm", ["BN", "GN", "SyncBN"])
def test_logits_and_context_keep_the_feature_maps_size(norm):
    net = DepthNet(8, 16, 6, 11, aspp=(1, 3), num_blocks=2, norm=norm)
    logits, context = net(torch.randn(6, 8, 4, 7), camera_vector(*calibration()))
    assert logits.shape == (6, 11, 4, 7) and context.shape == (6, 6, 4, 7)


def test_the_calibration_changes_depth_and_context():
    net = small().eval()
    feature, camera = torch.randn(6, 8, 4, 7), camera_vector(*calibration())
    first = net(feature, camera)
    camera[0, 0, 0] += 200  # one focal length
    second = net(feature, camera)
    for a, b in zip(first, second, strict=True):
        assert not torch.allclose(a[0], b[0]) and torch.equal(a[1:], b[1:])


def test_with_group_norm_a_sample_does_not_depend_on_the_batch_in_training():
    net = DepthNet(8, 16, 6, 11, aspp=(1, 3), num_blocks=1, norm="GN", dropout=0.0).train()
    feature, camera = torch.randn(6, 8, 4, 7), camera_vector(*calibration())
    together = net(feature, camera)
    alone = net(feature[:3], camera[:1])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[:3], b, atol=1e-5, rtol=1e-5)


def test_one_camera_trains_with_fixed_standardisation_and_batch_norm_refuses_it():
    feature, camera = torch.randn(1, 8, 4, 7), torch.randn(1, 1, 27)
    small().train()(feature, camera)
    with pytest.raises(ValueError, match="more than 1 value"):
        small(norm="BN").train()(feature, camera)
    small(norm="BN", camera_norm="fixed").train()(feature, camera)


def test_fixed_standardisation_keeps_a_nuscenes_rig_of_order_one():
    camera = camera_vector(*calibration()[:1], *(torch.eye(k).expand(2, 3, k, k) for k in (3,)), *calibration()[2:])
    assert small().camera_norm(camera.flatten(0, 1)).abs().max() < 6


def test_the_gates_start_open_enough_for_gradient_to_reach_every_parameter():
    net = DepthNet(8, 16, 6, 11, aspp=(1, 3), num_blocks=1, norm="GN")
    logits, context = net(torch.randn(6, 8, 4, 7), camera_vector(*calibration()))
    (logits.square().mean() + context.square().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_wrong_sizes_and_names_are_errors_that_say_so():
    with pytest.raises(ValueError, match="B \\* N"):
        small()(torch.randn(5, 8, 4, 7), torch.randn(2, 3, 27))
    with pytest.raises(ConfigError, match="norm='LN'"):
        small(norm="LN")
    with pytest.raises(ConfigError, match="camera_norm"):
        small(camera_norm="layer")
