"""Learned rounding of PT2E graphs: as in ModelOpt, switched, replayed, exported, taken back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import verb
from support.models import Kinds, batch, quantized, seeded
from support.onnx_models import run_file, weight_of
from support.pt2e_models import (
    WeightedLayers,
    aten,
    quantized_by_pt2e,
    without_float_weights,
)
from tasks import coarse_pt2e
from tasks.tiny import images
from torch import Tensor, nn
from torch.nn import functional
from torchao.quantization.pt2e import PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec

from sensitivity import api, results
from sensitivity.config import PlanSettings
from sensitivity.errors import ModelError
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify import verify
from sensitivity.quantizers.alternatives import with_alternatives
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.rounding import unpack
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.quantizers.torch.pt2e import Pt2eModel
from sensitivity.records import Plan, Range, names_of
from sensitivity.repairs.bias import bias_corrections
from sensitivity.repairs.rounding import learned_roundings
from sensitivity.repairs.training import is_tunable
from sensitivity.run_dir import RunDir
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.simulators.torch.replay import ReplaySimulator
from sensitivity.steps import fine_tune, recalibrate

COARSER = 16
"""Factor of the steps of weights: grids of about 4 bits, where rounding is what hurts."""
INPUTS = batch(64, 16, seed=5)
"""Calibrated and learned on. No value of them is clipped: the lowest level is -127 in these graphs
and -128 in ModelOpt and in files."""
TASK = Path(coarse_pt2e.__file__)
STEM = "stem.weight_quantizer"


def coarse(converted: Any) -> Any:
    """The graph with coarser grids of its weights, which are not folded."""
    for node in converted.graph.nodes:
        if node.target is torch.ops.quantized_decomposed.quantize_per_channel.default:
            getattr(converted, node.args[1].target).mul_(COARSER)
    return converted


@pytest.fixture
def source() -> Pt2eModel:
    return Pt2eModel(coarse(quantized_by_pt2e(seeded(Kinds), INPUTS, fold=False)))


@pytest.fixture
def of_modelopt() -> ModelOptModel:
    """The same weights with the same scales in ModelOpt."""
    model = quantized(seeded(Kinds), INPUTS)
    for name, module in model.named_modules():
        if name.endswith("weight_quantizer") and module.is_enabled:
            module._buffers["_amax"] *= COARSER
    return ModelOptModel(model)


def output(source: Any, inputs: Any, ranges: Any = (), off: Any = ()) -> Tensor:
    with torch.no_grad(), source.with_ranges(ranges), source.disabled(off):
        return source.model(inputs)


def by_layer(found: tuple[Range, ...]) -> dict[str, Range]:
    return {one.quantizer.removesuffix(".weight_quantizer"): one for one in found}


def test_what_is_learned_is_what_the_same_weights_and_scales_in_modelopt_teach(
    source: Pt2eModel, of_modelopt: ModelOptModel
) -> None:
    models = (source, of_modelopt)
    # A layer that is called twice has a range for each call in a graph, and one in ModelOpt.
    again = [
        [name for name in names_of(model.quantizers) if name.startswith("again")]
        for model in models
    ]
    found, expected = (
        by_layer(learned_roundings(model, INPUTS, left_out=off))
        for model, off in zip(models, again, strict=True)
    )
    assert {name: one.method for name, one in found.items()} == {
        name: one.method for name, one in expected.items()
    }
    assert {name for name, one in found.items() if one.rounding} == {
        *("stem", "depthwise", "grouped", "mixed", "last")
    }
    for name, one in found.items():
        assert one.rounding == expected[name].rounding, name
        np.testing.assert_allclose(one.bias, expected[name].bias, atol=1e-5)
    one, other = (
        output(model, INPUTS, learned.values(), off)
        for model, learned, off in zip(models, (found, expected), again, strict=True)
    )
    torch.testing.assert_close(one, other)


def test_outputs_are_nearer_to_float_on_inputs_that_nothing_was_learned_from(
    source: Pt2eModel,
) -> None:
    other = batch(32, 16, seed=6)
    before = source.fingerprint(), output(source, other)
    found = learned_roundings(source, INPUTS)
    assert source.fingerprint() == before[0]
    assert torch.equal(output(source, other), before[1])
    wanted = output(source, other, off=names_of(source.quantizers))
    off_by = [
        float((output(source, other, ranges) - wanted).square().mean())
        for ranges in ((), bias_corrections(source, INPUTS), found)
    ]
    assert off_by[2] < 0.95 * off_by[1] < off_by[0]


def test_a_rounding_goes_with_its_quantizer_and_is_taken_back_after_an_exception(
    source: Pt2eModel,
) -> None:
    found = by_layer(learned_roundings(source, batch(8, 16)))["stem"]
    layer, grid = source.biases.layers[STEM], source.grid(STEM)
    own, step = layer.weight, torch.tensor(grid.scale).reshape(-1, 1, 1, 1)
    moves = torch.from_numpy(unpack(found.rounding, own.shape).copy())

    def work() -> None:
        with source.with_ranges([found]):
            levels = torch.round(layer.weight.detach() / step)
            assert torch.equal(levels, torch.round(own.detach() / step) + moves)
            assert source.range(STEM).rounding == found.rounding
            assert source.grid(STEM).scale.tolist() == grid.scale.tolist()
            with source.disabled([STEM]):
                assert layer.weight is own
            with source.with_ranges([replace(found, rounding=None)]):
                assert layer.weight is own
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert layer.weight is own
    assert source.range(STEM).rounding is None


def test_replay_computes_any_mix_of_rounded_layers_as_the_model_does(source: Pt2eModel) -> None:
    inputs = batch(8, 16, seed=5)
    found = learned_roundings(source, inputs)
    offered, keys = with_alternatives(source, found), [one.key for one in found]
    every = names_of(source.quantizers)
    variants = [
        frozenset(each) for each in ([], keys, keys[:2], [*keys, found[1].quantizer], every)
    ]
    replay = ReplaySimulator(offered)
    replayed = dict(replay.outputs(inputs, variants))
    toggled = dict(ToggleSimulator(offered).outputs(inputs, variants))
    assert "own modules" not in replay.reason
    for index in range(len(variants)):
        torch.testing.assert_close(replayed[index], toggled[index], rtol=1e-5, atol=1e-6)
    assert not torch.equal(replayed[0], replayed[1])


def test_files_have_the_learned_levels_where_the_layer_is_quantized_and_float_as_it_was(
    source: Pt2eModel, tmp_path: Path
) -> None:
    inputs, units = INPUTS[:8], layers(source.quantizers)
    found = by_layer(learned_roundings(source, INPUTS))
    with source.with_ranges(found.values()):
        files = export_files(source, inputs, units, ["grouped"], tmp_path, fingerprint="x")
        checks = verify(source, files, inputs, units, ["grouped"]).files
    for check in checks:
        checked = [layer.difference for layer in check.layers if layer.difference is not None]
        assert checked or check.variant == "float"
        assert max(checked, default=0) <= 1e-5
    for variant, layer, is_moved in [
        ("int8", "stem", True),
        ("int8", "grouped", True),
        ("partial", "stem", True),
        ("partial", "grouped", False),
        ("float", "stem", False),
    ]:
        name = f"{layer}.weight_quantizer"
        own, given = source.biases.layers[name].weight, weight_of(files[variant], layer)
        if not is_moved:
            assert np.array_equal(given, own.detach().numpy()), (variant, layer)
            continue
        step = source.grid(name).scale.reshape(-1, 1, 1, 1)
        moves = np.rint(given / step) - np.rint(own.detach().numpy() / step)
        assert np.array_equal(moves, unpack(found[layer].rounding, own.shape)), (variant, layer)


def test_a_folded_weight_is_rounded_like_one_that_is_not() -> None:
    inputs = batch(16, 16, seed=5)
    folded, plain = (
        by_layer(
            learned_roundings(
                Pt2eModel(quantized_by_pt2e(seeded(Kinds), batch(8, 16), fold=fold)), inputs
            )
        )
        for fold in (True, False)
    )
    assert folded["stem"].rounding is not None
    assert {name: one.rounding for name, one in folded.items()} == {
        name: one.rounding for name, one in plain.items()
    }


def test_weights_of_which_only_integers_are_left_get_corrected_biases_alone() -> None:
    x = batch(8, 16)
    source = Pt2eModel(without_float_weights(quantized_by_pt2e(seeded(Kinds), x)))
    found = learned_roundings(source, x)
    assert {one.method for one in found} == {"bias correction"}
    plan_of_another = replace(source.range(STEM), rounding="x")
    with pytest.raises(ModelError, match=r"values in FP32 are known, got one for stem\.weight"):
        output(source, x, [plan_of_another])


class InWords(nn.Module):
    """Convolutions whose padding is a word; one has an even kernel, which is padded unevenly."""

    def __init__(self) -> None:
        super().__init__()
        self.uneven = nn.Conv2d(3, 6, (4, 3), padding="same", dilation=(1, 2))
        self.valid = nn.Conv2d(6, 4, 3, padding="valid")

    def forward(self, x: Tensor) -> Tensor:
        return self.valid(self.uneven(x).relu())


class InNumbers(InWords):
    """The same with numbers."""

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (2, 2, 1, 2))
        made = functional.conv2d(padded, self.uneven.weight, self.uneven.bias, dilation=(1, 2))
        return functional.conv2d(made.relu(), self.valid.weight, self.valid.bias)


def test_a_padding_in_words_is_that_in_numbers() -> None:
    x = batch(24, 12, seed=3)
    found, expected = (
        learned_roundings(Pt2eModel(coarse(quantized_by_pt2e(seeded(kind), x, fold=False))), x)
        for kind in (InWords, InNumbers)
    )
    assert [bool(one.rounding) for one in found] == [True, True]
    assert [one.rounding for one in found] == [one.rounding for one in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.bias, other.bias, atol=1e-5)
    of_modelopt = learned_roundings(ModelOptModel(quantized(seeded(InWords), x)), x)
    assert [bool(one.rounding) for one in of_modelopt] == [True, True]


class OffCentre(WeightedLayers):
    """Weights as unsigned integers with 127 for 0."""

    weights = QuantizationSpec(
        torch.uint8,
        PerChannelMinMaxObserver.with_args(eps=2**-40),
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )

    def annotate(self, model: Any) -> Any:
        for node in model.graph.nodes:
            if node.target is aten.linear.default:
                specs = {node.args[0]: self.inputs, node.args[1]: self.weights}
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    specs, _annotated=True
                )
        return model


class Two(nn.Module):
    """Two ops in one module, of which the second reads what is named as in torch's layers.

    inner: number of values between the ops.
    """

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(inner, 6))
        self.weight, self.bias = nn.Parameter(torch.randn(6, inner)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self.first).relu()
        return functional.linear(y, self.weight, self.bias)


class Nested(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        self.two, self.last = Two(inner), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.two(x))


def test_levels_of_a_weight_whose_0_is_not_at_0_move_by_the_rounding() -> None:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    source = Pt2eModel(quantized_by_pt2e(seeded(lambda: Nested(5)), x, quantizer=OffCentre()))
    found = by_layer(learned_roundings(source, x))["last"]
    grid, module = source.grid("last.weight_quantizer"), source.model.last.weight_quantizer
    assert grid.zero_point == 127
    own = module(source.model.last.weight.detach())
    with source.with_ranges([found]):
        moved = module(source.model.last.weight.detach())
    moves = ((moved - own) / torch.tensor(grid.scale)[:, None]).round().numpy()
    assert np.array_equal(moves, unpack(found.rounding, (4, 6)))
    assert np.abs(moves).any()


@pytest.mark.parametrize("inner", [5, 6], ids=["of other shapes", "of one shape"])
@pytest.mark.parametrize("fold", [True, False], ids=["folded", "not folded"])
def test_ops_of_one_module_have_their_own_weights_and_biases(fold: bool, inner: int) -> None:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    model = seeded(lambda: Nested(inner))
    converted = quantized_by_pt2e(model, x, fold=fold)
    source = Pt2eModel(converted)
    with torch.no_grad():
        assert torch.equal(output(source, x), converted(x))
        float_ = output(source, x, off=names_of(source.quantizers))
        torch.testing.assert_close(float_, model(x))
    found = learned_roundings(source, x)
    assert {one.quantizer: bool(one.rounding) for one in found} == {
        "two.weight_quantizer": True,
        "two_1.weight_quantizer": True,
        "last.weight_quantizer": True,
    }
    offered, keys = with_alternatives(source, found), [one.key for one in found]
    variants = [frozenset(keys[:1]), frozenset(keys[1:2]), frozenset(keys)]
    replay = ReplaySimulator(offered)
    replayed = dict(replay.outputs(x, variants))
    toggled = dict(ToggleSimulator(offered).outputs(x, variants))
    assert "own modules" not in replay.reason
    for index in range(len(variants)):
        torch.testing.assert_close(replayed[index], toggled[index], rtol=1e-5, atol=1e-6)


class Tied(nn.Module):
    """A linear layer whose weight is read without quantizers, too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.fc.weight.sum(0) + self.fc.bias


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "not folded"])
def test_what_other_ops_read_of_a_weight_stays_as_it_is(fold: bool) -> None:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    source = Pt2eModel(quantized_by_pt2e(seeded(Tied), x, fold=fold))
    assert source.warnings == ()
    (found,) = learned_roundings(source, x)
    own, fc = output(source, x), source.biases.layers["fc.weight_quantizer"]
    with torch.no_grad():
        before = fc(x)
        with source.with_ranges([found]):
            moved = fc(x) - before
    assert moved.abs().max() > 1e-4
    torch.testing.assert_close(output(source, x, [found]) - own, moved)


def test_a_graph_is_not_fine_tuned(
    source: Pt2eModel, of_modelopt: ModelOptModel, ran: Path, tmp_path: Path
) -> None:
    assert (is_tunable(source), is_tunable(of_modelopt)) == (False, True)
    out = shutil.copytree(ran, tmp_path / "run")
    plan = planned(out, fine_tune="always")
    assert fine_tune.CANNOT in plan.notes


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, in which learned rounding keeps all layers in INT8."""
    out = tmp_path_factory.mktemp("whole") / "run"
    choices = ("--target", 0.84, "--confidence", 0.5, "--fine-tune", "never")
    assert verb("run", TASK, "--out", out, *choices) == 0
    return out


def planned(out: Path, **choices: Any) -> Plan:
    settings = {"target": 0.84, "confidence": 0.5, "search": True, "fine_tune": "never", **choices}
    return api.plan(PlanSettings(directory=out, **settings))


def test_a_run_keeps_layers_in_int8_that_corrected_biases_alone_leave_out(
    ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = RunDir(ran).read("plan.json", Plan)
    assert plan.skip == ()
    assert sum(one.rounding is not None for one in plan.ranges) == 7
    assert plan.metric.recalibrated.value > plan.metric.quantized.value
    assert not any("Recalibration was left out" in note for note in plan.notes)
    monkeypatch.setattr(recalibrate, "takes_rounding", lambda _: False)
    out = shutil.copytree(ran, tmp_path / "run")
    (out / "recalibration.json").unlink()
    assert planned(out).skip != ()


def test_a_plan_is_applied_to_the_graph_and_taken_back(ran: Path) -> None:
    found, model, x = results.planned(ran, None), coarse_pt2e.task().model, images(80, seed=3)
    with torch.no_grad():
        before = model(x)
        with found.apply(model):
            inside = model(x)
        assert torch.equal(model(x), before)
    assert not torch.equal(inside, before)
    file = run_file(ran / "model.partial.onnx", x.numpy())
    # Sums in another order may round a value of a few samples to its other level.
    assert np.median(np.abs(file - inside.numpy()).max(axis=1)) < 1e-5


def test_another_target_and_an_interrupted_search_take_the_roundings_that_were_found(
    ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roundings = {one.quantizer: one.rounding for one in RunDir(ran).read("plan.json", Plan).ranges}
    out = shutil.copytree(ran, tmp_path / "run")
    monkeypatch.setattr(recalibrate, "learned_roundings", refused)
    for target in (0.84, 0.8):
        plan = planned(out, target=target)
        assert {one.quantizer: one.rounding for one in plan.ranges} == roundings
    assert verb("export", out) == 0
    for name in ("model.float.onnx", "model.partial.onnx"):
        x = images(16, seed=3).numpy()
        assert np.array_equal(run_file(ran / name, x), run_file(out / name, x))


def refused(*args: object, **named: object) -> None:
    raise AssertionError("it was computed again")
