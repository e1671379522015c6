"""Lowering for ONNX Runtime's QNN execution provider: one type in each operation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from support import models
from support.blocks import Blocks
from support.onnx_models import float_file, images, static_file
from support.onnx_text import network_of

from sensitivity.errors import ExportError
from sensitivity.exporters.example import Example
from sensitivity.exporters.lower import lower_file
from sensitivity.exporters.lower_qdq import lower_qdq
from sensitivity.exporters.lower_qnn import lower
from sensitivity.exporters.onnx_file import export_onnx
from sensitivity.exporters.ranges import keep_ranges
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify_lowering import check_lowering
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.float_biases import FloatBiases
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.rules.lint import lint_model, run_lint
from sensitivity.search.wide import wide_ranges

# Small graphs.
# --------------------------------------------------------------------------------------------------

HEAD = '<ir_version: 10, opset_import: ["" : {opset}]> net (float[1,4,4,4] x) => ({outputs}) {{\n'
RANGE = (-3.0, 5.0)


def layer(name: str, reads: str, bits: int = 8) -> str:
    """A padded convolution of what a canonical file quantizes to this many bits; 32 for none."""
    if bits == 32:
        return f"[{name}] {name} = Conv <pads = [1, 1, 1, 1]> ({reads}, w)\n"
    scale, zero = {8: ("s", "z"), 16: ("s16", "z16")}[bits]
    return (
        f"{name}q = QuantizeLinear ({reads}, {scale}, {zero})\n"
        f"{name}d = DequantizeLinear ({name}q, {scale}, {zero})\n"
        f"{name}wq = QuantizeLinear (w, ws, z)\n{name}wd = DequantizeLinear ({name}wq, ws, z)\n"
        f"[{name}] {name} = Conv <pads = [1, 1, 1, 1]> ({name}d, {name}wd)\n"
    )


def lowered(body: str, outputs: str = "y", opset: int = 21) -> ir.Model:
    ports = ", ".join(f"float[1,4,4,4] {name}" for name in outputs.split())
    draw = np.random.default_rng(0)
    model = network_of(
        HEAD.format(opset=opset, outputs=ports) + body + "}",
        w=draw.normal(0, 0.2, (4, 4, 3, 3)).astype(np.float32),
        ws=np.array(0.005, np.float32),
        s=np.array(0.05, np.float32),
        z=np.array(0, np.int8),
        s16=np.array(0.05 / 256, np.float32),
        z16=np.array(0, np.int16),
        half=np.array(0.5, np.float32),
    )
    values = [value for node in model.graph for value in node.outputs]
    ranges = {value.name: (0.0, 5.0) if is_relu(value) else RANGE for value in values}
    keep_ranges(model, ranges | {"x": RANGE})
    made = lower(model)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    assert lint_model(made, "qnn") == []
    return made


def is_relu(value: ir.Value) -> bool:
    return value.producer().op_type == "Relu"


def node(model: ir.Model, name: str) -> ir.Node:
    return next(one for one in model.graph if one.name == name)


def types(model: ir.Model, name: str) -> tuple[list[str], list[str]]:
    """The types of the pairs before and after a node, the nearest first."""
    before, after = [], []
    pair = qdq.pair_of(node(model, name).inputs[0])
    while pair is not None:
        before.append(pair.zero_point.dtype.name)
        pair = qdq.pair_of(pair.source)
    (value,) = node(model, name).outputs
    while (reader := next(iter(value.consumers()), None)) is not None:
        if reader.op_type == "QuantizeLinear":
            after.append(qdq.constant(reader.inputs[2]).dtype.name)
        elif reader.op_type != "DequantizeLinear":
            break
        value = reader.outputs[0]
    return before, after


def test_values_between_layers_are_written_in_the_type_of_the_one_that_gives_them() -> None:
    made = lowered(layer("a", "x") + layer("b", "a") + layer("y", "b"))
    assert types(made, "a") == (["uint8"], ["uint8"])
    assert types(made, "b") == (["uint8"], ["uint8", "uint16"])
    # The model's outputs have 16 bits, and what is read there in 8 is converted.
    assert types(made, "y") == (["uint16", "uint8"], ["uint16"])


def test_a_layer_before_one_in_16_bits_computes_in_16_and_reads_a_converted_value() -> None:
    made = lowered(layer("a", "x") + layer("b", "a", 16) + layer("c", "b") + layer("y", "c"))
    assert types(made, "a") == (["uint16", "uint8"], ["uint16"])
    assert types(made, "b") == (["uint16"], ["uint16", "uint8"])
    assert types(made, "c")[0] == ["uint8", "uint16"]


def test_a_value_in_8_bits_is_the_same_after_it_is_converted_to_16() -> None:
    made = lowered(layer("y", "x"))
    wide = qdq.pair_of(node(made, "y").inputs[0])
    narrow = qdq.pair_of(wide.source)
    codes = np.arange(256)
    values = (codes - int(narrow.zero_point)) * narrow.scale
    levels = values / wide.scale + int(wide.zero_point)
    np.testing.assert_array_equal(levels, codes * 256)


def test_pairs_of_the_file_keep_their_grid_and_others_are_spread_over_the_range() -> None:
    made = lowered(layer("a", "x") + "[leaky] l = LeakyRelu (a)\n" + layer("y", "l"))
    own = qdq.pair_of(node(made, "a").inputs[0])
    assert (own.scale, own.zero_point) == (np.float32(0.05), 128)
    spread = qdq.pair_of(node(made, "leaky").inputs[0])
    assert spread.scale == pytest.approx((RANGE[1] - RANGE[0]) / 255)
    assert spread.zero_point == round(3 / 8 * 255)


def test_operations_without_weights_compute_in_the_widest_type_that_is_wanted() -> None:
    body = (
        layer("a", "x")
        + "[leaky] l = LeakyRelu (a)\n[sum] t = Add (l, a)\n"
        + layer("b", "t", 16)
        + layer("c", "l")
        + "[cat] y = Sub (b, c)\n"
    )
    made = lowered(body)
    for name in ("leaky", "sum", "cat"):
        assert types(made, name)[0][0] == types(made, name)[1][0] == "uint16"
    assert types(made, "c")[0] == ["uint16"], "it writes what an output is computed from"


def test_a_relu_stays_within_the_operation_before_it() -> None:
    made = lowered(layer("a", "x", 16) + "[relu] r = Relu (a)\n" + layer("y", "r"))
    assert node(made, "relu").inputs[0].producer().name == "a"
    (quantize,) = node(made, "relu").outputs[0].consumers()
    assert qdq.constant(quantize.inputs[2]) == np.uint16(0)


def test_operations_that_move_values_have_one_grid_before_and_after() -> None:
    pool = "[pool] p = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)\n"
    made = lowered(layer("a", "x") + pool + layer("y", "p"))
    (quantize,) = node(made, "pool").outputs[0].consumers()
    before = qdq.pair_of(node(made, "pool").inputs[0])
    assert qdq.constant(quantize.inputs[1]) == before.scale == np.float32(0.05)
    assert qdq.constant(quantize.inputs[2]) == before.zero_point


def test_constant_operands_have_the_type_of_the_operation() -> None:
    made = lowered(layer("a", "x") + "[mul] m = Mul (a, half)\n" + layer("y", "m"))
    constant = qdq.pair_of(node(made, "mul").inputs[1])
    assert constant.zero_point.dtype == np.uint8
    value = (int(qdq.constant(constant.source)) - int(constant.zero_point)) * constant.scale
    assert value == pytest.approx(0.5)


def test_layers_in_float_read_16_bits_and_stay_apart_from_pairs() -> None:
    made = lowered(layer("a", "x") + layer("b", "a", 32) + "r = Relu (b)\n" + layer("y", "r"))
    assert types(made, "a")[1] == ["uint16"]
    same = node(made, "b").inputs[0].producer()
    assert (same.op_type, same.attributes.get_float("alpha")) == ("LeakyRelu", 1.0)
    assert qdq.pair_of(same.inputs[0]).zero_point.dtype == np.uint16
    (after,) = node(made, "b").outputs[0].consumers()
    assert (after.op_type, after.attributes.get_float("alpha")) == ("LeakyRelu", 1.0)
    (relu,) = after.outputs[0].consumers()
    assert relu.op_type == "Relu"


@pytest.mark.parametrize("operands", ["a, gate", "gate, a"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_silu_in_16_bits_stays_apart_from_its_convolution(bits: int, operands: str) -> None:
    body = f"gate = Sigmoid (a)\n[silu] m = Mul ({operands})\n"
    made = lowered(layer("a", "x") + body + layer("b", "m", bits) + layer("y", "b"))
    direct = qdq.pair_of(node(made, "silu").inputs[operands.split(", ").index("a")])
    maker = direct.source.producer()
    assert maker.op_type == ("Conv" if bits == 8 else "LeakyRelu")
    if bits == 16:
        before = qdq.pair_of(maker.inputs[0])
        assert (before.scale, before.zero_point) == (direct.scale, direct.zero_point)


def test_pairs_of_16_bits_in_older_opsets_are_onnx_runtimes_own() -> None:
    made = lowered(layer("a", "x") + layer("y", "a"), opset=17)
    domains = {one.domain for one in made.graph if one.op_type == "QuantizeLinear"}
    assert domains == {"", "com.microsoft"}
    assert made.opset_imports["com.microsoft"] == 1


def test_a_file_without_ranges_is_refused_in_one_sentence(tmp_path: Path) -> None:
    text = HEAD.format(opset=21, outputs="float[1,4,4,4] y") + layer("y", "x") + "}"
    arrays = {"s": np.float32(0.05), "z": np.int8(0), "ws": np.float32(0.005)}
    model = network_of(text, w=np.ones((4, 4, 3, 3), np.float32), **map_arrays(arrays))
    onnx.save(ir.to_proto(model), tmp_path / "canonical.onnx")
    with pytest.raises(ExportError, match="^Expected a file with the ranges of all activations"):
        lower_file(tmp_path / "canonical.onnx", "qnn", tmp_path / "qnn.onnx")


def map_arrays(numbers: dict[str, np.generic]) -> dict[str, np.ndarray]:
    return {name: np.array(number) for name, number in numbers.items()}


# Models of torch.
# --------------------------------------------------------------------------------------------------


class Attention(torch.nn.Module):
    """Products of activations, a softmax, and a chain of sums."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = torch.nn.Linear(48, 16), torch.nn.Linear(16, 16)
        self.q, self.k, self.v = (torch.nn.Linear(16, 16) for _ in "qkv")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.permute(0, 2, 1, 3).flatten(2))
        attended = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) * 0.25, -1)
        return x + self.out(attended @ self.v(x))


class Cut(torch.nn.Module):
    """SiLU, a Split, a Concat, a transposed convolution and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.inner = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.up = torch.nn.ConvTranspose2d(12, 8, 2, 2)
        self.fc = torch.nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = torch.nn.functional.silu(self.stem(x)).chunk(2, 1)
        x = torch.cat([first, second, torch.nn.functional.hardswish(self.inner(second))], 1)
        x = torch.nn.functional.relu6(self.up(x))
        return self.fc(torch.nn.functional.avg_pool2d(x, 4).mean((2, 3))), x


NETS = {
    "blocks": (Blocks, models.batch(16, 32)),
    "branches": (models.Branches, models.batch()),
    "attention": (Attention, torch.randn(8, 3, 5, 16, generator=torch.Generator().manual_seed(1))),
    "cut": (Cut, torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))),
}
CASES = {"int8": ([], []), "wide": ([1, 3], []), "float": ([], [2]), "both": ([-1], [1])}
"""Numbers of the layers with 16 bits, and of those in float."""


def files_of(net: str, case: str, folder: Path) -> tuple[dict[str, Path], Path]:
    """The canonical files, and the partial one lowered."""
    kind, x = NETS[net]
    source = ModelOptModel(models.quantized(models.seeded(kind), x))
    units = layers(source.quantizers)
    names = [unit.name for unit in units]
    wide, skip = ([names[at] for at in numbers] for numbers in CASES[case])
    ranges = wide_ranges(source, units)
    formats = [one for name in wide for one in ranges[name]]
    files = export_files(source, x, units, skip, folder, fingerprint="f00d", formats=formats)
    return files, lower_file(files["partial"], "qnn", folder / "qnn.onnx")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("net", NETS)
def test_a_lowered_file_is_clean_and_agrees_with_the_canonical_one(
    net: str, case: str, tmp_path: Path
) -> None:
    files, file = files_of(net, case, tmp_path)
    onnx.checker.check_model(onnx.load(file), full_check=True)
    assert run_lint(file, "qnn") == []
    example = Example({"input": NETS[net][1].numpy()})
    check = check_lowering(files["partial"], file, files["float"], example)
    assert check.target == "qnn"
    assert check.rms < 2 * check.quantization_rms
    assert load_model(file).metadata_props["sensitivity.fingerprint"] == "f00d"


# Q/DQ files.
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> OnnxQdqModel:
    """Everything in 8 bits, with biases in INT32, by ONNX Runtime's quantize_static."""
    folder = tmp_path_factory.mktemp("qdq")
    unquantized = float_file(folder / "net.onnx")
    quantized = static_file(unquantized, folder / "net.qdq.onnx")
    return OnnxQdqModel(OnnxModel(quantized, float_path=unquantized))


@pytest.fixture(scope="module")
def qdq_files(source: OnnxQdqModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Its exports, with 16 bits in a convolution and an Add."""
    folder, units = tmp_path_factory.mktemp("exports"), layers(source.quantizers)
    wide = wide_ranges(source, [unit for unit in units if unit.name in {"Conv_c2", "Add_a1"}])
    formats = [one for ranges in wide.values() for one in ranges]
    return export_onnx(source, units, [], folder, fingerprint="f00d", formats=formats)


def test_files_of_a_qdq_source_are_lowered_too(qdq_files: dict[str, Path]) -> None:
    x = {"x": images(8, seed=3)}
    checks = lower_qdq(qdq_files, "qnn", Example(x), lambda: [x])
    assert {check.target for check in checks.values()} == {"qnn"}
    assert list(checks) == ["model.partial.qnn.onnx"]
    partial = qdq_files["partial"].with_name("model.partial.qnn.onnx")
    assert run_lint(partial, "qnn") == []
    made = load_model(partial)
    assert {made.opset_imports[""], made.opset_imports["com.microsoft"]} == {17, 1}
    assert types(made, "Conv_c2")[0][0] == types(made, "Conv_c2")[1][0] == "uint16"
    # The layer before them, through a SiLU, and not the last one, whose output has a pair.
    assert types(made, "Conv_c1")[0] == ["uint16", "uint8"]
    assert types(made, "Gemm_y") == (["uint8"], ["uint8"])


def test_biases_of_these_files_are_float_with_the_same_values(qdq_files: dict[str, Path]) -> None:
    model = load_model(qdq_files["int8"])
    before = qdq.pair_of(node(model, "Conv_c1").inputs[2])
    values = qdq.constant(before.source) * before.scale
    assert FloatBiases()(model).modified
    np.testing.assert_allclose(qdq.constant(node(model, "Conv_c1").inputs[2]), values, rtol=1e-6)
    assert not FloatBiases()(model).modified


def test_a_file_that_cannot_be_lowered_is_refused_or_left_out_with_the_reason(
    qdq_files: dict[str, Path], tmp_path: Path
) -> None:
    model = load_model(qdq_files["int8"])
    first = next(one for one in model.graph if one.op_type == "QuantizeLinear")
    for one in (first, *first.outputs[0].consumers()):
        for index, number in ((1, np.full(3, 0.05, np.float32)), (2, np.zeros(3, np.int8))):
            name = f"{one.name}.{index}"
            value = ir.Value(name=name, const_value=ir.tensor(number, name=name))
            model.graph.register_initializer(value)
            one.replace_input_with(index, value)
        one.attributes["axis"] = ir.AttrInt64("axis", 1)
    files = {"float": qdq_files["float"], "partial": tmp_path / "a.onnx"}
    onnx.save(ir.to_proto(model), files["partial"])
    x, left_out = {"x": images(8, seed=3)}, dict[str, str]()
    with pytest.raises(ExportError, match="^Expected one constant scale for each activation"):
        lower_qdq(files, "qnn", Example(x), lambda: [x])
    assert lower_qdq(files, "qnn", Example(x), lambda: [x], left_out=left_out) == {}
    assert "calibrate it per tensor" in left_out["a.qnn.onnx"]


# QNN itself.
# --------------------------------------------------------------------------------------------------


def on_qnn(file: Path, inputs: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
    """What QNN's HTP backend for x86-64 gives, with nothing left to the CPU."""
    qnn = pytest.importorskip("onnxruntime_qnn", reason="runs the file on QNN's HTP backend")
    import onnxruntime

    name = "QNNExecutionProvider"
    if not any(one.ep_name == name for one in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(name, qnn.get_library_path())
    devices = [one for one in onnxruntime.get_ep_devices() if one.ep_name == name]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_free_dimension_override_by_name("batch", 1)
    options.add_provider_for_devices(devices, {"backend_path": qnn.get_qnn_htp_path()})
    return onnxruntime.InferenceSession(str(file), options).run(None, inputs)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("net", NETS)
def test_qnn_computes_the_lowered_file_without_the_cpu(net: str, case: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn", reason="runs the file on QNN's HTP backend")
    _, file = files_of(net, case, tmp_path)
    first = {"input": NETS[net][1][:1].numpy()}
    for ours, theirs in zip(Example(first).outputs(file), on_qnn(file, first), strict=True):
        assert np.sqrt(np.mean((ours - theirs) ** 2) / np.var(ours)) < 0.06


def test_qnn_computes_the_lowered_file_of_a_qdq_source(qdq_files: dict[str, Path]) -> None:
    pytest.importorskip("onnxruntime_qnn", reason="runs the file on QNN's HTP backend")
    x = {"x": images(1, seed=3)}
    (name,) = lower_qdq(qdq_files, "qnn", Example(x), lambda: [x])
    file = qdq_files["partial"].with_name(name)
    (ours,), (theirs,) = Example(x).outputs(file), on_qnn(file, x)
    assert np.sqrt(np.mean((ours - theirs) ** 2) / np.var(ours)) < 0.06
