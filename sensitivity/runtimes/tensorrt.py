"""TensorRT 8.6, 10 and 11, and TensorRT for RTX, through their Python modules.

Nothing here has been run on TensorRT; docs/runtimes.md says what was checked instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import OnnxFileError, RuntimeUnavailable
from sensitivity.runtimes.base import Closing, LayerRun, Tensors, existing, fitted
from sensitivity.runtimes.cuda import Buffer, Cuda, Work, cuda_problem, open_cuda
from sensitivity.runtimes.engine_json import engine_layers
from sensitivity.runtimes.file_types import file_types
from sensitivity.runtimes.onnx_names import OnnxNames, onnx_names
from sensitivity.runtimes.tensorrt_build import (
    TensorRtSettings,
    build_plan,
    last_error,
    make_logger,
    plan_file,
    replace_file,
    strongly_typed,
)


class TensorRt:
    """The `tensorrt` module on the current CUDA device."""

    name = "tensorrt"
    module = "tensorrt"

    def __init__(self, settings: TensorRtSettings | None = None) -> None:
        self.settings = settings or TensorRtSettings()

    def unavailable(self) -> str | None:
        if importlib.util.find_spec(self.module) is None:
            return (
                f"{self.module} is not installed; run: pip install {self.module.replace('_', '-')}"
            )
        if problem := cuda_problem():
            return f"{self.module} is installed, but {problem}; check the driver with nvidia-smi"
        return None

    def version(self) -> str:
        return str(importlib.import_module(self.module).__version__)

    @property
    def lowering(self) -> str | None:
        """The runtime whose lowered files it takes.

        This is "tensorrt" for strongly typed networks, and None (canonical files) for the others.
        The builder's flag gives FP16 to the float layers of canonical files, and 8.6 reads no later
        opset than theirs.
        """
        strong = strongly_typed(importlib.import_module(self.module), self.settings)
        return "tensorrt" if strong else None

    def build(self, file: Path, *, threads: int | None = None) -> TensorRtEngine:
        """Build an engine from a file.

        threads: has no meaning on a GPU; it is a parameter because every runtime has it.
        """
        if problem := self.unavailable():
            raise RuntimeUnavailable(problem)
        trt, file, cuda = importlib.import_module(self.module), existing(file), open_cuda()
        try:
            return TensorRtEngine(trt, file, self.settings, cuda)
        except BaseException:
            cuda.close()
            raise


class TensorRtRtx(TensorRt):
    """TensorRT for RTX, which has the same Python names in another module."""

    name = "tensorrt_rtx"
    module = "tensorrt_rtx"

    def unavailable(self) -> str | None:
        """Return why it cannot run here; the sentence says that building needs no GPU."""
        problem = super().unavailable()
        if problem is None or importlib.util.find_spec(self.module) is None:
            return problem
        return (
            f"{problem}; builds: yes, with sensitivity lint --build; runs: no, which needs an "
            "RTX GPU"
        )


class TensorRtEngine(Closing):
    """One engine with one context.

    `time_ms` is GPU time between events, without transfers, like trtexec's computeMs.
    """

    def __init__(self, trt: Any, file: Path, settings: TensorRtSettings, cuda: Cuda) -> None:
        self._trt, self._cuda, self._settings = trt, cuda, settings
        self._names: OnnxNames = onnx_names(file)
        self._logger = make_logger(trt)
        self.precision = file_types(file).precision(
            settings.float_type, strong=strongly_typed(trt, settings)
        )
        runtime = trt.Runtime(self._logger)
        self._runtime = runtime  # must outlive its engines
        self._engine = self._loaded(file, runtime)
        self._context = self._new_context()
        self._bound: dict[str, Buffer] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._launch: Work | None = None

    def _loaded(self, file: Path, runtime: Any) -> Any:
        """Return a kept engine if it still loads, otherwise a new one."""
        kept = plan_file(self._trt, file, self._settings, self._cuda.device)
        if kept is not None and kept.exists():
            engine = runtime.deserialize_cuda_engine(kept.read_bytes())
            if engine is not None:
                return engine
        plan = build_plan(self._trt, self._logger, file, self._settings)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise RuntimeUnavailable(
                f"Expected TensorRT to load the engine it built, got: {last_error(self._logger)}."
            )
        if kept is not None:
            replace_file(kept, plan)
        return engine

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise RuntimeUnavailable(
                f"Expected device memory for the engine, got: {last_error(self._logger)}."
            )
        return context

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Return every output by its name.

        If the engine has a free first axis and was built for one sample, it receives samples one by
        one.
        """
        samples = len(next(iter(inputs.values()))) if self._takes_one_sample() else 1
        if samples > 1:
            return self._run_one_by_one(inputs, samples)
        self._bind(self._context, inputs)
        self._enqueue(self._context)
        return self._outputs(self._context)

    def _run_one_by_one(self, inputs: Tensors, samples: int) -> dict[str, NDArray[np.generic]]:
        collected = defaultdict[str, list[NDArray[np.generic]]](list)
        for index in range(samples):
            sample = {name: array[[index]] for name, array in inputs.items()}
            for name, output in self.run(sample).items():
                collected[name].append(output)
        return {name: np.concatenate(outputs) for name, outputs in collected.items()}

    def time_ms(self, inputs: Tensors, repeats: int) -> NDArray[np.float64]:
        launch = self._prepared(inputs)
        return np.array([self._cuda.elapsed_ms(launch) for _ in range(repeats)], dtype=np.float64)

    def profile(self, inputs: Tensors, repeats: int) -> tuple[LayerRun, ...]:
        """Return every step of one inference.

        It runs in a context of its own and without a CUDA graph, since the events between layers
        inflate the total.
        """
        context, timer = self._new_context(), _layer_timer(self._trt)
        self._bind(context, inputs)
        self._enqueue(context)  # first launches load kernels; not profiled
        self._cuda.synchronize()
        context.profiler = timer
        context.enqueue_emits_profile = False
        for _ in range(repeats):
            self._enqueue(context)
            self._cuda.synchronize()
            context.report_to_profiler()
        times = {name: _medians(values, repeats) for name, values in timer.times.items()}
        return engine_layers(self._information(context), times, self._names)

    def close(self) -> None:
        self._launch = self._context = self._engine = None
        self._cuda.close()

    def _information(self, context: Any) -> Any:
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = context  # shapes of a dynamic engine
        return json.loads(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def _prepared(self, inputs: Tensors) -> Work:
        """Return a launch of the engine on these inputs.

        It is kept while the shapes stay the same; only the values are then copied anew.
        """
        shapes = {name: array.shape for name, array in inputs.items()}
        if self._launch is not None and shapes == self._shapes:
            self._copy_in(self._feed(inputs))
            return self._launch
        self._bind(self._context, inputs)
        self._enqueue(self._context)
        self._cuda.synchronize()
        direct = lambda: self._enqueue(self._context)  # noqa: E731
        self._launch = self._cuda.captured(direct) if self._settings.cuda_graph else direct
        self._shapes = shapes
        until = time.monotonic() + self._settings.warm_up_ms / 1000
        while time.monotonic() < until:
            self._launch()
            self._cuda.synchronize()
        return self._launch

    def _takes_one_sample(self) -> bool:
        if self._settings.shapes:
            return False
        shapes = map(self._engine.get_tensor_shape, self._tensor_names(inputs=True))
        return any(tuple(shape)[:1] == (-1,) for shape in shapes)

    def _tensor_names(self, *, inputs: bool) -> list[str]:
        """Return the names of the engine's inputs, or of its outputs."""
        engine = self._engine
        names = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            if is_input is inputs:
                names.append(name)
        return names

    def _dtype(self, name: str) -> np.dtype[Any]:
        try:
            dtype: np.dtype[Any] = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        except TypeError as error:  # bfloat16 and fp8 have no numpy type
            raise OnnxFileError(
                f"Expected {name} to have a type that numpy knows, got: {error}; export it as "
                "float."
            ) from error
        return dtype

    def _feed(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        names = self._tensor_names(inputs=True)
        return fitted(inputs, {name: self._dtype(name) for name in names})

    def _bind(self, context: Any, inputs: Tensors) -> None:
        """Set the shapes and then the addresses, since output shapes depend on all input shapes.

        An earlier prepared launch may have other shapes or addresses, so it is dropped.
        """
        self._launch = None
        feed = self._feed(inputs)
        for name, array in feed.items():
            if not context.set_input_shape(name, array.shape):
                raise OnnxFileError(
                    f"Expected input {name} within the engine's shapes, got {array.shape}; rebuild "
                    "for it."
                )
        sizes = {name: array.nbytes for name, array in feed.items()}
        for name in self._tensor_names(inputs=False):
            sizes[name] = math.prod(_known_shape(context, name)) * self._dtype(name).itemsize
        for name, nbytes in sizes.items():
            if name not in self._bound or self._bound[name].nbytes < nbytes:
                self._bound[name] = self._cuda.allocate(nbytes)
            context.set_tensor_address(name, self._bound[name].address)
        self._copy_in(feed)

    def _copy_in(self, feed: Tensors) -> None:
        for name, array in feed.items():
            self._cuda.copy_in(self._bound[name], array)

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._cuda.handle):
            raise RuntimeUnavailable(
                f"Expected the engine to run, got: {last_error(self._logger)}."
            )

    def _outputs(self, context: Any) -> dict[str, NDArray[np.generic]]:
        self._cuda.synchronize()
        outputs = {}
        for name in self._tensor_names(inputs=False):
            outputs[name] = np.empty(_known_shape(context, name), self._dtype(name))
            self._cuda.copy_out(self._bound[name], outputs[name])
        return outputs


def _medians(values: list[float], repeats: int) -> list[float]:
    """Return one median for each layer of this name.

    Layers that share a name report one after the other in each inference.
    """
    layers = len(values) // repeats
    return [statistics.median(values[index::layers]) for index in range(layers)]


def _known_shape(context: Any, name: str) -> tuple[int, ...]:
    shape = tuple(context.get_tensor_shape(name))
    if -1 in shape:
        raise OnnxFileError(
            f"Expected output {name} to have a shape that follows from the inputs' shapes, got "
            f"{shape}; cut the model before the operation that decides it (such as "
            "NonMaxSuppression)."
        )
    return shape


def _layer_timer(trt: Any) -> Any:
    class LayerTimer(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # TensorRT wants its base class initialized explicitly
            self.times: dict[str, list[float]] = defaultdict(list)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times[layer_name].append(ms)

    return LayerTimer()
