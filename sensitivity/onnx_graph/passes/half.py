"""FP16 by types in the graph, for engines that take every type from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.walk import insert_behind, made_by, value_name

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
FLOAT_ONLY = {
    "NonMaxSuppression",
    "Range",
    "If",
    "Loop",
    "Scan",
    "CumSum",
    "EyeLike",
    "ImageDecoder",
}
"""Operations that ONNX defines without FP16, or that hold graphs of their own."""

FLOAT_INPUTS = {("Resize", 2)}
"""Inputs that ONNX wants in FP32 whatever the operation computes in: the scales of a Resize."""

SMALLEST, LARGEST = 2.0**-14, 65504.0
"""Scales outside lose digits in FP16 (below 6.1e-5), become 0 (below 3e-8) or infinite."""

LARGEST_VALUE = 512.0
"""Above it FP16 steps are 0.5 and more: pixel coordinates stay FP32, as ModelOpt's mixed precision
keeps them."""

LARGEST_SUM = 32752.0
"""Half of FP16's range, for weighted operations: their outputs are activations, which need few
digits."""


class Half(ir.passes.InPlacePass):
    """Compute in FP16 whatever can be; inputs and outputs of the model stay FP32.

    ranges: smallest and largest value by value name, for what FP16 cannot hold. Stay FP32:
    operations whose values are too large, operations that ONNX defines for FP32 only, and quantized
    operations with a scale that FP16 cannot hold. Needs opset 19 or later (FP16 scales) and no
    Constant nodes.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.ranges = ranges

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.ShapeInferencePass()(model)
        graph = model.graph
        half = {node for node in graph if self._can_be_half(node)} - _with_wide_scales(graph)
        _round_scales(graph)
        floats = [value for value in _values(graph) if value.dtype == FLOAT]
        for node in half:
            _retype_attributes(node)
        for value in floats:
            _convert(graph, value, half)
        return ir.passes.PassResult(model, modified=True)

    def _can_be_half(self, node: ir.Node) -> bool:
        if node.op_type in FLOAT_ONLY or node.domain:
            return False
        limit = LARGEST_SUM if qdq.weight(node) is not None else LARGEST_VALUE
        return all(self._largest(value) <= limit for value in node.outputs)

    def _largest(self, value: ir.Value) -> float:
        """The largest magnitude that the value was seen with; 0 where it was not seen."""
        low, high = self.ranges.get(value_name(value), (0.0, 0.0))
        return max(abs(low), abs(high))


def _with_wide_scales(graph: ir.Graph) -> set[ir.Node]:
    """Q and DQ nodes whose scale FP16 cannot hold, and the operations that they feed, with all
    other Q/DQ of those."""
    wide = {node for node in graph if node.op_type in qdq.PAIR and _is_wide(node)}
    found = set(wide)
    for node in wide:
        if node.op_type != "DequantizeLinear":
            continue
        for user in node.outputs[0].consumers():
            beside = (made_by(value, "DequantizeLinear") for value in user.inputs)
            found.update([user, *filter(None, beside)])
    return found


def _is_wide(node: ir.Node) -> bool:
    scale = qdq.scales_of(node)
    outside = (scale < SMALLEST) | (scale > LARGEST)
    return scale.size == 0 or bool(outside.any())


def _round_scales(graph: ir.Graph) -> None:
    """Round every scale that FP16 can hold, so that Q and DQ of one pair agree where one of them
    stays FP32."""
    for node in graph:
        value = node.inputs[1] if node.op_type in qdq.PAIR else None
        if value is not None and not _is_wide(node):
            scale = qdq.known(value)
            rounded = scale.astype(np.float16).astype(scale.dtype)
            value.const_value = ir.tensor(rounded, name=value.name)


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [
        *graph.inputs,
        *graph.initializers.values(),
        *(value for node in graph for value in node.outputs),
    ]


def _retype_attributes(node: ir.Node) -> None:
    if node.op_type == "Cast" and node.attributes.get_int("to") == FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", HALF)
    if node.op_type == "ConstantOfShape" and "value" in node.attributes:
        tensor = node.attributes["value"].as_tensor().numpy()
        if tensor.dtype == np.float32:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(tensor.astype(np.float16)))


def _convert(graph: ir.Graph, value: ir.Value, half: set[ir.Node]) -> None:
    """Give the value the type that its producer makes now, and every user the type that it
    takes."""
    made = HALF if value.producer() in half else FLOAT
    uses = [(use.node, use.idx) for use in value.uses()]
    wrong = [(node, index) for node, index in uses if _taken(node, index, half) != made]
    if made == HALF:
        _make_half(graph, value, wrong)
    elif wrong:
        _redirect(wrong, _as_half(graph, value))


def _as_half(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """The value in FP16, beside it: stored where the file stores it, else a Cast."""
    constant = qdq.constant(value)
    if constant is None or value.is_graph_input():
        return _cast(graph, value, HALF)
    return add(graph, f"{value.name}.fp16", constant.astype(np.float16))


def _make_half(graph: ir.Graph, value: ir.Value, wrong: list[tuple[ir.Node, int]]) -> None:
    """Let the value be FP16, and what is to stay FP32 read a Cast of it: these uses, and the
    model's output, which keeps its name."""
    is_output = value.is_graph_output()
    if wrong or is_output:
        cast = _cast(graph, value, FLOAT)
        _redirect(wrong, cast)
        if is_output:
            graph.outputs[graph.outputs.index(value)] = cast
            value.name, cast.name = f"{value.name}.fp16", value.name
    value.type = ir.TensorType(HALF)


def _redirect(uses: Iterable[tuple[ir.Node, int]], value: ir.Value) -> None:
    """Let the inputs at these places read this value. uses: node and place."""
    for node, index in uses:
        node.replace_input_with(index, value)


def _taken(node: ir.Node, index: int, half: set[ir.Node]) -> ir.DataType:
    if (node.op_type, index) in FLOAT_INPUTS or node not in half:
        return FLOAT
    return HALF


def _cast(graph: ir.Graph, value: ir.Value, to: ir.DataType) -> ir.Value:
    node = ir.node("Cast", [value], {"to": int(to)}, name=f"{value.name}/Cast")
    output = node.outputs[0]
    output.name, output.type, output.shape = f"{value.name}.cast", ir.TensorType(to), value.shape
    if value.producer() is None:
        graph.insert_before(graph[0], node)
    else:
        insert_behind(value, [node])
    return output
