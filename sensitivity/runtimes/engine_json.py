"""Reads TensorRT's own JSON about an engine: the layers that ran, their precision and time.

`trtexec --exportLayerInfo`, `--exportProfile` and `--exportTimes` write it, and EngineInspector
returns it. The reader was written from engines of TensorRT 8. The forms of 10 and 11 (short format
names, `Metadata`, `kgen`) follow the documentation.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.records import NOTHING
from sensitivity.runtimes.base import LayerRun, Port, written_json
from sensitivity.runtimes.onnx_names import OnnxNames

PRECISIONS = {
    "int8": "int8",
    "fp8": "fp8",
    "fp16": "fp16",
    "half": "fp16",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp32": "fp32",
    "float": "fp32",
    "int4": "int4",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
}
WIDTH = ("int4", "int8", "fp8", "fp16", "bf16", "fp32")
WEIGHTED_KINDS = re.compile("conv|gemm|matmul|matrixmultiply|fullyconnected")
ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]\x1e\x1f]+)\]")
REFORMAT_OF = re.compile(r"^Reformatting CopyNode for (Input|Output) Tensor \d+ to ")


def read_json(file: Path) -> Any:
    """Return what TensorRT wrote to a file.

    Raises RuntimeUnavailable if the file is missing or not JSON: then what should have written it
    has failed.
    """
    return written_json(file, "TensorRT")


def compute_times(data: Iterable[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return the GPU time of each inference without transfers, float64[n], in milliseconds."""
    return np.array([float(item["computeMs"]) for item in data])


def layer_times(data: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the milliseconds by engine layer.

    A name that several layers share has as many times, in the engine's order.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for item in data:
        if "name" in item:  # the first item holds only the number of inferences
            times[str(item["name"])].append(float(item.get("medianMs", item.get("averageMs", 0.0))))
    return dict(times)


def engine_layers(
    data: Mapping[str, Any],
    times: Mapping[str, list[float]] = NOTHING,
    names: OnnxNames | None = None,
) -> tuple[LayerRun, ...]:
    """Return the engine's layers in its order.

    data: the layer information. An engine built without detailed verbosity only has names, and its
        precisions are "?".
    times: the result of `layer_times`.
    names: nodes of the ONNX file. With None, `LayerRun.onnx` holds the parts of TensorRT's names.
    """
    left = {name: deque(values) for name, values in times.items()}
    runs = []
    for raw in data["Layers"]:
        layer = raw if isinstance(raw, Mapping) else {"Name": str(raw)}
        queue = left.get(str(layer["Name"]))
        runs.append(_run(layer, queue.popleft() if queue else None, names))
    return tuple(runs)


def _run(layer: Mapping[str, Any], ms: float | None, names: OnnxNames | None) -> LayerRun:
    name, kind = str(layer["Name"]), str(layer.get("LayerType", "?"))
    inputs, outputs = _ports(layer.get("Inputs", ())), _ports(layer.get("Outputs", ()))
    onnx = _onnx_candidates(name, str(layer.get("Metadata", "")))
    if REFORMAT_OF.match(name):
        onnx = ()
    elif names is not None:
        onnx = names.known(onnx)
    return LayerRun(
        name=name,
        op=kind,
        precision=_precision(layer, kind, inputs, outputs),
        ms=ms,
        onnx=onnx,
        origin=_origin(layer, kind),
        inputs=inputs,
        outputs=outputs,
    )


def _origin(layer: Mapping[str, Any], kind: str) -> str | None:
    """Return the value for `LayerRun.origin`.

    A NoOp named "Reformatting CopyNode" costs nothing and is no reformat.
    """
    if kind != "Reformat":
        return None
    return "qdq" if layer.get("Origin") == "QDQ" else "reformat"


def _ports(tensors: Iterable[Any]) -> tuple[Port, ...]:
    ports = []
    for tensor in tensors:
        if isinstance(tensor, Mapping):
            kind = str(tensor.get("Format/Datatype", ""))
            ports.append(Port(str(tensor["Name"]), _format_precision(kind), kind))
    return tuple(ports)


def _format_precision(text: str) -> str:
    """Return the precision that a format names.

    It is "int8" for both "Thirty-two wide channel vectorized row major Int8 format" (TensorRT 8)
    and "Int8" (10 and later).
    """
    words = re.findall(r"[a-z]+\d*", text.lower())
    known = filter(None, map(PRECISIONS.get, words))
    return next(known, "?")


def _precision(
    layer: Mapping[str, Any], kind: str, inputs: tuple[Port, ...], outputs: tuple[Port, ...]
) -> str:
    """Return the precision that a layer computes in.

    For a weighted layer this is the type of its weights, or of its first input. For others it is
    the widest type.
    """
    of_weights = _weight_type(layer)
    if of_weights:
        return _format_precision(of_weights)
    if inputs and WEIGHTED_KINDS.search(kind.lower()):
        return inputs[0].precision
    precisions = map(attrgetter("precision"), inputs + outputs)
    known = filter(WIDTH.__contains__, precisions)
    return max(known, key=WIDTH.index, default="?")


def _weight_type(layer: Mapping[str, Any]) -> str:
    """Return the type of a layer's weights in TensorRT's words.

    Returns "" if it has no weights or their type is not given.
    """
    for key in ("Weights", "ConvWeights"):
        weights = layer.get(key)
        if isinstance(weights, Mapping) and weights.get("Type"):
            return str(weights["Type"])
    return ""


def _onnx_candidates(name: str, metadata: str) -> tuple[str, ...]:
    """Return the names of ONNX nodes from the metadata, otherwise the parts of a fused layer's
    name."""
    names = ONNX_LAYER.findall(metadata)
    if not names:
        joined = re.sub(r"PWN\(|\)", "", name)
        names = [piece.strip() for piece in re.split(r" \+ |, ", joined)]
    return tuple(dict.fromkeys(filter(None, names)))
