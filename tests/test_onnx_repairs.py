"""Repairs of Q/DQ files, bias correction and learned rounding: values, switching, replay, export,
and a run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType
from support.commands import verb
from support.models import quantized
from support.onnx_models import qdq_file, run_file, static_file
from support.shown import Shown
from tasks.coarse import COARSE
from tasks.tiny import balanced, images

from sensitivity import api
from sensitivity.config import PlanSettings
from sensitivity.errors import ModelError
from sensitivity.exporters.onnx_file import export_onnx, verify_onnx
from sensitivity.exporters.torch_model import disabled_by_variant, export_files
from sensitivity.onnx_graph.load import load_model
from sensitivity.quantizers.alternatives import Alternatives
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.quantizers.rounding import pack
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import Plan, Range
from sensitivity.repairs.bias import bias_corrections
from sensitivity.repairs.onnx_kernels import kernel_of
from sensitivity.repairs.rounding import learned_roundings, takes_rounding
from sensitivity.repairs.samples import Parts, calibration_parts
from sensitivity.run_dir import RunDir
from sensitivity.simulators.onnx.replay import OnnxReplay
from sensitivity.simulators.onnx.whole import WholeFile, onnx_simulator

NET = """
<ir_version: 9, opset_import: ["" : {opset}]>
net ({kind}[{batch}, 3, 12, 12] x) => ({kind}[{batch}, 4] y)
{{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1], group = 8> (r1, w2)
    r2 = Relu (c2)
    c3 = Conv <pads = [1, 1, 1, 1], group = 2> (r2, w3, b3)
    r3 = Relu (c3)
    u4 = ConvTranspose <strides = [2, 2]> (r3, w4, b4)
    g5 = GlobalAveragePool (u4)
    f5 = Flatten (g5)
    m6 = MatMul (f5, w6)
    a6 = Add (m6, b6)
    r6 = Relu (a6)
    y = Gemm <transB = 1> (r6, w7)
}}
"""
SHAPES = {
    "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "w3": (6, 4, 3, 3), "b3": (6,),
    "w4": (6, 5, 2, 2), "b4": (5,), "w6": (5, 7), "b6": (7,), "w7": (4, 7),
}  # fmt: skip
LAYERS = {
    "Conv_c1": ("c1", 1),
    "Conv_c2": ("c2", 1),
    "Conv_c3": ("c3", 1),
    "ConvTranspose_u4": ("u4", 1),
    "MatMul_m6": ("a6", -1),
    "Gemm_y": ("y", -1),
}
"""Operation -> the tensor that the layer gives, and its axis of channels."""


def colours(samples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise, tints = rng.normal(size=(samples, 3, 12, 12)), rng.normal(size=(samples, 3, 1, 1))
    return (noise + 2 * tints + 1).astype(np.float32)


def float_net(path: Path, kind: str = "float", batch: str = "batch") -> Path:
    model = onnx.parser.parse_model(
        NET.format(kind=kind, batch=batch, opset=19 if kind == "float16" else 17)
    )
    rng = np.random.default_rng(1)
    for name, shape in SHAPES.items():
        values = rng.normal(size=shape) * (0.1 if len(shape) == 1 else 0.4)
        values = values.astype(np.float16 if kind == "float16" else np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    onnx.save(model, path)
    return path


def quantized_net(folder: Path, kind: str = "float", batch: str = "batch") -> tuple[Path, Path]:
    """Weights on a grid of 12 times their range, so that channels miss their mean by much."""
    original = float_net(folder / "net.onnx", kind, batch)
    model = onnx.load(original)
    rng, element = np.random.default_rng(0), np.float16 if kind == "float16" else np.float32
    nodes: list[onnx.NodeProto] = []
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}

    def pair(value: str, reader: str, scale: float, zero: int) -> str:
        at = f"{value}_of_{reader}"
        add(f"{at}_scale", element(scale))
        add(f"{at}_zero", np.int8(zero))
        for kind_of, read, gives in (
            ("QuantizeLinear", value, f"{at}_q"),
            ("DequantizeLinear", f"{at}_q", f"{at}_dq"),
        ):
            parts = [read, f"{at}_scale", f"{at}_zero"]
            nodes.append(helper.make_node(kind_of, parts, [gives], name=f"{at}/{kind_of}"))
        return f"{at}_dq"

    def add(name: str, value: Any) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))

    for node in model.graph.node:
        if node.op_type in {"Conv", "ConvTranspose", "MatMul", "Gemm"}:
            weight = constants[node.input[1]]
            node.input[1] = pair(node.input[1], node.name, float(abs(weight).max()) * 12 / 127, 0)
            node.input[0] = pair(node.input[0], node.name, 0.05 + 0.01 * rng.random(), -3)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "net.qdq.onnx")
    return original, folder / "net.qdq.onnx"


def opened(files: tuple[Path, Path]) -> OnnxQdqModel:
    return OnnxQdqModel(OnnxModel(files[1], float_path=files[0]))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return quantized_net(tmp_path_factory.mktemp("net"))


@pytest.fixture
def source(files: tuple[Path, Path]) -> OnnxQdqModel:
    return opened(files)


def tensors(model: onnx.ModelProto, x: np.ndarray, names: list[str]) -> list[np.ndarray]:
    """The values of these tensors of a file, computed by ONNX Runtime alone, one sample at a time
    if the batch is fixed."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    there = {value.name for value in whole.graph.output}
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(whole.SerializeToString(), options)
    size = session.get_inputs()[0].shape[0]
    parts = np.split(x, len(x) // size) if isinstance(size, int) else [x]
    found = [session.run(names, {"x": part}) for part in parts]
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def mean(values: np.ndarray, axis: int) -> np.ndarray:
    axes = tuple(number for number in range(values.ndim) if number != axis % values.ndim)
    return values.astype(np.float64).mean(axes)


def by_hand(files: tuple[Path, Path], x: np.ndarray) -> dict[str, np.ndarray]:
    """The bias error of each layer, computed independently: the file is edited and run again for
    each layer."""
    original, edited = onnx.load(files[0]), onnx.load(files[1])
    constants = {one.name: one for one in edited.graph.initializer}
    lacking = {}
    for layer, (tensor, axis) in LAYERS.items():
        (wanted,), (given,) = tensors(original, x, [tensor]), tensors(edited, x, [tensor])
        delta = mean(wanted, axis) - mean(given, axis)
        lacking[layer] = delta
        adding = next(node for node in edited.graph.node if tensor in node.output)
        place = 1 if adding.op_type == "Add" else 2
        kind = wanted.dtype
        if len(adding.input) <= place:
            adding.input.append(f"{layer}_bias")
            bias = np.zeros(len(delta), kind)
        else:
            bias = numpy_helper.to_array(constants[adding.input[place]])
            adding.input[place] = f"{layer}_bias"
        new = (bias + delta.astype(np.float32)).astype(kind)
        edited.graph.initializer.append(numpy_helper.from_array(new, f"{layer}_bias"))
    return lacking


@pytest.mark.parametrize(
    ("kind", "batch", "tolerance"),
    [("float", "batch", 1e-4), ("float", "2", 1e-4), ("float16", "batch", 5e-3)],
    ids=["any batch", "batches of 2", "FP16"],
)
def test_each_operation_gets_what_it_lacks_with_those_before_it_corrected(
    tmp_path: Path, kind: str, batch: str, tolerance: float
) -> None:
    files, x = quantized_net(tmp_path, kind, batch), colours(8, seed=5)
    x = x.astype(np.float16) if kind == "float16" else x
    source = opened(files)
    before = source.fingerprint()
    shown = Shown()
    found = {layer_of(source, one): one for one in bias_corrections(source, Parts([x], shown))}
    assert shown == [[2 * len(found), 2 * len(found)]], "each layer in float, then in INT8"
    assert source.fingerprint() == before
    expected = by_hand(files, x)
    assert found.keys() == expected.keys() == LAYERS.keys()
    for layer, delta in expected.items():
        assert found[layer].method == "bias correction"
        assert found[layer].bias == pytest.approx(delta, abs=tolerance), layer
        assert np.abs(delta).max() > 4 * tolerance, layer


def layer_of(source: OnnxQdqModel, one: Range) -> str:
    return next(each.layer for each in source.quantizers if each.name == one.quantizer)


def test_an_operation_that_is_left_out_gets_nothing_and_ranges_in_force_are_kept(
    source: OnnxQdqModel,
) -> None:
    x = colours(8, seed=5)
    plain = {layer_of(source, one): one for one in bias_corrections(source, x)}
    weight = source.range(plain["Conv_c3"].quantizer)
    narrow = replace(weight, method="narrow", amax=(weight.amax[0] / 12,))
    left_out = [each.name for each in source.quantizers if each.layer == "Conv_c1"]
    found = {
        layer_of(source, one): one
        for one in bias_corrections(source, x, ranges=[narrow], left_out=left_out)
    }
    assert found.keys() == LAYERS.keys() - {"Conv_c1"}
    assert found["Conv_c3"].method == "narrow, bias correction"
    assert found["Conv_c3"].amax == narrow.amax
    assert found["Conv_c2"].bias != plain["Conv_c2"].bias


@pytest.mark.parametrize("kind", ["float", "float16"])
def test_replay_computes_any_mix_of_corrected_operations_as_the_edited_file_does(
    tmp_path: Path, kind: str
) -> None:
    own = opened(quantized_net(tmp_path, kind))
    x = colours(6, seed=3).astype(np.float16 if kind == "float16" else np.float32)
    found = bias_corrections(own, x)
    wide = [replace(one, method="wide", amax=(2 * one.amax[0],)) for one in found[:3]]
    source = Alternatives(own, [*found, *wide])
    names, rng = [one.name for one in source.quantizers], np.random.default_rng(0)
    keys = frozenset(one.key for one in found)
    variants = [frozenset[str](), keys, keys | {found[1].quantizer}] + [
        frozenset(rng.choice(names, rng.integers(1, len(names)), replace=False)) for _ in range(9)
    ]
    tolerance = 1e-5
    if kind == "float16":
        # Of a whole file ONNX Runtime computes neighbours in FP32, so activations would be rounded
        # to other steps.
        tolerance = 5e-3
        off = {one.name for one in source.quantizers if one.role == "input"}
        variants = [variant | off for variant in variants]
    whole = dict(WholeFile(source).outputs(x, variants))
    with own.model.in_one_thread():
        for index, values in OnnxReplay(source, None).outputs(x, variants):
            off_by = np.abs(values - whole[index]).max()
            assert off_by <= tolerance * np.abs(whole[index]).max(), index
    assert np.abs(whole[0] - whole[1]).max() > 0.01


def test_a_file_with_corrected_biases_in_force_is_replayed_as_it_is_edited(
    source: OnnxQdqModel,
) -> None:
    x = colours(6, seed=3)
    found = bias_corrections(source, x)
    off = frozenset(each.name for each in source.quantizers if each.layer == "Conv_c3")
    variants = [frozenset[str](), off, frozenset(each.name for each in source.quantizers)]
    with source.with_ranges(found):
        assert source.range(found[0].quantizer) == found[0]
        whole = dict(WholeFile(source).outputs(x, variants))
        ours = dict(OnnxReplay(source, None).outputs(x, variants))
    assert source.range(found[0].quantizer).bias is None
    for index in range(len(variants)):
        assert np.abs(ours[index] - whole[index]).max() <= 1e-5 * np.abs(whole[index]).max()
    plain = dict(WholeFile(source).outputs(x, variants))
    assert np.abs(plain[0] - whole[0]).max() > 0.01
    assert np.array_equal(plain[2], whole[2]), "float knows of no repair"


def test_a_bias_for_what_adds_none_is_refused(source: OnnxQdqModel) -> None:
    name = next(each.name for each in source.quantizers if each.role == "input")
    wrong = replace(source.range(name), bias=(0.5,))
    with pytest.raises(ModelError, match="for the weight of an operation that adds a constant"):
        source.with_ranges([wrong]).__enter__()


# Learned rounding.
# --------------------------------------------------------------------------------------------------


def test_outputs_with_learned_rounding_are_nearer_to_float_than_with_corrected_biases(
    source: OnnxQdqModel,
) -> None:
    x, other = colours(24, seed=5), colours(24, seed=6)
    before = source.fingerprint()
    shown = Shown()
    found = learned_roundings(source, Parts([x], shown))
    assert shown == [[2 * len(found), 2 * len(found)]], "each layer in float, then in INT8"
    assert source.fingerprint() == before
    assert {layer_of(source, one): one.method for one in found} == {
        layer: "bias correction" if "Transpose" in layer else "learned rounding, bias correction"
        for layer in LAYERS
    }
    every = frozenset(one.name for one in source.quantizers)
    wanted = outputs(source, other, off=every)
    biased, rounded = (
        np.square(outputs(source, other, ranges) - wanted).mean()
        for ranges in (bias_corrections(source, x), found)
    )
    assert rounded < 0.9 * biased


def outputs(
    source: OnnxQdqModel,
    x: np.ndarray,
    ranges: tuple[Range, ...] = (),
    off: frozenset[str] = frozenset(),
) -> np.ndarray:
    with source.with_ranges(ranges):
        ((_, values),) = onnx_simulator(source, x).outputs(x, [off])
    return np.asarray(values)


@pytest.mark.parametrize("compact", [True, False], ids=["integer weights", "weights with a Q"])
def test_files_have_the_rounding_that_was_learned(tmp_path: Path, compact: bool) -> None:
    own = float_net(tmp_path / "net.onnx"), tmp_path / "int8.onnx"
    files = own if compact else quantized_net(tmp_path)
    if compact:
        static_file(*own, weight_type=QuantType.QInt8, extra_options={"WeightSymmetric": True})
    source, x = opened(files), colours(8, seed=5)
    found = learned_roundings(source, x)
    moves = {one.quantizer: one.rounding for one in found if one.rounding}
    assert len(moves) >= 4
    units = layers(source.quantizers)
    with source.with_ranges(found):
        made = export_onnx(source, units, ["Conv_c3"], tmp_path, fingerprint="x")
        disabled = disabled_by_variant(source, units, ["Conv_c3"])
        verify_onnx(source, made, disabled, x, onnx_simulator(source, x))
        expected = outputs(source, x)
    np.testing.assert_allclose(run_file(made["int8"], x), expected, atol=1e-3)
    plain = outputs(source, x, bias_corrections(source, x))
    assert np.abs(plain - expected).max() > 4e-3


def test_roundings_are_learned_where_float_weights_are_known(tmp_path: Path) -> None:
    """Of integers alone only bias corrections would come, which are tried by themselves."""
    original = float_net(tmp_path / "net.onnx")
    integers = static_file(original, tmp_path / "int8.onnx")
    assert not takes_rounding(OnnxQdqModel(OnnxModel(integers)))
    assert takes_rounding(opened((original, integers)))
    _, with_q = quantized_net(tmp_path)
    assert takes_rounding(OnnxQdqModel(OnnxModel(with_q)))


def test_a_rounding_of_an_activation_is_refused(source: OnnxQdqModel) -> None:
    name = next(each.name for each in source.quantizers if each.role == "input")
    wrong = replace(source.range(name), rounding=pack(np.ones((1, 1), np.int8)))
    with pytest.raises(ModelError, match=f"Expected a rounding for a weight, got one for {name}"):
        source.with_ranges([wrong]).__enter__()


@pytest.mark.parametrize(
    "settings",
    [
        "strides = [2, 1], pads = [1, 0, 2, 1]",
        "dilations = [2, 3], pads = [2, 3, 2, 3], group = 2",
        'auto_pad = "NOTSET"',
    ],
)
def test_a_kernel_times_its_inputs_is_the_output_of_the_convolution(
    tmp_path: Path, settings: str
) -> None:
    groups = 2 if "group" in settings else 1
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(6, 4 // groups, 3, 2)).astype(np.float32)
    x = draw.normal(size=(3, 4, 9, 8)).astype(np.float32)
    file = qdq_file(
        tmp_path / "net.onnx",
        f"y = Conv <{settings}> (x, w)",
        {"w": weight},
        ports="(float[n, 4, 9, 8] x) => (float[n, 6, h, v] y)",
    )
    kernel = kernel_of(load_model(file).graph[0], weight.shape)
    wanted = np.moveaxis(run_file(file, x), 1, -1)
    places = np.sort(draw.permutation(wanted[..., 0].size)[:40])
    sampled = kernel.inputs_of(places, x, wanted.shape[1:-1])
    by_group = weight.reshape(groups, 6 // groups, -1)
    found = np.einsum("ngi,gci->ngc", sampled, by_group).reshape(len(places), 6)
    np.testing.assert_allclose(found, wanted.reshape(-1, 6)[places], rtol=1e-4, atol=1e-4)


# Files.
# --------------------------------------------------------------------------------------------------


def test_files_have_the_corrected_biases_where_the_operation_is_quantized_and_float_as_it_was(
    source: OnnxQdqModel, tmp_path: Path
) -> None:
    x, units = colours(8, seed=5), layers(source.quantizers)
    for folder in ("plain", "mended"):
        (tmp_path / folder).mkdir()
    plain = export_onnx(source, units, ["Conv_c3"], tmp_path / "plain", fingerprint="x")
    found = {layer_of(source, one): one for one in bias_corrections(source, x)}
    with source.with_ranges(found.values()):
        files = export_onnx(source, units, ["Conv_c3"], tmp_path / "mended", fingerprint="x")
        disabled = disabled_by_variant(source, units, ["Conv_c3"])
        verify_onnx(source, files, disabled, x, onnx_simulator(source, x))
    assert files["float"].read_bytes() == plain["float"].read_bytes()
    for variant, corrected in {
        "float": set(),
        "int8": set(LAYERS),
        "partial": set(LAYERS) - {"Conv_c3"},
    }.items():
        model = onnx.load(files[variant])
        onnx.checker.check_model(model, full_check=True)
        for layer, (tensor, _) in LAYERS.items():
            added = np.float32(found[layer].bias) if layer in corrected else np.float32(0)
            own = bias_of(plain[variant], tensor)
            assert bias_of(files[variant], tensor) == pytest.approx(own + added, abs=1e-6), layer


def bias_of(file: Path, tensor: str) -> np.ndarray:
    graph = onnx.load(file).graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    node = next(one for one in graph.node if tensor in one.output)
    place = 1 if node.op_type == "Add" else 2
    return constants[node.input[place]] if len(node.input) > place else np.zeros(1, np.float32)


@pytest.mark.parametrize("with_float", [True, False], ids=["with the float file", "alone"])
def test_an_integer_bias_becomes_float_with_what_is_added(tmp_path: Path, with_float: bool) -> None:
    original = float_net(tmp_path / "net.onnx")
    quantized = static_file(original, tmp_path / "int8.onnx")
    source = OnnxQdqModel(OnnxModel(quantized, float_path=original if with_float else None))
    x = colours(8, seed=5)
    found = {layer_of(source, one): one for one in bias_corrections(source, x)}
    assert {"Conv_c1", "Conv_c2", "Conv_c3"} <= found.keys()
    integers = {one.name: one for one in onnx.load(quantized).graph.initializer}
    steps = numpy_helper.to_array(integers["b1_quantized"])
    assert steps.dtype == np.int32
    own = numpy_helper.to_array(integers["b1_quantized_scale"]) * steps
    if with_float:
        own = numpy_helper.to_array(
            next(one for one in onnx.load(original).graph.initializer if one.name == "b1")
        )
    units = layers(source.quantizers)
    with source.with_ranges(found.values()):
        files = export_onnx(source, units, [], tmp_path, fingerprint="x")
        disabled = disabled_by_variant(source, units, [])
        verify_onnx(source, files, disabled, x, onnx_simulator(source, x))
    graph = onnx.load(files["int8"]).graph
    bias = bias_of(
        files["int8"], next(node for node in graph.node if node.name == "Conv_c1").output[0]
    )
    assert bias.dtype == np.float32
    assert bias == pytest.approx(own + np.float32(found["Conv_c1"].bias), abs=1e-6)


SHARED = """
    wq = QuantizeLinear (w, ws, wz)  wd = DequantizeLinear (wq, ws, wz)
    xq = QuantizeLinear (x, xs, xz)  xd = DequantizeLinear (xq, xs, xz)
    first = Gemm (xd, wd, b)
    hq = QuantizeLinear (first, xs, xz)  hd = DequantizeLinear (hq, xs, xz)
    y = Gemm (hd, wd, b)
"""


def test_operations_that_share_weight_and_bias_get_a_bias_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    constants = {
        "w": rng.normal(size=(4, 4)).astype(np.float32),
        "b": np.float32([1, 2, 3, 4]),
        "ws": np.float32(0.6),
        "wz": np.int8(0),
        "xs": np.float32(0.1),
        "xz": np.int8(0),
    }
    file = qdq_file(tmp_path / "shared.onnx", SHARED, constants)
    source = OnnxQdqModel(OnnxModel(file))
    x = rng.normal(size=(64, 4)).astype(np.float32) + 1

    def rounded(values: np.ndarray, scale: float) -> np.ndarray:
        return np.clip(np.rint(values / np.float32(scale)), -128, 127) * np.float32(scale)

    w, b, coarse = constants["w"], constants["b"], rounded(constants["w"], 0.6)
    wanted = x @ w + b
    lacks_first = (wanted - (rounded(x, 0.1) @ coarse + b)).mean(0)
    first = rounded(x, 0.1) @ coarse + b + lacks_first
    lacks_last = (wanted @ w + b - (rounded(first, 0.1) @ coarse + b)).mean(0)
    found = {layer_of(source, one): one for one in bias_corrections(source, x)}
    assert found["Gemm_first"].bias == pytest.approx(lacks_first, abs=1e-4)
    assert found["Gemm_y"].bias == pytest.approx(lacks_last, abs=1e-4)
    with source.with_ranges(found.values()):
        file = export_onnx(source, layers(source.quantizers), [], tmp_path, fingerprint="x")["int8"]
    assert bias_of(file, "first") == pytest.approx(b + lacks_first, abs=1e-4)
    assert bias_of(file, "y") == pytest.approx(b + lacks_last, abs=1e-4)
    result = rounded(rounded(x, 0.1) @ coarse + b + lacks_first, 0.1) @ coarse + b + lacks_last
    assert np.abs(run_file(file, x) - result).max() < 0.25  # one step turned over
    assert run_file(file, x).mean(0) == pytest.approx((wanted @ w + b).mean(0), abs=1e-2)


def test_what_adds_no_constant_of_its_own_is_left_as_it_is(tmp_path: Path) -> None:
    body = """
        wq = QuantizeLinear (w, ws, z)  wd = DequantizeLinear (wq, ws, z)
        xq = QuantizeLinear (x, ws, z)  xd = DequantizeLinear (xq, ws, z)
        m = MatMul (xd, wd)
        n = Relu (m)
        g = Gemm <beta = 0.5> (n, wd, b)
        t = Gemm (g, wd, n)
        p = MatMul (t, wd)
        y = Add (p, t)
    """
    constants = {
        "w": np.eye(4, dtype=np.float32),
        "b": np.ones(4, np.float32),
        "ws": np.float32(0.3),
        "z": np.int8(0),
    }
    source = OnnxQdqModel(OnnxModel(qdq_file(tmp_path / "left.onnx", body, constants)))
    assert source.model.bias_places == {}
    assert bias_corrections(source, np.ones((4, 4), np.float32)) == ()


def test_calibration_inputs_as_numpy_arrays_are_joined_too() -> None:
    parts = [{"x": np.full((2, 3), number), "y": np.zeros((2,))} for number in range(3)]
    whole = calibration_parts(parts).joined()
    assert whole["x"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert whole["y"].shape == (6,)


# A run.
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files_of_coarse(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The float and INT8 file of a classifier that is sure of its answers. Three weights are on
    grids so coarse that channels give too much or too little on average."""
    folder, net = tmp_path_factory.mktemp("coarse"), balanced()
    x = images(400, seed=21)
    with torch.no_grad():
        sure = 5 / net(x).std()
        net.fc.weight *= sure
        net.fc.bias *= sure
        y = net(x).argmax(1)
    np.savez(folder / "data.npz", x=x.numpy(), y=y.numpy())
    calibrated = quantized(net, images(8, seed=9))
    for name in COARSE:
        calibrated.get_submodule(name).weight_quantizer.amax *= 24
    torch_source = ModelOptModel(calibrated)
    units = layers(torch_source.quantizers)
    files = export_files(torch_source, x[:8], units, [], folder, fingerprint="x")
    return files["float"], files["int8"]


@pytest.fixture(scope="module")
def done(files_of_coarse: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose plan leaves a layer out and corrects the biases of others."""
    (original, int8), run = files_of_coarse, tmp_path_factory.mktemp("repaired") / "run"
    before = original.read_bytes(), int8.read_bytes()
    words = ("--data", original.parent / "data.npz", "--float-model", original)
    timing = ("--rounds", "1", "--threads", "1")
    assert verb("run", int8, *words, "--max-drop", "15pt", "--out", run, *timing) in (0, 2)
    assert (original.read_bytes(), int8.read_bytes()) == before
    return run


def planned(run: Path) -> Plan:
    return RunDir(run).read("plan.json", Plan)


def test_a_run_keeps_corrected_biases_where_they_help_beside_a_layer_that_is_left_out(
    done: Path,
) -> None:
    plan = planned(done)
    corrected = {one.quantizer.split(".")[0] for one in plan.ranges if one.bias is not None}
    assert plan.skip
    assert {"conv1", "conv5", "conv6"} <= corrected
    assert not corrected & set(plan.skip)
    assert plan.metric.recalibrated is not None
    assert plan.metric.recalibrated.value > plan.metric.quantized.value + 0.3
    assert "bias" in (done / "report.html").read_text()


def test_the_partial_file_of_a_run_computes_what_was_measured_and_float_what_it_did(
    done: Path, files_of_coarse: tuple[Path, Path]
) -> None:
    plan, x = planned(done), images(64, seed=77).numpy()
    source = opened(files_of_coarse)
    with source.with_ranges(plan.ranges):
        ((_, measured),) = OnnxReplay(source).outputs(x, [frozenset(plan.quantizers)])
    partial = run_file(done / "model.partial.onnx", x)
    assert np.abs(partial - measured).max() <= 1e-4 * np.abs(measured).max()
    assert np.abs(partial - run_file(files_of_coarse[1], x)).max() > 0.1 * np.abs(measured).max()
    wanted = run_file(files_of_coarse[0], x)
    assert run_file(done / "model.float.onnx", x) == pytest.approx(wanted, abs=1e-4)


def test_another_target_is_planned_with_the_biases_that_were_found(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object, **named: object) -> None:
        raise AssertionError("it was computed again")

    again = tmp_path / "again"
    shutil.copytree(done, again)
    monkeypatch.setattr("sensitivity.steps.recalibrate.bias_corrections", refused)
    assert verb("plan", again, "--max-drop", "30pt", "--search") in (0, 2)
    known = {one.quantizer: one.bias for one in planned(done).ranges}
    found = {one.quantizer: one.bias for one in planned(again).ranges}
    assert any(found.values())
    assert {name: found[name] for name in found.keys() & known.keys()} == {
        name: known[name] for name in found.keys() & known.keys()
    }


def test_a_plan_that_was_interrupted_while_its_repair_was_judged_goes_on_to_the_same(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "interrupted"
    shutil.copytree(done, out)
    for name in ("plan.json", "recalibration.json"):
        (out / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr("sensitivity.steps.recalibrate.repaired", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.plan(PlanSettings(directory=out, max_drop="15pt", search=True))
    assert not (out / "plan.json").exists()
    assert verb("plan", out, "--max-drop", "15pt", "--search") in (0, 2)
    assert (planned(out).skip, planned(out).ranges) == (planned(done).skip, planned(done).ranges)
