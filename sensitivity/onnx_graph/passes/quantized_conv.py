"""Convolutions that runtimes compute in integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from sensitivity.onnx_graph import qdq


@dataclass(frozen=True, eq=False)
class QuantizedConv:
    """A convolution of one group. given, weight: the pairs that it reads, the first with a Q.
    values: of the weight as they are stored, [out, in, ...]."""

    node: ir.Node
    given: qdq.Pair
    weight: qdq.Pair
    values: qdq.Array


def quantized_convs(graph: ir.Graph) -> Iterator[QuantizedConv]:
    """Those of the main graph with one scale for the activation, and one for the weight or one for
    each output channel."""
    for node in graph:
        if node.op_type == "Conv" and node.attributes.get_int("group", 1) == 1:
            found = _quantized(node)
            if found is not None:
                yield found


def _quantized(node: ir.Node) -> QuantizedConv | None:
    given, weight = map(qdq.pair_of, node.inputs[:2])
    if given is None or weight is None or given.quantize is None:
        return None
    values = qdq.constant(weight.source)
    has_scales = given.axis is None and weight.axis in {None, 0}
    if values is None or not has_scales:
        return None
    return QuantizedConv(node, given, weight, values)
