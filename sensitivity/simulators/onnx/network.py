"""A Q/DQ file as single operations: each is an ONNX Runtime session of its own, each use of a pair
a switch."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
    dequantized,
    nodes_of,
    wide_domain,
)
from sensitivity.onnx_graph.uses import Link, Use
from sensitivity.onnx_graph.walk import value_name
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.ranges import weight_on_grid
from sensitivity.records import NOTHING
from sensitivity.simulators.schedule import Network

Place = tuple[int, int]
"""A node of the network and which of its outputs."""

EMBEDDED = 2**20
"""Bytes. Constants up to this stay in the operation that reads them, as in the file; larger ones
are held once."""


class Unsplittable(Exception):
    """Why a file cannot be run operation by operation."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """How a node of the network is computed.

    nodes: of the file, one after the other. reads: name of each input -> (index into the node's
    deps, output of that dep). outputs: names, "" for those that the file leaves out. constants:
    what else the nodes read. value: that of a constant, which has no nodes.
    """

    nodes: tuple[onnx.NodeProto, ...] = ()
    reads: Mapping[str, Place] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("value",)
    constants: Mapping[str, onnx.TensorProto] = field(default_factory=dict)
    value: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """network: as the schedule wants it. recipes: of each node; None for inputs. inputs: name ->
    node.
    outputs: which output of which node each graph output is. operations: of the file -> node."""

    network: Network
    recipes: tuple[Recipe | None, ...]
    inputs: dict[str, int]
    outputs: tuple[Place, ...]
    operations: Mapping[ir.Node, int]


Offered = Mapping[str, Mapping[str, NewGrid]]
"""Use -> key of a range -> the grid that takes the place of the use's own."""


def split(source: OnnxModel, bits: dict[str, int], offered: Offered = NOTHING) -> Split:
    """The network of a file. bits: name of a use or key of a range -> its bit; uses that are not in
    it are always enabled. A use with ranges on offer is a chain of switches on one value, its own
    first: the last that is enabled gives what the operation reads."""
    return _Splitter(source, bits, offered).split()


class _Splitter:
    def __init__(self, source: OnnxModel, bits: dict[str, int], offered: Offered) -> None:
        self._source, self._bits, self._offered = source, bits, offered
        self._model = source.graph
        self._wide_domain = wide_domain(source.graph)
        self._deps: list[tuple[int, ...]] = []
        self._switch: list[int] = []
        self._recipes: list[Recipe | None] = []
        self._fixed: list[bool] = []
        self._twins: list[int] = []
        self._at: dict[ir.Value, Place] = {}
        self._activated: dict[tuple[Place, Limits], int] = {}
        self._of_pair: dict[tuple[ir.Node, Place, NewGrid | None], int] = {}
        self._operations: dict[ir.Node, int] = {}
        self._biased = {
            place.node: place
            for name, place in source.bias_places.items()
            if any(grid.bias is not None for grid in self._grids_of(name).values())
        }
        self._paths = {(path.user, path.index): path for path in source.paths}
        by_tool = ((path.user, corrected_bias(path, source.weights)) for path in source.paths)
        self._corrected = {
            (user, found.index): found for user, found in by_tool if found is not None
        }

    def split(self) -> Split:
        graph = self._model.graph
        if any(path.graph is not graph for path in self._source.paths):
            raise Unsplittable("bodies of If, Loop or Scan hold Q/DQ pairs")
        inputs = {}
        for value in graph.inputs:
            if not value.is_initializer():
                inputs[value_name(value)] = self._add((), None, fixed=False)
                self._at[value] = (inputs[value_name(value)], 0)
        for node in graph:
            self._add_operation(node)
        outputs = tuple(
            self._reached(None, index, value) for index, value in enumerate(graph.outputs)
        )
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
        return Split(network, tuple(self._recipes), inputs, outputs, self._operations)

    def _add(
        self, deps: tuple[int, ...], recipe: Recipe | None, *, fixed: bool, switch: int = 0
    ) -> int:
        self._deps.append(deps)
        self._recipes.append(recipe)
        self._fixed.append(fixed)
        self._switch.append(switch)
        self._twins.append(len(self._twins))
        return len(self._deps) - 1

    def _add_operation(self, node: ir.Node) -> None:
        places = {
            index: self._reached(node, index, value)
            for index, value in enumerate(node.inputs)
            if value is not None and not self._is_embedded(node, index, value)
        }
        biased = self._biased.get(node)
        if biased is not None:
            places[biased.index] = self._changed_bias(biased, places.get(biased.index)), 0
        captured = self._places(_captured(node))
        # By place, not by name: one value may be read twice, quantized once and not the other time.
        names = {index: f"input_{index}" for index in places}
        at = self._call(
            [node], {names[index]: place for index, place in places.items()} | captured, names
        )
        self._operations[node] = at
        for output, value in enumerate(node.outputs):
            self._at[value] = (at, output)

    def _grids_of(self, name: str) -> dict[str, NewGrid]:
        """The grid that a use has now, by the use's name, and those on offer, by their keys."""
        found = dict[str, NewGrid]()
        now = self._source.grids.get(name)
        if now is not None:
            found[name] = now
        found.update(self._offered.get(name, {}))
        return found

    def _changed_bias(self, place: BiasPlace, before: Place | None) -> int:
        """A chain of switches on the bias, as on the weight that it goes with."""
        name = place.weight.name
        grids = self._grids_of(name)
        biased = next(grid for grid in grids.values() if grid.bias is not None)
        bias = self._source.float_bias(place)
        if bias is None:
            bias = biased.no_bias
        at = self._constant(bias)
        if before is not None and name not in grids:
            at = before[0]  # maybe of integers, which are float only while the weight has a grid
        for switch, grid in grids.items():
            values = corrected(bias, grid)
            constant = f"{switch}.bias"
            keep = onnx.helper.make_node("Identity", [constant], ["value"])
            recipe = Recipe((keep,), {}, constants=_tensors({constant: values}))
            at = self._add((at,), recipe, fixed=True, switch=self._bits.get(switch, 0))
        return at

    def _is_embedded(self, node: ir.Node, index: int, value: ir.Value) -> bool:
        if (node, index) in self._paths or (node, index) in self._corrected:
            return False
        biased = self._biased.get(node)
        is_changed = biased is not None and biased.index == index
        if is_changed or value in self._at:
            return False
        array = qdq.constant(value)
        return array is None or array.nbytes <= EMBEDDED

    def _call(
        self,
        nodes: Sequence[ir.Node],
        places: dict[str, Place],
        renamed: Mapping[int, str] = NOTHING,
    ) -> int:
        deps = tuple(dict.fromkeys(place for place, _ in places.values()))
        reads = {name: (deps.index(place), output) for name, (place, output) in places.items()}
        return self._add(
            deps, _recipe(nodes, reads, renamed), fixed=all(self._fixed[dep] for dep in deps)
        )

    def _reached(self, user: ir.Node | None, index: int, value: ir.Value) -> Place:
        """Where an input of an operation, or an output of the graph, is had from."""
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
        if use is None:
            assert isinstance(link, ir.Node)
            assert before is not None
            first = link.inputs[0]
            assert first is not None
            others = self._places(link.inputs[1:])
            return self._call([link], {value_name(first): before, **others}), 0
        return self._switched(use, before), 0

    def _places(self, values: Iterable[ir.Value | None]) -> dict[str, Place]:
        """Name -> where it is had from, of those of the values that the network computes."""
        return {value_name(value): self._at[value] for value in values if value in self._at}

    def _switched(self, use: Use, before: Place | None) -> int:
        """A node that quantizes unless its bit is disabled, and then gives what it reads."""
        if use.name in self._source.freed:
            return self._unquantized_weight(use)
        stored_otherwise = (
            use.pair.is_compact or value_name(use.pair.source) in self._source.weights
        )
        if before is None or stored_otherwise:
            before = (self._unquantized_weight(use), 0)
        if before[1]:  # a switch gives back all that its node reads, so it must read one value
            identity = onnx.helper.make_node("Identity", ["x"], ["value"])
            before = (
                self._add((before[0],), Recipe((identity,), {"x": (0, before[1])}), fixed=False),
                0,
            )
        if any(self._places(node.inputs[1:]) for node in nodes_of(use.pair)):
            raise Unsplittable(f"the scale of {use.name} is computed in the graph")
        clamped = None if stored_otherwise else self._clamped(use, before)
        deps = (before[0],) if clamped is None else (clamped, before[0])
        grid = self._source.grids.get(use.name)
        recipe = self._pair_recipe(use, grid, len(deps) - 1, stored_otherwise)
        fixed = self._fixed[before[0]]
        at = self._add(deps, recipe, fixed=fixed, switch=self._bits.get(use.name, 0))
        self._twins[at] = self._of_pair.setdefault((use.pair.dequantize, before, grid), at)
        for key, other in self._offered.get(use.name, {}).items():
            offered = self._pair_recipe(use, other, 1, stored_otherwise)
            at = self._add((at, before[0]), offered, fixed=fixed, switch=self._bits[key])
        return at

    def _pair_recipe(
        self, use: Use, grid: NewGrid | None, dep: int, stored_otherwise: bool
    ) -> Recipe:
        """How a pair is computed on its own grid (None) or another. dep: which one gives what it
        quantizes, unless it reads a constant of the file that is stored otherwise."""
        if grid is not None and not grid.keeps_pair:
            return _on_grid(use, grid, dep, self._wide_domain)
        reads = {} if stored_otherwise else {value_name(use.pair.source): (dep, 0)}
        return _recipe(nodes_of(use.pair), reads, {})

    def _clamped(self, use: Use, before: Place) -> int | None:
        """A node with the activation that only the pair stands for; None where there is none."""
        limits = self._source.clamps.get(value_name(use.pair.source))
        if limits is None:
            return None
        if (before, limits) not in self._activated:
            value = ir.Value(name="clamped_input")
            node = activation(limits, value, use.pair, self._model.opset_imports.get("", 0))
            self._activated[before, limits] = self._call([node], {"clamped_input": before})
        return self._activated[before, limits]

    def _unquantized_weight(self, use: Use) -> int:
        source = use.pair.source
        given = self._source.weights.get(value_name(source))
        if given is not None:
            return self._constant(given)
        return self._constant(
            dequantized(use.pair) if use.pair.quantize is None else qdq.constant(source)
        )

    def _switched_bias(self, corrected: CorrectedBias) -> int:
        """A node that gives the corrected bias unless the weight's bit is disabled, and then the
        one before that."""
        before = self._constant(corrected.values)
        if corrected.weight.name in self._source.grids:
            return before
        name = value_name(corrected.bias)
        keep = onnx.helper.make_node("Identity", [name], ["value"])
        recipe = Recipe((keep,), {}, constants={name: _tensor(corrected.bias)})
        return self._add(
            (before,), recipe, fixed=True, switch=self._bits.get(corrected.weight.name, 0)
        )

    def _constant(self, array: NDArray[Any] | None) -> int:
        if array is None:
            raise Unsplittable("it reads a value that nothing gives")
        return self._add((), Recipe(value=array), fixed=True)


def _on_grid(use: Use, grid: NewGrid, source: int, wide_domain: str) -> Recipe:
    """A pair on another grid. source: which dep gives what it quantizes; a weight's values are
    computed here, since older opsets have no scales per channel. wide_domain: of Q and DQ of 16
    bits."""
    names = {what: f"{grid.key}.{what}" for what in ("scale", "zero_point", "values")}
    if grid.constant is not None:
        keep = onnx.helper.make_node("Identity", [names["values"]], ["value"])
        return Recipe((keep,), {}, constants=_tensors({names["values"]: weight_on_grid(use, grid)}))
    parameters = _tensors({names["scale"]: grid.scale, names["zero_point"]: grid.zero_point})
    if grid.is_wide:
        nodes = _pair_of(list(parameters), wide_domain, grid.axis)
        return Recipe(nodes, {"x": (source, 0)}, constants=parameters)
    recipe = _recipe(nodes_of(use.pair), {value_name(use.pair.source): (source, 0)}, {})
    for node in recipe.nodes:
        if node.op_type != "Clip":
            del node.input[1:]
            node.input.extend(parameters)
    return Recipe(recipe.nodes, recipe.reads, recipe.outputs, {**recipe.constants, **parameters})


def _pair_of(
    parameters: list[str], domain: str, axis: int | None
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """A Q and a DQ of `x`. parameters: names of scale and zero point."""
    along = {} if axis is None else {"axis": axis}
    quantize = onnx.helper.make_node(
        "QuantizeLinear", ["x", *parameters], ["levels"], domain=domain, **along
    )
    dequantize = onnx.helper.make_node(
        "DequantizeLinear", ["levels", *parameters], ["value"], domain=domain, **along
    )
    return quantize, dequantize


def _tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, onnx.TensorProto]:
    return {name: onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()}


def _recipe(
    nodes: Sequence[ir.Node], reads: Mapping[str, Place], renamed: Mapping[int, str]
) -> Recipe:
    """renamed: place of an input of the first node -> its name in `reads`."""
    inner = {value_name(value) for node in nodes for value in node.outputs}
    constants = {
        name: _tensor(value)
        for name, value in _values_read(nodes, renamed).items()
        if name not in reads.keys() | inner
    }
    protos = tuple(ir.to_proto(node) for node in nodes)
    for index, name in renamed.items():
        missing = index + 1 - len(protos[0].input)
        protos[0].input.extend([""] * missing)  # a bias that the operation has not had
        protos[0].input[index] = name
    return Recipe(protos, reads, tuple(value_name(value) for value in nodes[-1].outputs), constants)


def _values_read(nodes: Sequence[ir.Node], renamed: Container[int]) -> dict[str, ir.Value]:
    """Name -> value, of all that the nodes read. renamed: places of inputs of the first node that
    are left out."""
    first, *others = nodes
    values = [value for index, value in enumerate(first.inputs) if index not in renamed]
    values += _captured(first)
    for node in others:
        values += (*node.inputs, *_captured(node))
    return {value_name(value): value for value in values if value is not None}


def _captured(node: ir.Node) -> list[ir.Value]:
    """Values of outer graphs that sub-graphs of this node read."""
    found: dict[ir.Value, None] = {}
    for attribute in node.attributes.values():
        graphs = (
            [attribute.as_graph()]
            if attribute.type == ir.AttributeType.GRAPH
            else attribute.as_graphs()
            if attribute.type == ir.AttributeType.GRAPHS
            else []
        )
        for graph in graphs:
            nodes = list(graph.all_nodes())
            own = {value for inner in nodes for value in inner.outputs} | set(graph.inputs)
            own |= set(graph.initializers.values())
            read = [value for inner in nodes for value in inner.inputs if value is not None] + list(
                graph.outputs
            )
            found.update(dict.fromkeys(value for value in read if value not in own))
    return list(found)


def _tensor(value: ir.Value) -> onnx.TensorProto:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise Unsplittable(f"{value.name} is neither computed nor a constant")
    proto = ir.to_proto(tensor)
    proto.name = value_name(value)
    return proto
