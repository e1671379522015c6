"""For OpenVINO: uint8 activations on the same grid, quantized once where they are made.

What cannot be negative has the zero point 0: convolutions need not take zero points out of their
sums then (ResNet18 takes 0.7 of the time). Values that are not clipped on calibration data are then
clipped at twice amax in place of amax. All else has the zero point 128.

What moves values (Concat, Slice, Resize, MaxPool) then moves integers, and a convolution writes
them itself: OpenVINO fuses a quantizer into a convolution that nothing else reads, but not one
behind a Slice.

OpenVINO 2024.6 to 2026.4 give wrong values where a Concat feeds a quantizer with int8 and zero
point 0; with uint8 and zero point 128 they are exact. They move the stride of a 1x1 convolution to
before its own pair, which then is no longer folded, and compute it in float; a pair that other
convolutions read too stays where it is.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from sensitivity.exporters.ranges import ranges_of
from sensitivity.onnx_graph.passes.join_slices import JoinSlices
from sensitivity.onnx_graph.passes.quantize_before_moves import QuantizeBeforeMoves
from sensitivity.onnx_graph.passes.tidy import tidy
from sensitivity.onnx_graph.passes.unsigned import UnsignedActivations


def lower(model: ir.Model) -> ir.Model:
    """Activations on the uint8 grid that OpenVINO's kernels expect, quantized before they are
    moved."""
    return before_moves(unsigned(model))


def unsigned(model: ir.Model) -> ir.Model:
    """Activations in uint8, with the zero point 0 where that changes next to nothing."""
    return UnsignedActivations(zero_point_0=True, ranges=ranges_of(model))(model).model


def before_moves(model: ir.Model) -> ir.Model:
    """Quantizers in front of what only moves values, and equal ones merged."""
    passes = ir.passes.Sequential(
        QuantizeBeforeMoves(),
        # Pairs are the same where their inputs are, scales and zero points included.
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        JoinSlices(),
        tidy(),
    )
    return passes(model).model
