"""SQ4: what decides speed between the INT8 layers: residual adds, shared scales, and runs of
INT8."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.reach import name_of
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
UNEQUAL = {"s2": np.array(0.07, np.float32)}


@rule(
    "SQ401",
    "residual-float",
    "warning",
    TENSORRT,
    why="TensorRT fuses a convolution with the Add behind it into one INT8 kernel if the other "
    "input of the Add "
    "is INT8 too. A float residual breaks the fusion: on a ResNet-18 the file without it ran in "
    "0.883 ms, slower than FP16 (0.862), and with it in 0.546 (A100, batch 32).",
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
    for node in subject.nodes:
        if node.op_type != "Add" or any(qdq.constant(value) is not None for value in node.inputs):
            continue
        from_conv = [value for value in node.inputs if _from_quantized_layer(value)]
        quantized = [value for value in node.inputs if pair_before(value) is not None]
        if (
            from_conv
            and not quantized
            and any(quantizers_after(node.outputs[0], MOVES_VALUES | ACTIVATIONS))
        ):
            residual = next((v for v in node.inputs if v is not from_conv[0]), node.inputs[-1])
            name = residual.name if residual is not None else "?"
            yield name_of(node), f"expected a Q/DQ pair on the residual input {name}, got float"


def _from_quantized_layer(value: ir.Value | None) -> bool:
    """Whether a convolution or matrix product with a quantized weight gives this value, perhaps
    through BatchNorm."""
    node = value.producer() if value is not None else None
    while (
        node is not None
        and node.op_type in {"BatchNormalization", "Cast"}
        and node.inputs[0] is not None
    ):
        node = node.inputs[0].producer()
    return node is not None and pair_before(qdq.weight(node)) is not None


def _concat(second: str) -> str:
    """Two tensors of 8 channels, quantized by s and `second`, one after the other into a
    convolution of 16."""
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
    why="A Concat of INT8 values needs one scale for all of them, and for their other users; "
    "unequal scales put a"
    " requantize kernel on each input (10.8 % of kernel time in YOLOv6, 180 instead of 207 queries "
    "a second in YOLOv7).",
    fix="Give all inputs of the Concat, and the quantizers behind it, the largest of their scales.",
    source="Meituan, YOLOv6 quantization practice; NVIDIA yolo_deepstream, guidance of yolov7_qat",
    bad=Example(_concat("s2"), inputs=HALVES, constants=UNEQUAL),
    good=Example(_concat("s"), inputs=HALVES),
)
def concat_scales(subject: Subject) -> Iterator[Hit]:
    for node in subject.nodes:
        if node.op_type == "Concat":
            found = list(quantizers_after(node.outputs[0]))
            for value in node.inputs:
                source = origin(value)
                found += list(quantizers_after(source)) if source is not None else []
            yield from _unequal(name_of(node), "concatenated values", found)


@rule(
    "SQ403",
    "fan-out-scales",
    "warning",
    (*TENSORRT, RTX),
    why="A value that several layers quantize is stored once if they agree on its scale; otherwise "
    "every further "
    "scale is one more kernel and one more copy.",
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
    given = [value for graph in subject.model.graphs() for value in graph.inputs]
    for value in (*given, *(output for node in subject.nodes for output in node.outputs)):
        producer = value.producer()
        # those are judged at the value that they move
        if producer is None or producer.op_type not in MOVES_VALUES:
            where = name_of(producer) if producer is not None else value.name or "?"
            yield from _unequal(where, f"users of {value.name}", list(quantizers_after(value)))


def _unequal(where: str, what: str, quantizers: list[ir.Node]) -> Iterator[Hit]:
    scales = [
        scale
        for node in quantizers
        if (scale := qdq.constant(node.inputs[1])) is not None and scale.size == 1
    ]
    values = sorted({float(scale.reshape(())) for scale in scales})
    if len(values) > 1:
        yield (
            where,
            f"expected one scale for the {what}, got "
            f"{', '.join(f'{value:.6g}' for value in values[:4])}",
        )


COMPUTES = ACTIVATIONS | {
    *("Add", "Sub", "Mul", "Div", "Sum", "Softmax", "Resize"),
    *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"),
}  # fmt: skip
"""Operations without a weight that give new values, so that a Q behind them cannot move in
front."""


@rule(
    "SQ404",
    "int8-in-float-out",
    "warning",
    TENSORRT,
    why="An operation without a weight gains from INT8 only through the memory that it does not "
    "move; with INT8 "
    "in and float out it runs in float, and the Q and DQ in front become kernels of their own.",
    fix="Quantize its output too, or take the Q/DQ off its inputs.",
    source=PLACEMENT + "; ResNet-18 on an A100: 0.546 ms, with the pooling quantized too 0.500",
    bad=Example(pair("x") + "[pool] y = AveragePool <kernel_shape = [1, 1]> (xd)"),
    good=Example(
        pair("x") + "[pool] r = AveragePool <kernel_shape = [1, 1]> (xd)\n" + pair("r") + V + AFTER
    ),
)
def int8_in_float_out(subject: Subject) -> Iterator[Hit]:
    for node in subject.nodes:
        data = [value for value in node.inputs if value is not None and qdq.constant(value) is None]
        if (
            node.op_type not in COMPUTES
            or not data
            or not all(qdq.pair_of(value) is not None for value in data)
        ):
            continue
        if not any(quantizers_after(node.outputs[0], MOVES_VALUES | ACTIVATIONS | {"Concat"})):
            yield (
                name_of(node),
                f"expected INT8 behind this {node.op_type} as in front of it, got float",
            )


@rule(
    "SQ405",
    "repvgg-branches",
    "warning",
    TARGETS,
    why="A RepVGG block in its training form adds a 3x3 and a 1x1 convolution (and BatchNorm) of "
    "the same tensor:"
    " several layers where one would do, each with its own scale, and quantized so it is slower "
    "than the "
    "merged float block.",
    fix="Merge the branches before calibration (switch_to_deploy, reparameterize), with RepOpt or "
    "QAT if the "
    "merged weights quantize badly.",
    source="RepVGG paper and repository; YOLOv6 tools/quantization: RepVGG-B1 falls from 78.4 to "
    "54.6 when merged "
    "and quantized without care",
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
    for node in subject.nodes:
        if node.op_type not in {"Add", "Sum"} or _is_term(node):
            continue
        branches = [found for value in _terms(node) if (found := _branch(value)) is not None]
        for source in {id(start): start for start, _ in branches}.values():
            sizes = sorted({size for start, size in branches if start is source})
            if len(sizes) > 1:
                shown = " and ".join(f"{size}x{size}" for size in sizes)
                yield (
                    name_of(node),
                    f"expected one convolution of {source.name}, got the sum of {shown} ones",
                )


def _is_term(node: ir.Node) -> bool:
    """Whether this sum is only a term of another one."""
    return any(user.op_type in {"Add", "Sum"} for user in node.outputs[0].consumers())


def _terms(node: ir.Node) -> Iterator[ir.Value]:
    """What a tree of Add and Sum adds up, once each."""
    open_values, seen = list(node.inputs), set(node.inputs)
    while open_values:
        value = open_values.pop(0)
        inner = value.producer() if value is not None else None
        if inner is not None and inner.op_type in {"Add", "Sum"}:
            open_values += [term for term in inner.inputs if term not in seen]
            seen.update(inner.inputs)
        elif value is not None:
            yield value


def _branch(value: ir.Value) -> tuple[ir.Value, int] | None:
    """(what a convolution reads, its kernel size) where one gives this value, perhaps through
    BatchNorm and Q/DQ."""
    start = origin(value)
    node = start.producer() if start is not None else None
    if node is not None and node.op_type == "BatchNormalization":
        start = origin(node.inputs[0])
        node = start.producer() if start is not None else None
    weight = origin(qdq.weight(node)) if node is not None and node.op_type == "Conv" else None
    shape = qdq.constant(weight)
    source = origin(node.inputs[0]) if node is not None and shape is not None else None
    return (source, shape.shape[-1]) if source is not None and shape is not None else None
