"""Lowering for ONNX Runtime's QNN execution provider, which takes an operation for quantized only
if it reads and writes one type.

A file for it has a pair on every activation. Layers that a plan leaves out are computed in float,
with 16 bits by QNN's HTP backend.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sensitivity.exporters.ranges import ranges_of
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.activation_types import ActivationTypes
from sensitivity.onnx_graph.passes.apart_on_qnn import ApartInFloat, ApartInSilu
from sensitivity.onnx_graph.passes.clip_by_range import ClipByRange
from sensitivity.onnx_graph.passes.float_biases import FloatBiases
from sensitivity.onnx_graph.passes.join_slices import JoinSlices
from sensitivity.onnx_graph.passes.one_type import OneType
from sensitivity.onnx_graph.passes.room_for_bias import RoomForBias
from sensitivity.onnx_graph.passes.skip_uses import wide_domain
from sensitivity.onnx_graph.passes.tidy import tidy
from sensitivity.onnx_graph.passes.unsigned import UnsignedActivations
from sensitivity.onnx_graph.walk import of_kind


def lower(model: ir.Model) -> ir.Model:
    """Lower the model. Numbers change a little: every activation is quantized, and the outputs of
    the model are, to 16 bits.

    Raises ExportError for a file without the ranges of all activations.
    """
    ranges = ranges_of(model)
    unsigned = UnsignedActivations(zero_point_0=True)
    model = ir.passes.Sequential(FloatBiases(), JoinSlices(), unsigned, ClipByRange())(model).model
    model = ApartInSilu(ActivationTypes(model.graph))(model).model
    # Not in a sequence, which would hide the error.
    model = OneType(ranges)(model).model
    passes = ir.passes.Sequential(ApartInFloat(), RoomForBias(), WidePairs(), tidy())
    return passes(model).model


class WidePairs(ir.passes.InPlacePass):
    """Takes pairs of 16 bits from ONNX Runtime's own domain in files of an opset that has none."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        domain = wide_domain(model)
        if not domain:
            return ir.passes.PassResult(model, modified=False)
        wide = [node for node in of_kind(model.graph, *qdq.PAIR) if _is_wide(node)]
        for node in wide:
            node.domain = domain
        if wide:
            model.opset_imports[domain] = 1
        return ir.passes.PassResult(model, modified=bool(wide))


def _is_wide(node: ir.Node) -> bool:
    zero_point = qdq.constant(qdq.zero_point_value(node))
    return zero_point is not None and zero_point.dtype == np.uint16
