"""What each runtime needs in INT8, as options of ONNX Runtime's quantizer."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from sensitivity.config import QuantizeFor

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

KNOWN = frozenset((*QLinearOpsRegistry, *QDQRegistry))
"""Types of operations that ONNX Runtime's quantizer has in INT8."""

RUNTIMES: Mapping[str, QuantizeFor] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt",
    "trtexec": "tensorrt",
}
"""Runtime in which latency is measured -> the runtime whose rules its files follow."""


@dataclass(frozen=True)
class Rules:
    """How files for one runtime are quantized. Weights are always signed and symmetric, with a
    range per output channel.

    signed: whether activations are signed and symmetric; otherwise they are unsigned and
        asymmetric.
    operations: types of operations that are quantized; empty for all that the quantizer knows.
    options: `extra_options` of the quantizer.
    """

    signed: bool
    operations: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def in_words(self) -> str:
        """What is quantized and how, for messages."""
        grid = "signed symmetric" if self.signed else "unsigned asymmetric"
        what = ", ".join(self.operations) or "every operation that ONNX Runtime has in INT8"
        return f"{what}; {grid} activations per tensor, weights per channel"


RULES: Mapping[QuantizeFor, Rules] = {
    # TensorRT takes no zero points and no INT32 biases, and fuses what follows a weighted
    # operation, so that a pair on its output would only cost accuracy.
    "tensorrt": Rules(
        signed=True,
        operations=WEIGHTED,
        options={
            "ActivationSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(WEIGHTED),
        },
    ),
    # ONNX Runtime's integer kernels need pairs on both sides of an operation.
    "onnxruntime": Rules(signed=False),
    # OpenVINO passes integers on by itself, and pairs on outputs would cost accuracy.
    "openvino": Rules(
        signed=False,
        operations=WEIGHTED,
        options={"OpTypesToExcludeOutputQuantization": list(WEIGHTED)},
    ),
}


def kept_float(graph: onnx.GraphProto, rules: Rules) -> list[str]:
    """Return the names of operations that stay float although their type is quantized.

    If all types are quantized, these are the operations after the last weighted one. They turn
    values into boxes or probabilities, whose parts differ in size and would share one grid, and
    they take little time. So do operations of one number, such as the parts of a hard swish, and
    those without weights that do not stand between integers: their pairs would only cost accuracy.
    Otherwise they are grouped transposed convolutions, which TensorRT does not take quantized, and
    products of two activations, which stay float in attention.
    """
    if not rules.operations:
        return list(dict.fromkeys([*_behind_weighted(graph), *_between_floats(graph)]))
    constants = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if _is_kept(node, constants)]


def _behind_weighted(graph: onnx.GraphProto) -> list[str]:
    """Return the operations whose results reach no weighted one."""
    reaching: set[str] = set()
    behind = []
    for node in reversed(graph.node):
        if node.op_type in WEIGHTED or reaching.intersection(node.output):
            reaching.update(node.input)
        else:
            behind.append(node.name)
    return behind


def _between_floats(graph: onnx.GraphProto) -> list[str]:
    """Return the operations without weights that integers do not reach, or whose results no integer
    operation reads.

    Operations of one number are float, and what stands between two of them is float too.
    """
    scalars = {tensor.name for tensor in graph.initializer if math.prod(tensor.dims) == 1}
    free = [node for node in graph.node if node.op_type not in WEIGHTED]
    floats = {node.name for node in free if _is_float(node, scalars)}
    while True:
        before, after = _integers(graph, floats)
        more = {node.name for node in free if not _stands_between(node, before, after)} - floats
        if not more:
            return sorted(floats)
        floats |= more


def _is_float(node: onnx.NodeProto, scalars: set[str]) -> bool:
    """Return whether the quantizer has no integers for this operation, or it takes one number."""
    is_of_one_number = node.op_type in ("Add", "Mul") and not scalars.isdisjoint(node.input)
    return is_of_one_number or node.op_type not in KNOWN


def _integers(graph: onnx.GraphProto, floats: Collection[str]) -> tuple[set[str], set[str]]:
    """Return the values that integer operations give, inputs among them, and those that they
    read."""
    given, read = {value.name for value in graph.input}, set[str]()
    for node in graph.node:
        if node.name not in floats:
            given.update(node.output)
            read.update(node.input)
    return given, read


def _stands_between(node: onnx.NodeProto, given: set[str], read: set[str]) -> bool:
    return not given.isdisjoint(node.input) and not read.isdisjoint(node.output)


def _is_kept(node: onnx.NodeProto, constants: Collection[str]) -> bool:
    """Return whether this is a grouped transposed convolution, or a product of two activations."""
    if node.op_type == "ConvTranspose":
        numbers: dict[str, int] = {attribute.name: attribute.i for attribute in node.attribute}
        return numbers.get("group", 1) > 1
    is_product = node.op_type in ("Gemm", "MatMul")
    return is_product and node.input[1] not in constants
