"""PT2E graphs: their pairs as switchable quantizers with the user's own names, float weights found
again."""

from __future__ import annotations

import copy
import io
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import Branches, batch, seeded
from support.pt2e_models import (
    INPUTS,
    WeightedLayers,
    aten,
    quantized_by_pt2e,
    without_float_weights,
)
from torch import Tensor, nn
from torchao.quantization.pt2e import MinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationSpec

from sensitivity.config import PlanSettings
from sensitivity.errors import ExportError, ModelError, SensitivityError
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify import verify
from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import check_calibrated, layers
from sensitivity.quantizers.torch.pt2e import Pt2eModel
from sensitivity.simulators.choose import simulator_for
from sensitivity.simulators.evaluate import EvaluateSimulator
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.steps.plan import check_formats


@pytest.fixture(scope="module")
def converted() -> Any:
    return quantized_by_pt2e(seeded(Branches), batch(6, 16))


@pytest.fixture
def source(converted: Any) -> Pt2eModel:
    return Pt2eModel(copy.deepcopy(converted))


def off(source: Pt2eModel) -> frozenset[str]:
    return frozenset(quantizer.name for quantizer in source.quantizers)


def outputs(source: Pt2eModel, variant: frozenset[str], x: Tensor) -> Any:
    ((_, found),) = ToggleSimulator(source).outputs(x, [variant])
    return found


def assert_close(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    for ours, theirs in zip(flat(one), flat(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * float(theirs.abs().max()))


def flat(values: Any) -> list[Tensor]:
    return list(values.values()) if isinstance(values, dict) else [values]


def test_quantizers_are_named_by_the_modules_of_the_users_code(source: Pt2eModel) -> None:
    units = {unit.name: unit.quantizers for unit in layers(source.quantizers)}
    assert set(units) == {"stem.0", "shared", "left", "right", "up", "box", "classes"}
    assert units["left"] == ("left.input_quantizer", "left.weight_quantizer")
    assert units["shared"] == (
        "shared.input_quantizer",
        "shared.weight_quantizer",
        "shared_1.input_quantizer",
    )


def test_the_quantized_model_is_the_users_bit_for_bit_and_replayed(
    source: Pt2eModel, converted: Any
) -> None:
    x = batch(6, 16, seed=3)
    with torch.no_grad():
        expected = converted(x)
    assert all(map(torch.equal, flat(outputs(source, frozenset(), x)), flat(expected)))
    simulator = simulator_for(source, batch(6, 16))
    assert (simulator.name, "bit for bit" in simulator.reason) == ("replay", True)
    variants = [frozenset(unit.quantizers) for unit in layers(source.quantizers)]
    for index, found in simulator.outputs(x, variants):
        assert all(map(torch.equal, flat(found), flat(outputs(source, variants[index], x))))


def test_with_folded_batchnorms_all_off_is_the_float_model_up_to_rounding(
    source: Pt2eModel,
) -> None:
    x = batch(6, 16, seed=4)
    with torch.no_grad():
        assert_close(outputs(source, off(source), x), seeded(Branches)(x))


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "not folded"])
def test_float_weights_are_found_whether_folded_or_not(fold: bool) -> None:
    source = Pt2eModel(quantized_by_pt2e(seeded(Branches), batch(6, 16), fold=fold))
    assert source.warnings == ()
    weight = seeded(Branches).left.weight
    (kept,) = (value for name, value in source.model.named_parameters() if name == "left.weight")
    assert torch.equal(kept, weight)


def saved_and_loaded(model: Any, x: Tensor) -> Any:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,)), buffer)
    buffer.seek(0)
    return torch.export.load(buffer).module()


def test_a_graph_that_was_saved_and_loaded_still_has_its_float_weights(converted: Any) -> None:
    x = batch(6, 16)
    source = Pt2eModel(saved_and_loaded(converted, x))
    assert source.warnings == ()
    with torch.no_grad():
        assert_close(outputs(source, off(source), x), seeded(Branches)(x))


def test_where_the_float_weights_are_gone_they_are_dequantized_and_it_is_said() -> None:
    x = batch(6, 16)
    folded = without_float_weights(quantized_by_pt2e(seeded(Branches), x))
    source = Pt2eModel(folded)
    assert source.warnings[0].startswith("7 of 7 weights exist as integers only")
    assert "fold_quantize=False" in source.warnings[0]
    weights = frozenset(
        quantizer.name for quantizer in source.quantizers if quantizer.role == "weight"
    )
    assert len(weights) == 7
    with torch.no_grad():
        assert all(map(torch.equal, flat(outputs(source, frozenset(), x)), flat(folded(x))))
    assert all(
        map(torch.equal, flat(outputs(source, weights, x)), flat(outputs(source, frozenset(), x)))
    )
    assert not torch.equal(
        outputs(source, off(source), x)["box"], outputs(source, frozenset(), x)["box"]
    )


class Ops(nn.Module):
    """Quantized ops without weights: an addition in a block, a concat, a pool, and the model's
    output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) + x
        y = y + 1
        return self.pool(torch.cat([x, y], 1))


def test_ops_without_weights_are_units_of_their_own_and_outputs_belong_to_what_made_them() -> None:
    extra = {
        aten.add.Tensor: (INPUTS, None),
        aten.cat.default: (INPUTS, INPUTS),
        aten.max_pool2d.default: (None, INPUTS),
    }
    source = Pt2eModel(
        quantized_by_pt2e(Ops().eval(), batch(), quantizer=WeightedLayers(extra=extra))
    )
    units = {unit.name: unit.quantizers for unit in layers(source.quantizers)}
    assert units == {
        "conv": ("conv.input_quantizer", "conv.weight_quantizer"),
        "add": ("add.input_quantizer", "add.input_quantizer_1"),
        "add_1": ("add_1.input_quantizer",),
        "cat": ("cat.input_quantizer", "cat.input_quantizer_1"),
        "pool": ("pool.input_quantizer", "pool.output_quantizer"),
    }
    assert [one.role for one in source.quantizers if one.layer == "pool"] == ["input", "output"]
    x, everything = batch(seed=6), off(source)
    with torch.no_grad():
        assert torch.equal(outputs(source, frozenset(), x), source._user(x))
    for unit in units.values():
        assert not torch.equal(
            outputs(source, everything - frozenset(unit), x), outputs(source, everything, x)
        )


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y.relu_()
        return self.second(y) + y


def test_an_op_that_writes_into_a_value_does_so_in_the_float_model_too() -> None:
    model, x = seeded(InPlace), batch()
    source = Pt2eModel(quantized_by_pt2e(model, x))
    with torch.no_grad():
        assert_close(outputs(source, off(source), x), model(x))


def test_the_users_own_object_is_switched_along_and_left_as_it_was(source: Pt2eModel) -> None:
    held, x = source._user, batch(6, 16)
    attributes, code = set(vars(held)), held.code
    with torch.no_grad():
        before = held(x)["box"]

        def evaluate(model: Any) -> float:
            assert model.eval() is model
            return float(
                (held(x)["box"] - model(x)["box"]).abs().max()
                + (held(x)["box"] - before).abs().max()
            )

        variants = [frozenset[str](), frozenset(["left.input_quantizer"])]
        (_, unchanged), (_, changed) = EvaluateSimulator(source).outputs(evaluate, variants)
        assert unchanged == 0 < changed
        with pytest.raises(KeyError), source.disabled(["left.input_quantizer"]):
            raise KeyError
        assert torch.equal(held(x)["box"], before)
    assert (set(vars(held)), held.code) == (attributes, code)


def test_exported_files_agree_with_the_simulated_model(source: Pt2eModel, tmp_path) -> None:
    units, skip, inputs = layers(source.quantizers), ["shared", "left"], batch(6, 16)
    files = export_files(source, inputs, units, skip, tmp_path, fingerprint="f00d")
    found = {check.variant: check for check in verify(source, files, inputs, units, skip).files}
    assert {name: check.quantizers for name, check in found.items()} == {
        "float": 0,
        "int8": 15,
        "partial": 10,
    }
    checked = [layer for layer in found["int8"].layers if layer.difference is not None]
    assert len(checked) >= 6
    assert all(layer.difference <= 1e-5 for layer in checked)
    assert found["int8"].rms <= 0.05 * found["int8"].quantization_rms


def test_values_beyond_the_lowest_level_are_compared_at_that_of_the_file(
    source: Pt2eModel, tmp_path: Path
) -> None:
    inputs, units = 2 * batch(6, 16, seed=3), layers(source.quantizers)
    own = source.grid("stem.0.input_quantizer")
    assert own.low == -127
    assert (inputs.numpy() < -127.5 * own.scale).any()
    files = export_files(source, inputs, units, [], tmp_path, fingerprint="f00d")
    (check,) = (
        one for one in verify(source, files, inputs, units, []).files if one.variant == "int8"
    )
    assert max(layer.difference for layer in check.layers if layer.difference is not None) <= 1e-5
    assert source.grid("stem.0.input_quantizer").low == -127


ASYMMETRIC = QuantizationSpec(
    torch.uint8, MinMaxObserver, quant_min=0, quant_max=255, qscheme=torch.per_tensor_affine
)


def test_asymmetric_ranges_are_replayed_and_reported_before_an_export_that_refuses_them(
    tmp_path,
) -> None:
    source = Pt2eModel(
        quantized_by_pt2e(seeded(Branches), batch(6, 16), quantizer=WeightedLayers(ASYMMETRIC))
    )
    assert source.warnings[0].startswith("8 of 15 quantizers are not symmetric")
    grid, x = source.grid("left.input_quantizer"), batch(seed=9) * 2
    assert (grid.low, grid.high, grid.axis) == (0, 255, None)
    assert grid.zero_point > 0
    levels = np.clip(np.round(x.numpy() / grid.scale) + grid.zero_point, grid.low, grid.high)
    own = source.model.get_submodule("left.input_quantizer")
    np.testing.assert_allclose(own(x).numpy(), (levels - grid.zero_point) * grid.scale, atol=1e-5)
    assert simulator_for(source, batch(6, 16)).name == "replay"
    with pytest.raises(
        ExportError,
        match=r"to be symmetric and signed .*, got integers 0 to 255 with zero point .*"
        "qscheme=torch.per_tensor_symmetric in PT2E",
    ):
        export_files(
            source, batch(6, 16), layers(source.quantizers), [], tmp_path, fingerprint="f00d"
        )


def test_a_model_that_was_never_calibrated_is_refused_by_name() -> None:
    source = Pt2eModel(quantized_by_pt2e(seeded(Branches), batch(6, 16), calibrate=False))
    with pytest.raises(
        ModelError, match=r"left\.input_quantizer: .*where calibration passed no data"
    ):
        check_calibrated([one for one in source.quantizers if one.name == "left.input_quantizer"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda module: setattr(module, "scale", float("nan")), "its scale is not finite"),
        (lambda module: setattr(module, "scale", 0.0), "its scale is not above 0"),
        (
            lambda module: setattr(module, "zero_point", 300),
            "its zero point is not between -127 and 127",
        ),
    ],
    ids=["nan", "zero", "zero point"],
)
def test_what_is_wrong_with_a_pair_is_said(source: Pt2eModel, change: Any, problem: str) -> None:
    change(source.model.get_submodule("left.input_quantizer"))
    with pytest.raises(ModelError, match=rf"Expected left\.input_quantizer .*{problem}"):
        source.grid("left.input_quantizer")


def test_channels_with_other_zero_points_are_no_single_grid(source: Pt2eModel) -> None:
    source.model.get_submodule("left.weight_quantizer").zero_point[1] = 3
    with pytest.raises(ModelError, match="its channels have 2 different zero points"):
        source.grid("left.weight_quantizer")


def test_a_model_that_is_only_prepared_or_only_exported_learns_what_is_missing() -> None:
    program = torch.export.export(seeded(Branches), (batch(),))
    with pytest.raises(
        ModelError, match=r"got the program; call torchao's prepare_pt2e.* on program\.module\(\)"
    ):
        quantized_model(program)
    with pytest.raises(
        ModelError,
        match=r"only prepared \(it holds activation_post_process_1\); .*convert_pt2e\(model\)",
    ):
        quantized_model(prepare_pt2e(program.module(), WeightedLayers()))
    assert not Pt2eModel.recognises(program.module())


def test_a_graph_of_another_kind_is_refused_without_torchao(warm_bin: Path) -> None:
    script = """
import sys
import torch
assert "torchao" not in sys.modules
from sensitivity.opened import quantized_model
quantized_model(torch.fx.symbolic_trace(torch.nn.Linear(2, 2)))
"""
    command = [warm_bin / "python", "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.stderr.splitlines()[-1].startswith(
        "sensitivity.errors.ModelError: Expected a model with quantizers of"
    )


def test_dynamic_quantization_is_refused_with_the_op() -> None:
    from torchao.quantization.pt2e import PlaceholderObserver

    dynamic = QuantizationSpec(
        torch.int8,
        PlaceholderObserver.with_args(eps=2**-12),
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
        is_dynamic=True,
    )
    model = quantized_by_pt2e(seeded(Branches), batch(), quantizer=WeightedLayers(dynamic))
    with pytest.raises(
        ModelError, match=r"with fixed scales, got quantized_decomposed\.choose_qparams"
    ):
        quantized_model(model)


class Fixed:
    """A model of another package's source, whose quantizers take no other ranges."""

    source, in_words = "fixed", "a fixed graph"


def test_formats_are_refused_in_one_sentence_that_names_the_way_out(source: Pt2eModel) -> None:
    settings, fixed = PlanSettings(directory=Path(), formats="int8,int16,float"), Fixed()
    with pytest.raises(SensitivityError) as refused:
        check_formats(settings, fixed)
    assert str(refused.value) == (
        "Expected a model whose quantizers can take other ranges for --formats int16, got a fixed "
        "graph; leave int16 out, or scan its Q/DQ file."
    )
    check_formats(PlanSettings(directory=Path(), formats="int8,float"), fixed)
    check_formats(settings, source)
