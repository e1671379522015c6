"""Layers left unquantized compute what the float model computes, whatever the tool did to its
weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from support.onnx_models import float_file, images, qdq_file, run_file, static_file

from sensitivity.opened import quantized_model
from sensitivity.quantizers.onnx.float_model import tolerances
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.simulators.onnx.replay import OnnxReplay
from sensitivity.simulators.onnx.whole import WholeFile

NORMED = """
<ir_version: 8, opset_import: ["" : 17]>
normed (float[batch, 3, 12, 12] x) => (float[batch, 4] y)
{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
    n1 = BatchNormalization (c1, g1, e1, m1, v1)
    r1 = Relu (n1)
    c2 = Conv (r1, w2)
    n2 = BatchNormalization (c2, g2, e2, m2, v2)
    s2 = Sigmoid (n2)
    p2 = Mul (n2, s2)
    a2 = GlobalAveragePool (p2)
    f2 = Flatten (a2)
    y = Gemm (f2, w3, b3)
}
"""


def normed_file(path: Path) -> Path:
    """Two convolutions with BatchNorm, and a linear layer whose weight is [in, out]."""
    model = onnx.parser.parse_model(NORMED)
    rng = np.random.default_rng(5)
    values: dict[str, np.ndarray] = {
        "w1": rng.normal(size=(6, 3, 3, 3)),
        "w2": rng.normal(size=(5, 6, 1, 1)),
    }
    values |= {"w3": rng.normal(size=(5, 4)), "b3": rng.normal(size=4)}
    for number, channels in ((1, 6), (2, 5)):
        values |= {
            f"g{number}": rng.uniform(0.2, 3, channels),
            f"v{number}": rng.uniform(0.5, 30, channels),
        }
        values |= {f"e{number}": rng.normal(size=channels), f"m{number}": rng.normal(size=channels)}
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    onnx.save(model, path)
    return path


def changed(
    source: Path, path: Path, changes: dict[str, Callable[[np.ndarray], np.ndarray]]
) -> Path:
    """The file with other values in some initializers."""
    model = onnx.load(source)
    left = dict(changes)
    for tensor in model.graph.initializer:
        if tensor.name in left:
            values = left.pop(tensor.name)(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert not left, "every change has its initializer"
    onnx.save(model, path)
    return path


def all_off(model: OnnxModel, x: np.ndarray) -> np.ndarray:
    with model.skipping(frozenset(use.name for use in model.uses)):
        return np.asarray(model.run(None, {model.get_inputs()[0].name: x})[0])


def check_off_is(model: OnnxModel, original: Path, x: np.ndarray, tolerance: float = 1e-5) -> None:
    theirs = run_file(original, x)
    assert np.max(np.abs(all_off(model, x) - theirs)) <= tolerance * theirs.std()


def weights_of(model: OnnxModel, unit: str) -> frozenset[str]:
    return frozenset(use.name for use in model.uses if use.unit == unit and use.role == "weight")


def with_corrected_biases(folder: Path) -> tuple[Path, Path]:
    """(float file, its Q/DQ file with float biases that were corrected for the quantized
    weights)."""
    original = float_file(folder / "float.onnx")
    path = static_file(original, folder / "q.onnx", extra_options={"QuantizeBias": False})
    return original, changed(
        path, folder / "int8.onnx", {"b1": lambda b: b + np.float32(0.2), "b3": lambda b: b * 2}
    )


def test_a_corrected_bias_stays_beside_the_quantized_weight_and_goes_with_it(
    tmp_path: Path,
) -> None:
    original, path = with_corrected_biases(tmp_path)
    model = OnnxModel(path, float_path=original)
    check_off_is(model, original, images(4, 0), 0)
    stored = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer
    }
    known = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(original).graph.initializer
    }
    partial = model.without(weights_of(model, "Conv_c1"))
    nodes = {node.name: node for node in partial.graph}
    assert np.array_equal(nodes["Conv_c1"].inputs[2].const_value.numpy(), known["b1"])  # type: ignore[union-attr]
    assert np.array_equal(nodes["Gemm_y"].inputs[2].const_value.numpy(), stored["b3"])  # type: ignore[union-attr]
    assert [node.op_type for node in partial.graph].count("Identity") == 0
    assert "b1" not in partial.graph.initializers, "nothing that is not read is left in the file"
    inputs = frozenset(
        use.name for use in model.uses if use.unit == "Conv_c1" and use.role == "input"
    )
    assert "b1" in model.without(inputs).graph.initializers, (
        "the weight stays in INT8, so does its bias"
    )


def test_replay_switches_a_corrected_bias_with_its_weight_bit_for_bit(tmp_path: Path) -> None:
    original, path = with_corrected_biases(tmp_path)
    source = quantized_model(OnnxModel(path, float_path=original))
    rng = np.random.default_rng(0)
    names = np.array([quantizer.name for quantizer in source.quantizers])
    variants = [frozenset(), weights_of(source.model, "Conv_c1"), frozenset(names.tolist())]
    variants += [
        frozenset(names[rng.random(len(names)) < share].tolist()) for share in (0.2, 0.5, 0.8)
    ]
    ours = dict(OnnxReplay(source).outputs(images(5, 1), variants))
    for index, theirs in WholeFile(source).outputs(images(5, 1), variants):
        assert np.array_equal(ours[index], theirs), variants[index]


def test_weights_stored_as_rounded_floats_in_front_of_a_pair_are_the_float_models_again(
    tmp_path: Path,
) -> None:
    original = float_file(tmp_path / "float.onnx")
    path = static_file(original, tmp_path / "q.onnx", extra_options={"AddQDQPairToWeight": True})

    def learned(weight: np.ndarray) -> np.ndarray:
        step = np.abs(weight).max() / 127
        # up or down, as AdaRound does
        drawn = np.random.default_rng(1).integers(0, 2, weight.shape)
        return ((np.floor(weight / step) + drawn) * step).astype(np.float32)

    path = changed(path, tmp_path / "int8.onnx", dict.fromkeys(("w1", "w2", "w3"), learned))
    model = OnnxModel(path, float_path=original)
    assert model.float is not None
    assert model.float.missing == ()
    check_off_is(model, original, images(4, 0), 0)
    assert np.array_equal(model.run(None, {"x": images(4, 0)})[0], run_file(path, images(4, 0)))
    source = quantized_model(model)
    variants = [
        frozenset(),
        weights_of(model, "Conv_c2"),
        frozenset(use.name for use in model.uses),
    ]
    ours = dict(OnnxReplay(source).outputs(images(3, 1), variants))
    for index, theirs in WholeFile(source).outputs(images(3, 1), variants):
        assert np.array_equal(ours[index], theirs), variants[index]


@pytest.mark.parametrize("stored", ["compact", "pairs"])
def test_weights_are_cast_to_the_type_of_a_half_precision_graph(
    tmp_path: Path, stored: str
) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    scale = np.float16(np.abs(weight).max() / 127)
    levels = np.clip(np.rint(weight / np.float32(scale)), -127, 127).astype(np.int8)
    rounded = (levels.astype(np.float16) * scale).astype(np.float16)
    ports = "(float16[n, 4] x) => (float16[n, 4] y)"
    body = {
        "compact": "d = DequantizeLinear (w, s, z) y = MatMul (x, d)",
        "pairs": "q = QuantizeLinear (w, s, z) d = DequantizeLinear (q, s, z) y = MatMul (x, d)",
    }[stored]
    constants = {"w": levels if stored == "compact" else rounded, "s": scale, "z": np.int8(0)}
    path = qdq_file(tmp_path / "q.onnx", body, constants, opset=19, ports=ports)
    original = qdq_file(
        tmp_path / "f.onnx",
        "y = MatMul (x, w)",
        {"w": weight},
        ports="(float[n, 4] x) => (float[n, 4] y)",
    )
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float16)
    off = all_off(OnnxModel(path, float_path=original), x)
    assert off.dtype == np.float16
    assert np.array_equal(
        off,
        (x.astype(np.float32) @ weight.astype(np.float16).astype(np.float32)).astype(np.float16),
    )


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E5M2"])
@pytest.mark.parametrize("stored", ["compact", "pairs"])
def test_weights_on_a_grid_of_fp8_are_found_whose_steps_grow_with_the_value(
    tmp_path: Path, kind: str, stored: str
) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    element = onnx.helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, kind))
    scale = np.float32(np.abs(weight).max() / float(ml_dtypes.finfo(element).max))
    levels = (weight / scale).astype(element)
    body = {
        "compact": "d = DequantizeLinear (w, s, z) y = MatMul (x, d)",
        "pairs": "q = QuantizeLinear (w, s, z) d = DequantizeLinear (q, s, z) y = MatMul (x, d)",
    }[stored]
    held = levels if stored == "compact" else levels.astype(np.float32) * scale
    path = qdq_file(
        tmp_path / "q.onnx", body, {"w": held, "s": scale, "z": np.zeros((), element)}, opset=19
    )
    original = qdq_file(tmp_path / "f.onnx", "y = MatMul (x, w)", {"w": weight})
    model = OnnxModel(path, float_path=original)
    assert model.float is not None
    assert (model.float.stored, model.float.missing, model.float.doubts) == (1, (), 0)
    check_off_is(
        model, original, np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32), 0
    )


@pytest.mark.parametrize("order", [(1, 0), (3, 2, 0, 1)], ids=["linear", "convolution"])
def test_weights_that_the_tool_transposed_are_found(tmp_path: Path, order: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    if len(order) == 2:
        weight, ports = rng.normal(size=(5, 4)), "(float[n, 4] x) => (float[n, 5] y)"
        body, off = "t = Transpose <perm = [1, 0]> (w) y = MatMul (x, t)", "y = MatMul (x, d)"
        x = rng.normal(size=(3, 4)).astype(np.float32)
    else:
        weight, ports = (
            rng.normal(size=(3, 3, 2, 6)),
            "(float[n, 2, 5, 5] x) => (float[n, 6, 3, 3] y)",
        )
        body, off = "t = Transpose <perm = [3, 2, 0, 1]> (w) y = Conv (x, t)", "y = Conv (x, d)"
        x = rng.normal(size=(3, 2, 5, 5)).astype(np.float32)
    weight = weight.astype(np.float32)
    moved = weight.T if len(order) == 2 else weight.transpose(3, 2, 0, 1)
    scale = np.float32(np.abs(weight).max() / 127)
    levels = np.rint(moved / scale).astype(np.int8)
    original = qdq_file(tmp_path / "f.onnx", body, {"w": weight}, ports=ports)
    constants = {"other": levels, "s": scale, "z": np.int8(0)}
    path = qdq_file(
        tmp_path / "q.onnx", f"d = DequantizeLinear (other, s, z) {off}", constants, ports=ports
    )
    model = OnnxModel(path, float_path=original)
    check_off_is(model, original, x, 1e-6)


def preprocessed(source: Path, path: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(source), str(path))
    return path


def folded_by_us(source: Path, path: Path) -> Path:
    import onnx_ir as ir

    from sensitivity.onnx_graph.float_model import with_batchnorm_folded

    ir.save(with_batchnorm_folded(ir.load(source)), path)
    return path


def of_opset(version: int) -> Callable[[Path, Path], Path]:
    def convert(source: Path, path: Path) -> Path:
        onnx.save(onnx.version_converter.convert_version(onnx.load(source), version), path)
        return path

    return convert


@pytest.mark.parametrize(
    "form",
    [preprocessed, folded_by_us, of_opset(21), of_opset(16)],
    ids=["onnxruntime", "batchnorm", "opset-21", "opset-16"],
)
@pytest.mark.parametrize(
    "options", [{}, {"per_channel": True}, {"extra_options": {"AddQDQPairToWeight": True}}], ids=str
)
def test_the_float_file_may_be_the_one_before_equivalent_changes(
    tmp_path: Path, form: Callable[[Path, Path], Path], options: dict[str, Any]
) -> None:
    from onnxruntime.quantization import QuantType

    original = normed_file(tmp_path / "float.onnx")
    extra = {"ActivationSymmetric": True, **options.get("extra_options", {})}
    options = {**options, "activation_type": QuantType.QInt8, "extra_options": extra}
    path = static_file(form(original, tmp_path / "form.onnx"), tmp_path / "q.onnx", **options)
    model = OnnxModel(path, float_path=original)
    assert model.float is not None
    assert model.float.missing == ()
    check_off_is(model, original, images(4, 0), 1e-5)


def test_on_a_coarse_grid_the_folded_weight_is_taken_not_one_that_is_near_enough(
    tmp_path: Path,
) -> None:
    original = changed(
        normed_file(tmp_path / "plain.onnx"),
        tmp_path / "float.onnx",
        {"w1": lambda w: w * np.where(np.arange(6) == 0, 60, 1).astype(np.float32).reshape(-1, 1, 1,
          1),
         "v1": lambda v: np.where(np.arange(6) == 0, 3600, 1).astype(np.float32)},
    )  # fmt: skip
    from onnxruntime.quantization import QuantType

    path = static_file(
        preprocessed(original, tmp_path / "form.onnx"),
        tmp_path / "q.onnx",
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt4,
        op_types_to_quantize=["Conv", "Gemm"],
        extra_options={"ActivationSymmetric": True},
    )
    check_off_is(OnnxModel(path, float_path=original), original, images(4, 0), 1e-5)


ACTIVATED = """
<ir_version: 10, opset_import: ["" : {opset}]>
activated (float[batch, 3, 12, 12] x) => (float[batch, 4, 12, 12] y, float[batch, 6] z)
{{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
    r2 = Clip (c2, zero, one)
    c3 = Conv (r2, w3, b3)
    r3 = Clip (c3, minus, half)
    a1 = Add (r3, r2)
    r4 = Relu (a1)
    c4 = Conv (r4, w4, b4)
    p4 = Abs (c4)
    c5 = Conv (p4, w5, b5)
    y = Clip (c5, , half)
    g1 = GlobalAveragePool (p4)
    z = Flatten (g1)
}}
"""
ACTIVATED_SHAPES = {
    "w1": (6, 3, 3, 3),
    "w2": (6, 6, 3, 3),
    "w3": (6, 6, 1, 1),
    "w4": (6, 6, 1, 1),
    "w5": (4, 6, 1, 1),
}
ENDS = {"zero": 0, "one": 1, "minus": -0.5, "half": 0.5}


def activated_file(path: Path, opset: int = 17) -> Path:
    """Convolutions and an Add with Relu, Clip(0, 1), Clip(-0.5, 0.5), and a Clip of one end on an
    output."""
    model = onnx.parser.parse_model(ACTIVATED.format(opset=opset))
    rng = np.random.default_rng(7)
    values: dict[str, Any] = {
        name: rng.normal(size=shape) * 0.4 for name, shape in ACTIVATED_SHAPES.items()
    }
    values |= {
        f"b{name[1:]}": rng.normal(size=shape[0]) for name, shape in ACTIVATED_SHAPES.items()
    } | ENDS
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    onnx.save(model, path)
    return path


def activations(graph: Any) -> list[str]:
    return [node.op_type for node in graph if node.op_type in {"Relu", "Clip"}]


def modes() -> dict[str, dict[str, Any]]:
    from onnxruntime.quantization import CalibrationMethod, QuantType

    return {
        "default": {},
        "uint8": {"activation_type": QuantType.QUInt8},
        "uint8-per_channel": {"activation_type": QuantType.QUInt8, "per_channel": True},
        "reduced": {"activation_type": QuantType.QUInt8, "reduce_range": True},
        "symmetric": {"extra_options": {"ActivationSymmetric": True}},
        "16-bit": {"activation_type": QuantType.QUInt16},
        "signed_16-bit": {"activation_type": QuantType.QInt16},
        "uint8_weights": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
        "float_weights": {"extra_options": {"AddQDQPairToWeight": True}},
        "float_biases": {"extra_options": {"QuantizeBias": False}},
        "dedicated": {"extra_options": {"DedicatedQDQPair": True}},
        "convolutions": {"op_types_to_quantize": ["Conv"]},
        "kept_activations": {"extra_options": {"QDQKeepRemovableActivations": True}},
        "percentile": {"calibrate_method": CalibrationMethod.Percentile},
    }


@pytest.mark.parametrize("mode", sorted(modes()))
@pytest.mark.parametrize("opset", [13, 17, 21])
def test_activations_that_the_quantizer_removed_stand_again_where_their_pair_is_left_out(
    tmp_path: Path, mode: str, opset: int
) -> None:
    original = activated_file(tmp_path / "float.onnx", opset)
    path = static_file(original, tmp_path / "int8.onnx", **modes()[mode])
    source = quantized_model(OnnxModel(path, float_path=original))
    model = source.model
    off = model.without(frozenset(use.name for use in model.uses))
    assert activations(off.graph) == ["Relu", "Clip", "Clip", "Relu", "Clip"], (
        "each once, where the float model has it"
    )
    check_off_is(model, original, images(4, 0), 1e-6)
    findings = source.float_findings(images(4, 0))  # type: ignore[attr-defined]
    assert [finding.code for finding in findings] == ["float-proved"], findings


def test_without_the_float_file_a_pair_that_clamps_at_zero_keeps_its_relu(tmp_path: Path) -> None:
    path = static_file(activated_file(tmp_path / "float.onnx"), tmp_path / "int8.onnx")
    model = OnnxModel(path)
    assert activations(model.graph.graph) == ["Clip"] * 0
    off = model.without(frozenset(use.name for use in model.uses))
    assert activations(off.graph) == ["Relu", "Relu", "Relu"], (
        "after c1, c2 and a1; Abs is never negative"
    )


def test_a_relu_is_not_put_where_the_float_model_has_none(tmp_path: Path) -> None:
    original = qdq_file(
        tmp_path / "f.onnx", "y = MatMul (x, w)", {"w": np.eye(4, dtype=np.float32)}, ports=PORTS
    )
    body = "m = MatMul (x, w) q = QuantizeLinear (m, s, z) y = DequantizeLinear (q, s, z)"
    constants = {"w": np.eye(4, dtype=np.float32), "s": np.float32(0.1), "z": np.uint8(0)}
    path = qdq_file(tmp_path / "q.onnx", body, constants, ports=PORTS)
    x = np.array([[-1, 0, 1, 30]], np.float32)
    assert np.array_equal(all_off(OnnxModel(path), x), [[0, 0, 1, 30]]), (
        "a Relu, for all that is known"
    )
    assert np.array_equal(all_off(OnnxModel(path, float_path=original), x), x)


PORTS = "(float[n, 4] x) => (float[n, 4] y)"


def test_a_partial_file_holds_an_activation_only_where_its_pair_is_left_out(tmp_path: Path) -> None:
    original = activated_file(tmp_path / "float.onnx")
    model = OnnxModel(static_file(original, tmp_path / "int8.onnx"), float_path=original)
    names = frozenset(
        use.name for use in model.uses if use.unit == "Conv_c3" and use.role == "input"
    )
    partial = model.without(names)
    assert activations(partial.graph) == ["Clip"]
    (clip,) = (node for node in partial.graph if node.op_type == "Clip")
    assert [reader.name for reader, _ in clip.outputs[0].uses()] == ["Conv_c3"], (
        "the Add still reads the pair"
    )
    assert activations(model.without(frozenset()).graph) == []


def test_replay_restores_activations_bit_for_bit(tmp_path: Path) -> None:
    original = activated_file(tmp_path / "float.onnx")
    source = quantized_model(
        OnnxModel(static_file(original, tmp_path / "int8.onnx"), float_path=original)
    )
    rng = np.random.default_rng(0)
    names = np.array([quantizer.name for quantizer in source.quantizers])
    variants = [frozenset[str](), frozenset(names.tolist())]
    variants += [
        frozenset(names[rng.random(len(names)) < share].tolist())
        for share in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]
    ours = dict(OnnxReplay(source).outputs(images(5, 1), variants))
    for index, theirs in WholeFile(source).outputs(images(5, 1), variants):
        assert all(
            np.array_equal(one, other) for one, other in zip(ours[index], theirs, strict=True)
        ), variants[index]


def test_a_wrong_float_file_is_an_error_that_names_the_first_tensor_that_differs(
    tmp_path: Path,
) -> None:
    original = activated_file(tmp_path / "float.onnx")
    path = static_file(original, tmp_path / "int8.onnx")
    other = onnx.load(original)
    for node in other.graph.node:
        if node.name == "Abs_p4":
            node.op_type = "Exp"
    onnx.save(other, tmp_path / "other.onnx")
    (finding,) = quantized_model(
        OnnxModel(path, float_path=tmp_path / "other.onnx")
    ).float_findings(images(4, 0))  # type: ignore[attr-defined]
    assert (finding.code, finding.severity) == ("float-differs", "error")
    assert "the first tensor that differs is p4, by" in finding.message
    assert "10 of 10 quantized constants were found in it" in finding.message


def test_a_wrong_float_file_without_a_tensor_in_common_is_an_error_that_says_so(
    tmp_path: Path,
) -> None:
    scales = {"s": np.float32(0.05), "z": np.int8(0)}
    weight = np.eye(4, dtype=np.float32)
    body = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w)"
    path = qdq_file(tmp_path / "int8.onnx", body, {**scales, "w": weight})
    other = qdq_file(tmp_path / "other.onnx", "y = MatMul(x, w)", {"w": 2 * weight})
    source = quantized_model(OnnxModel(path, float_path=other))
    batch = np.random.default_rng(0).random((8, 4), np.float32)
    (finding,) = source.float_findings(batch)  # type: ignore[attr-defined]
    assert finding.code == "float-differs"
    assert "they share no tensor" in finding.message


def test_a_weight_that_the_float_file_does_not_have_is_named(tmp_path: Path) -> None:
    original = activated_file(tmp_path / "float.onnx")
    path = static_file(original, tmp_path / "int8.onnx")
    other = changed(original, tmp_path / "other.onnx", {"w4": lambda w: w[::-1] * np.float32(1.5)})
    (finding,) = quantized_model(OnnxModel(path, float_path=other)).float_findings(images(4, 0))  # type: ignore[attr-defined]
    assert finding.code == "float-differs"
    assert "9 of 10 quantized constants were found in it (not w4_quantized)" in finding.message


def test_a_float_file_with_other_outputs_is_said_to_be_unproved(tmp_path: Path) -> None:
    original = activated_file(tmp_path / "float.onnx")
    path = static_file(original, tmp_path / "int8.onnx")
    other = onnx.load(original)
    del other.graph.output[:]
    other.graph.output.append(
        onnx.helper.make_tensor_value_info("p4", onnx.TensorProto.FLOAT, None)
    )
    onnx.save(other, tmp_path / "other.onnx")
    source = quantized_model(OnnxModel(path, float_path=tmp_path / "other.onnx"))
    findings = source.float_findings(images(4, 0))
    assert [(one.code, one.severity) for one in findings] == [("float-not-compared", "warning")]
    assert "it has other outputs" in findings[0].message


def test_without_the_float_file_what_makes_the_claim_doubtful_is_reported(tmp_path: Path) -> None:
    original = activated_file(tmp_path / "float.onnx")
    path = static_file(original, tmp_path / "int8.onnx")
    (finding,) = quantized_model(OnnxModel(path)).float_findings(images(4, 0))  # type: ignore[attr-defined]
    assert (finding.code, finding.severity) == ("float-doubtful", "warning")
    assert "it has only the integers of 10 weights" in finding.message
    assert "3 pairs clamp at 0 (r1, r2, r4): a Relu stays in their place" in finding.message
    assert "beyond the range of the pair on" in finding.message, (
        "r2 was clipped to 1, r3 to -0.5 and 0.5"
    )


def test_nothing_is_doubted_of_a_file_that_holds_all_of_the_float_model(tmp_path: Path) -> None:
    original = float_file(tmp_path / "float.onnx")
    extra = {"AddQDQPairToWeight": True, "QuantizeBias": False, "ActivationSymmetric": True}
    path = static_file(original, tmp_path / "int8.onnx", extra_options=extra)
    assert quantized_model(OnnxModel(path)).float_findings(images(4, 0)) == ()  # type: ignore[attr-defined]


def test_a_file_whose_nodes_stand_in_another_order_is_read(tmp_path: Path) -> None:
    original = float_file(tmp_path / "float.onnx")
    model = onnx.load(static_file(original, tmp_path / "q.onnx"))
    nodes = list(model.graph.node)[::-1]  # runtimes sort them, whatever the standard says
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "int8.onnx")
    check_off_is(
        OnnxModel(tmp_path / "int8.onnx", float_path=original), original, images(4, 0), 1e-6
    )


def test_the_ends_of_a_clip_that_are_constants_of_the_graph_are_clamped_by_nothing(
    tmp_path: Path,
) -> None:
    body = """
        low = Constant <value = float {0}> () high = Constant <value = float {6}> ()
        m = MatMul (x, w) c = Clip (m, low, high) y = MatMul (c, w)
    """
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    original = qdq_file(tmp_path / "f.onnx", body, {"w": weight}, ports=PORTS)
    values = "q = QuantizeLinear (m, s, z) d = DequantizeLinear (q, s, z)"
    body = f"m = MatMul (x, w) {values} y = MatMul (d, w)"
    constants = {"w": weight, "s": np.float32(6 / 255), "z": np.uint8(0)}
    model = OnnxModel(
        qdq_file(tmp_path / "q.onnx", body, constants, ports=PORTS), float_path=original
    )
    assert model.clamps == {"m": (0, 6)}
    check_off_is(
        model, original, np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32) * 4, 0
    )


def test_no_activation_is_put_behind_an_input_of_the_graph(tmp_path: Path) -> None:
    body = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = MatMul (d, w)"
    constants = {"w": np.eye(4, dtype=np.float32), "s": np.float32(1 / 255), "z": np.uint8(0)}
    model = OnnxModel(qdq_file(tmp_path / "q.onnx", body, constants, ports=PORTS))
    assert np.array_equal(all_off(model, -np.ones((1, 4), np.float32)), -np.ones((1, 4)))


def test_one_relu_of_two_in_a_row_that_was_removed_stands_again(tmp_path: Path) -> None:
    body = (
        "m = MatMul (x, w) r = Relu (m) a = Relu (r) b = Relu (r) s = Sub (a, b) t = Add (s, r) "
        "y = MatMul (t, w)"
    )
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    original = qdq_file(tmp_path / "f.onnx", body, {"w": weight}, ports=PORTS)
    pair = "q = QuantizeLinear (r, s1, z) d = DequantizeLinear (q, s1, z)"
    body = (
        f"r = MatMul (x, w) {pair} a = Relu (d) b = Relu (d) s = Sub (a, b) t = Add (s, d) y = "
        "MatMul (t, w)"
    )
    constants = {"w": weight, "s1": np.float32(0.1), "z": np.uint8(0)}
    model = OnnxModel(
        qdq_file(tmp_path / "q.onnx", body, constants, ports=PORTS), float_path=original
    )
    check_off_is(
        model, original, np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32), 0
    )


@pytest.mark.parametrize(("factor", "allowed"), [(1, 1e-4), (300, 1e-3), (1e4, None)])
def test_outputs_may_differ_as_far_as_the_last_bits_of_the_inputs_move_them(
    tmp_path: Path, factor: float, allowed: float | None
) -> None:
    path = qdq_file(tmp_path / "f.onnx", "k = Mul (x, f) y = Sin (k)", {"f": np.float32(factor)})
    arrays = {"x": np.random.default_rng(0).uniform(0.5, 1, (8, 4)).astype(np.float32)}
    found = tolerances(
        onnxruntime.InferenceSession(path), arrays, {"y": run_file(path, arrays["x"])}, 1e-4
    )
    assert found == ({} if allowed is None else {"y": pytest.approx(allowed, rel=1)})


def test_a_batch_that_shows_rounding_alone_proves_nothing(tmp_path: Path) -> None:
    body = "p = Mul ({}, f) y = Sin (p)"
    float_path = qdq_file(tmp_path / "f.onnx", body.format("x"), {"f": np.float32(1e4)})
    pair = "q = QuantizeLinear (x, s) d = DequantizeLinear (q, s) "
    constants = {"f": np.float32(1e4), "s": np.float32(0.01)}
    path = qdq_file(tmp_path / "q.onnx", pair + body.format("d"), constants)
    model = OnnxModel(path, float_path=float_path)
    (finding,) = quantized_model(model).float_findings(
        np.linspace(0.5, 1, 32, dtype="f4").reshape(8, 4)
    )  # type: ignore[attr-defined]
    assert (finding.code, finding.severity) == ("float-not-compared", "warning")
    assert "on this batch they are dominated by rounding" in finding.message
