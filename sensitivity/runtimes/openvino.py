"""OpenVINO on the CPU."""

from __future__ import annotations

import importlib.util
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.distribution import install_line
from sensitivity.errors import RuntimeUnavailable
from sensitivity.runtimes.base import Closing, LayerRun, Port, Tensors, existing, fitted, refused
from sensitivity.runtimes.file_types import file_types
from sensitivity.runtimes.onnx_names import OnnxNames, onnx_names

PRECISION = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
HINT = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
QDQ_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})
ADDED_BY_OPENVINO = ("/WithoutBiases", "_original", "/fq_input_0", "/fq_weights_1")


class OpenVino:
    """OpenVINO on the CPU.

    precision: of the layers that are not quantized. An FP16 file runs in FP16 if the processor can.
        The precision is forced, because OpenVINO's own choice on a processor with AVX512-BF16 or
        AMX is bf16, which has neither the float model's accuracy nor its speed elsewhere. None
        leaves the choice to OpenVINO.
    """

    name = "openvino"

    def __init__(self, *, precision: str | None = "fp32") -> None:
        self.precision = precision

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return f"OpenVINO is not installed; run: {install_line('openvino')}"
        return None

    def version(self) -> str:
        return str(optional.openvino.__version__).split("-")[0]

    def build(self, file: Path, *, threads: int | None = None) -> OpenVinoEngine:
        if problem := self.unavailable():
            raise RuntimeUnavailable(problem)
        file = existing(file)
        in_fp16 = self.precision == "fp32" and file_types(file).half and computes_fp16()
        return OpenVinoEngine(file, threads, "fp16" if in_fp16 else self.precision)


class OpenVinoEngine(Closing):
    """One compiled model. `profile` compiles another with performance counters, so that timing has
    none."""

    def __init__(self, file: Path, threads: int | None, precision: str | None) -> None:
        self._file, self._settings = file, _settings(threads, precision)
        # This comes first, because OpenVINO tries a file that is not ONNX in every other format,
        # loudly.
        self._names = onnx_names(file)
        self._compiled = _compile(file, self._settings)
        self._request: Any = self._compiled.create_infer_request()
        type_name = str(self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        self.precision = _precision(type_name)

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        self._request.infer(self._feed(inputs))
        return {
            self._name(port): np.array(self._request.get_tensor(port).data)
            for port in self._compiled.outputs
        }

    def time_ms(self, inputs: Tensors, repeats: int) -> NDArray[np.float64]:
        request, feed = self._request, self._feed(inputs)
        times = np.empty(repeats)
        for i in range(repeats):
            start = time.perf_counter_ns()
            request.infer(feed, share_inputs=True)
            times[i] = (time.perf_counter_ns() - start) / 1e6
        return times

    def profile(self, inputs: Tensors, repeats: int) -> tuple[LayerRun, ...]:
        counted = _compile(self._file, self._settings | {"PERF_COUNT": True})
        request = counted.create_infer_request()
        for _ in range(repeats):
            request.infer(self._feed(inputs))
        return _steps(counted.get_runtime_model().get_ordered_ops(), self._names)

    def close(self) -> None:
        self._request = self._compiled = None

    def _feed(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        ports = self._compiled.inputs
        return fitted(
            inputs, {self._name(port): port.get_element_type().to_dtype() for port in ports}
        )

    def _name(self, port: Any) -> str:
        """Return the name of a port in the file.

        OpenVINO gives a port the names of all tensors that it folded into it; the file's own is one
        of them.
        """
        own: set[str] = port.get_names() & self._names.ends
        if own:
            return next(iter(own))
        name: str = port.get_any_name()
        return name


def computes_fp16() -> bool:
    """Return whether this processor computes in FP16.

    Others accept an FP16 file and compute it in FP32 or in BF16.
    """
    return "FP16" in optional.openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _settings(threads: int | None, precision: str | None) -> dict[str, Any]:
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = HINT[precision]
        # Otherwise the activations of weight-only products are still rounded to int8.
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    return settings


def _compile(file: Path, settings: dict[str, Any]) -> Any:
    try:
        return optional.openvino.Core().compile_model(str(file), "CPU", settings)
    except RuntimeError as error:
        raise refused(file, "OpenVINO", error) from error


def _steps(nodes: list[Any], names: OnnxNames) -> tuple[LayerRun, ...]:
    """Return the executed nodes of a runtime graph, in its order.

    What is computed from constants alone is left out.
    """
    info = {node.get_friendly_name(): _about(node) for node in nodes}
    constants = set[str]()  # also a bias after a Reshape: it is no activation
    same = dict[str, str]()  # a step that is not executed works in place: its output is its input
    steps = []
    for node in nodes:
        name, sources = node.get_friendly_name(), _sources(node)
        about = info[name]
        reads = [same.get(source, source) for source in sources if source not in constants]
        if about["layerType"] == "Const":
            constants.add(name)
        elif not sources or about["layerType"] == "Output":
            continue
        elif not reads:
            constants.add(name)
        elif _is_executed(about, reads):
            ports = tuple(_port(source, info[source]) for source in reads)
            steps.append(_step(name, about, ports, names))
        else:
            same[name] = reads[0]
    return tuple(steps)


def _is_executed(about: dict[str, str], reads: list[str]) -> bool:
    """Return whether a node is a step of its own.

    A Concat of several tensors is one, though it may work in place.
    """
    return about["execTimeMcs"].isdigit() or len(reads) > 1


def _about(node: Any) -> dict[str, str]:
    """Return what the runtime graph says about a node, by key."""
    return {key: _text(value) for key, value in node.get_rt_info().items()}


def _sources(node: Any) -> list[str]:
    """Return the names of the nodes that a node reads."""
    names = []
    for port in node.inputs():
        source = port.get_source_output().get_node()
        names.append(source.get_friendly_name())
    return names


def _step(name: str, about: dict[str, str], inputs: tuple[Port, ...], names: OnnxNames) -> LayerRun:
    parts = about["originalLayersNames"].split(",")
    onnx = names.known(_in_file(part, names) for part in parts)
    operations = {names.by_name[node].op for node in onnx}
    origin = None
    if not onnx and about["layerType"] in ("Reorder", "Convert"):
        origin = "reformat"
    elif onnx and operations <= QDQ_OPS:
        origin = "qdq"
    took = about["execTimeMcs"]
    return LayerRun(
        name=name,
        op=about["layerType"],
        precision=_precision(about["runtimePrecision"]),
        ms=int(took) / 1000 if took.isdigit() else 0.0,
        onnx=onnx,
        origin=origin,
        inputs=inputs,
        outputs=(_port(name, about),),
    )


def _port(name: str, about: dict[str, str]) -> Port:
    """Return the first output of a node."""
    precision, *_ = about["outputPrecisions"].split(",")
    layout, *_ = about["outputLayouts"].split(",")
    return Port(name, _precision(precision), layout)


def _precision(name: str) -> str:
    """Return the precision in the names that other runtimes share."""
    return PRECISION.get(name, name)


def _in_file(name: str, names: OnnxNames) -> str:
    """Return the file's name of a node that OpenVINO names.

    OpenVINO adds endings to nodes that it splits, and numbers to those that it copies.
    """
    for suffix in ADDED_BY_OPENVINO:
        name = name.removesuffix(suffix)
    if names.find(name):
        return name
    return re.sub(r"_\d+$", "", name)


def _text(value: Any) -> str:
    if hasattr(value, "astype"):
        value = value.astype(str)
    return str(value)
