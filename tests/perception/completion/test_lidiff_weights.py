"""Released weights: every name has its place, and a kernel's places are MinkowskiEngine's."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from common.engine.checkpoint import load_weights, save_atomic
from common.engine.config import load_config
from common.errors import CheckpointError
from common.nn.sparse.conv import conv3, down2
from common.nn.sparse.tables import stacked_tables
from perception.completion import lidiff_weights as released
from perception.completion.network import Encoder, NoisePredictor, Refiner, VoxelSpec

SPEC = VoxelSpec(0.4, 5, match="corners")
DOWN, UP = (4, 4, 8, 12, 16), (16, 12, 8, 8)


class Networks(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.predict = Encoder(SPEC, DOWN, "batch"), NoisePredictor(SPEC, DOWN, UP, "batch")


def as_released(model, parts):
    """A state dictionary such as released files hold: x fastest, 1 x 1 x 1 kernels (C, C')."""
    state, found = model.state_dict(), {}
    for ours, (theirs, names) in parts.items():
        for name, other in names.items():
            if ours + name not in state:
                continue
            value = state[ours + name]
            if name.endswith("shortcut.weight"):
                value = value.T
            elif name.endswith(".kernel"):
                edge = round(len(value) ** (1 / 3))
                grid = value.reshape(edge, edge, edge, *value.shape[1:])  # x, y, z
                value = grid.permute(2, 1, 0, 3, 4).reshape(value.shape)
            found[theirs + other] = value
    return found


def test_every_weight_of_ours_comes_from_one_of_theirs_and_back(tmp_path):
    torch.manual_seed(0)
    model, other = Networks(), Networks()
    theirs = as_released(model, released.PARTS)
    assert len(theirs) == len(model.state_dict())
    save_atomic({"state_dict": theirs, "epoch": 19}, tmp_path / "diff.ckpt")
    assert released.main([str(tmp_path / "diff.ckpt"), str(tmp_path / "out.pth")]) == 0
    load_weights(other, str(tmp_path / "out.pth"))
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_a_refinement_too():
    torch.manual_seed(0)
    model = nn.Module()
    model.refine = Refiner(SPEC, DOWN, UP, "batch")
    found = released.convert(as_released(model, released.REFINEMENT), released.REFINEMENT)
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(value, found[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["lidiff_published", "lidiff_refinement_published"])
def test_the_published_configs_have_the_published_weights(name):
    model = MODELS.build(load_config(f"configs/perception/completion/{name}.py").model)
    parts = released.REFINEMENT if "refinement" in name else released.PARTS
    assert released.convert(as_released(model, parts), parts).keys() == model.state_dict().keys()


@pytest.mark.parametrize("offset", [(1, 0, 0), (0, -1, 0), (1, -1, 1)])
def test_a_kernel_of_one_place_reads_the_neighbour_that_minkowski_reads(offset):
    """In MinkowskiEngine place k of 27 is the neighbour (k % 3 - 1, k // 3 % 3 - 1, k // 9 - 1)."""
    k = next(k for k in range(27) if (k % 3 - 1, k // 3 % 3 - 1, k // 9 - 1) == offset)
    theirs = torch.zeros(27, 1, 1)
    theirs[k] = 1
    random = torch.Generator().manual_seed(0)
    coords = torch.unique(torch.randint(-3, 4, (150, 3), generator=random), dim=0)
    level = stacked_tables(coords[None].float(), 1.0, 2).levels[0]
    values = torch.randn(len(level), 1, generator=random)
    found = conv3(values, released.converted("first.kernel", theirs), level)
    at = {tuple(c): v for c, v in zip(level.coords.tolist(), values[:, 0].tolist(), strict=True)}
    for c, v in zip(level.coords.tolist(), found[:, 0].tolist(), strict=True):
        assert v == pytest.approx(at.get(tuple(a + b for a, b in zip(c, offset, strict=True)), 0.0))


@pytest.mark.parametrize("octant", [(1, 0, 0), (0, 1, 0), (0, 1, 1)])
def test_a_strided_kernel_of_one_place_reads_the_child_that_minkowski_reads(octant):
    """Place k of 8 is the child (k % 2, k // 2 % 2, k // 4)."""
    k = next(k for k in range(8) if (k % 2, k // 2 % 2, k // 4) == octant)
    theirs = torch.zeros(8, 1, 1)
    theirs[k] = 1
    fine = stacked_tables(torch.tensor([[octant, (4, 4, 4)]]).float(), 1.0, 2).levels[0]
    values = torch.ones(len(fine), 1)
    found = down2(values, released.converted("down.0.kernel", theirs), fine)
    assert found[:, 0].tolist() == [1.0, 0.0]


def test_what_is_missing_or_left_over_is_named():
    theirs = as_released(Networks(), released.PARTS)
    theirs.pop("model.last.0.weight")
    with pytest.raises(CheckpointError, match=r"model\.last\.0\.weight is missing"):
        released.convert(theirs)
    theirs = as_released(Networks(), released.PARTS) | {"model.extra.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 tensors have no place .* model\.extra\.weight"):
        released.convert(theirs)
    with pytest.raises(CheckpointError, match=r"the kernel is \(5, 1, 1\)"):
        released.converted("first.kernel", torch.zeros(5, 1, 1))
