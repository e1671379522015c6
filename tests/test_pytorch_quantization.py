"""pytorch-quantization's quantizers, in all ways in which its users switch, share and place
them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import Branches, Chain, batch, seeded
from support.pq_models import QuantDescriptor, calibrate, quant_nn, quantized_by_pq, quantizers_of
from torch import Tensor, nn

from sensitivity.config import PlanSettings
from sensitivity.errors import ModelError
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify import verify
from sensitivity.quantizers.alternatives import Alternatives
from sensitivity.quantizers.base import check_calibrated, layers
from sensitivity.quantizers.torch.native import GridQuantizer, OwnQuantizer, native_quantizers
from sensitivity.quantizers.torch.pytorch_quantization import (
    CLASS_FLAGS,
    FLAGS,
    PytorchQuantizationModel,
)
from sensitivity.search.wide import wide_ranges
from sensitivity.simulators.choose import simulator_for
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.simulators.torch.replay import ReplaySimulator
from sensitivity.steps.plan import check_formats


@pytest.fixture(scope="module")
def calibrated() -> nn.Module:
    return quantized_by_pq(lambda: Chain(length=4), batch(), like=seeded(lambda: Chain(length=4)))


@pytest.fixture
def chain(calibrated: nn.Module) -> nn.Module:
    return copy.deepcopy(calibrated)


def names_of(model: nn.Module) -> set[str]:
    return {quantizer.name for quantizer in PytorchQuantizationModel(model).quantizers}


def switches(model: nn.Module) -> list[tuple[str, object]]:
    own = [
        (f"{name}.{flag}", vars(one)[flag])
        for name, one in quantizers_of(model).items()
        for flag in FLAGS
    ]
    learned = [(name, one.requires_grad) for name, one in model.named_parameters()]
    return (
        own
        + learned
        + [(flag, getattr(quant_nn.TensorQuantizer, flag, None)) for flag in CLASS_FLAGS]
    )


def only_disabled(quantizer: Any) -> None:
    quantizer._disabled = True


@pytest.mark.parametrize(
    "switch",
    [
        lambda quantizer: quantizer.disable(),
        lambda quantizer: quantizer.disable_quant(),
        only_disabled,
    ],
    ids=["disable", "disable_quant", "_disabled"],
)
def test_what_a_user_switched_off_in_any_way_is_not_listed_and_stays_off(
    chain: nn.Module, switch: Callable[[Any], None]
) -> None:
    switch(chain.conv3._input_quantizer)
    source, x = PytorchQuantizationModel(chain), batch(seed=5)
    assert names_of(chain) == set(quantizers_of(chain)) - {"conv3._input_quantizer"}
    assert chain.conv3._input_quantizer(x) is x
    with source.disabled([]):
        assert chain.conv3._input_quantizer(x) is x
    assert chain.conv3._input_quantizer(x) is x


def test_all_switches_are_restored_after_an_evaluator_that_plays_with_them_and_fails(
    chain: nn.Module,
) -> None:
    learned = quant_nn.TensorQuantizer(QuantDescriptor(learn_amax=True, amax=2.0))
    chain.conv1._input_quantizer = learned
    chain.conv2._weight_quantizer.disable()
    chain.conv4._input_quantizer.enable_calib()
    before = switches(chain)
    source = PytorchQuantizationModel(chain)

    def evaluate() -> None:
        for quantizer in quantizers_of(chain).values():
            quantizer.disable_quant()
            quantizer.enable_calib()
            quantizer._disabled = True
            quantizer._fake_quant = False
        learned.disable_clip()
        quant_nn.TensorQuantizer._enable_onnx_export = True
        raise RuntimeError("no boxes")

    with pytest.raises(RuntimeError, match="no boxes"), source.disabled(["conv3._input_quantizer"]):
        evaluate()
    assert switches(chain) == before


def test_nothing_is_collected_while_variants_are_measured(chain: nn.Module) -> None:
    chain.conv2._input_quantizer.enable_calib()
    before = chain.conv2._input_quantizer._calibrator.compute_amax().clone()
    with PytorchQuantizationModel(chain).disabled([]):
        chain(batch() * 100)
    assert torch.equal(chain.conv2._input_quantizer._calibrator.compute_amax(), before)
    assert chain.conv2._input_quantizer._if_calib


def test_a_calibration_that_was_not_finished_is_named(chain: nn.Module) -> None:
    chain.conv2._input_quantizer.disable_quant()
    chain.conv2._input_quantizer.enable_calib()
    with pytest.raises(
        ModelError, match=r"conv2\._input_quantizer: it was left in calibration mode"
    ):
        check_calibrated(PytorchQuantizationModel(chain).quantizers)


class Residual(nn.Module):
    """A block as in NVIDIA's quantized ResNet: the skip connection has a quantizer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.residual_quantizer = quant_nn.TensorQuantizer(QuantDescriptor())

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + self.residual_quantizer(x))


class Blocks(nn.Module):
    """Two residual blocks and quantizers in other places: at the top, in a Sequential, in a
    list."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Residual(), quant_nn.TensorQuantizer(QuantDescriptor()), Residual()
        )
        self.cat_quantizers = nn.ModuleList(
            quant_nn.TensorQuantizer(QuantDescriptor()) for _ in range(2)
        )
        self.quant = quant_nn.TensorQuantizer(QuantDescriptor())
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(x)
        z = torch.cat([self.cat_quantizers[0](x), self.cat_quantizers[1](y)], 1)
        return self.fc(self.quant(z).mean((2, 3)))


def test_free_standing_quantizers_belong_to_the_block_that_holds_them_or_stand_by_themselves() -> (
    None
):
    model = quantized_by_pq(Blocks, batch())
    found = {
        quantizer.name: (quantizer.layer, quantizer.role)
        for quantizer in PytorchQuantizationModel(model).quantizers
    }
    assert found["blocks.0.residual_quantizer"] == ("blocks.0", "input")
    assert found["blocks.0.conv._weight_quantizer"] == ("blocks.0.conv", "weight")
    assert found["blocks.1"] == ("blocks.1", "input")
    assert found["quant"] == ("quant", "input")
    assert found["cat_quantizers.0"] == ("cat_quantizers.0", "input")
    assert all(layer for layer, _ in found.values())


def test_an_object_that_two_layers_share_is_one_quantizer_and_switches_both(
    chain: nn.Module,
) -> None:
    chain.conv4._input_quantizer = chain.conv2._input_quantizer
    source = PytorchQuantizationModel(chain)
    assert "conv4._input_quantizer" not in names_of(chain)
    with source.disabled(["conv2._input_quantizer"]):
        assert chain.conv4._input_quantizer._disabled
    assert_replayed(source, batch(seed=3))


def test_the_lists_of_a_recurrent_layer_belong_to_the_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = quant_nn.QuantLSTM(3, 4, num_layers=2)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(x)[0][-1])

    x = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    source = PytorchQuantizationModel(quantized_by_pq(Net, x))
    units = {unit.name: unit.quantizers for unit in layers(source.quantizers)}
    lists = [
        f"rnn._{which}_quantizers.{layer}" for which in ("input", "weight") for layer in (0, 1)
    ]
    assert units == {"rnn": tuple(lists), "fc": ("fc._input_quantizer", "fc._weight_quantizer")}
    assert [quantizer.role for quantizer in source.quantizers[:4]] == ["input"] * 2 + ["weight"] * 2
    names = [quantizer.name for quantizer in source.quantizers]
    (_, on), (_, off) = ToggleSimulator(source).outputs(x, [frozenset(), frozenset(names)])
    assert not torch.equal(on, off)


@pytest.mark.parametrize(
    ("axis", "shape", "expected"),
    [
        (None, (), None),
        ((0,), (4, 1, 1, 1), 0),
        (0, (4, 1, 1, 1), 0),
        (-3, (1, 3, 1, 1), 1),
        (None, (4, 1, 1, 1), 0),  # a given amax is used whatever the axis says
        (0, (), None),
        (0, (1, 1, 1, 1), 0),
    ],
    ids=str,
)
def test_the_channel_axis_is_that_of_amax(
    chain: nn.Module, axis: Any, shape: tuple[int, ...], expected: Any
) -> None:
    quantizer = chain.conv2._weight_quantizer
    quantizer._axis = axis
    quantizer._amax = torch.linspace(0.5, 1, int(np.prod(shape))).reshape(shape)
    source = PytorchQuantizationModel(chain)
    grid, name = source.grid("conv2._weight_quantizer"), "conv2._weight_quantizer"
    assert grid.axis == expected
    assert next(one.axis for one in source.quantizers if one.name == name) == expected
    x = chain.conv2.weight.detach()[:, :3]
    assert torch.equal(GridQuantizer(source, name)(x), quantizer(x))
    scale = (
        grid.scale.reshape([-1 if at == grid.axis else 1 for at in range(4)])
        if grid.scale.size > 1
        else grid.scale
    )
    ours = np.clip(np.round(x.numpy() / scale), grid.low, grid.high) * scale
    np.testing.assert_allclose(quantizer(x).numpy(), ours, atol=1e-6)


SETTINGS = {
    "narrow": {"narrow_range": True},
    "unsigned": {"unsigned": True},
    "four bits": {"num_bits": 4},
    "scaled": {"scale_amax": 0.5},
    "learned": {"learn_amax": True},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_grids_give_the_bits_of_the_toolkits_own_quantizer(
    chain: nn.Module, settings: dict[str, Any]
) -> None:
    chain.conv1._input_quantizer = quant_nn.TensorQuantizer(QuantDescriptor(amax=1.5, **settings))
    source = PytorchQuantizationModel(chain)
    x = batch(seed=4) * 2
    x = x.abs() if "unsigned" in settings else x
    with torch.no_grad():
        own = chain.conv1._input_quantizer(x)
    assert torch.equal(GridQuantizer(source, "conv1._input_quantizer")(x), own)
    grid = source.grid("conv1._input_quantizer")
    ours = np.clip(np.round(x.numpy() / grid.scale), grid.low, grid.high) * grid.scale
    np.testing.assert_allclose(own.numpy(), ours, atol=1e-6)


def lopsided(quantizer: Any) -> None:
    quantizer.__init__(QuantDescriptor(learn_amax=True, amax=1.0))
    quantizer.clip.clip_value_min.data.fill_(-0.4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: setattr(one, "_num_bits", (4, 3)), r"its number format is \(4, 3\)"),
        (lambda one: setattr(one, "_fake_quant", False), "it gives integers"),
        (lambda one: setattr(one, "_amax", torch.ones(3)), r"its amax has the shape \(3,\)"),
        (
            lambda one: setattr(one, "_amax", torch.ones(1, 3, 8, 1)),
            r"its amax has the shape \(1, 3, 8, 1\)",
        ),
        (lopsided, "it learned a range that is not symmetric"),
    ],
    ids=["fp8", "integers", "flat amax", "two axes", "lopsided"],
)
def test_what_is_no_integer_grid_says_why_and_stays_the_users_own_module(
    chain: nn.Module, change: Callable[[Any], None], reason: str
) -> None:
    change(chain.conv1._input_quantizer)
    source = PytorchQuantizationModel(chain)
    with pytest.raises(ModelError, match=rf"Expected conv1\._input_quantizer .*{reason}"):
        source.grid("conv1._input_quantizer")
    assert isinstance(native_quantizers(source)[0], OwnQuantizer)


@pytest.mark.parametrize(
    ("amax", "problem"),
    [
        (None, "amax is missing"),
        (torch.tensor(float("nan")), "amax is not finite"),
        (torch.tensor([[1.0], [-1.0], [-2.0]]), "amax of 2 of 3 channels is negative"),
    ],
    ids=["missing", "nan", "channels"],
)
def test_what_is_wrong_with_a_range_is_said(
    chain: nn.Module, amax: Tensor | None, problem: str
) -> None:
    del chain.fc._input_quantizer._amax
    if amax is not None:
        chain.fc._input_quantizer.register_buffer("_amax", amax)
    with pytest.raises(ModelError, match=rf"fc\._input_quantizer: .*{problem}"):
        check_calibrated(PytorchQuantizationModel(chain).quantizers)


def test_a_transposed_convolution_with_the_default_axis_is_named_and_the_advice_helps() -> None:
    build, x = (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2))), batch()
    with pytest.raises(
        ModelError, match=r"along axis 0, .*QuantConvTranspose2d\.set_default_quant_desc_weight"
    ):
        check_calibrated(
            PytorchQuantizationModel(quantized_by_pq(build, x, transposed_axis=0)).quantizers
        )
    check_calibrated(PytorchQuantizationModel(quantized_by_pq(build, x)).quantizers)


def test_a_model_whose_quantizers_are_all_off_is_refused_with_what_to_do(chain: nn.Module) -> None:
    for quantizer in quantizers_of(chain).values():
        quantizer.disable()
    with pytest.raises(
        ModelError,
        match=r"got 10 quantizers, all disabled; call pytorch_quantization\.quant_modules",
    ):
        PytorchQuantizationModel(chain)


def assert_replayed(source: PytorchQuantizationModel, inputs: Tensor) -> None:
    """The factory replays the model bit for bit, each layer off in turn."""
    simulator = simulator_for(source, batch())
    assert simulator.name == "replay", simulator.reason
    assert "bit for bit" in simulator.reason
    variants = [
        frozenset[str](),
        *(frozenset(unit.quantizers) for unit in layers(source.quantizers)),
    ]
    expected = dict(ToggleSimulator(source).outputs(inputs, variants))
    for index, outputs in simulator.outputs(inputs, variants):
        assert all(map(torch.equal, flat(outputs), flat(expected[index])))


def flat(outputs: Any) -> list[Tensor]:
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


@pytest.fixture(scope="module")
def branches() -> PytorchQuantizationModel:
    return PytorchQuantizationModel(quantized_by_pq(Branches, batch(6, 16), like=seeded(Branches)))


def test_replay_gives_the_models_own_numbers(branches: PytorchQuantizationModel) -> None:
    assert_replayed(branches, batch(6, 16, seed=7))


def test_a_learned_range_is_replayed_and_counts_as_its_learned_value(chain: nn.Module) -> None:
    chain.conv2._input_quantizer = quant_nn.TensorQuantizer(
        QuantDescriptor(learn_amax=True, amax=3.0)
    )
    source = PytorchQuantizationModel(chain)
    assert source.grid("conv2._input_quantizer").scale == pytest.approx(3 / 127)
    assert_replayed(source, batch(seed=8))


def test_exported_files_agree_with_the_simulated_model(
    branches: PytorchQuantizationModel, tmp_path
) -> None:
    units, skip, inputs = layers(branches.quantizers), ["shared", "left"], batch(6, 16)
    files = export_files(branches, inputs, units, skip, tmp_path, fingerprint="f00d")
    found = {check.variant: check for check in verify(branches, files, inputs, units, skip).files}
    assert {name: check.quantizers for name, check in found.items()} == {
        "float": 0,
        "int8": 14,
        "partial": 10,
    }
    assert len(found["int8"].layers) == 7
    assert all(layer.difference <= 1e-5 for layer in found["int8"].layers)
    assert found["int8"].rms <= 0.05 * found["int8"].quantization_rms


def test_residual_quantizers_export_and_one_between_two_of_its_own_grid_is_told_from_a_missing_one(
    tmp_path,
) -> None:
    model = quantized_by_pq(Blocks, batch(6, 16))
    model.quant.disable_quant()
    source = PytorchQuantizationModel(model)
    units, inputs = layers(source.quantizers), batch(6, 16)
    skip = ["blocks.0"]
    files = export_files(source, inputs, units, skip, tmp_path, fingerprint="f00d")
    found = {
        check.variant: check.quantizers
        for check in verify(source, files, inputs, units, skip).files
    }
    assert found == {
        "float": 0,
        "int8": len(source.quantizers),
        "partial": len(source.quantizers) - 1,
    }


def test_calibrating_again_is_another_model(chain: nn.Module) -> None:
    before = PytorchQuantizationModel(chain).fingerprint()
    calibrate(chain, batch() * 2)
    assert PytorchQuantizationModel(chain).fingerprint() != before


def test_the_toolkits_own_calibrators_find_other_ranges_which_are_put_back(
    chain: nn.Module,
) -> None:
    source = PytorchQuantizationModel(chain)
    before, name = source.fingerprint(), "conv3._input_quantizer"
    found = source.other_ranges([name], lambda: chain(batch(seed=1)))
    assert {one.method for one in found} == {
        "percentile 99.9",
        "percentile 99.99",
        "entropy",
        "mse",
    }
    largest = batch(seed=1).abs().max() * 100
    assert all(0 < one.amax[0] < largest for one in found)
    with source.with_ranges(found[:1]):
        assert source.grid(name).scale * 127 == pytest.approx(found[0].amax[0])
    assert source.fingerprint() == before


def test_layers_take_16_bit_activations_where_formats_are_asked_for(chain: nn.Module) -> None:
    source, x = PytorchQuantizationModel(chain), batch(seed=3)
    check_formats(PlanSettings(directory=Path(), formats="int8,int16,float"), source)
    wide = wide_ranges(source, layers(source.quantizers))
    assert {(unit, one.quantizer, one.bits) for unit, (one,) in wide.items()} == {
        (unit, f"{unit}._input_quantizer", 16)
        for unit in ("conv1", "conv2", "conv3", "conv4", "fc")
    }
    ranges = [one for own in wide.values() for one in own]
    before = chain(x)
    with source.with_ranges(ranges):
        whole = chain(x)
        weights = {q.name: source.grid(q.name).high for q in source.quantizers}
    assert set(weights.values()) == {32767, 127}
    assert torch.equal(chain(x), before)
    simulator = ReplaySimulator(Alternatives(source, ranges))
    ((_, replayed),) = simulator.outputs(x, [frozenset(one.key for one in ranges)])
    assert torch.equal(replayed, whole)
