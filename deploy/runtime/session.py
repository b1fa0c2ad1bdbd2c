"""One ONNX Runtime session with its buffers allocated once and its history kept on the device between frames."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from .errors import InputError, ManifestError, ProviderError
from .geometry import PoolIndex
from .manifest import Manifest

PREFERENCE = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
HEADS = ("heatmap", "reg", "height", "dim", "rot", "vel")
INPUTS = ("images", "camera", "depth_index", "feature_index", "cell_index", "history", "cur2past", "start")
OUTPUTS = (*HEADS, "next_history")
_ORT_TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(uint8)": "uint8", "tensor(bool)": "bool"}


def choose_providers(asked: list[str] | None = None, available: list[str] | None = None) -> list[str]:
    """The providers to try, best first: those asked for, or TensorRT, CUDA, CPU as far as this build has them.

    Raises ProviderError if one that was asked for is not in this build of onnxruntime.
    """
    available = ort.get_available_providers() if available is None else available
    if asked is None:
        return [name for name in PREFERENCE if name in available]
    absent = [name for name in asked if name not in available]
    if absent or not asked:
        raise ProviderError(
            f"providers {asked}: {absent} not in this onnxruntime {ort.__version__} (it has {available}); "
            "install onnxruntime-gpu for CUDA and TensorRT, or ask for one of those"
        )
    return list(asked)


class Session:
    """Runs the graph of a manifest on one rig. `notes` tells what was asked for or available and not used."""

    def __init__(
        self, path: str | Path, manifest: Manifest, providers: list[str] | None = None, threads: int | None = None
    ):
        self.manifest = manifest
        chosen = choose_providers(providers)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(str(path), options, providers=chosen)
        active = self._session.get_providers()
        lost = [name for name in chosen if name not in active]
        if lost and providers is not None:
            raise ProviderError(
                f"{lost} could not start, onnxruntime fell back to {active}: check the driver and the CUDA, cuDNN or "
                f"TensorRT libraries, or ask for providers={active}"
            )
        self.notes = tuple(f"{name} is in this onnxruntime but could not start" for name in lost)
        self.provider = active[0]
        self.device = "cpu" if self.provider == "CPUExecutionProvider" else "cuda"
        self._check_graph(Path(path).with_suffix(".json").name)
        self._binding = self._session.io_binding()
        self._host: dict[str, np.ndarray] = {}
        self._bound: dict[str, ort.OrtValue] = {}
        for name in ("cur2past", "start"):
            spec = manifest.input(name)
            self._allocate(name, spec.shape, spec.dtype)
        shape = manifest.input("history").shape
        zeros = np.zeros(shape, np.float32)
        self._history, self._next = (self._value(zeros.copy()) for _ in range(2))
        self.outputs: dict[str, np.ndarray] = {}
        for spec in manifest.outputs:
            if spec.name != "next_history":
                self.outputs[spec.name] = np.zeros(spec.shape, spec.dtype)
                value = ort.OrtValue.ortvalue_from_numpy(self.outputs[spec.name])
                self._binding.bind_ortvalue_output(spec.name, value)
                self._bound[f"output {spec.name}"] = value

    def _check_graph(self, file: str) -> None:
        for kind, specs, nodes, wanted in (
            ("input", self.manifest.inputs, self._session.get_inputs(), INPUTS),
            ("output", self.manifest.outputs, self._session.get_outputs(), OUTPUTS),
        ):
            found = {node.name: node for node in nodes}
            if set(found) != {spec.name for spec in specs} or set(found) != set(wanted):
                raise ManifestError(
                    f"{file}: the graph has the {kind}s {sorted(found)}, the manifest {sorted(s.name for s in specs)}, "
                    f"this runtime wants {sorted(wanted)}; export again"
                )
            for spec in specs:
                node = found[spec.name]
                free = [d if isinstance(d, int) else w for d, w in zip(node.shape, spec.shape, strict=False)]
                spec.check((*free, *node.shape[len(free) :]), _ORT_TYPES.get(node.type, node.type), kind, file)

    def _value(self, array: np.ndarray) -> ort.OrtValue:
        """On the CPU the value shares the array's memory; elsewhere it is a copy on the device."""
        return ort.OrtValue.ortvalue_from_numpy(array, self.device, 0)

    def _allocate(self, name: str, shape, dtype: str) -> None:
        self._set(name, np.zeros(shape, dtype))

    def _set(self, name: str, array: np.ndarray) -> None:
        spec = self.manifest.input(name)
        spec.check(array.shape, array.dtype.name, "input", Path(self.manifest.model).with_suffix(".json").name)
        self._host[name] = array
        self._bound[name] = self._value(array)
        self._binding.bind_ortvalue_input(name, self._bound[name])

    def _upload(self, name: str) -> None:
        if self.device != "cpu":
            self._bound[name].update_inplace(self._host[name])

    def set_cameras(self, count: int) -> np.ndarray:
        """Allocate the image buffer of `count` cameras. Returns it, (1, N, H, W, 3) uint8: write each frame there."""
        shape = self.manifest.input("images").shape
        if isinstance(shape[1], int) and shape[1] != count:
            raise InputError(
                f"rig has {count} cameras, {self.manifest.model} was exported for {shape[1]}; export again"
            )
        self._allocate("images", (1, count, *shape[2:]), "uint8")
        return self._host["images"]

    def set_geometry(self, camera: np.ndarray, index: PoolIndex) -> None:
        """Bind the camera vector (1, N, 27) and the pool index; they stay until the calibration changes."""
        self.set_index(index)
        self._set("camera", camera)

    def set_index(self, index: PoolIndex) -> None:
        """Bind a pool index alone. Raises InputError if it is empty."""
        if index.cell.size == 0:
            raise InputError(
                "no frustum point of the rig falls into the BEV grid: check cam2img, img_aug and cam2lidar"
            )
        for name, column in zip(("depth_index", "feature_index", "cell_index"), index, strict=True):
            self._set(name, np.ascontiguousarray(column))

    def run(self, cur2past: np.ndarray, start: bool) -> dict[str, np.ndarray]:
        """The head outputs of the images in the buffer. They are overwritten by the next run.

        The history advances by `advance()` alone, so a frame that fails later can be forgotten.
        """
        self._host["cur2past"][...] = cur2past
        self._host["start"][...] = start
        for name in ("images", "cur2past", "start"):
            self._upload(name)
        self._binding.bind_ortvalue_input("history", self._history)
        self._binding.bind_ortvalue_output("next_history", self._next)
        self._session.run_with_iobinding(self._binding)
        return self.outputs

    def advance(self) -> None:
        """Make the last run's next_history the history: the two buffers swap, nothing is copied."""
        self._history, self._next = self._next, self._history

    @property
    def history(self) -> np.ndarray:
        """(1, K, C, Y, X) float32 copy of the history, for inspection."""
        return np.array(self._history.numpy())

    @property
    def next_history(self) -> np.ndarray:
        """(1, K, C, Y, X) float32 copy of the last run's next_history."""
        return np.array(self._next.numpy())
