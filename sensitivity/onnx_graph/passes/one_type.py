"""Lets each operation read and write activations of one type, with pairs where types change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from sensitivity.errors import ExportError
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.activation_types import FLOAT, ActivationTypes, bits_of
from sensitivity.onnx_graph.clamps import cuts_like
from sensitivity.onnx_graph.passes.apart_on_qnn import changes_nothing
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.new_pair import new_dequantize, new_pair
from sensitivity.onnx_graph.passes.quantize_outputs import SAME_GRID, Grid, over_range
from sensitivity.onnx_graph.walk import is_kind, not_none, of_kind, only_user, value_name

TYPES: dict[int, type[np.uint8] | type[np.uint16]] = {8: np.uint8, 16: np.uint16}
"""Bits -> type of activations."""

JOINING = ("Add", "Sub", "Mul", "Div", "Pow", "Concat")
"""Operations whose constant operands have the type of the output, too."""

FIXED = {("Sigmoid", 16): (1 / 65536, 0), ("Tanh", 16): (1 / 32768, 32768)}
"""Operation and bits -> scale and zero point of its output, the only ones that QNN takes, as ONNX
Runtime's get_qnn_qdq_config has them."""


class OneType(ir.passes.InPlacePass):
    """Writes every activation in the type of the operation that gives it, see `ActivationTypes`,
    and converts it for readers of another type: x -> Q16 -> DQ16 -> Q8 -> DQ8.

    Pairs that the file has keep their grid; the values of others are spread over their range.
    Activations must be unsigned already.

    ranges: name of a value -> its smallest and largest value.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        self.ranges = ranges

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        types = ActivationTypes(graph)
        grids = _Grids(types, self.ranges)
        values = dict.fromkeys([*types.reads, *types.given])
        written = [value for value in values if _is_written(value, types, grids)]
        for value in written:
            _write(graph, value, types, grids)
        for node in of_kind(graph, *JOINING):
            if types.of(node) != FLOAT and types.reads_of(node):
                _quantize_constants(graph, node, types.of(node))
        return ir.passes.PassResult(model, modified=bool(written))


class _Grids:
    """The grids on which values are written."""

    def __init__(self, types: ActivationTypes, ranges: Mapping[str, tuple[float, float]]) -> None:
        self._types, self._ranges = types, ranges
        self._alike = _values_alike(types)

    def of(self, value: ir.Value, bits: int) -> Grid:
        """Return the grid of a value in a type: that of the pair on it with the largest scale, or
        one over its range. Values that are only moved have the same grid before and after.

        Raises ExportError if the range is not known.
        """
        fixed = FIXED.get((_kind_of_maker(value), bits))
        if fixed is not None:
            return np.array(fixed[0], np.float32), np.array(fixed[1], TYPES[bits])
        values = self._alike.get(value, [value])
        own = max(self._own(values, bits), key=_largest_scale, default=None)
        if own is not None:
            return own
        known = [self._ranges[name] for name in map(value_name, values) if name in self._ranges]
        if not known:
            raise ExportError(
                "Expected a file with the ranges of all activations to write each of them in one "
                f"type, got none for {value.name}; export the run again."
            )
        return over_range(min(low for low, _ in known), max(high for _, high in known), TYPES[bits])

    def _own(self, values: Iterable[ir.Value], bits: int) -> Iterator[Grid]:
        """Yield the grids of the pairs with these bits on any of the values."""
        for value in values:
            for read in self._types.reads.get(value, ()):
                if read.bits == bits:
                    yield _grid_of(not_none(read.pair))
            for output in self._types.given.get(value, ()):
                pair = qdq.pair_of(output)
                if bits_of(pair) == bits:
                    yield _grid_of(not_none(pair))

    def converted(self, value: ir.Value, written: int, bits: int) -> Grid:
        """Return the grid for readers of other bits than those in which a value is written. With
        more bits it holds all values of the grid of fewer."""
        if bits < written:
            return self.of(value, bits)
        scale, zero_point = self.of(value, written)
        finer = 2 ** (bits - written)
        exact = np.array(int(zero_point.item()) * finer, TYPES[bits])
        return np.asarray(scale / np.float32(finer)), exact


def _grid_of(pair: qdq.Pair) -> Grid:
    """Return the grid of an activation's pair. Raises ExportError if it has several scales."""
    scale, zero_point = pair.scale, pair.zero_point
    if scale is None or scale.size != 1:
        raise ExportError(
            f"Expected one constant scale for each activation to write it in one type, got another "
            f"kind at {pair.name}; calibrate it per tensor."
        )
    zero = np.zeros((), np.uint8) if zero_point is None else zero_point.reshape(())
    return scale.reshape(()), zero


def _largest_scale(grid: Grid) -> float:
    return float(grid[0].max())


def _kind_of_maker(value: ir.Value) -> str:
    """Return the operation that gives a value; "" for an input of the graph."""
    node = value.producer()
    return "" if node is None else node.op_type


def _values_alike(types: ActivationTypes) -> Mapping[ir.Value, list[ir.Value]]:
    """Return value -> the values that have its grid, for those that operations only move."""
    groups: dict[ir.Value, list[ir.Value]] = {}
    for value, reads in types.reads.items():
        for read in reads:
            moves = read.node.op_type in SAME_GRID or changes_nothing(read.node)
            if moves and types.of(read.node) != FLOAT:
                _join(groups, value, read.node.outputs)
    return groups


def _join(
    groups: dict[ir.Value, list[ir.Value]], value: ir.Value, others: Sequence[ir.Value]
) -> None:
    """Join the groups of a value and of others."""
    own = groups.setdefault(value, [value])
    for other in others:
        theirs = groups.get(other, [other])
        if theirs is not own:
            own += theirs
            groups |= dict.fromkeys(theirs, own)


def _is_written(value: ir.Value, types: ActivationTypes, grids: _Grids) -> bool:
    """Return whether a pair stands on a value.

    None stands between operations in float, nor between an operation and a Relu or Clip that the
    pair after it makes redundant: runtimes compute these within the operation.
    """
    if value.dtype is not ir.DataType.FLOAT:
        return False
    if types.is_float(value):
        return value in types.given or not all(
            types.of(read.node) == FLOAT for read in types.reads.get(value, ())
        )
    cut = only_user(value)
    is_end = value.producer() is None or value in types.given
    if is_end or not is_kind(cut, "Relu", "Clip") or types.of(cut) == FLOAT:
        return True
    output = cut.outputs[0]
    return not cuts_like(*grids.of(output, types.written(output)), cut)


def _write(graph: ir.Graph, value: ir.Value, types: ActivationTypes, grids: _Grids) -> None:
    """Put a pair on a value, and another one after it for readers of another type."""
    written, reads = types.written(value), types.reads.get(value, ())
    rounded = {written: _pair_on(graph, value, grids.of(value, written), "")}
    for read in reads:
        bits = types.of(read.node)
        if bits == FLOAT:
            if types.is_float(value):
                continue
            bits = written
        if bits not in rounded:
            grid = grids.converted(value, written, bits)
            rounded[bits] = _pair_on(graph, rounded[written], grid, f".{bits}bit")
        read.node.replace_input_with(read.index, rounded[bits])
    for output in types.given.get(value, ()):
        given = rounded[written]
        graph.outputs[graph.outputs.index(output)] = given
        given.name, output.name = output.name, f"{output.name}.before"


def _pair_on(graph: ir.Graph, value: ir.Value, grid: Grid, suffix: str) -> ir.Value:
    """Return what a new pair on a value gives."""
    name = f"{value.name}{suffix}"
    parameters = add(graph, f"{name}.scale", grid[0]), add(graph, f"{name}.zero_point", grid[1])
    names = f"{name}/QuantizeLinear", f"{name}/DequantizeLinear"
    quantize, dequantize = new_pair(value, parameters, None, names)
    output = dequantize.outputs[0]
    output.name, output.type, output.shape = f"{name}.rounded", value.type, value.shape
    node = value.producer()
    if node is None:
        graph.insert_before(graph[0], [quantize, dequantize])
    else:
        graph.insert_after(node, [quantize, dequantize])
    return output


def _quantize_constants(graph: ir.Graph, node: ir.Node, bits: int) -> None:
    """Store the constant operands of an operation as integers."""
    for index, value in enumerate(node.inputs):
        constant = qdq.constant(value)
        if value is None or constant is None:
            continue
        scale, zero_point = over_range(float(constant.min()), float(constant.max()), TYPES[bits])
        levels = np.clip(np.rint(constant / scale) + zero_point, 0, 2**bits - 1)
        name = f"{node.name}.{value.name}"
        stored = add(graph, f"{name}.quantized", levels.astype(TYPES[bits]))
        parameters = (
            add(graph, f"{name}.scale", scale),
            add(graph, f"{name}.zero_point", zero_point),
        )
        dequantize = new_dequantize(stored, parameters, None, f"{name}/DequantizeLinear")
        dequantize.outputs[0].type, dequantize.outputs[0].shape = value.type, value.shape
        graph.insert_before(node, dequantize)
        node.replace_input_with(index, dequantize.outputs[0])
