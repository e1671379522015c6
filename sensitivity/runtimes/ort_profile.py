"""ONNX Runtime's profile events -> the layers that ran, their precision and time."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from sensitivity.runtimes.base import LayerRun, Port
from sensitivity.runtimes.onnx_names import NodeName, OnnxNames

PRECISION = {"float": "fp32", "float16": "fp16", "int8": "int8", "uint8": "int8", "double": "fp64"}
QDQ_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})
REFORMAT_OPS = frozenset({"ReorderInput", "ReorderOutput", "Transpose", "Cast"})
MADE_BY_FUSION = re.compile(r"(_token_\d+|_nchwc|_quant|_fused|/\w+Fusion/?)+$")


def layer_runs(
    events: Iterable[Mapping[str, Any]], names: OnnxNames, *, skip: int = 0
) -> tuple[LayerRun, ...]:
    """One LayerRun per node that ran, in the order of the first inference.

    skip: how many first inferences are left out of the medians (they allocate memory and pack
    weights).
    """
    ran: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time"):
            ran.setdefault(str(event["name"]).removesuffix("_kernel_time"), []).append(event)
    return tuple(_layer_run(name, seen, names, skip) for name, seen in ran.items())


def _layer_run(name: str, seen: list[Mapping[str, Any]], names: OnnxNames, skip: int) -> LayerRun:
    args = seen[0]["args"]
    op = str(args["op_name"])
    node = _node_of(name, op, names)
    was_added = node is None or (op in REFORMAT_OPS and node.op != op)
    origin = None
    if op in QDQ_OPS:
        origin = "qdq"
    elif op in REFORMAT_OPS and was_added:
        origin = "reformat"
    took, made = _tensors(args["input_type_shape"]), _tensors(args["output_type_shape"])
    microseconds = [float(event["dur"]) for event in seen]
    return LayerRun(
        name=name,
        op=op,
        precision=took[0] if took else "?",  # the first input decides which kernel runs
        ms=statistics.median(microseconds[skip:] or microseconds[:1]) / 1000,
        onnx=() if was_added or node is None else (node.name,),
        origin=origin,
        inputs=tuple(Port("", kind) for kind in took[:1]),
        outputs=tuple(Port("", kind) for kind in made[:1]),
    )


def _node_of(name: str, op: str, names: OnnxNames) -> NodeName | None:
    """The node of the file that a kernel runs, or the weighted one of those that it fuses."""
    # ONNX Runtime puts Casts around FP16 operations on a CPU.
    source = MADE_BY_FUSION.sub("", name.removeprefix("InsertedPrecisionFreeCast_"))
    is_weighted = any(kind in op for kind in ("Conv", "Gemm", "MatMul"))
    return names.weighted_at_or_before(source) if is_weighted else names.find(source)


def _tensors(shapes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Precisions of what is no scalar: QLinearConcat, for one, takes its scales before its
    tensors."""
    return [PRECISION.get(kind, kind) for item in shapes for kind, shape in item.items() if shape]
