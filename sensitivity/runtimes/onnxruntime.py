"""ONNX Runtime on the CPU, with its default graph optimizations."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from sensitivity.errors import RuntimeUnavailable
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.uses import quantized_type
from sensitivity.onnx_graph.walk import input_at, of_kind
from sensitivity.runtimes.base import (
    Closing,
    LayerRun,
    Tensors,
    existing,
    fitted,
    refused,
    written_json,
)
from sensitivity.runtimes.onnx_names import onnx_names
from sensitivity.runtimes.ort_profile import layer_runs

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
} | {
    f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


class OnnxRuntime:
    """ONNX Runtime on the CPU.

    optimize: False switches every graph optimization off. That is slow and gives the reference
        numerics of a Q/DQ file.
    """

    name = "onnxruntime"

    def __init__(self, *, optimize: bool = True) -> None:
        self.optimize = optimize

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "ONNX Runtime is not installed; run: pip install onnxruntime"
        return None

    def version(self) -> str:
        return str(_package().__version__)

    def build(self, file: Path, *, threads: int | None = None) -> OnnxRuntimeEngine:
        if problem := self.unavailable():
            raise RuntimeUnavailable(problem)
        return OnnxRuntimeEngine(existing(file), threads, self.optimize)


class OnnxRuntimeEngine(Closing):
    """One session. `profile` makes a second one with the profiler on, so that timing is never
    profiled."""

    precision = "fp32"  # the CPU kernels of x64 compute FP16 files in FP32, between casts

    def __init__(self, file: Path, threads: int | None, optimize: bool) -> None:
        self._file, self._threads, self._optimize = file, threads, optimize
        self._session: Any = _session(file, partial(_options, threads, optimize))

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        names = [output.name for output in self._session.get_outputs()]
        with _running(self._file):
            return dict(
                zip(names, self._session.run(names, _feed(self._session, inputs)), strict=True)
            )

    def time_ms(self, inputs: Tensors, repeats: int) -> NDArray[np.float64]:
        session, feed = self._session, _feed(self._session, inputs)
        times = np.empty(repeats)
        with _running(self._file):
            for i in range(repeats):
                start = time.perf_counter_ns()
                session.run(None, feed)
                times[i] = (time.perf_counter_ns() - start) / 1e6
        return times

    def profile(self, inputs: Tensors, repeats: int) -> tuple[LayerRun, ...]:
        with tempfile.TemporaryDirectory() as folder:
            prefix = str(Path(folder) / "profile")
            session = _session(
                self._file, partial(_options, self._threads, self._optimize, profile=prefix)
            )
            feed = _feed(session, inputs)
            for _ in range(repeats + 1):
                session.run(None, feed)
            # The profile has megabytes, which msgspec reads in less than half the time of json.
            written = Path(session.end_profiling())
            events = written_json(written, "ONNX Runtime", msgspec.json.decode)
        return layer_runs(events, onnx_names(self._file), skip=1)

    def close(self) -> None:
        self._session = None


def _package() -> Any:
    """Return ONNX Runtime, which takes a while to import and may be missing."""
    import onnxruntime

    return onnxruntime


@contextmanager
def _running(file: Path) -> Iterator[None]:
    """Turn an exception of ONNX Runtime inside the `with` into an OnnxFileError.

    A file may load and still not run, with kernels that check its values only then.
    """
    try:
        yield
    except Exception as error:  # its exceptions share no public base class
        raise refused(file, "ONNX Runtime", error) from error


def _options(
    threads: int | None, optimize: bool, products: tuple[str, str], *, profile: str | None = None
) -> Any:
    """Return the settings of a session.

    products: how INT8 products are added.
    profile: beginning of the path of the profile; None for none.
    """
    package = _package()
    options = package.SessionOptions()
    options.log_severity_level = 4  # its errors are raised
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = package.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Files are timed in turn. Idle threads of one session must not spin on the cores of the next
    # one.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(*products)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return options


EXACT_PRODUCTS = ("session.x64quantprecision", "1")
"""The setting that adds INT8 products exactly on processors with AVX2 or AVX-512 but without VNNI
instructions. By default their sums saturate at 16 bits there, which is faster and wrong. It changes
nothing on other processors."""


FUSED = {
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT16,
    ir.DataType.UINT16,
}
"""Types of pairs on activations with which ONNX Runtime's optimizations are right."""

NO_FUSED_PAIRS = ("session.disable_quant_qdq", "1")
"""The setting that keeps Q/DQ pairs as they are. ONNX Runtime 1.31 fuses operators and their FP8 or
4-bit pairs into integer operators, which do not take these types."""

NO_REWRITES = ("ReluQuantRewrite", "ClipQuantRewrite")
"""Optimizations that are wrong in front of an FP8 or 4-bit pair. The first removes a Relu there, so
that negative values pass; the second fails."""

INEXACT_PRODUCTS = (EXACT_PRODUCTS[0], "0")
CANNOT_CONVERT = "Attempt to replace the existing tensor"
"""Words of the error if ONNX Runtime cannot convert a weight or zero point that several layers
share, which it only tries with EXACT_PRODUCTS."""


def _session(file: Path, options_with: Callable[[tuple[str, str]], Any]) -> Any:
    """Return a session, with the settings that the file's pairs need.

    options_with: called with how INT8 products are added. A setting that is changed in options that
        have it makes ONNX Runtime print a warning, so each try gets new ones.
    """
    with _running(file):
        try:
            return _made(file, options_with(EXACT_PRODUCTS))
        except Exception as error:  # its exceptions share no public base class
            if CANNOT_CONVERT not in str(error):
                raise
        return _made(file, options_with(INEXACT_PRODUCTS))


def _made(file: Path, options: Any) -> Any:
    without: tuple[str, ...] = ()
    if not _fuses_rightly(file, options):
        options.add_session_config_entry(*NO_FUSED_PAIRS)
        without = NO_REWRITES
    return _package().InferenceSession(
        str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=without
    )


def _fuses_rightly(file: Path, options: Any) -> bool:
    """Return whether all pairs on activations are of FUSED types, or nothing is optimized; True for
    a damaged file, which ONNX Runtime then refuses."""
    if options.graph_optimization_level == _package().GraphOptimizationLevel.ORT_DISABLE_ALL:
        return True
    try:
        nodes = of_kind(ir.load(file).graph.all_nodes(), "QuantizeLinear")
        on_activations = (node for node in nodes if qdq.constant(input_at(node, 0)) is None)
        return all(quantized_type(node) in FUSED for node in on_activations)
    except (DecodeError, RuntimeError, ValueError):
        return True


def _feed(session: Any, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
    return fitted(inputs, {item.name: np.dtype(DTYPES[item.type]) for item in session.get_inputs()})
