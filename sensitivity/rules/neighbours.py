"""SQ4: speed between INT8 layers: residual adds, shared scales, and chains of INT8 operations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import made_by, name_of, source, terms
from sensitivity.rules.base import Hit, Seen, Subject, rule
from sensitivity.rules.examples import POINTWISE, WEIGHT, Example, conv
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.paths import ACTIVATIONS, MOVES_VALUES, origin, pair_before, quantizers_after
from sensitivity.rules.targets import RTX, TARGETS, TENSORRT
from sensitivity.rules.weighted import PLACEMENT

TWO_OUT = "float[1,16,8,8] y, float[1,16,8,8] y2"
AFTER = conv("rd", "vd", name="next", rest=POINTWISE)
V = pair("v", "ws", "wz", axis=0)
SIDE = conv("ad", "vd", to="y2", name="side", rest=POINTWISE)
SUMS = ("Add", "Sum")
UNEQUAL = {"s2": np.array(0.07, np.float32)}


@rule(
    "SQ401",
    "residual-float",
    "warning",
    TENSORRT,
    why="TensorRT fuses a convolution with the Add after it into one INT8 kernel if the other "
    "input of the Add is INT8 too. A float residual breaks the fusion: a ResNet-18 took 0.883 ms "
    "with float residuals, more than in FP16 (0.862), and 0.546 ms with quantized ones (A100, "
    "batch 32).",
    fix="Put a Q/DQ pair on the residual input of the Add (the input that does not come from the "
    "convolution).",
    source=PLACEMENT + ": quantize the residual input in skip connections",
    bad=Example(
        pair("x")
        + WEIGHT
        + conv(to="c")
        + "[add] a = Add (c, x)\nr = Relu (a)\n"
        + pair("r")
        + V
        + AFTER
    ),
    good=Example(
        pair("x")
        + WEIGHT
        + conv(to="c")
        + "[add] a = Add (c, xd)\nr = Relu (a)\n"
        + pair("r")
        + V
        + AFTER
    ),
    rtx=Seen("runs the convolutions of this example in INT8 with a float residual too"),
)
def residual_float(subject: Subject) -> Iterator[Hit]:
    """Find every Add of a quantized layer and a float value whose sum is quantized again."""
    through = MOVES_VALUES | ACTIVATIONS
    for node in subject.nodes:
        if node.op_type != "Add" or len(qdq.variable_inputs(node)) < len(node.inputs):
            continue
        residual = _float_residual(node)
        if residual is not None and any(quantizers_after(node.outputs[0], through)):
            yield (
                name_of(node),
                f"expected a Q/DQ pair on the residual input {residual.name}, got float",
            )


def _float_residual(add: ir.Node) -> ir.Value | None:
    """Return the operand next to that of a quantized layer; None if either comes from a pair."""
    operands = qdq.variable_inputs(add)
    if any(pair_before(value) is not None for value in operands):
        return None
    from_layer = [value for value in operands if _from_quantized_layer(value)]
    if not from_layer:
        return None
    others = [value for value in operands if value is not from_layer[0]]
    return others[0] if others else operands[-1]


def _from_quantized_layer(value: ir.Value) -> bool:
    """Return whether a convolution or matrix product with a quantized weight gives this value,
    possibly through BatchNorm."""
    node = source(value, lambda node: node.op_type in {"BatchNormalization", "Cast"}).producer()
    return node is not None and pair_before(qdq.weight(node)) is not None


def _concat(second: str) -> str:
    """Return a Concat of two tensors of 8 channels, quantized with s and `second`, that feeds a
    convolution."""
    return (
        pair("x")
        + pair("x2", second)
        + "[concat] c = Concat <axis = 1> (xd, x2d)\n"
        + pair("c")
        + WEIGHT
        + conv("cd")
    )


HALVES = "float[1,8,8,8] x, float[1,8,8,8] x2"


@rule(
    "SQ402",
    "concat-scales",
    "warning",
    (*TENSORRT, RTX),
    why="A Concat of INT8 values needs one scale for all of them, and for their other users. "
    "Unequal scales put a requantize kernel on each input (10.8 % of kernel time in YOLOv6, 180 "
    "instead of 207 queries a second in YOLOv7).",
    fix="Give all inputs of the Concat, and the quantizers after it, the largest of their scales.",
    source="Meituan, YOLOv6 quantization practice; NVIDIA yolo_deepstream, guidance of yolov7_qat",
    bad=Example(_concat("s2"), inputs=HALVES, constants=UNEQUAL),
    good=Example(_concat("s"), inputs=HALVES),
)
def concat_scales(subject: Subject) -> Iterator[Hit]:
    """Find every Concat whose inputs and output are quantized with more than one scale."""
    for node in subject.nodes:
        if node.op_type == "Concat":
            values = [node.outputs[0], *map(origin, node.inputs)]
            quantizers = [
                quantizer
                for value in values
                if value is not None
                for quantizer in quantizers_after(value)
            ]
            yield from _unequal(name_of(node), "concatenated values", quantizers)


@rule(
    "SQ403",
    "fan-out-scales",
    "warning",
    (*TENSORRT, RTX),
    why="A value that several layers quantize is stored once if they agree on its scale; every "
    "further scale costs one more kernel and one more copy.",
    fix="Give all quantizers of this value the largest of their scales.",
    source="Meituan, YOLOv6 quantization practice; NVIDIA yolo_deepstream, guidance of yolov7_qat",
    bad=Example(
        pair("x") + pair("x", "s2", to="ad") + WEIGHT + V + conv() + SIDE,
        outputs=TWO_OUT,
        constants=UNEQUAL,
    ),
    good=Example(
        pair("x") + pair("x", to="ad") + WEIGHT + V + conv() + SIDE,
        outputs=TWO_OUT,
    ),
)
def fan_out_scales(subject: Subject) -> Iterator[Hit]:
    """Find every value that its readers quantize with more than one scale."""
    given_values = chain.from_iterable(graph.inputs for graph in subject.model.graphs())
    for value in given_values:
        yield from _unequal_users(value, value.name or "?")
    for node in subject.nodes:
        # Operations that only move a value are covered by the check of that value.
        if node.op_type not in MOVES_VALUES:
            for value in node.outputs:
                yield from _unequal_users(value, name_of(node))


def _unequal_users(value: ir.Value, where: str) -> Iterator[Hit]:
    yield from _unequal(where, f"users of {value.name}", quantizers_after(value))


def _unequal(where: str, what: str, quantizers: Iterable[ir.Node]) -> Iterator[Hit]:
    known = set()
    for node in quantizers:
        scale = qdq.constant(node.inputs[1])
        if scale is not None and scale.size == 1:
            known.add(float(scale.reshape(())))
    if len(known) > 1:
        shown = ", ".join(f"{scale:.6g}" for scale in sorted(known)[:4])
        yield where, f"expected one scale for the {what}, got {shown}"


COMPUTES = ACTIVATIONS | {
    *("Add", "Sub", "Mul", "Div", "Sum", "Softmax", "Resize"),
    *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"),
}  # fmt: skip
"""Operations without a weight that compute new values, so that a Q after them cannot move before
them."""


@rule(
    "SQ404",
    "int8-in-float-out",
    "warning",
    TENSORRT,
    why="An operation without a weight gains from INT8 only because it moves less memory. With "
    "INT8 inputs and a float output it runs in float, and the Q and DQ before it become "
    "kernels of their own.",
    fix="Quantize its output too, or remove the Q/DQ pairs from its inputs.",
    source=PLACEMENT + "; ResNet-18 on an A100: 0.546 ms, with the pooling quantized too 0.500",
    bad=Example(pair("x") + "[pool] y = AveragePool <kernel_shape = [1, 1]> (xd)"),
    good=Example(
        pair("x") + "[pool] r = AveragePool <kernel_shape = [1, 1]> (xd)\n" + pair("r") + V + AFTER
    ),
)
def int8_in_float_out(subject: Subject) -> Iterator[Hit]:
    """Find operations without a weight that read only quantized values and give a float one."""
    through = MOVES_VALUES | ACTIVATIONS | {"Concat"}
    for node in subject.nodes:
        if node.op_type not in COMPUTES or not _reads_only_pairs(node):
            continue
        if not any(quantizers_after(node.outputs[0], through)):
            yield (
                name_of(node),
                f"expected INT8 after this {node.op_type} as before it, got float",
            )


def _reads_only_pairs(node: ir.Node) -> bool:
    values = qdq.variable_inputs(node)
    return bool(values) and all(qdq.pair_of(value) is not None for value in values)


@rule(
    "SQ405",
    "repvgg-branches",
    "warning",
    TARGETS,
    why="A RepVGG block in its training form adds a 3x3 and a 1x1 convolution (and BatchNorm) of "
    "the same tensor: several layers instead of one, each with its own scale. Quantized in this "
    "form, it is slower than the merged float block.",
    fix="Merge the branches before calibration (switch_to_deploy, reparameterize); use RepOpt or "
    "QAT if the merged weights quantize badly.",
    source="RepVGG paper and repository; YOLOv6 tools/quantization: RepVGG-B1 falls from 78.4 to "
    "54.6 when merged and quantized without care",
    bad=Example(
        pair("x")
        + WEIGHT
        + V
        + conv(to="c3")
        + conv("xd", "vd", to="c1", name="side", rest=POINTWISE)
        + "[add] a = Add (c3, c1)\ny = Relu (a)"
    ),
    good=Example(pair("x") + WEIGHT + conv(to="c3") + "y = Relu (c3)"),
)
def repvgg_branches(subject: Subject) -> Iterator[Hit]:
    """Find sums of convolutions of one value whose kernels differ in size."""
    for node in subject.nodes:
        if node.op_type not in SUMS or _is_term(node):
            continue
        for value, sizes in _kernel_sizes(node).items():
            if len(sizes) > 1:
                shown = " and ".join(f"{size}x{size}" for size in sorted(sizes))
                yield (
                    name_of(node),
                    f"expected one convolution of {value.name}, got the sum of {shown} ones",
                )


def _kernel_sizes(node: ir.Node) -> dict[ir.Value, set[int]]:
    """Return, for each value, the kernel sizes of its convolutions among the terms of a sum."""
    sizes: dict[ir.Value, set[int]] = {}
    for term in terms(node, SUMS):
        branch = _branch(term)
        if branch is not None:
            value, kernel_size = branch
            sizes.setdefault(value, set()).add(kernel_size)
    return sizes


def _is_term(node: ir.Node) -> bool:
    """Return whether this sum is only a term of another one."""
    return any(user.op_type in SUMS for user in node.outputs[0].consumers())


def _branch(value: ir.Value) -> tuple[ir.Value, int] | None:
    """Return (input of a convolution, its kernel size) if a convolution gives this value, possibly
    through BatchNorm and Q/DQ."""
    norm = made_by(origin(value), "BatchNormalization")
    conv_node = made_by(origin(value if norm is None else norm.inputs[0]), "Conv")
    if conv_node is None:
        return None
    start, weight = origin(conv_node.inputs[0]), qdq.constant(origin(qdq.weight(conv_node)))
    return None if start is None or weight is None else (start, weight.shape[-1])
