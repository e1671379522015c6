"""Replaces scales per channel by one per tensor before depthwise convolutions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import numpy_type
from sensitivity.onnx_graph.matching import match_or_none, matches, needed, require
from sensitivity.onnx_graph.passes.fold_batchnorm import Folded, put_in, scaled
from sensitivity.onnx_graph.passes.initializers import add, remove_constants
from sensitivity.onnx_graph.uses import stored_type
from sensitivity.onnx_graph.walk import (
    all_outputs,
    first_input,
    graph_of,
    made_by,
    not_none,
    only_user,
)

HOMOGENEOUS = ("Relu", "LeakyRelu")
"""Activations that give s times the output for s times the input, for any s above 0."""

QUANTIZE = "/QuantizeLinear"
"""Ending of the name of a quantizer's Q."""

PARTS = "sensitivity.parts"
"""Key of metadata: what each channel (axis 1) of a value is to be multiplied by to give the model's
value.

A value holds its own factors, a file those of all its values by name.
"""


@dataclass(frozen=True, eq=False)
class Link:
    """A pair between two convolutions, whose channels can be scaled at no cost.

    giver: the convolution that gives what the pair quantizes, directly or through an activation.
        Nothing else reads its output.
    reader: the depthwise convolution that is the only reader of the pair.
    """

    quantizer: str
    pair: qdq.Pair
    giver: ir.Node
    reader: ir.Node

    @property
    def channels(self) -> int:
        """Number of channels of the value. A depthwise convolution has as many groups."""
        return int(self.reader.attributes.get_int("group", 1))


def links(graph: ir.Graph) -> Iterator[Link]:
    """Yield all links of a graph, without those of quantizers that have several pairs."""
    names = {node.name for node in graph.all_nodes()}
    for link in matches(_link, qdq.pairs(graph)):
        is_used_again = f"{link.quantizer}{QUANTIZE}_1" in names
        if not is_used_again:
            yield link


def _link(pair: qdq.Pair) -> Link:
    """Return the pair with the convolutions around it. Raises NoMatch if it is not a link."""
    reader = needed(only_user(pair.output))
    require(_is_depthwise(reader))
    value = pair.source
    activation = made_by(value, *HOMOGENEOUS)
    if activation is not None and _is_read_once(value):
        value = first_input(activation)
    giver = needed(made_by(value, "Conv"))
    require(_is_read_once(value))
    return Link(pair.name.removesuffix(QUANTIZE), pair, giver, reader)


def _is_read_once(value: ir.Value) -> bool:
    return only_user(value) is not None and not value.is_graph_output()


def _require_own_weight(node: ir.Node) -> None:
    """Raise NoMatch if the weight has a pair that others read too, or whose grid is narrowed."""
    weight = needed(qdq.weight(node))
    pair = qdq.pair_of(weight)
    if pair is not None:
        require(only_user(weight) is not None)
        require(pair.clip is None)


def _is_depthwise(node: ir.Node) -> bool:
    """Return whether this is a convolution with a weight that takes each channel by itself."""
    weight = qdq.stored(qdq.weight(node))
    if node.op_type != "Conv" or weight is None:
        return False
    groups = node.attributes.get_int("group", 1)
    return groups > 1 and weight.shape[1] == 1


class FoldChannelScales(ir.passes.InPlacePass):
    """Folds the scales per channel of an activation into the weights of the convolutions around it.

    The convolution in front multiplies a channel by the largest scale over the channel's own, and
    the depthwise convolution after it divides by the same factor. Both do so by the scales of their
    weights, so their integers stay the same, and so does every value except for float rounding.
    Scales per channel at other places stay as they are.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for link in list(links(model.graph)):
            scale = link.pair.scale
            if link.pair.axis is not None and scale is not None:
                modified |= fold(link, scale)
        _write_parts(model)
        return ir.passes.PassResult(model, modified=modified)


def _write_parts(model: ir.Model) -> None:
    """Store the factors of all values in the metadata of the file."""
    values = all_outputs(model.graph.all_nodes())
    parts = {value.name: value.meta[PARTS] for value in values if PARTS in value.meta}
    if parts:
        model.metadata_props[PARTS] = json.dumps(parts)


def can_fold(link: Link) -> bool:
    """Return whether the weights around the link can make up for scales per channel.

    This may rewrite the weights, without changing any value.
    """
    return fold(link, np.ones(link.channels))


def fold(link: Link, scale: np.ndarray) -> bool:
    """Give the pair the largest of these scales as its only one, and return whether that was
    possible.

    If the weights around it cannot make up for it exactly, nothing changes.

    scale: float[channels], all above 0.
    """
    largest = scale.max()
    part = np.asarray(scale, np.float64) / float(largest)
    weights = match_or_none(partial(_scaled_weights, part=part), link)
    if weights is None:
        return False
    giving, taking = weights
    put_in(link.giver, giving)
    put_in(link.reader, taking)
    for value in (link.giver.outputs[0], link.pair.source):
        value.meta[PARTS] = part.tolist()
    graph, kind = graph_of(link.reader), stored_type(link.pair)
    new_scale = add(graph, f"{link.quantizer}.scale.even", np.asarray(largest))
    zero = np.asarray(link.pair.zero_points[0], numpy_type(kind))
    zero_point = add(graph, f"{link.quantizer}.zero_point.even", zero, kind)
    before = link.pair.dequantize.inputs[1:]
    for node in (not_none(link.pair.quantize), link.pair.dequantize):
        node.replace_input_with(1, new_scale)
        node.replace_input_with(2, zero_point)
        node.attributes.pop("axis", None)
    remove_constants(before)
    return True


def _scaled_weights(link: Link, part: np.ndarray) -> tuple[Folded, Folded]:
    """Return new weights of the giver and of the reader.

    part: float64[channels], each scale divided by the largest.
    Raises NoMatch if they would not be exact, or if others read the pair of a weight.
    """
    _require_own_weight(link.giver)
    _require_own_weight(link.reader)
    giving = scaled(link.giver, 1 / part, scales_bias=True)
    weight = needed(qdq.stored(qdq.weight(link.reader)))
    taken = np.repeat(part, len(weight) // len(part))
    return giving, scaled(link.reader, taken, scales_bias=False)
