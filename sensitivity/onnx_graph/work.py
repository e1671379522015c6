"""What the weighted layers of a canonical Q/DQ file have to do, and which of them hand each other
tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.uses import BIAS_INPUT
from sensitivity.onnx_graph.walk import given, made_by, name_of, only_user, value_name

ACTIVATIONS = {"Relu", "LeakyRelu", "Clip", "HardSwish", "Sigmoid", "Tanh", "Gelu", "Elu", "PRelu"}
"""Operations that runtimes run together with the layer before them, or in its precision."""

OUTSIDE = ""
"""In place of a unit's name: what is never quantized, such as the model's input."""


@dataclass(frozen=True)
class LayerShape:
    """What the time of a layer depends on; two layers with equal shapes take as long.

    attributes: of the operation, as JSON. input, weight, output: shapes with a batch of 1 (weight
    as it is stored).
    then: the activations behind it, as (operation, attributes as JSON); SiLU is ("SiLU", "{}").
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
        """Multiply-accumulates: each output takes as many as the weight has values for one output
        channel."""
        per_channel = math.prod(self.weight[1:])
        if self.op == "ConvTranspose":
            return math.prod(self.input) * per_channel
        if self.op == "MatMul" or (self.op == "Gemm" and not self._is_transposed):
            return math.prod(self.output) * self.weight[-2]
        return math.prod(self.output) * per_channel

    @property
    def _is_transposed(self) -> bool:
        """Whether a Gemm's weight is stored [outputs, inputs]."""
        return bool(json.loads(self.attributes).get("transB"))

    @property
    def values(self) -> int:
        """Numbers read and written: input, weight and output."""
        return math.prod(self.input) + math.prod(self.weight) + math.prod(self.output)


@dataclass(frozen=True)
class Layer:
    """A weighted node that is quantized in the file. quantizers: exact names of those on its input
    and weight."""

    node: str
    quantizers: tuple[str, ...]
    shape: LayerShape


@dataclass(frozen=True)
class Link:
    """A tensor that goes from one quantized layer to another, by the names of their nodes; OUTSIDE
    for none."""

    before: str
    after: str
    size: tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """The quantized layers of a file in its order, and the tensors between them."""

    layers: tuple[Layer, ...]
    links: tuple[Link, ...]


def needed_values(model: ir.Model) -> tuple[str, ...]:
    """Names of the values whose shapes `work` asks for."""
    names: dict[str, None] = {}
    for node in _quantized(model.graph):
        end, _ = _after(node)
        names[value_name(_given(node))] = None
        names[value_name(end)] = None
    return tuple(names)


def work(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> Work:
    """shapes: of every value in `needed_values`, with a batch of 1."""
    nodes = {id(node): node for node in _quantized(model.graph)}
    layers, links = [], []
    for node in nodes.values():
        given_value, end = _given(node), _after(node)[0]
        layers.append(_layer(node, shapes))
        size = shapes[value_name(given_value)]
        producers = {id(other): other for other in _producers(given_value)}
        before = [name_of(other) for key, other in producers.items() if key in nodes]
        links += [Link(giver, name_of(node), size) for giver in before or [OUTSIDE]]
        if not _reaches(end, nodes):
            links.append(Link(name_of(node), OUTSIDE, shapes[value_name(end)]))
    return Work(tuple(layers), tuple(links))


def _layer(node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> Layer:
    end, then = _after(node)
    activation, weight = qdq.pair_of(node.inputs[0]), qdq.through_transpose(qdq.weight(node))
    assert activation is not None
    assert weight is not None
    shape = LayerShape(
        op=node.op_type,
        attributes=_attributes(node),
        input=shapes[value_name(_given(node))],
        weight=_as_used(qdq.known(weight.source).shape, node),
        output=shapes[value_name(end)],
        bias=given(node, BIAS_INPUT) is not None,
        then=then,
    )
    names = dict.fromkeys(map(_quantizer, (activation, weight)))
    return Layer(name_of(node), tuple(names), shape)


def _quantized(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in qdq.weighted_nodes(graph):
        weight = qdq.through_transpose(qdq.weight(node))
        if weight is not None and qdq.pair_of(node.inputs[0]) is not None:
            yield node


def _given(node: ir.Node) -> ir.Value:
    """The activation before its quantizer."""
    pair = qdq.pair_of(node.inputs[0])
    assert pair is not None
    return pair.source


def _quantizer(pair: qdq.Pair) -> str:
    return pair.name.rsplit("/QuantizeLinear", 1)[0]


def _as_used(stored: tuple[int, ...], node: ir.Node) -> tuple[int, ...]:
    is_transposed = made_by(qdq.weight(node), "Transpose") is not None
    return stored[::-1] if is_transposed else stored


def _after(node: ir.Node) -> tuple[ir.Value, tuple[tuple[str, str], ...]]:
    """The value that the layer and the activations behind it give, and those activations."""
    value, then = node.outputs[0], []
    while True:
        user, product = only_user(value), _silu(value)
        if user is not None and user.op_type in ACTIVATIONS and user.inputs[0] is value:
            then.append((user.op_type, _attributes(user)))
            value = user.outputs[0]
        elif product is not None:
            then.append(("SiLU", "{}"))
            value = product
        else:
            return value, tuple(then)


def _silu(value: ir.Value) -> ir.Value | None:
    """X * sigmoid(x) of this value."""
    users = {user.op_type: user for user in value.consumers()}
    if len(value.consumers()) != 2 or users.keys() != {"Sigmoid", "Mul"}:
        return None
    gate, product = users["Sigmoid"].outputs[0], users["Mul"]
    return product.outputs[0] if gate in product.inputs else None


def _producers(value: ir.Value) -> Iterator[ir.Node]:
    """The weighted nodes that a value comes from, through whatever has no weight."""
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


def _reaches(value: ir.Value, nodes: Mapping[int, ir.Node]) -> bool:
    """Whether this value gets to a quantized layer without passing another layer with weights."""
    ready, seen = [value], {value}
    while ready:
        for user in ready.pop().consumers():
            if id(user) in nodes:
                return True
            if qdq.weight(user) is None:
                ready += [output for output in user.outputs if output not in seen]
                seen.update(user.outputs)
    return False


def _attributes(node: ir.Node) -> str:
    """As JSON with sorted keys; tensors are left out: they change no shape."""
    found: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        value = attribute.value
        if isinstance(value, (int, float, str)):
            found[name] = value
        elif isinstance(value, (list, tuple)):
            found[name] = list(value)
    return json.dumps(found, sort_keys=True)
