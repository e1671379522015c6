"""Writes FP16 as types in the graph, for engines that take every type from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.walk import (
    all_outputs,
    inputs,
    insert_after,
    of_kind,
    producer,
    value_name,
)

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
"""Operations that ONNX defines without FP16, or that hold subgraphs."""

FLOAT_INPUTS = {("Resize", 2)}
"""Inputs that ONNX requires in FP32 whatever the operation computes in: the scales of a Resize."""

SMALLEST, LARGEST = 2.0**-14, 65504.0
"""Scales that FP16 can hold. Smaller ones lose digits (below 6.1e-5) or become 0 (below 3e-8),
larger ones become infinite."""

LARGEST_VALUE = 512.0
"""Largest value in FP16. Above it FP16 steps are 0.5 and more, so pixel coordinates stay FP32, as
in ModelOpt's mixed precision."""

Place = tuple[ir.Node, int]
"""An operation and the index of one of its inputs."""

LARGEST_SUM = 32752.0
"""Largest value of weighted operations, half of FP16's range: their outputs are activations, which
need few digits."""


class Half(ir.passes.InPlacePass):
    """Lets everything compute in FP16 that can. Inputs and outputs of the model stay FP32.

    These stay FP32 too: operations whose values are too large, operations that ONNX defines for
    FP32 only, and quantized operations with a scale that FP16 cannot hold. Needs opset 19 or later,
    for FP16 scales.

    ranges: name of a value -> its smallest and largest value, to find what FP16 cannot hold.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.ranges = ranges

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.ShapeInferencePass()(model)
        graph = model.graph
        scaled = of_kind(graph, *qdq.PAIR)
        wide = list(filter(_is_wide, scaled))
        half = set(filter(self._can_be_half, graph)) - _with_neighbours(wide)
        _round_scales(node for node in scaled if node not in wide)
        floats = [value for value in _values(graph) if value.dtype == FLOAT]
        for node in half:
            _retype_attributes(node)
        for value in floats:
            _convert(graph, value, half)
        return ir.passes.PassResult(model, modified=True)

    def _can_be_half(self, node: ir.Node) -> bool:
        """Return whether the operation can compute in FP16."""
        if node.op_type in FLOAT_ONLY or node.domain:
            return False
        limit = LARGEST_VALUE
        if qdq.weight(node) is not None:
            limit = LARGEST_SUM
        return all(self._largest(value) <= limit for value in node.outputs)

    def _largest(self, value: ir.Value) -> float:
        """Return the largest magnitude that was seen of the value; 0 if it was not seen."""
        low, high = self.ranges.get(value_name(value), (0.0, 0.0))
        return max(abs(low), abs(high))


def _with_neighbours(wide: Iterable[ir.Node]) -> set[ir.Node]:
    """Return these Q and DQ nodes, the operations that read their DQs, and the other DQs that these
    operations read."""
    wide = list(wide)
    dequantized = all_outputs(of_kind(wide, "DequantizeLinear"))
    nodes = set(wide)
    for value in dequantized:
        for user in value.consumers():
            producers = filter(None, map(producer, user.inputs))
            nodes.update([user, *of_kind(producers, "DequantizeLinear")])
    return nodes


def _is_wide(node: ir.Node) -> bool:
    """Return whether FP16 cannot hold a scale of this Q or DQ, or the graph computes the scale."""
    scale = qdq.scales_of(node)
    outside = (scale < SMALLEST) | (scale > LARGEST)
    return scale.size == 0 or bool(outside.any())


def _round_scales(nodes: Iterable[ir.Node]) -> None:
    """Round the scales of these Q and DQ nodes to FP16.

    The two nodes of a pair then agree even if one of them stays FP32.
    """
    for node in nodes:
        value = inputs(node)[1]
        scale = qdq.known(value)
        rounded = scale.astype(np.float16).astype(scale.dtype)
        value.const_value = ir.tensor(rounded, name=value.name)


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *all_outputs(graph)]


def _retype_attributes(node: ir.Node) -> None:
    """Let an operation whose attributes state its type give FP16 instead of FP32."""
    attributes = node.attributes
    match node.op_type:
        case "Cast" if attributes.get_int("to") == FLOAT:
            attributes["to"] = ir.AttrInt64("to", HALF)
        case "ConstantOfShape" if "value" in attributes:
            tensor = attributes["value"].as_tensor().numpy()
            if tensor.dtype == np.float32:
                halved = ir.tensor(tensor.astype(np.float16))
                attributes["value"] = ir.AttrTensor("value", halved)


def _convert(graph: ir.Graph, value: ir.Value, half: Collection[ir.Node]) -> None:
    """Give the value the type that its producer now gives, and each user the type that it needs."""
    kind = _type_of(value.producer() in half)
    wrong = [place for place in value.uses() if _taken(place, half) != kind]
    if kind == HALF:
        _make_half(graph, value, wrong)
    elif wrong:
        _redirect(wrong, _as_half(graph, value))


def _type_of(is_half: bool) -> ir.DataType:
    return HALF if is_half else FLOAT


def _taken(place: Place, half: Collection[ir.Node]) -> ir.DataType:
    """Return the type that the operation needs at this place."""
    node, index = place
    is_float = (node.op_type, index) in FLOAT_INPUTS
    return _type_of(node in half and not is_float)


def _as_half(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Return the value in FP16: a new initializer if the value is a constant, else a Cast."""
    constant = qdq.constant(value)
    if constant is None or value.is_graph_input():
        return _cast(graph, value, HALF)
    return add(graph, f"{value.name}.fp16", constant.astype(np.float16))


def _make_half(graph: ir.Graph, value: ir.Value, wrong: Collection[Place]) -> None:
    """Make the value FP16, and let these uses and the model's output read a Cast of it to FP32.

    The model's output keeps its name.
    """
    is_output = value.is_graph_output()
    if wrong or is_output:
        cast = _cast(graph, value, FLOAT)
        _redirect(wrong, cast)
        if is_output:
            graph.outputs[graph.outputs.index(value)] = cast
            value.name, cast.name = f"{value.name}.fp16", value.name
    value.type = ir.TensorType(HALF)


def _redirect(uses: Iterable[Place], value: ir.Value) -> None:
    """Let the inputs at these places read this value."""
    for node, index in uses:
        node.replace_input_with(index, value)


def _cast(graph: ir.Graph, value: ir.Value, to: ir.DataType) -> ir.Value:
    """Insert a Cast of the value and return its output."""
    node = ir.node("Cast", [value], {"to": int(to)}, name=f"{value.name}/Cast")
    output = node.outputs[0]
    output.name, output.type, output.shape = f"{value.name}.cast", ir.TensorType(to), value.shape
    if value.producer() is None:
        graph.insert_before(graph[0], node)
    else:
        insert_after(value, [node])
    return output
