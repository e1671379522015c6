"""Reads ONNX Runtime's profile events: the layers that ran, their precision and time."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from sensitivity.runtimes.base import LayerRun, Port
from sensitivity.runtimes.onnx_names import NodeName, OnnxNames

PRECISION = {"float": "fp32", "float16": "fp16", "int8": "int8", "uint8": "int8", "double": "fp64"}
QDQ_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})
REFORMAT_OPS = frozenset({"ReorderInput", "ReorderOutput", "Transpose", "Cast"})
WEIGHTED_OP = re.compile(r"Conv|Gemm|MatMul")
KERNEL = "_kernel_time"
MADE_BY_FUSION = re.compile(r"(_token_\d+|_nchwc|_quant|_fused|/\w+Fusion/?)+$")


def layer_runs(
    events: Iterable[Mapping[str, Any]], names: OnnxNames, *, skip: int = 0
) -> tuple[LayerRun, ...]:
    """Return one LayerRun per node that ran, in the order of the first inference.

    skip: number of first inferences that are left out of the medians, since they allocate memory
        and pack weights.
    """
    ran = defaultdict[str, list[Mapping[str, Any]]](list)
    for event in events:
        name = str(event.get("name"))
        if event.get("cat") == "Node" and name.endswith(KERNEL):
            ran[name.removesuffix(KERNEL)].append(event)
    return tuple(_layer_run(name, seen, names, skip) for name, seen in ran.items())


def _layer_run(name: str, seen: list[Mapping[str, Any]], names: OnnxNames, skip: int) -> LayerRun:
    args = seen[0]["args"]
    op = str(args["op_name"])
    node = _node_of(name, op, names)
    origin = _origin(op, node)
    onnx = () if node is None or origin == "reformat" else (node.name,)
    inputs, outputs = _tensors(args["input_type_shape"]), _tensors(args["output_type_shape"])
    precision, *_ = (*inputs, "?")  # the first input decides which kernel runs
    microseconds = [float(event["dur"]) for event in seen]
    steady = microseconds[skip:] or microseconds[:1]
    return LayerRun(
        name=name,
        op=op,
        precision=precision,
        ms=statistics.median(steady) / 1000,
        onnx=onnx,
        origin=origin,
        inputs=tuple(Port("", kind) for kind in inputs[:1]),
        outputs=tuple(Port("", kind) for kind in outputs[:1]),
    )


def _origin(op: str, node: NodeName | None) -> str | None:
    """Return the value for `LayerRun.origin`.

    node: the node of the file that the operation comes from.
    """
    if op in QDQ_OPS:
        return "qdq"
    is_in_file = node is not None and node.op == op
    return "reformat" if op in REFORMAT_OPS and not is_in_file else None


def _node_of(name: str, op: str, names: OnnxNames) -> NodeName | None:
    """Return the node of the file that a kernel runs, or the weighted one of those that it
    fuses."""
    # ONNX Runtime puts Casts around FP16 operations on a CPU.
    source = MADE_BY_FUSION.sub("", name.removeprefix("InsertedPrecisionFreeCast_"))
    if WEIGHTED_OP.search(op):
        return names.weighted_at_or_before(source)
    return names.find(source)


def _tensors(shapes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the precisions of all tensors that are not scalars.

    For example, QLinearConcat takes its scales before its tensors.
    """
    precisions = []
    for item in shapes:
        for kind, shape in item.items():
            if shape:
                precisions.append(PRECISION.get(kind, kind))
    return precisions
