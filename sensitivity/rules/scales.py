"""SQ2: scales, their values and types. Those along axes and in blocks are in `axes`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import made_by, name_of, source
from sensitivity.rules.base import Hit, Seen, Subject, rule
from sensitivity.rules.examples import CANONICAL, WEIGHT, Array, Example, conv
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.paths import MOVES_VALUES, steps
from sensitivity.rules.targets import RTX, TARGETS, TENSORRT
from sensitivity.rules.zero_points import PARSER

FP16_NORMAL = 2.0**-14
"""About 6.1e-5. Below it, FP16 loses one bit with each halving."""
FP16_ZERO = 2.0**-25
"""About 3.0e-8. This and anything smaller rounds to zero in FP16."""

HALF = Example(
    pair("x") + "wd = DequantizeLinear <axis = 0> (i8, ws, wz)\n" + conv(),
    inputs="float16[1,16,8,8] x",
    outputs="float16[1,16,8,8] y",
    opset=19,
    constants={
        "s": np.array(0.05, np.float16),
        "ws": np.full(16, 0.01, np.float16),
        "i8": np.ones((16, 16, 3, 3), np.int8),
    },
)

SCALE_TYPES = {
    "tensorrt-8.6": {"float32"},
    "tensorrt-10": {"float32", "float16", "bfloat16"},
    "tensorrt-11": {"float32", "float16", "bfloat16"},
    "tensorrt-rtx": {"float32", "float16", "bfloat16"},
    "openvino": {"float32", "float16"},
    "onnxruntime": {"float32", "float16"},
    "qnn": {"float32", "float16"},
}


def _stored(scales: str) -> Example:
    """Return a convolution with a weight stored in INT8."""
    return Example(
        pair("x") + f"wd = DequantizeLinear <axis = 0> (i8, {scales}, wz)\n" + conv(),
        constants={"i8": np.ones((16, 16, 3, 3), np.int8), "ns": np.full(16, -0.01, np.float32)},
    )


def _of_weight(node: ir.Node) -> bool:
    return node.inputs[0] is not None and qdq.rooted_at_constant(node.inputs[0])


def constant_scales(subject: Subject) -> Iterator[tuple[ir.Node, Array]]:
    """Yield each Q and DQ whose scale is stored in the file, with that scale."""
    for node in steps(subject.nodes):
        scale = qdq.constant(node.inputs[1])
        if scale is not None:
            yield node, scale


@rule(
    "SQ201",
    "scale-not-positive",
    "error",
    TARGETS,
    why="A scale that is NaN, infinite, zero or negative comes from a quantizer that saw no data, "
    "or only zeros; every value after it is lost. Scales of stored weights may be negative in "
    "some runtimes: SQ210.",
    fix="Calibrate that quantizer again on data that reaches it, or leave its layer out.",
    source=PARSER + ": 'Scale coefficients must all be positive'",
    bad=Example(CANONICAL.body, constants={"s": np.array(np.nan, np.float32)}),
    good=CANONICAL,
    rtx=Seen("refuses it"),
)
def scale_not_positive(subject: Subject) -> Iterator[Hit]:
    """Find scales that are not finite or zero, and negative scales of activations."""
    for node, scale in constant_scales(subject):
        values = scale.astype(np.float64).ravel()
        # Negative scales of weights are left to SQ210: 4-bit quantizers of ONNX Runtime write such
        # blocks.
        right = values != 0 if _of_weight(node) else values > 0
        wrong = values[~(np.isfinite(values) & right)]
        if wrong.size:
            yield (
                name_of(node),
                (
                    f"expected every scale to be finite and above 0, got {wrong[0]:g} "
                    f"({wrong.size} of {values.size})"
                ),
            )


@rule(
    "SQ202",
    "scale-type",
    "error",
    TARGETS,
    why="TensorRT 8.6 reads the bytes of a scale as FP32, whatever its type. Later versions read "
    "FP32, FP16 and BF16, and the other runtimes FP32 and FP16.",
    fix="Write scales as FP32, or for TensorRT 10 and 11 as FP16 where the graph is FP16.",
    source=PARSER,
    bad=Example(CANONICAL.body, constants={"s": np.array(0.05, np.float64)}),
    good=CANONICAL,
    rtx=Seen("takes a float64 scale and computes in INT8", "info"),
)
def scale_type(subject: Subject) -> Iterator[Hit]:
    """Find scales of a type that the target does not read."""
    allowed = SCALE_TYPES[subject.target]
    for node, scale in constant_scales(subject):
        if scale.dtype.name not in allowed:
            wanted = " or ".join(sorted(allowed))
            yield (
                name_of(node),
                f"expected a scale of type {wanted} for {subject.target}, got {scale.dtype.name}",
            )


@rule(
    "SQ203",
    "scale-not-in-fp16",
    "info",
    ("tensorrt-10", "tensorrt-11", RTX),
    why="As FP32 this scale is correct, and the operation that it feeds computes in FP32. In FP16 "
    "it would become zero (at 3e-8 and below) and lead to infinities, so this operation cannot run "
    "in FP16. Such scales come from channels that are almost dead after BatchNorm was folded into "
    "a convolution.",
    fix="Keep these scales, and the operations that they feed, in FP32 when the rest is converted "
    "to FP16 ('sensitivity export --for tensorrt' does). A channel that small may also be pruned.",
    source="IEEE 754 binary16; ModelOpt 0.47 onnx/autocast keeps such layers in FP32",
    bad=Example(CANONICAL.body, constants={"ws": np.full(16, 1e-9, np.float32)}),
    good=CANONICAL,
)
def scale_not_in_fp16(subject: Subject) -> Iterator[Hit]:
    """Find FP32 scales that FP16 would round to 0."""
    yield from _below(subject, np.dtype(np.float32), FP16_ZERO)


def _below(subject: Subject, kind: np.dtype[np.generic], limit: float) -> Iterator[Hit]:
    for node, scale in constant_scales(subject):
        values = scale.astype(np.float64).ravel()
        small = values[(values > 0) & (values < limit)]
        if scale.dtype == kind and small.size:
            got = f"{small.min():.2g} ({small.size} of {values.size})"
            yield (
                name_of(node),
                f"expected scales of {limit:.2g} or more for FP16, got {got} in {kind.name}",
            )


@rule(
    "SQ204",
    "scale-not-constant",
    "error",
    (*TENSORRT, RTX),
    why="TensorRT needs every scale when it builds the engine; it cannot use one that is computed "
    "at run time.",
    fix="Use static quantization, whose scales are constants in the file.",
    source="NVIDIA TensorRT documentation, IQuantizeLayer: the scale must be a build-time constant",
    bad=Example("sx = ReduceMax <keepdims = 0> (x)\n" + pair("x", "sx") + WEIGHT + conv()),
    good=CANONICAL,
    rtx=Seen("does not build it"),
)
def scale_not_constant(subject: Subject) -> Iterator[Hit]:
    """Find scales that the graph computes at run time."""
    for node in steps(subject.nodes):
        value = node.inputs[1]
        if value is not None and not qdq.rooted_at_constant(value):
            yield name_of(node), f"expected a constant scale, got the computed value {value.name}"


@rule(
    "SQ209",
    "scale-rounded-in-fp16",
    "warning",
    ("tensorrt-10", "tensorrt-11", RTX),
    why="FP16 has full precision only down to 6.1e-5: this scale has already lost digits, and "
    "every value of its channel is off by the same factor.",
    fix="Write these scales as FP32, and let the operations that they feed compute in FP32.",
    source="IEEE 754 binary16; ModelOpt 0.47 onnx/autocast keeps such layers in FP32",
    bad=Example(
        HALF.body,
        HALF.inputs,
        HALF.outputs,
        19,
        {**HALF.constants, "ws": np.full(16, 1e-6, np.float16)},
    ),
    good=HALF,
)
def scale_rounded_in_fp16(subject: Subject) -> Iterator[Hit]:
    """Find FP16 scales that are too small for full precision."""
    yield from _below(subject, np.dtype(np.float16), FP16_NORMAL)


@rule(
    "SQ210",
    "negative-weight-scale",
    "error",
    (*TENSORRT, RTX),
    why="TensorRT refuses a negative scale. ONNX allows it, and ONNX Runtime and OpenVINO compute "
    "such stored weights correctly: 4-bit quantizers write negative scales to give the largest "
    "entry the level -8, which has no positive counterpart.",
    fix="Quantize these weights again symmetrically, to levels from -7 to 7. In a block without "
    "the level -8, the signs of the scale and of the levels may be changed instead.",
    source=PARSER
    + ": 'Scale coefficients must all be positive'; measured with ONNX Runtime 1.31 and OpenVINO "
    "2026.4.1: "
    "right, with INT4 blocks and with INT8 channels",
    bad=_stored("ns"),
    good=_stored("ws"),
    rtx=Seen("refuses it"),
)
def negative_weight_scale(subject: Subject) -> Iterator[Hit]:
    """Find stored weights with a negative scale."""
    for node, scale in constant_scales(subject):
        values = scale.astype(np.float64).ravel()
        negative = values[values < 0]
        if negative.size and _of_weight(node):
            got = f"{negative[0]:g} ({negative.size} of {values.size})"
            yield (
                name_of(node),
                f"expected every scale to be above 0 for {subject.target}, got {got}",
            )


SAME_TYPES = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"} | {"Add", "Sub", "Mul", "Div"})
"""Operations whose inputs must all have the same type."""
FLOAT_TYPES = {"FLOAT", "FLOAT16", "BFLOAT16"}


@rule(
    "SQ213",
    "scale-types-mixed",
    "error",
    (RTX,),
    why="A DequantizeLinear gives values of the type of its scale, and the inputs of an operation "
    "must have one type, so an FP16 scale in an FP32 graph is not valid. TensorRT 8.6 reads only "
    "FP32 scales, which SQ202 checks; 10 and 11 take both types and document no such check.",
    fix="Write the scale in the type of the other inputs, or a Cast after the DequantizeLinear.",
    source="ONNX operator DequantizeLinear (19); measured with TensorRT-RTX 1.7.1.116",
    bad=Example(
        pair("x", "s16") + WEIGHT + conv(),
        opset=19,
        constants={"s16": np.array(0.05, np.float16)},
    ),
    good=HALF,
    rtx=Seen("refuses the operation after it"),
)
def scale_types_mixed(subject: Subject) -> Iterator[Hit]:
    """Find operations whose inputs would have two float types, one of them because of a scale."""
    for node in subject.nodes:
        if node.op_type not in SAME_TYPES:
            continue
        types = FLOAT_TYPES.intersection(filter(None, map(_float_type, node.inputs)))
        if len(types) > 1 and any(map(_by_scale, node.inputs)):
            yield name_of(node), f"expected inputs of one type, got {' and '.join(sorted(types))}"


def _float_type(value: ir.Value | None) -> str | None:
    """Return the type of a value; after a DQ, possibly moved, that of its scale. None if
    unknown."""
    node = _by_scale(value)
    if node is None:
        return None if value is None or value.dtype is None else value.dtype.name
    scale = qdq.constant(node.inputs[1])
    if scale is None:
        return None
    return {"float16": "FLOAT16", "bfloat16": "BFLOAT16"}.get(scale.dtype.name, "FLOAT")


def _by_scale(value: ir.Value | None) -> ir.Node | None:
    """Return the DQ that gives this value its type, possibly through nodes that only move
    values."""
    if value is None:
        return None
    moved = source(value, lambda node: node.op_type in MOVES_VALUES - {"Cast"})
    return made_by(moved, "DequantizeLinear")
