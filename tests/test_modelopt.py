from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.models import Branches, Chain, batch, quantized, seeded
from torch import nn

from sensitivity.errors import ModelError, NamesError
from sensitivity.quantizers.base import check_calibrated, layers
from sensitivity.quantizers.torch.modelopt import FLAGS, ModelOptModel

pytest.importorskip("modelopt")


@pytest.fixture(scope="module")
def calibrated_chain() -> nn.Module:
    return quantized(seeded(Chain), batch())


@pytest.fixture
def chain(calibrated_chain: nn.Module) -> nn.Module:
    return copy.deepcopy(calibrated_chain)


def flags(model: nn.Module) -> list[tuple[str, object]]:
    return [
        (f"{name}.{flag}", vars(module).get(flag))
        for name, module in model.named_modules()
        for flag in FLAGS
    ]


def test_quantizers_carry_exact_names_layers_roles_and_axes(chain: nn.Module) -> None:
    first, second = ModelOptModel(chain).quantizers[:2]
    assert (first.name, first.layer, first.role, first.axis) == (
        "conv1.input_quantizer",
        "conv1",
        "input",
        None,
    )
    assert (second.name, second.layer, second.role, second.axis) == (
        "conv1.weight_quantizer",
        "conv1",
        "weight",
        0,
    )
    assert first.bits == 8
    assert first.problem is None


def test_quantizers_that_the_user_disabled_are_not_listed(chain: nn.Module) -> None:
    chain.conv3.input_quantizer.disable()
    names = {quantizer.name for quantizer in ModelOptModel(chain).quantizers}
    assert "conv3.input_quantizer" not in names
    assert "conv3.weight_quantizer" in names
    assert "conv3.output_quantizer" not in names


def test_quantizers_that_the_user_disabled_stay_disabled(chain: nn.Module) -> None:
    chain.conv3.input_quantizer.disable()
    source = ModelOptModel(chain)
    with source.disabled([]):
        assert chain.conv3.input_quantizer._disabled
    with (
        pytest.raises(NamesError, match=r"got 'conv3\.input_quantizer'"),
        source.disabled(["conv3.input_quantizer"]),
    ):
        pass


def test_a_name_that_begins_another_does_not_match_it(chain: nn.Module) -> None:
    source = ModelOptModel(chain)
    conv1 = next(unit for unit in layers(source.quantizers) if unit.name == "conv1")
    with source.disabled(conv1.quantizers):
        off = [
            quantizer.name
            for quantizer in source.quantizers
            if chain.get_submodule(quantizer.name)._disabled
        ]
    assert off == ["conv1.input_quantizer", "conv1.weight_quantizer"]


def test_a_disabled_layer_is_restored_after_an_exception(chain: nn.Module) -> None:
    chain.conv2.weight_quantizer.disable()
    chain.conv4.input_quantizer._if_calib = True
    before = flags(chain)
    source = ModelOptModel(chain)

    def a_metric_that_plays_with_the_switches_and_fails() -> None:
        for module in chain.modules():
            if hasattr(module, "_if_quant"):
                module.disable_quant()
                module.enable_calib()
                module._disabled = True
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), source.disabled(["conv5.input_quantizer"]):
        a_metric_that_plays_with_the_switches_and_fails()
    assert flags(chain) == before


def test_nothing_is_collected_while_quantizers_are_switched(chain: nn.Module) -> None:
    chain.conv4.input_quantizer.enable_calib()
    before = chain.conv4.input_quantizer._calibrator._calib_amax
    with ModelOptModel(chain).disabled([]):
        chain(batch() * 100)
    assert chain.conv4.input_quantizer._calibrator._calib_amax is before
    assert chain.conv4.input_quantizer._if_calib


def test_disabled_contexts_nest(chain: nn.Module) -> None:
    source = ModelOptModel(chain)
    with source.disabled(["conv1.input_quantizer"]):
        with source.disabled(["conv2.input_quantizer"]):
            assert not chain.conv1.input_quantizer._disabled
        assert chain.conv1.input_quantizer._disabled
    assert not chain.conv1.input_quantizer._disabled


def test_an_unknown_name_is_refused_with_close_names_and_nothing_is_switched(
    chain: nn.Module,
) -> None:
    source = ModelOptModel(chain)
    with (
        pytest.raises(
            NamesError, match=r"got 'conv1\.input_quantiser'.*Close names: conv1\.input_quantizer"
        ),
        source.disabled(["conv2.input_quantizer", "conv1.input_quantiser"]),
    ):
        pass
    assert not chain.conv2.input_quantizer._disabled


def test_an_uncalibrated_quantizer_is_named(chain: nn.Module) -> None:
    chain.conv7.input_quantizer.reset_amax()
    with pytest.raises(
        ModelError, match=r"got 1 that are not \(conv7\.input_quantizer: amax is missing\)"
    ):
        check_calibrated(ModelOptModel(chain).quantizers)


def test_channels_that_are_not_finite_are_counted_and_dead_ones_are_right(chain: nn.Module) -> None:
    chain.conv2.weight_quantizer._amax[1:3] = 0
    chain.conv3.weight_quantizer._amax[0] = float("nan")
    chain.conv4.input_quantizer._amax.fill_(2.0**-25)
    source = ModelOptModel(chain)
    problems = {
        quantizer.name: quantizer.problem for quantizer in source.quantizers if quantizer.problem
    }
    assert problems == {"conv3.weight_quantizer": "amax of 1 of 4 channels is not finite"}
    assert [warning.partition(":")[0] for warning in source.warnings] == ["conv4.input_quantizer"]


def test_a_quantizer_left_in_calibration_mode_is_named(chain: nn.Module) -> None:
    chain.conv2.input_quantizer.disable_quant()
    chain.conv2.input_quantizer.enable_calib()
    with pytest.raises(
        ModelError, match=r"conv2\.input_quantizer: it was left in calibration mode"
    ):
        check_calibrated(ModelOptModel(chain).quantizers)


def test_a_dynamic_quantizer_needs_no_amax_and_has_no_grid(chain: nn.Module) -> None:
    chain.conv2.input_quantizer.reset_amax()
    chain.conv2.input_quantizer._dynamic = True
    source = ModelOptModel(chain)
    check_calibrated(source.quantizers)
    with pytest.raises(
        ModelError, match=r"Expected conv2\.input_quantizer .*its range is taken from each batch"
    ):
        source.grid("conv2.input_quantizer")


def test_a_shared_quantizer_is_listed_once_under_its_first_name(chain: nn.Module) -> None:
    chain.conv5.input_quantizer = chain.conv2.input_quantizer
    names = [quantizer.name for quantizer in ModelOptModel(chain).quantizers]
    assert "conv2.input_quantizer" in names
    assert "conv5.input_quantizer" not in names


def test_the_parts_of_a_sequential_quantizer_belong_to_its_layer(chain: nn.Module) -> None:
    from modelopt.torch.quantization.nn import SequentialQuantizer

    chain.conv2.weight_quantizer = SequentialQuantizer(
        chain.conv2.weight_quantizer, copy.deepcopy(chain.conv2.weight_quantizer)
    )
    parts = [
        quantizer
        for quantizer in ModelOptModel(chain).quantizers
        if quantizer.name.startswith("conv2.weight")
    ]
    assert [part.name for part in parts] == ["conv2.weight_quantizer.0", "conv2.weight_quantizer.1"]
    assert {(part.layer, part.role) for part in parts} == {("conv2", "weight")}


@pytest.mark.parametrize(
    ("unsigned", "narrow", "low", "high"),
    [(False, False, -128, 127), (False, True, -127, 127), (True, False, 0, 255)],
    ids=["signed", "narrow", "unsigned"],
)
def test_the_grid_has_the_range_and_scale_of_the_quantizer(
    chain: nn.Module, unsigned: bool, narrow: bool, low: int, high: int
) -> None:
    quantizer = chain.conv1.input_quantizer
    quantizer._unsigned, quantizer._narrow_range = unsigned, narrow
    grid = ModelOptModel(chain).grid("conv1.input_quantizer")
    assert (grid.low, grid.high, grid.zero_point, grid.axis) == (low, high, 0, None)
    assert grid.scale.dtype == np.float32
    assert grid.scale == pytest.approx(float(quantizer.amax) / high)


def test_the_grid_of_a_weight_has_one_scale_per_channel(chain: nn.Module) -> None:
    grid = ModelOptModel(chain).grid("conv1.weight_quantizer")
    assert grid.axis == 0
    assert grid.scale.shape == (4,)


def test_grids_reproduce_the_models_own_quantized_values(chain: nn.Module) -> None:
    x = batch(seed=3) * 2
    grid = ModelOptModel(chain).grid("conv1.input_quantizer")
    ours = np.clip(np.round(x.numpy() / grid.scale), grid.low, grid.high) * grid.scale
    np.testing.assert_allclose(chain.conv1.input_quantizer(x).numpy(), ours, rtol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.conv1.weight.data.add_(1e-3),
        lambda model: model.conv1.input_quantizer._amax.mul_(1.01),
        lambda model: setattr(model.conv1.input_quantizer, "_narrow_range", True),
        lambda model: model.conv1.input_quantizer.disable(),
        lambda model: model.register_buffer("offset", torch.ones(1), persistent=False),
    ],
    ids=["weight", "amax", "setting", "disabled", "buffer"],
)
def test_the_fingerprint_changes_with_the_model(chain: nn.Module, change) -> None:
    before = ModelOptModel(chain).fingerprint()
    assert ModelOptModel(chain).fingerprint() == before
    change(chain)
    assert ModelOptModel(chain).fingerprint() != before


def test_the_fingerprint_is_that_of_the_state_and_not_of_the_object(chain: nn.Module) -> None:
    source = ModelOptModel(chain)
    before = source.fingerprint()
    with source.disabled(["conv1.input_quantizer"]):
        chain(batch())
    assert ModelOptModel(copy.deepcopy(chain)).fingerprint() == before


def test_a_model_without_quantizers_is_not_recognised_and_refused() -> None:
    model = seeded(Branches)
    assert not ModelOptModel.recognises(model)
    assert not ModelOptModel.recognises("model.onnx")
    with pytest.raises(
        ModelError, match="got a model without any; quantize the model with modelopt"
    ):
        ModelOptModel(model)


def test_a_model_with_all_quantizers_disabled_is_recognised_but_refused(chain: nn.Module) -> None:
    for module in chain.modules():
        if ModelOptModel.recognises(module) and hasattr(module, "_disabled"):
            module.disable()
    assert ModelOptModel.recognises(chain)
    with pytest.raises(ModelError, match="quantizers, all disabled"):
        ModelOptModel(chain)
