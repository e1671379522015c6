"""Adds channels of zeros to convolutions whose number of input channels keeps them off the fast
integer kernel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph.matching import RewriteMatches, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.quantized_conv import QuantizedConv, quantized_convs
from sensitivity.onnx_graph.walk import name_of

MULTIPLE = 4
"""ONNX Runtime convolves without unfolding the input if its channels are a multiple of this, the
length of an 8-bit dot product. A 1x1 convolution unfolds nothing."""


@dataclass(frozen=True, eq=False)
class _Unpadded:
    """A convolution that needs more channels.

    missing: number of channels to add.
    zero_point: zero point of the activation.
    """

    conv: QuantizedConv
    missing: int
    zero_point: np.ndarray


class PadChannels(RewriteMatches[QuantizedConv, _Unpadded]):
    """Appends channels of zeros to the integers that a convolution reads, and to its weights. No
    value changes.

    For the first layer of YOLOv8n at 640 pixels, of three channels, this saves 1.0 of 13.4 ms on a
    processor with VNNI instructions. On one without, that layer takes nearly twice as long with it.
    """

    def places(self, graph: ir.Graph) -> Iterable[QuantizedConv]:
        return quantized_convs(graph)

    def match(self, place: QuantizedConv) -> _Unpadded:
        missing = -int(place.values.shape[1]) % MULTIPLE
        require(missing > 0)
        require(place.values[0, 0].size > 1)
        stored = place.weight.nodes[0].outputs[0]
        require(len(stored.uses()) == 1)
        return _Unpadded(place, missing, needed(place.given.zero_point))

    def rewrite(self, graph: ir.Graph, found: _Unpadded) -> None:
        _pad(graph, found)


def _pad(graph: ir.Graph, unpadded: _Unpadded) -> None:
    """Give the convolution a wider weight, and its input a Pad of integers."""
    conv, channels, zero_point = unpadded.conv, unpadded.missing, unpadded.zero_point
    node, dequantize = conv.node, conv.given.dequantize
    values, name = conv.values, f"{name_of(node)}/Pad"
    # Stored integers have the zero point 0, because weights are symmetric.
    wider = np.pad(values, [(0, 0), (0, channels), *[(0, 0)] * (values.ndim - 2)])
    stored = add(graph, f"{conv.weight.source.name}.padded", wider)
    conv.weight.nodes[0].replace_input_with(0, stored)
    for step in conv.weight.nodes:
        step.outputs[0].shape = ir.Shape(wider.shape)
    ends = np.zeros(2 * values.ndim, np.int64)
    ends[values.ndim + 1] = channels
    zero = add(graph, f"{name}.value", zero_point.reshape(()))
    padded = ir.node(
        "Pad", [dequantize.inputs[0], add(graph, f"{name}.pads", ends), zero], name=name
    )
    padded.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(zero_point.dtype))
    behind = ir.node(
        "DequantizeLinear",
        [padded.outputs[0], *dequantize.inputs[1:]],
        name=f"{name}/DequantizeLinear",
    )
    graph.insert_before(node, [padded, behind])
    node.replace_input_with(0, behind.outputs[0])
