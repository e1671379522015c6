"""SQ1: zero points."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import name_of
from sensitivity.rules.base import Hit, Seen, Subject, rule
from sensitivity.rules.examples import CANONICAL, WEIGHT, Example, conv
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.paths import attribute, grid_type, same_grid, steps
from sensitivity.rules.targets import RTX, TARGETS, TENSORRT

PARSER = (
    "onnx-tensorrt, QuantDequantLinearHelper (8.6-GA builtin_op_importers.cpp, 10.1-GA "
    "onnxOpImporters.cpp)"
)
TYPES = {
    "tensorrt-8.6": ("int8",),
    "tensorrt-10": ("int8", "float8_e4m3fn", "int4"),
    "tensorrt-11": ("int8", "float8_e4m3fn", "int4", "float4_e2m1fn"),
    RTX: ("int8", "float8_e4m3fn", "int4", "float4_e2m1fn"),
}


@rule(
    "SQ101",
    "zero-point-missing",
    "error",
    (*TENSORRT, RTX),
    why="If a Q has no zero point, ONNX takes uint8, TensorRT 10 and later take int8, and TensorRT "
    "8.6 fails: the same file means different things. From TensorRT 10 on, a DQ of a stored weight "
    "needs none, since it has the type of the weight.",
    fix="Write a zero point of type int8 and value 0 into every Q and DQ.",
    source=PARSER,
    bad=Example("xq = QuantizeLinear (x, s)\nxd = DequantizeLinear (xq, s)\n" + WEIGHT + conv()),
    good=CANONICAL,
    rtx=Seen("takes it, as int8"),
)
def zero_point_missing(subject: Subject) -> Iterator[Hit]:
    """Find Qs and DQs whose type the target cannot infer from a zero point or anything else."""
    for node in steps(subject.nodes):
        has_type_of_weight = _stored(node) and subject.target != "tensorrt-8.6"
        is_typed = has_type_of_weight or "output_dtype" in node.attributes
        if qdq.zero_point_value(node) is None and not is_typed:
            yield name_of(node), "expected a zero point, got none"


def _stored(node: ir.Node) -> bool:
    """Return whether the integers that a DQ reads are stored in the file, with a type of their
    own."""
    return node.op_type == "DequantizeLinear" and qdq.constant(node.inputs[0]) is not None


@rule(
    "SQ102",
    "zero-point-not-zero",
    "error",
    (*TENSORRT, RTX),
    why="TensorRT computes with symmetric grids only and refuses any other zero point.",
    fix="Quantize symmetrically: int8 with zero point 0 (quantize_static: "
    "extra_options={'ActivationSymmetric': True, 'WeightSymmetric': True}).",
    source=PARSER,
    bad=Example(pair("x", zero="z3") + WEIGHT + conv(), constants={"z3": np.array(3, np.int8)}),
    good=CANONICAL,
    rtx=Seen("refuses it"),
)
def zero_point_not_zero(subject: Subject) -> Iterator[Hit]:
    """Find Qs and DQs with a zero point other than 0."""
    for node in steps(subject.nodes):
        zero = qdq.constant(qdq.zero_point_value(node))
        if zero is not None and np.any(zero.astype(np.float32) != 0):
            worst = zero.astype(np.float32).ravel()[np.flatnonzero(zero)[0]]
            yield name_of(node), f"expected a zero point of 0, got {worst:g}"


@rule(
    "SQ103",
    "zero-point-size",
    "error",
    TARGETS,
    why="Each zero point belongs to a scale, so there must be as many of one as of the other.",
    fix="Write one zero point for each scale.",
    source=PARSER + "; ONNX operator QuantizeLinear",
    bad=Example(pair("x") + pair("w", "ws", "z", axis=0) + conv()),
    good=CANONICAL,
    rtx=Seen("refuses it"),
)
def zero_point_size(subject: Subject) -> Iterator[Hit]:
    """Find Qs and DQs with more or fewer zero points than scales."""
    for node in steps(subject.nodes):
        zero, scale = qdq.constant(qdq.zero_point_value(node)), qdq.constant(node.inputs[1])
        if zero is not None and scale is not None and zero.size != scale.size:
            yield (
                name_of(node),
                f"expected as many zero points as scales, got {zero.size} and {scale.size}",
            )


@rule(
    "SQ104",
    "grid-type",
    "error",
    (*TENSORRT, RTX),
    why="TensorRT has only signed 8-bit grids (from 10 on also FP8 and INT4). It refuses uint8 and "
    "16 bits, or reads them as int8.",
    fix="Quantize to int8 (quantize_static: activation_type=QuantType.QInt8, "
    "weight_type=QuantType.QInt8).",
    source=PARSER,
    bad=Example(pair("x", zero="u") + WEIGHT + conv()),
    good=CANONICAL,
    rtx=Seen(
        "takes uint8 with zero point 0 for int8, and refuses 16 bits and, without a zero point, "
        "output_dtype uint8"
    ),
)
def grid_type_of_target(subject: Subject) -> Iterator[Hit]:
    """Find Qs and DQs with a type for which the target has no grid."""
    allowed = TYPES[subject.target]
    # An int32 bias has a rule of its own.
    passed = {None, "int32", *allowed}
    for node in steps(subject.nodes):
        kind = grid_type(node)
        if kind is None and subject.target == RTX:
            kind = _output_type(node)
        if kind not in passed:
            yield name_of(node), f"expected {' or '.join(allowed)} for {subject.target}, got {kind}"


def _output_type(node: ir.Node) -> str | None:
    """Return the type in output_dtype of a Q without zero point (opset 21); None if there is
    none."""
    number = attribute(node, "output_dtype", 0)
    return ir.DataType(number).name.lower().replace("float8e", "float8_e") if number else None


@rule(
    "SQ105",
    "pair-disagrees",
    "error",
    TARGETS,
    why="Q and DQ of one pair must have the same scale, zero point and axis: otherwise the pair "
    "multiplies every value.",
    fix="Give both nodes the same scale, zero point and axis.",
    source="ONNX operators QuantizeLinear and DequantizeLinear",
    bad=Example(
        "xq = QuantizeLinear (x, s, z)\nxd = DequantizeLinear (xq, s2, z)\n" + WEIGHT + conv(),
        constants={"s2": np.array(0.5, np.float32)},
    ),
    good=CANONICAL,
    rtx=Seen("takes it and says nothing"),
)
def pair_disagrees(subject: Subject) -> Iterator[Hit]:
    """Find pairs whose Q and DQ have different grids."""
    for qdq_pair in subject.pairs:
        if qdq_pair.quantize is not None and not same_grid(qdq_pair.quantize, qdq_pair.dequantize):
            yield (
                name_of(qdq_pair.dequantize),
                (
                    f"expected the scale, zero point and axis of {name_of(qdq_pair.quantize)}, got "
                    "another"
                ),
            )
