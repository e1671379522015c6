"""Q/DQ graphs in every form that tools write: INT8 stays as the file computes it, and without pairs
it is the float graph.

Each network is built twice by the same lines, once with pairs and once with nothing in their place.
The second network is the expected result, and is not made by the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from sensitivity.errors import OnnxFileError
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.simulators.onnx.whole import onnx_simulator

SCALE, ZERO = 0.05, 3


class Net:
    """A graph under construction.

    pairs: whether quantize and dequantize add anything.
    """

    def __init__(self, pairs: bool, seed: int = 0) -> None:
        self.pairs, self.rng = pairs, np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [self.name(kind.lower()) for _ in range(outputs)]
        self.nodes.append(h.make_node(kind, inputs, names, name=f"node_{names[0]}", **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array: Any) -> str:
        name = self.name("constant")
        self.constants.append(nh.from_array(np.asarray(array), name))
        return name

    def quantize(self, x: str, scale: float = SCALE, zero: int = ZERO) -> str:
        if not self.pairs:
            return x
        return self.op(
            "QuantizeLinear", x, self.constant(np.float32(scale)), self.constant(np.int8(zero))
        )

    def dequantize(self, x: str, scale: float = SCALE, zero: int = ZERO) -> str:
        if not self.pairs:
            return x
        return self.op(
            "DequantizeLinear", x, self.constant(np.float32(scale)), self.constant(np.int8(zero))
        )

    def pair(self, x: str) -> str:
        return self.dequantize(self.quantize(x))

    def conv(self, x: str, channels: int = 4) -> str:
        weight = self.rng.normal(size=(channels, channels, 3, 3)).astype("f4") * 0.2
        return self.op("Conv", x, self.constant(weight), pads=[1] * 4)


Body = Callable[[Net, str], str]


def moved(kind: str, *extra: Any, **attributes: Any) -> Body:
    """Integers that one operation moves between Q and DQ."""

    def body(net: Net, x: str) -> str:
        inputs = [net.constant(value) for value in extra]
        return net.dequantize(net.op(kind, net.quantize(net.conv(x)), *inputs, **attributes))

    return body


def two_joined(net: Net, x: str) -> str:
    parts = [net.quantize(net.conv(x)), net.quantize(net.op("Relu", net.conv(x)))]
    return net.dequantize(net.op("Concat", *parts, axis=1))


def split_in_two(net: Net, x: str) -> str:
    sizes = net.constant(np.array([1, 3]))
    first, second = net.op("Split", net.quantize(net.conv(x)), sizes, outputs=2, axis=1)
    return net.op(
        "Concat", net.dequantize(first), net.op("Sigmoid", net.dequantize(second)), axis=1
    )


def three_in_a_row(net: Net, x: str) -> str:
    pooled = net.op("MaxPool", net.quantize(net.conv(x)), kernel_shape=[2, 2], strides=[2, 2])
    turned = net.op("Transpose", pooled, perm=[0, 2, 3, 1])
    return net.dequantize(net.op("Reshape", turned, net.constant(np.array([0, -1, 4]))))


def padded_with(level: int | None) -> Body:
    def body(net: Net, x: str) -> str:
        inputs = [net.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))]
        fill = 0 if level is None else level
        if not net.pairs:
            inputs.append(net.constant(np.float32((fill - ZERO) * SCALE)))
        elif level is not None:
            inputs.append(net.constant(np.int8(level)))
        return net.dequantize(net.op("Pad", net.quantize(net.conv(x)), *inputs))

    return body


def enlarged(net: Net, x: str) -> str:
    scales = net.constant(np.array([1, 1, 2, 2], "f4"))
    mode = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    return net.dequantize(net.op("Resize", net.quantize(net.conv(x)), "", scales, **mode))


def clipped(net: Net, x: str) -> str:
    """Fewer levels than the type has, with the zero point at their end, which acts as a Relu
    too."""
    value = net.conv(x)
    if not net.pairs:
        return net.op("Relu", value)
    levels = net.quantize(value, zero=0)
    return net.dequantize(
        net.op("Clip", levels, net.constant(np.int8(0)), net.constant(np.int8(15))), zero=0
    )


def clipped_in_the_middle(net: Net, x: str) -> str:
    value = net.conv(x)
    if not net.pairs:
        return value
    levels = net.op(
        "Clip", net.quantize(value, zero=0), net.constant(np.int8(-7)), net.constant(np.int8(7))
    )
    return net.dequantize(levels, zero=0)


def other_scale_behind(net: Net, x: str) -> str:
    value = net.conv(x)
    if not net.pairs:
        return net.op("Mul", value, net.constant(np.float32(2)))
    return net.dequantize(net.quantize(value), scale=2 * SCALE)


def other_zero_point_behind(net: Net, x: str) -> str:
    value = net.conv(x)
    if not net.pairs:
        return net.op("Add", value, net.constant(np.float32((ZERO - 5) * SCALE)))
    return net.dequantize(net.quantize(value), zero=5)


def stored_integers_turned(net: Net, x: str) -> str:
    """int8 weights per channel after a Transpose, then DQ: the axis of channels moves along."""
    levels = net.rng.integers(-127, 128, size=(3, 3, 4, 4)).astype("i1")
    scale = net.rng.uniform(0.001, 0.003, 4).astype("f4")
    if net.pairs:
        turned = net.op("Transpose", net.constant(levels), perm=[3, 2, 0, 1])
        inputs = [net.constant(scale), net.constant(np.zeros(4, "i1"))]
        weight = net.op("DequantizeLinear", turned, *inputs, axis=0)
    else:
        weight = net.constant(levels.transpose(3, 2, 0, 1) * scale[:, None, None, None])
    return net.op("Conv", net.pair(x), weight, pads=[1] * 4)


def stored_integers(levels: Any, scale: Any) -> Body:
    """A compact weight per channel with these scales."""

    def body(net: Net, x: str) -> str:
        if net.pairs:
            inputs = [
                net.constant(levels),
                net.constant(scale),
                net.constant(np.zeros(len(scale), "i1")),
            ]
            weight = net.op("DequantizeLinear", *inputs, axis=0)
        else:
            weight = net.constant(levels * scale[:, None, None, None])
        return net.op("Conv", net.pair(x), weight)

    return body


def branches(condition: str | bool) -> Body:
    """An If whose bodies hold pairs, one of which reads a pair of the main graph. condition: an
    input or a constant."""

    def body(net: Net, x: str) -> str:
        outer = net.pair(net.conv(x))
        graphs = []
        for kind in ("Relu", "Sigmoid"):
            inner = Net(net.pairs, seed=len(kind))
            inner.count = 1000 * len(kind)
            made = inner.op(kind, inner.pair(inner.conv(outer)))
            output = h.make_tensor_value_info(made, T.FLOAT, None)
            graphs.append(h.make_graph(inner.nodes, kind, [], [output], inner.constants))
        chosen = condition if isinstance(condition, str) else net.constant(np.array(condition))
        return net.op("If", chosen, then_branch=graphs[0], else_branch=graphs[1])

    return body


CHANNEL_SCALES, CHANNEL_ZEROS = (
    np.array([0.05, 0.1, 0.02, 0.04], "f4"),
    np.array([3, 0, -1, 2], "i1"),
)


def by_channel(
    net: Net, kind: str, x: str, axis: int, zeros: Any = CHANNEL_ZEROS, factor: float = 1
) -> str:
    """A Q or DQ with a scale for each of four channels; nothing in the float graph."""
    if not net.pairs:
        return x
    return net.op(
        kind, x, net.constant(CHANNEL_SCALES * np.float32(factor)), net.constant(zeros), axis=axis
    )


def channels_turned(net: Net, x: str) -> str:
    levels = by_channel(net, "QuantizeLinear", net.conv(x), axis=1)
    return by_channel(
        net, "DequantizeLinear", net.op("Transpose", levels, perm=[0, 2, 3, 1]), axis=3
    )


def other_channels_behind(net: Net, x: str) -> str:
    """Scales and zero points differ in each channel, on a tensor whose axes the file does not
    tell."""
    value = net.conv(x)
    if not net.pairs:
        shift = (CHANNEL_ZEROS - 1) * 2 * CHANNEL_SCALES
        doubled = net.op("Mul", value, net.constant(np.float32(2)))
        return net.op("Add", doubled, net.constant(shift.astype("f4")[:, None, None]))
    levels = by_channel(net, "QuantizeLinear", value, axis=1)
    return by_channel(net, "DequantizeLinear", levels, axis=1, zeros=np.ones(4, "i1"), factor=2)


def one_scale_then_one_by_channel(net: Net, x: str) -> str:
    value = net.conv(x)
    if not net.pairs:
        return net.op(
            "Mul", value, net.constant((CHANNEL_SCALES / SCALE).astype("f4")[:, None, None])
        )
    levels = net.quantize(value, zero=0)
    return by_channel(net, "DequantizeLinear", levels, axis=1, zeros=np.zeros(4, "i1"))


def half_precision_behind(net: Net, x: str) -> str:
    """Q in FP32 and DQ in FP16, so that the pair acts as a Cast too."""
    value = net.conv(x)
    if net.pairs:
        half = [net.constant(np.float16(1 / 16)), net.constant(np.int8(ZERO))]
        value = net.op("DequantizeLinear", net.quantize(value, scale=1 / 16), *half)
    else:
        value = net.op("Cast", value, to=T.FLOAT16)
    return net.op("Cast", net.op("Identity", value), to=T.FLOAT)


Limit = Callable[[Net, str], str]


def limited(limit: Limit) -> Body:
    """Integers between -7 and 7, by anything but one Clip after the Q."""

    def body(net: Net, x: str) -> str:
        value = net.conv(x)
        return (
            net.dequantize(limit(net, net.quantize(value, zero=0)), zero=0) if net.pairs else value
        )

    return body


def by_min_and_max(net: Net, levels: str) -> str:
    above = net.op("Max", net.constant(np.int8(-7)), levels)
    return net.op("Min", above, net.constant(np.int8(7)))


def by_two_clips(net: Net, levels: str) -> str:
    above = net.op("Clip", levels, net.constant(np.int8(-7)))
    return net.op("Clip", above, "", net.constant(np.int8(7)))


def clipped_behind_a_move(net: Net, x: str) -> str:
    value = net.conv(x)
    turned = net.op("Transpose", net.quantize(value, zero=0), perm=[0, 2, 3, 1])
    if not net.pairs:
        return turned
    return net.dequantize(
        net.op("Clip", turned, net.constant(np.int8(-7)), net.constant(np.int8(7))), zero=0
    )


def stored_integers_reshaped(net: Net, x: str) -> str:
    """int8 weights in another shape, per channel of the shape that the DQ reads."""
    levels = net.rng.integers(-127, 128, size=(4, 36)).astype("i1")
    scale = net.rng.uniform(0.001, 0.003, 4).astype("f4")
    if net.pairs:
        shaped = net.op("Reshape", net.constant(levels), net.constant(np.array([4, 4, 3, 3])))
        inputs = [net.constant(scale), net.constant(np.zeros(4, "i1"))]
        weight = net.op("DequantizeLinear", shaped, *inputs, axis=0)
    else:
        weight = net.constant(levels.reshape(4, 4, 3, 3) * scale[:, None, None, None])
    return net.op("Conv", net.pair(x), weight, pads=[1] * 4)


def stored_integers_clipped(net: Net, x: str) -> str:
    levels = net.rng.integers(-127, 128, size=(4, 4, 1, 1)).astype("i1")
    if net.pairs:
        inside = net.op(
            "Clip", net.constant(levels), net.constant(np.int8(-7)), net.constant(np.int8(7))
        )
        weight = net.dequantize(inside, zero=0)
    else:
        weight = net.constant(levels.clip(-7, 7) * np.float32(SCALE))
    return net.op("Conv", net.pair(x), weight)


def embedding(net: Net, x: str) -> str:
    """Rows of stored integers that the graph looks up by computed indices."""
    levels = net.rng.integers(-127, 128, size=(10, 4)).astype("i1")
    rows = net.op("Cast", net.op("Mul", net.op("Abs", x), net.constant(np.float32(9))), to=T.INT64)
    table = net.constant(levels if net.pairs else levels * np.float32(SCALE))
    return net.op("Tanh", net.pair(net.dequantize(net.op("Gather", table, rows), zero=0)))


def branches_with_the_same_names(net: Net, x: str) -> str:
    """Two bodies of the same form, whose values and nodes share their names. The pair of one clips
    at 0."""
    outer, graphs = net.conv(x), []
    for index, zero in enumerate((-128, ZERO)):
        inner = Net(net.pairs)
        inner.count = 900
        pair = inner.dequantize(
            inner.quantize(inner.op("Mul", outer, inner.constant(np.float32(2))), zero=zero),
            zero=zero,
        )
        if not net.pairs and index == 0:
            pair = inner.op("Relu", pair)
        inner.nodes.append(h.make_node("Abs" if index else "Neg", [pair], ["same"], name="same"))
        output = h.make_tensor_value_info("same", T.FLOAT, None)
        graphs.append(h.make_graph(inner.nodes, f"body{index}", [], [output], inner.constants))
    return net.op("If", "which", then_branch=graphs[0], else_branch=graphs[1])


def loop_that_clamps(net: Net, x: str) -> str:
    """The pair in the body reads the body's input and stands for a Relu."""
    inner = Net(net.pairs)
    inner.count = 5000
    value = inner.dequantize(inner.quantize("carried", zero=-128), zero=-128)
    if not net.pairs:
        value = inner.op("Relu", value)
    return looped(net, inner, inner.op("Sub", value, inner.constant(np.float32(0.9))), x)


def loop(net: Net, x: str) -> str:
    """A Loop of three turns whose body quantizes the value that it carries."""
    inner = Net(net.pairs, seed=5)
    inner.count = 5000
    return looped(
        net, inner, inner.op("Mul", inner.pair("carried"), inner.constant(np.float32(0.9))), x
    )


def looped(net: Net, inner: Net, carried: str, x: str) -> str:
    go_on = inner.op("Identity", "go_on")
    inputs = [("turn", T.INT64, []), ("go_on", T.BOOL, []), ("carried", T.FLOAT, ["n", 4, 8, 8])]
    graph = h.make_graph(
        inner.nodes,
        "body",
        [h.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [
            h.make_tensor_value_info(go_on, T.BOOL, []),
            h.make_tensor_value_info(carried, T.FLOAT, None),
        ],
        inner.constants,
    )
    turns = net.constant(np.array(3))
    return net.op("Loop", turns, "", net.conv(x), body=graph)


KINDS: dict[str, Body] = {
    "transpose": moved("Transpose", perm=[0, 2, 3, 1]),
    "reshape": moved("Reshape", np.array([0, -1])),
    "flatten": moved("Flatten"),
    "max-pool": moved("MaxPool", kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1]),
    "gather": moved("Gather", np.array([2, 0]), axis=1),
    "slice": moved("Slice", np.array([1]), np.array([3]), np.array([1])),
    "unsqueeze": moved("Unsqueeze", np.array([1])),
    "tile": moved("Tile", np.array([1, 2, 1, 1])),
    "expand": moved("Expand", np.array([2, 1, 1, 1, 1])),
    "depth-to-space": moved("DepthToSpace", blocksize=2),
    "space-to-depth": moved("SpaceToDepth", blocksize=2),
    "identity": moved("Identity"),
    "concat": two_joined,
    "split": split_in_two,
    "reduce-max": moved("ReduceMax", axes=[2]),
    "three-in-a-row": three_in_a_row,
    "pad-with-a-level": padded_with(20),
    "pad-with-nothing": padded_with(None),
    "nearest-resize": enlarged,
    "clip-from-the-zero-point": clipped,
    "clip-in-the-middle": clipped_in_the_middle,
    "scale-of-its-own-after": other_scale_behind,
    "zero-point-of-its-own-after": other_zero_point_behind,
    "channels-turned": channels_turned,
    "channels-of-their-own-after": other_channels_behind,
    "one-scale-then-one-by-channel": one_scale_then_one_by_channel,
    "half-precision-after": half_precision_behind,
    "min-and-max": limited(by_min_and_max),
    "two-clips": limited(by_two_clips),
    "clip-after-a-move": clipped_behind_a_move,
    "stored-integers-reshaped": stored_integers_reshaped,
    "stored-integers-clipped": stored_integers_clipped,
    "embedding": embedding,
    "stored-integers-turned": stored_integers_turned,
    "channel-of-scale-0": stored_integers(
        np.full((4, 4, 1, 1), 9, "i1"), np.array([0.01, 0, 0.02, 0.01], "f4")
    ),
    "negative-scales": stored_integers(
        np.full((4, 4, 1, 1), 9, "i1"), np.array([0.01, -0.03, 0.02, -0.01], "f4")
    ),
    "if-with-a-constant": branches(True),
    "if-with-an-input": branches("which"),
    "branches-with-the-same-names": branches_with_the_same_names,
    "loop": loop,
    "loop-that-clamps": loop_that_clamps,
}

OPSET_OF_MIXED_TYPES = 21
"""From this one on Q and DQ may be of different float types."""


def model_of(body: Body, pairs: bool, opset: int = 17) -> onnx.ModelProto:
    net = Net(pairs)
    y = net.op("Neg", body(net, net.op("Tanh", "x")))
    inputs = [h.make_tensor_value_info("x", T.FLOAT, ["n", 4, 8, 8])]
    if any("which" in node.input for node in net.nodes):
        inputs.append(h.make_tensor_value_info("which", T.BOOL, [1]))
    shape = None
    graph = h.make_graph(
        net.nodes, "g", inputs, [h.make_tensor_value_info(y, T.FLOAT, shape)], net.constants
    )
    return h.make_model(
        graph, opset_imports=[h.make_opsetid("", opset)], ir_version=10 if opset > 17 else 8
    )


def run(model: onnx.ModelProto | str, feed: dict[str, Any]) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    content = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(
        None, feed
    )[0]


def feed_of(model: onnx.ModelProto, which: bool = True) -> dict[str, Any]:
    x = np.random.default_rng(7).normal(size=(2, 4, 8, 8)).astype("f4") * 3
    given = {"x": x, "which": np.array([which])}
    return {value.name: given[value.name] for value in model.graph.input}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(kind: str, tmp_path: Path) -> tuple[OnnxModel, onnx.ModelProto, onnx.ModelProto]:
    opset = OPSET_OF_MIXED_TYPES if kind == "half-precision-after" else 17
    quantized, truth = (model_of(KINDS[kind], pairs, opset) for pairs in (True, False))
    onnx.save(quantized, tmp_path / "q.onnx")
    return OnnxModel(tmp_path / "q.onnx"), quantized, truth


def test_quantized_it_computes_what_the_file_computes(kind: str, tmp_path: Path) -> None:
    model, quantized, _ = opened(kind, tmp_path)
    feed = feed_of(quantized)
    np.testing.assert_allclose(model.run(None, feed)[0], run(quantized, feed), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("which", [True, False])
def test_without_its_pairs_it_is_the_float_graph(kind: str, which: bool, tmp_path: Path) -> None:
    model, _, truth = opened(kind, tmp_path)
    feed = feed_of(truth, which)
    with model.skipping(frozenset(use.name for use in model.uses)):
        np.testing.assert_allclose(model.run(None, feed)[0], run(truth, feed), rtol=1e-5, atol=1e-5)


def test_nothing_quantized_remains_without_its_pairs(kind: str, tmp_path: Path) -> None:
    model, _, _ = opened(kind, tmp_path)
    source = OnnxQdqModel(model)
    assert source.remaining() == ()
    assert not any(quantizer.problem for quantizer in source.quantizers)


def test_what_replays_or_runs_it_whole_gives_the_same(kind: str, tmp_path: Path) -> None:
    model, quantized, truth = opened(kind, tmp_path)
    feed = feed_of(quantized)
    every = frozenset(use.name for use in model.uses)
    found = dict(onnx_simulator(OnnxQdqModel(model), feed).outputs(feed, [frozenset(), every]))
    np.testing.assert_allclose(found[0], run(quantized, feed), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1], run(truth, feed), rtol=1e-5, atol=1e-5)


def test_each_pair_can_be_left_out_alone(kind: str, tmp_path: Path) -> None:
    model, quantized, _ = opened(kind, tmp_path)
    feed = feed_of(quantized)
    for use in model.uses:
        alone = model.without(frozenset({use.name}))
        assert use.name not in {one.name for one in _uses_of(alone)}
        with model.skipping(frozenset({use.name})):
            assert np.isfinite(model.run(None, feed)[0]).all()


def _uses_of(model: Any) -> Sequence[Any]:
    from sensitivity.onnx_graph.uses import paths, uses

    return uses(paths(model.graph))


def test_a_pair_in_a_branch_that_was_not_taken_is_not_executed(tmp_path: Path) -> None:
    model, quantized, _ = opened("if-with-an-input", tmp_path)
    source = OnnxQdqModel(model)
    executed = [source.executed(feed_of(quantized, which)) for which in (True, False)]
    named = {quantizer.layer: quantizer.name for quantizer in source.quantizers}
    sigmoid = next(name for layer, name in named.items() if "sigmoid" in layer)
    relu = next(name for layer, name in named.items() if "relu" in layer)
    assert [sigmoid in names for names in executed] == [False, True]
    assert [relu in names for names in executed] == [True, False]


def test_an_if_may_stand_in_front_of_what_only_its_branches_read(tmp_path: Path) -> None:
    """The form that ONNX Runtime's quantizer writes and that runtimes read."""
    quantized = model_of(KINDS["if-with-an-input"], pairs=True)
    chosen = next(node for node in quantized.graph.node if node.op_type == "If")
    moved_to_front = [chosen, *(node for node in quantized.graph.node if node is not chosen)]
    moved_to_front = [
        onnx.NodeProto.FromString(node.SerializeToString()) for node in moved_to_front
    ]
    del quantized.graph.node[:]
    quantized.graph.node.extend(moved_to_front)
    onnx.save(quantized, tmp_path / "q.onnx")
    model, feed = OnnxModel(tmp_path / "q.onnx"), feed_of(quantized)
    with model.skipping(frozenset(use.name for use in model.uses)):
        (off,) = model.run(None, feed)
    np.testing.assert_allclose(
        off, run(model_of(KINDS["if-with-an-input"], pairs=False), feed), rtol=1e-5, atol=1e-5
    )


def test_a_pair_that_nothing_reads_is_no_quantizer_and_goes(tmp_path: Path) -> None:
    """ONNX Runtime's quantizer leaves a pair on a tensor that only branches of an If read."""
    net = Net(pairs=True)
    value = net.conv(net.pair("x"))
    net.pair(value)
    y = net.op("Neg", value)
    inputs, outputs = (
        [h.make_tensor_value_info(name, T.FLOAT, ["n", 4, 8, 8])] for name in ("x", y)
    )
    graph = h.make_graph(net.nodes, "g", inputs, outputs, net.constants)
    onnx.save(
        h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8),
        tmp_path / "q.onnx",
    )
    source = OnnxQdqModel(OnnxModel(tmp_path / "q.onnx"))
    assert len(source.quantizers) == 1
    assert source.remaining() == ()


def test_integers_at_the_inputs_of_a_file_are_no_quantizer(tmp_path: Path) -> None:
    net = Net(pairs=True)
    y = net.op("Neg", net.pair(net.conv(net.dequantize("x"))))
    graph = h.make_graph(
        net.nodes,
        "g",
        [h.make_tensor_value_info("x", T.INT8, ["n", 4, 8, 8])],
        [h.make_tensor_value_info(y, T.FLOAT, None)],
        net.constants,
    )
    onnx.save(
        h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8),
        tmp_path / "q.onnx",
    )
    source = OnnxQdqModel(OnnxModel(tmp_path / "q.onnx"))
    assert len(source.quantizers) == 1
    assert source.remaining() == ()
    without = source.model.without(frozenset({source.quantizers[0].name}))
    assert [node.op_type for node in without.graph] == ["DequantizeLinear", "Conv", "Neg"]


def test_the_rounding_of_an_integer_output_stays_and_is_reported(tmp_path: Path) -> None:
    net = Net(pairs=True)
    y = net.quantize(net.conv(net.pair("x")))
    graph = h.make_graph(
        net.nodes,
        "g",
        [h.make_tensor_value_info("x", T.FLOAT, ["n", 4, 8, 8])],
        [h.make_tensor_value_info(y, T.INT8, None)],
        net.constants,
    )
    onnx.save(
        h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8),
        tmp_path / "q.onnx",
    )
    (finding,) = OnnxQdqModel(OnnxModel(tmp_path / "q.onnx")).remaining()
    assert (finding.code, finding.severity) == ("integer-output", "warning")


def test_integers_that_something_computes_with_are_named(tmp_path: Path) -> None:
    """A scale per channel after a Reshape has no channel before it: the pair cannot be
    switched."""
    net = Net(pairs=True)
    scale, zero = net.constant(np.full(8, 0.05, "f4")), net.constant(np.zeros(8, "i1"))
    levels = net.op("QuantizeLinear", net.conv(net.pair("x")), scale, zero, axis=2)
    turned = net.op("Reshape", levels, net.constant(np.array([0, 4, 64])))
    wide, none = net.constant(np.full(64, 0.05, "f4")), net.constant(np.zeros(64, "i1"))
    y = net.op("Neg", net.op("DequantizeLinear", turned, wide, none, axis=2))
    graph = h.make_graph(
        net.nodes,
        "g",
        [h.make_tensor_value_info("x", T.FLOAT, ["n", 4, 8, 8])],
        [h.make_tensor_value_info(y, T.FLOAT, None)],
        net.constants,
    )
    onnx.save(
        h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8),
        tmp_path / "q.onnx",
    )
    found = OnnxQdqModel(OnnxModel(tmp_path / "q.onnx")).remaining()
    assert {finding.code for finding in found} == {"quantization-remains"}
    assert {finding.severity for finding in found} == {"error"}
    assert any("quantizelinear" in finding.where for finding in found)


def test_integers_that_leave_a_body_are_named(tmp_path: Path) -> None:
    net = Net(pairs=True)
    value, graphs = net.conv("x"), []
    for count in (800, 900):
        inner = Net(pairs=True)
        inner.count = count
        made = inner.quantize(inner.op("Relu", value))
        output = h.make_tensor_value_info(made, T.INT8, None)
        graphs.append(h.make_graph(inner.nodes, f"body{count}", [], [output], inner.constants))
    y = net.dequantize(net.op("If", "which", then_branch=graphs[0], else_branch=graphs[1]))
    inputs = [
        h.make_tensor_value_info("x", T.FLOAT, ["n", 4, 8, 8]),
        h.make_tensor_value_info("which", T.BOOL, []),
    ]
    graph = h.make_graph(
        net.nodes, "g", inputs, [h.make_tensor_value_info(y, T.FLOAT, None)], net.constants
    )
    onnx.save(
        h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8),
        tmp_path / "q.onnx",
    )
    with pytest.raises(
        OnnxFileError,
        match=r"follow each other, .* QuantizeLinear at .* and 2 more without the other",
    ):
        OnnxModel(tmp_path / "q.onnx")


@pytest.mark.parametrize(
    "kind", ["MatMulNBits", "QMoE", "GatherBlockQuantized", "DynamicQuantizeMatMul", "MatMulBnb4"]
)
def test_weights_that_only_a_runtime_can_take_apart_are_refused(kind: str, tmp_path: Path) -> None:
    net = Net(pairs=True)
    y = net.op(kind, net.pair("x"), net.constant(np.zeros((4, 4), "u1")), domain="com.microsoft")
    graph = h.make_graph(
        net.nodes,
        "g",
        [h.make_tensor_value_info("x", T.FLOAT, ["n", 4])],
        [h.make_tensor_value_info(y, T.FLOAT, None)],
        net.constants,
    )
    opsets = [h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)]
    onnx.save(h.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "q.onnx")
    with pytest.raises(OnnxFileError, match=kind):
        OnnxModel(tmp_path / "q.onnx")


def test_a_pair_that_a_relu_of_the_graph_reads_stands_for_none(tmp_path: Path) -> None:
    """The sums are an output too: they have the range of what the Relu passes on, and no Relu of
    their own."""
    nets = {pairs: Net(pairs) for pairs in (True, False)}
    for pairs, net in nets.items():
        sums = net.dequantize(net.quantize(net.conv("x"), zero=-128), zero=-128)
        outputs = [sums, net.op("Relu", sums)]
        graph = h.make_graph(
            net.nodes,
            "g",
            [h.make_tensor_value_info("x", T.FLOAT, ["n", 4, 8, 8])],
            [h.make_tensor_value_info(name, T.FLOAT, None) for name in outputs],
            net.constants,
        )
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / f"{pairs}.onnx")
    opened = OnnxModel(tmp_path / "True.onnx")
    feed = {"x": np.random.default_rng(7).normal(size=(2, 4, 8, 8)).astype("f4") * 3}
    with opened.skipping(frozenset(use.name for use in opened.uses)):
        np.testing.assert_allclose(
            opened.run(None, feed)[0], run(str(tmp_path / "False.onnx"), feed), rtol=1e-5
        )
