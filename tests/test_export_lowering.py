"""Lowering canonical files for TensorRT, OpenVINO and ONNX Runtime."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support import models
from support.blocks import Blocks
from support.processors import exact_int8
from torch import nn

from sensitivity.errors import ExportError, OnnxFileError
from sensitivity.exporters import lowered
from sensitivity.exporters.evaluate import named_arrays
from sensitivity.exporters.example import Example
from sensitivity.exporters.half_baseline import half_baseline
from sensitivity.exporters.lower import lower_file
from sensitivity.exporters.ranges import ranges_of
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify_lowering import check_lowering
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.sign import non_negative
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.rules.lint import run_lint
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.units.placement import add_residual_quantizers, scale_groups, unified_scales


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    source = ModelOptModel(models.quantized(models.seeded(Blocks), models.batch(16, 32)))
    units = layers(source.quantizers)
    folder = tmp_path_factory.mktemp("blocks")
    return export_files(source, models.batch(16, 32), units, ["second"], folder, fingerprint="f00d")


BATCH = {"input": models.batch(8, 32, seed=3).numpy()}


def optimized_operations(file: Path, folder: Path) -> set[str]:
    """The operations that ONNX Runtime really runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node}


@pytest.mark.parametrize("variant", ["int8", "partial"])
@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
def test_a_lowered_file_agrees_with_the_canonical_one(files, tmp_path, target, variant):
    lowered = lower_file(files[variant], target, tmp_path / "lowered.onnx")
    onnx.checker.check_model(onnx.load(lowered), full_check=True)
    check = check_lowering(files[variant], lowered, files["float"], Example(BATCH))
    assert check.target == target
    assert check.quantization_rms > 0.001
    props = load_model(lowered).metadata_props
    assert (props["sensitivity.lowered"], props["sensitivity.fingerprint"]) == (target, "f00d")


def test_openvino_gets_unsigned_activations_on_the_same_grid(files, tmp_path):
    lowered = load_model(lower_file(files["int8"], "openvino", tmp_path / "o.onnx"))
    before = {pair.name: pair for pair in qdq.pairs(load_model(files["int8"]).graph)}
    for pair in qdq.pairs(lowered.graph):
        # pairs that moved to before a Concat are numbered
        same = before[re.sub(r"[.\d]+$", "", pair.name)]
        np.testing.assert_array_equal(pair.scale, same.scale)
        assert pair.zero_point.dtype == (np.int8 if pair.of_weight else np.uint8)
        if pair.of_weight or non_negative(pair.source):
            assert not pair.zero_point.any()
        else:
            assert (pair.zero_point == 128).all()
    assert (
        check_lowering(files["int8"], tmp_path / "o.onnx", files["float"], Example(BATCH)).rms
        < 1e-6
    )


@exact_int8
def test_openvino_itself_computes_the_lowered_file_right(files, tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    from sensitivity.runtimes.openvino import OpenVino

    lowered = lower_file(files["int8"], "openvino", tmp_path / "o.onnx")
    (expected, unquantized, output) = (
        runtime.build(file).run(BATCH)["output"]
        for runtime, file in (
            (OnnxRuntime(optimize=False), files["int8"]),
            (OnnxRuntime(optimize=False), files["float"]),
            (OpenVino(), lowered),
        )
    )
    assert np.abs(output - expected).mean() < np.abs(unquantized - expected).mean()


def test_onnx_runtime_runs_every_layer_in_integers_but_the_last(files, tmp_path):
    lowered = lower_file(files["int8"], "onnxruntime", tmp_path / "o.onnx")
    operations = optimized_operations(lowered, tmp_path)
    assert {"QLinearConv", "QLinearAdd", "QLinearConcat"} <= operations
    assert "Conv" not in operations
    assert "Conv" in optimized_operations(files["int8"], tmp_path)


def test_onnx_runtime_leaves_skipped_layers_unquantized(files, tmp_path):
    model = load_model(lower_file(files["partial"], "onnxruntime", tmp_path / "o.onnx"))
    (second,) = [node for node in model.graph.all_nodes() if node.name == "second"]
    assert [qdq.pair_of(value) for value in second.inputs] == [None] * 3
    assert "Conv" in optimized_operations(tmp_path / "o.onnx", tmp_path)


def test_tensors_that_cannot_be_negative_get_the_zero_point_0(files, tmp_path):
    model = load_model(lower_file(files["int8"], "onnxruntime", tmp_path / "o.onnx"))
    nodes = {node.name: node for node in model.graph if node.op_type == "QuantizeLinear"}
    found = {name: qdq.constant(node.inputs[2]) for name, node in nodes.items()}
    assert found["second.input_quantizer/QuantizeLinear"] == 0  # after a ReLU
    assert found["first.input_quantizer/QuantizeLinear"] == 0
    assert found["merge.input_quantizer/QuantizeLinear"] == 128
    assert found["stem.0.input_quantizer/QuantizeLinear"] == 128


def test_no_sum_of_non_negative_values_is_taken_for_negative_and_the_reverse(files):
    (total,) = [
        node.outputs[0]
        for node in load_model(files["float"]).graph.all_nodes()
        if node.op_type == "Add"
    ]
    assert not non_negative(total)
    assert non_negative(total.consumers()[0].outputs[0])


def test_what_a_skipped_layer_gets_is_not_quantized_on_the_way(files, tmp_path):
    model = load_model(lower_file(files["partial"], "onnxruntime", tmp_path / "o.onnx"))
    (second,) = [node for node in model.graph.all_nodes() if node.name == "second"]
    value, quantized = second.inputs[0], set()
    while (node := value.producer()) is not None and node.op_type != "Conv":
        quantized.add(node.op_type)
        value = node.inputs[0]
    assert quantized == {"Relu"}


def test_tensorrt_gets_fp16_and_keeps_its_inputs_and_outputs(files, tmp_path):
    model = load_model(lower_file(files["partial"], "tensorrt", tmp_path / "t.onnx"))
    assert model.opset_imports[""] == 19
    assert {value.dtype.name for value in (*model.graph.inputs, *model.graph.outputs)} == {"FLOAT"}
    convolutions = [node for node in model.graph.all_nodes() if node.op_type == "Conv"]
    assert {node.inputs[2].dtype.name for node in convolutions} == {"FLOAT16"}
    for pair in qdq.pairs(model.graph):
        assert pair.scale.dtype == np.float16
        assert (pair.quantize is None) == pair.of_weight


def test_the_float_file_in_fp16_is_the_baseline(files, tmp_path):
    lowered = lower_file(files["float"], "tensorrt", tmp_path / "f.onnx")
    assert not list(qdq.pairs(load_model(lowered).graph))
    assert check_lowering(files["float"], lowered, files["float"], Example(BATCH)).rms < 1e-2


def test_the_fp16_baseline_keeps_opset_inputs_and_outputs(files):
    check = half_baseline(files["float"], Example(BATCH))
    made = onnx.load(files["float"].with_name("model.fp16.onnx"))
    assert check.target == "fp16"
    assert 0 < check.rms < 0.01
    assert made.opset_import[0].version == 17
    ends = (*made.graph.input, *made.graph.output)
    assert {value.type.tensor_type.elem_type for value in ends} == {onnx.TensorProto.FLOAT}
    assert {one.data_type for one in made.graph.initializer if len(one.dims) > 1} == {
        onnx.TensorProto.FLOAT16
    }


def test_without_an_fp16_baseline_where_fp16_cannot_hold_the_values_and_it_is_said_why(
    files, tmp_path
):
    proto = onnx.load(files["float"])
    for one in proto.graph.initializer:
        if one.name == "head.bias":
            one.CopyFrom(onnx.numpy_helper.from_array(np.full(10, 1e6, np.float32), one.name))
    file = tmp_path / "model.float.onnx"
    onnx.save(proto, file)
    (tmp_path / "model.fp16.onnx").write_text("of an earlier export")
    why = half_baseline(file, Example(named_arrays(models.batch(8, 32))))
    assert why.startswith(
        "left out, so there is no FP16 baseline: Expected outputs of model.fp16.onnx to differ from"
    )
    assert not (tmp_path / "model.fp16.onnx").exists()


def test_scales_that_fp16_cannot_hold_stay_fp32_with_their_layer(files, tmp_path):
    import onnx_ir as ir

    model = load_model(files["int8"])
    (left,) = [node for node in model.graph.all_nodes() if node.name == "left"]
    pair = qdq.pair_of(qdq.weight(left))
    for value, array in (
        (pair.dequantize.inputs[1], pair.scale),
        (pair.source, qdq.constant(pair.source)),
    ):
        value.const_value = ir.tensor((array * 1e-5).astype(np.float32), name=value.name)
    ir.save(model, tmp_path / "small.onnx")
    lowered = load_model(lower_file(tmp_path / "small.onnx", "tensorrt", tmp_path / "t.onnx"))
    (left,) = [node for node in lowered.graph.all_nodes() if node.name == "left"]
    assert [value.dtype.name for value in left.inputs] == ["FLOAT"] * 3
    assert qdq.pair_of(left.inputs[1]).scale.dtype == np.float32
    check_lowering(tmp_path / "small.onnx", tmp_path / "t.onnx", files["float"], Example(BATCH))


def test_ranges_of_activations_are_kept_in_the_file(files):
    ranges = ranges_of(load_model(files["int8"]))
    (low, high) = next(value for name, value in ranges.items() if "stem" in name and "Relu" in name)
    assert low == 0
    assert high > 0.1


def test_a_lowered_file_is_not_lowered_again(files, tmp_path):
    lowered = lower_file(files["int8"], "openvino", tmp_path / "o.onnx")
    with pytest.raises(
        ExportError, match=r"a canonical file to lower, got o.onnx, which is lowered for openvino"
    ):
        lower_file(lowered, "tensorrt", tmp_path / "t.onnx")


def test_an_unknown_target_is_refused(files, tmp_path):
    with pytest.raises(
        ExportError, match="one of tensorrt, openvino, onnxruntime, qnn to export for, got 'coreml'"
    ):
        lower_file(files["int8"], "coreml", tmp_path / "c.onnx")


def test_a_lowered_file_with_other_values_is_refused(files, tmp_path):
    lowered = lower_file(files["int8"], "openvino", tmp_path / "o.onnx")
    with pytest.raises(
        ExportError, match=r"o.onnx to differ from model.partial.onnx by at most 0.0001 .*got 0\."
    ):
        check_lowering(files["partial"], lowered, files["float"], Example(BATCH))


def test_a_file_with_nan_scales_is_not_lowered(files, tmp_path):
    import onnx_ir as ir

    model = load_model(files["int8"])
    value = model.graph.initializers["right.input_quantizer.scale"]
    value.const_value = ir.tensor(np.float32(np.nan), name=value.name)
    ir.save(model, tmp_path / "nan.onnx")
    message = (
        r"every scale in nan.onnx to be finite and above 0, got nan at "
        r"right.input_quantizer/QuantizeLinear"
    )
    with pytest.raises(OnnxFileError, match=message):
        lower_file(tmp_path / "nan.onnx", "openvino", tmp_path / "o.onnx")


class Strided(nn.Module):
    """A block with a shortcut of its own: two convolutions with stride 2 read one value."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 16, 3, 2, 1)
        self.shortcut = nn.Conv2d(16, 16, 1, 2)
        self.head = nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.conv(x) + self.shortcut(x)))


def test_openvino_quantizes_a_value_once_and_computes_a_strided_shortcut_in_int8(tmp_path):
    pytest.importorskip("openvino")
    from sensitivity.runtimes.openvino import OpenVino
    from sensitivity.timing.explain import not_in
    from sensitivity.timing.profile import profile_file

    inputs = models.batch(8, 32)
    model = models.quantized(models.seeded(Strided), inputs)
    add_residual_quantizers(ModelOptModel(model), [inputs])
    source = ModelOptModel(model)
    canonical = export_files(
        source, inputs, layers(source.quantizers), [], tmp_path, fingerprint="f00d"
    )
    file = lower_file(canonical["int8"], "openvino", tmp_path / "lowered.onnx")
    check_lowering(canonical["int8"], file, canonical["float"], Example(BATCH))
    quantized = [
        node.inputs[0] for node in load_model(file).graph if node.op_type == "QuantizeLinear"
    ]
    assert len(quantized) == len(set(quantized))
    profile = profile_file(file, OpenVino(), BATCH, threads=1, repeats=1)
    assert "shortcut" in profile.kept
    assert not_in("int8", profile.runs, profile.kept) == {}


class Cuts(nn.Module):
    """As in YOLOv8: a value is cut in two, one half goes on in float too, all meet in a Concat;
    pooled, enlarged."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.merge = nn.Conv2d(24, 16, 1)
        self.head = nn.Conv2d(32, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = nn.functional.silu(self.stem(x)).chunk(2, 1)
        x = torch.cat([left, right, right + nn.functional.silu(self.inner(right))], 1)
        x = nn.functional.silu(self.merge(x))
        small = nn.functional.max_pool2d(x, 2)
        return self.head(
            torch.cat([nn.functional.interpolate(small, scale_factor=2.0, mode="nearest"), x], 1)
        )


@pytest.fixture(scope="module")
def cuts(tmp_path_factory):
    inputs = models.batch(8, 32)
    source = ModelOptModel(models.quantized(models.seeded(Cuts), inputs))
    folder = tmp_path_factory.mktemp("cuts")
    with unified_scales(source, scale_groups(source, inputs)):
        return export_files(
            source, inputs, layers(source.quantizers), ["inner"], folder, fingerprint="f00d"
        )


@exact_int8
def test_openvino_moves_integers_that_convolutions_wrote(cuts, tmp_path):
    pytest.importorskip("openvino")
    from sensitivity.runtimes.openvino import OpenVino
    from sensitivity.timing.explain import not_in
    from sensitivity.timing.profile import profile_file

    lowered = lower_file(cuts["int8"], "openvino", tmp_path / "lowered.onnx")
    assert check_lowering(cuts["int8"], lowered, cuts["float"], Example(BATCH)).rms < 1e-6
    profile = profile_file(lowered, OpenVino(), BATCH, threads=1, repeats=1)
    assert len(profile.kept) == 4
    assert not_in("int8", profile.runs, profile.kept) == {}
    moving = [run for run in profile.runs if run.op in {"Concatenation", "Pooling", "Interpolate"}]
    assert [run.precision for run in moving] == ["int8"] * 4
    assert run_lint(lowered, "openvino") == []
    separate = [run.onnx for run in profile.runs if run.op == "FakeQuantize"]
    # the input, and what is cut, as the sum needs it in float too
    assert len(separate) == 2, separate
    with (
        OpenVino().build(lowered) as engine,
        OnnxRuntime(optimize=False).build(cuts["int8"]) as reference,
    ):
        (got,), (expected,) = (runtime.run(BATCH).values() for runtime in (engine, reference))
    assert np.abs(got - expected).mean() < 0.01 * np.abs(expected).mean()


def test_openvino_gives_a_layer_in_float_what_it_had_before_quantizers_moved(cuts, tmp_path):
    lowered = lower_file(cuts["partial"], "openvino", tmp_path / "lowered.onnx")
    assert check_lowering(cuts["partial"], lowered, cuts["float"], Example(BATCH)).rms < 1e-6
    (inner,) = [
        node
        for node in load_model(lowered).graph
        if node.name == "inner/Conv" or node.name == "inner"
    ]
    assert not qdq.quantized(inner.inputs[0])


class Distribution(nn.Module):
    """As in a detector's head: Softmax over an axis in the middle, and one over the last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 50 * self.conv(x).softmax(1).softmax(-1)


def test_onnxruntime_gets_softmax_over_an_inner_axis_spelled_out_with_the_same_values(tmp_path):
    inputs = 100 * models.batch(4, 32)  # exp of what the convolution gives would overflow
    source = ModelOptModel(models.quantized(models.seeded(Distribution), inputs))
    canonical = export_files(
        source, inputs, layers(source.quantizers), ["conv"], tmp_path, fingerprint="f00d"
    )
    lowered = lower_file(canonical["partial"], "onnxruntime", tmp_path / "lowered.onnx")
    nodes = [node for node in load_model(lowered).graph if node.op_type == "Softmax"]
    assert [node.attributes.get_int("axis") for node in nodes] in ([-1], [3])
    with OnnxRuntime().build(canonical["partial"]) as before, OnnxRuntime().build(lowered) as after:
        (expected,), (got,) = (
            engine.run({"input": inputs.numpy()}).values() for engine in (before, after)
        )
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("opset", [12, 13, 17, 18, 21])
def test_onnxruntime_gets_a_valid_softmax_of_the_same_values_in_every_opset(opset, tmp_path):
    """The axes of ReduceMax became an input with 18; below 13 Softmax is over more than one axis,
    and stays."""
    text = f"""<ir_version: 7, opset_import: ["" : {opset}]>
    net (float[1, 4, 2, 3] x) => (float[1, 4, 2, 3] y)
    <float scale = {{0.05}}, int8 zero = {{0}}> {{
        levels = QuantizeLinear (x, scale, zero)
        values = DequantizeLinear (levels, scale, zero)
        y = Softmax <axis = 1> (values)
    }}"""
    canonical = tmp_path / "canonical.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)), canonical)
    lowered = lower_file(canonical, "onnxruntime", tmp_path / "lowered.onnx")
    onnx.checker.check_model(onnx.load(lowered), full_check=True)
    operations = [node.op_type for node in load_model(lowered).graph]
    assert ("Softmax" in operations) == (opset == 12)
    x = np.random.default_rng(0).normal(size=(1, 4, 2, 3)).astype(np.float32)
    with OnnxRuntime().build(canonical) as before, OnnxRuntime().build(lowered) as after:
        (expected,), (got,) = (engine.run({"x": x}).values() for engine in (before, after))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


class Joined(nn.Module):
    """Two convolutions into one Concat into a third."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 3, padding=1)
        self.merge = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.merge(torch.cat([self.left(x), self.right(x)], 1))


def test_onnxruntime_gets_the_parts_of_a_concat_on_its_own_grid(tmp_path):
    inputs = models.batch(4, 32)
    source = ModelOptModel(models.quantized(models.seeded(Joined), inputs))
    canonical = export_files(
        source, inputs, layers(source.quantizers), [], tmp_path, fingerprint="f00d"
    )
    graph = load_model(
        lower_file(canonical["int8"], "onnxruntime", tmp_path / "lowered.onnx")
    ).graph
    (concat,) = [node for node in graph if node.op_type == "Concat"]
    after = next(node for node in concat.outputs[0].consumers() if node.op_type == "QuantizeLinear")
    for value in concat.inputs:
        assert qdq.pair_of(value).scale == qdq.constant(after.inputs[1])
        assert qdq.pair_of(value).zero_point == qdq.constant(after.inputs[2])


def test_a_lowered_file_that_does_not_hold_is_refused_or_left_out_with_its_reason(
    files, tmp_path, monkeypatch
):
    def wrong(canonical, lowered, *_, **__):
        raise ExportError(f"Expected outputs of {lowered.name} to be right, got others.")

    monkeypatch.setattr(lowered, "check_lowering", wrong)
    mine = {variant: tmp_path / file.name for variant, file in files.items()}
    for variant, file in files.items():
        mine[variant].write_bytes(file.read_bytes())
    example = Example(named_arrays(torch.rand(2, 3, 32, 32)))
    with pytest.raises(ExportError, match=r"Expected outputs of model\.int8\.openvino\.onnx"):
        lowered.lower_files(mine, ["openvino"], example)
    assert not (tmp_path / "model.int8.openvino.onnx").exists()
    reasons: dict[str, str] = {}
    assert lowered.lower_files(mine, ["openvino"], example, left_out=reasons) == {}
    assert (
        "so the canonical file is benched: Expected outputs" in reasons["model.int8.openvino.onnx"]
    )
    assert not (tmp_path / "model.int8.openvino.onnx").exists()
