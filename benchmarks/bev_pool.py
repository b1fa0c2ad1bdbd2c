"""BEV pooling against a plain lift-splat: time, peak memory, equality. Needs PyTorch and this repository alone.

    python benchmarks/bev_pool.py [--device cpu|cuda] [--repetitions 15]

One sample of the published configuration: 6 cameras, 118 depth bins, 16 x 44 features, 80 channels, 128 x 128 cells.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads of a busy machine would be timed instead of us

import torch

from benchmarks._report import describe_device, table, write_report
from perception.detection.bev_pool import as_map, bev_pool, bev_pool_cumsum, bev_pool_index_add, segment_sums
from perception.detection.grid import DepthBins, GridSpec
from perception.detection.view_transform import build_pool_index, frustum, lift_points

GRID = GridSpec(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8))
BINS = DepthBins()
CHANNELS = 80
PLAIN = "plain lift-splat"


def rig():
    """Cameras like those of nuScenes: cam2img, cam2lidar, img_aug, bev_aug of one sample."""
    yaws = [math.radians(a) for a in (55.8, 0.0, -56.4, 108.6, 180.0, -110.8)]
    cam2lidar, cam2img = torch.eye(4).repeat(1, 6, 1, 1), torch.eye(3).repeat(1, 6, 1, 1)
    for k, a in enumerate(yaws):
        right, forward = torch.tensor([math.cos(a), math.sin(a), 0.0]), torch.tensor([-math.sin(a), math.cos(a), 0.0])
        cam2lidar[0, k, :3, :3] = torch.stack([right, torch.tensor([0.0, 0.0, -1.0]), forward], 1)
        cam2lidar[0, k, :3, 3] = 0.6 * forward + torch.tensor([0.0, 0.0, -0.33])
        focal = 809.0 if k == 4 else 1266.0
        cam2img[0, k] = torch.tensor([[focal, 0, 816], [0, focal, 491], [0, 0, 1]])
    img_aug = torch.tensor([[0.44, 0, 0], [0, 0.44, -140], [0, 0, 1]]).repeat(1, 6, 1, 1)
    return cam2img, cam2lidar, img_aug, torch.eye(4)[None]


def inputs(device, dtype=torch.float32, seed=0, gradients=False):
    """depth, context, points of one sample."""
    generator = torch.Generator().manual_seed(seed)
    points = lift_points(frustum((256, 704), 16, BINS), *rig()).to(device)
    depth = torch.randn(points.shape[:-1], generator=generator, dtype=torch.float64).softmax(2)
    context = torch.randn(1, 6, CHANNELS, 16, 44, generator=generator, dtype=torch.float64)
    return tuple(t.to(device, dtype).requires_grad_(gradients) for t in (depth, context)) + (points,)


def plain(depth, context, points):
    """Lift-splat as usually written, from points to map: all frustum features, filter, sort by rank, running sum."""
    C = context.shape[2]
    features = (depth.unsqueeze(-1) * context.permute(0, 1, 3, 4, 2).unsqueeze(2)).reshape(-1, C)
    cells, inside = GRID.cells(points.reshape(-1, 3))
    features, cells = features[inside], cells[inside]
    Z, Y, X = GRID.shape
    rank = (cells[:, 0] * Y + cells[:, 1]) * X + cells[:, 2]
    order = rank.argsort()
    features, rank = features[order], rank[order]
    sums, rank = segment_sums(features, rank)
    volume = sums.new_zeros(Z * Y * X, C).index_copy(0, rank, sums)
    return as_map(volume, (1, Z, Y, X))


def ours(depth, context, points):
    return bev_pool(depth, context, build_pool_index(points, GRID))


# Functions of depth, context and a third argument: the ready index, or the lifted points.
WITH_INDEX = {
    "embedding bag (ours)": bev_pool,
    PLAIN: bev_pool_cumsum,
    "frustum features, index_add": bev_pool_index_add,
}
FROM_POINTS = {"embedding bag (ours)": ours, PLAIN: plain}


def run_once(pool, depth, context, third, grad):
    """Forward, and backward where `grad` is given."""
    bev = pool(depth, context, third)
    if grad is not None:
        depth.grad = context.grad = None
        bev.backward(grad)


def measure_times(pools, device, repetitions, backward, with_index):
    """Milliseconds {name: [..]}; repetition r of every form follows one another, in turning order."""
    depth, context, third = inputs(device, gradients=backward)
    if with_index:
        third = build_pool_index(third, GRID)
    grad = torch.randn(1, CHANNELS, *GRID.shape[1:]).to(device) if backward else None
    times = {name: [] for name in pools}
    names = list(pools)
    for repetition in range(-2, repetitions):  # two to warm up
        names = names[1:] + names[:1]
        for name in names:
            synchronise(device)
            start = time.perf_counter()
            run_once(pools[name], depth, context, third, grad)
            synchronise(device)
            if repetition >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def synchronise(device):
    if device != "cpu":
        torch.cuda.synchronize()


def peak_memory(device, name, backward, with_index):
    """Peak MB above the inputs (and the index, where it is given) of one call in a fresh process; None if unknown."""
    environment = dict(os.environ, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536")
    job = json.dumps([device, name, backward, with_index])
    done = subprocess.run(
        [sys.executable, __file__, "--memory-of", job], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def memory_job(device, name, backward, with_index):
    """Inside that process. CPU: resident-set peak, which Linux resets on request; CUDA: PyTorch's allocator."""
    pool = (WITH_INDEX if with_index else FROM_POINTS)[name]
    depth, context, third = inputs(device, gradients=backward)
    grad = torch.randn(1, CHANNELS, *GRID.shape[1:]).to(device) if backward else None
    if with_index:
        third = build_pool_index(third, GRID)
        run_once(bev_pool, depth, context, third, grad)  # loads the libraries, fills the index's caches
    else:
        run_once(ours, depth, context, third, grad)
    depth.grad = context.grad = None
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_once(pool, depth, context, third, grad)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    except OSError:
        return None
    before = resident("VmRSS")
    run_once(pool, depth, context, third, grad)
    return (resident("VmHWM") - before) / 2**10


def resident(key):
    """A field of /proc/self/status in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def equality(device, seeds):
    """Largest differences of maps and gradients over seeds: ours to plain in float64; both in float32 to float64."""
    worst = {}

    def note(key, a, b):
        worst[key] = max(worst.get(key, 0.0), (a.double() - b.double()).abs().max().item())

    for seed in seeds:
        results = {}
        for dtype in (torch.float64, torch.float32):
            for name, pool in (("ours", ours), ("plain", plain)):
                depth, context, points = inputs(device, dtype, seed, gradients=True)
                bev = pool(depth, context, points)
                weight = torch.randn(bev.shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
                bev.backward(weight)
                results[name, dtype] = bev.detach(), depth.grad, context.grad
        for k, what in enumerate(("map", "gradient of depth", "gradient of context")):
            truth = results["plain", torch.float64][k]
            note((what, "ours to plain, float64"), results["ours", torch.float64][k], truth)
            note((what, "ours, float32"), results["ours", torch.float32][k], truth)
            note((what, "plain, float32"), results["plain", torch.float32][k], truth)
    return worst


def quartiles(values):
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def section(device, repetitions):
    """Tables for one device."""
    rows = []
    for with_index, pools in ((True, WITH_INDEX), (False, FROM_POINTS)):
        for backward in (False, True):
            times = measure_times(pools, device, repetitions, backward, with_index)
            memory = {name: peak_memory(device, name, backward, with_index) for name in pools}
            for name in pools:
                low, middle, high = quartiles(times[name])
                ratios = [p / o for p, o in zip(times[PLAIN], times[name], strict=True)]
                ratio = "{1:.1f} ({0:.1f} to {2:.1f})".format(*quartiles(ratios)) if name != PLAIN else "1"
                megabytes = "?" if memory[name] is None else f"{memory[name]:.0f}"
                share = "?" if memory[name] is None else f"1/{memory[PLAIN] / max(memory[name], 0.1):.1f}"
                timed = ("pooling" if with_index else "index and pooling") + (", backward too" if backward else "")
                times_text = f"{middle:.1f} ({low:.1f} to {high:.1f})"
                rows.append((timed, name, times_text, ratio, megabytes, share if name != PLAIN else "1"))
    head = ("timed", "form", "ms, median (quartiles)", "times faster than plain", "peak MB", "of plain's peak")
    return table(head, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: CPU, and CUDA too where there is one")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory_job(*json.loads(options.memory_of))))
        return
    devices = [options.device] if options.device else ["cpu"] + ["cuda"] * torch.cuda.is_available()
    seeds = (0, 1, 2)
    _, _, points = inputs("cpu")
    index = build_pool_index(points, GRID)
    counts = torch.bincount(index.cell)
    body = [
        f"One sample: depth 6 x 118 x 16 x 44, context {CHANNELS} channels, 128 x 128 cells, rig like nuScenes': "
        f"{len(index.cell):,} of {points[..., 0].numel():,} frustum points lie in the grid, in {(counts > 0).sum():,} "
        f"cells, at most {counts.max()} in one. float32.",
        "",
        "Plain lift-splat materialises all frustum features, sorts them by cell and takes differences of their running "
        'sum (with the short-cut backward pass). "pooling" is given a ready index; "index and pooling" starts at the '
        f"lifted points and builds it, as every training step must. Forms are timed in turn, {options.repetitions} "
        "repetitions after two to warm up; a ratio is the median (quartiles) of the repetitions' own ratios. Peak "
        "memory: one call in a fresh process, above its inputs; on the CPU the growth of the resident set's high-water "
        "mark (VmHWM, reset through /proc/self/clear_refs, malloc told to return freed blocks at once), on CUDA the "
        "peak of PyTorch's allocator.",
    ]
    for device in devices:
        worst = equality(device, seeds)
        whats = dict.fromkeys(what for what, _ in worst)
        kinds = list(dict.fromkeys(kind for _, kind in worst))
        differences = [(what, *(f"{worst[what, kind]:.1e}" for kind in kinds)) for what in whats]
        body += ["", f"## {device.upper()}", "", section(device, options.repetitions), ""]
        body += ["Largest absolute differences over the seeds; the float32 columns are against plain in float64:", ""]
        body += [table(("", *kinds), differences)]
    name = "bev_pool" if devices[0] == "cpu" else "bev_pool_cuda"
    device = "; ".join(map(describe_device, devices))
    path = write_report(name, "BEV pooling", "\n".join(body), seeds=seeds, device=device)
    print(path.read_text())


if __name__ == "__main__":
    main()
