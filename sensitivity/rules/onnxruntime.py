"""SQ7: what keeps ONNX Runtime's CPU kernels from INT8 speed, and what ONNX Runtime computes
differently."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.float_gemms import float_gemms
from sensitivity.onnx_graph.fused_layers import (
    biases_of_another_scale,
    cuts_below_zero,
    dilated_averages,
    matmuls_of_other_scales,
    weights_of_another_axis,
)
from sensitivity.onnx_graph.integer_layers import integer_layers, moved_int8
from sensitivity.onnx_graph.refusals import has_mixed_types
from sensitivity.onnx_graph.walk import name_of, only_user
from sensitivity.rules.base import Hit, Subject, rule
from sensitivity.rules.examples import FP8_CONV, WEIGHT, Example, conv, weights
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.paths import fp8_activations, grid_type, pair_before

ORT = ("onnxruntime",)
MEASURED = "measured: ONNX Runtime CPU, 2 threads with VNNI"
S8 = Example(pair("x") + WEIGHT + conv(to="c") + pair("c", to="y"))
U8 = Example(pair("x", zero="u128") + WEIGHT + conv(to="c") + pair("c", zero="u128", to="y"))


def _relu(zero: str) -> Example:
    return Example(
        pair("x", zero=zero)
        + WEIGHT
        + conv(to="c")
        + "r = Relu (c)\n"
        + pair("r", zero=zero, to="y")
    )


@rule(
    "SQ701",
    "signed-activations",
    "warning",
    ORT,
    why="On x64, ONNX Runtime's fast kernels take uint8 activations with int8 weights; int8 "
    "activations run in slow ones. It turns most of them into uint8 itself, but none that several "
    "operations read, as at a skip connection: layers between the two types run in float (a "
    "ResNet-18 of quantize_static with its defaults takes 1.5 times as long as with uint8).",
    fix="Shift activations to uint8: with 128 added to the zero point it is the same grid "
    "('sensitivity export --for onnxruntime' does so if all layers are in INT8, and 'sensitivity "
    "run' of a Q/DQ file where int8 values are read more than once).",
    source="ONNX Runtime docs, Quantize ONNX Models > Method selection (U8S8 on x86-64); "
    + MEASURED,
    bad=S8,
    good=U8,
)
def signed_activations(subject: Subject) -> Iterator[Hit]:
    """Find the first int8 activation, and count them."""
    of_activations = [pair for pair in subject.pairs if pair.quantize and not pair.of_weight]
    signed = [pair for pair in of_activations if grid_type(pair.nodes[0]) == "int8"]
    if signed:
        yield signed[0].name, f"expected uint8 activations, got int8 in {len(signed)} Q/DQ pairs"


@rule(
    "SQ702",
    "output-not-quantized",
    "warning",
    ORT,
    why="ONNX Runtime fuses DQ -> Conv -> Q into one INT8 kernel and needs all three. Without the "
    "Q, a convolution dequantizes its inputs and runs in float (on a ResNet-18: 0.7 of float speed "
    "without it, 2.8 to 3.1 with it).",
    fix="Add a Q/DQ pair after the operation, or its ReLU ('sensitivity export --for "
    "onnxruntime' does so if all layers are in INT8, and 'sensitivity run' of a Q/DQ file if most "
    "convolutions lack one).",
    source=MEASURED + ", ResNet-18",
    bad=Example(pair("x", zero="u128") + WEIGHT + conv()),
    good=U8,
)
def output_not_quantized(subject: Subject) -> Iterator[Hit]:
    """Find quantized convolutions without a Q after them, or after their Relu or Clip."""
    for node in _quantized_convs(subject):
        if not any(user.op_type == "QuantizeLinear" for user in _behind(node)):
            yield name_of(node), f"expected a Q/DQ pair after this {node.op_type}, got none"


@rule(
    "SQ703",
    "relu-not-absorbed",
    "warning",
    ORT,
    why="A ReLU between a convolution and its Q is absorbed only if the zero point of the Q is the "
    "smallest value of its type, so that the Q itself cuts off values below zero. Otherwise the "
    "ReLU stays and the convolution runs in float.",
    fix="Quantize outputs of ReLU to uint8 with zero point 0.",
    source="ONNX Runtime, optimizer/qdq_transformer/relu_quantizelinear.cc",
    bad=_relu("u128"),
    good=_relu("u"),
)
def relu_not_absorbed(subject: Subject) -> Iterator[Hit]:
    """Find Qs after a convolution and its Relu whose grid includes negative values."""
    for conv_node in _quantized_convs(subject):
        for relu in _users(conv_node, "Relu"):
            for quantize in _users(relu, "QuantizeLinear"):
                if not cuts_below_zero(quantize):
                    kind = grid_type(quantize) or "uint8"
                    yield (
                        name_of(quantize),
                        f"expected the smallest {kind} as zero point after Relu",
                    )


def _biased(scale: str, bias: str = "b") -> Example:
    body = pair("x", zero="u128") + pair("w", scale, "wz", axis=0)
    body += f"[conv] c = Conv <pads = [1, 1, 1, 1]> (xd, wd, {bias})\n" + pair(
        "c", zero="u128", to="y"
    )
    return Example(body, constants={"dead": np.array([1e-9, *[0.01] * 15], np.float32)})


@rule(
    "SQ704",
    "bias-beyond-int32",
    "error",
    ORT,
    why="While loading the file, ONNX Runtime converts the float bias of a layer between a DQ and "
    "a Q to int32, with the scale of the input times that of the weight, whether it fits or not. "
    "It does not fit in a channel with almost no weight (one that BatchNorm switched off, so that "
    "its bias is all it gives), and the channel is lost: 20.4 % where the file has 97.6.",
    fix="Raise the scale of such channels until the bias fits, as quantize_static does; the "
    "weights there are too small to matter. 'sensitivity run' and 'sensitivity export --for "
    "onnxruntime' write such a file, model.*.onnxruntime.onnx.",
    source="ONNX Runtime 1.31, optimizer/qdq_transformer/weight_bias_quantization.cc; " + MEASURED,
    bad=_biased("dead"),
    good=_biased("ws"),
)
def bias_beyond_int32(subject: Subject) -> Iterator[Hit]:
    """Find layers whose scales put the bias beyond int32, and the worst channel of each."""
    for layer in integer_layers(subject.graph):
        needed = layer.smallest_weight_scale()
        scale = layer.weight.scale if layer.weight is not None else None
        if needed is None or scale is None or np.all(needed <= scale):
            continue
        needed, scale = needed.ravel(), np.maximum(scale.ravel(), np.finfo(np.float32).tiny)
        worst = int(np.argmax(needed / scale))
        got = f"{scale[worst]:.3g} ({np.count_nonzero(needed > scale)} of {scale.size})"
        yield (
            name_of(layer.node),
            f"expected weight scales of {needed[worst]:.3g} or more for the bias to fit int32, got "
            f"{got}",
        )


@rule(
    "SQ705",
    "float-weight-quantized",
    "warning",
    ORT,
    why="While loading the file, ONNX Runtime also quantizes a float weight of a Conv, "
    "ConvTranspose or Gemm between a DQ and a Q, to 8 bits with one scale for the whole tensor. A "
    "layer that was left out because of its weight is then quantized again, and worse.",
    fix="Also remove the pair from the input of the layer. 'sensitivity run' and 'sensitivity "
    "export --for onnxruntime' write a file that keeps such weights in float, "
    "model.*.onnxruntime.onnx.",
    source="ONNX Runtime 1.31, optimizer/qdq_transformer/weight_bias_quantization.cc; " + MEASURED,
    bad=Example(pair("x", zero="u128") + conv(weight="w", to="c") + pair("c", zero="u128", to="y")),
    good=U8,
)
def float_weight_quantized(subject: Subject) -> Iterator[Hit]:
    """Find layers with a float weight between a DQ and a Q."""
    for layer in integer_layers(subject.graph):
        if layer.weight is None:
            yield (
                name_of(layer.node),
                f"expected the weight of this {layer.node.op_type} quantized, or no DQ before it",
            )


def _moved(zero: str) -> Example:
    """Return a quantized value that is only moved, up to a float operation."""
    return Example(
        pair("x", zero=zero) + "[move] m = Transpose <perm = [0, 1, 3, 2]> (xd)\ny = Sigmoid (m)",
        opset=21,
    )


@rule(
    "SQ706",
    "int8-moved",
    "error",
    ORT,
    why="From opset 21 on, ONNX Runtime cannot load a file in which an int8 activation is moved "
    "(Transpose, MaxPool, Reshape, Squeeze, Unsqueeze, Slice) after its pair and not quantized "
    "again there. It adds another pair after the operation, which is int8 by one attribute and "
    "uint8 by its zero point ('output_dtype INT8 does not match y_zero_point type UINT8').",
    fix="Shift activations to uint8 (with 128 added to the zero point it is the same grid), or "
    "convert the file to opset 17. 'sensitivity run' writes a file that loads, "
    "model.*.onnxruntime.onnx.",
    source="measured: ONNX Runtime 1.31 on x64 (right with opset 17 and 19)",
    bad=_moved("z"),
    good=_moved("u128"),
)
def int8_moved(subject: Subject) -> Iterator[Hit]:
    """Find operations that move an int8 activation after its pair."""
    for node in moved_int8(subject.model):
        yield (
            name_of(node),
            f"expected uint8 before this {node.op_type}, got int8 in opset {subject.opset}",
        )


INT32_BIAS = {
    "b32": np.linspace(-4000, 4000, 16).astype(np.int32),
    "own": np.full(16, 5e-4, np.float32),
    "other": np.full(16, 2e-3, np.float32),
    "v2": weights(16, 16),
}


def _gemm(scale: str) -> Example:
    """Return a Gemm with a bias stored in steps of this scale."""
    return Example(
        pair("x2", zero="u128", to="xd")
        + pair("v2", "ws", "wz", axis=1, to="wd")
        + f"bd = DequantizeLinear <axis = 0> (b32, {scale})\n[fc] c = Gemm (xd, wd, bd)\n"
        + pair("c", zero="u128", to="y"),
        inputs="float[4,16] x2",
        outputs="float[4,16] y",
        constants=INT32_BIAS,
    )


@rule(
    "SQ707",
    "bias-scale-ignored",
    "error",
    ORT,
    why="ONNX Runtime turns a quantized Gemm, or MatMul and Add, with an int32 bias into one "
    "QGemm. It takes the integers of the bias as steps of the input's scale times the weight's, "
    "and never reads the scale that the file gives for them. Another scale makes the bias wrong by "
    "the ratio of the two, without any message. A Conv does read the scale.",
    fix="Store the bias in float, or in steps of the input's scale times the weight's. "
    "'sensitivity run' and 'sensitivity export --for onnxruntime' write a file with a float bias, "
    "model.*.onnxruntime.onnx.",
    source="measured: ONNX Runtime 1.31 on x64, "
    "findings/ort_gemm_takes_any_bias_for_its_own_scale.sh",
    bad=_gemm("other"),
    good=_gemm("own"),
)
def bias_scale_ignored(subject: Subject) -> Iterator[Hit]:
    """Find Gemms whose int32 bias is not on the grid of the sum, with the ratio of the two
    scales."""
    for bias in biases_of_another_scale(subject.graph):
        yield (
            name_of(bias.node),
            "expected a bias in steps of the input's scale times the weight's, got "
            f"{bias.ratio:.3g} times that",
        )


def _along(axis: int) -> Example:
    return Example(
        pair("x", zero="u128")
        + pair("w", "ws", "wz", axis=axis)
        + conv(to="c")
        + pair("c", zero="u128", to="y"),
        constants={"ws": np.geomspace(1e-3, 5e-2, 16).astype(np.float32)},
    )


@rule(
    "SQ708",
    "weight-axis-ignored",
    "error",
    ORT,
    why="The integer operators that ONNX Runtime makes of Conv, Gemm and MatMul have one weight "
    "scale for each output and no axis. Scales along another axis are taken for those of the "
    "outputs if their numbers agree, as in every square layer: the values are wrong, without any "
    "message. If the numbers do not agree, the first run fails.",
    fix="Quantize the weight along its output channels: axis 0 for Conv, for Gemm 0 with transB=1 "
    "and 1 without, the last for MatMul. 'sensitivity run' and 'sensitivity export --for "
    "onnxruntime' write a file that computes such a layer in float, model.*.onnxruntime.onnx.",
    source="measured: ONNX Runtime 1.31 on x64, findings/ort_square_weights_hide_the_axis.sh",
    bad=_along(1),
    good=_along(0),
)
def weight_axis_ignored(subject: Subject) -> Iterator[Hit]:
    """Find layers that become integer ones and have weight scales along another axis than their
    outputs."""
    for weight in weights_of_another_axis(subject.graph):
        yield (
            name_of(weight.node),
            f"expected the scales of this {weight.node.op_type}'s weight along axis "
            f"{weight.wanted}, its outputs, got axis {weight.got}",
        )


def _pooled(dilations: str) -> Example:
    return Example(
        pair("x", zero="u128")
        + f"[pool] c = AveragePool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]{dilations}> (xd)\n"
        + pair("c", zero="u128", to="y"),
        opset=21,
    )


@rule(
    "SQ709",
    "dilated-average",
    "error",
    ORT,
    why="ONNX Runtime turns an AveragePool between 8-bit pairs into a QLinearAveragePool and "
    "passes every attribute on. That operator has no dilations, which AveragePool has from opset "
    "19 on, so the file does not load, even if all dilations are 1 ('Unrecognized attribute: "
    "dilations').",
    fix="Remove dilations that are all 1, and the pair after a pool with others. 'sensitivity "
    "run' and 'sensitivity export --for onnxruntime' write a file that loads, "
    "model.*.onnxruntime.onnx.",
    source="measured: ONNX Runtime 1.31 on x64, findings/ort_dilated_average_pool_does_not_load.sh",
    bad=_pooled(", dilations = [1, 1]"),
    good=_pooled(""),
)
def dilated_average(subject: Subject) -> Iterator[Hit]:
    """Find AveragePools between 8-bit pairs that have the attribute dilations."""
    for pool in dilated_averages(subject.graph):
        got = list(pool.attributes.get_ints("dilations", ()))
        yield name_of(pool), f"expected no dilations on a pool between pairs, got {got}"


def _blocks(count: int) -> Example:
    """Return a MatMul with a stored weight in blocks along the summed axis."""
    return Example(
        pair("x2", zero="u128", to="xd")
        + f"wd = DequantizeLinear <axis = 0, block_size = {16 // count}> (v8, bs)\n"
        "[fc] y = MatMul (xd, wd)",
        inputs="float[4,16] x2",
        outputs="float[4,16] y",
        opset=21,
        constants={
            "v8": np.ones((16, 16), np.int8),
            "bs": np.full((count, 16), 0.01, np.float32),
        },
    )


@rule(
    "SQ710",
    "matmul-scale-shape",
    "error",
    ORT,
    why="The integer MatMul that ONNX Runtime makes of a MatMul after a DequantizeLinear takes "
    "one weight scale for each output of a weight with two axes. Scales of 8-bit blocks are spread "
    "over the rows of the result: the values are wrong if there are as many rows as blocks, and "
    "otherwise the first run fails, as it does with scales per output of a weight with three axes. "
    "Weights of 4 bits in blocks are computed correctly.",
    fix="Give such a weight one scale, or one for each output of two axes. 'sensitivity run' and "
    "'sensitivity export --for onnxruntime' write a file that computes it in float, "
    "model.*.onnxruntime.onnx.",
    source="measured: ONNX Runtime 1.31 on x64, findings/ort_block_scales_meet_the_rows.sh and "
    "findings/ort_batched_weights_with_scales_do_not_run.sh",
    bad=_blocks(4),
    good=_blocks(1),
)
def matmul_scale_shape(subject: Subject) -> Iterator[Hit]:
    """Find integer MatMuls with weight scales in 8-bit blocks, or with a weight of three axes."""
    for node in matmuls_of_other_scales(subject.graph):
        weight_pair = qdq.pair_of(qdq.weight(node))
        scale = None if weight_pair is None else weight_pair.scale
        data = None if weight_pair is None else qdq.constant(weight_pair.source)
        if scale is not None and data is not None:
            got = f"{list(scale.shape)} for {list(data.shape)}"
            yield name_of(node), f"expected one weight scale, or one per output, got {got}"


@rule(
    "SQ711",
    "fp8-without-kernels",
    "warning",
    ORT,
    why="ONNX Runtime has no FP8 kernels for CPUs and computes between the pairs in float. With "
    "its usual optimizations it fuses operations between FP8 pairs (Gemm, MatMul, a Conv or Add "
    "with a pair behind it) into integer kernels, which then refuse the file; and it removes a "
    "Relu in front of a pair, so that negative values pass.",
    fix="Load it with session.disable_quant_qdq=1 and disabled_optimizers=['ReluQuantRewrite', "
    "'ClipQuantRewrite'], as 'sensitivity bench' does; INT8 layers then compute in float too, and "
    "its latency says nothing about a GPU's.",
    source="measured: ONNX Runtime 1.31.1 CPU",
    bad=FP8_CONV,
    good=U8,
)
def fp8_without_kernels(subject: Subject) -> Iterator[Hit]:
    """Find the first FP8 pair on an activation, and count them."""
    yield from fp8_activations(subject)


MIXED = Example(pair("x", zero="u128") + WEIGHT + conv(), inputs="float16[1,16,8,8] x", opset=23)


@rule(
    "SQ712",
    "scale-of-another-type",
    "error",
    ORT,
    why="From opset 23 on, the scale of a QuantizeLinear may have another type than its input, as "
    "in FP16 networks with FP32 scales. ONNX Runtime loads such a file, and its first run fails.",
    fix="Write the scale in the type of the input, or a Cast in front of the QuantizeLinear.",
    source="measured: ONNX Runtime 1.31.1 CPU, "
    "findings/ort_scale_of_another_type_fails_at_the_first_run.sh",
    bad=MIXED,
    good=Example(
        "xf = Cast <to = 1> (x)\n" + pair("xf", zero="u128", to="xd") + WEIGHT + conv(),
        inputs=MIXED.inputs,
        opset=23,
    ),
)
def scale_of_another_type(subject: Subject) -> Iterator[Hit]:
    """Find QuantizeLinears whose input and scale are known to have different types."""
    for node in subject.nodes:
        if node.op_type == "QuantizeLinear" and not node.domain and has_mixed_types(node):
            kind, got = (value.dtype.name for value in node.inputs[:2] if value and value.dtype)
            yield name_of(node), f"expected a scale of type {kind} as the input, got {got}"


def _last(bias: str) -> Example:
    """Return a last layer that gives float, with this bias."""
    return Example(
        pair("x2", zero="u128", to="xd") + pair("v2", "ws", "wz", axis=1, to="wd") + bias,
        inputs="float[4,16] x2",
        outputs="float[4,16] y",
        constants=INT32_BIAS,
    )


@rule(
    "SQ713",
    "gemm-in-float",
    "warning",
    ORT,
    why="A quantized Gemm, or MatMul and Add, of which ONNX Runtime makes a Gemm, runs in integers "
    "only if all around it fits: a pair right in front of it, a bias in int32 if its output stays "
    "in float, and an output that is quantized after its ReLU or not at all. Otherwise it runs in "
    "float, and its 8-bit weight is dequantized at every run: such a layer with a weight of 1280 x "
    "1000 takes 15 times as long as in integers. Toolkits that write pairs in front of layers "
    "alone leave every bias in float.",
    fix="Store the bias as int32, with a DequantizeLinear whose scale is the input's times the "
    "weight's, or put a Q/DQ pair after the layer and its ReLU, and the one in front after a "
    "Flatten. A layer that must stay in float "
    "is faster without pairs. 'sensitivity run' and 'sensitivity export' of a Q/DQ file write a "
    "copy with such biases, model.*.onnxruntime.onnx.",
    source="measured: ONNX Runtime 1.31.1 CPU, findings/ort_float_bias_keeps_a_last_layer_float.sh",
    bad=_last("[fc] y = Gemm (xd, wd, b)"),
    good=_last("bd = DequantizeLinear <axis = 0> (b32, own)\n[fc] y = Gemm (xd, wd, bd)"),
)
def gemm_in_float(subject: Subject) -> Iterator[Hit]:
    """Find quantized layers that become a Gemm in float, and what keeps each from integers."""
    for layer in float_gemms(subject.model):
        yield name_of(layer.node), f"expected {layer.wanted}, got {layer.got}"


def _quantized_convs(subject: Subject) -> Iterator[ir.Node]:
    """Yield the convolutions with both inputs quantized to 8-bit integers, the only ones that have
    INT8 kernels.

    Gemm and MatMul are not included, since they run in INT8 without a Q after them too.
    """
    for node in subject.nodes:
        if node.op_type != "Conv":
            continue
        before = pair_before(qdq.weight(node)), pair_before(qdq.activation(node))
        if all(pair is not None and _is_int8(pair) for pair in before):
            yield node


def _is_int8(pair: qdq.Pair) -> bool:
    return grid_type(pair.dequantize) in {"int8", "uint8"}


def _behind(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the users of a node's output, or those of its ReLU or Clip if that is the only user."""
    value = node.outputs[0]
    only = only_user(value)
    if only is not None and only.op_type in {"Relu", "Clip"}:
        value = only.outputs[0]
    yield from value.consumers()


def _users(node: ir.Node, kind: str) -> list[ir.Node]:
    """Return the operations of this kind that read the output of the node."""
    return [user for user in node.outputs[0].consumers() if user.op_type == kind]
