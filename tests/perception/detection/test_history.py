import gc
import math

import numpy as np
import onnxruntime
import pytest
import torch

from common.errors import ConfigError
from perception.detection.grid import GridSpec
from perception.detection.history import History, cur2past, fuse_history, next_history, sampling_grid, shift_maps, warp

GRID = GridSpec(x=(-12.8, 12.8, 0.8), y=(-12.8, 12.8, 0.8))
WIDE = GridSpec(x=(-12.8, 12.8, 0.8), y=(-8.0, 8.0, 0.8))
HERE = torch.tensor([431.25, 1672.5, 1.8], dtype=torch.float64)  # a place on a nuScenes map
SWITCHED_OFF = torch.ones(1, dtype=torch.bool)
RUNNING = torch.zeros(1, dtype=torch.bool)


def pose(x=0.0, y=0.0, yaw=0.0, aug=None):
    """bev2global = lidar2global @ inv(bev_aug), (4, 4) float64, moved away from the map's corner."""
    c, s = math.cos(yaw), math.sin(yaw)
    lidar2global = torch.eye(4, dtype=torch.float64)
    lidar2global[:2, :2] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    lidar2global[:3, 3] = HERE + torch.tensor([x, y, 0.0], dtype=torch.float64)
    return lidar2global if aug is None else lidar2global @ torch.linalg.inv(aug)


def augmentation(flip_x=False, flip_y=False, yaw=0.0, scale=1.0):
    c, s = math.cos(yaw), math.sin(yaw)
    aug = torch.eye(4, dtype=torch.float64)
    aug[:2, :2] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    aug[:3, :3] *= scale
    return torch.diag(torch.tensor([-1.0 if flip_x else 1.0, -1.0 if flip_y else 1.0, 1, 1], dtype=torch.float64)) @ aug


def motion(past, current):
    return cur2past(past[None, None], current[None])


def random_maps(k=1, c=3, grid=GRID, dtype=torch.float32, seed=0, batch=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, k, c, *grid.shape[1:], generator=generator, dtype=dtype)


def world(bev2global, grid=GRID, place=(3.3, -2.1), width=2.0, dtype=torch.float64):
    """A static blob at `place` metres from HERE, drawn in a BEV frame: (1, 1, Y, X)."""
    _, rows, columns = grid.shape
    y, x = torch.meshgrid(torch.arange(rows).double(), torch.arange(columns).double(), indexing="ij")
    metres = torch.stack([x, y, torch.ones_like(x)], -1) @ grid.index2metre().T
    points = torch.stack([metres[..., 0], metres[..., 1], torch.zeros_like(x), torch.ones_like(x)], -1) @ bev2global.T
    distance = ((points[..., :2] - HERE[:2] - torch.tensor(place, dtype=torch.float64)) ** 2).sum(-1)
    return torch.exp(-distance / (2 * width**2)).to(dtype)[None, None]


def peak(bev):
    """(y, x) of the blob's largest cell."""
    return divmod(int(bev.flatten().argmax()), bev.shape[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_motion_the_warped_maps_are_the_stored_ones(dtype):
    maps = random_maps(k=3, dtype=dtype)
    poses = pose(5.0, 2.0, 0.4)[None, None].expand(1, 3, 4, 4)
    got = warp(maps, cur2past(poses, poses[:, 0]), GRID)
    torch.testing.assert_close(got, maps, atol=1e-6, rtol=0)


def test_an_exact_identity_is_bitwise_on_a_grid_of_a_power_of_two():
    maps = random_maps(k=2)
    assert torch.equal(warp(maps, torch.eye(3).expand(1, 2, 3, 3), GRID), maps)


def test_a_metre_grid_whose_size_is_no_power_of_two_keeps_the_identity_to_float_precision():
    maps = random_maps(k=1, grid=WIDE)
    # float32 positions of 20 cells: 20 * 2^-24 cells of error, times the difference of neighbours (below 8)
    torch.testing.assert_close(warp(maps, torch.eye(3).expand(1, 1, 3, 3), WIDE), maps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cells_x, cells_y", [(1, 0), (0, 1), (-2, 3)])
def test_a_translation_by_whole_cells_shifts_the_indices_by_as_many(cells_x, cells_y):
    maps = random_maps(dtype=torch.float64)
    got = warp(maps, motion(pose(), pose(0.8 * cells_x, 0.8 * cells_y)), GRID)
    wanted = maps.roll((-cells_y, -cells_x), (-2, -1))
    inside = torch.ones(GRID.shape[1:], dtype=torch.bool)
    for cells, axis in ((cells_y, 0), (cells_x, 1)):
        gone = range(32 - cells, 32) if cells > 0 else range(-cells)
        inside.index_fill_(axis, torch.tensor(list(gone), dtype=torch.long), False)
    torch.testing.assert_close(got[..., inside], wanted[..., inside], atol=1e-9, rtol=0)
    assert got[..., ~inside].abs().max() < 1e-9  # zeros come in from outside


def test_a_quarter_turn_is_rot90():
    maps = random_maps(dtype=torch.float64)
    got = warp(maps, motion(pose(), pose(yaw=math.pi / 2)), GRID)
    # what lies at (x, y) now lay at (-y, x) then; rows are y
    torch.testing.assert_close(got, maps.rot90(1, (-2, -1)), atol=1e-9, rtol=0)


@pytest.mark.parametrize("past, current", [((True, False), (False, False)), ((False, True), (True, False))])
@pytest.mark.parametrize("grid", [GRID, WIDE], ids=["square", "oblong"])
def test_a_static_blob_stays_in_place_when_consecutive_frames_are_flipped_differently(past, current, grid):
    a, b = (pose(aug=augmentation(*flips)) for flips in (past, current))
    got = warp(world(a, grid)[:, None], motion(a, b), grid)
    torch.testing.assert_close(got[:, 0], world(b, grid), atol=1e-9, rtol=0)


def test_mapping_indices_to_lower_edges_would_move_the_blob_by_one_cell_along_the_flipped_axis():
    a, b = pose(aug=augmentation(flip_x=True)), pose()
    to_edge = torch.eye(3, dtype=torch.float64)
    to_edge[0, 2] = to_edge[1, 2] = -0.4
    released = torch.linalg.inv(to_edge) @ motion(a, b) @ to_edge
    row, column = peak(world(b))
    assert peak(warp(world(a)[:, None], motion(a, b), GRID)) == (row, column)
    assert peak(warp(world(a)[:, None], released, GRID)) in {(row, column - 1), (row, column + 1)}


def test_a_static_blob_stays_in_place_under_ego_motion_and_any_augmentation():
    a = pose(1.0, -2.0, 0.3, augmentation(flip_y=True, yaw=-0.35, scale=1.04))
    b = pose(3.5, 0.5, 0.9, augmentation(flip_x=True, yaw=0.2, scale=0.96))
    got = warp(world(a)[:, None], motion(a, b), GRID)[0, 0]
    # bilinear interpolation of exp(-r^2 / (2 s^2)): at most 2 * cell^2 / 8 * |f''| = 0.16 / s^2, s = 2 m
    inside = warp(torch.ones(1, 1, 1, 32, 32).double(), motion(a, b), GRID)[0, 0] > 1 - 1e-9
    assert inside.sum() > 300
    assert (got - world(b)[0]).abs()[inside].max() < 0.04
    assert world(b)[0][inside].max() > 0.9


def test_poses_kilometres_from_the_maps_corner_lose_less_than_a_tenth_of_a_millimetre():
    far = torch.eye(4, dtype=torch.float64)
    far[:2, 3] = torch.tensor([40_000.0, 70_000.0])
    a, b = pose(1.0, 2.0, 0.3), pose(3.0, 1.0, 0.5)
    near = motion(a, b)
    torch.testing.assert_close(motion(far @ a, far @ b), near, atol=1e-9, rtol=0)
    in_float32 = torch.linalg.inv((far @ a).float()) @ (far @ b).float()
    assert (in_float32[:2, 3] - near[0, 0, :2, 2]).abs().max() > 1e-4  # why the poses are float64


def test_sampling_points_are_cell_centres():
    where = sampling_grid(torch.eye(3, dtype=torch.float64)[None, None], WIDE)
    assert where.shape == (1, 1, 20, 32, 2)
    assert where[0, 0, 0, 0].tolist() == pytest.approx([1 / 32 - 1, 1 / 20 - 1])
    assert where[0, 0, 19, 31].tolist() == pytest.approx([1 - 1 / 32, 1 - 1 / 20])


def fuse(current, history, bev2global, start, grid=GRID):
    return fuse_history(current, history.maps, cur2past(history.bev2global, bev2global), start, grid)


def empty(current, k, value=torch.nan):
    batch = len(current)
    return History(
        current.new_full((batch, k, *current.shape[1:]), value),
        torch.eye(4, dtype=torch.float64).expand(batch, k, 4, 4),
    )


def stream(frames, poses, starts, k=3, resample="exact"):
    """Fused maps of T frames: frames (T, B, C, Y, X), poses (T, B, 4, 4), starts (T, B)."""
    history, out = empty(frames[0], k), []
    for current, bev2global, start in zip(frames, poses, starts, strict=True):
        out.append(fuse(current, history, bev2global, start))
        history = next_history(current, history, bev2global, start, GRID, resample=resample)
    return torch.stack(out)


def drive(count=7, seed=0, batch=1, c=2):
    rng = np.random.default_rng(seed)
    frames = torch.from_numpy(rng.normal(size=(count, batch, c, 32, 32))).float()
    poses = [
        [
            pose(1.1 * t, 0.3 * t + b, 0.05 * t, augmentation(rng.random() < 0.5, yaw=rng.normal() * 0.2))
            for b in range(batch)
        ]
        for t in range(count)
    ]
    starts = torch.zeros(count, batch, dtype=torch.bool)
    starts[0] = True
    return frames, torch.stack([torch.stack(p) for p in poses]), starts


def test_at_a_start_the_history_is_the_current_map_repeated_and_unwarped():
    current = random_maps()[:, 0]
    got = fuse(current, empty(current, 3), pose(4.0)[None], SWITCHED_OFF)
    assert torch.equal(got, current.repeat(1, 4, 1, 1))


def test_a_start_resets_only_the_flagged_entries():
    frames, poses, starts = drive(batch=2)
    starts[4, 1] = True
    together, without = stream(frames, poses, starts), stream(frames, poses, drive(batch=2)[2])
    assert torch.equal(together[:, 0], without[:, 0])
    assert torch.equal(together[4, 1], frames[4, 1].repeat(4, 1, 1))
    assert torch.equal(together[4:, 1], stream(frames[4:, 1:], poses[4:, 1:], starts[4:, 1:])[:, 0])


def test_two_sequences_in_one_batch_are_the_two_sequences_alone():
    frames, poses, starts = drive(batch=2)
    together = stream(frames, poses, starts)
    for b in range(2):
        alone = stream(frames[:, b : b + 1], poses[:, b : b + 1], starts[:, b : b + 1])
        torch.testing.assert_close(together[:, b], alone[:, 0], atol=1e-6, rtol=0)


def offline(frames, poses, t, k):
    """Frame t fused from the raw frames, each warped once; before the start the first frame stands in."""
    past = [max(0, t - i) for i in range(1, k + 1)]
    maps = torch.stack([frames[i] for i in past], 1)
    return fuse(frames[t], History(maps, torch.stack([poses[i] for i in past], 1)), poses[t], RUNNING)


def test_streaming_equals_the_offline_computation():
    frames, poses, starts = drive()
    streamed = stream(frames, poses, starts)
    for t in range(1, len(frames)):
        torch.testing.assert_close(streamed[t], offline(frames, poses, t, 3), atol=1e-6, rtol=0)


def test_repeated_resampling_blurs_old_maps_and_exact_warps_do_not():
    poses = torch.stack([pose(0.4 * t)[None] for t in range(7)])  # half a cell a frame, the worst case
    frames = torch.stack([world(p[0], width=0.8, dtype=torch.float32) for p in poses])
    starts = torch.tensor([[t == 0] for t in range(7)])
    truth = frames[-1, 0, 0]
    oldest = {r: stream(frames, poses, starts, k=6, resample=r)[-1, 0, 6] for r in ("exact", "repeated")}
    assert (oldest["exact"] - truth).abs().max() < 1e-5  # 6 half cells are whole cells: nothing to interpolate
    # six averages of two cells add 6 / 4 to the variance of 1 cell^2 along x
    assert (oldest["repeated"].max() / truth.max()).item() == pytest.approx(math.sqrt(1 / 2.5), rel=0.05)
    assert peak(oldest["repeated"]) == peak(truth)


def test_repeated_resampling_equals_exact_warps_for_whole_cells():
    poses = torch.stack([pose(0.8 * t)[None] for t in range(6)])
    frames, _, starts = drive(6)
    exact, repeated = (stream(frames, poses, starts, resample=r) for r in ("exact", "repeated"))
    torch.testing.assert_close(exact, repeated, atol=1e-4, rtol=0)


def test_switched_off_every_frame_repeats_itself_and_switching_on_needs_no_new_start():
    frames, poses, starts = drive()
    starts[:4] = True
    got = stream(frames, poses, starts)
    for t in range(4):
        assert torch.equal(got[t], frames[t].repeat(1, 4, 1, 1))
    torch.testing.assert_close(got[4:], stream(frames[3:], poses[3:], starts[3:])[1:], atol=1e-6, rtol=0)


def test_gradient_reaches_the_current_map_only_through_its_own_channels():
    frames, poses, starts = drive(2)
    first, second = frames[0].requires_grad_(), frames[1].clone().requires_grad_()
    history = next_history(first, empty(first, 3), poses[0], starts[0], GRID)
    assert history.maps.grad_fn is None and not history.maps.requires_grad
    for start in starts:
        fused = fuse(second, history, poses[1], start)
        own, rest = torch.randn_like(fused[:, :2]), torch.randn_like(fused[:, 2:])
        (gradient,) = torch.autograd.grad((fused * torch.cat([own, rest], 1)).sum(), second)
        assert torch.equal(gradient, own)
    assert first.grad is None


def test_a_hundred_frames_hold_no_more_tensors_than_ten():
    frames, poses, _ = drive(2)
    weight = torch.nn.Parameter(torch.ones(1))
    history, alive = empty(frames[0], 3), {}
    for t in range(100):
        current = frames[t % 2] * weight
        fuse(current, history, poses[t % 2], torch.tensor([t == 0])).sum().backward()
        history = next_history(current, history, poses[t % 2], torch.tensor([t == 0]), GRID)
        if t in (9, 99):
            gc.collect()
            plain = (o for o in gc.get_objects() if type(o) is torch.Tensor)  # not the symbolic ones of an export
            alive[t] = sum(o.numel() for o in plain)
    assert alive[99] <= alive[9]


def test_a_nan_left_in_the_history_does_not_survive_a_start():
    current = random_maps()[:, 0]
    history = empty(current, 3, value=torch.nan)
    assert torch.isfinite(fuse(current, history, pose()[None], SWITCHED_OFF)).all()
    assert torch.isfinite(next_history(current, history, pose()[None], SWITCHED_OFF, GRID).maps).all()


def test_warping_stays_in_float32_under_autocast():
    maps, here = random_maps(k=2), motion(pose(), pose(0.37, 0.21, 0.1)).float().expand(1, 2, 3, 3)
    wanted = fuse_history(maps[:, 0], maps, here, RUNNING, GRID)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = fuse_history(maps[:, 0], maps, here, RUNNING, GRID)
    assert torch.equal(got, wanted)


def test_without_past_frames_the_current_map_comes_back():
    current = random_maps()[:, 0]
    assert fuse(current, empty(current, 0), pose()[None], RUNNING) is current


def test_a_history_of_another_batch_or_grid_is_named():
    current, history = random_maps()[:, 0], empty(random_maps(batch=2)[:, 0], 3)
    with pytest.raises(ValueError, match="reset it"):
        fuse_history(current, history.maps, torch.eye(3).expand(2, 3, 3, 3), RUNNING, GRID)
    with pytest.raises(ConfigError, match="grid of 20x32"):
        fuse_history(current, empty(current, 3).maps, torch.eye(3).expand(1, 3, 3, 3), RUNNING, WIDE)
    with pytest.raises(ConfigError, match="'exact' or 'repeated'"):
        next_history(current, empty(current, 3), pose()[None], RUNNING, GRID, resample="once")


class Step(torch.nn.Module):
    def forward(self, current, maps, cur2past, start):
        return fuse_history(current, maps, cur2past, start, GRID), shift_maps(current, maps, start)


@pytest.mark.parametrize("opset", [17, 18])
def test_onnx_runtime_gives_the_same_maps_from_the_exported_step(opset, tmp_path):
    frames, poses, _ = drive(2, batch=2)
    maps = random_maps(k=3, c=2, batch=2)
    here = cur2past(poses[0][:, None].expand(2, 3, 4, 4), poses[1]).float()
    inputs = {"current": frames[1], "maps": maps, "cur2past": here, "start": torch.tensor([False, True])}
    path, names = str(tmp_path / "step.onnx"), ["fused", "next"]
    torch.onnx.export(
        Step(),
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=names,
        opset_version=opset,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = session.run(names, {k: v.numpy() for k, v in inputs.items()})
    for a, b in zip(got, Step()(*inputs.values()), strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-5)
