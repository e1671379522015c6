"""The graph that the lowering for ONNX Runtime writes in another form, compared with the graph
before: equal values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.onnx_text import network_of
from support.processors import exact_int8

from sensitivity.exporters import lower_onnxruntime
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.clip_by_range import ClipByRange
from sensitivity.onnx_graph.passes.enlarge_by_copies import EnlargeByCopies
from sensitivity.onnx_graph.passes.float_weights import FloatWeights
from sensitivity.onnx_graph.passes.focus_as_conv import FocusAsConv
from sensitivity.onnx_graph.passes.int32_bias import Int32Bias
from sensitivity.onnx_graph.passes.pad_channels import PadChannels
from sensitivity.onnx_graph.passes.pointwise_as_matmul import PointwiseAsMatMul
from sensitivity.onnx_graph.passes.quantize_outputs import QuantizeOutputs
from sensitivity.onnx_graph.passes.unsigned import UnsignedActivations

HEAD = (
    '<ir_version: 8, opset_import: ["" : 17]> example (float[n,{channels},{height},{width}] x) '
    "=> (float[n,a,b,c] y) {{"
)
QUANTIZED = """
    q = QuantizeLinear (x, s, z)
    d = DequantizeLinear (q, s, z)"""
CONV = (
    HEAD
    + QUANTIZED
    + """
    wq = QuantizeLinear <axis = 0> (w, ws, wz)
    wd = DequantizeLinear <axis = 0> (wq, ws, wz)
    c = Conv <{attributes}> (d, wd, bias)
    {rest}
}}"""
)
TO_GRID = """cq = QuantizeLinear (c, s, z)
    y = DequantizeLinear (cq, s, z)"""
RESIZE = (
    HEAD
    + QUANTIZED
    + """
    r = Resize <{attributes}> (d, , scales)
    rq = QuantizeLinear (r, {grid}, z)
    y = DequantizeLinear (rq, {grid}, z)
}}"""
)
ENLARGED = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'


def conv(
    channels: int,
    size: int,
    *,
    outputs: int = 5,
    side: int = 3,
    attributes: str = "dilations = [1, 1]",
    rest: str = TO_GRID,
    **others: np.ndarray,
):
    draw = np.random.default_rng(channels * 31 + outputs)
    groups = channels if "group" in attributes else 1
    text = CONV.format(
        channels=channels, height=size, width=size + 1, attributes=attributes, rest=rest
    )
    weight = draw.normal(size=(outputs, channels // groups, side, side)).astype(np.float32)
    return network_of(
        text,
        **grid(),
        w=weight,
        ws=(np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32),
        wz=np.zeros(outputs, np.int8),
        bias=draw.normal(size=outputs).astype(np.float32),
        **others,
    )


def resize(
    size: tuple[int, int],
    scales: list[float],
    *,
    attributes: str = ENLARGED,
    coarse: str = "s",
    steps: dict[str, np.ndarray] | None = None,
) -> ir.Model:
    text = RESIZE.format(
        channels=3, height=size[0], width=size[1], attributes=attributes, grid=coarse
    )
    other = np.array(0.1, np.float32)
    return network_of(text, **(steps or grid()), s2=other, scales=np.array(scales, np.float32))


def grid() -> dict[str, np.ndarray]:
    return {"s": np.array(0.05, np.float32), "z": np.array(128, np.uint8)}


def values(lowered: ir.Model, images: int = 2, *, optimize: bool = False) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        ir.to_proto(lowered).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    shape = [images, *session.get_inputs()[0].shape[1:]]
    return session.run(
        None, {"x": np.random.default_rng(7).normal(0, 3, shape).astype(np.float32)}
    )[0]


def kinds(lowered: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in lowered.graph)


@exact_int8
@settings(max_examples=15, deadline=None)
@given(channels=st.integers(1, 9), outputs=st.integers(1, 6), side=st.sampled_from([2, 3]))
def test_channels_of_zeros_change_no_value(channels: int, outputs: int, side: int) -> None:
    before = values(conv(channels, 6, outputs=outputs, side=side))
    lowered = PadChannels()(conv(channels, 6, outputs=outputs, side=side)).model
    assert kinds(lowered)["Pad"] == bool(channels % 4)
    np.testing.assert_array_equal(values(lowered), before)
    # a step of the grid
    np.testing.assert_allclose(values(lowered, optimize=True), before, atol=0.0501)


def test_a_pointwise_convolution_unfolds_nothing_and_keeps_its_channels() -> None:
    assert not PadChannels()(conv(3, 6, side=1)).modified


@pytest.mark.parametrize("fast", [True, False])
def test_channels_are_added_where_the_processor_has_dot_products(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr(lower_onnxruntime, "has_dot_products", lambda: fast)
    assert kinds(lower_onnxruntime.lower(conv(3, 6)))["Pad"] == fast


def test_a_grouped_convolution_keeps_its_channels() -> None:
    assert not PadChannels()(conv(3, 6, outputs=3, attributes="group = 3")).modified


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    factors=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_copies_are_what_resize_gives(size: tuple[int, int], factors: tuple[int, int]) -> None:
    before = values(resize(size, [1, 1, *factors]), images=3)
    lowered = EnlargeByCopies()(resize(size, [1, 1, *factors])).model
    assert kinds(lowered)["Resize"] == 0
    np.testing.assert_array_equal(values(lowered, images=3), before)
    np.testing.assert_array_equal(values(lowered, images=3, optimize=True), before)


@pytest.mark.parametrize(
    ("scales", "given"),
    [([1, 1, 1.5, 2], {}), ([1, 2, 2, 2], {}), ([1, 1, 2, 2], {"coarse": "s2"}),
     ([1, 1, 2, 2], {"attributes": ENLARGED.replace("asymmetric", "align_corners")}),
     ([1, 1, 2, 2], {"attributes": 'mode = "linear"'})],
    ids=["not-whole", "channels-too", "another-grid", "other-pixels", "blended"],
)  # fmt: skip
def test_what_copies_cannot_give_stays_a_resize(scales: list[float], given: dict[str, str]) -> None:
    assert not EnlargeByCopies()(resize((4, 4), scales, **given)).modified


def test_pixels_with_a_grid_for_each_channel_stay_a_resize() -> None:
    steps = {"s": np.array([0.05, 0.1, 0.2], np.float32), "z": np.full(3, 128, np.uint8)}
    assert not EnlargeByCopies()(resize((4, 4), [1, 1, 2, 2], steps=steps)).modified


def test_pixels_that_the_model_also_returns_stay_a_resize() -> None:
    whole = resize((4, 4), [1, 1, 2, 2])
    enlarged = next(node for node in whole.graph if node.op_type == "Resize")
    whole.graph.outputs.append(enlarged.outputs[0])
    assert not EnlargeByCopies()(whole).modified


@exact_int8
@settings(max_examples=15, deadline=None)
@given(channels=st.integers(1, 70), outputs=st.integers(1, 9))
def test_a_pointwise_convolution_is_a_product_of_matrices(channels: int, outputs: int) -> None:
    given = {"outputs": outputs, "side": 1, "rest": "y = Sigmoid (c)"}
    before = values(conv(channels, 4, **given))
    lowered = PointwiseAsMatMul()(conv(channels, 4, **given)).model
    assert (kinds(lowered)["Conv"], kinds(lowered)["MatMul"]) == (0, 1)
    np.testing.assert_allclose(values(lowered), before, atol=1e-5)
    np.testing.assert_allclose(values(lowered, optimize=True), before, atol=1e-5)


@pytest.mark.parametrize(
    "given",
    [{"side": 3}, {"attributes": "strides = [2, 2]"}, {"attributes": "pads = [1, 1, 1, 1]"},
     {"attributes": "group = 5"}, {"rest": TO_GRID}],
    ids=["wider", "strided", "padded", "grouped", "to-integers"],
)  # fmt: skip
def test_other_convolutions_stay_convolutions(given: dict[str, str]) -> None:
    given = {"side": 1, "rest": "y = Sigmoid (c)"} | given
    assert not PointwiseAsMatMul()(conv(5, 4, **given)).modified


def test_the_product_of_matrices_runs_in_integers_and_keeps_the_layers_name(tmp_path) -> None:
    lowered = conv(8, 4, side=1, rest="y = Sigmoid (c)")
    next(node for node in lowered.graph if node.op_type == "Conv").name = "layer"
    PointwiseAsMatMul()(lowered)
    assert [node.name for node in lowered.graph if node.op_type == "MatMul"] == ["layer"]
    ran = ran_by_onnxruntime(lowered, tmp_path)
    assert "MatMulIntegerToFloat" in ran
    assert "MatMul" not in ran


CLIPPED = (
    HEAD
    + """
    c = Clip (x, low, top)
    q = QuantizeLinear (c, s, z)
    d = DequantizeLinear (q, s, z)
    {rest}
}}"""
)


def clipped(
    scale: float = 12 / 255,
    low: float = 0.0,
    *,
    zero_point: np.generic | None = None,
    rest: str = "y = Identity (d)",
) -> ir.Model:
    return network_of(
        CLIPPED.format(channels=3, height=4, width=5, rest=rest),
        low=np.array(low, np.float32),
        top=np.array(6, np.float32),
        s=np.array(scale, np.float32),
        z=np.array(np.uint8(0) if zero_point is None else zero_point),
    )


def test_a_clip_becomes_the_end_of_a_finer_grid() -> None:
    """Twelve is the end of the int8 range that became uint8: ReLU6 would use half of its steps."""
    lowered = ClipByRange()(clipped()).model
    assert kinds(lowered) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Identity": 1}
    found, draw = values(lowered), np.random.default_rng(7).normal(0, 3, (2, 3, 4, 5))
    np.testing.assert_allclose(found, draw.clip(0, 6), atol=6 / 255 / 2 + 1e-6)
    assert found.max() == np.float32(6)
    assert np.abs(values(clipped()) - draw.clip(0, 6)).max() > 6 / 255


def test_a_clip_behind_the_end_of_the_grid_goes_and_no_value_changes() -> None:
    before, lowered = values(clipped(4 / 255)), ClipByRange()(clipped(4 / 255)).model
    assert kinds(lowered)["Clip"] == 0
    np.testing.assert_array_equal(values(lowered), before)


@pytest.mark.parametrize(
    "options",
    [{"low": -1.0}, {"zero_point": np.uint8(3)}, {"zero_point": np.int8(0)},
     {"rest": "y = Add (d, c)"}],
    ids=["below-0", "zero-point", "signed", "read-by-another"],
)  # fmt: skip
def test_other_clips_stay(options: dict) -> None:
    assert not ClipByRange()(clipped(**options)).modified


@pytest.mark.parametrize(
    ("ranges", "zero_point"),
    [(None, 0), ({"r": (0.0, 1.3)}, 0), ({"r": (0.0, 2.0)}, 128), ({}, 128)],
    ids=["wherever", "about-amax", "clipped-on-purpose", "unknown"],
)
def test_the_zero_point_0_where_nothing_is_clipped_by_the_range(
    ranges: dict | None, zero_point: int
) -> None:
    """A range that clips values was chosen on purpose: the lowered file clips them too."""
    text = (
        HEAD.format(channels=3, height=4, width=5)
        + """
        r = Relu (x)
        q = QuantizeLinear (r, s, z)
        y = DequantizeLinear (q, s, z)
    }"""
    )
    step = {"s": np.array(1.27 / 127, np.float32), "z": np.array(0, np.int8)}
    lowered = UnsignedActivations(zero_point_0=True, ranges=ranges)(network_of(text, **step)).model
    (pair,) = qdq.pairs(lowered.graph)
    assert pair.zero_point == np.uint8(zero_point)
    assert values(lowered).max() == pytest.approx(2.55 if zero_point == 0 else 1.27)


def test_a_value_that_is_moved_to_a_computed_shape_stays_on_its_grid() -> None:
    """The shape is not a value to compute with, so it needs no pair."""
    body = """
    shape = Shape (x)
    r = Reshape (d, shape)
    l = LeakyRelu (r)
    lq = QuantizeLinear (l, s2, z)
    y = DequantizeLinear (lq, s2, z)
}}"""
    text = (HEAD + QUANTIZED + body).format(channels=2, height=3, width=4)
    model = network_of(text, **grid(), s2=np.array(0.1, np.float32))
    before = values(model)
    assert QuantizeOutputs({})(model).modified
    (leaky,) = [node for node in model.graph if node.op_type == "LeakyRelu"]
    pair = qdq.pair_of(leaky.inputs[0])
    assert pair.source.producer().op_type == "Reshape"
    assert (float(pair.scale), int(pair.zero_point)) == (np.float32(0.05), 128)
    assert values(model) == pytest.approx(before, abs=0)


GEMM = (
    '<ir_version: 8, opset_import: ["" : 17]> example (float[n,16] x) => (float[n,10] y) {'
    + QUANTIZED
    + """
    wq = QuantizeLinear <axis = 0> (w, ws, wz)
    wd = DequantizeLinear <axis = 0> (wq, ws, wz)
    y = Gemm <transB = 1, %s> (d, wd, bias)
}"""
)


def gemm(attributes: str = "alpha = 1.0", *, scales: int = 10, of_bias: float = 1.0) -> ir.Model:
    return layer_of(GEMM % attributes, scales=scales, of_bias=of_bias)


def layer_of(
    text: str,
    turned: Callable[[np.ndarray], np.ndarray] = np.asarray,
    *,
    scales: int = 10,
    of_bias: float = 1.0,
) -> ir.Model:
    """turned: makes the weight of the text of float[10, 16]."""
    draw = np.random.default_rng(scales)
    steps = draw.uniform(0.001, 0.02, scales).astype(np.float32)
    return network_of(
        text,
        **grid(),
        w=turned(draw.normal(size=(10, 16)).astype(np.float32)),
        ws=steps if scales > 1 else steps.reshape(()),
        wz=np.zeros(steps.shape if scales > 1 else (), np.int8),
        bias=(of_bias * draw.normal(size=10)).astype(np.float32),
    )


@pytest.mark.parametrize("scales", [1, 10])
def test_a_gemm_that_gives_float_runs_in_integers(tmp_path: Path, scales: int) -> None:
    before, lowered = values(gemm(scales=scales)), gemm(scales=scales)
    steps = qdq.scales_of(next(qdq.pairs(lowered.graph)).dequantize)
    ir.passes.Sequential(Int32Bias(), FloatWeights())(lowered)
    np.testing.assert_allclose(values(lowered), before, atol=float(steps.max()) * 0.02)
    assert "QGemm" in ran_by_onnxruntime(lowered, tmp_path)
    ir.passes.Sequential(FloatWeights())(plain := gemm(scales=scales))
    assert "Gemm" in ran_by_onnxruntime(plain, tmp_path)


def ran_by_onnxruntime(model: ir.Model, folder: Path) -> set[str]:
    """The operations that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    content = ir.to_proto(model).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node}


@pytest.mark.parametrize(("samples", "ran"), [("2", "QGemm"), ("n", "MatMulIntegerToFloat")])
def test_a_matmul_and_add_run_in_integers_whether_the_loader_knows_all_sides_or_not(
    tmp_path: Path, samples: str, ran: str
) -> None:
    """With a float bias, the loader makes a float Gemm of both where it knows them."""

    def linear() -> ir.Model:
        text = GEMM.replace("float[n,", f"float[{samples},5,").replace(
            "y = Gemm <transB = 1, %s> (d, wd, bias)", "m = MatMul (d, wd)\n    y = Add (m, bias)"
        )
        return layer_of(text.replace("axis = 0", "axis = 1"), np.transpose)

    before, plain, lowered = values(linear()), linear(), linear()
    FloatWeights()(plain)
    assert ran_by_onnxruntime(plain, tmp_path) >= {"2": {"Gemm"}, "n": {ran}}[samples]
    ir.passes.Sequential(Int32Bias(), FloatWeights())(lowered)
    np.testing.assert_allclose(values(lowered), before, atol=1e-3)
    assert ran in ran_by_onnxruntime(lowered, tmp_path)


@pytest.mark.parametrize(
    "given",
    [{"attributes": "alpha = 0.5"}, {"attributes": "beta = 2.0"}, {"of_bias": 1e8}],
    ids=["scaled", "scaled-bias", "larger-than-int32"],
)
def test_other_biases_stay_in_float(given: dict) -> None:
    assert not Int32Bias()(gemm(**given)).modified


@pytest.mark.parametrize(
    ("cut", "read", "low", "high"),
    [("r = Relu (c)", "r", 0.0, 40.0), ("r = Clip (c, zero, six)", "r", 0.0, 6.0),
     ("", "c", -40.0, 40.0)],
    ids=["relu", "relu6", "neither"],
)  # fmt: skip
def test_a_convolution_before_an_average_gives_integers(
    cut: str, read: str, low: float, high: float
) -> None:
    rest = f"""{cut}
    m = ReduceMean <axes = [2, 3]> ({read})
    mq = QuantizeLinear (m, s, z)
    y = DequantizeLinear (mq, s, z)"""
    ends = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    model = conv(4, 6, rest=rest, **ends)
    before = values(model)
    ir.passes.Sequential(QuantizeOutputs({read: (low, high)}), ClipByRange())(model)
    (mean,) = [node for node in model.graph if node.op_type == "ReduceMean"]
    pair = qdq.pair_of(mean.inputs[0])
    assert pair is not None
    assert kinds(model)["Clip"] == 0
    assert float(pair.scale) == pytest.approx((high - low) / 255)
    np.testing.assert_allclose(values(model), before, atol=0.1001)


def test_an_average_beside_an_operation_in_float_reads_what_that_reads() -> None:
    rest = """m = ReduceMean <axes = [2, 3]> (c)
    s0 = Sub (c, m)
    mq = QuantizeLinear (s0, s, z)
    y = DequantizeLinear (mq, s, z)"""
    assert not QuantizeOutputs({"c": (-40.0, 40.0)})(conv(4, 6, rest=rest)).modified


FOCUS = (
    HEAD
    + """
    top = Slice (x, {row0}, {end}, {rows}, {two})
    bottom = Slice (x, {row1}, {end}, {rows}, {two})
    a = Slice (top, zero, {end}, {columns}, {two})
    b = Slice (bottom, zero, {end}, {columns}, {two})
    c = Slice (top, one, {end}, {columns}, {two})
    d = Slice (bottom, one, {end}, {columns}, {two})
    joined = Concat <axis = 1> (a, b, {last})
    {conv}
}}"""
)


def focus(
    channels: int = 3, side: int = 3, attributes: str = "pads = [1, 1, 1, 1]", **given: str
) -> ir.Model:
    """A convolution of the four pieces of an image of 8 x 12 pixels."""
    words = {
        "row0": "zero", "row1": "one", "rows": "two", "columns": "three", "two": "two",
        "end": "end", "last": "c, d", "conv": f"y = Conv <{attributes}> (joined, w)",
    } | given  # fmt: skip
    draw = np.random.default_rng(side)
    numbers = {"zero": 0, "one": 1, "two": 2, "three": 3, "end": 2**63 - 1, "early": 7}
    pieces = 4 if words["last"].count(",") else 3
    groups = 2 if "group" in attributes else 1
    weight = draw.normal(size=(6, pieces * channels // groups, side, side)).astype(np.float32)
    constants = {name: np.array([number], np.int64) for name, number in numbers.items()}
    text = FOCUS.format(channels=channels, height=8, width=12, **words)
    return network_of(text, w=weight, **constants)


@settings(max_examples=15, deadline=None)
@given(
    channels=st.integers(1, 4),
    side=st.sampled_from([1, 2, 3]),
    strides=st.lists(st.integers(1, 2), min_size=2, max_size=2),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    last=st.permutations(["c", "d"]),
)
def test_a_focus_is_one_convolution(
    channels: int, side: int, strides: list[int], pads: list[int], last: list[str]
) -> None:
    attributes = f"strides = {strides}, pads = {pads}"
    given = {"channels": channels, "side": side, "attributes": attributes, "last": ", ".join(last)}
    before, made = values(focus(**given)), focus(**given)
    assert FocusAsConv()(made).modified
    (whole,) = [node for node in made.graph if node.op_type == "Conv"]
    assert [value.name for value in whole.inputs] == ["x", "w"]
    np.testing.assert_allclose(values(made), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "given",
    [{"last": "c"}, {"last": "c, c"}, {"end": "early"}, {"two": "one"}, {"row1": "zero"},
     {"rows": "one"}, {"attributes": "dilations = [2, 2]"}, {"attributes": "group = 2"},
     {"attributes": 'auto_pad = "SAME_UPPER"'},
     {"conv": "e = Conv (joined, w)\nf = Conv (joined, w)\ny = Add (e, f)"}],
    ids=["three", "one-twice", "cut-off", "whole", "rows-twice", "channels", "dilated", "grouped",
         "padded-by-size", "two-readers"],
)  # fmt: skip
def test_other_pieces_stay(given: dict[str, str]) -> None:
    assert not FocusAsConv()(focus(**({"channels": 4} | given))).modified
