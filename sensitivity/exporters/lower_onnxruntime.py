"""Lowering for ONNX Runtime on CPUs, whose integer kernels need quantized outputs, unsigned
activations and a pair of their own."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.exporters.ranges import ranges_of
from sensitivity.onnx_graph.passes.clip_by_range import ClipByRange
from sensitivity.onnx_graph.passes.enlarge_by_copies import EnlargeByCopies
from sensitivity.onnx_graph.passes.float_biases import FloatBiases
from sensitivity.onnx_graph.passes.float_weights import FloatWeights
from sensitivity.onnx_graph.passes.int32_bias import Int32Bias
from sensitivity.onnx_graph.passes.join_slices import JoinSlices
from sensitivity.onnx_graph.passes.keep_float import KeepFloat
from sensitivity.onnx_graph.passes.keep_meaning import KeepMeaning
from sensitivity.onnx_graph.passes.one_pair_per_value import OnePairPerValue
from sensitivity.onnx_graph.passes.pad_channels import PadChannels
from sensitivity.onnx_graph.passes.pointwise_as_matmul import PointwiseAsMatMul
from sensitivity.onnx_graph.passes.quantize_outputs import QuantizeOutputs
from sensitivity.onnx_graph.passes.room_for_bias import RoomForBias
from sensitivity.onnx_graph.passes.softmax_off_last_axis import SoftmaxOffLastAxis
from sensitivity.onnx_graph.passes.tidy import tidy
from sensitivity.onnx_graph.passes.unsigned import UnsignedActivations
from sensitivity.processor import has_dot_products


def lower(model: ir.Model) -> ir.Model:
    """Lower the model for the processor of this machine. Numbers change a little: more values are
    quantized than in the canonical file, and clipped a little later.

    Operations that are slow in this runtime are replaced by equivalent ones, whose sums may be
    rounded in another order: Softmax over an inner axis, Resize of integers, 1x1 convolutions from
    integers to float, and convolutions of three channels. Layers that the runtime would quantize by
    itself while loading the file are protected from that: see `integer_layers`.
    """
    passes = ir.passes.Sequential(
        FloatBiases(),
        JoinSlices(),
        OnePairPerValue(),
        UnsignedActivations(zero_point_0=True),
        ClipByRange(),
        QuantizeOutputs(ranges_of(model)),
        ClipByRange(),
        OnePairPerValue(),
        PointwiseAsMatMul(),
        Int32Bias(),
        FloatWeights(),
        EnlargeByCopies(),
        *([PadChannels()] if has_dot_products() else []),
        SoftmaxOffLastAxis(),
        KeepMeaning(),
        RoomForBias(),
        KeepFloat(),
        tidy(),
    )
    return passes(model).model
