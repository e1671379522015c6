"""SQ7: what keeps ONNX Runtime's CPU kernels from INT8 speed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.rules.base import Hit, Subject, rule
from sensitivity.rules.examples import WEIGHT, Example, conv
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.paths import grid_type, name_of, pair_before

ORT = ("onnxruntime",)
MEASURED = "measured: ONNX Runtime CPU, 2 threads with VNNI"
S8 = Example(pair("x") + WEIGHT + conv(to="c") + pair("c", to="y"))
U8 = Example(pair("x", zero="u128") + WEIGHT + conv(to="c") + pair("c", zero="u128", to="y"))


def _relu(zero: str) -> Example:
    return Example(pair("x", zero=zero) + WEIGHT + conv(to="c") + "r = Relu (c)\n" + pair("r", zero=zero, to="y"))


@rule(
    "SQ701",
    "signed-activations",
    "warning",
    ORT,
    why="On x64 ONNX Runtime's fast kernels take uint8 activations with int8 weights; int8 activations run in "
    "slow ones.",
    fix="Shift activations to uint8 ('sensitivity export --for onnxruntime'): with 128 more in the zero point it is "
    "the same grid.",
    source="ONNX Runtime docs, Quantize ONNX Models > Method selection (U8S8 on x86-64); " + MEASURED,
    bad=S8,
    good=U8,
)
def signed_activations(subject: Subject) -> Iterator[Hit]:
    signed = [
        pair for pair in subject.pairs if pair.quantize and not pair.of_weight and grid_type(pair.quantize) == "int8"
    ]
    if signed:
        yield signed[0].name, f"expected uint8 activations, got int8 in {len(signed)} Q/DQ pairs"


@rule(
    "SQ702",
    "output-not-quantized",
    "warning",
    ORT,
    why="ONNX Runtime fuses DQ -> Conv -> Q into one INT8 kernel and needs all three; without the Q behind it a "
    "convolution dequantizes its inputs and runs in float (0.7 of float speed on a ResNet-18, with it 2.8 to "
    "3.1).",
    fix="Add a Q/DQ pair behind the operation, or its ReLU ('sensitivity export --for onnxruntime').",
    source=MEASURED + ", ResNet-18",
    bad=Example(pair("x", zero="u128") + WEIGHT + conv()),
    good=U8,
)
def output_not_quantized(subject: Subject) -> Iterator[Hit]:
    for node in _quantized_convs(subject):
        if not any(user.op_type == "QuantizeLinear" for user in _behind(node)):
            yield name_of(node), f"expected a Q/DQ pair behind this {node.op_type}, got none"


@rule(
    "SQ703",
    "relu-not-absorbed",
    "warning",
    ORT,
    why="A ReLU between a convolution and its Q is absorbed only if the Q's zero point is the smallest value of "
    "its type (then Q cuts off below zero by itself); otherwise it stays and the convolution runs in float.",
    fix="Quantize outputs of ReLU to uint8 with zero point 0.",
    source="ONNX Runtime, optimizer/qdq_transformer/relu_quantizelinear.cc",
    bad=_relu("u128"),
    good=_relu("u"),
)
def relu_not_absorbed(subject: Subject) -> Iterator[Hit]:
    for node in _quantized_convs(subject):
        for relu in (user for user in node.outputs[0].consumers() if user.op_type == "Relu"):
            for user in relu.outputs[0].consumers():
                if user.op_type == "QuantizeLinear" and not _cuts_below_zero(user):
                    yield (
                        name_of(user),
                        f"expected the smallest {grid_type(user) or 'uint8'} as zero point behind Relu",
                    )


def _quantized_convs(subject: Subject) -> Iterator[ir.Node]:
    """Convolutions with both inputs quantized. Gemm and MatMul run in INT8 without a Q behind them too."""
    for node in subject.nodes:
        if node.op_type == "Conv" and pair_before(qdq.weight(node)) and pair_before(qdq.activation(node)):
            yield node


def _behind(node: ir.Node) -> Iterator[ir.Node]:
    """Users of a node's output; those of its ReLU or Clip where that is the only one."""
    users = list(node.outputs[0].consumers())
    if len(users) == 1 and users[0].op_type in {"Relu", "Clip"}:
        users = list(users[0].outputs[0].consumers())
    yield from users


def _cuts_below_zero(quantize: ir.Node) -> bool:
    zero = qdq.constant(qdq.zero_point_value(quantize))
    return zero is None or bool(np.all(zero == np.iinfo(zero.dtype).min))
