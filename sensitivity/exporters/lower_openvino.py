"""Lowering for OpenVINO: uint8 activations on the same grid, quantized once where they are
computed.

A tensor that cannot be negative gets the zero point 0, so that convolutions need not subtract zero
points from their sums (ResNet18 takes 0.7 of the time). Such a tensor is clipped at twice amax
instead of amax if it is not clipped on calibration data. All other tensors get the zero point 128.

Operations that only move values (Concat, Slice, Resize, MaxPool) then move integers, and
convolutions write integers directly: OpenVINO fuses a quantizer into a convolution whose output
nothing else reads, but not a quantizer after a Slice.

OpenVINO 2024.6 to 2026.4 compute wrong values if a Concat feeds a quantizer with int8 and zero
point 0; with uint8 and zero point 128 they are exact. They also move the stride of a 1x1
convolution before its own pair, which is then no longer folded, so that the convolution runs
in float; a pair that other convolutions read too stays in its place.
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
    """Convert activations to the uint8 grid that OpenVINO's kernels expect, quantized before they
    are moved."""
    return before_moves(unsigned(model))


def unsigned(model: ir.Model) -> ir.Model:
    """Convert activations to uint8, with the zero point 0 where that changes next to nothing."""
    return UnsignedActivations(zero_point_0=True, ranges=ranges_of(model))(model).model


def before_moves(model: ir.Model) -> ir.Model:
    """Move quantizers before operations that only move values, and merge equal ones."""
    passes = ir.passes.Sequential(
        QuantizeBeforeMoves(),
        # Pairs are equal if their inputs are, including scales and zero points.
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        JoinSlices(),
        tidy(),
    )
    return passes(model).model
