"""Other ranges for Q/DQ files: found from calibration samples and float weights, set and restored,
replayed, exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.commands import verb
from support.onnx_models import images, qdq_file, run_file, static_file
from support.onnx_quantizers import inputs, quantizers
from support.random_graphs import RandomGraph

from sensitivity.errors import ModelError, NamesError
from sensitivity.exporters.onnx_file import export_onnx, verify_onnx
from sensitivity.exporters.torch_model import disabled_by_variant
from sensitivity.quantizers.alternatives import Alternatives
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.histogram import HALF, Histogram
from sensitivity.quantizers.onnx.batches import difference
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import NO_FLOAT_WEIGHTS, OnnxQdqModel
from sensitivity.records import Range, Recalibrated
from sensitivity.search.ranges import places_of
from sensitivity.simulators.onnx.replay import OnnxReplay
from sensitivity.simulators.onnx.whole import WholeFile, onnx_simulator
from sensitivity.units.placement import residual_quantizers

NET = """
<ir_version: 8, opset_import: ["" : {opset}]>
net (float[batch, 3, 12, 12] x) => (float[batch, 4] y)
{{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    s1 = Sigmoid (c1)
    m1 = Mul (c1, s1)
    p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (m1)
    c2 = Conv <pads = [1, 1, 1, 1]> (p1, w2, b2)
    r2 = Relu (c2)
    g2 = GlobalAveragePool (r2)
    f2 = Flatten (g2)
    y = Gemm <transB = 1> (f2, w3, b3)
}}
"""
SHAPES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (6, 8, 3, 3), "b2": (6,), "w3": (4, 6), "b3": (4,)}
HUGE = 2000.0
"""Factors of the weights of w1: one channel is so large that one scale rounds all others to 0. Its
output is scaled down in w2."""


def float_net(path: Path, opset: int = 17, huge: float = HUGE) -> Path:
    model = onnx.parser.parse_model(NET.format(opset=opset))
    rng = np.random.default_rng(1)
    for name, shape in SHAPES.items():
        values = rng.normal(size=shape).astype(np.float32) * (0.1 if len(shape) == 1 else 0.4)
        if name == "w1":
            values[0] *= huge
            values[0] -= values[0].mean(axis=(1, 2), keepdims=True)  # colours alone give nothing
        if name == "w2":
            values[:, 0] = 0
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    onnx.save(model, path)
    return path


@pytest.fixture(params=[17, 11], ids=["opset 17", "opset 11"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    source = float_net(tmp_path / "net.onnx", request.param)
    return source, static_file(source, tmp_path / "net.qdq.onnx")


def opened(files: tuple[Path, Path], *, with_float: bool = True) -> OnnxQdqModel:
    return OnnxQdqModel(OnnxModel(files[1], float_path=files[0] if with_float else None))


def found(source: OnnxQdqModel, samples: int = 16) -> tuple[Range, ...]:
    def forward() -> None:
        source.model.run(None, {"x": images(samples, seed=7)})

    return source.other_ranges([quantizer.name for quantizer in source.quantizers], forward)


def of_layer(source: OnnxQdqModel, layer: str, role: str) -> str:
    return next(one.name for one in source.quantizers if one.layer == layer and one.role == role)


def outputs(simulator: Any, variant: frozenset[str], x: np.ndarray) -> np.ndarray:
    ((_, found),) = simulator.outputs(x, [variant])
    return np.array(found)


# What is found.
# --------------------------------------------------------------------------------------------------


def test_a_weight_with_one_scale_gets_the_largest_weight_of_each_output_channel(
    files: tuple[Path, Path],
) -> None:
    source = opened(files)
    weight = numpy_helper.to_array(
        next(one for one in onnx.load(files[0]).graph.initializer if one.name == "w1")
    )
    (one,) = [
        each for each in found(source) if each.quantizer == of_layer(source, "Conv_c1", "weight")
    ]
    assert (one.method, one.axis, one.low) == ("per channel", 0, None)
    assert np.array_equal(np.float32(one.amax), np.abs(weight).max(axis=(1, 2, 3)))


def test_biases_have_no_other_range(files: tuple[Path, Path]) -> None:
    source = opened(files)
    biases = set(source.model.biases.values())
    assert biases
    assert not biases & {one.quantizer for one in found(source)}
    with pytest.raises(
        ModelError, match=r"^Expected .* to have a range that can be changed, got a grid of INT32"
    ):
        source.range(next(iter(biases)))


def test_an_asymmetric_activation_gets_both_ends_from_what_reaches_it_in_float(
    files: tuple[Path, Path],
) -> None:
    source, x = opened(files), images(16, seed=7)
    name = of_layer(source, "Conv_c1", "input")
    ranges = {one.method: one for one in found(source) if one.quantizer == name}
    assert set(ranges) == {"percentile 99.9", "percentile 99.99", "entropy", "mse"}
    for share, one in ((99.9, ranges["percentile 99.9"]), (99.99, ranges["percentile 99.99"])):
        out, width = (1 - share / 100) / 2 * x.size, 2.01 * float(np.abs(x).max()) / HALF
        assert one.low is not None
        assert (x < one.low).sum() <= out < (x <= one.low + width).sum()
        assert (x > one.amax[0]).sum() <= out < (x >= one.amax[0] - width).sum()


def test_a_pair_that_stands_for_a_relu_keeps_its_end_at_0(files: tuple[Path, Path]) -> None:
    source = opened(files)
    name = of_layer(source, "GlobalAveragePool_g2", "input")
    own = source.grid(name)
    assert own.zero_point == own.low
    for one in [each for each in found(source) if each.quantizer == name]:
        assert one.low == 0
        with source.with_ranges([one]):
            assert source.grid(name).zero_point == own.low
            assert source.grid(name).scale[0] == pytest.approx(one.amax[0] / 255)


def test_uses_of_one_pair_and_pairs_around_a_pool_share_a_range(files: tuple[Path, Path]) -> None:
    source = opened(files)
    layer_of = {one.name: one.layer for one in source.quantizers}
    groups = [{layer_of[name] for name in group} for group in source.sharing()]
    assert {"Sigmoid_s1", "Mul_m1"} in groups
    if source.model.graph.opset_imports[""] > 11:  # before, the quantizer leaves pools out
        assert {"MaxPool_p1", "Conv_c2"} in groups


def test_inputs_of_a_concat_with_unequal_pairs_keep_ranges_of_their_own(tmp_path: Path) -> None:
    body = """
        qa = QuantizeLinear (x, s1, z)  da = DequantizeLinear (qa, s1, z)
        qb = QuantizeLinear (x, s2, z)  db = DequantizeLinear (qb, s2, z)
        y = Concat <axis = 1> (da, db)
    """
    constants = {"s1": np.float32(0.1), "s2": np.float32(0.2), "z": np.uint8(128)}
    path = qdq_file(
        tmp_path / "c.onnx", body, constants, ports="(float[batch, 4] x) => (float[batch, 8] y)"
    )
    assert OnnxQdqModel(OnnxModel(path)).sharing() == ()
    constants["s2"] = np.float32(0.1)
    path = qdq_file(
        tmp_path / "c.onnx", body, constants, ports="(float[batch, 4] x) => (float[batch, 8] y)"
    )
    assert [len(group) for group in OnnxQdqModel(OnnxModel(path)).sharing()] == [2]


def test_without_the_float_file_weights_keep_their_scale_and_it_is_said_what_to_do(
    files: tuple[Path, Path],
) -> None:
    source = opened(files, with_float=False)
    methods = {one.method for one in found(source)}
    assert "per channel" not in methods
    assert "mse" in methods
    assert source.missing() == NO_FLOAT_WEIGHTS
    assert "--float-model" in NO_FLOAT_WEIGHTS
    assert opened(files).missing() is None


def test_half_of_the_levels_stays_out_where_a_tool_left_it_out(tmp_path: Path) -> None:
    source = float_net(tmp_path / "net.onnx")
    files = (source, static_file(source, tmp_path / "net.qdq.onnx", reduce_range=True))
    adapter = opened(files)
    name = of_layer(adapter, "Conv_c2", "weight")
    (one,) = [each for each in found(adapter) if each.quantizer == name]
    with adapter.with_ranges([one]):
        stored = adapter.model.grids[name].constant
    assert stored is not None
    assert np.abs(stored.astype(int)).max() in (63, 64)


# Set and taken back.
# --------------------------------------------------------------------------------------------------


def test_ranges_are_in_force_inside_the_with_only_also_after_an_exception(
    files: tuple[Path, Path],
) -> None:
    source, x = opened(files), images(4, seed=3)
    ranges = [one for one in found(source) if one.method in ("per channel", "mse")]
    before = {one.quantizer: source.range(one.quantizer) for one in ranges}
    fingerprint, own = source.fingerprint(), source.model.run(None, {"x": x})[0]
    inside = []

    def work() -> None:
        with source.with_ranges(ranges):
            inside.extend(
                [
                    source.range(ranges[0].quantizer),
                    source.fingerprint(),
                    source.model.run(None, {"x": x})[0],
                ]
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert inside[0] == ranges[0]
    assert inside[1] != fingerprint
    assert np.abs(inside[2] - own).max() > 0
    assert {name: source.range(name) for name in before} == before
    assert source.fingerprint() == fingerprint
    assert np.array_equal(source.model.run(None, {"x": x})[0], own)


def test_a_name_that_is_no_quantizers_is_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(NamesError), opened(files).with_ranges([Range("nothing", "mse", (1.0,))]):
        raise AssertionError("it was accepted")


def test_the_own_ranges_set_again_change_no_bit(files: tuple[Path, Path]) -> None:
    source = opened(files)
    names = [
        one.name
        for one in source.quantizers
        if one.name not in source.model.biases.values() and one.role != "weight"
    ]
    with source.with_ranges([source.range(name) for name in names]):
        for name in names:
            assert source.grid(name).zero_point == opened(files).grid(name).zero_point
            assert source.grid(name).scale[0] == pytest.approx(
                opened(files).grid(name).scale[0], rel=1e-6
            )


def test_replay_gives_any_mix_of_ranges_as_the_edited_file_does(files: tuple[Path, Path]) -> None:
    own, x = opened(files), images(6, seed=3)
    source = Alternatives(own, found(own))
    names = [one.name for one in source.quantizers]
    rng = np.random.default_rng(0)
    variants = [
        frozenset(rng.choice(names, size=rng.integers(1, len(names)), replace=False))
        for _ in range(12)
    ]
    whole = dict(WholeFile(source).outputs(x, variants))
    replay = OnnxReplay(source, None)
    with own.model.in_one_thread():
        for index, values in replay.outputs(x, variants):
            assert np.abs(values - whole[index]).max() <= 1e-5 * np.abs(whole[index]).max()
    assert isinstance(onnx_simulator(source, x), OnnxReplay)


def test_replay_of_a_file_with_ranges_in_force_is_the_edited_file(files: tuple[Path, Path]) -> None:
    source, x = opened(files), images(6, seed=3)
    with source.with_ranges(
        [one for one in found(source) if one.method in ("per channel", "percentile 99.9")]
    ):
        for variant in (frozenset[str](), frozenset([of_layer(source, "Conv_c2", "input")])):
            whole, ours = (
                outputs(one, variant, x) for one in (WholeFile(source), OnnxReplay(source, None))
            )
            assert np.abs(ours - whole).max() <= 1e-5 * np.abs(whole).max()


def test_one_scale_per_channel_brings_a_layer_back_whose_weights_were_rounded_to_0(
    files: tuple[Path, Path],
) -> None:
    source, x = opened(files), images(16, seed=9)
    weights = {one.name for one in source.quantizers if one.role == "weight"}
    activations = frozenset(one.name for one in source.quantizers) - weights
    per_channel = [one for one in found(source) if one.method == "per channel"]
    wanted = run_file(files[0], x)
    own = np.abs(outputs(WholeFile(source), activations, x) - wanted).max()
    with source.with_ranges(per_channel):
        new = np.abs(outputs(WholeFile(source), activations, x) - wanted).max()
    assert new < 0.1 * own


@pytest.mark.parametrize("how", sorted(set(quantizers()) - {"modelopt"}))
@pytest.mark.parametrize("seed", range(2))
def test_random_networks_are_replayed_and_exported_with_other_ranges(
    tmp_path: Path, how: str, seed: int
) -> None:
    original = RandomGraph(seed, (13, 17)[seed % 2]).save(tmp_path / "float.onnx")
    quantizers()[how](original, tmp_path / "int8.onnx")
    own = opened((original, tmp_path / "int8.onnx"))
    names = [one.name for one in own.quantizers]
    ranges = own.other_ranges(names, lambda: own.model.run(None, {"x": inputs(5)}) and None)
    source, x, rng = Alternatives(own, ranges), inputs(3), np.random.default_rng(seed)
    switches = [one.name for one in source.quantizers]
    variants = [
        frozenset(rng.choice(switches, rng.integers(1, len(switches)), replace=False))
        for _ in range(4)
    ]
    whole = dict(WholeFile(source).outputs(x, variants))
    with own.model.in_one_thread():
        assert all(
            difference(whole[index], values) <= 1e-4
            for index, values in OnnxReplay(source).outputs(x, variants)
        )
    own_ranges = {
        name: own.range(name) for name in dict.fromkeys([one.quantizer for one in ranges])
    }
    own_ranges |= {name: own.range(name) for group in own.sharing() for name in group}
    places = places_of(own_ranges, own_ranges, ranges, own.sharing())
    units = layers(own.quantizers)
    disabled = disabled_by_variant(own, units, [units[0].name])
    with own.with_ranges([one for place in places for one in place.choices[-1]]):
        files = export_onnx(own, units, [units[0].name], tmp_path, fingerprint="")
        for file in files.values():
            onnx.checker.check_model(str(file), full_check=True)
        verify_onnx(own, files, disabled, x, onnx_simulator(own, x))


# A histogram.
# --------------------------------------------------------------------------------------------------


def test_a_histogram_that_is_widened_counts_every_value_once() -> None:
    rng = np.random.default_rng(0)
    parts = [
        np.zeros(5),
        rng.normal(size=1000),
        30 * rng.normal(size=1000),
        np.array([np.nan, np.inf, 1.0]),
    ]
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    every = np.concatenate(parts)
    every = np.float32(every[np.isfinite(every)])
    assert histogram.total == len(every) == histogram._counts.sum()
    expected, _ = np.histogram(every, histogram._edges)
    # values on an edge
    assert np.abs(np.cumsum(histogram._counts) - np.cumsum(expected)).max() <= 2


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_mse_finds_no_worse_range_than_all_that_are_tried_on_the_values_themselves(
    symmetric: bool,
) -> None:
    values = np.concatenate([np.random.default_rng(0).uniform(-1, 3, 100_000), [40.0]])
    histogram = Histogram()
    histogram.add(values)

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        zero = np.rint(-low / step)
        return float(
            np.sum(((np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step - values) ** 2)
        )

    low, high = histogram.ranges(255, symmetric=symmetric)["mse"]
    ends = np.linspace(0.5, 40, 80)
    best = min(error(-end if symmetric else -1.0, end) for end in ends)
    assert error(low, high) <= 1.1 * best
    assert high < 39


def test_entropy_leaves_out_an_outlier() -> None:
    histogram = Histogram()
    histogram.add(np.concatenate([np.random.default_rng(0).normal(size=100_000), [60.0]]))
    low, high = histogram.ranges(255, symmetric=False)["entropy"]
    assert 2 < high < 8
    assert -8 < low < -2


def test_a_tensor_of_zeros_has_no_range() -> None:
    histogram = Histogram()
    histogram.add(np.zeros(10))
    assert histogram.ranges(255, symmetric=False) == {}


# A run.
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a file that one scale for each weight has made useless."""
    folder = tmp_path_factory.mktemp("ranges")
    source = float_net(folder / "net.onnx", opset=11)
    made = static_file(source, folder / "net.qdq.onnx")
    x = images(240, seed=5)
    np.savez(folder / "data.npz", x=x, y=run_file(source, x).argmax(1))
    arguments = (
        "--data",
        folder / "data.npz",
        "--float-model",
        source,
        "--max-drop",
        "5pt",
        "--out",
        folder / "run",
    )
    before = made.read_bytes(), source.read_bytes()
    assert verb("run", made, *arguments, "--rounds", "2", "--threads", "1") == 0
    assert (made.read_bytes(), source.read_bytes()) == before
    return folder / "run"


def test_a_layer_with_one_huge_channel_stays_in_int8_with_a_scale_per_channel(done: Path) -> None:
    plan = json.loads((done / "plan.json").read_text())
    methods = {one["unit"]: one["method"] for one in plan["recalibrated"]}
    assert "per channel" in methods["Conv_c1"]
    assert "Conv_c1" not in plan["skip"]
    metric = plan["metric"]
    assert metric["recalibrated"]["value"] > metric["quantized"]["value"] + 0.2
    assert not [note for note in plan["notes"] if "Recalibration was left out" in note]


def test_the_exported_file_has_the_new_scales_and_computes_what_was_measured(done: Path) -> None:
    plan = json.loads((done / "plan.json").read_text())
    model = onnx.load(done / "model.partial.onnx")
    assert model.opset_import[0].version == 13
    onnx.checker.check_model(model, full_check=True)
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    (dequantize,) = [
        node
        for node in model.graph.node
        if node.name.startswith("w1") and node.op_type == "DequantizeLinear"
    ]
    stored, scale = constants[dequantize.input[0]], constants[dequantize.input[1]]
    assert (stored.dtype, scale.shape) == (np.int8, (8,))
    weight = numpy_helper.to_array(
        next(
            one for one in onnx.load(done.parent / "net.onnx").graph.initializer if one.name == "w1"
        )
    )
    step = scale.reshape(-1, 1, 1, 1)  # the rounding is learned: to one of the two nearest levels
    assert (np.abs(stored * step - weight) <= step * 1.001).all()
    x = images(64, seed=77)
    source = opened((done.parent / "net.onnx", done.parent / "net.qdq.onnx"))
    units = msgspec.convert(plan["recalibrated"], list[Recalibrated])
    ranges = [each for unit in units for each in unit.ranges]
    with source.with_ranges(ranges):
        measured = outputs(OnnxReplay(source, None), frozenset(plan["quantizers"]), x)
    assert (
        np.abs(run_file(done / "model.partial.onnx", x) - measured).max()
        <= 1e-4 * np.abs(measured).max()
    )
    assert json.loads((done / "export.json").read_text())["ranges"]


def test_another_target_is_planned_without_calibrating_again(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("calibrated again")

    monkeypatch.setattr(OnnxQdqModel, "other_ranges", refuse)
    assert verb("plan", done, "--max-drop", "8pt") == 0
    assert json.loads((done / "plan.json").read_text())["recalibrated"]


def test_residual_quantizers_are_still_refused(files: tuple[Path, Path]) -> None:
    refused = pytest.raises(ModelError, match="quantize the skip connections where it was made")
    with refused, residual_quantizers(opened(files), [images(2, seed=1)]):
        raise AssertionError("it was accepted")
