import pytest
import torch

from common.errors import ConfigError
from perception.detection.bev_encoder import BEVEncoder, PreFusion
from perception.detection.layers import BasicBlock


def test_the_encoder_returns_a_map_of_the_grids_own_size():
    net = BEVEncoder(12, (8, 12, 16), blocks=1, neck_channels=16, out_channels=8, norm="GN")
    assert net(torch.randn(2, 12, 16, 24)).shape == (2, 8, 16, 24)
    two = BEVEncoder(12, (8, 12), blocks=1, neck_channels=16, out_channels=8, norm="GN")
    assert two(torch.randn(1, 12, 20, 12)).shape == (1, 8, 20, 12)


def test_the_released_size_runs_its_stages_at_64_32_and_16_cells():
    with torch.device("meta"):
        net = BEVEncoder(720)
        sizes = []
        for stage in net.stages:
            stage.register_forward_hook(lambda m, i, o: sizes.append(tuple(o.shape[1:])))
        out = net(torch.empty(1, 720, 128, 128))
    assert sizes == [(160, 64, 64), (320, 32, 32), (640, 16, 16)]
    assert net.fuse[0][0].in_channels == 800 and out.shape == (1, 256, 128, 128)


@pytest.mark.parametrize("rows, columns", [(20, 16), (16, 20)])
def test_a_grid_that_does_not_halve_three_times_is_a_config_error(rows, columns):
    net = BEVEncoder(4, (8, 8, 8), blocks=1, neck_channels=8, out_channels=8)
    with pytest.raises(ConfigError, match=f"{rows}x{columns}.*multiples of 8"):
        net(torch.randn(1, 4, rows, columns))
    with pytest.raises(ConfigError, match="in_channels=4"):
        net(torch.randn(1, 5, 16, 16))


def test_the_pre_fusion_stage_is_two_blocks_of_which_the_first_has_a_3x3_shortcut():
    net = PreFusion(8)
    assert net(torch.randn(2, 8, 6, 6)).shape == (2, 8, 6, 6)
    first, second = net.stage
    assert isinstance(first.shortcut, torch.nn.Conv2d) and first.shortcut.kernel_size == (3, 3)
    assert isinstance(second.shortcut, torch.nn.Identity)


def test_a_block_whose_residual_is_zero_is_the_relu_of_its_shortcut():
    block = BasicBlock(4, 4, norm="BN").eval()
    torch.nn.init.zeros_(block.norm2.weight)
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(block(x), x.relu())


def test_the_encoder_shifts_with_its_input_by_whole_strides():
    net = BEVEncoder(3, (8, 8), blocks=1, neck_channels=8, out_channels=4, norm="BN").eval()
    # align_corners upsampling is not shift-equivariant; the strided stages are
    stages = torch.nn.Sequential(*net.stages).eval()
    x = torch.zeros(1, 3, 64, 64)
    x[..., 28:34, 28:34] = torch.randn(1, 3, 6, 6)
    a, b = stages(x), stages(x.roll(8, -1))
    torch.testing.assert_close(a.roll(2, -1)[..., 4:-4, 4:-4], b[..., 4:-4, 4:-4])


def test_an_encoder_whose_first_stride_is_one_keeps_the_cells_apart():
    net = BEVEncoder(4, (8, 8, 8), blocks=1, neck_channels=8, out_channels=8, strides=(1, 2, 2), shortcut="projection")
    sizes = []
    for stage in net.stages:
        stage.register_forward_hook(lambda m, i, o: sizes.append(tuple(o.shape[2:])))
    assert net(torch.randn(2, 4, 12, 8)).shape == (2, 8, 12, 8)
    assert sizes == [(12, 8), (6, 4), (3, 2)]
    for strides in ((1, 2), (1, 2, 3)):
        with pytest.raises(ConfigError, match="1 or 2 for each of 3 stages"):
            BEVEncoder(4, (8, 8, 8), strides=strides)


def test_a_projection_shortcut_does_not_hand_on_the_scale_of_its_input_and_the_released_one_does():
    x = torch.randn(2, 4, 8, 8)

    def growth(shortcut):
        torch.manual_seed(0)
        block = BasicBlock(4, 8, shortcut=shortcut)
        return (block(1000 * x).std() / block(x).std()).item()

    assert growth("projection") == pytest.approx(1, rel=0.01)
    assert growth("conv3x3") > 100
    with pytest.raises(ConfigError, match="shortcut='none'"):
        BasicBlock(4, 8, shortcut="none")
