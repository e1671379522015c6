"""SQ2: scales and their axes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.rules.base import Hit, Subject, rule
from sensitivity.rules.examples import CANONICAL, WEIGHT, Array, Example, conv, weights
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.paths import name_of, steps
from sensitivity.rules.targets import TARGETS, TENSORRT
from sensitivity.rules.zero_points import PARSER

FP16_NORMAL = 2.0**-14
"""About 6.1e-5; below it FP16 loses one bit for each halving."""
FP16_ZERO = 2.0**-25
"""About 3.0e-8; this and anything smaller rounds to zero in FP16."""

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
    "openvino": {"float32", "float16"},
    "onnxruntime": {"float32", "float16"},
}


def _scales(subject: Subject) -> Iterator[tuple[ir.Node, Array]]:
    for node in steps(subject.nodes):
        scale = qdq.constant(node.inputs[1])
        if scale is not None:
            yield node, scale


@rule(
    "SQ201",
    "scale-not-positive",
    "error",
    TARGETS,
    why="A scale of NaN, infinity, zero or below comes from a quantizer that saw no data, or only zeros; every "
    "value behind it is lost.",
    fix="Calibrate that quantizer again on data that reaches it, or leave it out.",
    source=PARSER + ": 'Scale coefficients must all be positive'",
    bad=Example(CANONICAL.body, constants={"s": np.array(np.nan, np.float32)}),
    good=CANONICAL,
)
def scale_not_positive(subject: Subject) -> Iterator[Hit]:
    for node, scale in _scales(subject):
        values = scale.astype(np.float64).ravel()
        wrong = values[~(np.isfinite(values) & (values > 0))]
        if wrong.size:
            yield (
                name_of(node),
                (f"expected every scale to be finite and above 0, got {wrong[0]:g} ({wrong.size} of {values.size})"),
            )


@rule(
    "SQ202",
    "scale-type",
    "error",
    TARGETS,
    why="TensorRT 8.6 reads the bytes of a scale as FP32 whatever their type; later versions read FP32, FP16 and "
    "BF16, the other runtimes FP32 and FP16.",
    fix="Write scales as FP32, or for TensorRT 10 and 11 as FP16 where the graph is FP16.",
    source=PARSER,
    bad=Example(CANONICAL.body, constants={"s": np.array(0.05, np.float64)}),
    good=CANONICAL,
)
def scale_type(subject: Subject) -> Iterator[Hit]:
    allowed = SCALE_TYPES[subject.target]
    for node, scale in _scales(subject):
        if scale.dtype.name not in allowed:
            wanted = " or ".join(sorted(allowed))
            yield name_of(node), f"expected a scale of type {wanted} for {subject.target}, got {scale.dtype.name}"


@rule(
    "SQ203",
    "scale-not-in-fp16",
    "info",
    ("tensorrt-10", "tensorrt-11"),
    why="As FP32 this scale is right, and the operation that it feeds computes in FP32. In FP16 it would become zero "
    "(from 3e-8 on) and end in infinities, so this operation cannot take part in FP16. Such scales come from channels "
    "that are all but dead, after BatchNorm was folded into a convolution.",
    fix="Leave these scales, and the operations they feed, in FP32 when the rest is converted to FP16 ('sensitivity "
    "export --for tensorrt' does); a channel that small may also be pruned.",
    source="IEEE 754 binary16; ModelOpt 0.47 onnx/autocast keeps such layers in FP32",
    bad=Example(CANONICAL.body, constants={"ws": np.full(16, 1e-9, np.float32)}),
    good=CANONICAL,
)
def scale_not_in_fp16(subject: Subject) -> Iterator[Hit]:
    yield from _below(subject, np.dtype(np.float32), FP16_ZERO)


def _below(subject: Subject, kind: np.dtype[np.generic], limit: float) -> Iterator[Hit]:
    for node, scale in _scales(subject):
        values = scale.astype(np.float64).ravel()
        small = values[(values > 0) & (values < limit)]
        if scale.dtype == kind and small.size:
            got = f"{small.min():.2g} ({small.size} of {values.size})"
            yield name_of(node), f"expected scales of {limit:.2g} or more for FP16, got {got} in {kind.name}"


@rule(
    "SQ204",
    "scale-not-constant",
    "error",
    TENSORRT,
    why="TensorRT needs every scale when it builds the engine; one that is computed at run time cannot be built.",
    fix="Use static quantization, whose scales are constants in the file.",
    source="NVIDIA TensorRT documentation, IQuantizeLayer: the scale must be a build-time constant",
    bad=Example("sx = ReduceMax <keepdims = 0> (x)\n" + pair("x", "sx") + WEIGHT + conv()),
    good=CANONICAL,
)
def scale_not_constant(subject: Subject) -> Iterator[Hit]:
    for node in steps(subject.nodes):
        value = node.inputs[1]
        if value is not None and not qdq.rooted_at_constant(value):
            yield name_of(node), f"expected a constant scale, got the computed value {value.name}"


@rule(
    "SQ205",
    "axis-left-out",
    "error",
    TENSORRT,
    why="Where a per-channel Q or DQ has no axis, ONNX takes axis 1 and TensorRT takes axis 0: the same file "
    "means different things, or fails where the sizes differ.",
    fix="Write the axis: 0 for a Conv weight, 1 for a ConvTranspose weight.",
    source=PARSER,
    bad=Example(pair("x") + pair("w", "ws", "wz") + conv()),
    good=CANONICAL,
)
def axis_left_out(subject: Subject) -> Iterator[Hit]:
    for node, scale in _scales(subject):
        if scale.size > 1 and "axis" not in node.attributes and "block_size" not in node.attributes:
            yield name_of(node), f"expected an axis for {scale.size} scales, got none"


@rule(
    "SQ206",
    "activation-per-channel",
    "error",
    TENSORRT,
    why="TensorRT quantizes activations per tensor only; a kernel sums over channels and cannot give each its own"
    " scale.",
    fix="Calibrate activations per tensor; keep per-channel scales for weights.",
    source="NVIDIA TensorRT documentation, Working with Quantized Types > quantization modes; " + PARSER,
    bad=Example(pair("x", "ws", "wz", axis=1) + WEIGHT + conv()),
    good=CANONICAL,
)
def activation_per_channel(subject: Subject) -> Iterator[Hit]:
    for found in subject.pairs:
        scale = found.scale
        if scale is not None and scale.size > 1 and not qdq.rooted_at_constant(found.source):
            yield found.name, f"expected one scale for the activation {found.source.name}, got {scale.size}"


@rule(
    "SQ207",
    "weight-axis",
    "error",
    TENSORRT,
    why="A per-channel scale must run along the output channels of the operation: axis 0 for Conv, 1 for "
    "ConvTranspose, for Gemm 0 with transB=1 and 1 without, the last for MatMul. No kernel can take another "
    "axis out of its sum.",
    fix="Quantize the weight along its output channels, or per tensor.",
    source="NVIDIA TensorRT documentation, Working with Quantized Types; NVIDIA/TensorRT issue 1694 (versions around "
    "8.2 wanted axis 0 for ConvTranspose)",
    bad=Example(pair("x") + pair("w", "ws", "wz", axis=1) + conv()),
    good=CANONICAL,
)
def weight_axis(subject: Subject) -> Iterator[Hit]:
    for node in qdq.weighted_nodes(subject.graph):
        found = qdq.pair_of(qdq.weight(node))
        if found is None or found.axis is None or (data := qdq.constant(found.source)) is None:
            continue
        wanted, got = qdq.output_axis(node, data.ndim), found.axis % data.ndim
        if got != wanted:
            yield found.name, f"expected axis {wanted} for the weight of {node.op_type} {name_of(node)}, got {got}"


@rule(
    "SQ208",
    "scale-count",
    "error",
    TARGETS,
    why="A per-channel quantizer needs one scale for each slice along its axis.",
    fix="Write as many scales as the axis has entries, or a single one.",
    source=PARSER + "; ONNX operator QuantizeLinear",
    bad=Example(
        pair("x") + pair("w", "s8", "z8", axis=0) + conv(),
        constants={"s8": np.full(8, 0.01, np.float32), "z8": np.zeros(8, np.int8)},
    ),
    good=Example(
        pair("x") + pair("w8", "s8", "z8", axis=0) + conv(weight="w8d"),
        outputs="float[1,8,8,8] y",
        constants={"w8": weights(8, 16, 3, 3), "s8": np.full(8, 0.01, np.float32), "z8": np.zeros(8, np.int8)},
    ),
)
def scale_count(subject: Subject) -> Iterator[Hit]:
    for node, scale in _scales(subject):
        data = qdq.constant(node.inputs[0])
        if data is None or scale.size == 1 or scale.ndim != 1:
            continue
        axis = qdq.axis_of(node)
        if not -data.ndim <= axis < data.ndim or data.shape[axis] != scale.size:
            shape = "x".join(map(str, data.shape))
            yield name_of(node), f"expected one scale for each entry along axis {axis} of {shape}, got {scale.size}"


@rule(
    "SQ209",
    "scale-rounded-in-fp16",
    "warning",
    ("tensorrt-10", "tensorrt-11"),
    why="FP16 has full precision down to 6.1e-5 only: this scale has lost digits already, and every value of its "
    "channel is off by as much.",
    fix="Write these scales as FP32 and let the operations they feed compute in FP32.",
    source="IEEE 754 binary16; ModelOpt 0.47 onnx/autocast keeps such layers in FP32",
    bad=Example(HALF.body, HALF.inputs, HALF.outputs, 19, {**HALF.constants, "ws": np.full(16, 1e-6, np.float16)}),
    good=HALF,
)
def scale_rounded_in_fp16(subject: Subject) -> Iterator[Hit]:
    yield from _below(subject, np.dtype(np.float16), FP16_NORMAL)
