"""Finds the input through which an operation with a quantized weight gets its bias."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import match_or_none, require
from sensitivity.onnx_graph.uses import BIAS_INPUT, Path, Use, is_integer_bias
from sensitivity.onnx_graph.walk import input_at, read_by


@dataclass(frozen=True, eq=False)
class BiasInput:
    """The input through which a layer gets its bias.

    node: the layer, or the Add after a MatMul, which ONNX Runtime fuses into one Gemm.
    index: index of the input, which may be left out.
    """

    node: ir.Node
    index: int

    @property
    def value(self) -> ir.Value | None:
        """The bias; None if the layer has none."""
        return input_at(self.node, self.index)


@dataclass(frozen=True, eq=False)
class BiasPlace(BiasInput):
    """The input of a bias that can be changed. The first output of the node is the layer's output.

    weight: use of the weight that the bias belongs to.
    """

    weight: Use

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in the node's output."""
        return 1 if self.node.op_type in {"Conv", "ConvTranspose"} else -1


def bias_input(layer: ir.Node) -> BiasInput:
    """Return the input through which this operation with a weight gets its bias."""
    add = read_by(layer.outputs[0], "Add")
    if layer.op_type != "MatMul" or add is None:
        return BiasInput(layer, BIAS_INPUT)
    place_of_product = add.inputs.index(layer.outputs[0])
    return BiasInput(add, 1 - place_of_product)


def bias_place(path: Path) -> BiasPlace | None:
    """Return the bias of the operation whose weight this path leads to; None if the bias cannot be
    changed.

    It cannot be changed if the path does not lead to a weight, if the bias is computed or has a
    grid of its own, and for a MatMul without an Add.
    """
    return match_or_none(_bias_place, path)


def _bias_place(path: Path) -> BiasPlace:
    """Return the same as `bias_place`, but raise NoMatch instead of returning None."""
    weight = path.last_use
    require(path.is_weight)
    require(weight.role == "weight")
    place = bias_input(path.operation)
    require(_can_change(path.operation, place.value))
    return BiasPlace(place.node, place.index, weight)


def _can_change(layer: ir.Node, bias: ir.Value | None) -> bool:
    """Return whether the bias can be changed: it must be a constant.

    For a layer with a bias input, it may also be left out, or be stored as INT32 on the grid of the
    input's scale times the weight's. The INT32 bias becomes float when the weight changes.
    """
    is_constant = qdq.constant(bias) is not None
    if layer.op_type == "MatMul":
        return is_constant
    if layer.attributes.get_float("beta", 1.0) != 1.0:
        return False
    if bias is None or is_constant:
        return True
    pair = qdq.pair_of(bias)
    return pair is not None and is_integer_bias(pair)
