"""Splits a Q/DQ file into single operations: each can run in an ONNX Runtime session of its own,
and each use of a pair is a switch."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.biases import BiasPlace
from sensitivity.onnx_graph.clamps import Limits, activation
from sensitivity.onnx_graph.passes.skip_uses import (
    CorrectedBias,
    NewGrid,
    corrected,
    corrected_bias,
    domain_of,
)
from sensitivity.onnx_graph.uses import BIAS_INPUT, Link, Path, Use
from sensitivity.onnx_graph.walk import bodies, first_input, input_at, inputs, value_name
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.ranges import float_weight, weight_on_grid
from sensitivity.records import NOTHING
from sensitivity.simulators.schedule import Network

Place = tuple[int, int]
"""A node of the network and the index of one of its outputs."""

Input = tuple[ir.Node | None, int]
"""An operation and the index of one of its inputs; None stands for the outputs of the graph."""

EMBEDDED = 2**20
"""Size in bytes. Constants up to this size stay in the operation that reads them, as in the file;
larger ones are held once."""


class Unsplittable(Exception):
    """Error with the reason why a file cannot be run operation by operation."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How a node of the network is computed; the empty recipe is that of an input.

    nodes: nodes of the file, one after the other.
    reads: name of each input -> (index into the node's deps, output of that dep).
    outputs: names, "" for outputs that the file leaves out.
    constants: other tensors that the nodes read.
    value: value of a constant, which has no nodes.
    """

    nodes: tuple[onnx.NodeProto, ...] = ()
    reads: Mapping[str, Place] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("value",)
    constants: Mapping[str, onnx.TensorProto] = field(default_factory=dict)
    value: NDArray[Any] | None = None

    @cached_property
    def places(self) -> dict[str, int]:
        """Name of each output that the file gives -> its index."""
        return {name: index for index, name in enumerate(self.outputs) if name}


@dataclass(frozen=True, eq=False)
class Split:
    """A file as a network, and the meaning of its nodes.

    network: the network, as the schedule takes it.
    recipes: recipe of each node.
    inputs: name -> node.
    outputs: node and output index of each graph output.
    operations: operation of the file -> node.
    """

    network: Network
    recipes: tuple[Recipe, ...]
    inputs: dict[str, int]
    outputs: tuple[Place, ...]
    operations: Mapping[ir.Node, int]


INPUT = "input_"
"""Name of an operation's input in its recipe, before the index."""

Candidates = Mapping[str, Mapping[str, NewGrid]]
"""Use -> key of a range -> grid that takes the place of the use's own."""


def split(source: OnnxModel, bits: dict[str, int], candidates: Candidates = NOTHING) -> Split:
    """Return the network of a file.

    A use with candidate ranges is a chain of switches on one value, its own grid first. The last
    enabled switch gives the value that the operation reads.

    bits: name of a use or key of a range -> its bit; uses without a bit are always enabled.
    candidates: candidate ranges.

    Raises Unsplittable for a file that cannot be run operation by operation.
    """
    return _Splitter(source, bits, candidates).split()


class _Splitter:
    def __init__(self, source: OnnxModel, bits: dict[str, int], candidates: Candidates) -> None:
        self._source, self._bits, self._candidates = source, bits, candidates
        self._model = source.graph
        self._deps: list[tuple[int, ...]] = []
        self._switch: list[int] = []
        self._recipes: list[Recipe] = []
        self._fixed: list[bool] = []
        self._twins: list[int] = []
        self._at: dict[ir.Value, Place] = {}
        self._activated: dict[tuple[int, Limits], int] = {}
        self._of_pair: dict[tuple[ir.Node, int, NewGrid | None], int] = {}
        self._operations: dict[ir.Node, int] = {}
        self._paths: dict[Input, Path] = {}
        self._corrected: dict[Input, CorrectedBias] = {}
        for path in source.paths:
            self._paths[path.user, path.index] = path
            bias = corrected_bias(path, source.weights)
            if bias is not None:
                self._corrected[path.user, bias.index] = bias
        self._biased: dict[Input, BiasPlace] = {}
        for name, place in source.bias_places.items():
            biases = [grid.bias for grid in self._grids_of(name).values()]
            if any(bias is not None for bias in biases):
                self._biased[place.node, place.index] = place
        self._own_nodes = {*self._paths, *self._corrected, *self._biased}

    def split(self) -> Split:
        graph = self._model.graph
        if any(path.graph is not graph for path in self._source.paths):
            raise Unsplittable("bodies of If, Loop or Scan hold Q/DQ pairs")
        inputs = {}
        for value in graph.inputs:
            if not value.is_initializer():
                at = self._add((), Recipe(), fixed=False)
                inputs[value_name(value)] = at
                self._at[value] = (at, 0)
        for node in graph:
            self._add_operation(node)
        outputs = [self._reached(None, index, value) for index, value in enumerate(graph.outputs)]
        size = len(self._deps)
        network = Network(
            deps=tuple(self._deps),
            switch=tuple(self._switch),
            fixed=tuple(self._fixed),
            fresh=(True,) * size,
            overwrites=(False,) * size,
            size=(0,) * size,
            outputs=tuple(node for node, _ in outputs),
            twins=tuple(self._twins),
        )
        return Split(network, tuple(self._recipes), inputs, tuple(outputs), self._operations)

    def _add(self, deps: tuple[int, ...], recipe: Recipe, *, fixed: bool, switch: int = 0) -> int:
        self._deps.append(deps)
        self._recipes.append(recipe)
        self._fixed.append(fixed)
        self._switch.append(switch)
        self._twins.append(len(self._twins))
        return len(self._deps) - 1

    def _add_operation(self, node: ir.Node) -> None:
        # Inputs are told apart by index, because one value may be read twice and quantized once.
        names: dict[int, str] = {}
        places: dict[str, Place] = {}
        # The operation may get a bias that the file does not have.
        for index in range(max(len(node.inputs), BIAS_INPUT + 1)):
            place = self._input(node, index)
            if place is not None:
                names[index] = f"{INPUT}{index}"
                places[names[index]] = place
        at = self._call([node], places | self._places(_captured(node)), names)
        self._operations[node] = at
        for output, value in enumerate(node.outputs):
            self._at[value] = (at, output)

    def _input(self, node: ir.Node, index: int) -> Place | None:
        """Return the place from which an input of an operation comes; None if the input is missing
        or stays in the operation."""
        value, biased = input_at(node, index), self._biased.get((node, index))
        before = None
        if value is not None and not self._is_embedded(node, index, value):
            before = self._reached(node, index, value)
        if biased is not None:
            return self._changed_bias(biased, before), 0
        return before

    def _grids_of(self, name: str) -> dict[str, NewGrid]:
        """Return the present grid of a use, by the use's name, and the candidate grids, by their
        keys."""
        now = self._source.grids.get(name)
        own = {} if now is None else {name: now}
        return own | dict(self._candidates.get(name, {}))

    def _changed_bias(self, place: BiasPlace, before: Place | None) -> int:
        """Return a chain of switches on the bias that matches the chain on its weight."""
        name = place.weight.name
        grids = self._grids_of(name)
        bias = self._source.float_bias(place)
        if bias is None:
            biased = next(grid for grid in grids.values() if grid.bias is not None)
            bias = biased.no_bias
        at = self._constant(bias)
        if before is not None and name not in grids:
            at, _ = before  # may be in integers, which are float only while the weight has a grid
        for switch, grid in grids.items():
            recipe = _kept(f"{switch}.bias", corrected(bias, grid))
            at = self._add((at,), recipe, fixed=True, switch=self._bits.get(switch, 0))
        return at

    def _is_embedded(self, node: ir.Node, index: int, value: ir.Value) -> bool:
        """Return whether an input stays in the operation, as in the file: a small constant, or a
        value that no operation gives."""
        if (node, index) in self._own_nodes or value in self._at:
            return False
        array = qdq.constant(value)
        is_large = array is not None and array.nbytes > EMBEDDED
        return not is_large

    def _call(
        self,
        nodes: Sequence[ir.Node],
        places: dict[str, Place],
        renamed: Mapping[int, str] = NOTHING,
    ) -> int:
        deps = tuple(dict.fromkeys(at for at, _ in places.values()))
        reads = {name: (deps.index(at), output) for name, (at, output) in places.items()}
        fixed = all(map(self._fixed.__getitem__, deps))
        return self._add(deps, _recipe(nodes, reads, renamed), fixed=fixed)

    def _reached(self, user: ir.Node | None, index: int, value: ir.Value) -> Place:
        """Return the place from which an input of an operation, or an output of the graph,
        comes."""
        path, corrected = self._paths.get((user, index)), self._corrected.get((user, index))
        if corrected is not None:
            return self._switched_bias(corrected), 0
        if path is None:
            if value not in self._at:
                self._at[value] = (self._constant(qdq.constant(value)), 0)
            return self._at[value]
        place = self._at.get(path.root)
        for link, use in path.links:
            place = self._link(link, use, place)
        assert place is not None
        return place

    def _link(self, link: Link, use: Use | None, before: Place | None) -> Place:
        if use is not None:
            return self._switched(use, before), 0
        assert isinstance(link, ir.Node)
        assert before is not None
        others = self._places(link.inputs[1:])
        return self._call([link], {value_name(first_input(link)): before, **others}), 0

    def _places(self, values: Iterable[ir.Value | None]) -> dict[str, Place]:
        """Return name -> place, for those of the values that the network computes."""
        return {value_name(value): self._at[value] for value in values if value in self._at}

    def _switched(self, use: Use, before: Place | None) -> int:
        """Return a node that quantizes, or gives its first dep unchanged if its bit is disabled."""
        if use.name in self._source.freed:
            return self._unquantized_weight(use)
        pair = use.pair
        stored_otherwise = pair.is_compact or value_name(pair.source) in self._source.weights
        if before is None or stored_otherwise:
            source = self._unquantized_weight(use)
        else:
            source = self._alone(before)
        if any(self._places(node.inputs[1:]) for node in pair.nodes):
            raise Unsplittable(f"the scale of {use.name} is computed in the graph")
        deps = [source]
        if not stored_otherwise:
            deps = [*self._clamped(use, source), source]
        grid, fixed = self._source.grids.get(use.name), self._fixed[source]
        recipe = self._pair_recipe(use, grid, len(deps) - 1, stored_otherwise)
        at = self._add(tuple(deps), recipe, fixed=fixed, switch=self._bits.get(use.name, 0))
        self._twins[at] = self._of_pair.setdefault((pair.dequantize, source, grid), at)
        for key, other in self._candidates.get(use.name, {}).items():
            candidate = self._pair_recipe(use, other, 1, stored_otherwise)
            given = source
            if other.restores_clamps and not stored_otherwise:
                (given,) = self._clamped(use, source) or [source]
            at = self._add((at, given), candidate, fixed=fixed, switch=self._bits[key])
        return at

    def _alone(self, place: Place) -> int:
        """Return a node that gives only this value.

        A disabled switch gives back everything that its node reads, so the node must read a single
        value.
        """
        at, output = place
        if output == 0:
            return at
        identity = onnx.helper.make_node("Identity", ["x"], ["value"])
        return self._add((at,), Recipe((identity,), {"x": (0, output)}), fixed=False)

    def _pair_recipe(
        self, use: Use, grid: NewGrid | None, dep: int, stored_otherwise: bool
    ) -> Recipe:
        """Return the recipe of a pair on its own grid (None) or another one.

        dep: index of the dep that gives the value to quantize; unused if the pair reads a constant
            that the file stores in another form.
        """
        if grid is not None and not grid.keeps_pair:
            return _on_grid(use, grid, dep, domain_of(grid, self._model))
        reads = {} if stored_otherwise else {value_name(use.pair.source): (dep, 0)}
        return _recipe(use.pair.nodes, reads, {})

    def _clamped(self, use: Use, source: int) -> list[int]:
        """Return a node with the activation that only the pair stands for; empty if there is
        none."""
        limits = self._source.clamps.get(value_name(use.pair.source))
        if limits is None:
            return []
        if (source, limits) not in self._activated:
            value = ir.Value(name="clamped_input")
            node = activation(limits, value, use.pair, self._model.opset_imports.get("", 0))
            self._activated[source, limits] = self._call([node], {"clamped_input": (source, 0)})
        return [self._activated[source, limits]]

    def _unquantized_weight(self, use: Use) -> int:
        return self._constant(float_weight(self._source, use))

    def _switched_bias(self, corrected: CorrectedBias) -> int:
        """Return a node that gives the bias with its correction, or without it if the weight's bit
        is disabled."""
        before = self._constant(corrected.values)
        if corrected.weight.name in self._source.grids:
            return before
        bit = self._bits.get(corrected.weight.name, 0)
        recipe = _kept(value_name(corrected.bias), _tensor(corrected.bias))
        return self._add((before,), recipe, fixed=True, switch=bit)

    def _constant(self, array: NDArray[Any] | None) -> int:
        if array is None:
            raise Unsplittable("it reads a value that nothing gives")
        return self._add((), Recipe(value=array), fixed=True)


def _on_grid(use: Use, grid: NewGrid, source: int, domain: str) -> Recipe:
    """Return the recipe of a pair on another grid.

    A weight's values are computed here, because older opsets have no scales per channel.

    source: index of the dep that gives the value to quantize.
    domain: domain of Q and DQ if the levels have another type than the pair's.
    """
    if grid.constant is not None:
        return _kept(f"{grid.key}.values", weight_on_grid(use, grid))
    scale, zero_point = f"{grid.key}.scale", f"{grid.key}.zero_point"
    parameters = {
        scale: onnx.numpy_helper.from_array(grid.scale, scale),
        zero_point: onnx.numpy_helper.from_array(grid.zero_point, zero_point),
    }
    if grid.has_own_type:
        nodes = _pair_of(list(parameters), domain, grid.axis)
        return Recipe(nodes, {"x": (source, 0)}, constants=parameters)
    recipe = _recipe(use.pair.nodes, {value_name(use.pair.source): (source, 0)}, {})
    for node in recipe.nodes:
        if node.op_type != "Clip":
            del node.input[1:]
            node.input.extend(parameters)
    return replace(recipe, constants={**recipe.constants, **parameters})


def _pair_of(
    parameters: list[str], domain: str, axis: int | None
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """Return the Q and the DQ of `x`.

    parameters: names of scale and zero point.
    """
    along = {} if axis is None else {"axis": axis}
    quantize = onnx.helper.make_node(
        "QuantizeLinear", ["x", *parameters], ["levels"], domain=domain, **along
    )
    dequantize = onnx.helper.make_node(
        "DequantizeLinear", ["levels", *parameters], ["value"], domain=domain, **along
    )
    return quantize, dequantize


def _kept(name: str, value: NDArray[Any] | onnx.TensorProto) -> Recipe:
    """Return the recipe of a switch that gives a constant of this name."""
    keep = onnx.helper.make_node("Identity", [name], ["value"])
    if not isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.from_array(value, name)
    return Recipe((keep,), constants={name: value})


def _recipe(
    nodes: Sequence[ir.Node], reads: Mapping[str, Place], renamed: Mapping[int, str]
) -> Recipe:
    """Return the recipe of these nodes.

    renamed: index of an input of the first node -> its name in `reads`.
    """
    computed = set(reads)
    for node in nodes:
        computed.update(map(value_name, node.outputs))
    values = _values_read(nodes, renamed)
    constants = {name: _tensor(values[name]) for name in values if name not in computed}
    protos = tuple(map(ir.serde.serialize_node, nodes))
    first = protos[0].input
    for index, name in renamed.items():
        missing = index + 1 - len(first)
        first.extend([""] * missing)  # for a bias that the operation does not have in the file
        first[index] = name
    return Recipe(protos, reads, tuple(map(value_name, nodes[-1].outputs)), constants)


def _values_read(nodes: Sequence[ir.Node], renamed: Container[int]) -> dict[str, ir.Value]:
    """Return all values that the nodes read, by name.

    renamed: indices of inputs of the first node that are left out.
    """
    values: list[ir.Value] = []
    for index, value in enumerate(nodes[0].inputs):
        if value is not None and index not in renamed:
            values.append(value)
    for node in nodes[1:]:
        values += inputs(node)
    for node in nodes:
        values += _captured(node)
    return dict(zip(map(value_name, values), values, strict=True))


def _captured(node: ir.Node) -> list[ir.Value]:
    """Return the values of outer graphs that sub-graphs of this node read."""
    found: dict[ir.Value, None] = {}
    for graph in bodies(node):
        own = {*graph.inputs, *graph.initializers.values()}
        read: list[ir.Value] = []
        for inner in graph.all_nodes():
            own.update(inner.outputs)
            read += inputs(inner)
        read += graph.outputs
        found.update(dict.fromkeys(value for value in read if value not in own))
    return list(found)


def _tensor(value: ir.Value) -> onnx.TensorProto:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise Unsplittable(f"{value.name} is neither computed nor a constant")
    proto = ir.serde.serialize_tensor(tensor)
    proto.name = value_name(value)
    return proto
