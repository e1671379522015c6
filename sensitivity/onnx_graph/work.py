"""What the weighted layers of a canonical Q/DQ file have to do, and which of them hand each other
tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq

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
        if self.op == "MatMul" or (
            self.op == "Gemm" and not json.loads(self.attributes).get("transB")
        ):
            return int(np.prod(self.output)) * self.weight[-2]
        if self.op == "ConvTranspose":
            return int(np.prod(self.input)) * int(np.prod(self.weight[1:]))
        return int(np.prod(self.output)) * int(np.prod(self.weight[1:]))

    @property
    def values(self) -> int:
        """Numbers read and written: input, weight and output."""
        return int(np.prod(self.input)) + int(np.prod(self.weight)) + int(np.prod(self.output))


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
    nodes = list(_quantized(model.graph))
    names = [value.name for node in nodes for value in (_given(node), _after(node)[0])]
    return tuple(dict.fromkeys(name for name in names if name))


def work(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> Work:
    """shapes: of every value in `needed_values`, with a batch of 1."""
    nodes = {id(node): node for node in _quantized(model.graph)}
    layers, links = [], []
    for node in nodes.values():
        end, then = _after(node)
        weight = qdq.through_transpose(qdq.weight(node))
        assert weight is not None
        values = qdq.constant(weight.source)
        assert values is not None
        stored = values.shape
        layers.append(
            Layer(
                _name(node),
                tuple(
                    dict.fromkeys(
                        _quantizer(pair) for pair in (qdq.pair_of(node.inputs[0]), weight) if pair
                    )
                ),
                LayerShape(
                    op=node.op_type,
                    attributes=_attributes(node),
                    input=shapes[_given(node).name or ""],
                    weight=_as_used(stored, node),
                    output=shapes[end.name or ""],
                    bias=len(node.inputs) > 2 and node.inputs[2] is not None,
                    then=then,
                ),
            )
        )
        size = shapes[_given(node).name or ""]
        before = {id(found): found for found in _producers(_given(node))}
        quantized = [_name(found) for key, found in before.items() if key in nodes]
        links += [Link(name, _name(node), size) for name in quantized or [OUTSIDE]]
        if not _reaches(end, nodes):
            links.append(Link(_name(node), OUTSIDE, shapes[end.name or ""]))
    return Work(tuple(layers), tuple(links))


def _quantized(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in qdq.weighted_nodes(graph):
        if (
            qdq.pair_of(node.inputs[0]) is not None
            and qdq.through_transpose(qdq.weight(node)) is not None
        ):
            yield node


def _name(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or "?"


def _given(node: ir.Node) -> ir.Value:
    """The activation before its quantizer."""
    pair = qdq.pair_of(node.inputs[0])
    assert pair is not None
    return pair.source


def _quantizer(pair: qdq.Pair) -> str:
    return pair.name.rsplit("/QuantizeLinear", 1)[0]


def _as_used(stored: tuple[int, ...], node: ir.Node) -> tuple[int, ...]:
    value = qdq.weight(node)
    producer = value.producer() if value is not None else None
    return stored[::-1] if producer is not None and producer.op_type == "Transpose" else stored


def _after(node: ir.Node) -> tuple[ir.Value, tuple[tuple[str, str], ...]]:
    """The value that the layer and the activations behind it give, and those activations."""
    value, then = node.outputs[0], []
    while True:
        users = value.consumers()
        if len(users) == 1 and users[0].op_type in ACTIVATIONS and users[0].inputs[0] is value:
            then.append((users[0].op_type, _attributes(users[0])))
            value = users[0].outputs[0]
        elif (product := _silu(value)) is not None:
            then.append(("SiLU", "{}"))
            value = product
        else:
            return value, tuple(then)


def _silu(value: ir.Value) -> ir.Value | None:
    """X * sigmoid(x) of this value."""
    users = value.consumers()
    kinds = {user.op_type: user for user in users}
    if (
        len(users) != 2
        or set(kinds) != {"Sigmoid", "Mul"}
        or kinds["Sigmoid"].outputs[0] not in kinds["Mul"].inputs
    ):
        return None
    return kinds["Mul"].outputs[0]


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
        for given in node.inputs:
            if given is not None and given not in seen and not qdq.rooted_at_constant(given):
                seen.add(given)
                ready.append(given)


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
