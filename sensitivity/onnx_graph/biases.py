"""Where the bias of an operation with a quantized weight stands, or can be put."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import match_or_none, require
from sensitivity.onnx_graph.uses import BIAS_INPUT, Path, Use, is_integer_bias
from sensitivity.onnx_graph.walk import given, read_by


@dataclass(frozen=True, eq=False)
class BiasInput:
    """The input that the bias of a layer comes by.

    node: the layer, or the Add behind a MatMul, of which ONNX Runtime makes one Gemm. index: of the
    input, which may be left out.
    """

    node: ir.Node
    index: int

    @property
    def value(self) -> ir.Value | None:
        """The bias; None where the layer has none."""
        return given(self.node, self.index)


@dataclass(frozen=True, eq=False)
class BiasPlace(BiasInput):
    """An input whose bias can be changed. weight: the use that the bias goes with. The first output
    of the node is what the layer gives."""

    weight: Use

    @property
    def channel_axis(self) -> int:
        """The axis of the channels in what the node gives."""
        return 1 if self.node.op_type in {"Conv", "ConvTranspose"} else -1


def bias_input(layer: ir.Node) -> BiasInput:
    """Return the input that the bias of this operation with a weight comes by."""
    add = read_by(layer.outputs[0], "Add")
    if layer.op_type != "MatMul" or add is None:
        return BiasInput(layer, BIAS_INPUT)
    place_of_product = add.inputs.index(layer.outputs[0])
    return BiasInput(add, 1 - place_of_product)


def bias_place(path: Path) -> BiasPlace | None:
    """Return the bias of the operation whose weight comes by this path; None where it has no bias
    that can
    be changed: no weight, a bias that is computed or has a grid of its own, a MatMul without an
    Add.
    """
    return match_or_none(_bias_place, path)


def _bias_place(path: Path) -> BiasPlace:
    """See `bias_place`. Raises NoMatch in place of None."""
    weight = path.last_use
    require(path.is_weight)
    require(weight.role == "weight")
    found = bias_input(path.operation)
    require(_can_change(path.operation, found.value))
    return BiasPlace(found.node, found.index, weight)


def _can_change(layer: ir.Node, bias: ir.Value | None) -> bool:
    """Return whether the bias is a constant. Of a layer that has an input for it, it may also be
    left out, or stored as INT32 in steps of the input's and weight's scales: that becomes float
    where the weight changes."""
    is_constant = qdq.constant(bias) is not None
    if layer.op_type == "MatMul":
        return is_constant
    if layer.attributes.get_float("beta", 1.0) != 1.0:
        return False
    if bias is None or is_constant:
        return True
    pair = qdq.pair_of(bias)
    return pair is not None and is_integer_bias(pair)
