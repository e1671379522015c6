"""Where the bias of an operation with a quantized weight stands, or can be put."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.uses import BIAS_INPUT, Path, Use, is_integer_bias, uses
from sensitivity.onnx_graph.walk import given, only_user


@dataclass(frozen=True, eq=False)
class BiasPlace:
    """weight: the use that the bias goes with. node: that adds the bias; its first output is what
    the layer gives. index: of the bias among its inputs, which may be left out."""

    weight: Use
    node: ir.Node
    index: int

    @property
    def value(self) -> ir.Value | None:
        return given(self.node, self.index)

    @property
    def channel_axis(self) -> int:
        """Of what the node gives."""
        return 1 if self.node.op_type in {"Conv", "ConvTranspose"} else -1


def bias_place(path: Path) -> BiasPlace | None:
    """Of the operation whose weight comes by this path; None where it has no bias that can be
    changed: no weight, a bias that is computed or has a grid of its own, a MatMul without an Add.
    """
    weight = uses([path])[-1]
    if path.user is None or not path.is_weight or weight.role != "weight":
        return None
    place = _place_of(weight, path.user)
    return place if place is not None and _can_change(place.value) else None


def _place_of(weight: Use, node: ir.Node) -> BiasPlace | None:
    if node.op_type == "MatMul":
        return _added_behind(weight, node)
    is_scaled = node.attributes.get_float("beta", 1.0) != 1.0
    return None if is_scaled else BiasPlace(weight, node, BIAS_INPUT)


def _added_behind(weight: Use, node: ir.Node) -> BiasPlace | None:
    """The constant that the only reader of a MatMul adds to what it gives."""
    output = node.outputs[0]
    adding = only_user(output)
    if adding is None or adding.op_type != "Add":
        return None
    index = 1 if adding.inputs[0] is output else 0
    is_constant = qdq.constant(adding.inputs[index]) is not None
    return BiasPlace(weight, adding, index) if is_constant else None


def _can_change(bias: ir.Value | None) -> bool:
    """Whether it is left out, a constant, or stored as INT32 in steps of the input's and weight's
    scales: that becomes float where the weight changes."""
    if bias is None or qdq.constant(bias) is not None:
        return True
    pair = qdq.pair_of(bias)
    return pair is not None and is_integer_bias(Use("", "", "weight", pair))
