"""SQ3: conditions for a convolution or matrix product to run in INT8 or FP8."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.uses import BIAS_INPUT, WITH_BIAS
from sensitivity.onnx_graph.walk import input_at, made_by, name_of, producer, source
from sensitivity.rules.base import Hit, Seen, Subject, rule
from sensitivity.rules.examples import (
    CANONICAL,
    FP8_CONV,
    IN_FP8,
    WEIGHT,
    Array,
    Example,
    conv,
    weights,
)
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.formats import MOST_TAPS
from sensitivity.rules.paths import FP8, MOVES_VALUES, QDQ, attribute, grid_type, pair_before
from sensitivity.rules.targets import RTX, TENSORRT

PLACEMENT = (
    "NVIDIA TensorRT documentation, Working with Quantized Types > Q/DQ layer-placement "
    "recommendations"
)


@rule(
    "SQ301",
    "one-input-quantized",
    "warning",
    (*TENSORRT, RTX, "openvino"),
    why="A convolution or matrix product runs in INT8 only if both its activation and its weight "
    "are quantized. With only one of them it pays for the rounding and runs in float. Weights of 4 "
    "bits are an exception: their purpose is to save memory.",
    fix="Quantize both inputs, or neither.",
    source=PLACEMENT,
    bad=Example(WEIGHT + conv("x")),
    good=CANONICAL,
    rtx=Seen("runs the layer in float"),
)
def one_input_quantized(subject: Subject) -> Iterator[Hit]:
    """Find layers with a quantized activation and a float weight, or the reverse."""
    for node in qdq.weighted_nodes(subject.graph):
        inputs = {"activation": qdq.activation(node), "weight": qdq.weight(node)}
        missing = [what for what, value in inputs.items() if not _dequantized(value)]
        if len(missing) == 1 and not _four_bits(qdq.weight(node)):
            yield (
                name_of(node),
                f"expected both inputs of this {node.op_type} quantized or none, got a float "
                f"{missing[0]}",
            )


def _four_bits(weight: ir.Value | None) -> bool:
    weight_pair = pair_before(weight)
    return weight_pair is not None and grid_type(weight_pair.dequantize) in {"int4", "uint4"}


def _dequantized(value: ir.Value | None) -> bool:
    """Return whether a DQ gives this value, possibly through nodes that only move values, whatever
    the DQ reads."""
    if value is None:
        return False
    moved = source(value, lambda node: node.op_type in MOVES_VALUES)
    return made_by(moved, "DequantizeLinear") is not None or qdq.quantized(moved)


@rule(
    "SQ302",
    "bias-quantized",
    "error",
    (*TENSORRT, RTX),
    why="TensorRT takes the bias in float and adds it to the INT32 sum itself. It refuses a bias "
    "after a DequantizeLinear, as ONNX Runtime's quantizer writes it.",
    fix="Keep the bias in float (quantize_static: extra_options={'QuantizeBias': False}).",
    source="microsoft/onnxruntime issue 14229 (TensorRT: 'only activation types allowed as input "
    "to this layer'); onnx/onnx-tensorrt issue 850",
    bad=Example(
        pair("x") + WEIGHT + "bd = DequantizeLinear <axis = 0> (b32, bs, b0)\n"
        "[conv] y = Conv <pads = [1, 1, 1, 1]> (xd, wd, bd)",
        constants={
            "b32": np.ones(16, np.int32),
            "bs": np.full(16, 5e-4, np.float32),
            "b0": np.zeros(16, np.int32),
        },
    ),
    good=Example(pair("x") + WEIGHT + "[conv] y = Conv <pads = [1, 1, 1, 1]> (xd, wd, b)"),
    rtx=Seen("refuses it"),
)
def bias_quantized(subject: Subject) -> Iterator[Hit]:
    """Find layers whose bias comes from a DQ."""
    for node in subject.nodes:
        has_bias = node.op_type in WITH_BIAS
        dequantize = made_by(input_at(node, BIAS_INPUT), "DequantizeLinear") if has_bias else None
        if dequantize is not None:
            yield name_of(node), f"expected a float bias, got one after {name_of(dequantize)}"


@rule(
    "SQ303",
    "weight-path-broken",
    "warning",
    TENSORRT,
    why="Between the stored weight and its operation there may be a Q/DQ pair (or a DQ) and "
    "nothing else. Any other node there hides the pattern from the passes that look for it, and "
    "the weight may be computed in float at run time. Only ONNX Runtime folds a Transpose there "
    "away.",
    fix="Store the weight in the layout that the operation reads, then Q -> DQ -> operation.",
    source=PLACEMENT + "; ONNX Runtime 1.31: read from its optimized graph",
    bad=Example(
        pair("x") + WEIGHT + "wt = Transpose <perm = [0, 1, 3, 2]> (wd)\n" + conv(weight="wt")
    ),
    good=CANONICAL,
    rtx=Seen("computes in INT8 through a Transpose or Reshape there"),
)
def weight_path_broken(subject: Subject) -> Iterator[Hit]:
    """Find quantized weights with operations other than Q and DQ before their layer."""
    for node in qdq.weighted_nodes(subject.graph):
        path = list(weight_path(qdq.weight(node)))
        others = [step.op_type for step in path if step.op_type not in QDQ]
        if others and len(others) < len(path):
            shown = " -> ".join(step.op_type for step in reversed(path))
            yield (
                name_of(node),
                f"expected weight -> Q -> DQ -> {node.op_type}, got weight -> {shown} -> "
                f"{node.op_type}",
            )


def weight_path(value: ir.Value | None) -> Iterator[ir.Node]:
    """Yield the nodes between an operation and its stored weight, starting at the operation."""
    while qdq.constant(value) is None:
        node = producer(value)
        if node is None:
            return
        yield node
        value = node.inputs[0]


@rule(
    "SQ304",
    "grouped-transposed-conv",
    "error",
    TENSORRT,
    why="Per-channel weights of a ConvTranspose have their output channels on axis 1, which with "
    "groups holds only one group's share: TensorRT cannot read such scales.",
    fix="Leave grouped transposed convolutions unquantized.",
    source="NVIDIA/TensorRT issue 1934: grouped quantized transposed convolutions are rejected",
    bad=Example(
        pair("x") + pair("t", "ts", "tz", axis=1) + "[up] y = ConvTranspose <group = 2> (xd, td)",
        constants={
            "t": weights(16, 8, 1, 1),
            "ts": np.full(8, 0.01, np.float32),
            "tz": np.zeros(8, np.int8),
        },
    ),
    good=Example(
        "[up] y = ConvTranspose <group = 2> (x, t)", constants={"t": weights(16, 8, 1, 1)}
    ),
    rtx=Seen("builds it and runs the layer in float: SQ307"),
)
def grouped_transposed_conv(subject: Subject) -> Iterator[Hit]:
    """Find quantized ConvTransposes with more than one group."""
    for node in _quantized_transposed(subject):
        groups = attribute(node, "group", 1)
        if groups > 1:
            yield (
                name_of(node),
                f"expected no Q/DQ around a ConvTranspose with groups, got {groups} groups "
                "quantized",
            )


def _quantized_transposed(subject: Subject) -> Iterator[ir.Node]:
    for node in qdq.weighted_nodes(subject.graph):
        if node.op_type == "ConvTranspose" and pair_before(qdq.weight(node)) is not None:
            yield node


@rule(
    "SQ305",
    "thin-conv",
    "info",
    TENSORRT,
    why="INT8 kernels work on blocks of channels. A convolution with fewer than 16 channels in or "
    "out fills them with padding and is often no faster than in FP16, while it still costs "
    "accuracy.",
    fix="Leave it unquantized if it is sensitive; that costs little speed.",
    source="ModelOpt 0.47, onnx/quantization/graph_utils.py, find_nodes_from_convs_to_exclude",
    bad=Example(
        pair("x") + pair("n", "ns", "nz", axis=0) + conv(weight="nd"),
        inputs="float[1,4,8,8] x",
        outputs="float[1,4,8,8] y",
        constants={
            "n": weights(4, 4, 3, 3),
            "ns": np.full(4, 0.01, np.float32),
            "nz": np.zeros(4, np.int8),
        },
    ),
    good=CANONICAL,
)
def thin_conv(subject: Subject) -> Iterator[Hit]:
    """Find convolutions in INT8 that ModelOpt leaves out because they have few channels."""
    for node in qdq.weighted_nodes(subject.graph):
        weight_pair = pair_before(qdq.weight(node)) if node.op_type == "Conv" else None
        if weight_pair is None or grid_type(weight_pair.dequantize) == FP8:
            continue
        weight = qdq.constant(weight_pair.source)
        if weight is not None and thin(node, weight.shape):
            out, into = weight.shape[:2]
            yield (
                name_of(node),
                f"expected 16 channels or more for INT8 to gain, got {into} in (per group) and "
                f"{out} out",
            )


def thin(node: ir.Node, shape: tuple[int, ...]) -> bool:
    """Return whether ModelOpt would leave this convolution out: under 16 channels, and a shape
    without kernels.

    Shapes with kernels are square ones with a multiple of 8 channels on one side and 16 or more on
    the other, or with the model's input in front; and grouped ones of 3x3 or more with a multiple
    of 8 output channels.
    """
    out, into, *kernel = shape
    if min(out, into) >= 16:
        return False
    if attribute(node, "group", 1) > 1:
        return out % 8 != 0 or min(kernel, default=1) < 3
    input_pair = pair_before(qdq.activation(node))
    reads_input = input_pair is not None and _given(input_pair.source)
    is_square = len(set(kernel)) <= 1
    one_side_fits = 0 in (out % 8, into % 8)
    other_side_fits = max(out, into) >= 16 or reads_input
    return not (is_square and one_side_fits and other_side_fits)


def _given(value: ir.Value) -> bool:
    """Return whether this is an input of the model, possibly cast to another float type."""
    cast = made_by(value, "Cast")
    before = value if cast is None else cast.inputs[0]
    return value.is_graph_input() or (before is not None and before.is_graph_input())


@rule(
    "SQ306",
    "output-quantized",
    "warning",
    (*TENSORRT, RTX),
    why="A Q/DQ pair on an output of the model rounds the result once more and gains nothing, "
    "since no INT8 operation follows.",
    fix="Remove the pair before the output.",
    source=PLACEMENT,
    bad=Example(pair("x") + WEIGHT + conv(to="c") + pair("c", to="y")),
    good=CANONICAL,
)
def output_quantized(subject: Subject) -> Iterator[Hit]:
    """Find outputs of the model that come directly from a Q or DQ."""
    for output in subject.graph.outputs:
        node = made_by(output, *QDQ)
        if node is not None:
            yield name_of(node), f"expected no Q/DQ on the output {output.name}, got {node.op_type}"


TRANSPOSED = {
    "t": weights(16, 16, 2, 2),
    "ts": np.full(16, 0.01, np.float32),
    "tz": np.zeros(16, np.int8),
}
DOUBLED = "float[1,16,16,16] y"


@rule(
    "SQ307",
    "transposed-conv-float",
    "warning",
    (RTX,),
    why="TensorRT-RTX runs every quantized ConvTranspose in float, with scales per channel or per "
    "tensor, with groups or without: the file pays for the rounding and gains nothing. TensorRT "
    "8.6, 10 and 11 document INT8 for those without groups: SQ304.",
    fix="Leave transposed convolutions unquantized.",
    source="measured with TensorRT-RTX 1.7.1.116, for SM 8.9",
    bad=Example(
        pair("x")
        + pair("t", "ts", "tz", axis=1)
        + "[up] y = ConvTranspose <strides = [2, 2]> (xd, td)",
        outputs=DOUBLED,
        constants=TRANSPOSED,
    ),
    good=Example(
        "[up] y = ConvTranspose <strides = [2, 2]> (x, t)", outputs=DOUBLED, constants=TRANSPOSED
    ),
    rtx=Seen("runs the layer in float"),
)
def transposed_conv_float(subject: Subject) -> Iterator[Hit]:
    """Find quantized ConvTransposes, whatever their groups and scales."""
    for node in _quantized_transposed(subject):
        yield name_of(node), "expected no Q/DQ around this ConvTranspose, got it quantized"


LARGE_KERNEL = "pads = [3, 3, 3, 3]"


@rule(
    "SQ308",
    "fp8-conv-in-float",
    "warning",
    ("tensorrt-10", "tensorrt-11", RTX),
    why="TensorRT has no FP8 kernels for transposed convolutions and for convolutions with more "
    "than 32 values in a kernel, such as 7x7. Such a layer pays for the rounding and runs in "
    "float.",
    fix="Keep the layer in INT8 if that is accurate enough, else leave it unquantized; plans for "
    "--runtime tensorrt do so by themselves.",
    source="NVIDIA TensorRT 10.16 release notes, Limitations, as quoted by others; measured with "
    "TensorRT-RTX 1.7.1.116, for SM 8.9 and 12.0",
    bad=Example(
        pair("x", zero="f") + pair("k", "ws", "fz", axis=0) + conv(weight="kd", rest=LARGE_KERNEL),
        opset=19,
        constants={**IN_FP8, "k": weights(16, 16, 7, 7)},
    ),
    good=FP8_CONV,
    rtx=Seen("runs the layer in float"),
)
def fp8_conv_in_float(subject: Subject) -> Iterator[Hit]:
    """Find convolutions in FP8 that TensorRT runs in float."""
    for node, weight in _in_fp8(subject):
        taps = math.prod(weight.shape[2:])
        if node.op_type == "ConvTranspose":
            yield name_of(node), "expected no ConvTranspose in FP8, got one"
        elif node.op_type == "Conv" and taps > MOST_TAPS:
            yield (
                name_of(node),
                f"expected at most {MOST_TAPS} values in a kernel in FP8, got {taps}",
            )


@rule(
    "SQ309",
    "fp8-grouped-conv",
    "info",
    ("tensorrt-10", "tensorrt-11"),
    why="TensorRT has no optimized FP8 kernels for grouped and depthwise convolutions; NVIDIA "
    "recommends INT8 there.",
    fix="Keep the layer in INT8 if that is accurate enough.",
    source="NVIDIA TensorRT 10.12 release notes, Limitations, as quoted in NVIDIA/TensorRT issue "
    "4524",
    bad=Example(
        pair("x", zero="f")
        + pair("d", "ws", "fz", axis=0)
        + conv(weight="dd", rest="pads = [1, 1, 1, 1], group = 16"),
        opset=19,
        constants={**IN_FP8, "d": weights(16, 1, 3, 3)},
    ),
    good=FP8_CONV,
    rtx=Seen("runs the layer in FP8"),
)
def fp8_grouped_conv(subject: Subject) -> Iterator[Hit]:
    """Find convolutions in FP8 with more than one group."""
    for node, _ in _in_fp8(subject):
        groups = attribute(node, "group", 1)
        if node.op_type == "Conv" and groups > 1:
            yield name_of(node), f"expected one group for FP8 to gain, got {groups}"


@rule(
    "SQ310",
    "fp8-needs-newer-gpu",
    "info",
    ("tensorrt-10", "tensorrt-11", RTX),
    why="Only GPUs of compute capability 8.9 or later (Ada, Hopper, Blackwell) compute in FP8. For "
    "others the builder ends with an error.",
    fix="Build on such a GPU, or plan without fp8.",
    source="NVIDIA TensorRT documentation, Support Matrix > Hardware and Precision; measured with "
    "TensorRT-RTX 1.7.1.116: refused for SM 7.5 and 8.6, built for SM 8.9 and 12.0",
    bad=FP8_CONV,
    good=CANONICAL,
    rtx=Seen("builds it for SM 8.9 and later alone"),
)
def fp8_needs_newer_gpu(subject: Subject) -> Iterator[Hit]:
    """Find the first layer in FP8, and count them."""
    layers = [node for node, _ in _in_fp8(subject)]
    if layers:
        yield (
            name_of(layers[0]),
            f"expected a GPU of compute capability 8.9 or later, got {len(layers)} layers in FP8",
        )


def _in_fp8(subject: Subject) -> Iterator[tuple[ir.Node, Array]]:
    """Yield each layer whose weight is in FP8, with the weight."""
    for node in qdq.weighted_nodes(subject.graph):
        weight_pair = pair_before(qdq.weight(node))
        if weight_pair is None or grid_type(weight_pair.dequantize) != FP8:
            continue
        weight = qdq.constant(weight_pair.source)
        if weight is not None:
            yield node, weight
