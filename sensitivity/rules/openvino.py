"""SQ6: what OpenVINO computes differently."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.sign import non_negative
from sensitivity.onnx_graph.walk import name_of, producer
from sensitivity.rules.base import Hit, Subject, rule
from sensitivity.rules.examples import CANONICAL, FP8_CONV, POINTWISE, WEIGHT, Example, conv
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.paths import (
    QDQ,
    activations_in,
    attribute,
    fp8_activations,
    grid_type,
    pair_before,
)

HALVES = "float[1,8,8,8] x, float[1,8,8,8] x2"
CONCAT = "[concat] c = Concat <axis = 1> (x, x2)\n"
PASSED = QDQ | {
    "Identity",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Relu",
    "Mul",
    "Add",
}
"""Operations that were each tried after the Concat, with wrong values. Values are right with
Transpose, Split, a pooling or another activation there, with a grouped convolution, a
ConvTranspose, MatMul or Gemm after it, and with a float weight."""


@rule(
    "SQ601",
    "concat-int8",
    "error",
    ("openvino",),
    why="OpenVINO returns wrong values, without any message, where a convolution reads a Concat in "
    "INT8 that is quantized either after the Concat or before it: errors of 5 to 150 % of "
    "the largest output in graphs of a few nodes. With uint8 and zero point 128, which is the same "
    "grid, it is exact.",
    fix="Shift activations to uint8 with zero point 128 ('sensitivity export --for openvino'; of a "
    "Q/DQ file, 'sensitivity run' and 'sensitivity export' write a copy with them, "
    "model.*.openvino.onnx).",
    source="measured against ONNX Runtime on a CPU with VNNI: OpenVINO 2024.6, 2025.4.1 and "
    "2026.4.1 (all the graphs above on 2026.4.1)",
    bad=Example(CONCAT + pair("c") + WEIGHT + conv("cd"), inputs=HALVES),
    good=Example(CONCAT + pair("c", zero="u128") + WEIGHT + conv("cd"), inputs=HALVES),
)
def concat_int8(subject: Subject) -> Iterator[Hit]:
    """Find quantized convolutions that read a Concat through an int8 grid."""
    for node in subject.nodes:
        if node.op_type != "Conv" or pair_before(qdq.weight(node)) is None:
            continue
        is_grouped = attribute(node, "group", 1) > 1
        path = list(_back_to_concat(qdq.activation(node)))
        if is_grouped or not path or path[-1].op_type != "Concat":
            continue
        if any(grid_type(quantize) == "int8" for quantize in _quantizers_of(path)):
            yield (
                name_of(node),
                f"expected uint8 between {name_of(path[-1])} and this Conv, got int8",
            )


def _quantizers_of(path: list[ir.Node]) -> list[ir.Node]:
    """Return the quantizers of the values that a Concat joins: after it, or before all its
    inputs.

    path: nodes from a convolution back to the Concat.
    """
    behind = [step for step in path if step.op_type == "QuantizeLinear"]
    if behind:
        return behind
    concat = path[-1]
    pairs = [pair for pair in map(qdq.pair_of, concat.inputs) if pair is not None]
    in_front = [pair.quantize for pair in pairs if pair.quantize is not None]
    return in_front if len(in_front) == len(concat.inputs) else []


def _back_to_concat(value: ir.Value | None) -> Iterator[ir.Node]:
    """Yield the nodes before a convolution, up to the first Concat or the first node that
    avoids the error."""
    node = producer(value)
    while node is not None:
        yield node
        if node.op_type not in PASSED:
            return
        read = qdq.variable_inputs(node)
        node = read[0].producer() if read else None


SIXTEEN = ("int16", "uint16")
MEASURED = (
    "measured against ONNX Runtime with OpenVINO 2026.4.1 on a CPU, after a Conv and "
    "before 13 operations"
)


def _sixteen(zero: str, between: str = "") -> Example:
    """Return two convolutions with a 16-bit pair between them."""
    name = "r" if between else "c"
    return Example(
        conv("x", "w", to="c", name="first")
        + between
        + pair(name, "s16", zero)
        + conv(f"{name}d", "w"),
        opset=21,
        constants={
            "s16": np.array(1e-3, np.float32),
            "h0": np.array(0, np.uint16),
            "h32768": np.array(32768, np.uint16),
        },
    )


@rule(
    "SQ602",
    "clamp-of-16-bits",
    "error",
    ("openvino",),
    why="OpenVINO's CPU plug-in removes pairs of 16 bits. If the zero point is an end of the type, "
    "the pair also acted as the ReLU: quantizers remove a ReLU before such a pair, since the "
    "pair itself cuts at 0. What runs is then the network without its ReLUs (a digits net: 82.4 "
    "instead of 94.3 %).",
    fix="Quantize to 8 bits, or keep the ReLU in the graph (quantize_static: "
    "extra_options={'QDQKeepRemovableActivations': True}).",
    source=MEASURED + ": wrong in all of them with 16 bits, right in all of them with uint8",
    bad=_sixteen("h0"),
    good=_sixteen("h0", "r = Relu (c)\n"),
)
def clamp_of_16_bits(subject: Subject) -> Iterator[Hit]:
    """Find 16-bit pairs whose grid cuts off values that may occur in the graph."""
    for wide_pair in activations_in(subject, SIXTEEN):
        zero = wide_pair.zero_point
        if zero is None:
            continue
        grid = np.iinfo(zero.dtype)
        cuts_above = np.any(zero == grid.max)
        cuts_below = np.any(zero == grid.min) and not non_negative(wide_pair.source)
        if cuts_above or cuts_below:
            yield (
                wide_pair.name,
                f"expected a Relu or 8 bits where the pair cuts at 0, got {zero.dtype.name} "
                "without one",
            )


@rule(
    "SQ603",
    "sixteen-bits-removed",
    "warning",
    ("openvino",),
    why="OpenVINO's CPU plug-in removes pairs of 16 bits: the operations after them are computed "
    "in float, no faster than before, and values beyond the calibrated range are no longer cut.",
    fix="Quantize activations to 8 bits, or leave them unquantized; measure accuracy in OpenVINO "
    "itself.",
    source=MEASURED,
    bad=_sixteen("h32768"),
    good=Example(pair("x", zero="u128") + WEIGHT + conv()),
)
def sixteen_bits_removed(subject: Subject) -> Iterator[Hit]:
    """Find the first 16-bit pair on an activation, and count them."""
    wide_pairs = activations_in(subject, SIXTEEN)
    if wide_pairs:
        yield (
            wide_pairs[0].name,
            f"expected activations of 8 bits, got {len(wide_pairs)} pairs of 16",
        )


@rule(
    "SQ604",
    "fp8-in-float",
    "warning",
    ("openvino",),
    why="OpenVINO's CPU plug-in rounds values to FP8 and back one by one, and computes in float: "
    "slower than float, and with its errors.",
    fix="Quantize to INT8, or leave the layer unquantized.",
    source="measured: OpenVINO 2026.4.1 CPU, precisions of the compiled model",
    bad=FP8_CONV,
    good=CANONICAL,
)
def fp8_in_float(subject: Subject) -> Iterator[Hit]:
    """Find the first FP8 pair on an activation, and count them."""
    yield from fp8_activations(subject)


FOUR = {"int4", "uint4"}
IN_FOUR = Example(
    pair("x", zero="u128") + pair("v", "s", "z4", to="wd") + conv(rest=POINTWISE),
    opset=21,
    constants={"z4": np.array(0, ml_dtypes.int4)},
)


@rule(
    "SQ605",
    "float-filters-in-4-bits",
    "error",
    ("openvino",),
    why="OpenVINO does not compile a 1x1 Conv whose float filters pass a pair of 4 bits if its "
    "input passes a pair of int8, uint8 or int4 ('Cannot create ov::Output<ov::Node> from "
    "nullptr'). With larger filters, or filters stored as 4-bit integers, it compiles, "
    "and so do MatMul and Gemm.",
    fix="Store the filters' integers in front of their DequantizeLinear.",
    source="measured: OpenVINO 2026.4.1 CPU, "
    "findings/openvino_refuses_4_bit_filters_behind_a_pair.sh",
    bad=IN_FOUR,
    good=Example(
        pair("x", zero="u128") + "wd = DequantizeLinear (v4, s, z4)\n" + conv(rest=POINTWISE),
        opset=21,
        constants={**IN_FOUR.constants, "v4": np.ones((16, 16, 1, 1), ml_dtypes.int4)},
    ),
)
def float_filters_in_4_bits(subject: Subject) -> Iterator[Hit]:
    """Find 1x1 convolutions of a quantized input with float filters behind a 4-bit pair."""
    for node in subject.nodes:
        if node.op_type != "Conv":
            continue
        weight, activation = qdq.pair_of(node.inputs[1]), qdq.pair_of(node.inputs[0])
        if weight is None or activation is None:
            continue
        kind = grid_type(weight.dequantize)
        if weight.quantize is None or kind not in FOUR or not _is_pointwise(weight.source):
            continue
        if grid_type(activation.dequantize) in {"int8", "uint8", "int4"}:
            yield name_of(node), f"expected filters stored as {kind}, got float ones behind a pair"


def _is_pointwise(filters: ir.Value | None) -> bool:
    """Return whether a constant holds filters of 1x1."""
    array = qdq.constant(filters)
    return array is not None and set(array.shape[2:]) == {1}
