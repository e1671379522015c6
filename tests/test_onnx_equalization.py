"""Ranges per channel for inputs of depthwise convolutions in Q/DQ files: where they are allowed,
what they are, how files hold them, and a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import QuantType
from support.commands import verb
from support.models import quantized
from support.onnx_models import qdq_file, run_file, static_file
from tasks.tiny import images
from tasks.uneven import net
from torch import nn

from sensitivity.exporters.onnx_file import export_onnx, verify_onnx
from sensitivity.exporters.torch_model import disabled_by_variant, export_files
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.fold_channel_scales import FoldChannelScales
from sensitivity.onnx_graph.uses import stored_type
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import Plan, Range
from sensitivity.repairs.equalization import equalized_ranges
from sensitivity.repairs.onnx_equalization import even_links
from sensitivity.repairs.rounding import learned_roundings
from sensitivity.repairs.samples import Parts
from sensitivity.run_dir import RunDir
from sensitivity.search.wide import wide_ranges
from sensitivity.simulators.onnx.whole import onnx_simulator

BODY = """
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    leaky = LeakyRelu <alpha = 0.1> (c1)
    c2 = Conv <pads = [1, 0, 0, 1], strides = [2, 1], group = 8> (leaky, w2, b2)
    rectified = Relu (c2)
    plain = Conv <group = 8, pads = [2, 2, 2, 2], dilations = [2, 2]> (rectified, w3)
    limited = Conv <group = 8> (plain, w4)
    six = Clip (limited, zero, most)
    c5 = Conv <group = 8> (six, w5)
    smooth = Sigmoid (c5)
    c6 = Conv <group = 8, pads = [1, 1, 1, 1]> (smooth, w5)
    wide = Conv <group = 4, pads = [1, 1, 1, 1]> (c6, w6)
    summed = Add (wide, c6)
    g = GlobalAveragePool (summed)
    f = Flatten (g)
    y = Gemm <transB = 1> (f, w7)
"""
SHAPES = {
    "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 2), "b2": (8,), "w3": (8, 1, 3, 3),
    "w4": (8, 1, 3, 3), "w5": (8, 1, 3, 3), "w6": (8, 2, 3, 3), "w7": (5, 8),
}  # fmt: skip
PORTS = "(float[batch, 3, 12, 12] x) => (float[batch, 5] y)"
LINKS = ["leaky", "plain", "rectified"]
SIZES = (4.0 ** np.arange(-4, 4)).astype(np.float32)
"""The channels in front of the first depthwise convolution are as different."""

WEIGHTED = ["Conv", "Gemm"]
FORMS: dict[str, dict[str, Any]] = {
    "float weights, no biases": {
        "op_types_to_quantize": WEIGHTED,
        "activation_type": QuantType.QInt8,
        "per_channel": True,
        "extra_options": {
            "ActivationSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": WEIGHTED,
        },
    },
    "integer weights and biases": {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
    },
    "one zero point for all weights": {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QUInt8,
    },
}


def colours(samples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    constants = {name: 0.4 * rng.normal(size=shape) for name, shape in SHAPES.items()}
    constants["w1"] *= SIZES[:, None, None, None]
    constants["b1"] *= SIZES
    constants["w2"] /= SIZES[:, None, None, None]
    constants |= {"zero": np.array(0.0), "most": np.array(6.0)}
    stored = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    folder = tmp_path_factory.mktemp("uneven")
    return qdq_file(folder / "net.onnx", BODY, stored, opset=17, ports=PORTS)


def opened(original: Path, folder: Path, form: str) -> OnnxQdqModel:
    model = onnx.load(original)
    del model.opset_import[1:]
    onnx.save(model, folder / "float.onnx")
    made = static_file(folder / "float.onnx", folder / "made.onnx", **FORMS[form])
    return OnnxQdqModel(OnnxModel(made, float_path=folder / "float.onnx"))


@pytest.fixture
def source(original: Path, tmp_path: Path) -> OnnxQdqModel:
    return opened(original, tmp_path, "float weights, no biases")


def float_values(original: Path, name: str, x: np.ndarray) -> np.ndarray:
    """The values of a tensor of the float file, computed by ONNX Runtime alone."""
    model = onnx.load(original)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    file = original.with_name(f"{name}.onnx")
    onnx.save(model, file)
    return run_file(file, x)


def test_links_are_where_a_depthwise_convolution_alone_reads_another_ones_homogeneous_output(
    source: OnnxQdqModel,
) -> None:
    assert sorted(even_links(source)) == LINKS


def test_a_pair_that_stands_for_an_activation_is_a_link_too(original: Path, tmp_path: Path) -> None:
    source = opened(original, tmp_path, "integer weights and biases")
    assert "Relu" not in {node.op_type for node in source.model.graph.graph}
    assert "rectified" in even_links(source)


@pytest.mark.parametrize(
    ("name", "settings", "behind"),
    [
        ("leaky", {"padding": (1, 0, 0, 1), "stride": (2, 1), "weight": "w2"}, torch.relu),
        ("plain", {"padding": (0, 0, 0, 0), "weight": "w4"}, nn.ReLU6()),
        ("rectified", {"padding": (2, 2, 2, 2), "dilation": (2, 2), "weight": "w3"}, nn.Identity()),
    ],
)
def test_channels_get_the_powers_of_two_of_one_base_that_are_off_by_least_by_their_slopes(
    original: Path,
    source: OnnxQdqModel,
    name: str,
    settings: dict[str, Any],
    behind: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = colours(6, seed=3)
    (found,) = equalized_ranges(source, [name], Parts([{"x": x[:4]}, {"x": x[4:]}]))
    values = torch.from_numpy(float_values(original, name, x))
    constants = {one.name: one for one in onnx.load(original).graph.initializer}
    weight = torch.tensor(numpy_helper.to_array(constants[settings.pop("weight")]))
    bias = torch.tensor(numpy_helper.to_array(constants["b2"])) if name == "leaky" else None
    slopes = squared_slopes(values, weight, bias, behind, **settings).double()
    slopes += 0.01 * weight.double().square().sum((1, 2, 3))[:, None, None]

    def off_by(channel: int, amax: float) -> float:
        step, row = amax / 127, values[:, channel].double()
        rounded = (row / step).round().clip(-128, 127) * step
        return float((slopes[:, channel] * (rounded - row).square()).mean())

    def least(channel: int, base: float) -> float:
        """The base times the power of two that is off by least."""
        return min((base * 2.0**k for k in range(-16, 9)), key=partial(off_by, channel))

    assert (found.method, found.axis) == ("equalized", 1)
    peaks = values.abs().amax((0, 2, 3)).numpy()
    shown = np.flatnonzero(peaks > 1e-3 * peaks.max())
    bases = (2 ** (np.arange(8) / 8)).tolist()
    offs = [sum(off_by(each, least(each, base)) for each in shown) for base in bases]
    off = sum(off_by(each, found.amax[each]) for each in shown)
    assert off == pytest.approx(min(offs), rel=2e-2)
    assert off < 0.95 * max(offs)
    assert all(exponents(found.amax) == np.rint(exponents(found.amax)))


def exponents(amax: Sequence[float]) -> np.ndarray:
    """Of two, by which the ranges of a tensor differ from the largest."""
    return np.log2(np.max(amax) / np.array(amax))


def squared_slopes(
    values: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    behind: Callable[[torch.Tensor], torch.Tensor],
    padding: Sequence[int],
    stride: Sequence[int] = (1, 1),
    dilation: Sequence[int] = (1, 1),
) -> torch.Tensor:
    """For each value, the sum of the squared slopes of all outputs, one gradient per output.

    behind: activation behind the convolution.
    """
    found = torch.zeros_like(values)
    for number, value in enumerate(values):
        leaf = value[None].requires_grad_()
        top, left, bottom, right = padding
        padded = nn.functional.pad(leaf, (left, right, top, bottom))
        outputs = nn.functional.conv2d(
            padded, weight, bias, tuple(stride), 0, tuple(dilation), groups=len(weight)
        )
        # Channels do not meet, so one gradient serves an output of all channels.
        for place in behind(outputs).sum((0, 1)).flatten():
            (slope,) = torch.autograd.grad(place, leaf, retain_graph=True)
            found[number] += slope[0].square()
    return found


def test_sequences_are_equalized_as_images_are(tmp_path: Path) -> None:
    body = """
        c1 = Conv (x, w1)
        q = QuantizeLinear (c1, s, z)  d = DequantizeLinear (q, s, z)
        y = Conv <group = 4> (d, w2)
    """
    rng = np.random.default_rng(0)
    sizes = np.float32([1, 4, 16, 64])
    constants = {
        "w1": (sizes[:, None, None] * rng.normal(size=(4, 3, 3))).astype(np.float32),
        "w2": rng.normal(size=(4, 1, 3)).astype(np.float32),
        "s": np.float32(1),
        "z": np.int8(0),
    }
    ports = "(float[n, 3, 20] x) => (float[n, 4, t] y)"
    source = OnnxQdqModel(OnnxModel(qdq_file(tmp_path / "net.onnx", body, constants, ports=ports)))
    x = rng.normal(size=(30, 3, 20)).astype(np.float32)
    (found,) = equalized_ranges(source, even_links(source), {"x": x})
    values = sum(
        np.einsum("oi,nit->not", constants["w1"][:, :, tap], x[:, :, tap : tap + 18])
        for tap in range(3)
    )
    parts = np.array(found.amax) / np.abs(values).max((0, 2))
    assert (parts > 0.5).all()
    assert (parts < 2).all()
    assert all(exponents(found.amax) == np.rint(exponents(found.amax)))


def test_with_these_ranges_the_small_channels_are_off_by_less(source: OnnxQdqModel) -> None:
    x = colours(8, seed=5)
    every = frozenset(each.name for each in source.quantizers)
    kept = every - {"leaky"}
    found = equalized_ranges(source, ["leaky"], {"x": x})

    def outputs(off: frozenset[str], ranges: Sequence[Range] = ()) -> np.ndarray:
        with source.with_ranges(ranges):
            ((_, values),) = onnx_simulator(source, {"x": x}).outputs({"x": x}, [off])
        return np.asarray(values)

    wanted = outputs(every)
    own, even = (np.abs(outputs(kept, ranges) - wanted).mean() for ranges in ((), found))
    assert even < own / 4


@pytest.mark.parametrize(
    ("left_out", "rounded"), [([], False), (["Conv_c1"], True), (["Conv_c2"], False)], ids=str
)
@pytest.mark.parametrize("form", FORMS)
def test_files_have_one_scale_per_tensor_and_compute_what_was_simulated(
    original: Path, tmp_path: Path, form: str, left_out: list[str], rounded: bool
) -> None:
    source, inputs = opened(original, tmp_path, form), {"x": colours(8, seed=5)}
    found = equalized_ranges(source, even_links(source), inputs)
    assert {one.quantizer for one in found if one.axis == 1} == set(even_links(source))
    if rounded:
        found = (*found, *learned_roundings(source, inputs, ranges=found))
    units, plain = layers(source.quantizers), tmp_path / "plain"
    plain.mkdir()
    unchanged = export_onnx(source, units, left_out, plain, fingerprint="x")
    with source.with_ranges(found):
        files = export_onnx(source, units, left_out, tmp_path, fingerprint="x")
        disabled = disabled_by_variant(source, units, left_out)
        simulator = onnx_simulator(source, inputs)
        verify_onnx(source, files, disabled, inputs, simulator)
        for name, file in files.items():
            ((_, simulated),) = simulator.outputs(inputs, [disabled[name]])
            assert np.array_equal(run_file(file, inputs["x"]), simulated)
    for file in files.values():
        onnx.checker.check_model(onnx.load(file), full_check=True)
    graph = load_model(files["partial"]).graph
    assert all(pair.of_weight or pair.axis is None for pair in qdq.pairs(graph))
    assert unread(files["partial"]) <= unread(unchanged["partial"])
    assert files["float"].read_bytes() == unchanged["float"].read_bytes()
    if not rounded:
        assert levels(unchanged["int8"]) == levels(files["int8"])


def test_layers_with_16_bits_between_equalized_ones_compute_exactly_what_was_simulated(
    source: OnnxQdqModel, tmp_path: Path
) -> None:
    inputs = {"x": colours(8, seed=5)}
    units = layers(source.quantizers)
    # In float, so that no quantizer hides a difference in the last bit.
    left_out = ["Conv_c5", "Conv_c6", "Conv_wide", "Gemm_y"]
    with source.with_ranges(equalized_ranges(source, even_links(source), inputs)):
        by_unit = wide_ranges(source, units)
        wide = [*by_unit["Conv_c1"], *by_unit["Conv_plain"], *by_unit["Conv_limited"]]
        assert [each.bits for each in wide] == [16, 16, 16]
        files = export_onnx(source, units, left_out, tmp_path, fingerprint="x", formats=wide)
        disabled = disabled_by_variant(source, units, left_out)["partial"]
        with source.with_ranges(wide):
            simulator = onnx_simulator(source, inputs)
            ((_, simulated),) = simulator.outputs(inputs, [disabled])
    assert np.array_equal(run_file(files["partial"], inputs["x"]), simulated)
    pairs = list(qdq.pairs(load_model(files["partial"]).graph))
    assert {stored_type(pair).name for pair in pairs} == {"INT8", "INT16"}
    assert all(pair.of_weight or pair.axis is None for pair in pairs)


@pytest.mark.parametrize(("name", "given"), [("leaky", "c2"), ("plain", "limited")])
def test_folding_ranges_that_are_powers_of_two_apart_changes_no_bit(
    source: OnnxQdqModel, tmp_path: Path, name: str, given: str
) -> None:
    x = colours(8, seed=5)
    (found,) = equalized_ranges(source, [name], {"x": x})
    other = replace(found, amax=tuple(1.1 ** np.arange(8) * found.amax))
    assert changed_by_folding(source, found, given, x, tmp_path) == 0
    assert changed_by_folding(source, other, given, x, tmp_path) > 0


def changed_by_folding(
    source: OnnxQdqModel, found: Range, given: str, x: np.ndarray, folder: Path
) -> float:
    """The largest change by `FoldChannelScales` of a value, before it is quantized."""
    with source.with_ranges([found]):
        made = source.model.without(frozenset())
    values = {value.name: value for node in made.graph for value in node.outputs}
    made.graph.outputs[:] = [values[given]]
    before = run_file(save(made, folder / "before.onnx"), x)
    assert FoldChannelScales()(made).modified
    after = run_file(save(made, folder / "after.onnx"), x)
    return float(np.abs(after - before).max())


def unread(file: Path) -> set[str]:
    graph = load_model(file).graph
    return {name for name, value in graph.initializers.items() if not value.uses()}


def levels(file: Path) -> dict[str, list[float]]:
    """The integers of each weight, by the name of its convolution."""
    found = {}
    for node in load_model(file).graph:
        pair = qdq.pair_of(qdq.weight(node)) if node.op_type == "Conv" else None
        if pair is None:
            continue
        stored, scale = qdq.known(pair.source), np.ravel(qdq.known(pair.dequantize.inputs[1]))
        if not pair.is_compact:
            stored = np.rint(stored / scale[:, None, None, None])
        found[str(node.name)] = stored.ravel().tolist()
    return found


# A run.
# --------------------------------------------------------------------------------------------------


def test_a_run_keeps_a_range_per_channel_and_its_file_computes_what_was_measured(
    tmp_path: Path,
) -> None:
    x, out = images(400, seed=21), tmp_path / "run"
    with torch.no_grad():
        np.savez(tmp_path / "data.npz", x=x.numpy(), y=net()(x).argmax(1).numpy())
    calibrated = ModelOptModel(quantized(net(), images(8, seed=9)))
    units = layers(calibrated.quantizers)
    files = export_files(calibrated, x[:8], units, [], tmp_path, fingerprint="x")
    words = ("--data", tmp_path / "data.npz", "--float-model", files["float"])
    assert verb("scan", files["int8"], *words, "--out", out) == 0
    assert verb("plan", out, "--max-drop", "8pt", "--search") in (0, 2)
    assert verb("export", out) == 0
    plan = RunDir(out).read("plan.json", Plan)
    assert [one.method for one in plan.ranges if one.axis == 1] == ["equalized"]
    assert plan.metric.recalibrated is not None
    assert plan.metric.recalibrated.value > plan.metric.quantized.value + 0.05
    source = OnnxQdqModel(OnnxModel(files["int8"], float_path=files["float"]))
    some = x[:64].numpy()
    with source.with_ranges(plan.ranges):
        ((_, measured),) = onnx_simulator(source, some).outputs(some, [frozenset(plan.quantizers)])
    file = run_file(out / "model.partial.onnx", some)
    assert np.abs(file - measured).max() <= 0.02 * np.abs(measured).max()
