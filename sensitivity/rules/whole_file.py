"""SQ0: whether the file can be read and linted at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import name_of
from sensitivity.rules.base import Hit, Seen, Subject, rule
from sensitivity.rules.examples import CANONICAL, WEIGHT, Example, conv
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.paths import QDQ, grid_type, steps
from sensitivity.rules.targets import RTX, TARGETS, TENSORRT

OPSETS = {"tensorrt-8.6": (7, 17), "tensorrt-10": (9, 20), "tensorrt-11": (9, 25)}
OPERATOR_FORM = {
    *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"),
    *(
        "QLinearAdd",
        "QLinearMul",
        "QLinearConcat",
        "QLinearSigmoid",
        "QLinearLeakyRelu",
        "QLinearAveragePool",
    ),
    *(
        "QLinearGlobalAveragePool",
        "QLinearSoftmax",
        "QGemm",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
    ),
    *("QAttention", "DynamicQuantizeLSTM"),
}
"""Operations that compute on integers: ONNX's own and, from QLinearAdd on, ONNX Runtime's."""

FLOAT = Example("[conv] y = Conv <pads = [1, 1, 1, 1]> (x, w)")
DYNAMIC = Example(
    "xq, xs, xz = DynamicQuantizeLinear (x)\n"
    "[conv] yi = ConvInteger <pads = [1, 1, 1, 1]> (xq, w8, xz)\n"
    "yf = Cast <to = 1> (yi)\n"
    "y = Mul (yf, xs)\n",
    constants={"w8": np.ones((16, 16, 3, 3), np.int8)},
)
ORT_DOMAIN = Example(
    "xq = com.microsoft.QuantizeLinear (x, s, z)\nxd = com.microsoft.DequantizeLinear (xq, s, z)\n"
    + WEIGHT
    + '[conv] y = com.microsoft.FusedConv <activation = "Relu", pads = [1, 1, 1, 1]> (xd, wd)\n'
)
TAKEN_BY_RTX = QDQ | {"Gelu"}
"""Operators of the domain com.microsoft that the parser of TensorRT-RTX 1.7.1 takes."""
REFUSES_INTEGERS = frozenset(
    {"GlobalAveragePool", "Sigmoid", "Softmax", "LogSoftmax", "Tanh", "Elu", "Selu"}
    | {"Exp", "Sqrt", "Floor", "Softplus"}
)
"""Operations that TensorRT-RTX 1.7.1 does not build for the integers of a Q."""
HALF = {"s": np.array(0.05, np.float16), "h": np.ones((16, 16, 3, 3), np.float16)}


@rule(
    "SQ001",
    "no-qdq",
    "warning",
    TARGETS,
    why="A file without QuantizeLinear and DequantizeLinear runs in float: there is nothing to "
    "gain and nothing to judge.",
    fix="Export the quantized model ('sensitivity export'), or check that this is the file you "
    "meant.",
    source="ONNX operators QuantizeLinear and DequantizeLinear",
    bad=FLOAT,
    good=CANONICAL,
)
def no_qdq(subject: Subject) -> Iterator[Hit]:
    """Report a file with neither Q/DQ nor operations on integers."""
    if not any(node.op_type in QDQ | OPERATOR_FORM for node in subject.nodes):
        yield (
            subject.graph.name or "graph",
            f"expected Q/DQ pairs, got none among {len(subject.nodes)} nodes",
        )


@rule(
    "SQ002",
    "operator-form",
    "error",
    (*TENSORRT, RTX),
    why="QLinearConv, ConvInteger, DynamicQuantizeLinear and similar operations compute on "
    "integers themselves. TensorRT reads only Q/DQ pairs around float operations.",
    fix="Quantize to Q/DQ pairs instead: in ONNX Runtime, quantize_static with "
    "quant_format=QuantFormat.QDQ.",
    source="onnx-tensorrt docs/operators.md: none of ONNX's five is supported",
    bad=DYNAMIC,
    good=CANONICAL,
    rtx=Seen("refuses it"),
)
def operator_form(subject: Subject) -> Iterator[Hit]:
    """Find the first operation that computes on integers, and count them by kind."""
    yield from _operator_form(subject)


@rule(
    "SQ003",
    "operator-form-not-judged",
    "info",
    ("openvino", "onnxruntime"),
    why="The file is quantized in operator form, static (QLinearConv) or dynamic "
    "(DynamicQuantizeLinear). ONNX Runtime runs it, and so does OpenVINO, except for some of ONNX "
    "Runtime's own operators. The other rules judge only Q/DQ pairs and say nothing about it.",
    fix="Nothing, if it runs at the speed that you need; otherwise quantize to Q/DQ pairs.",
    source="ONNX Runtime docs, Quantize ONNX Models > ONNX quantization representation format; "
    "tried with OpenVINO 2026.4.1",
    bad=DYNAMIC,
    good=CANONICAL,
)
def operator_form_not_judged(subject: Subject) -> Iterator[Hit]:
    """Find what `operator_form` finds, for runtimes that run it."""
    yield from _operator_form(subject)


def _operator_form(subject: Subject) -> Iterator[Hit]:
    operations = [node for node in subject.nodes if node.op_type in OPERATOR_FORM]
    if operations:
        kinds = Counter(node.op_type for node in operations)
        shown = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        yield name_of(operations[0]), f"expected Q/DQ pairs around float operations, got {shown}"


@rule(
    "SQ010",
    "opset-range",
    "error",
    TENSORRT,
    why="Each TensorRT version reads a range of ONNX opsets. A file outside it fails to parse, or "
    "parses with operations whose meaning has changed.",
    fix="Export with opset 17, which 8.6, 10 and 11 read; with opset 19 for FP16 scales on 10 and "
    "11.",
    source="onnx-tensorrt docs/operators.md: 8.6 up to 17, 10 from 9 to 20, 11 from 9 to 25; "
    "ModelImporter.cpp 8.6: from 7",
    bad=Example(CANONICAL.body, opset=26),
    good=CANONICAL,
    rtx=Seen("takes opsets 9 and 26 too"),
)
def opset_range(subject: Subject) -> Iterator[Hit]:
    """Report a file whose opset this version of TensorRT does not read."""
    low, high = OPSETS[subject.target]
    if not low <= subject.opset <= high:
        yield (
            "graph",
            f"expected an opset from {low} to {high} for {subject.target}, got {subject.opset}",
        )


@rule(
    "SQ011",
    "opset-too-old",
    "error",
    TARGETS,
    why="Per-channel scales came with opset 13, FP16 scales and FP8 with 19, and 16-bit and 4-bit "
    "integers with 21. In an older opset such a node is not valid, and what a runtime makes of it "
    "is not defined.",
    fix="Export with a newer opset: 17 for per-channel scales, 19 for FP16 scales and FP8, 21 for "
    "4 and 16 bits.",
    source="ONNX operators, versions of QuantizeLinear (10, 13, 19, 21)",
    bad=Example(CANONICAL.body, opset=12),
    good=CANONICAL,
    rtx=Seen("takes a per-channel scale in opset 12 and computes in INT8", "info"),
)
def opset_too_old(subject: Subject) -> Iterator[Hit]:
    """Find Qs and DQs whose scales or types came with a later opset than the file's."""
    for node in steps(subject.nodes):
        for what, needed in _needs(node):
            if subject.opset < needed and not node.domain:
                yield (
                    name_of(node),
                    f"expected opset {needed} or later for {what}, got {subject.opset}",
                )


def _needs(node: ir.Node) -> Iterator[tuple[str, int]]:
    """Yield each feature of a Q or DQ with the opset that introduced it."""
    scale, kind = qdq.constant(node.inputs[1]), grid_type(node)
    if scale is not None:
        if scale.size > 1:
            yield "a per-channel scale", 13
        if scale.dtype in (np.float16, ml_dtypes.bfloat16):
            yield f"a {scale.dtype.name} scale", 19
    if kind is not None and kind.startswith("float8"):
        yield f"{kind} values", 19
    if kind in {"int16", "uint16", "int4", "uint4"}:
        yield f"{kind} values", 21


@rule(
    "SQ012",
    "runtime-specific-operators",
    "error",
    (*TENSORRT, RTX),
    why="A file saved by ONNX Runtime after optimization, or quantized with its own operators, "
    "holds nodes of the domain com.microsoft (and an INT32 bias after DQ), which TensorRT does "
    "not know.",
    fix="Give the runtime the file from before optimization; quantize without UseQDQContribOps.",
    source="ONNX Runtime docs, Graph Optimizations > offline mode; onnx-tensorrt docs/operators.md",
    bad=ORT_DOMAIN,
    good=CANONICAL,
    rtx=Seen("takes Q, DQ and Gelu of that domain, and refuses others, such as FusedConv"),
)
def runtime_specific_operators(subject: Subject) -> Iterator[Hit]:
    """Find the first operation of com.microsoft that the target does not take, and count them."""
    taken = TAKEN_BY_RTX if subject.target == RTX else frozenset()
    operations = [
        node
        for node in subject.nodes
        if node.domain == "com.microsoft" and node.op_type not in taken
    ]
    if operations:
        kinds = ", ".join(sorted({node.op_type for node in operations}))
        yield (
            name_of(operations[0]),
            f"expected ONNX's own operators, got {len(operations)} of com.microsoft: {kinds}",
        )


@rule(
    "SQ013",
    "lone-quantize",
    "warning",
    (*TENSORRT, RTX),
    why="TensorRT finds INT8 layers by Q/DQ pairs. Integers that go from a Q to anything other "
    "than a DQ stay integers, and most layers refuse them.",
    fix="Put a DequantizeLinear with the same scale and zero point after every QuantizeLinear.",
    source="NVIDIA TensorRT documentation, Explicit Quantization > TensorRT processing of Q/DQ "
    "networks",
    bad=Example(
        "xq = QuantizeLinear (x, s, z)\nxt = MaxPool <kernel_shape = [1, 1]> (xq)\nxd = "
        "DequantizeLinear (xt, s, z)\n" + WEIGHT + conv()
    ),
    good=Example(
        "xt = MaxPool <kernel_shape = [1, 1]> (x)\n" + pair("xt", to="xd") + WEIGHT + conv()
    ),
    rtx=Seen("computes in INT8 where the operation takes integers; for others see SQ014"),
)
def lone_quantize(subject: Subject) -> Iterator[Hit]:
    """Find Qs whose output is read by anything other than a DQ, or by nothing."""
    for node in subject.nodes:
        if node.op_type != "QuantizeLinear":
            continue
        readers = [user.op_type for user in node.outputs[0].consumers()]
        others = [kind for kind in readers if kind != "DequantizeLinear"]
        if others or not readers:
            got = ", ".join(others) or "nothing"
            yield name_of(node), f"expected only DequantizeLinear after this Q, got {got}"


@rule(
    "SQ014",
    "lone-quantize-refused",
    "error",
    (RTX,),
    why="TensorRT-RTX keeps integers that go from a Q to anything other than a DQ as integers, and "
    "some operations have no integer version. NVIDIA documents only Q/DQ pairs, for TensorRT 8.6, "
    "10 and 11: SQ013.",
    fix="Put a DequantizeLinear with the same scale and zero point after the QuantizeLinear.",
    source="measured with TensorRT-RTX 1.7.1.116, for SM 8.9: it builds Relu, LeakyRelu, Clip, "
    "Add, Mul, Concat, MaxPool, AveragePool, Reshape, Transpose and nearest Resize of integers, "
    "and refuses " + ", ".join(sorted(REFUSES_INTEGERS)),
    bad=Example(
        "xq = QuantizeLinear (x, s, z)\nxt = Sigmoid (xq)\nxd = DequantizeLinear (xt, s, z)\n"
        + WEIGHT
        + conv()
    ),
    good=Example("xt = Sigmoid (x)\n" + pair("xt", to="xd") + WEIGHT + conv()),
    rtx=Seen("refuses it when it builds"),
)
def lone_quantize_refused(subject: Subject) -> Iterator[Hit]:
    """Find operations on the integers of a Q that TensorRT-RTX does not build."""
    for node in subject.nodes:
        if node.op_type != "QuantizeLinear":
            continue
        for user in node.outputs[0].consumers():
            if user.op_type in REFUSES_INTEGERS:
                yield (
                    name_of(user),
                    f"expected a DequantizeLinear between {name_of(node)} and this "
                    f"{user.op_type}, got none",
                )
