"""Runs an exported policy: explicit state, checked inputs and actions, nothing allocated in the loop but its result."""

from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from .errors import InputError, ManifestError
from .policy_manifest import PolicyManifest, check_observation
from .session import choose_providers


class NotResetError(RuntimeError):
    """The policy was asked for an action before `reset`."""


class ActionError(ValueError):
    """The network returned an action that must not reach the robot; the state is as it was before the call."""


class BusyError(RuntimeError):
    """The policy's state was asked for or changed while a prepared call runs in another thread."""


class StreamingPolicy:
    """One robot's policy. `reset(seed)` begins an episode, `step(observation)` is one call, `select_action` one control
    step.

    One thread at a time, with one exception: while a call from `prepare` runs in another thread, `observe` may be used.
    Args: path of the ONNX file, its manifest and encoder beside it; threads of onnxruntime; providers as in `Session`;
        margin: how far outside the demonstrations' range, as a part of it, an action may lie.
    The noise of an episode is numpy's, seeded: the same seed and observations give the same actions.
    """

    def __init__(self, path: str | Path, threads: int = 1, providers: list[str] | None = None, margin: float = 1e-3):
        path = Path(path)
        self.manifest = manifest = PolicyManifest.load(path)
        if manifest.batch != 1:
            raise ManifestError(
                f"{path.name} was exported for a batch of {manifest.batch}, a StreamingPolicy runs one robot: export "
                "with batch=1"
            )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        chosen = choose_providers(providers)
        self._encoder = ort.InferenceSession(str(path.with_name(manifest.encoder)), options, providers=chosen)
        self._step = ort.InferenceSession(str(path), options, providers=chosen)
        T, A = manifest.horizon, manifest.action_dim
        self._inputs = {
            one.name: np.zeros((1, manifest.observed, *one.shape), one.dtype) for one in manifest.observations
        }
        self._history = {name: array.copy() for name, array in self._inputs.items()}  # a call reads its own copy
        self._condition = np.zeros((1, manifest.condition_dim), np.float32)
        self._buffers = [np.zeros((1, T, A), np.float32) for _ in range(2)]
        self._levels = [np.ones((1, T), np.float32) for _ in range(2)]
        self._start_noise = np.zeros((1, T, A), np.float32)
        self._fresh = np.zeros((1, manifest.fresh, A), np.float32)
        self._noise = np.zeros((manifest.evaluations, 1, T, A), np.float32) if manifest.stochastic else None
        self._begin = np.ones(1, bool)
        self._middle = (np.asarray(manifest.action_low) + np.asarray(manifest.action_high)) / 2
        self._idle = self._middle.astype(np.float32)[None]
        self._action = np.zeros((1, manifest.execute, A), np.float32)
        low, high = np.asarray(manifest.action_low, np.float32), np.asarray(manifest.action_high, np.float32)
        reach = margin * np.maximum(high - low, 1e-3)
        self._low, self._high = low - reach, high + reach
        self._current, self._random, self._running = 0, None, False
        self._bindings = [self._bind(i) for i in range(2)]
        self._encode = self._encoder.io_binding()
        for name, array in self._inputs.items():
            self._encode.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        self._encode.bind_ortvalue_output("condition", ort.OrtValue.ortvalue_from_numpy(self._condition))
        self._queue: deque[np.ndarray] = deque()

    def _bind(self, current: int):
        """State in from set `current`, out to the other; the sets swap after a call, nothing is copied."""
        binding = self._step.io_binding()
        inputs = {
            "condition": self._condition, "buffer": self._buffers[current], "level": self._levels[current],
            "fresh": self._fresh, "start_noise": self._start_noise, "reset": self._begin,
        }  # fmt: skip
        if self._noise is not None:
            inputs["noise"] = self._noise
        if self.manifest.idle:
            inputs["idle"] = self._idle
        outputs = {
            "action": self._action, "next_buffer": self._buffers[1 - current], "next_level": self._levels[1 - current]
        }  # fmt: skip
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        return binding

    def reset(self, seed: int = 0) -> None:
        """Begin an episode: forget observations, buffer and queued actions; restart the noise."""
        self._only()
        self._random = np.random.default_rng((int(seed), 0x401))
        self._begin[:] = True
        self._queue.clear()
        self._seen = False
        self._random.standard_normal(out=self._start_noise[0], dtype=np.float32)
        self._draw()

    def stand_by(self, action: np.ndarray | None = None) -> None:
        """What is sent before an episode's first answer, by default the middle of the action range. A delayed plan's
        buffer begins with it (cut to the range): these are its actions in flight. Stays over `reset`."""
        self._only()
        action = self._middle if action is None else np.asarray(action, np.float32)
        if action.shape != self._idle.shape[1:] or not np.isfinite(action).all():
            raise InputError(f"stand_by action is {action.shape}; wanted {self._idle.shape[1:]}, finite")
        np.clip(action, self.manifest.action_low, self.manifest.action_high, out=self._idle[0], casting="same_kind")

    def _only(self) -> None:
        if self._running:
            raise BusyError("a call is running in another thread: wait for its answer, only observe() goes beside it")

    def _draw(self) -> None:
        self._random.standard_normal(out=self._fresh[0], dtype=np.float32)
        if self._noise is not None:
            self._random.standard_normal(out=self._noise[:, 0], dtype=np.float32)

    def warm_up(self, calls: int = 20) -> None:
        """Run the graphs on zeros so that the first real call is not the slow one; the state is untouched."""
        self._only()
        for _ in range(calls):
            self._encoder.run_with_iobinding(self._encode)
            self._step.run_with_iobinding(self._bindings[self._current])

    def observe(self, observation: dict[str, np.ndarray]) -> None:
        """Take the current step's observation into the history. Raises InputError naming what is wrong with it."""
        if self._random is None:
            raise NotResetError("the policy has no episode: call reset(seed) before asking for actions")
        check_observation(self.manifest.observations, observation)
        for one in self.manifest.observations:
            held, value = self._history[one.name], observation[one.name]
            if self._seen:
                held[0, :-1] = held[0, 1:]
                held[0, -1] = value
            else:
                held[0, :] = value
        self._seen = True

    def step(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """One call: (execute, A) actions in the robot's units, the first for `manifest.first` steps from now.

        Raises: InputError, NotResetError, ActionError; after ActionError the state is as before the call.
        """
        return self.prepare(observation)()

    def prepare(self, observation: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
        """`step` in two parts: takes the observation, and returns the call to be made once, in whatever thread, with
        the history as it is now. Raises: InputError, NotResetError, BusyError; the call raises ActionError."""
        self._only()
        self.observe(observation)
        return self._prepared()

    def select_action(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """(A,) action of this control step, as if calls took no time; calls the network when the last chunk is used up.

        A delayed plan's actions are for `first` steps later: until then, `stand_by`'s action is returned.
        """
        self._only()
        self.observe(observation)
        if self._begin[0] and not self._queue:
            self._queue.extend(self._idle.repeat(self.manifest.first, 0))
        if len(self._queue) <= self.manifest.first:
            self._queue.extend(self._prepared()())
        return self._queue.popleft()

    def _prepared(self) -> Callable[[], np.ndarray]:
        for name, array in self._history.items():
            np.copyto(self._inputs[name], array)
        return self._call

    def _call(self) -> np.ndarray:
        self._running = True
        try:
            return self._run()
        finally:
            self._running = False

    def _run(self) -> np.ndarray:
        self._encoder.run_with_iobinding(self._encode)
        self._step.run_with_iobinding(self._bindings[self._current])
        action = self._action[0]
        inside = (action >= self._low) & (action <= self._high)  # False for NaN
        if not inside.all():
            row, column = np.argwhere(~inside)[0]
            raise ActionError(
                f"action {column} of step {row} is {action[row, column]}, outside [{self._low[column]:g}, "
                f"{self._high[column]:g}]: not sent; check the observation's units, or the export"
            )
        self._current = 1 - self._current
        self._begin[:] = False
        self._draw()
        return action.copy()

    @property
    def level(self) -> np.ndarray:
        """(T,) noise levels of the buffer before the next call."""
        return self._levels[self._current][0].copy()

    def snapshot(self) -> dict:
        """Everything the policy carries, as arrays and plain values; `restore` continues exactly from it."""
        self._only()
        return {
            "inputs": {name: array.copy() for name, array in self._history.items()},
            "buffer": self._buffers[self._current].copy(),
            "level": self._levels[self._current].copy(),
            "start_noise": self._start_noise.copy(),
            "fresh": self._fresh.copy(),
            "noise": None if self._noise is None else self._noise.copy(),
            "begin": bool(self._begin[0]),
            "seen": self._seen,
            "idle": self._idle.copy(),
            "queue": [action.copy() for action in self._queue],
            "random": self._random.bit_generator.state,
        }

    def restore(self, stored: dict) -> None:
        """Inverse of `snapshot`, of the same export."""
        self.reset(0)
        for name, array in stored["inputs"].items():
            self._history[name][...] = array
        self._buffers[self._current][...] = stored["buffer"]
        self._levels[self._current][...] = stored["level"]
        self._start_noise[...], self._fresh[...] = stored["start_noise"], stored["fresh"]
        self._idle[...] = stored["idle"]
        if self._noise is not None:
            self._noise[...] = stored["noise"]
        self._begin[:], self._seen = stored["begin"], stored["seen"]
        self._queue = deque(stored["queue"])
        self._random.bit_generator.state = stored["random"]
