"""Sparse convolution against the dense one and against the padded table, forward and backward, ratio in one run.

Clouds of a simulated town as the completion network meets them, at the levels and widths of its profile; the dense
convolution runs over the bounding box of the same voxels. spconv joins where it is installed: forward only, because the
backward pass of its CPU build (2.3.8) asks for a CUDA driver. Writes benchmarks/results/sparse_conv.md.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

try:
    import spconv.pytorch as spconv
except ImportError:
    spconv = None

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _report import RESULTS, table, write_report

from common.nn.sparse.conv import conv3_padded, conv3_paired, kernel
from common.nn.sparse.tables import Level, stacked_tables
from perception.completion.dataset import TownScenes
from perception.completion.profiles import PROFILES, profile_of
from perception.completion.sampling import lidiff_local

FORMS = ("by pairs", "padded table", "dense, its bounding box", "spconv")
LIMIT = 4 << 30  # bytes of the dense input and output together


def bounding_box(level: Level) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Voxels (V, 3) counted from the box's corner, with a margin of one, and the box's size."""
    coords = level.coords - level.coords.min(0).values + 1
    return coords, tuple((coords.max(0).values + 2).tolist())


def forms(level: Level, width: int) -> dict[str, tuple]:
    """name -> (function of features and kernel to (V, C'), bytes of the largest intermediate)."""
    coords, box = bounding_box(level)
    flat = (coords[:, 0] * box[1] + coords[:, 1]) * box[2] + coords[:, 2]
    cells = int(np.prod(box))

    def dense(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        grid = x.new_zeros(cells, x.shape[1]).index_copy(0, flat, x).T.reshape(1, -1, *box)
        out = F.conv3d(grid, weight.reshape(3, 3, 3, *weight.shape[1:]).permute(4, 3, 0, 1, 2), padding=1)
        return out.flatten(2)[0].T[flat]

    pairs = level.pairs
    made = {
        "by pairs": (lambda x, weight: conv3_paired(x, weight, pairs), 4 * width * len(pairs.source.index)),
        "padded table": (lambda x, weight: conv3_padded(x, weight, level.neighbours), 4 * width * 27 * len(level)),
    }
    if 8 * width * cells <= LIMIT:
        made["dense, its bounding box"] = dense, 8 * width * cells
    if spconv is not None:
        made["spconv"] = by_spconv(coords, box, width), None
    return made


def by_spconv(coords: torch.Tensor, box: tuple[int, int, int], width: int):
    """The same convolution by spconv, whose tables are made by a first call."""
    indices = torch.cat([torch.zeros(len(coords), 1), coords], 1).int()
    layer = spconv.SubMConv3d(width, width, 3, padding=1, bias=False, indice_key="level")
    tensor = spconv.SparseConvTensor(torch.zeros(len(coords), width), indices, list(box), 1)
    with torch.no_grad():
        known = layer(tensor).indice_dict

    def convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        layer.weight.data = weight.detach().reshape(3, 3, 3, *weight.shape[1:]).permute(4, 0, 1, 2, 3).contiguous()
        given = spconv.SparseConvTensor(x, indices, list(box), 1, indice_dict=known)
        return layer(given).features

    return convolve


def timed(
    function, x: torch.Tensor, weight: torch.Tensor, repeats: int, backward: bool = True
) -> tuple[float, float | None]:
    """Smallest milliseconds of the forward pass, and of forward and backward."""
    forward, both = [], []
    for _ in range(repeats + 1):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.no_grad():
            begin = time.perf_counter()
            function(a, w)
            forward.append(time.perf_counter() - begin)
        if not backward:
            continue
        begin = time.perf_counter()
        function(a, w).square().sum().backward()
        both.append(time.perf_counter() - begin)
    return 1e3 * min(forward[1:]), 1e3 * min(both[1:]) if both else None


def compare(level: Level, width: int, repeats: int) -> tuple[dict, float]:
    """form -> (forward ms, forward and backward ms, bytes), and the largest difference between the forms' outputs."""
    torch.manual_seed(0)
    x, weight = torch.randn(len(level), width), kernel(27, width, width).detach()
    found, outputs = {}, []
    for name, (function, size) in forms(level, width).items():
        outputs.append(function(x, weight).detach())
        found[name] = (*timed(function, x, weight, repeats, name != "spconv"), size)
    return found, max(float((one - outputs[0]).abs().max()) for one in outputs)


def main(argv: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--profile", default="cpu_hour", choices=PROFILES)
    parse.add_argument("--level", type=float, default=0.5, help="noise level of the cloud, 0 to 1")
    parse.add_argument("--repeats", type=int, default=10)
    parse.add_argument("--threads", type=int, default=1)
    parse.add_argument("--towns", type=Path, default=None, help="folder of towns; default a temporary one")
    parse.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    args = parse.parse_args(argv)
    torch.set_num_threads(args.threads)
    profile = profile_of(args.profile)
    with tempfile.TemporaryDirectory() as temporary:
        scene = TownScenes(str(args.towns or temporary), profile, train=False, count=1)[0]["scene"][None]
    torch.manual_seed(0)
    points = lidiff_local().noise(scene, torch.tensor(args.level), torch.randn_like(scene))
    tables = stacked_tables(points, profile.voxel, len(profile.down))
    begin = time.perf_counter()
    stacked_tables(points, profile.voxel, len(profile.down))
    built = 1e3 * (time.perf_counter() - begin)
    lines, worst = [], 0.0
    for l, (level, width) in enumerate(zip(tables.levels, profile.down, strict=True)):
        found, gap = compare(level, width, args.repeats)
        worst, own = max(worst, gap), found[FORMS[0]]
        pairs = len(level.pairs.source.index) / len(level)
        for name in FORMS[: None if spconv else 3]:
            start = [f"level {l}: {name}", len(level), f"{pairs:.1f}", width]
            if name not in found:
                lines.append([*start, *["over 4 GiB"] * 5])
                continue
            forward, both, size = found[name]
            lines.append([*start, f"{forward:.2f}", f"{both:.2f}" if both else "none",
                          f"{size / 2**20:.1f}" if size else "", f"{forward / own[0]:.1f}",
                          f"{both / own[1]:.1f}" if both else ""])  # fmt: skip
    heads = ["", "voxels", "neighbours each", "channels", "forward ms", "with backward ms", "largest intermediate MiB",
             "forward / by pairs", "with backward / by pairs"]  # fmt: skip
    body = (
        f"Profile {args.profile}: {points.shape[1]} points of one scene at noise level {args.level:g}, voxels of "
        f"{profile.voxel:g} m. Best of {args.repeats}; {args.threads} thread{'s' if args.threads > 1 else ''}. Tables "
        f"of all levels take {built:.1f} ms, once per evaluation of a network, and are not counted. All forms agree to "
        f"{worst:.1e}.\n\n" + table(heads, lines) + ("" if spconv else "\n\nspconv is not installed.")
    )
    path = write_report("sparse_conv", "Sparse convolution on the CPU", body, seeds=[0], folder=args.results)
    print(f"{body}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
