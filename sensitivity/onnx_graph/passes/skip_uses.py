"""Leave some uses of Q/DQ pairs out of a Q/DQ file: the operation then reads what the pair read.
Others get new grids."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.biases import bias_place
from sensitivity.onnx_graph.clamps import Clamps, activation
from sensitivity.onnx_graph.levels import FIRST_OPSET, along
from sensitivity.onnx_graph.passes.initializers import add, remove_constant
from sensitivity.onnx_graph.uses import BIAS_INPUT, Link, Path, Use, paths, uses
from sensitivity.onnx_graph.walk import given, graph_of, inputs, insert_behind, is_read, value_name
from sensitivity.records import NOTHING, Range

Weights = Mapping[str, NDArray[Any]]

PER_CHANNEL_FROM = 13
"""The opset from which on Q and DQ have scales per channel."""

WIDE_FROM = FIRST_OPSET[ir.DataType.INT16]
MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operations."""

OLDEST_RAISED = 11
IR_OF_13 = 7

CHANGED_BEFORE_13 = {
    "Dropout", "Hardmax", "LogSoftmax", "ReduceSum", "Softmax", "Split", "Squeeze", "Unsqueeze",
}  # fmt: skip
"""Operations that opset 12 or 13 reads otherwise than opset 11; of all others it only takes more
types."""


@dataclass(frozen=True, eq=False)
class NewGrid:
    """A grid that a pair gets in place of its own, for some of its uses.

    range: that it was made for. scale, zero_point: of the types that the file has, and of one
    shape: [] per tensor, [channels] along `axis`. constant: of a weight, what the pair reads in
    place of what is stored; None for an activation. keeps_pair: of a weight whose range is its own:
    the pair stays as it is, also where its rounding was learned, and only the bias changes.
    """

    range: Range
    scale: NDArray[Any]
    zero_point: NDArray[Any]
    axis: int | None = None
    constant: NDArray[Any] | None = None
    keeps_pair: bool = False

    @property
    def bias(self) -> NDArray[np.float32] | None:
        """float32[channels], what is added to the bias of the operation; None for nothing."""
        if self.range.bias is None:
            return None
        return np.asarray(self.range.bias, np.float32)

    @property
    def is_wide(self) -> bool:
        """Whether its levels have another number of bits than those of the pair."""
        return self.range.bits is not None

    @property
    def no_bias(self) -> NDArray[Any]:
        """What `bias` is added to where the operation has none, of the type of the scale."""
        return np.zeros_like(self.bias, self.scale.dtype)

    @property
    def key(self) -> str:
        """Names it, as the range's own key does."""
        return self.range.key


class SkipUses(ir.passes.InPlacePass):
    """Everything else stays as it is: names, order, opset, metadata, and pairs that others still
    use.

    skip: names of uses. weights: name of a stored constant -> its float values. A weight in the
    compact form that is not there becomes what its pair gives, which is all that such a file still
    knows of it. A bias that is there and has no pair was corrected for the quantized weight beside
    it, so it changes when that weight does. clamps: tensor in front of a pair -> what an activation
    that only the pair stands for limited it to: it stands in the graph again for what reads the
    tensor past the pair. grids: name of a use -> its new grid; uses with the same one keep one
    pair. With one per channel the model becomes of the opset that first has them
    (`can_be_per_channel`). The bias that goes with a new grid of a weight is one of the operation's
    own, a float initializer.
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
        self._weights = weights
        self._clamps = clamps
        self._opset = 0
        self._clamped: dict[ir.Value, ir.Value] = {}
        self._made: dict[tuple[int, ir.Value, tuple[ir.Value, ir.Value] | None], ir.Value] = {}
        self._copies: dict[ir.Node, ir.Node] = {}
        self._count: Counter[ir.Node] = Counter()
        self._floats: dict[ir.Value, ir.Value] = {}
        self._parameters: dict[NewGrid, list[ir.Value]] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if any(grid.axis is not None for grid in self._grids.values()):
            _raise_opset(model)
        self._opset = model.opset_imports.get("", 0)
        self._wide_domain = wide_domain(model)
        if self._wide_domain and any(grid.is_wide for grid in self._grids.values()):
            model.opset_imports.setdefault(self._wide_domain, 1)
        changed = self._skip | self._grids.keys()
        found = [
            path for path in paths(model.graph) if any(use.name in changed for use in uses([path]))
        ]
        for path in found:
            _connect(path, self._rebuilt(model.graph, path))
            corrected = corrected_bias(path, self._weights)
            if corrected is not None and corrected.weight.name in changed:
                _restore(model.graph, path, corrected)
        for path in found:
            self._correct_bias(path)
        links = [link for path in found for link, _ in path.links]
        _remove_unread(list(chain.from_iterable(map(nodes_of, links))))
        self._name_copies()
        return ir.passes.PassResult(model, modified=bool(found))

    def _correct_bias(self, path: Path) -> None:
        """Once all biases are float that are to be: add what the grid of the weight says."""
        place = bias_place(path)
        if place is None:
            return
        grid = self._grids.get(place.weight.name)
        if grid is None or grid.bias is None:
            return
        node, index, before = place.node, place.index, place.value
        bias = qdq.constant(before)
        if bias is None:
            bias = grid.no_bias
        node.resize_inputs(max(len(node.inputs), index + 1))
        name = f"{node.outputs[0].name}_corrected_bias"
        new = add(path.graph, name, corrected(bias, grid))
        node.replace_input_with(index, new)
        if before is not None:
            remove_constant(before)

    def _name_copies(self) -> None:
        """Give the first copy of each original that is gone the names of the original."""
        for old, new in self._copies.items():
            if old.graph is not None:
                continue
            new.name = old.name
            if not new.outputs[0].is_graph_output():
                new.outputs[0].name = old.outputs[0].name

    def _rebuilt(self, graph: ir.Graph, path: Path) -> ir.Value:
        """The value that the path's user is to read."""
        value, changed = path.root, False
        for link, use in path.links:
            name = None if use is None else use.name
            if use is not None and name in self._skip:
                value, changed = self._unquantized(graph, use, value), True
            elif use is not None and name in self._grids and not self._grids[name].keeps_pair:
                value, changed = self._on_grid(graph, use.pair, self._grids[name], value), True
            elif changed:
                value = self._copies_of(nodes_of(link), value)
            else:
                value = nodes_of(link)[-1].outputs[0]
        return value

    def _unquantized(self, graph: ir.Graph, use: Use, value: ir.Value) -> ir.Value:
        source = use.pair.source
        name = source.name or "weight"
        is_stored = use.pair.quantize is None
        if not is_stored and name not in self._weights:
            return self._activated(graph, use, value) if name in self._clamps else value
        if source not in self._floats:
            values = self._weights[name] if name in self._weights else dequantized(use.pair)
            plain = name.removesuffix("_quantized")
            own_name = f"{name}_float" if plain == name else plain
            self._floats[source] = add(graph, own_name, values)
        return self._floats[source]

    def _activated(self, graph: ir.Graph, use: Use, value: ir.Value) -> ir.Value:
        if value not in self._clamped:
            limits = self._clamps[value_name(use.pair.source)]
            node = activation(limits, value, use.pair, self._opset)
            for constant in inputs(node)[1:]:
                graph.register_initializer(constant)
            _insert_behind(value, node, graph)
            self._clamped[value] = node.outputs[0]
        return self._clamped[value]

    def _on_grid(self, graph: ir.Graph, pair: qdq.Pair, grid: NewGrid, value: ir.Value) -> ir.Value:
        if grid not in self._parameters:
            self._parameters[grid] = _stored_grid(graph, pair, grid)
        scale, zero_point, *constant = self._parameters[grid]
        value = constant[0] if constant else value
        for node in pair.nodes:
            if node is not pair.clip:
                value = self._copy(node, value, (scale, zero_point), grid)
            elif not grid.is_wide:  # a wide grid has all levels of its type
                value = self._copy(node, value)
        return value

    def _copies_of(self, nodes: Iterable[ir.Node], value: ir.Value) -> ir.Value:
        """What the same nodes, one behind the other, give for this value."""
        for node in nodes:
            value = self._copy(node, value)
        return value

    def _copy(
        self,
        node: ir.Node,
        value: ir.Value,
        parameters: tuple[ir.Value, ir.Value] | None = None,
        grid: NewGrid | None = None,
    ) -> ir.Value:
        """What the same node gives for this value; with these parameters of this grid, where it is
        a Q or DQ that gets others."""
        key = (id(node), value, parameters)
        if key in self._made:
            return self._made[key]
        output = node.outputs[0]
        self._count[node] += 1
        suffix = "_skipped" if self._count[node] == 1 else f"_{self._count[node]}_skipped"
        given = ir.Value(name=f"{output.name}{suffix}", type=output.type, shape=output.shape)
        attributes, domain = dict(node.attributes), node.domain
        if grid is not None:
            _set_axis(attributes, grid.axis)
            if grid.is_wide:
                domain = self._wide_domain
                attributes.pop("output_dtype", None)
                if node.op_type == "QuantizeLinear":
                    given.type = ir.TensorType(ir.DataType.from_numpy(grid.zero_point.dtype))
        new = ir.Node(
            domain,
            node.op_type,
            [value, *(parameters or node.inputs[1:])],
            list(attributes.values()),
            name=f"{node.name}{suffix}",
            outputs=[given],
        )
        graph_of(node).insert_after(node, new)
        self._copies.setdefault(node, new)
        self._made[key] = given
        return given


def _set_axis(attributes: dict[str, ir.Attr], axis: int | None) -> None:
    attributes.pop("axis", None)
    if axis is not None:
        attributes["axis"] = ir.AttrInt64("axis", axis)


def _stored_grid(graph: ir.Graph, pair: qdq.Pair, grid: NewGrid) -> list[ir.Value]:
    """The grid as initializers: scale, zero point, and the constant where it is of a weight."""
    name = f"{pair.source.name or pair.name}_recalibrated"
    parameters = [
        add(graph, f"{name}_scale", grid.scale),
        add(graph, f"{name}_zero_point", grid.zero_point),
    ]
    if grid.constant is not None:
        parameters.append(add(graph, f"{name}_values", grid.constant))
    return parameters


def _insert_behind(value: ir.Value, node: ir.Node, graph: ir.Graph) -> None:
    """Put the node where the value is known. graph: of the value, where it does not say so."""
    if value.producer() is None:  # an input, perhaps of the body of a Loop
        owner = value.graph or graph
        owner.insert_before(owner[0], node)
    else:
        insert_behind(value, [node])


def wide_domain(model: ir.Model) -> str:
    """The domain of Q and DQ that take integers of 16 bits in this model: ONNX's own has them from
    opset 21 on, ONNX Runtime's in every one."""
    return "" if model.opset_imports.get("", 0) >= WIDE_FROM else MICROSOFT


def can_be_per_channel(model: ir.Model) -> bool:
    """Whether pairs of this model can have scales per channel, all its operations as they are."""
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
    try:
        np.broadcast_to(spread(scale, pair, shape), shape)
    except ValueError:
        return False
    return True


def dequantized(pair: qdq.Pair) -> NDArray[Any]:
    """The float values that a pair in the compact form gives: (level - zero point) * scale, as ONNX
    defines it.

    Raises OnnxFileError where the scale is not a constant.
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
    shifted = kept - spread(offset.astype(np.float32), pair, levels.shape)
    values = shifted * spread(scale.astype(np.float32), pair, levels.shape)
    return np.asarray(values).astype(scale.dtype)


def spread(values: NDArray[Any], pair: qdq.Pair, shape: tuple[int, ...]) -> NDArray[Any]:
    """Values per tensor, per channel or per block, in a shape that goes with the weight's."""
    has_blocks = values.ndim == len(shape) > 1 and values.size > 1  # from opset 21
    if not has_blocks:
        return along(values, pair.axis_in(len(shape)), len(shape))
    axis = qdq.axis_of(pair.dequantize) % len(shape)
    size = math.ceil(shape[axis] / values.shape[axis])
    every = np.repeat(values, size, axis)
    # The last block may be cut short.
    return every[tuple(slice(0, side) for side in shape)]


@dataclass(frozen=True, eq=False)
class CorrectedBias:
    """A float bias that belongs to a quantized weight. weight: the use of it. index: the bias's,
    among the inputs."""

    weight: Use
    index: int
    bias: ir.Value
    values: NDArray[Any]


def corrected_bias(path: Path, weights: Weights) -> CorrectedBias | None:
    """The bias that changes with the weight at the end of this path; None where there is none, or
    no weight."""
    bias = given(path.user, BIAS_INPUT)
    values = weights.get(value_name(bias))
    if not path.is_weight or bias is None or values is None or qdq.constant(bias) is None:
        return None
    weight = next((use for use in uses([path]) if use.role == "weight"), None)
    return None if weight is None else CorrectedBias(weight, BIAS_INPUT, bias, values)


def corrected(bias: NDArray[Any], grid: NewGrid) -> NDArray[Any]:
    """A float bias with what the grid adds to it, in its own type."""
    if grid.bias is None:
        return bias
    return np.asarray(bias.astype(np.float32) + grid.bias).astype(bias.dtype)


def nodes_of(link: Link) -> list[ir.Node]:
    """The nodes of a pair or a mover, in the order they run."""
    return [link] if isinstance(link, ir.Node) else link.nodes


def _restore(graph: ir.Graph, path: Path, corrected: CorrectedBias) -> None:
    """Give the operation its bias as it was before it was corrected."""
    bias, name = corrected.bias, corrected.bias.name or "bias"
    assert path.user is not None
    path.user.replace_input_with(corrected.index, add(graph, f"{name}_float", corrected.values))
    remove_constant(bias)


def _connect(path: Path, value: ir.Value) -> None:
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
    # The name that users know stays with what the graph gives.
    old.name, value.name = f"{old.name}_skipped", old.name
    graph.outputs[path.index] = value


def _remove_unread(candidates: list[ir.Node]) -> None:
    """Remove the candidates that nothing reads any more, and the constants that only they read."""
    for node in reversed(candidates):
        if node.graph is None or is_read(node):
            continue
        read = inputs(node)
        node.graph.remove(node, safe=True)
        for value in read:
            remove_constant(value)
