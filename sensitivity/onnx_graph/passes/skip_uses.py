"""Leaves uses of Q/DQ pairs out of a Q/DQ file, and gives others new grids.

An operation whose use of a pair is left out reads what the pair read.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.biases import BiasPlace, bias_place
from sensitivity.onnx_graph.clamps import Clamps, activation
from sensitivity.onnx_graph.levels import FIRST_OPSET, along
from sensitivity.onnx_graph.matching import match_or_none, matches, needed, require
from sensitivity.onnx_graph.passes.initializers import add, remove_constant
from sensitivity.onnx_graph.uses import BIAS_INPUT, Link, Path, Use, paths, uses
from sensitivity.onnx_graph.walk import (
    graph_of,
    input_at,
    inputs,
    insert_after,
    not_none,
    remove_unread,
    value_name,
)
from sensitivity.records import NOTHING, Range, names_of

Weights = Mapping[str, NDArray[Any]]
"""Name of a stored constant -> its float values."""

PER_CHANNEL_FROM = 13
"""First opset in which Q and DQ have scales per channel."""

WIDE_FROM = FIRST_OPSET[ir.DataType.INT16]
"""First opset in which Q and DQ take integers of 16 bits."""
MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operations."""

OLDEST_RAISED = 11
"""Oldest opset from which a model can be raised to opset 13."""
IR_OF_13 = 7
"""Version of the ONNX format that belongs to opset 13."""

CHANGED_BEFORE_13 = {
    "Dropout", "Hardmax", "LogSoftmax", "ReduceSum", "Softmax", "Split", "Squeeze", "Unsqueeze",
}  # fmt: skip
"""Operations whose meaning opset 12 or 13 changed since opset 11. All others only take more
types."""


SUFFIX = "_skipped"
"""Ending of the names of copies; from the second copy of a node on, `_copy2` and so on precedes
it."""


def original_name(name: str) -> str:
    """Return the name of the node that a node with this name is a copy of.

    >>> original_name("w_QuantizeLinear_copy2_skipped")
    'w_QuantizeLinear'
    """
    return re.sub(rf"(_copy\d+)?{SUFFIX}$", "", name)


@dataclass(frozen=True, eq=False)
class NewGrid:
    """A grid that replaces a pair's own for some of its uses.

    range: the range that the grid was made for.
    scale, zero_point: of the file's types and of one shape: [] per tensor, [channels] along `axis`.
    axis: None per tensor.
    constant: replacement of the stored weight that the pair reads; None for an activation.
    keeps_pair: whether a weight's pair stays as it is, because its range is unchanged. Learned
        rounding is kept too, and only the bias changes.
    """

    range: Range
    scale: NDArray[Any]
    zero_point: NDArray[Any]
    axis: int | None = None
    constant: NDArray[Any] | None = None
    keeps_pair: bool = False

    @property
    def bias(self) -> NDArray[np.float32] | None:
        """Addition to the bias of the operation, float32[channels]; None if there is none."""
        if self.range.bias is None:
            return None
        return np.asarray(self.range.bias, np.float32)

    @property
    def has_own_type(self) -> bool:
        """Whether the levels have another type than the pair's: more bits, or FP8."""
        return self.range.bits is not None or self.range.fp8

    @property
    def restores_clamps(self) -> bool:
        """Whether the grid has both signs, so that an activation that only the pair stands for has
        to be restored before it."""
        return self.range.fp8

    @property
    def no_bias(self) -> NDArray[Any]:
        """Zeros of the scale's type, to which `bias` is added if the operation has no bias."""
        return np.zeros_like(self.bias, self.scale.dtype)

    @property
    def key(self) -> str:
        """Key that identifies the grid: that of its range."""
        return self.range.key


@dataclass(frozen=True, eq=False)
class _StoredGrid:
    """A new grid in the graph.

    parameters: scale and zero point.
    constant: what the pair of a weight reads; None for an activation.
    """

    grid: NewGrid
    parameters: tuple[ir.Value, ir.Value]
    constant: ir.Value | None


@dataclass(frozen=True, eq=False)
class _NewBias:
    """A bias and its new values.

    graph: the graph that holds the operation.
    """

    graph: ir.Graph
    place: BiasPlace
    values: NDArray[Any]


class SkipUses(ir.passes.InPlacePass):
    """Leaves uses out, gives others new grids, and keeps everything else.

    Names, order, opset, metadata and pairs that others still use stay as they are. With a grid per
    channel, the model is raised to the first opset that has them (`can_be_per_channel`). The bias
    that belongs to a new grid of a weight becomes a float initializer of that operation alone.

    skip: names of uses.
    weights: name of a stored constant -> its float values. A weight in the compact form that is
        missing here becomes what its pair gives, which is all that the file still knows of it. A
        bias without a pair that is listed here was corrected for the quantized weight beside it, so
        it changes when that weight does.
    clamps: tensor before a pair -> limits of an activation that only the pair stands for. The
        activation is restored for what reads the tensor past the pair.
    grids: name of a use -> its new grid. Uses with the same grid keep one pair.
    """

    def __init__(
        self,
        skip: Collection[str],
        weights: Weights = NOTHING,
        clamps: Clamps = NOTHING,
        grids: Mapping[str, NewGrid] = NOTHING,
    ) -> None:
        self._skip = frozenset(skip)
        self._grids = {name: grid for name, grid in grids.items() if name not in self._skip}
        self._new_pairs = {name: grid for name, grid in self._grids.items() if not grid.keeps_pair}
        self._weights = weights
        self._clamps = clamps
        self._opset = 0
        self._clamped: dict[ir.Value, ir.Value] = {}
        self._restored: Counter[str] = Counter()
        self._made: dict[tuple[int, ir.Value, _StoredGrid | None], ir.Value] = {}
        self._copies: dict[ir.Node, ir.Node] = {}
        self._count: Counter[ir.Node] = Counter()
        self._floats: dict[ir.Value, ir.Value] = {}
        self._stored: dict[NewGrid, _StoredGrid] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self._prepare(model)
        changed = self._skip | self._grids.keys()
        changing = [
            path for path in paths(model.graph) if not changed.isdisjoint(names_of(uses([path])))
        ]
        for path in changing:
            _connect(path, self._rebuilt(model.graph, path))
            corrected = corrected_bias(path, self._weights)
            if corrected is not None and corrected.weight.name in changed:
                _restore(model.graph, path, corrected)
        # By now, all biases that become float are float.
        for bias in matches(self._new_bias, changing):
            _put_in(bias)
        _remove_unread(list(chain.from_iterable(map(_nodes_on, changing))))
        self._name_copies()
        return ir.passes.PassResult(model, modified=bool(changing))

    def _prepare(self, model: ir.Model) -> None:
        """Give the model the opset and the domain that the grids need."""
        grids = self._grids.values()
        if any(grid.axis is not None for grid in grids):
            _raise_opset(model)
        self._opset = model.opset_imports.get("", 0)
        self._model = model
        for domain in {domain_of(grid, model) for grid in grids if grid.has_own_type} - {""}:
            model.opset_imports.setdefault(domain, 1)

    def _new_bias(self, path: Path) -> _NewBias:
        """Return the bias plus the addition from the grid of the weight. Raises NoMatch if there is
        none."""
        place = needed(bias_place(path))
        grid = needed(self._grids.get(place.weight.name))
        require(grid.bias is not None)
        bias = qdq.constant(place.value)
        if bias is None:
            bias = grid.no_bias
        return _NewBias(path.graph, place, corrected(bias, grid))

    def _name_copies(self) -> None:
        """Give the first copy of each removed node the names of that node."""
        for old, new in self._copies.items():
            if old.graph is not None:
                continue
            new.name = old.name
            if not new.outputs[0].is_graph_output():
                new.outputs[0].name = old.outputs[0].name

    def _rebuilt(self, graph: ir.Graph, path: Path) -> ir.Value:
        """Return the value that the path's user now reads."""
        changed_names = self._skip | self._new_pairs.keys()
        value, is_changed = path.root, False
        for link, use in path.links:
            nodes = nodes_of(link)
            if use is not None and use.name in changed_names:
                value, is_changed = self._changed_use(graph, use, value), True
            elif is_changed:
                value = self._copies_of(nodes, value)
            else:
                value = nodes[-1].outputs[0]
        return value

    def _changed_use(self, graph: ir.Graph, use: Use, value: ir.Value) -> ir.Value:
        """Return the replacement for the output of the use's pair.

        value: what the pair would read.
        """
        if use.name in self._skip:
            return self._unquantized(graph, use, value)
        grid = self._new_pairs[use.name]
        if grid.restores_clamps and value_name(use.pair.source) in self._clamps:
            value = self._activated(graph, use, value)
        return self._on_grid(graph, use.pair, grid, value)

    def _unquantized(self, graph: ir.Graph, use: Use, value: ir.Value) -> ir.Value:
        """Return the replacement for the output of a pair that is left out."""
        name = use.pair.source.name or "weight"
        if use.pair.is_compact or name in self._weights:
            return self._float_weight(graph, use.pair, name)
        if name in self._clamps:
            return self._activated(graph, use, value)
        return value

    def _float_weight(self, graph: ir.Graph, pair: qdq.Pair, name: str) -> ir.Value:
        """Return the float values of the stored constant with this name as an initializer."""
        source = pair.source
        if source not in self._floats:
            values = self._weights[name] if name in self._weights else dequantized(pair)
            plain = name.removesuffix("_quantized")
            own_name = f"{name}_float" if plain == name else plain
            self._floats[source] = add(graph, own_name, values)
        return self._floats[source]

    def _activated(self, graph: ir.Graph, use: Use, value: ir.Value) -> ir.Value:
        """Return the value after the activation that only the use's pair stood for."""
        if value not in self._clamped:
            name = value_name(use.pair.source)
            self._restored[name] += 1
            node = activation(
                self._clamps[name], value, use.pair, self._opset, copy=self._restored[name]
            )
            for constant in inputs(node)[1:]:
                graph.register_initializer(constant)
            _insert_after(value, node, graph)
            self._clamped[value] = node.outputs[0]
        return self._clamped[value]

    def _on_grid(self, graph: ir.Graph, pair: qdq.Pair, grid: NewGrid, value: ir.Value) -> ir.Value:
        """Return the output of the same pair on another grid, for this value or the grid's own
        constant."""
        if grid not in self._stored:
            self._stored[grid] = _stored_grid(graph, pair, grid)
        stored = self._stored[grid]
        value = stored.constant or value
        for node in pair.nodes:
            if node is not pair.clip:
                value = self._copy(node, value, stored)
            elif not grid.has_own_type:  # such a grid uses all levels of its type
                value = self._copy(node, value)
        return value

    def _copies_of(self, nodes: Iterable[ir.Node], value: ir.Value) -> ir.Value:
        """Return the output of copies of these nodes, one after the other, for this value."""
        for node in nodes:
            value = self._copy(node, value)
        return value

    def _copy(self, node: ir.Node, value: ir.Value, stored: _StoredGrid | None = None) -> ir.Value:
        """Return the output of a copy of this node for this value.

        stored: new grid of a Q or DQ; None to keep its own.
        """
        key = (id(node), value, stored)
        if key not in self._made:
            self._made[key] = self._new_copy(node, value, stored)
        return self._made[key]

    def _new_copy(self, node: ir.Node, value: ir.Value, stored: _StoredGrid | None) -> ir.Value:
        """Insert a copy of the node and return its output."""
        output = node.outputs[0]
        self._count[node] += 1
        suffix = SUFFIX if self._count[node] == 1 else f"_copy{self._count[node]}{SUFFIX}"
        copied = ir.Value(name=f"{output.name}{suffix}", type=output.type, shape=output.shape)
        parameters = node.inputs[1:] if stored is None else stored.parameters
        new = ir.Node(
            node.domain,
            node.op_type,
            [value, *parameters],
            list(node.attributes.values()),
            name=f"{node.name}{suffix}",
            outputs=[copied],
        )
        if stored is not None:
            self._change_grid(new, stored.grid)
        graph_of(node).insert_after(node, new)
        self._copies.setdefault(node, new)
        return copied

    def _change_grid(self, node: ir.Node, grid: NewGrid) -> None:
        """Give a new Q or DQ the axis, the domain and the type of the grid."""
        _set_axis(node.attributes, grid.axis)
        if not grid.has_own_type:
            return
        node.domain = domain_of(grid, self._model)
        node.attributes.pop("output_dtype", None)
        if node.op_type == "QuantizeLinear":
            levels = ir.DataType.from_numpy(grid.zero_point.dtype)
            node.outputs[0].type = ir.TensorType(levels)


def _set_axis(attributes: MutableMapping[str, ir.Attr], axis: int | None) -> None:
    attributes.pop("axis", None)
    if axis is not None:
        attributes["axis"] = ir.AttrInt64("axis", axis)


def _stored_grid(graph: ir.Graph, pair: qdq.Pair, grid: NewGrid) -> _StoredGrid:
    """Return the grid as initializers."""
    name = f"{pair.source.name or pair.name}_recalibrated"
    scale = add(graph, f"{name}_scale", grid.scale)
    zero_point = add(graph, f"{name}_zero_point", grid.zero_point)
    constant = None
    if grid.constant is not None:
        constant = add(graph, f"{name}_values", grid.constant)
    return _StoredGrid(grid, (scale, zero_point), constant)


def _insert_after(value: ir.Value, node: ir.Node, graph: ir.Graph) -> None:
    """Insert the node where the value is known.

    graph: the graph of the value, in case the value does not know it.
    """
    if value.producer() is None:  # an input, perhaps of the body of a Loop
        owner = value.graph or graph
        owner.insert_before(owner[0], node)
    else:
        insert_after(value, [node])


def wide_domain(model: ir.Model) -> str:
    """Return the domain of Q and DQ that take 16-bit integers in this model.

    ONNX's own take them from opset 21 on, ONNX Runtime's in every opset.
    """
    return "" if model.opset_imports.get("", 0) >= WIDE_FROM else MICROSOFT


def domain_of(grid: NewGrid, model: ir.Model) -> str:
    """Return the domain of the Q and DQ of a grid whose levels have another type than the pair's.

    ONNX's own take FP8 in every model that can have it (`levels.FIRST_OPSET`).
    """
    return "" if grid.range.fp8 else wide_domain(model)


def can_be_per_channel(model: ir.Model) -> bool:
    """Return whether pairs of this model can have scales per channel without changes to its
    operations."""
    opset = model.opset_imports.get("", 0)
    if opset >= PER_CHANNEL_FROM:
        return True
    kinds = {node.op_type for node in model.graph.all_nodes()}
    return opset >= OLDEST_RAISED and kinds.isdisjoint(CHANGED_BEFORE_13)


def _raise_opset(model: ir.Model) -> None:
    if model.opset_imports.get("", 0) < PER_CHANNEL_FROM:
        model.opset_imports[""] = PER_CHANNEL_FROM
        model.ir_version = max(model.ir_version or 0, IR_OF_13)


def _fits(scale: NDArray[Any], pair: qdq.Pair, shape: tuple[int, ...]) -> bool:
    """Return whether the scales broadcast against the weight's shape."""
    try:
        np.broadcast_to(broadcast(scale, pair, shape), shape)
    except ValueError:
        return False
    return True


def float_constant(pair: qdq.Pair) -> NDArray[Any] | None:
    """Return the constant that a pair quantizes, in float; None if it quantizes no constant.

    Raises OnnxFileError as `dequantized` does.
    """
    if pair.is_compact:
        return dequantized(pair)
    return qdq.constant(pair.source)


def dequantized(pair: qdq.Pair) -> NDArray[Any]:
    """Return the float values of a pair in the compact form: (level - zero point) * scale, as ONNX
    defines it.

    Raises OnnxFileError if the scale is not a constant, or does not fit the weight's shape.
    """
    levels, scale, zero_point = qdq.constant(pair.source), pair.scale, pair.zero_point
    if levels is None or scale is None:
        raise OnnxFileError(
            f"Expected the scale of the weight at {pair.name} to be a constant, got one that the "
            "graph computes; export the model with constant folding."
        )
    if not _fits(scale, pair, levels.shape):
        raise OnnxFileError(
            f"Expected as many scales at {pair.name} as its weight of shape {list(levels.shape)} "
            f"has channels, got {scale.size}; quantize the model again."
        )
    kept = levels.astype(np.float32)
    kept = kept.clip(*(pair.limits or (None, None)))
    offset = np.zeros_like(scale) if zero_point is None else zero_point
    shifted = kept - broadcast(offset.astype(np.float32), pair, levels.shape)
    values = shifted * broadcast(scale.astype(np.float32), pair, levels.shape)
    return np.asarray(values).astype(scale.dtype)


def broadcast(values: NDArray[Any], pair: qdq.Pair, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return values per tensor, per channel or per block in a shape that broadcasts against the
    weight's."""
    has_blocks = values.ndim == len(shape) > 1 and values.size > 1  # from opset 21
    if not has_blocks:
        return along(values, pair.axis_in(len(shape)), len(shape))
    axis = qdq.axis_of(pair.dequantize) % len(shape)
    size = math.ceil(shape[axis] / values.shape[axis])
    every = np.repeat(values, size, axis)
    # The last block may be shorter than the others.
    return every[tuple(slice(0, side) for side in shape)]


@dataclass(frozen=True, eq=False)
class CorrectedBias:
    """A float bias that was corrected for a quantized weight.

    weight: use of the weight.
    index: index of the bias among the operation's inputs.
    values: the bias before its correction.
    """

    weight: Use
    index: int
    bias: ir.Value
    values: NDArray[Any]


def corrected_bias(path: Path, weights: Weights) -> CorrectedBias | None:
    """Return the bias that changes with the weight at the end of this path.

    Returns None if the path does not end in a weight, or if there is no such bias.
    """
    return match_or_none(partial(_corrected_bias, weights=weights), path)


def _corrected_bias(path: Path, weights: Weights) -> CorrectedBias:
    """Return the same as `corrected_bias`, but raise NoMatch instead of returning None."""
    require(path.is_weight)
    bias = needed(input_at(path.user, BIAS_INPUT))
    values = needed(weights.get(value_name(bias)))
    require(qdq.constant(bias) is not None)
    of_weight = (use for use in uses([path]) if use.role == "weight")
    return CorrectedBias(needed(next(of_weight, None)), BIAS_INPUT, bias, values)


def corrected(bias: NDArray[Any], grid: NewGrid) -> NDArray[Any]:
    """Return a float bias plus the grid's addition, in the type of the bias."""
    if grid.bias is None:
        return bias
    return np.asarray(bias.astype(np.float32) + grid.bias).astype(bias.dtype)


def nodes_of(link: Link) -> list[ir.Node]:
    """Return the nodes of a pair or a mover, in the order in which they run."""
    return [link] if isinstance(link, ir.Node) else link.nodes


def _nodes_on(path: Path) -> list[ir.Node]:
    """Return all nodes of the path, in the order in which they run."""
    links = [link for link, _ in path.links]
    return list(chain.from_iterable(map(nodes_of, links)))


def _restore(graph: ir.Graph, path: Path, corrected: CorrectedBias) -> None:
    """Give the operation its bias from before its correction."""
    bias, name = corrected.bias, corrected.bias.name or "bias"
    values = add(graph, f"{name}_float", corrected.values)
    not_none(path.user).replace_input_with(corrected.index, values)
    remove_constant(bias)


def _put_in(bias: _NewBias) -> None:
    """Give the operation this bias."""
    node, index, before = bias.place.node, bias.place.index, bias.place.value
    node.resize_inputs(max(len(node.inputs), index + 1))
    name = f"{node.outputs[0].name}_corrected_bias"
    node.replace_input_with(index, add(bias.graph, name, bias.values))
    if before is not None:
        remove_constant(before)


def _connect(path: Path, value: ir.Value) -> None:
    """Let the path's user, or the graph's output, read this value."""
    if path.user is not None:
        path.user.replace_input_with(path.index, value)
        return
    graph = path.graph
    old, producer = graph.outputs[path.index], value.producer()
    is_own_result = producer is not None and producer.graph is graph
    if not is_own_result or value.is_graph_output():
        node = ir.Node("", "Identity", [value], name=f"{old.name}_skipped")
        graph.append(node)
        value = node.outputs[0]
    value.type, value.shape = value.type or old.type, value.shape or old.shape
    # The graph output keeps the name that the user knows.
    old.name, value.name = f"{old.name}_skipped", old.name
    graph.outputs[path.index] = value


def _remove_unread(candidates: list[ir.Node]) -> None:
    """Remove the candidates that nothing reads any more, and the constants that only they read."""
    for node in reversed(candidates):
        read = inputs(node)
        remove_unread([node])
        for value in read:
            remove_constant(value)
