"""ONNX files of other projects, run by onnxruntime; needs the extra `onnx`."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfplus.alignment.templates import template_of_size
from sfplus.errors import WeightsError, first_line, warn_user
from sfplus.io.console import first_names
from sfplus.io.limits import limit
from sfplus.networks.preprocessing import PRESETS, Preprocessing
from sfplus.weights.onnx import import_onnx

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_GUESSES = [PRESETS[name] for name in ("sphereface", "insightface", "facenet", "dlib")]  # by the template


class OnnxNetwork(nn.Module):
    """A network that onnxruntime computes, on the device of its input where onnxruntime supports it.

    It can be called from several threads, and pickled.

    Args:
        data: the bytes of the file.
        where: the file, for messages.

    Attributes:
        input_shape: shape of the input; an entry is None where any number is accepted.
        outputs: names of the outputs.

    Raises:
        WeightsError: If onnxruntime cannot read the file, or it does not have one image input.
        DependencyError: If onnxruntime is missing.
    """

    def __init__(self, data: bytes, where: Path) -> None:
        super().__init__()
        self._data, self._where = data, where
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        session = self._session("cpu")
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _DTYPES:
            shapes = first_names([f"{node.name[:40]} {node.shape} {node.type}" for node in inputs])
            raise WeightsError(
                f"has the inputs {shapes}, not one image input (N, 3, height, width) or (N, height, width, 3)",
                where=where, remedy="give a face recognition network",
            )  # fmt: skip
        self._input, self._dtype = inputs[0].name, _DTYPES[inputs[0].type]
        self.input_shape = tuple(size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape)
        self.outputs = [node.name for node in session.get_outputs()]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute all outputs by name: (N, 3, H, W) or (N, H, W, 3) -> (N, ...)."""
        array = np.ascontiguousarray(x.detach().cpu().numpy().astype(self._dtype))
        session, size = self._session(x.device.type), self.input_shape[0]
        if size is None or size == len(array):
            results = self._run(session, array)
        else:  # the graph has a fixed batch size
            parts = [
                self._run(session, _pad(array[start : start + size], size)) for start in range(0, len(array), size)
            ]
            results = [np.concatenate(part)[: len(array)] for part in zip(*parts, strict=True)]
        return {name: torch.from_numpy(np.array(value)) for name, value in zip(self.outputs, results, strict=True)}

    def _run(self, session: Any, array: np.ndarray) -> list[Any]:
        """Run the graph in a thread, so that Ctrl-C and the limit `onnx_seconds` end one that loops for ever.

        Raises:
            WeightsError: If it takes longer.
        """
        options, done = import_onnx("onnxruntime").RunOptions(), threading.Event()
        results: list[Any] = []

        def run() -> None:
            try:
                results.append(session.run(None, {self._input: array}, options))
            except Exception as error:  # raised by the caller's thread
                results.append(error)
            done.set()

        threading.Thread(target=run, daemon=True).start()
        try:
            in_time = done.wait(seconds := limit("onnx_seconds"))
        finally:
            options.terminate = True
        if not in_time:
            remedy = f"use another model, or set SFPLUS_MAX_ONNX_SECONDS={2 * seconds}"
            raise WeightsError(f"takes more than {seconds:,} seconds", where=self._where, remedy=remedy)
        if isinstance(error := results[0], Exception):
            if "arena" in str(error) or "allocate" in str(error):  # onnxruntime's exceptions are no RuntimeError
                most = f"the limit of {limit('onnx_bytes'):,} bytes, SFPLUS_MAX_ONNX_BYTES"
                raise MemoryError(most) from error
            raise error
        return list(results[0])

    def _session(self, device: str) -> Any:
        with self._lock:
            if device not in self._sessions:
                self._sessions[device] = self._create_session(device)
            return self._sessions[device]

    def _create_session(self, device: str) -> Any:
        runtime = import_onnx("onnxruntime")
        providers = ["CPUExecutionProvider"]
        if device == "cuda":
            if "CUDAExecutionProvider" in runtime.get_available_providers():
                providers.insert(0, "CUDAExecutionProvider")
            else:
                reason = "onnxruntime has no GPU support here, so it runs on the CPU"
                warn_user(f"{self._where}: {reason}; install onnxruntime-gpu")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if device == "cpu" and _has_arena():
            options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            return runtime.InferenceSession(self._data, options, providers=providers)
        except Exception as error:  # onnxruntime has no common exception
            reason = f"cannot be run by onnxruntime ({_explain(error)})"
            raise WeightsError(reason, where=self._where, remedy="export it again, as a single file") from None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sessions": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"_lock": threading.Lock()}


@functools.cache
def _has_arena() -> bool:
    """Create the memory of the graphs on the CPU, limited to `onnx_bytes`, and return whether that was possible."""
    runtime = import_onnx("onnxruntime")
    kind = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    try:
        runtime.create_and_register_allocator(kind, runtime.OrtArenaCfg({"max_mem": limit("onnx_bytes")}))
    except RuntimeError:  # the program that uses sfplus has one already
        return False
    return True


def guess_preprocessing(network: OnnxNetwork, operators: Set[str]) -> Preprocessing | None:
    """Guess the input of an ONNX file from its shape and its first nodes; None if the shape does not tell.

    The first nodes decide as in insightface (arcface_onnx.py): a graph that begins with a subtraction and a
    multiplication normalises the image itself.

    Args:
        network: the network.
        operators: those of its first nodes.
    """
    shape = network.input_shape
    layout, size = ("nhwc", shape[1:3]) if shape[3] == 3 else ("nchw", shape[2:])
    height, width = size
    if (shape[3] if layout == "nhwc" else shape[1]) != 3 or height is None or width is None:
        return None
    inside = "Sub" in operators and bool({"Mul", "Div"} & operators)
    template = template_of_size(height, width)
    guess = next((preset for preset in _GUESSES if preset.template == template), PRESETS["insightface"])
    numbers = {"mean": (0.0,), "scale": (1.0,)} if inside else {"mean": guess.mean, "scale": guess.scale}
    output = network.outputs[0] if len(network.outputs) > 1 else ""
    channels = "rgb" if inside else guess.channels
    return Preprocessing(template, channels, layout=layout, mirror=guess.mirror, output=output, **numbers)  # type: ignore[arg-type]


def _pad(array: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), 0)]) if len(array) < size else array


def _explain(error: Exception) -> str:
    """Return the message of onnxruntime without its codes and its source files."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/\S*onnxruntime_src/\S+( \S+ )?", "", first_line(error))
