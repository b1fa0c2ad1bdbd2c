"""A graph with its arrays bound once: fill `inputs`, `run()`, read `outputs`; nothing is allocated in between."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from .errors import ManifestError

_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class BoundGraph:
    """Args: path; wanted: name -> shape of every input, None where the graph may decide; carry: name of an input ->
    name of the output that takes its place in the next run, without a copy. threads, providers of onnxruntime.
    Raises: ManifestError when the graph has other inputs.
    """

    def __init__(
        self,
        path: str | Path,
        wanted: dict[str, tuple],
        carry: dict[str, str] | None = None,
        *,
        threads: int = 1,
        providers: list[str],
    ):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(str(path), options, providers=providers)
        found = {node.name: (tuple(node.shape), node.type) for node in self.session.get_inputs()}
        fits = set(found) == set(wanted) and all(
            len(found[name][0]) == len(shape)
            and all(b in (None, a) for a, b in zip(found[name][0], shape, strict=True))
            for name, shape in wanted.items()
        )
        if not fits:
            shapes = {name: shape for name, (shape, _) in found.items()}
            raise ManifestError(
                f"{Path(path).name} has the inputs {shapes}, its manifest wants {wanted}: keep the exported files "
                "together, or export again"
            )
        self._carry, self._current = carry or {}, 0
        free = {name: np.zeros(shape, _DTYPES[kind]) for name, (shape, kind) in found.items()}
        out = {node.name: np.zeros(node.shape, _DTYPES[node.type]) for node in self.session.get_outputs()}
        swapped = {a: out[b] for a, b in self._carry.items()}, {b: free[a] for a, b in self._carry.items()}
        self._sets = [(free, out), ({**free, **swapped[0]}, {**out, **swapped[1]})]
        self._bindings = [self._bind(*pair) for pair in self._sets]

    def _bind(self, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]):
        """On the CPU the values share the arrays' memory."""
        binding = self.session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        return binding

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """Of the next run; a carried one holds what the last run returned."""
        return self._sets[self._current][0]

    def run(self, **inputs) -> dict[str, np.ndarray]:
        """Write the inputs given, run; the outputs hold until the next run."""
        here, outputs = self._sets[self._current]
        for name, value in inputs.items():
            here[name][...] = value
        self.session.run_with_iobinding(self._bindings[self._current])
        if self._carry:
            self._current = 1 - self._current
        return outputs
