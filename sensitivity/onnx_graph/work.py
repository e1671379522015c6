"""Lists the work of the weighted layers of a canonical Q/DQ file, and the tensors between the
layers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import match_or_none, matches, needed, require
from sensitivity.onnx_graph.uses import BIAS_INPUT
from sensitivity.onnx_graph.walk import given, made_by, name_of, reached, read_by, value_name

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
    input, weight, output: shapes for a batch of 1, the weight as the operation reads it.
    then: the activations behind the layer as (operation, attributes as JSON); SiLU is ("SiLU",
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
    """A weighted node that is quantized in the file.

    node: name of the node.
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
    """The quantized layers of a file, in the file's order, and the tensors between them."""

    layers: tuple[Layer, ...]
    links: tuple[Link, ...]


@dataclass(frozen=True, eq=False)
class _Quantized:
    """A weighted node with pairs on its input and its weight.

    end: output of the last activation behind the layer, or of the layer.
    then: those activations, as in `LayerShape`.
    """

    node: ir.Node
    activation: qdq.Pair
    weight: qdq.Pair
    end: ir.Value
    then: tuple[tuple[str, str], ...]

    @property
    def given(self) -> ir.Value:
        """The activation in front of its quantizer."""
        return self.activation.source


def needed_values(model: ir.Model) -> tuple[str, ...]:
    """Return the names of the values whose shapes `work` needs."""
    names: dict[str, None] = {}
    for layer in _quantized(model.graph):
        names |= dict.fromkeys(map(value_name, (layer.given, layer.end)))
    return tuple(names)


def work(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> Work:
    """Return the work of the file.

    shapes: shape of every value in `needed_values`, for a batch of 1.
    """
    quantized = {layer.node: layer for layer in _quantized(model.graph)}
    layers: list[Layer] = []
    links: list[Link] = []
    for layer in quantized.values():
        layers.append(_layer(layer, shapes))
        links += _links(layer, quantized, shapes)
    return Work(tuple(layers), tuple(links))


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
    name, size = name_of(layer.node), shapes[value_name(layer.given)]
    producers = dict.fromkeys(_producers(layer.given))
    before = [name_of(other) for other in producers if other in quantized]
    for giver in before or [OUTSIDE]:
        yield Link(giver, name, size)
    if not _reaches(layer.end, quantized):
        yield Link(name, OUTSIDE, shapes[value_name(layer.end)])


def _layer(layer: _Quantized, shapes: Mapping[str, tuple[int, ...]]) -> Layer:
    """Return the layer with its shape.

    shapes: as for `work`.
    """
    node = layer.node
    shape = LayerShape(
        op=node.op_type,
        attributes=_attributes(node),
        input=shapes[value_name(layer.given)],
        weight=_as_used(qdq.known(layer.weight.source).shape, node),
        output=shapes[value_name(layer.end)],
        bias=given(node, BIAS_INPUT) is not None,
        then=layer.then,
    )
    names = dict.fromkeys(map(_quantizer, (layer.activation, layer.weight)))
    return Layer(name_of(node), tuple(names), shape)


def _quantized(graph: ir.Graph) -> Iterator[_Quantized]:
    """Return every weighted node with pairs on its input and its weight, in the graph's order."""
    return matches(_quantized_node, qdq.weighted_nodes(graph))


def _quantized_node(node: ir.Node) -> _Quantized:
    """Return the weighted node with its pairs. Raises NoMatch if one is missing."""
    activation = needed(qdq.pair_of(node.inputs[0]))
    weight = needed(qdq.through_transpose(qdq.weight(node)))
    run = list(_activations_behind(node.outputs[0]))
    ends = [node.outputs[0], *(activation.output for activation in run)]
    then = tuple((activation.kind, activation.attributes) for activation in run)
    return _Quantized(node, activation, weight, ends[-1], then)


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
    """An activation behind a layer.

    kind, attributes: as in `LayerShape.then`.
    output: the value that it gives.
    """

    kind: str
    attributes: str
    output: ir.Value


def _activations_behind(value: ir.Value) -> Iterator[_Activation]:
    """Yield the chain of activations behind a value, each the only reader of the one before it."""
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


def _producers(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the weighted nodes that a value comes from, through nodes without a weight."""
    ready, seen = [value], {value}
    while ready:
        node = ready.pop().producer()
        if node is None:
            continue
        if qdq.weight(node) is not None:
            yield node
            continue
        new = [read for read in qdq.computed_inputs(node) if read not in seen]
        seen.update(new)
        ready += new


def _reaches(value: ir.Value, layers: Mapping[ir.Node, _Quantized]) -> bool:
    """Return whether this value reaches a quantized layer without passing a node with a weight."""
    readers = chain.from_iterable(passed.consumers() for passed in reached([value], _passed_on))
    return not layers.keys().isdisjoint(readers)


def _passed_on(value: ir.Value) -> Iterator[ir.Value]:
    """Yield the outputs of those readers of the value that have no weight."""
    for user in value.consumers():
        if qdq.weight(user) is None:
            yield from user.outputs


def _attributes(node: ir.Node) -> str:
    """Return the attributes as JSON with sorted keys. Tensors are left out, since they change no
    shape."""
    plain = {}
    for name, attribute in node.attributes.items():
        if isinstance(attribute.value, PLAIN):
            plain[name] = attribute.value
    return json.dumps(plain, sort_keys=True)
