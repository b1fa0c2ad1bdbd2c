"""Released LiDiff weights (and ScoreLiDAR's, of the same networks) as weights of ours.

python -m perception.completion.lidiff_weights DIFF.ckpt OUT.pth               # for configs/.../lidiff_published.py
python -m perception.completion.lidiff_weights REFINE.ckpt OUT.pth --refinement
"""

import argparse
from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor

from common.errors import CheckpointError

STAGES = 4
# MinkowskiEngine counts a kernel's places with x fastest (src/kernel_region.hpp, coordinate_at); ours have z fastest
PLACES_3 = [x + 3 * y + 9 * z for x, y, z in product(range(3), repeat=3)]
PLACES_2 = [x + 2 * y + 4 * z for x, y, z in product(range(2), repeat=3)]
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _norm(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{name}": f"{theirs}.bn.{name}" for name in NORM}


def _linear(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{i}.{name}": f"{theirs}.{i}.{name}" for i in (0, 2) for name in ("weight", "bias")}


def _conv(ours: str, kernel: str, norm: str) -> dict[str, str]:
    return {f"{ours}.kernel": f"{kernel}.kernel", **_norm(f"{ours}.norm", norm)}


def _residual(ours: str, theirs: str) -> dict[str, str]:
    return {
        **_conv(f"{ours}.first", f"{theirs}.net.0", f"{theirs}.net.1"),
        **_conv(f"{ours}.second", f"{theirs}.net.3", f"{theirs}.net.4"),
        f"{ours}.shortcut.weight": f"{theirs}.downsample.0.kernel",
        **_norm(f"{ours}.shortcut_norm", f"{theirs}.downsample.1"),
    }


def encoder_names() -> dict[str, str]:
    """Our name -> theirs: stem and the way down. Shortcuts are named for all blocks; most have none."""
    names = {**_conv("stem.first", "stem.0", "stem.1"), **_conv("stem.second", "stem.3", "stem.4")}
    for i in range(STAGES):
        names |= _conv(f"down.{i}", f"stage{i + 1}.0.net.0", f"stage{i + 1}.0.net.1")
        for j in range(2):
            names |= _residual(f"down.{i}.blocks.{j}", f"stage{i + 1}.{j + 1}")
    return names


def unet_names() -> dict[str, str]:
    """The encoder's, and the way up."""
    names = encoder_names()
    for i in range(STAGES):
        names |= _conv(f"up.{i}", f"up{i + 1}.0.net.0", f"up{i + 1}.0.net.1")
        for j in range(2):
            names |= _residual(f"up.{i}.blocks.{j}", f"up{i + 1}.1.{j}")
    return names


def denoiser_names() -> dict[str, str]:
    """U-Net, modulation by time and scan, head."""
    names = {f"unet.{ours}": theirs for ours, theirs in unet_names().items()} | _linear("head", "last")
    steps = [f"stage{i + 1}" for i in range(STAGES)] + [f"up{i + 1}" for i in range(STAGES)]
    for k, step in enumerate(steps):
        parts = {"time": f"{step}_temp", "part": f"latent_{step}", "factor": f"latemp_{step}"}
        for ours, theirs in parts.items():
            names |= _linear(f"modulation.{k}.{ours}", theirs)
    return names


def refinement_names() -> dict[str, str]:
    """U-Net and head."""
    return {f"unet.{ours}": theirs for ours, theirs in unet_names().items()} | _linear("head", "last")


PARTS = {  # prefix of a model of ours: (theirs, names)
    "encoder.net.": ("partial_enc.", encoder_names()),
    "predict.net.": ("model.", denoiser_names()),
}
REFINEMENT = {"refine.net.": ("model_refine.", refinement_names())}


def converted(name: str, value: Tensor) -> Tensor:
    """A tensor of theirs under our name: kernels in our order of places, 1 x 1 x 1 kernels as linear weights."""
    if name.endswith("shortcut.weight"):
        return value.reshape(value.shape[-2:]).T.contiguous()
    if name.endswith(".kernel"):
        places = {27: PLACES_3, 8: PLACES_2}.get(len(value))
        if places is None or value.dim() != 3:
            raise CheckpointError(f"{name}: the kernel is {tuple(value.shape)}, wanted (27, C, C') or (8, C, C')")
        return value[places].contiguous()
    return value


def convert(state: Mapping[str, Tensor], parts: Mapping[str, tuple[str, dict[str, str]]] = PARTS) -> dict[str, Tensor]:
    """Their state dictionary as ours; `parts` says which networks.

    Raises: CheckpointError that names what is missing, or theirs that has no place here.
    """
    found, used = {}, set()
    for ours, (theirs, names) in parts.items():
        for name, other in names.items():
            if theirs + other in state:
                found[ours + name] = converted(name, state[theirs + other])
                used.add(theirs + other)
            elif "shortcut" not in name:
                raise CheckpointError(f"{theirs}{other} is missing: is this a LiDiff checkpoint of these networks?")
    prefixes = tuple(theirs for theirs, _ in parts.values())
    left = [name for name in state if name.startswith(prefixes) and name not in used]
    if left:
        raise CheckpointError(f"{len(left)} tensors have no place in our networks, the first is {left[0]}")
    return found


def main(argv: list[str] | None = None) -> int:
    from common.engine.checkpoint import load_checkpoint, save_atomic

    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("checkpoint", help="released file")
    parse.add_argument("out", help="file to write")
    parse.add_argument("--refinement", action="store_true", help="it is a refinement network's")
    args = parse.parse_args(argv)
    raw = load_checkpoint(args.checkpoint)
    state = raw.get("state_dict", raw)
    found = convert(state, REFINEMENT if args.refinement else PARTS)
    save_atomic({"state_dict": found, "meta": {"source": str(args.checkpoint)}}, args.out)
    print(f"{args.out}: {len(found)} tensors, {sum(v.numel() for v in found.values()):,} numbers")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    raise SystemExit(main())
