"""SQ2: scales along axes and in blocks: which axis, how many, for weights and activations."""

from __future__ import annotations

import math
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import name_of
from sensitivity.rules.base import Hit, Seen, Subject, rule
from sensitivity.rules.examples import CANONICAL, WEIGHT, Array, Example, conv, weights
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.paths import MOVES_VALUES, block_size
from sensitivity.rules.scales import constant_scales
from sensitivity.rules.targets import RTX, TARGETS, TENSORRT
from sensitivity.rules.zero_points import PARSER

INT4 = {
    "w4": np.tile(np.arange(-8, 8, dtype=np.int8), (128, 2)).astype(ml_dtypes.int4),
    "bs": np.full((2, 32), 0.01, np.float32),
}


def _in_blocks(rows: int) -> Example:
    """Return a MatMul with a 4-bit weight that has one scale for 64 entries along the summed
    axis."""
    return Example(
        "wd = DequantizeLinear <axis = 0, block_size = 64> (w4, bs)\n[fc] y = MatMul (x2, wd)",
        inputs=f"float[4,{rows}] x2",
        outputs="float[4,32] y",
        opset=21,
        constants={**INT4, "w4": INT4["w4"][:rows]},
    )


@rule(
    "SQ205",
    "axis-left-out",
    "error",
    TENSORRT,
    why="If a per-channel Q or DQ has no axis, ONNX takes axis 1 and TensorRT takes axis 0: the "
    "same file means different things, or fails if the sizes differ.",
    fix="Write the axis: 0 for a Conv weight, 1 for a ConvTranspose weight.",
    source=PARSER,
    bad=Example(pair("x") + pair("w", "ws", "wz") + conv()),
    good=CANONICAL,
    rtx=Seen("takes axis 1, as ONNX does; where that is the wrong one see SQ207"),
)
def axis_left_out(subject: Subject) -> Iterator[Hit]:
    """Find per-channel scales whose node does not state the axis."""
    for node, scale in constant_scales(subject):
        if scale.size > 1 and "axis" not in node.attributes and "block_size" not in node.attributes:
            yield name_of(node), f"expected an axis for {scale.size} scales, got none"


@rule(
    "SQ206",
    "activation-per-channel",
    "error",
    (*TENSORRT, RTX),
    why="TensorRT quantizes activations per tensor only: a kernel sums over channels and cannot "
    "give each channel its own scale.",
    fix="Calibrate activations per tensor; keep per-channel scales for weights.",
    source="NVIDIA TensorRT documentation, Working with Quantized Types > quantization modes; "
    + PARSER,
    bad=Example(pair("x", "ws", "wz", axis=1) + WEIGHT + conv()),
    good=CANONICAL,
    rtx=Seen("builds it and runs the layer in float", "warning"),
)
def activation_per_channel(subject: Subject) -> Iterator[Hit]:
    """Find activations with more than one scale."""
    for qdq_pair in subject.pairs:
        scale = qdq_pair.scale
        if scale is not None and scale.size > 1 and not qdq.rooted_at_constant(qdq_pair.source):
            yield (
                qdq_pair.name,
                f"expected one scale for the activation {qdq_pair.source.name}, got {scale.size}",
            )


@rule(
    "SQ207",
    "weight-axis",
    "error",
    (*TENSORRT, RTX),
    why="A per-channel scale must run along the output channels of the operation: axis 0 for Conv, "
    "1 for ConvTranspose, for Gemm 0 with transB=1 and 1 without, the last for MatMul. No kernel "
    "can move scales along another axis out of its sum.",
    fix="Quantize the weight along its output channels, or per tensor.",
    source="NVIDIA TensorRT documentation, Working with Quantized Types; NVIDIA/TensorRT issue "
    "1694 (versions around 8.2 wanted axis 0 for ConvTranspose)",
    bad=Example(pair("x") + pair("w", "ws", "wz", axis=1) + conv()),
    good=CANONICAL,
    rtx=Seen("builds it and runs the layer in float", "warning"),
)
def weight_axis(subject: Subject) -> Iterator[Hit]:
    """Find weights whose scales run along another axis than the output channels."""
    for node in qdq.weighted_nodes(subject.graph):
        weight_pair = qdq.pair_of(qdq.weight(node))
        if weight_pair is None or weight_pair.axis is None:
            continue
        data = qdq.constant(weight_pair.source)
        # Blocks run along the summed axis.
        if data is None or block_size(weight_pair.dequantize):
            continue
        wanted, got = qdq.output_axis(node, data.ndim), weight_pair.axis % data.ndim
        if got != wanted:
            yield (
                weight_pair.name,
                f"expected axis {wanted} for the weight of {node.op_type} {name_of(node)}, got "
                f"{got}",
            )


@rule(
    "SQ208",
    "scale-count",
    "error",
    TARGETS,
    why="A per-channel quantizer needs one scale for each slice along its axis. A quantizer in "
    "blocks needs one scale for each block along its axis, and as many as the weight has entries "
    "along the other axes.",
    fix="Write as many scales as the axis has entries or blocks, or a single one.",
    source=PARSER + "; ONNX operator QuantizeLinear",
    bad=Example(
        pair("x") + pair("w", "s8", "z8", axis=0) + conv(),
        constants={"s8": np.full(8, 0.01, np.float32), "z8": np.zeros(8, np.int8)},
    ),
    good=Example(
        pair("x") + pair("w8", "s8", "z8", axis=0) + conv(weight="w8d"),
        outputs="float[1,8,8,8] y",
        constants={
            "w8": weights(8, 16, 3, 3),
            "s8": np.full(8, 0.01, np.float32),
            "z8": np.zeros(8, np.int8),
        },
    ),
    rtx=Seen("refuses it"),
)
def scale_count(subject: Subject) -> Iterator[Hit]:
    """Find weights whose number of scales differs from the entries or blocks along their axis."""
    for node, scale in constant_scales(subject):
        data, axis, block = qdq.constant(node.inputs[0]), qdq.axis_of(node), block_size(node)
        per_channel = scale.size != 1 and scale.ndim == 1
        has_count = bool(block) or per_channel
        if data is None or not has_count or scale.shape == _wanted(data.shape, axis, block):
            continue
        what = f"block of {block} entries" if block else "entry"
        expected = f"one scale for each {what} along axis {axis} of {_shown(data.shape)}"
        yield name_of(node), f"expected {expected}, got {_shown(scale.shape)}"


def _wanted(shape: tuple[int, ...], axis: int, block: int) -> tuple[int, ...] | None:
    """Return the shape that a weight's scales must have; None for an axis that it does not have.

    The last block may be shorter.
    """
    if not -len(shape) <= axis < len(shape):
        return None
    at = axis % len(shape)
    if not block:
        return (shape[at],)
    blocks = math.ceil(shape[at] / block)
    return (*shape[:at], blocks, *shape[at + 1 :])


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


@rule(
    "SQ211",
    "block-cut-short",
    "error",
    ("tensorrt-11", RTX),
    why="TensorRT does not read block_size: it divides the weight's shape by that of the scales. "
    "If the last block is shorter, TensorRT takes another block size than the file states, or "
    "refuses the file.",
    fix="Choose a block size that divides the weight's side, or pad the weight.",
    source="onnx-tensorrt, QuantDequantLinearHelper (onnxOpImporters.cpp of 10.x)",
    bad=_in_blocks(100),
    good=_in_blocks(128),
    rtx=Seen("builds it; which blocks it takes is not known", "warning"),
)
def block_cut_short(subject: Subject) -> Iterator[Hit]:
    """Find weights whose block size does not divide the axis that the blocks run along."""
    for node, _ in constant_scales(subject):
        data, axis, block = qdq.constant(node.inputs[0]), qdq.axis_of(node), block_size(node)
        if data is None or not block or not -data.ndim <= axis < data.ndim:
            continue
        side = data.shape[axis]
        if side % block:
            yield (
                name_of(node),
                f"expected blocks that divide the {side} entries along axis {axis}, got {block}",
            )


VECTOR: dict[str, Array] = {"s1": np.array([0.05], np.float32), "z1": np.array([0], np.int8)}


@rule(
    "SQ212",
    "activation-scale-vector",
    "warning",
    (RTX,),
    why="For ONNX a scale of shape [1] is per tensor, and TensorRT documents no difference for "
    "8.6, 10 and 11. TensorRT-RTX takes it as a scale per channel, and runs a convolution after "
    "it, or before an Add with it, in float without any message. Matrix products and weights "
    "are not affected.",
    fix="Write scale and zero point of an activation as scalars, of shape []; 'sensitivity export' "
    "does so.",
    source="measured with TensorRT-RTX 1.7.1.116, for SM 8.9",
    bad=Example(pair("x", "s1", "z1") + WEIGHT + conv(), constants=VECTOR),
    good=CANONICAL,
    rtx=Seen("runs the convolution in float"),
)
def activation_scale_vector(subject: Subject) -> Iterator[Hit]:
    """Find activations before a Conv or Add whose scale has the shape [1]."""
    for qdq_pair in subject.pairs:
        if qdq_pair.scale is None or qdq.rooted_at_constant(qdq_pair.source):
            continue
        is_vector = qdq_pair.scale.shape == (1,) and not block_size(qdq_pair.dequantize)
        if is_vector and not {"Conv", "Add"}.isdisjoint(_users(qdq_pair.output)):
            yield qdq_pair.name, "expected a scalar scale for an activation, got the shape [1]"


def _users(value: ir.Value) -> Iterator[str]:
    """Yield the types of the operations that read this value, possibly moved."""
    for node in value.consumers():
        yield node.op_type
        if node.op_type in MOVES_VALUES:
            yield from _users(node.outputs[0])
