"""Passes of the exports, each alone, against the same graph before: equal values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from support.onnx_text import network_of

from sensitivity.onnx_graph.passes.fold_batchnorm import FoldBatchNorm
from sensitivity.onnx_graph.passes.fold_channel_scales import can_fold, links
from sensitivity.onnx_graph.passes.one_pair_per_value import OnePairPerValue
from sensitivity.onnx_graph.passes.transposed_weights import TransposedWeights

RNG = np.random.default_rng(0)


def run(network: ir.Model, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    file = ir.to_proto(network).SerializeToString()
    return onnxruntime.InferenceSession(file, options).run(None, {"x": x})[0]


def operations(network: ir.Model) -> list[str]:
    return [node.op_type for node in network.graph]


@pytest.mark.parametrize("order", ["", "<perm = [1, 0]>"])
def test_a_weight_behind_a_transpose_is_stored_as_the_product_reads_it(order: str) -> None:
    network = network_of(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        linear (float[2,3,4] x) => (float[2,3,5] y)
        <float s = {{0.02}}, int8 z = {{0}}> {{
            q = QuantizeLinear (w, s, z)
            d = DequantizeLinear (q, s, z)
            t = Transpose {order} (d)
            y = MatMul (x, t)
        }}""",
        w=RNG.normal(size=(5, 4)).astype(np.float32),
    )
    x = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    before = run(network, x)
    assert TransposedWeights()(network).modified
    weight = network.graph.node(-1).inputs[1].producer()
    assert weight.op_type == "DequantizeLinear"
    assert tuple(weight.inputs[0].producer().inputs[0].const_value.shape) == (4, 5)
    assert run(network, x) == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize(
    ("layer", "shape", "sides"),
    [
        ("Conv (x, w, b)", (4, 3, 3, 3), (4, 4, 4)),
        ("Conv (x, w)", (4, 3, 3, 3), (4, 4, 4)),
        ("Conv <group = 3> (x, w, b)", (6, 1, 3, 3), (6, 4, 4)),
        ("ConvTranspose (x, w, b)", (3, 4, 3, 3), (4, 8, 8)),
    ],
)
def test_a_batchnorm_goes_into_the_convolution_before_it(
    layer: str, shape: tuple[int, ...], sides: tuple[int, int, int]
) -> None:
    channels = sides[0]
    network = network_of(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3,6,6] x) => (float[2,{sides[0]},{sides[1]},{sides[2]}] y) {{
            c = {layer}
            y = BatchNormalization <epsilon = 0.01> (c, gamma, beta, mean, variance)
        }}""",
        w=RNG.normal(size=shape).astype(np.float32),
        b=RNG.normal(size=channels).astype(np.float32),
        gamma=RNG.uniform(-2, 2, channels).astype(np.float32),
        beta=RNG.normal(size=channels).astype(np.float32),
        mean=RNG.normal(size=channels).astype(np.float32),
        variance=RNG.uniform(0.1, 2, channels).astype(np.float32),
    )
    x = RNG.normal(size=(2, 3, 6, 6)).astype(np.float32)
    before = run(network, x)
    assert FoldBatchNorm()(network).modified
    assert operations(network) == [layer.split()[0]]
    assert run(network, x) == pytest.approx(before, abs=2e-5)


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_pair_of_a_folded_weight_keeps_its_levels(per_channel: bool) -> None:
    """Channels are scaled, and so are the scales of their pair."""
    each = "[2]" if per_channel else ""
    scales, zeros = ("0.02, 0.01", "0, 0") if per_channel else ("0.02", "0")
    network = network_of(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3,4,4] x) => (float[2,2,4,4] y)
        <float{each} ws = {{{scales}}}, int8{each} wz = {{{zeros}}}> {{
            q = QuantizeLinear <axis = 0> (w, ws, wz)
            d = DequantizeLinear <axis = 0> (q, ws, wz)
            c = Conv (x, d)
            y = BatchNormalization (c, gamma, beta, mean, variance)
        }}""",
        w=RNG.normal(size=(2, 3, 1, 1)).astype(np.float32),
        gamma=np.array([1.5, 0.5], np.float32),
        beta=np.array([0.3, -0.2], np.float32),
        mean=np.array([0.1, 0.4], np.float32),
        variance=np.array([0.5, 2.0], np.float32),
    )
    x = RNG.normal(size=(2, 3, 4, 4)).astype(np.float32)
    before = run(network, x)
    FoldBatchNorm()(network)
    assert run(network, x) == pytest.approx(before, abs=2e-5)


MOVERS = {
    "Reshape": "Reshape (x, shape)",
    "Transpose": "Transpose <perm = [0, 2, 1]> (x)",
    "Flatten": "Flatten (x)",
    "Unsqueeze": "Unsqueeze (x, axis)",
    "Squeeze": "Squeeze (x, axis)",
    "MaxPool": "MaxPool <kernel_shape = [2]> (x)",
    "AveragePool": "AveragePool <kernel_shape = [2]> (x)",
    "GlobalAveragePool": "GlobalAveragePool (x)",
    "Sigmoid": "Sigmoid (x)",
    "LeakyRelu": "LeakyRelu (x)",
    "Slice": "Slice (x, axis, end)",
    "Add": "Add (x, x)",
    "Mul": "Mul (x, x)",
    "Concat": "Concat <axis = 0> (x, x)",
    "Relu": "Relu (x)",
}


@pytest.mark.parametrize("mover", MOVERS)
def test_what_can_compute_in_integers_reads_the_quantized_value_too(mover: str) -> None:
    """A Relu has no integer kernel of its own and keeps the value."""
    network = network_of(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[1,3,4] x) => (y, moved)
        <float s = {{0.1}}, int8 z = {{0}}, int64[1] shape = {{12}}, int64[1] axis = {{0}},
         int64[1] end = {{1}}> {{
            q = QuantizeLinear (x, s, z)
            d = DequantizeLinear (q, s, z)
            y = Exp (d)
            moved = {MOVERS[mover]}
        }}"""
    )
    can = mover != "Relu"
    assert OnePairPerValue()(network).modified == can
    node = next(node for node in network.graph if node.op_type == mover)
    assert node.inputs[0].name == ("d" if can else "x")


@pytest.mark.parametrize(("group", "inner", "found"), [(4, 1, 1), (2, 2, 0), (1, 4, 0)])
def test_channels_are_linked_where_a_depthwise_convolution_reads_them(
    group: int, inner: int, found: int
) -> None:
    network = network_of(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,3,6,6] x) => (float[2,4,2,2] y)
        <float s = {{0.02}}, int8 z = {{0}}> {{
            c = Conv (x, w)
            q = QuantizeLinear (c, s, z)
            d = DequantizeLinear (q, s, z)
            y = Conv <group = {group}> (d, v)
        }}""",
        w=RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
        v=RNG.normal(size=(4, inner, 3, 3)).astype(np.float32),
    )
    linked = list(links(network.graph))
    assert [can_fold(link) for link in linked] == [True] * found
