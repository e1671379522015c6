"""Files in other formats than INT8: their content, and that ONNX Runtime computes what was
measured."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from support.models import seeded
from support.onnx_models import qdq_file
from support.pq_models import quantized_by_pq, quantizers_of
from torch import nn

from sensitivity.errors import ExportError
from sensitivity.exporters.lower import lower_file
from sensitivity.exporters.onnx_file import export_onnx, verify_onnx
from sensitivity.exporters.torch_model import disabled_by_variant, export_files
from sensitivity.exporters.verify import verify
from sensitivity.exporters.verify_layers import near_boundary
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import E4M3, nearest_levels
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.uses import format_of
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.quantizers.torch.pytorch_quantization import PytorchQuantizationModel
from sensitivity.records import Grid
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.simulators.choose import simulator_for


class Net(nn.Module):
    """A convolution with BatchNorm, a Linear layer on three axes (a MatMul) and one on two."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 160, 3), nn.BatchNorm2d(160)
        self.token, self.head = nn.Linear(160, 72), nn.Linear(72, 5)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.weight.data.uniform_(-1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        return self.head(torch.relu(self.token(x)).mean(1))


def images() -> torch.Tensor:
    return torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def with_16_bit_activations() -> dict[str, Any]:
    config = copy.deepcopy(mtq.INT8_DEFAULT_CFG)
    config["quant_cfg"].append(
        {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 16, "axis": None}}
    )
    return config


def source_in(config: dict[str, Any]) -> ModelOptModel:
    x = images()
    return ModelOptModel(mtq.quantize(seeded(Net), config, lambda model: model(x)))


CASES = {
    "INT8": (mtq.INT8_DEFAULT_CFG, {"INT8"}, 17),
    "INT8 SmoothQuant": (mtq.INT8_SMOOTHQUANT_CFG, {"INT8"}, 17),
    "INT16 activations": (with_16_bit_activations(), {"INT8", "INT16"}, 21),
    "FP8": (mtq.FP8_DEFAULT_CFG, {"FP8 E4M3"}, 19),
    "INT4 blocks": (mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG, {"INT4 in blocks of 128"}, 21),
    "INT4 AWQ": (mtq.INT4_AWQ_CFG, {"INT4 in blocks of 128"}, 21),
    "INT4 in FP8, AWQ": (mtq.W4A8_AWQ_BETA_CFG, {"INT4 in blocks of 128", "FP8 E4M3"}, 21),
}


@pytest.mark.parametrize("case", CASES)
def test_a_format_is_exported_and_computes_what_was_measured(case: str, tmp_path: Path) -> None:
    config, formats, opset = CASES[case]
    source, x = source_in(config), images()
    units = layers(source.quantizers)
    files = export_files(source, x, units, ["token"], tmp_path, fingerprint="")
    model = load_model(files["int8"])
    assert {format_of(pair) for pair in qdq.pairs(model.graph)} == formats
    assert model.opset_imports[""] == opset
    found = verify(source, files, x, units, ["token"])
    differences = [layer.difference for check in found.files for layer in check.layers]
    assert None not in differences
    assert len(differences) == 2 * len(units) - 1


def test_the_page_of_formats_says_what_is_exported() -> None:
    page = (Path(__file__).parent.parent / "docs/formats.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    told = {row[1]: row[4] for row in rows if len(row) == 7}
    for case, (_, _, opset) in CASES.items():
        assert told[case].startswith(f"opset {opset}")


def test_a_weight_that_was_left_without_its_second_range_keeps_the_one_of_each_forward() -> None:
    """ModelOpt calibrates the FP8 of an AWQ weight in Linear layers only."""
    source = source_in(mtq.W4A8_AWQ_BETA_CFG)
    first, second = source.model.conv.weight_quantizer
    assert second.amax is None
    values = first(source.model.conv.weight).detach()
    amax = source.amax("conv.weight_quantizer.1")
    assert amax == values.abs().max()
    x, before = images(), source.model(images())
    assert second.amax is None, "the model is as it came"
    second.amax = amax
    assert torch.equal(source.model(x), before)


@pytest.mark.parametrize("case", ["INT8 SmoothQuant", "INT4 AWQ"])
def test_a_pre_quantization_scale_is_a_mul_in_every_file(case: str, tmp_path: Path) -> None:
    source, x = source_in(CASES[case][0]), images()
    files = export_files(source, x, layers(source.quantizers), ["head"], tmp_path, fingerprint="")
    for file in files.values():
        factors = [
            np.ravel(qdq.known(node.inputs[1]))
            for node in load_model(file).graph
            if node.op_type == "Mul"
        ]
        own = [source.model.token.input_quantizer, source.model.head.input_quantizer]
        expected = [scale.pre_quant_scale.numpy().ravel() for scale in own]
        assert all(any(np.array_equal(one, f) for f in factors) for one in expected)


def test_a_file_in_another_format_is_not_lowered(tmp_path: Path) -> None:
    source = source_in(mtq.FP8_DEFAULT_CFG)
    files = export_files(source, images(), layers(source.quantizers), [], tmp_path, fingerprint="")
    with pytest.raises(ExportError, match="INT8 to lower it for openvino, got FP8 E4M3 in model"):
        lower_file(files["int8"], "openvino", tmp_path / "lowered.onnx")


def test_levels_are_those_of_their_type() -> None:
    steps = np.float32([0.0, 0.3, 17.2, -460.0, 1e9])
    assert nearest_levels(steps, E4M3).tolist() == [0.0, 0.3125, 18.0, -448.0, 448.0]
    assert nearest_levels(steps, ir.DataType.INT4).tolist() == [0.0, 0.0, 7.0, -8.0, 7.0]
    assert nearest_levels(steps, ir.DataType.INT16).tolist() == [0.0, 0.0, 17.0, -460.0, 32767.0]


def test_a_value_is_near_a_boundary_of_its_own_format() -> None:
    """Between 16 and 18 the levels of FP8 E4M3 lie 2 apart, and 17 is the middle."""
    values = np.float32([17.0, 16.5, 17.5, 0.5])
    floating = Grid(np.ones(1, np.float32), 0, -448, 448, None, is_float=True)
    integers = Grid(np.ones(1, np.float32), 0, -128, 127, None)
    assert near_boundary(values, floating).tolist() == [True, False, False, False]
    assert near_boundary(values, integers).tolist() == [False, True, True, True]


@pytest.mark.parametrize("bits", [4, 16])
def test_bits_of_pytorch_quantization_are_exported(bits: int, tmp_path: Path) -> None:
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    model = quantized_by_pq(
        lambda: nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)), x
    )
    for quantizer in quantizers_of(model).values():
        quantizer._num_bits = bits
    source = PytorchQuantizationModel(model)
    units = layers(source.quantizers)
    files = export_files(source, x, units, ["0"], tmp_path, fingerprint="")
    found = verify(source, files, x, units, ["0"])
    assert [len(check.layers) for check in found.files] == [0, 2, 1]
    kinds = {format_of(pair) for pair in qdq.pairs(load_model(files["int8"]).graph)}
    assert kinds == {f"INT{bits}"}


# Files of ONNX Runtime's own quantizers.
# --------------------------------------------------------------------------------------------------


class Batches(CalibrationDataReader):
    def __init__(self) -> None:
        self._left = iter([{"x": rows(16, seed)} for seed in range(3)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 64)).astype(np.float32)


def float_file(folder: Path) -> Path:
    draw = np.random.default_rng(9).standard_normal
    return qdq_file(
        folder / "float.onnx",
        "a = MatMul (x, w1) r = Relu (a) y = MatMul (r, w2)",
        {name: draw(shape).astype("f") for name, shape in (("w1", (64, 32)), ("w2", (32, 8)))},
        opset=21,
        ports="(float[b, 64] x) => (float[b, 8] y)",
    )


def made_by_onnxruntime(folder: Path, activation: QuantType, weight: QuantType) -> Path:
    distribution, minmax = CalibrationMethod.Distribution, CalibrationMethod.MinMax
    quantize_static(
        float_file(folder),
        folder / "quantized.onnx",
        Batches(),
        activation_type=activation,
        weight_type=weight,
        # the quantizer takes FP8 with this method alone
        calibrate_method=distribution if activation is QuantType.QFLOAT8E4M3FN else minmax,
    )
    return folder / "quantized.onnx"


def in_blocks(folder: Path) -> Path:
    quantizer = MatMulNBitsQuantizer(
        onnx.load(float_file(folder)), block_size=32, quant_format=QuantFormat.QDQ
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(folder / "quantized.onnx"))
    return folder / "quantized.onnx"


FILES: dict[str, tuple[Callable[[Path], Path], set[str]]] = {
    "UINT16 and INT8": (
        lambda folder: made_by_onnxruntime(folder, QuantType.QUInt16, QuantType.QInt8),
        {"INT16", "INT8"},
    ),
    "UINT16 and UINT4": (
        lambda folder: made_by_onnxruntime(folder, QuantType.QUInt16, QuantType.QUInt4),
        {"INT16", "INT4"},
    ),
    "UINT8 and INT4": (
        lambda folder: made_by_onnxruntime(folder, QuantType.QUInt8, QuantType.QInt4),
        {"INT8", "INT4"},
    ),
    "FP8": (
        lambda folder: made_by_onnxruntime(
            folder, QuantType.QFLOAT8E4M3FN, QuantType.QFLOAT8E4M3FN
        ),
        {"FP8 E4M3"},
    ),
    "UINT4 blocks": (in_blocks, {"INT4 in blocks of 32"}),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_keeps_its_formats_and_computes_what_it_did(case: str, tmp_path: Path) -> None:
    make, formats = FILES[case]
    given, inputs = make(tmp_path), {"x": rows(16, 7)}
    source = OnnxQdqModel(OnnxModel(given))
    assert {quantizer.format for quantizer in source.quantizers} == formats
    units = layers(source.quantizers)
    skip = [units[0].name]
    files = export_onnx(source, units, skip, tmp_path / "out", fingerprint="")
    disabled = disabled_by_variant(source, units, skip)
    found = verify_onnx(source, files, disabled, inputs, simulator_for(source, inputs))
    assert [check.variant for check in found.files] == ["float", "int8", "partial"]
    before = outputs_of(given, inputs)
    np.testing.assert_array_equal(outputs_of(files["int8"], inputs), before)
    # Where a file has integers alone, leaving out a weight gives back no other values.
    is_restored = case != "UINT4 blocks"
    assert (outputs_of(files["partial"], inputs) != before).any() == is_restored


def outputs_of(file: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with OnnxRuntime(optimize=False).build(file) as engine:
        return engine.run(inputs)["y"]
