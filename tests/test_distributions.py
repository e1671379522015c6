"""The values that quantizers get, and what their grids make of them: measured, kept, and shown in
the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import models, onnx_models
from support.pt2e_models import quantized_by_pt2e
from support.reporting_samples import complete, near, with_values

from sensitivity.quantizers.base import Watchable
from sensitivity.quantizers.distributions import MOST_VALUES, of_activation, of_weight, thinned
from sensitivity.quantizers.histogram import Histogram
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.quantizers.torch.pt2e import Pt2eModel
from sensitivity.records import Grid, Quantizer, Range, Recalibrated
from sensitivity.reporting.histograms import histograms_by_unit
from sensitivity.reporting.page import render

WEIGHT, INPUT = Quantizer("a.w", "a", "weight", 8, None), Quantizer("a.i", "a", "input", 8, None)


def grid(*scale: float, axis: int | None = None) -> Grid:
    return Grid(np.array(scale, np.float32), 0, -128, 127, axis)


def test_one_wide_channel_takes_all_steps_from_the_others() -> None:
    weight = np.array([[100.0, -50.0], [0.4, 0.4], [0.3, -0.2]])
    found = of_weight(WEIGHT, weight, grid(1.0), 0)
    assert (found.low, found.high, sum(found.counts)) == (-50.0, 100.0, 6)
    assert found.channels == (100.0, 0.4, 0.3)
    assert found.on_grid.clipped == 0.0
    # All of the two small channels is lost, and nothing of the large one.
    assert found.on_grid.median_channel == 1.0
    assert found.on_grid.rounding == pytest.approx(0.45 / 12500.45, rel=1e-3)
    of_each = of_weight(WEIGHT, weight, grid(1.0, 0.01, 0.01, axis=0), 0)
    assert of_each.on_grid.median_channel < 1e-12
    assert of_each.on_grid.step == (0.01, 1.0)


@pytest.mark.parametrize("value", [0.0, -10000.0, -3.4028235e38])
def test_a_constant_of_one_value_has_a_distribution(value: float) -> None:
    """Values such as those that an attention mask adds."""
    found = of_weight(WEIGHT, np.full((3, 2), value), grid(1.0), None)
    assert sum(found.counts) == 6


def test_clipping_begins_half_a_step_behind_the_last_level() -> None:
    found = of_weight(WEIGHT, np.array([127.4, -129.0, 254.0]), grid(1.0), None)
    assert found.on_grid.clipped == pytest.approx(2 / 3, rel=1e-3)
    power = 127.4**2 + 129**2 + 254**2
    assert found.on_grid.rounding == pytest.approx(0.4**2 / power, rel=1e-3)
    assert found.on_grid.clipping == pytest.approx((1 + 127**2) / power, rel=1e-3)
    assert found.on_grid.median_channel is None


def test_activations_in_bins_lose_what_the_values_themselves_lose() -> None:
    values = np.maximum(np.random.default_rng(0).normal(size=100_000), 0)
    histogram = Histogram()
    histogram.add(values)
    found = of_activation(INPUT, histogram, grid(0.02))
    clipped = values > 2.55
    error = (np.clip(np.rint(values / 0.02), -128, 127) * 0.02 - values) ** 2
    assert found.on_grid.clipped == pytest.approx(clipped.mean(), rel=0.02)
    assert found.on_grid.clipping == pytest.approx(
        error[clipped].sum() / (values**2).sum(), rel=0.02
    )
    assert found.on_grid.rounding == pytest.approx(
        error[~clipped].sum() / (values**2).sum(), rel=0.1
    )
    assert of_activation(INPUT, histogram, None).on_grid is None
    assert of_activation(INPUT, Histogram(), grid(1.0)) is None


def test_a_large_tensor_is_thinned_and_keeps_its_ends() -> None:
    values = np.zeros(3 * MOST_VALUES, np.float32)
    values[7], values[-2] = -5, 9
    found = thinned(values.reshape(3, -1))
    assert found.size <= MOST_VALUES + 2
    assert (found.min(), found.max()) == (-5, 9)


def shown_by(source: Watchable, forward: object) -> tuple[set[str], set[str]]:
    """The names of the weights' quantizers, and of those that were shown activations."""
    seen = set()
    with source.watching(lambda name, values: seen.add(name) if values.size else None):
        forward()
    return {name for name, _, _ in source.weights()}, seen


def test_torch_models_show_all_their_quantizers_and_stay_as_they_were() -> None:
    source = ModelOptModel(models.quantized(models.seeded(models.Branches), models.batch()))
    before = source.model(models.batch())["box"]
    weights, seen = shown_by(source, lambda: source.model(models.batch()))
    roles = {role: set() for role in ("weight", "input")}
    for quantizer in source.quantizers:
        roles[quantizer.role].add(quantizer.name)
    assert (weights, seen) == (roles["weight"], roles["input"])
    assert torch.equal(source.model(models.batch())["box"], before)
    axes = {name: axis for name, _, axis in source.weights()}
    assert axes["up.weight_quantizer"] == 1
    assert axes["left.weight_quantizer"] == 0


def test_pt2e_models_show_all_their_quantizers_and_stay_as_they_were() -> None:
    model = quantized_by_pt2e(models.seeded(models.Branches), models.batch())
    source = Pt2eModel(model)
    before = model(models.batch())["box"]
    weights, seen = shown_by(source, lambda: source.model(models.batch()))
    roles: dict[str, set[str]] = {"weight": set(), "input": set(), "output": set()}
    for quantizer in source.quantizers:
        roles[quantizer.role].add(quantizer.name)
    assert weights == roles["weight"] != set()
    assert seen == roles["input"] | roles["output"]
    assert torch.equal(model(models.batch())["box"], before)
    shapes = {name: values.shape for name, values, _ in source.weights()}
    assert shapes["up.weight_quantizer"] == source.model.get_submodule("up").weight.shape


def test_qdq_files_show_weights_and_activations_but_no_biases(tmp_path: Path) -> None:
    file = onnx_models.static_file(
        onnx_models.float_file(tmp_path / "float.onnx"), tmp_path / "model.onnx"
    )
    source = OnnxQdqModel(OnnxModel(file))
    weights, seen = shown_by(source, lambda: source.forward(onnx_models.images(2, 0)))
    assert weights == {"w1", "w2", "w3"}
    assert {"x", "c1>Sigmoid_s1", "a1", "y"} <= seen
    assert not seen & weights


def test_the_report_tells_ranges_losses_and_what_a_repair_changes() -> None:
    data = with_values(complete(12))
    unit = data.units[0]
    old, new = (Range(unit.quantizers[0], how, (amax,)) for how, amax in (("own", 4), ("mse", 2)))
    repaired = Recalibrated(unit.name, "mse", (old,), (new,), near(0.1))
    weights, activations = histograms_by_unit(replace(data, ranges=(repaired,)))[unit.name]
    assert weights.bars == "z004"
    assert weights.channels == (1.0, 0.008)
    assert weights.sentences[-1] == "In the median channel 80 % of its own power is lost."
    assert activations.original == (0.2, 0.6)
    assert activations.repaired == (0.0, 0.4)
    told = " ".join(activations.sentences)
    assert "1 % of the values clip" in told
    assert "After the repair (mse) from \N{MINUS SIGN}2 to 2, in steps of 0.016" in told
    assert "about 10 % clips, about 0.01 % is lost by rounding" in told


def test_an_earlier_run_says_how_its_values_are_found() -> None:
    data = replace(complete(12), resume_command="sensitivity scan task.py --out runs/a --resume")
    assert "No distributions were stored" in render(data)
    assert "No distributions were stored" not in render(with_values(data))
