"""Puts Q/DQ pairs on the outputs of integer kernels; canonical files quantize only their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

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
    insert_after,
    not_none,
    of_kind,
    reached,
    read_by,
    reader_kinds,
    value_name,
)

SAME_GRID = {
    "MaxPool", "Resize", "Split", "Slice", "Reshape", "Transpose", "Flatten", "Squeeze",
    "Unsqueeze",
}  # fmt: skip
"""Operations whose output holds the values of their input, and so keeps its scale."""

SMALLEST_SCALE = 1e-30
"""Smallest scale of an output, below which it stays in float."""

COARSEST = 0.5
"""Largest step before a LeakyRelu, as a fraction of the step after it.

A LeakyRelu shrinks the negative side, so the grid before it must be much wider than the one
after. Up to half of the later step, it adds at most an eighth to the rounding error. With larger
steps MobileNetV1 x0.25 loses up to 5 points; such layers run in float.
"""

Grid = tuple[np.ndarray, np.ndarray]
"""Scale and zero point."""

MOVES = SAME_GRID | {"Concat"}
"""Operations that pass the values of their inputs on unchanged."""

WITH_OUTPUT = {"Conv"}
"""Operations with weights whose integer kernels give integers only.

Those of MatMul and Gemm can give float: what follows is then computed in float, which is more exact
and faster than between pairs.
"""

READERS = ELEMENTWISE | {"ReduceMean"}
"""Operations that may read the quantized value if no other operation keeps it in float: those with
integer kernels, and the average of many values, whose rounding hardly shows."""

ENDS = ONLY_SHAPE | {"QuantizeLinear"}
"""Operations whose output holds no float values any more."""

ONE_VALUE = {"Resize", "Slice", "Reshape"}
"""Operations that compute with their first input only. The others are settings."""


@dataclass(frozen=True, eq=False)
class _Output:
    """A value to be quantized.

    grid: grid of the new pair.
    uses: operations that read the quantized value, each with the index of that input.
    """

    value: ir.Value
    grid: Grid
    uses: list[tuple[ir.Node, int]]


class QuantizeOutputs(RewriteInTurn[ir.Value, _Output]):
    """Quantizes outputs of quantized operations to uint8 over their range, if only quantized layers
    see them.

    What skipped layers read, and what the model gives, keeps its precision.

    ranges: name of a value -> its smallest and largest value. Values without a range are left
        unchanged, unless their grid is known from a pair before or after it.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.ranges = ranges

    def places(self, graph: ir.Graph) -> Iterable[ir.Value]:
        return all_outputs(graph.all_nodes())

    def match(self, place: ir.Value) -> _Output:
        node = not_none(place.producer())
        require(_computes_in_integers(node))
        value = _behind_cut(place)
        require("QuantizeLinear" not in reader_kinds(value))
        require(only_to_quantized(value))
        kinds = READERS if reader_kinds(value) <= READERS else ELEMENTWISE
        uses = [(user, index) for user, index in value.uses() if user.op_type in kinds]
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
        insert_after(value, [quantize, dequantize])
        for node, index in found.uses:
            node.replace_input_with(index, output)

    def _own_grid(self, value: ir.Value) -> Grid:
        """Return the grid that spreads uint8 over the value's range.

        Raises NoMatch if the grid is too coarse, or the range is not known.
        """
        low, high = self.ranges.get(value_name(value), (0.0, 0.0))
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / 255
        require(np.isfinite(scale))
        require(SMALLEST_SCALE <= scale <= COARSEST * _next_scale(value))
        return over_range(low, high, np.uint8)


def _behind_cut(value: ir.Value) -> ir.Value:
    """Return the output of the Relu, or of the Clip from 0 on, that is the only reader of the
    value; the value itself if there is none.

    The range of the pair stands for the Clip, as in `ClipByRange`.
    """
    clip = read_by(value, "Clip")
    limits = None if clip is None else qdq.clip_limits(clip)
    if clip is None or limits is None or limits[0] != 0:
        return qdq.behind_relu(value)
    return clip.outputs[0]


def over_range(low: float, high: float, dtype: type[np.unsignedinteger[Any]]) -> Grid:
    """Return the grid that spreads unsigned integers over a range, which is widened to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / np.iinfo(dtype).max or 1.0
    return np.array(scale, np.float32), np.array(round(-low / scale), dtype)


def _grid_of_input(node: ir.Node) -> Grid:
    """Return the grid of the pair in front. Raises NoMatch if there is none, or its grid is not
    known."""
    pair = needed(qdq.pair_of(node.inputs[0]))
    return needed(pair.scale), needed(pair.zero_point)


def _later_grid(value: ir.Value) -> Grid:
    """Return the grid on which the value's numbers are put later, if there is only one.

    Taking it here changes no value, and operations that only move the numbers can move integers.
    Raises NoMatch if the numbers reach several grids, none, or an operation in float.
    """
    grids: dict[tuple[bytes, bytes], Grid] = {}
    for user in _readers_after_moves(value):
        require(user.op_type == "QuantizeLinear")
        scale, zero_point = map(needed, map(qdq.constant, user.inputs[1:3]))
        grids[scale.tobytes(), zero_point.tobytes()] = scale, zero_point
    require(len(grids) == 1)
    return grids.popitem()[1]


def _readers_after_moves(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the operations that read the value's numbers, directly or through moves."""
    for user in value.consumers():
        if user.op_type in MOVES:
            for output in user.outputs:
                yield from _readers_after_moves(output)
        elif user.op_type not in ONLY_SHAPE:
            yield user


def _next_scale(value: ir.Value) -> float:
    """Return the largest scale of the quantizers after the first LeakyRelu that reads the value;
    infinity if there is none."""
    leaky = of_kind(value.consumers(), "LeakyRelu")
    quantizers = chain.from_iterable(
        of_kind(output.consumers(), "QuantizeLinear") for output in all_outputs(leaky[:1])
    )
    scales = map(qdq.scales_of, quantizers)
    return max((float(scale.max()) for scale in scales if scale.size), default=np.inf)


def _computes_in_integers(node: ir.Node) -> bool:
    """Return whether all values that the operation computes with come from pairs, and it has an
    integer kernel."""
    kinds, values = ELEMENTWISE, qdq.computed_inputs(node)
    if qdq.weight(node) is not None:
        kinds, values = WITH_OUTPUT, inputs(node)[:2]
    elif node.op_type in ONE_VALUE:
        values = values[:1]
    return node.op_type in kinds and all(map(qdq.pair_of, values))


def only_to_quantized(value: ir.Value) -> bool:
    """Return whether the value reaches quantizers, and neither operations with weights nor the
    model's outputs without passing one.

    If so, only quantized layers see the rounding of a pair on it, and neither skipped layers nor
    the model's outputs do.
    """
    values = list(reached([value], _computed_from))
    is_given_out = any(map(ir.Value.is_graph_output, values))
    readers = list(chain.from_iterable(map(ir.Value.consumers, values)))
    has_weighted = any(qdq.weight(reader) is not None for reader in readers)
    has_quantizer = bool(of_kind(readers, "QuantizeLinear"))
    return has_quantizer and not has_weighted and not is_given_out


def _computed_from(value: ir.Value) -> list[ir.Value]:
    """Return the outputs of operations without weights that read the value's numbers, except
    quantizers."""
    users = [user for user in value.consumers() if user.op_type not in ENDS]
    return all_outputs(user for user in users if qdq.weight(user) is None)
