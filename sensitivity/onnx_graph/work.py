"""Lists the work of the quantized layers of a Q/DQ file, and the tensors between the layers.

Layers are the operations with a weight and, if asked for, products of two activations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import match_or_none, matches, needed, require
from sensitivity.onnx_graph.uses import BIAS_INPUT, MOVERS, format_of
from sensitivity.onnx_graph.walk import (
    input_at,
    made_by,
    name_of,
    not_none,
    of_kind,
    reached,
    read_by,
    source,
    value_name,
)

ACTIVATIONS = {"Relu", "LeakyRelu", "Clip", "HardSwish", "Sigmoid", "Tanh", "Gelu", "Elu", "PRelu"}
"""Operations that runtimes run together with the layer before them, or in its precision."""

PLAIN = (int, float, str, list, tuple)
"""Types of attributes that JSON can hold."""

OUTSIDE = ""
"""Stands for anything that is never quantized, such as the model's input, in place of a layer's
name."""


@dataclass(frozen=True)
class LayerShape:
    """What the time of a layer depends on. Two layers with equal shapes take equally long.

    attributes: attributes of the operation as JSON.
    input, weight, output: shapes for a batch of 1, the weight as the operation reads it. The weight
        of a product of two activations is the second one.
    then: the activations after the layer as (operation, attributes as JSON); SiLU is ("SiLU",
        "{}").
    """

    op: str
    attributes: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    output: tuple[int, ...]
    bias: bool
    then: tuple[tuple[str, str], ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates: each output value takes as many as the weight has values for one
        output channel."""
        per_channel = math.prod(self.weight[1:])
        if self.op == "ConvTranspose":
            return math.prod(self.input) * per_channel
        if self._has_rows_of_inputs:
            return math.prod(self.output) * self.weight[-2]
        return math.prod(self.output) * per_channel

    @property
    def _has_rows_of_inputs(self) -> bool:
        """Whether the weight has the shape [..., inputs, outputs]."""
        if self.op != "Gemm":
            return self.op == "MatMul"
        return not json.loads(self.attributes).get("transB")

    @property
    def values(self) -> int:
        """Number of values that are read and written: those of input, weight and output."""
        return math.prod(self.input) + math.prod(self.weight) + math.prod(self.output)


@dataclass(frozen=True)
class Layer:
    """A layer that is quantized in the file.

    node: name of its node.
    quantizers: exact names of the quantizers on its input and its weight.
    """

    node: str
    quantizers: tuple[str, ...]
    shape: LayerShape


@dataclass(frozen=True)
class Link:
    """A tensor that goes from one quantized layer to another.

    before, after: names of their nodes; `OUTSIDE` if that end is not a quantized layer.
    """

    before: str
    after: str
    size: tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """The quantized layers of a file, in the file's order, and the tensors between them.

    readers: name of a node -> quantizers of the operations that read its output, directly or
        through operations without weights, and OUTSIDE if the model gives it, or an operation reads
        it that is never quantized or has 16-bit activations in the file. None for a node that has
        these itself.
    """

    layers: tuple[Layer, ...]
    links: tuple[Link, ...]
    readers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Quantized:
    """A layer with pairs on its input and its weight.

    end: output of the last activation after the layer, or of the layer.
    then: those activations, as in `LayerShape`.
    """

    node: ir.Node
    activation: qdq.Pair
    weight: qdq.Pair
    end: ir.Value
    then: tuple[tuple[str, str], ...]

    @property
    def first_operand(self) -> ir.Value:
        """The first activation before its quantizer, or after what moves its values after that."""
        return _unrounded(self.node.inputs[0])

    @property
    def second_operand(self) -> ir.Value:
        """The same of the weight, or of the second activation of a product."""
        return _unrounded(self.node.inputs[1])

    @property
    def activations(self) -> list[ir.Value]:
        """The activations that the layer reads: two of a product, otherwise one."""
        return (
            [self.first_operand, self.second_operand]
            if _is_product(self.node)
            else [self.first_operand]
        )

    @property
    def quantizers(self) -> tuple[str, ...]:
        """The names of its quantizers in a file of this project, each once."""
        return tuple(dict.fromkeys(map(_quantizer, (self.activation, self.weight))))


@dataclass(frozen=True, eq=False)
class Layers:
    """The quantized layers of a graph by their node, in the graph's order."""

    graph: ir.Graph
    by_node: Mapping[ir.Node, _Quantized]

    @property
    def needed_values(self) -> tuple[str, ...]:
        """The names of the values whose shapes `work` needs."""
        names: dict[str, None] = {}
        for layer in self.by_node.values():
            names |= dict.fromkeys(map(value_name, (*layer.activations, layer.end)))
        return tuple(names)


def quantized_layers(graph: ir.Graph, *, products: bool = False) -> Layers:
    """Return the quantized layers of a graph.

    products: whether products of two activations are layers too, such as those of attention.
    """
    nodes = qdq.weighted_nodes(graph)
    if products:
        nodes = iter(of_kind(graph.all_nodes(), *qdq.WEIGHT_INPUT))
    return Layers(graph, {layer.node: layer for layer in matches(_quantized_node, nodes)})


def work(
    layers: Layers,
    shapes: Mapping[str, tuple[int, ...]],
    quantizers: Mapping[ir.Node, tuple[str, ...]] | None = None,
) -> Work:
    """Return the work of quantized layers.

    shapes: shape of every value in `needed_values`, for a batch of 1.
    quantizers: node -> exact names of the quantizers on its inputs; None takes the names that files
        of this project give to their pairs.
    """
    found: list[Layer] = []
    links: list[Link] = []
    readers: dict[str, tuple[str, ...]] = {}
    for layer in layers.by_node.values():
        names = layer.quantizers if quantizers is None else quantizers[layer.node]
        found.append(Layer(name_of(layer.node), names, _shape(layer, shapes)))
        links += _links(layer, layers.by_node, shapes)
        read_by: Iterable[str] = ()
        if not _is_wide(layer.activation):
            read_by = _quantizers_after(layer.end, layers.by_node, quantizers)
        readers[name_of(layer.node)] = tuple(dict.fromkeys(read_by))
    return Work(tuple(found), tuple(links), readers)


def _links(
    layer: _Quantized,
    quantized: Mapping[ir.Node, _Quantized],
    shapes: Mapping[str, tuple[int, ...]],
) -> Iterator[Link]:
    """Yield the tensors that a layer reads from others, and its output if it reaches no quantized
    layer.

    quantized: all layers.
    shapes: as for `work`.
    """
    name = name_of(layer.node)
    for value in layer.activations:
        size = shapes[value_name(value)]
        producers = dict.fromkeys(_producers(value, quantized))
        before = [name_of(other) for other in producers if other in quantized]
        for giver in before or [OUTSIDE]:
            yield Link(giver, name, size)
    if not _reaches(layer.end, quantized):
        yield Link(name, OUTSIDE, shapes[value_name(layer.end)])


def _shape(layer: _Quantized, shapes: Mapping[str, tuple[int, ...]]) -> LayerShape:
    """Return the shape of a layer.

    shapes: as for `work`.
    """
    node = layer.node
    if _is_product(node):
        weight = shapes[value_name(layer.second_operand)]
    else:
        weight = _as_used(qdq.known(layer.weight.source).shape, node)
    return LayerShape(
        op=node.op_type,
        attributes=_attributes(node),
        input=shapes[value_name(layer.first_operand)],
        weight=weight,
        output=shapes[value_name(layer.end)],
        bias=input_at(node, BIAS_INPUT) is not None,
        then=layer.then,
    )


def _quantized_node(node: ir.Node) -> _Quantized:
    """Return the layer of a node. Raises NoMatch if a pair is missing."""
    activation = needed(qdq.pair_of(_behind_pair(node.inputs[0])))
    weight = needed(qdq.pair_of(_behind_pair(node.inputs[1])))
    run = list(_activations_after(node.outputs[0]))
    ends = [node.outputs[0], *(activation.output for activation in run)]
    then = tuple((activation.kind, activation.attributes) for activation in run)
    return _Quantized(node, activation, weight, ends[-1], then)


def _behind_pair(value: ir.Value | None) -> ir.Value:
    """Return the value before everything that only moves values. Raises NoMatch for an input
    that is left out."""
    return source(needed(value), lambda node: node.op_type in MOVERS)


def _unrounded(value: ir.Value | None) -> ir.Value:
    """Return the value before the pairs that round it, or this value if none does so. The
    input must not be left out."""
    pair = qdq.pair_of(value)
    while pair is not None:
        value = pair.source
        pair = qdq.pair_of(value)
    return not_none(value)


def _is_product(node: ir.Node) -> bool:
    """Return whether this layer multiplies two activations."""
    return qdq.weight(node) is None


def _is_wide(pair: qdq.Pair) -> bool:
    """Return whether an activation's pair has 16 bits."""
    return format_of(pair) == "INT16"


def _quantizer(pair: qdq.Pair) -> str:
    """Return the name of the pair's quantizer."""
    return pair.name.rsplit("/QuantizeLinear", 1)[0]


def _as_used(stored: tuple[int, ...], node: ir.Node) -> tuple[int, ...]:
    """Return the shape of a stored weight as the node reads it, after a Transpose if there is
    one."""
    is_transposed = made_by(qdq.weight(node), "Transpose") is not None
    return stored[::-1] if is_transposed else stored


@dataclass(frozen=True, eq=False)
class _Activation:
    """An activation after a layer.

    kind, attributes: as in `LayerShape.then`.
    output: the value that it gives.
    """

    kind: str
    attributes: str
    output: ir.Value


def _activations_after(value: ir.Value) -> Iterator[_Activation]:
    """Yield the chain of activations after a value, each the only reader of the one before it."""
    activation = match_or_none(_next_activation, value)
    while activation is not None:
        yield activation
        activation = match_or_none(_next_activation, activation.output)


def _next_activation(value: ir.Value) -> _Activation:
    """Return the activation that reads this value. Raises NoMatch if anything else reads it."""
    return match_or_none(_only_activation, value) or _silu(value)


def _only_activation(value: ir.Value) -> _Activation:
    """Return the activation that is the only reader of the value, by its first input.

    Raises NoMatch if there is none.
    """
    user = needed(read_by(value, *ACTIVATIONS))
    require(user.inputs[0] is value)
    return _Activation(user.op_type, _attributes(user), user.outputs[0])


def _silu(value: ir.Value) -> _Activation:
    """Return the SiLU of this value, x * sigmoid(x). Raises NoMatch if anything else reads the
    value."""
    users = {user.op_type: user for user in value.consumers()}
    require(len(value.consumers()) == 2)
    gate, product = needed(users.get("Sigmoid")), needed(users.get("Mul"))
    require(gate.outputs[0] in product.inputs)
    return _Activation("SiLU", "{}", product.outputs[0])


def _producers(value: ir.Value, layers: Container[ir.Node]) -> Iterator[ir.Node]:
    """Yield the layers and weighted nodes that a value comes from, through all other nodes."""
    ready, seen = [value], {value}
    while ready:
        node = ready.pop().producer()
        if node is None:
            continue
        if node in layers or qdq.weight(node) is not None:
            yield node
            continue
        new = [read for read in qdq.computed_inputs(node) if read not in seen]
        seen.update(new)
        ready += new


def _reaches(value: ir.Value, layers: Container[ir.Node]) -> bool:
    """Return whether this value reaches a quantized layer without passing a node with a weight."""
    values = _values_after(value, layers)
    readers = chain.from_iterable(passed.consumers() for passed in values)
    return any(reader in layers for reader in readers)


def _quantizers_after(
    value: ir.Value,
    layers: Container[ir.Node],
    quantizers: Mapping[ir.Node, tuple[str, ...]] | None,
) -> Iterator[str]:
    """Yield the quantizers that this value reaches without passing a node with a weight, and
    OUTSIDE if it reaches an output of the graph without a pair, a pair of 16 bits, or a node with a
    weight that is not quantized.

    quantizers: as for `work`.
    """
    for passed in _values_after(value, layers):
        pair = qdq.pair_of(passed)
        if (passed.is_graph_output() and pair is None) or (pair is not None and _is_wide(pair)):
            yield OUTSIDE
        for reader in passed.consumers():
            if reader not in layers and qdq.weight(reader) is not None:
                yield OUTSIDE
            elif pair is not None:
                yield from [_quantizer(pair)] if quantizers is None else quantizers.get(reader, ())


def _values_after(value: ir.Value, layers: Container[ir.Node]) -> list[ir.Value]:
    """Return this value and those that operations without weights compute from it."""

    def passed_on(value: ir.Value) -> Iterator[ir.Value]:
        for user in value.consumers():
            if user not in layers and qdq.weight(user) is None:
                yield from user.outputs

    return list(reached([value], passed_on))


def _attributes(node: ir.Node) -> str:
    """Return the attributes as JSON with sorted keys. Tensors are left out, since they change no
    shape."""
    plain = {}
    for name, attribute in node.attributes.items():
        if isinstance(attribute.value, PLAIN):
            plain[name] = attribute.value
    return json.dumps(plain, sort_keys=True)
