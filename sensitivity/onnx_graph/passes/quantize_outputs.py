"""Q/DQ on what integer kernels give, where canonical files quantize only what they take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import (
    RewriteInTurn,
    match_or_none,
    needed,
    require,
)
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.new_pair import new_pair
from sensitivity.onnx_graph.passes.one_pair_per_value import ELEMENTWISE, ONLY_SHAPE
from sensitivity.onnx_graph.walk import (
    all_outputs,
    inputs,
    insert_behind,
    of_kind,
    reached,
    reader_kinds,
    there,
    value_name,
)

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

MOVES = SAME_GRID | {"Concat"}
"""Operations that give the values of their inputs as they came."""

WITH_OUTPUT = {"Conv", "Gemm", "MatMul"}
"""Operations with weights whose integer kernels can give integers."""

ENDS = ONLY_SHAPE | {"QuantizeLinear"}
"""Operations behind which there are no numbers in float any more."""

ONE_VALUE = {"Resize", "Slice", "Reshape"}
"""Operations that compute with their first input only: the others say how."""


@dataclass(frozen=True, eq=False)
class _Output:
    """A value to be quantized on this grid, for these uses: operations, and which of their inputs
    it is."""

    value: ir.Value
    grid: Grid
    uses: list[tuple[ir.Node, int]]


class QuantizeOutputs(RewriteInTurn[ir.Value, _Output]):
    """Quantize outputs of quantized operations, uint8 over their range, where only quantized layers
    see them.

    ranges: smallest and largest value by value name; values without a range are left alone. What
    skipped layers get, and what the model gives, keeps its precision.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.ranges = ranges

    def places(self, graph: ir.Graph) -> Iterable[ir.Value]:
        return all_outputs(graph.all_nodes())

    def match(self, place: ir.Value) -> _Output:
        node = there(place.producer())
        require(_computes_in_integers(node))
        value = qdq.behind_relu(place)
        require("QuantizeLinear" not in reader_kinds(value))
        require(only_to_quantized(value))
        uses = [(user, index) for user, index in value.uses() if user.op_type in ELEMENTWISE]
        require(uses)
        if node.op_type in SAME_GRID:
            return _Output(value, _grid_of_input(node), uses)
        grid = match_or_none(_later_grid, value) or self._own_grid(value)
        return _Output(value, grid, uses)

    def rewrite(self, graph: ir.Graph, found: _Output) -> None:
        value = found.value
        scale = add(graph, f"{value.name}.scale", found.grid[0])
        zero_point = add(graph, f"{value.name}.zero_point", found.grid[1])
        names = f"{value.name}/QuantizeLinear", f"{value.name}/DequantizeLinear"
        quantize, dequantize = new_pair(value, [scale, zero_point], None, names)
        output = dequantize.outputs[0]
        output.type, output.shape = value.type, value.shape
        insert_behind(value, [quantize, dequantize])
        for node, index in found.uses:
            node.replace_input_with(index, output)

    def _own_grid(self, value: ir.Value) -> Grid:
        """Scale and zero point that spread uint8 over the value's range. Raises NoMatch where that
        is too coarse, or the range is not known."""
        low, high = self.ranges.get(value_name(value), (0.0, 0.0))
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / 255
        require(np.isfinite(scale))
        require(SMALLEST_SCALE <= scale <= COARSEST * _next_scale(value))
        return np.array(scale, np.float32), np.array(round(-low / scale), np.uint8)


def _grid_of_input(node: ir.Node) -> Grid:
    """Return the grid of the pair in front. Raises NoMatch where there is none, or it is not
    known."""
    pair = needed(qdq.pair_of(node.inputs[0]))
    return needed(pair.scale), needed(pair.zero_point)


def _later_grid(value: ir.Value) -> Grid:
    """Return the one grid that the value's own numbers are put on later, wherever they go: taking
    it here changes nothing, and what only moves them can move integers. Raises NoMatch where they
    reach several grids, none, or an operation in float."""
    grids: dict[tuple[bytes, bytes], Grid] = {}
    for user in _readers_behind_moves(value):
        require(user.op_type == "QuantizeLinear")
        scale, zero_point = map(needed, map(qdq.constant, user.inputs[1:3]))
        grids[scale.tobytes(), zero_point.tobytes()] = scale, zero_point
    require(len(grids) == 1)
    return grids.popitem()[1]


def _readers_behind_moves(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the operations that read the value's numbers, also where they were moved before."""
    for user in value.consumers():
        if user.op_type in MOVES:
            for output in user.outputs:
                yield from _readers_behind_moves(output)
        elif user.op_type not in ONLY_SHAPE:
            yield user


def _next_scale(value: ir.Value) -> float:
    """Return the largest scale of the quantizers behind the first LeakyRelu that reads the value;
    infinite where there is none."""
    leaky = of_kind(value.consumers(), "LeakyRelu")
    quantizers = chain.from_iterable(
        of_kind(output.consumers(), "QuantizeLinear") for output in all_outputs(leaky[:1])
    )
    scales = map(qdq.scales_of, quantizers)
    return max((float(scale.max()) for scale in scales if scale.size), default=np.inf)


def _computes_in_integers(node: ir.Node) -> bool:
    """Return whether all that the operation computes with comes from pairs, and a kernel takes
    that."""
    kinds, values = ELEMENTWISE, qdq.computed_inputs(node)
    if qdq.weight(node) is not None:
        kinds, values = WITH_OUTPUT, inputs(node)[:2]
    elif node.op_type in ONE_VALUE:
        values = values[:1]
    return node.op_type in kinds and all(map(qdq.pair_of, values))


def only_to_quantized(value: ir.Value) -> bool:
    """Return whether quantizers are all that the value reaches without passing an operation with
    weights.

    Then only quantized layers see the rounding that a pair here adds: skipped ones, and the model's
    outputs, do not.
    """
    values = list(reached([value], _computed_from))
    is_given_out = any(map(ir.Value.is_graph_output, values))
    readers = list(chain.from_iterable(map(ir.Value.consumers, values)))
    has_weighted = any(qdq.weight(reader) is not None for reader in readers)
    has_quantizer = bool(of_kind(readers, "QuantizeLinear"))
    return has_quantizer and not has_weighted and not is_given_out


def _computed_from(value: ir.Value) -> list[ir.Value]:
    """Return what operations without weights give that read the value's numbers, but for
    quantizers."""
    users = [user for user in value.consumers() if user.op_type not in ENDS]
    return all_outputs(user for user in users if qdq.weight(user) is None)
