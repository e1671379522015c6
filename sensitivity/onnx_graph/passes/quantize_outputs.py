"""Q/DQ on what integer kernels give, where canonical files quantize only what they take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.new_pair import new_pair
from sensitivity.onnx_graph.passes.one_pair_per_value import ELEMENTWISE, ONLY_SHAPE
from sensitivity.onnx_graph.walk import insert_behind, value_name

SAME_GRID = {
    "MaxPool", "Resize", "Split", "Slice", "Reshape", "Transpose", "Flatten", "Squeeze",
    "Unsqueeze",
}  # fmt: skip
"""Operations whose output has the values of their input: they keep its scale."""

SMALLEST_SCALE = 1e-30

COARSEST = 0.5
"""A LeakyRelu shrinks the negative side, so what comes before it needs a much wider grid than what
comes after.

Steps up to half as large as the later ones are taken: they add at most an eighth to the rounding
error. With larger ones MobileNetV1 x0.25 loses up to 5 points; such layers run in float.
"""

Grid = tuple[np.ndarray, np.ndarray]
"""Scale and zero point."""

WITH_OUTPUT = {"Conv", "Gemm", "MatMul"}


class QuantizeOutputs(ir.passes.InPlacePass):
    """Quantize outputs of quantized operations, uint8 over their range, where only quantized layers
    see them.

    ranges: smallest and largest value by value name; values without a range are left alone. What
    skipped layers get, and what the model gives, keeps its precision.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.ranges = ranges

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            if not _computes_in_integers(node):
                continue
            for output in node.outputs:
                value = qdq.behind_relu(output)
                if not _pairs_on(value) and only_to_quantized(value):
                    modified |= self._quantize(model.graph, node, value)
        return ir.passes.PassResult(model, modified=modified)

    def _quantize(self, graph: ir.Graph, node: ir.Node, value: ir.Value) -> bool:
        users = [use for use in value.uses() if use.node.op_type in ELEMENTWISE]
        if node.op_type in SAME_GRID:
            grid = _grid_of_input(node)
        else:
            grid = _later_grid(value) or self._grid(value)
        if grid is None or not users:
            return False
        scale = add(graph, f"{value.name}.scale", grid[0])
        zero_point = add(graph, f"{value.name}.zero_point", grid[1])
        names = f"{value.name}/QuantizeLinear", f"{value.name}/DequantizeLinear"
        quantize, dequantize = new_pair(value, [scale, zero_point], None, names)
        dequantize.outputs[0].type, dequantize.outputs[0].shape = value.type, value.shape
        insert_behind(value, [quantize, dequantize])
        for use in users:
            use.node.replace_input_with(use.idx, dequantize.outputs[0])
        return True

    def _grid(self, value: ir.Value) -> Grid | None:
        """Scale and zero point that spread uint8 over the value's range; None where that is too
        coarse."""
        low, high = self.ranges.get(value_name(value), (0.0, 0.0))
        scale = (max(high, 0.0) - min(low, 0.0)) / 255
        if not np.isfinite(scale) or not SMALLEST_SCALE <= scale <= COARSEST * _next_scale(value):
            return None
        zero_point = round(-min(low, 0.0) / scale)
        return np.array(scale, np.float32), np.array(zero_point, np.uint8)


def _grid_of_input(node: ir.Node) -> Grid | None:
    pair = qdq.pair_of(node.inputs[0])
    if pair is None or pair.scale is None or pair.zero_point is None:
        return None
    return pair.scale, pair.zero_point


def _later_grid(value: ir.Value) -> Grid | None:
    """The one grid that the value's own numbers are put on later, wherever they go: taking it here
    changes nothing, and what only moves them can move integers. None where they reach several
    grids, or an operation in float."""
    found: dict[tuple[bytes, bytes], Grid] = {}
    ready = [value]
    while ready:
        for user in ready.pop().consumers():
            if user.op_type == "QuantizeLinear":
                scale, zero_point = map(qdq.constant, user.inputs[1:3])
                if scale is None or zero_point is None:
                    return None
                found[scale.tobytes(), zero_point.tobytes()] = scale, zero_point
            elif user.op_type in SAME_GRID | {"Concat"}:
                ready += user.outputs
            elif user.op_type not in ONLY_SHAPE:
                return None
    return next(iter(found.values())) if len(found) == 1 else None


def _next_scale(value: ir.Value) -> float:
    """The scale of the first quantizer behind a LeakyRelu; infinite where none is found."""
    leaky = next((user for user in value.consumers() if user.op_type == "LeakyRelu"), None)
    if leaky is None:
        return np.inf
    largest = -np.inf
    for user in leaky.outputs[0].consumers():
        scale = qdq.constant(user.inputs[1]) if user.op_type == "QuantizeLinear" else None
        if scale is not None:
            largest = max(largest, float(scale.max()))
    return largest if largest > -np.inf else np.inf


def _computes_in_integers(node: ir.Node) -> bool:
    """Whether all that the operation computes with comes from pairs, and a kernel takes that."""
    if qdq.weight(node) is not None:
        kinds, values = WITH_OUTPUT, list(node.inputs[:2])
    else:
        kinds, values = ELEMENTWISE, [*qdq.computed_inputs(node)]
        if node.op_type in {"Resize", "Slice", "Reshape"}:
            values = values[:1]
    return node.op_type in kinds and all(qdq.pair_of(value) is not None for value in values)


def _pairs_on(value: ir.Value) -> bool:
    return any(user.op_type == "QuantizeLinear" for user in value.consumers())


def only_to_quantized(value: ir.Value) -> bool:
    """Whether quantizers are all that the value reaches without passing an operation with weights.

    Then only quantized layers see the rounding that a pair here adds: skipped ones, and the model's
    outputs, do not.
    """
    reached, ready, seen = False, [value], {value}
    while ready:
        now = ready.pop()
        if now.is_graph_output():
            return False
        for user in now.consumers():
            if user.op_type == "QuantizeLinear":
                reached = True
                continue
            if qdq.weight(user) is not None:
                return False
            if user.op_type not in ONLY_SHAPE:
                ready += [output for output in user.outputs if output not in seen]
                seen.update(user.outputs)
    return reached
