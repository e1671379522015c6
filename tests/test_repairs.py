"""Bias correction: its values, switching, replay, export and application, and that it is kept only
where it helps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import models
from support.batches import batches
from torch import nn

from sensitivity.errors import ModelError
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify import verify
from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.study import Study
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.quantizers.alternatives import with_alternatives
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.half import in_float32
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import Range, Scores, Variant
from sensitivity.repairs.bias import bias_corrections
from sensitivity.repairs.samples import Parts, calibration_parts
from sensitivity.search.repairs import repaired
from sensitivity.signals.distortion import SQNR
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.simulators.torch.replay import ReplaySimulator
from sensitivity.tasks.base import Task


@pytest.fixture
def source() -> ModelOptModel:
    return ModelOptModel(models.quantized(models.seeded(models.Branches), models.batch()))


def means(source: ModelOptModel, layer: str, inputs: Any, disabled: Iterable[str]) -> np.ndarray:
    """The mean output of a layer for each channel."""
    found = []
    module = source.model.get_submodule(layer)
    hook = module.register_forward_hook(lambda module, args, output: found.append(output.clone()))
    with torch.no_grad(), source.disabled(disabled):
        source.model(inputs)
    hook.remove()
    axes = [axis for axis in range(found[0].ndim) if axis != 1]
    return found[0].mean(axes).numpy()


def test_each_layer_gives_on_average_what_it_gives_in_float_with_those_before_it_corrected(source):
    inputs = models.batch(8, 16, seed=5)
    every = [quantizer.name for quantizer in source.quantizers]
    before = source.fingerprint()
    found = bias_corrections(source, inputs)
    assert source.fingerprint() == before
    assert {one.method for one in found} == {"bias correction"}
    layers_found = [one.quantizer.removesuffix(".weight_quantizer") for one in found]
    assert set(layers_found) == {"stem.0", "left", "right", "up", "box", "classes"}
    own = {layer: means(source, layer, inputs, ()) for layer in layers_found}
    with source.with_ranges(found):
        for layer in layers_found:
            wanted = means(source, layer, inputs, every)
            assert means(source, layer, inputs, ()) == pytest.approx(wanted, abs=1e-5)
            assert own[layer] != pytest.approx(wanted, abs=1e-5)


def test_a_layer_that_is_called_twice_and_one_that_is_left_out_keep_their_biases():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x: Any) -> Any:
            return self.last(self.again(self.again(self.first(x))))

    source = ModelOptModel(models.quantized(models.seeded(Twice), models.batch()))
    found = bias_corrections(source, models.batch(), left_out=["last.weight_quantizer"])
    assert [one.quantizer for one in found] == ["first.weight_quantizer"]


def test_ranges_in_force_stay_and_the_method_names_both(source):
    weight = source.range("left.weight_quantizer")
    wide = replace(weight, method="wide", amax=tuple(2 * value for value in weight.amax))
    found = {one.quantizer: one for one in bias_corrections(source, models.batch(), ranges=[wide])}
    assert found["left.weight_quantizer"].method == "wide, bias correction"
    assert found["left.weight_quantizer"].amax == wide.amax
    plain = bias_corrections(source, models.batch())
    assert found["left.weight_quantizer"].bias != next(
        one.bias for one in plain if one.quantizer == "left.weight_quantizer"
    )


def test_a_bias_goes_with_the_quantizer_of_its_weight_and_is_restored_after_an_exception(source):
    layer = source.model.left
    own = layer.bias
    (found,) = [one for one in bias_corrections(source, models.batch()) if "left" in one.quantizer]
    changed = own.detach() + torch.tensor(found.bias)

    def work() -> None:
        with source.with_ranges([found]):
            assert torch.equal(layer.bias, changed)
            assert source.range(found.quantizer).bias == found.bias
            with source.disabled([found.quantizer]):
                assert layer.bias is own
            with source.disabled(["left.input_quantizer"]):
                assert torch.equal(layer.bias, changed)
            with source.with_ranges([replace(found, bias=None)]):
                assert layer.bias is own
            assert torch.equal(layer.bias, changed)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert layer.bias is own
    assert source.range(found.quantizer).bias is None


def test_a_change_for_good_stays_but_for_layers_that_are_left_out(source):
    found = bias_corrections(source, models.batch())
    own = {name: source.model.get_submodule(name).bias for name in ("left", "right")}
    source.change(["right.weight_quantizer"], found)
    assert source.model.right.bias is own["right"]
    assert not torch.equal(source.model.left.bias, own["left"])
    assert ModelOptModel(source.model).range("left.weight_quantizer").bias is None


def test_a_bias_for_anything_but_a_weight_is_refused(source):
    wrong = Range("left.input_quantizer", "bias correction", (1.0,), bias=(0.5,))
    with pytest.raises(ModelError, match="bias for the weight of a convolution or linear layer"):
        source.with_ranges([wrong]).__enter__()


def test_replay_computes_any_mix_of_corrected_layers_as_the_model_does(source):
    inputs = models.batch(8, 16, seed=5)
    found = bias_corrections(source, inputs)
    offered = with_alternatives(source, found)
    keys = [one.key for one in found]
    variants = [
        frozenset(),
        frozenset(keys),
        frozenset(keys[:2]),
        frozenset([*keys, found[1].quantizer]),
        frozenset(quantizer.name for quantizer in source.quantizers),
    ]
    replayed = outputs(ReplaySimulator(offered), inputs, variants)
    toggled = outputs(ToggleSimulator(offered), inputs, variants)
    for one, other in zip(replayed, toggled, strict=True):
        assert all(map(torch.equal, one, other))
    assert not torch.equal(replayed[0][0], replayed[1][0])


def outputs(simulator: Any, inputs: Any, variants: list[frozenset[str]]) -> list[list[Any]]:
    found = {
        index: [leaf.clone() for leaf in torch.utils._pytree.tree_leaves(given)]
        for index, given in simulator.outputs(inputs, variants)
    }
    return [found[index] for index in range(len(variants))]


def test_a_bias_that_is_not_there_is_added_and_taken_away_again():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Conv2d(3, 4, 3, bias=False)

        def forward(self, x: Any) -> Any:
            return self.only(x)

    source = ModelOptModel(models.quantized(models.seeded(Bare), models.batch()))
    found = bias_corrections(source, models.batch())
    assert len(found[0].bias) == 4
    variants = [frozenset(), frozenset([found[0].key])]
    offered = with_alternatives(source, found)
    replayed = outputs(ReplaySimulator(offered), models.batch(), variants)
    toggled = outputs(ToggleSimulator(offered), models.batch(), variants)
    torch.testing.assert_close(replayed, toggled, rtol=0, atol=1e-6)
    assert source.model.only.bias is None


def test_files_have_the_corrected_biases_where_the_layer_is_quantized_and_float_as_it_was(
    source, tmp_path
):
    inputs = models.batch(8, 16, seed=5)
    units = layers(source.quantizers)
    found = bias_corrections(source, inputs)
    with source.with_ranges(found):
        files = export_files(source, inputs, units, ["left"], tmp_path, fingerprint="x")
        verify(source, files, inputs, units, ["left"])
    deltas = {one.quantizer.removesuffix(".weight_quantizer"): one.bias for one in found}
    for variant, corrected in {
        "float": set(),
        "int8": {"left", "right", "box", "classes"},
        "partial": {"right", "box", "classes"},
    }.items():
        for layer in ("left", "right", "box", "classes"):
            own = source.model.get_submodule(layer).bias.detach().numpy()
            wanted = own + np.float32(deltas[layer]) if layer in corrected else own
            assert bias_of(files[variant], layer) == pytest.approx(wanted, abs=1e-7), layer


def bias_of(file: Path, layer: str) -> np.ndarray:
    nodes = {node.name: node for node in load_model(file).graph.all_nodes()}
    found = qdq.constant(nodes[layer].inputs[2])
    assert found is not None
    return found


def test_calibration_inputs_become_parts_as_far_as_their_shapes_allow(monkeypatch):
    images = [torch.full((2, 3, 4, 4), float(number)) for number in range(3)]
    other = torch.zeros(2, 3, 8, 8)

    def lengths(batches: Any) -> list[int]:
        return [len(part) for part in calibration_parts(batches).batches]

    assert lengths(images) == [6]
    assert calibration_parts([images[0], other, images[2]]).joined()[:, 0, 0, 0].tolist() == [
        0, 0, 2, 2,
    ]  # fmt: skip
    pair = calibration_parts([{"a": image, "b": image[:, 0]} for image in images]).joined()
    assert (pair["a"].shape, pair["b"].shape) == ((6, 3, 4, 4), (6, 4, 4))
    monkeypatch.setattr("sensitivity.repairs.samples.PART_BYTES", 4 * images[0][:1].nbytes)
    assert lengths(images) == [4, 2]
    monkeypatch.setattr("sensitivity.repairs.samples.PART_BYTES", images[0][:1].nbytes)
    assert lengths(images) == [1] * 6
    monkeypatch.setattr("sensitivity.repairs.samples.MOST_SAMPLES", 3)
    assert lengths(images) == [1, 1, 1]
    monkeypatch.setattr("sensitivity.repairs.samples.MOST_BYTES", images[0][:1].nbytes)
    assert lengths(images) == [1]


def test_corrections_on_parts_of_a_batch_are_those_on_the_whole(source):
    inputs = models.batch(8, 16, seed=5)
    whole = bias_corrections(source, inputs)
    found = bias_corrections(source, Parts([inputs[:3], inputs[3:4], inputs[4:]]))
    assert [one.quantizer for one in found] == [one.quantizer for one in whole]
    for one, other in zip(found, whole, strict=True):
        assert one.bias == pytest.approx(other.bias, abs=1e-6)


FAR = np.arange(64) % 8 == 3
"""Samples whose outputs are far from float's."""


class Told(Measurer):
    """A measurer that gives these scores and distortions by the number of ranges of a variant."""

    levels: dict[int, float]
    moved: dict[int, Any]

    def scores(self, variants: Any, split: str, what: str) -> list[Scores]:
        assert split == "rank"
        return [self._told(self.levels, variant) for variant in variants]

    def distortion(
        self, signal: Any, variants: Any, reference: Any, samples: int, *, until: int | None = None
    ) -> list[Scores]:
        noise = np.random.default_rng(0).normal(0, 1e-3, 64)
        return [(self.moved[len(variant.ranges)] + noise)[:until] for variant in variants]

    def _told(self, levels: dict[int, float], variant: Variant) -> Scores:
        return (np.arange(200) < 200 * levels[len(variant.ranges)]).astype(float)


@pytest.mark.parametrize(
    ("levels", "moved", "taken"),
    [
        ({0: 0.5, 2: 0.5}, {0: 0.2, 2: 0.1}, True),
        ({0: 0.5, 2: 0.5}, {0: 0.2, 2: 0.2}, False),
        ({0: 0.5, 2: 0.6}, {0: 0.2, 2: 0.2}, True),
        ({0: 0.5, 2: 0.495}, {0: 0.2, 2: 0.1}, False),
        # a little farther on most, and half as far on the few that are far off
        ({0: 0.5, 2: 0.5}, {0: 0.1 + 1.9 * FAR, 2: 0.11 + 0.89 * FAR}, True),
        ({0: 0.5, 2: 0.5}, {0: 0.11 + 0.89 * FAR, 2: 0.1 + 1.9 * FAR}, False),
    ],
    ids=[
        "nearer",
        "no nearer and no better",
        "better",
        "nearer but worse",
        "nearer on the mean",
        "farther on the mean",
    ],
)
def test_a_repair_of_all_is_kept_where_the_metric_does_not_fall_and_something_is_credibly_better(
    source, tmp_path, levels, moved, taken
):
    data = {split: batches(200, 40) for split in ("rank", "confirm", "holdout")}
    task = Task(source.model, data, lambda outputs, _: outputs)
    repairs = bias_corrections(source, models.batch())[:2]
    with open_journal(tmp_path / "j", {"model": "told"}, resume=False) as journal:
        measurer = Told(task, lambda candidates: ToggleSimulator(source), journal)
        measurer.levels, measurer.moved = levels, moved
        study = Study(measurer, layers(source.quantizers), source.quantizers)
        pairs = [(source.range(one.quantizer), one) for one in repairs]
        found = repaired(study, (), pairs, signal=SQNR)
        assert repaired(study, found, pairs, signal=SQNR) == found or not found
    assert bool(found) == taken
    if taken:
        assert [one.unit for one in found] == ["stem.0", "left"]
        assert all(one.together and one.method == "bias correction" for one in found)
        assert found[0].gain.value == pytest.approx(levels[2] - levels[0])


@pytest.mark.parametrize(("level", "taken"), [(0.495, True), (0.4, False)])
def test_a_metric_that_is_no_mean_may_fall_by_chance_where_outputs_are_nearer(
    source, tmp_path, level, taken
):
    data = {split: batches(200, 40) for split in ("rank", "confirm", "holdout")}
    task = Task(source.model, data, lambda outputs, _: outputs, lambda scores: scores.mean())
    repairs = bias_corrections(source, models.batch())[:2]
    with open_journal(tmp_path / "j", {"model": "told"}, resume=False) as journal:
        measurer = Told(task, lambda candidates: ToggleSimulator(source), journal)
        measurer.levels, measurer.moved = {0: 0.5, 2: level}, {0: 0.2, 2: 0.1}
        study = Study(measurer, layers(source.quantizers), source.quantizers)
        pairs = [(source.range(one.quantizer), one) for one in repairs]
        assert bool(repaired(study, (), pairs, signal=SQNR)) == taken


def test_a_half_model_that_computes_in_float32_for_a_while_gets_its_own_bias_back():
    inputs = models.batch().bfloat16()
    source = ModelOptModel(models.quantized(models.seeded(models.Branches).bfloat16(), inputs))
    layer, weight = source.model.left, "left.weight_quantizer"
    own = layer.bias
    (found,) = [one for one in bias_corrections(source, inputs) if one.quantizer == weight]
    with source.with_ranges([found]):
        measured = layer.bias.detach()
        assert measured.dtype == torch.bfloat16
        with in_float32(source.model):
            with source.disabled([weight]):
                assert torch.equal(layer.bias, own.float())
            assert layer.bias.dtype == torch.float32
            assert torch.equal(layer.bias, measured.float()), "rounded as it was measured"
        with source.disabled([weight]):
            assert layer.bias is own
    assert layer.bias is own
    assert own.dtype == torch.bfloat16
