"""For ONNX Runtime on CPUs: its integer kernels want quantized outputs too, unsigned activations, and one pair each."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.export.ranges import ranges_of
from sensitivity.onnx_graph.passes.float_weights import FloatWeights
from sensitivity.onnx_graph.passes.join_slices import JoinSlices
from sensitivity.onnx_graph.passes.one_pair_per_value import OnePairPerValue
from sensitivity.onnx_graph.passes.quantize_outputs import QuantizeOutputs
from sensitivity.onnx_graph.passes.softmax_off_last_axis import SoftmaxOffLastAxis
from sensitivity.onnx_graph.passes.tidy import tidy
from sensitivity.onnx_graph.passes.unsigned import UnsignedActivations


def lower(model: ir.Model) -> ir.Model:
    """Numbers change a little: more values are quantized than in the canonical file, and clipped a little later.

    Softmax over an inner axis, slow in this runtime, is spelled out.
    """
    passes = ir.passes.Sequential(
        JoinSlices(),
        OnePairPerValue(),
        UnsignedActivations(zero_point_0=True),
        QuantizeOutputs(ranges_of(model)),
        OnePairPerValue(),
        FloatWeights(),
        SoftmaxOffLastAxis(),
        tidy(),
    )
    return passes(model).model
