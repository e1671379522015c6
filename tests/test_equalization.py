"""Ranges per channel for inputs of depthwise convolutions: where they are allowed, what they are,
how they are simulated, and how a file holds them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support import models
from support.commands import verb
from support.onnx_models import run_file
from support.pt2e_models import quantized_by_pt2e
from support.shown import Shown
from tasks.tiny import images
from tasks.uneven import net, task
from torch import nn

from sensitivity import api, results
from sensitivity.config import PlanSettings
from sensitivity.exporters.torch_model import even_links, export_files
from sensitivity.exporters.verify import verify
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.quantizers.alternatives import with_alternatives
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.quantizers.torch.pt2e import Pt2eModel
from sensitivity.repairs import equalization, slopes
from sensitivity.repairs.equalization import equalized_ranges
from sensitivity.repairs.samples import Parts
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.simulators.torch.replay import ReplaySimulator

LINKS = ["leaky.input_quantizer", "plain.input_quantizer", "rectified.input_quantizer"]


class Depthwise(nn.Module):
    """Depthwise convolutions after all kinds of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        for name in ("leaky", "rectified", "plain", "limited", "smooth", "summed"):
            setattr(self, name, nn.Conv2d(8, 8, 3, padding=1, groups=8))
        self.wide = nn.Conv2d(8, 16, 3, padding=1, groups=4)
        self.point = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.leaky_relu(self.norm(self.first(x)), 0.1)
        x = torch.relu(self.leaky(x))
        x = self.plain(self.rectified(x))
        x = nn.functional.relu6(x)
        x = nn.functional.silu(self.limited(x))
        x = self.point(self.smooth(x))
        x = x + self.summed(x)
        return self.fc(torch.relu(self.wide(x)).mean((2, 3)))


def uneven() -> nn.Module:
    """The float model, with channels of other sizes."""
    model = models.seeded(Depthwise).eval()
    with torch.no_grad():
        for each in (model.norm.weight, model.norm.bias):
            each *= 4.0 ** torch.arange(-4, 4)
    return model


@pytest.fixture
def source() -> ModelOptModel:
    return ModelOptModel(models.quantized(uneven(), models.batch(8, 16)))


@pytest.fixture
def graph() -> Pt2eModel:
    """Calibrated on what it is compared on, since its lowest level is -127, and a file's -128."""
    return Pt2eModel(quantized_by_pt2e(uneven(), models.batch(8, 16, seed=5)))


def test_links_are_where_a_depthwise_convolution_alone_reads_another_ones_homogeneous_output(
    source: ModelOptModel,
) -> None:
    assert sorted(even_links(source, models.batch(4, 16))) == LINKS


def test_ranges_from_parts_of_a_batch_are_those_of_the_whole(source: ModelOptModel) -> None:
    inputs = models.batch(8, 16, seed=3)
    shown = Shown()
    parts = Parts([inputs[:5], inputs[5:]], shown)
    assert equalized_ranges(source, LINKS, parts) == equalized_ranges(source, LINKS, inputs)
    assert shown == [[4, 4]], "both parts, twice"


def test_each_channel_gets_the_part_of_its_largest_value_that_is_off_by_least(
    source: ModelOptModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slopes, "_slopes", lambda ends, leaves, first: [None] * len(leaves))
    inputs = models.batch(64, 64, seed=5)
    inputs[:, :, ::16, ::16] *= 3  # few large values, more in some channels than in others
    every = [quantizer.name for quantizer in source.quantizers]
    (found,) = equalized_ranges(source, ["leaky.input_quantizer"], inputs)
    with torch.no_grad(), source.disabled(every):
        x = nn.functional.leaky_relu(source.model.norm(source.model.first(inputs)), 0.1)
    rows = x.double().transpose(0, 1).flatten(1).numpy()

    def off_by(row: np.ndarray, amax: float) -> float:
        step = amax / 127
        return float(np.square(np.clip(np.rint(row / step), -128, 127) * step - row).mean())

    assert (found.method, found.axis) == ("equalized", 1)
    peaks = np.abs(rows).max(1)
    shown = peaks > 1e-3 * peaks.max()
    for row, amax in zip(rows[shown], np.array(found.amax)[shown], strict=True):
        tried = [off_by(row, part * np.abs(row).max()) for part in np.linspace(0.15, 1, 35)]
        assert off_by(row, amax) == pytest.approx(min(tried), rel=2e-2)
    parts = (np.array(found.amax) / peaks)[shown]
    assert parts.max() > parts.min() + 0.05, "channels have tails of their own"


def test_values_whose_errors_do_not_matter_have_no_say(
    source: ModelOptModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, name = models.batch(8, 16, seed=3), "leaky.input_quantizer"
    (own,) = equalized_ranges(source, [name], inputs)
    real = equalization.values_and_weights

    def small_ones(*arguments: Any) -> Any:
        values, _ = real(*arguments)[name]
        peaks = values.abs().amax((0, 2, 3), keepdim=True)
        return {name: (values, (values.abs() < 0.3 * peaks).float())}

    monkeypatch.setattr(equalization, "values_and_weights", small_ones)
    (found,) = equalized_ranges(source, [name], inputs)
    assert np.median(np.array(found.amax) / own.amax) < 0.5


def test_with_these_ranges_the_small_channels_are_off_by_less(source: ModelOptModel) -> None:
    inputs = models.batch(8, 16, seed=5)
    found = equalized_ranges(source, LINKS, inputs)
    every = [each.name for each in source.quantizers]
    others = [name for name in every if name not in LINKS]

    def outputs(off: list[str]) -> torch.Tensor:
        with torch.no_grad(), source.disabled(off):
            return source.model.leaky(
                nn.functional.leaky_relu(source.model.norm(source.model.first(inputs)), 0.1)
            )

    wanted, own = outputs(every), outputs(others)
    with source.with_ranges(found):
        assert source.range("leaky.input_quantizer").axis == 1
        even = outputs(others)
    assert source.range("leaky.input_quantizer").axis is None
    assert torch.equal(outputs(others), own)
    off_by = [(each - wanted)[:, 3].square().mean() for each in (own, even)]
    assert off_by[1] < off_by[0] / 10, "of a channel 64 to 256 times as small as the largest"


def test_replay_computes_any_mix_of_even_ranges_as_the_model_does(source: ModelOptModel) -> None:
    inputs = models.batch(8, 16, seed=5)
    found = equalized_ranges(source, LINKS, inputs)
    offered = with_alternatives(source, found)
    keys = [one.key for one in found]
    variants = [frozenset[str](), frozenset(keys), frozenset(keys[:1])]
    found_outputs = [
        dict(simulator(offered).outputs(inputs, variants))
        for simulator in (ReplaySimulator, ToggleSimulator)
    ]
    for index in range(len(variants)):
        assert torch.equal(found_outputs[0][index], found_outputs[1][index])


@pytest.mark.parametrize("left_out", [[], ["first"], ["leaky"], ["plain", "rectified"]], ids=str)
@pytest.mark.parametrize("kind", ["source", "graph"], ids=["modelopt", "pt2e"])
def test_files_have_one_scale_per_tensor_and_compute_what_was_simulated(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, left_out: list[str]
) -> None:
    source = request.getfixturevalue(kind)
    inputs, units = models.batch(8, 16, seed=5), layers(source.quantizers)
    for folder in ("plain", "even"):
        (tmp_path / folder).mkdir()
    plain = export_files(source, inputs, units, left_out, tmp_path / "plain", fingerprint="x")
    with source.with_ranges(equalized_ranges(source, LINKS, inputs)):
        files = export_files(source, inputs, units, left_out, tmp_path / "even", fingerprint="x")
        verify(source, files, inputs, units, left_out)
        off = [name for unit in units if unit.name in left_out for name in unit.quantizers]
        with torch.no_grad(), source.disabled(off):
            wanted = source.model(inputs).numpy()
    found = run_file(files["partial"], inputs.numpy())
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    assert not np.allclose(found, run_file(plain["partial"], inputs.numpy()), rtol=0, atol=1e-3)
    model = load_model(files["int8"])
    assert all(pair.of_weight or pair.axis is None for pair in qdq.pairs(model.graph))
    assert contents(files["float"]) == contents(plain["float"])


def contents(file: Path) -> dict[str, bytes]:
    return {
        each.name: numpy_helper.to_array(each).tobytes()
        for each in onnx.load(file).graph.initializer
    }


def test_integers_of_the_weights_around_stay_the_same(
    source: ModelOptModel, tmp_path: Path
) -> None:
    inputs, units = models.batch(8, 16, seed=5), layers(source.quantizers)
    for folder in ("plain", "even"):
        (tmp_path / folder).mkdir()
    plain = export_files(source, inputs, units, [], tmp_path / "plain", fingerprint="x")
    with source.with_ranges(equalized_ranges(source, LINKS, inputs)):
        files = export_files(source, inputs, units, [], tmp_path / "even", fingerprint="x")
    one, other = integers(plain["int8"]), integers(files["int8"])
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def integers(file: Path) -> dict[str, Any]:
    found = {}
    for pair in qdq.pairs(load_model(file).graph):
        weight = qdq.constant(pair.source)
        if weight is not None:
            shape = [-1] + [1] * (weight.ndim - 1)
            found[pair.name] = np.rint(weight / pair.scale.reshape(shape))
    return found


def test_a_range_per_channel_that_no_weights_make_up_for_stays(
    source: ModelOptModel, tmp_path: Path
) -> None:
    own = source.range("point.input_quantizer")
    amax = tuple(own.amax[0] / (1 + number) for number in range(8))
    inputs, units = models.batch(8, 16), layers(source.quantizers)
    with source.with_ranges([replace(own, method="even", amax=amax, axis=1)]):
        files = export_files(source, inputs, units, [], tmp_path, fingerprint="x")
    found = [
        pair.name
        for pair in qdq.pairs(load_model(files["int8"]).graph)
        if pair.axis is not None and not pair.of_weight
    ]
    assert found == ["point.input_quantizer/QuantizeLinear"]


# A run.
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uneven") / "run"
    assert verb("scan", Path(__file__).parent / "tasks" / "uneven.py", "--out", out) == 0
    api.plan(PlanSettings(directory=out, max_drop="8pt", search=True))
    assert verb("export", out) == 0
    return out


def test_a_run_keeps_a_range_per_channel_and_its_file_computes_what_the_plan_does(
    done: Path,
) -> None:
    plan, model, x = results.planned(done, None), task().model, images(32, seed=3)
    (even,) = [one for one in plan.record.ranges if one.axis == 1]
    assert even.quantizer == "depthwise.input_quantizer"
    assert even.method == "equalized"
    metric = plan.record.metric
    assert metric.recalibrated is not None
    assert metric.recalibrated.value > metric.quantized.value + 0.05
    with torch.no_grad():
        before = model(x)
        with plan.apply(model):
            inside = model(x).numpy()
        assert torch.equal(model(x), before)
    file = run_file(done / "model.partial.onnx", x.numpy())
    assert np.abs(file - inside).max() < 0.02 * np.abs(inside).max()
    float_file = run_file(done / "model.float.onnx", x.numpy())
    with torch.no_grad():
        assert float_file == pytest.approx(net()(x).numpy(), abs=1e-3)


def test_another_target_is_planned_with_the_range_that_was_found(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object, **named: object) -> None:
        raise AssertionError("it was computed again")

    again = tmp_path / "again"
    shutil.copytree(done, again)
    monkeypatch.setattr("sensitivity.steps.recalibrate.equalized_ranges", refused)
    api.plan(PlanSettings(directory=again, max_drop="7pt", search=True))
    assert "equalized" in (again / "plan.json").read_text()
