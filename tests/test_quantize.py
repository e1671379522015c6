"""A float ONNX file is quantized first, on samples that are in no split, and then treated like any
Q/DQ file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.commands import verb
from support.onnx_models import float_file, images, labelled, qdq_file, run_file, static_file
from support.onnx_text import network_of

from sensitivity.config import ScanSettings
from sensitivity.errors import JournalMismatch, OnnxFileError, SensitivityError, TaskError
from sensitivity.measure.progress import Advance
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.uses import stored_type
from sensitivity.onnx_task import onnx_task
from sensitivity.quantize import file as quantize_file
from sensitivity.quantize.file import quantized_file, shapes_of
from sensitivity.quantize.prepare import (
    flatten_biases,
    is_float,
    opset_of,
    prepared,
    separate_biases,
)
from sensitivity.quantize.prepare import float_file as read_float
from sensitivity.quantize.ranges import ranges
from sensitivity.quantize.rules import RULES, kept_float
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.tasks import onnx_data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with float.onnx and data.npz, in which every third label is wrong."""
    folder = tmp_path_factory.mktemp("float")
    data = labelled(float_file(folder / "float.onnx"), folder / "data.npz", samples=100)
    with np.load(data) as content:
        x, y = content["x"], content["y"]
    y[::3] = (y[::3] + 1) % 5
    np.savez(data, x=x, y=y)
    return folder


def settings(made: Path, **more: Any) -> ScanSettings:
    return ScanSettings(task=str(made / "float.onnx"), data=made / "data.npz", **more)


@pytest.fixture(scope="module")
def done(made: Path) -> Path:
    """A run of the float file from beginning to end."""
    words = ("--target", "0.2", "--no-recalibrate", "--rounds", "3", "--threads", "1")
    data, out = made / "data.npz", made / "run"
    assert verb("run", made / "float.onnx", "--data", data, *words, "--out", out) == 0
    return out


def test_a_float_file_and_data_are_enough_for_a_whole_run(done: Path, made: Path) -> None:
    record = json.loads((done / "quantized.json").read_text())
    content = (done / "quantized.onnx").read_bytes()
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert (done / "model.int8.onnx").read_bytes() == content
    assert (done / "model.partial.onnx").exists()
    assert (done / "report.html").exists()


def test_float_in_the_results_is_the_users_own_file(done: Path, made: Path) -> None:
    task = onnx_task(done / "quantized.onnx", made / "data.npz", calib_samples=128)
    ((x, y),) = task.data["confirm"]
    theirs = run_file(made / "float.onnx", x)
    np.testing.assert_allclose(run_file(done / "model.float.onnx", x), theirs, rtol=1e-6, atol=1e-6)
    accuracy = float((theirs.argmax(1) == y).mean())
    assert 0.4 < accuracy < 0.9
    plan = json.loads((done / "plan.json").read_text())
    assert plan["metric"]["float"]["value"] == pytest.approx(accuracy, abs=1e-6)


def test_a_resumed_run_quantizes_nothing_again_and_gives_the_same(
    done: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (done / name).read_bytes() for name in ("quantized.onnx", "scan.csv")}
    monkeypatch.setattr(quantize_file, "_quantized", None)  # calling it would fail
    data = made / "data.npz"
    words = ("--target", "0.2", "--no-recalibrate", "--rounds", "3", "--threads", "1", "--resume")
    assert verb("run", made / "float.onnx", "--data", data, *words, "--out", done) == 0
    assert before == {name: (done / name).read_bytes() for name in before}


@pytest.mark.parametrize(("words", "said"), [
    (("--for", "tensorrt"), "--for tensorrt instead of onnxruntime"),
    (("--calib-method", "mse"), "--calib-method mse instead of percentile"),
    (("--calib-samples", "7"), "--calib-samples 7 instead of 128"),
    (("--shape", "n,3,12,12"), "--shape"),
], ids=lambda value: value[0] if isinstance(value, tuple) else "")  # fmt: skip
def test_other_options_than_what_was_measured_are_one_sentence(
    done: Path,
    made: Path,
    words: tuple[str, str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = made / "data.npz"
    assert verb("run", made / "float.onnx", "--data", data, *words, "--out", done, "--resume") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "quantized.onnx to be what was measured in this run, got " in told
    assert said in told
    assert "repeat the command that began the run, or choose another --out" in told


def test_a_file_that_was_tampered_with_is_refused_with_where_it_was_measured(
    done: Path, made: Path
) -> None:
    content = (done / "quantized.onnx").read_bytes()
    (done / "quantized.onnx").write_bytes(content[:-1])
    try:
        with pytest.raises(JournalMismatch, match="got a file that was changed since"):
            quantized_file(settings(made), done)
    finally:
        (done / "quantized.onnx").write_bytes(content)


def test_other_options_make_another_file_where_nothing_was_measured(
    made: Path, tmp_path: Path
) -> None:
    first = quantized_file(settings(made), tmp_path).read_bytes()
    assert quantized_file(settings(made), tmp_path).read_bytes() == first
    other = quantized_file(settings(made, for_="tensorrt"), tmp_path).read_bytes()
    assert other != first
    assert quantized_file(settings(made), tmp_path).read_bytes() == first, "the same bits again"


@pytest.mark.parametrize("where", ["ranges", "quantized", "write_whole"])
def test_an_interrupted_quantization_leaves_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(quantize_file, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            quantized_file(settings(made), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert quantized_file(settings(made), tmp_path).exists()


def test_calibration_samples_are_in_no_split(made: Path) -> None:
    quantized = static_file(made / "float.onnx", made / "int8.onnx")
    task = onnx_task(quantized, made / "data.npz", calib_samples=128)
    samples = {
        name: {array.tobytes() for batch, _ in batches for array in batch}
        for name, batches in task.data.items()
    }
    assert {name: len(own) for name, own in samples.items()} == {
        "calib": 20, "rank": 40, "confirm": 20, "holdout": 20,
    }  # fmt: skip
    assert len(set.union(*samples.values())) == 100
    assert "calib" not in onnx_task(quantized, made / "data.npz").data


def test_calibration_samples_of_another_file_leave_the_splits_whole(
    made: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "calib.npz", x=images(30, seed=9).astype(np.float64))
    quantized = static_file(made / "float.onnx", made / "int8.onnx")
    task = onnx_task(quantized, made / "data.npz", calib=tmp_path / "calib.npz", calib_samples=12)
    calib = np.concatenate([batch for batch, _ in task.data["calib"]])
    np.testing.assert_array_equal(calib, images(30, seed=9)[:12])
    plain = onnx_task(quantized, made / "data.npz")
    for split in ("rank", "confirm", "holdout"):
        for (one, _), (other, _) in zip(task.data[split], plain.data[split], strict=True):
            np.testing.assert_array_equal(one, other)


def test_too_few_samples_to_calibrate_on_are_one_sentence(made: Path, tmp_path: Path) -> None:
    data = labelled(made / "float.onnx", tmp_path / "few.npz", samples=4)
    given = ScanSettings(task=str(made / "float.onnx"), data=data)
    with pytest.raises(TaskError, match="at least 5 samples in .*few.npz, .* with --calib"):
        quantized_file(given, tmp_path)


def grids(path: Path) -> dict[str, tuple[str, int, float]]:
    """Name of each pair's tensor -> its type, how many scales, and the first of them."""
    found = {}
    for pair in qdq.pairs(load_model(path).graph):
        assert pair.scale is not None
        scales = np.ravel(pair.scale)
        found[pair.source.name or ""] = (stored_type(pair).name, len(scales), float(scales[0]))
    return found


def constants(path: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(path).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def gemm(path: Path) -> Path:
    weights = np.array([[1, -2, 0.5, 0], [0.25, 0.5, 4, 1]], np.float32)
    return qdq_file(path, "y = Gemm <transB = 1> (x, w, b)", {"w": weights, "b": np.ones(2, "f4")},
                    ports="(float[n, 4] x) => (float[n, 2] y)")  # fmt: skip


@pytest.fixture
def ramp(tmp_path: Path) -> dict[str, Any]:
    """A linear layer, and samples from -2 to 3 to calibrate on."""
    calib = np.linspace(-2, 3, 40, dtype=np.float32).reshape(10, 4)
    np.savez(tmp_path / "calib.npz", x=calib)
    np.savez(tmp_path / "data.npz", x=np.zeros((40, 4), "f4"), y=np.arange(40) % 2)
    return {
        "task": str(gemm(tmp_path / "gemm.onnx")),
        "data": tmp_path / "data.npz",
        "calib": tmp_path / "calib.npz",
        "calib_method": "max",
    }


def test_tensorrt_gets_symmetric_signed_pairs_on_inputs_float_weights_in_them_and_float_biases(
    ramp: dict[str, Any], tmp_path: Path
) -> None:
    made = quantized_file(ScanSettings(**ramp, for_="tensorrt"), tmp_path)
    assert grids(made) == {
        "x": ("INT8", 1, pytest.approx(3 / 127)),
        "w": ("INT8", 2, pytest.approx(2 / 127)),
    }
    stored = constants(made)
    assert stored["w"].dtype == np.float32
    np.testing.assert_array_equal(stored["b"], np.ones(2, "f4"))
    assert all(not zero.any() for name, zero in stored.items() if "zero_point" in name)


def test_onnxruntime_gets_unsigned_pairs_on_both_sides_of_an_operation(
    ramp: dict[str, Any], tmp_path: Path
) -> None:
    made = quantized_file(ScanSettings(**ramp), tmp_path)
    found = grids(made)
    assert found["x"] == ("UINT8", 1, pytest.approx(5 / 255))
    assert found["y_QuantizeLinear_Input"][:2] == ("UINT8", 1)
    assert int(constants(made)["x_zero_point"]) == round(2 / (5 / 255))


def test_openvino_gets_unsigned_pairs_on_inputs_alone(ramp: dict[str, Any], tmp_path: Path) -> None:
    found = grids(quantized_file(ScanSettings(**ramp, for_="openvino"), tmp_path))
    assert found["x"] == ("UINT8", 1, pytest.approx(5 / 255))
    assert "y_QuantizeLinear_Input" not in found


def test_what_follows_the_last_weighted_operation_stays_float() -> None:
    body = """
        a = MatMul (x, w) b = Softmax (a) c = MatMul (b, w) d = Mul (c, c) e = Sigmoid (c)
        y = Concat <axis = 1> (d, e)
    """
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[n, 4] x) => (float[n, 8] y) {{{body}}}'
    )
    graph = onnx.parser.parse_model(text).graph
    for node in graph.node:
        node.name = node.output[0]
    assert set(kept_float(graph, RULES["onnxruntime"])) == {"d", "e", "y"}
    assert set(kept_float(graph, RULES["tensorrt"])) == {"a", "c"}, "w is no constant here"


def test_onnxruntime_gets_a_hard_swish_in_float_and_a_silu_in_integers() -> None:
    body = """
        a = MatMul (x, w)
        scaled = Mul (one, a) b = Add (scaled, one) c = Add (b, one) d = Clip (c, one, one)
        e = Mul (b, d) f = Div (e, one)
        g = MatMul (f, w) h = Sigmoid (g) i = Mul (g, h) j = Add (i, a) y = MatMul (j, w)
    """
    weights = "float[4, 4] w, float[1] one"
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[n, 4] x, {weights}) => (float[n, 4] y) '
        f"{{{body}}}"
    )
    graph = onnx.parser.parse_model(text).graph
    del graph.input[1:]
    graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype="f4"), "w"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, "f4"), "one"))
    for node in graph.node:
        node.name = node.output[0]
    assert set(kept_float(graph, RULES["onnxruntime"])) == {"scaled", "b", "c", "d", "e", "f"}
    assert not kept_float(graph, RULES["openvino"])


def test_the_runtime_of_the_bench_says_whose_rules_where_nobody_does(
    ramp: dict[str, Any], tmp_path: Path
) -> None:
    from sensitivity.config import RunSettings

    assert quantize_file.target_of(RunSettings(**ramp, runtime="trtexec")) == "tensorrt"
    assert quantize_file.target_of(RunSettings(**ramp, runtime="openvino")) == "openvino"
    told = RunSettings(**ramp, runtime="openvino", for_="onnxruntime")
    assert quantize_file.target_of(told) == "onnxruntime"
    assert quantize_file.target_of(ScanSettings(**ramp)) == "onnxruntime"
    with pytest.raises(SensitivityError, match="to quantize a float file, got qnn; quantize it"):
        quantize_file.target_of(ScanSettings(**ramp, for_="qnn"))


@pytest.mark.parametrize("method", ["max", "percentile", "entropy", "mse"])
def test_ranges_leave_an_outlier_out_unless_the_method_is_max(tmp_path: Path, method: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(640, 1000)).astype(np.float32)
    x[0, 0] = 30.0
    path = qdq_file(tmp_path / "f.onnx", "y = Relu (x)", {},
                    ports="(float[n, 1000] x) => (float[n, 1000] y)")  # fmt: skip
    found = ranges(onnx.load(path), [x[:320], x[320:]], method, symmetric=True)
    assert set(found) == {"x", "y"}
    low, high = found["x"]
    if method == "max":
        assert (low, high) == (pytest.approx(x.min()), 30.0)
    else:
        assert 2 < high < 20
        assert low == -high


OPSETS = (7, 8, 9, 10, 11, 12, 13, 17, 19, 21, 23, 25)


@pytest.mark.parametrize("opset", OPSETS)
def test_files_of_every_opset_are_lifted_and_compute_the_same(opset: int, tmp_path: Path) -> None:
    path = float_file(tmp_path / "float.onnx", opset=opset)
    data = labelled(path, tmp_path / "data.npz", samples=40)
    given = ScanSettings(task=str(path), data=data, for_="tensorrt")
    made = quantized_file(given, tmp_path / "out")
    onnx.checker.check_model(onnx.load(made), full_check=True)
    assert opset_of(onnx.load(made)) == max(opset, 13)
    source = OnnxModel(made, float_path=path)
    assert source.float is not None
    assert source.float.missing == ()
    x = images(4, seed=1)
    with source.skipping(frozenset(use.name for use in source.uses)):
        (ours,) = source.run(None, {"x": x})
    np.testing.assert_allclose(ours, run_file(path, x), rtol=1e-6, atol=1e-6)


def test_an_operation_that_cannot_be_lifted_is_one_sentence(tmp_path: Path) -> None:
    path = qdq_file(tmp_path / "old.onnx", "y = Upsample <mode = \"nearest\"> (x, s)",
                    {"s": np.array([1, 1, 2, 2], "f4")}, opset=9,
                    ports="(float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y)")  # fmt: skip
    example = {"x": np.ones((1, 1, 2, 2), np.float32)}
    try:
        made = prepared(read_float(path, {}), example)
    except OnnxFileError as error:
        assert "old.onnx of opset 9 to be lifted to opset 13" in str(error)  # noqa: PT017
    else:
        assert {node.op_type for node in made.graph.node} == {"Resize"}


def test_a_fixed_batch_is_calibrated_on_as_many_samples_as_it_has(tmp_path: Path) -> None:
    for batch in (1, 4):
        path = float_file(tmp_path / f"float{batch}.onnx")
        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        onnx.save(model, path)
        np.savez(tmp_path / "data.npz", x=images(40, seed=5), y=np.arange(40) % 5)
        given = ScanSettings(task=str(path), data=tmp_path / "data.npz")
        quantized_file(given, tmp_path / f"out{batch}")
    one, four = (grids(tmp_path / f"out{batch}" / "quantized.onnx") for batch in (1, 4))
    assert one == four


def test_weights_beside_the_file_are_quantized_too(made: Path, tmp_path: Path) -> None:
    model = onnx.load(made / "float.onnx")
    (tmp_path / "data.npz").write_bytes((made / "data.npz").read_bytes())
    onnx.save(model, tmp_path / "float.onnx", save_as_external_data=True, location="w.bin",
              size_threshold=0)  # fmt: skip
    found = quantized_file(settings(tmp_path), tmp_path / "out")
    assert found.read_bytes() == quantized_file(settings(made), tmp_path / "whole").read_bytes()


def test_metadata_of_the_float_file_stays(made: Path, tmp_path: Path) -> None:
    model = onnx.load(quantized_file(settings(made), tmp_path))
    assert {item.key: item.value for item in model.metadata_props} == {"author": "someone"}
    assert {entry.domain for entry in model.opset_import} == {""}


FOCUS = """<ir_version: 8, opset_import: ["" : 17]> focus (float[n,3,12,12] x) => (float[n,5] y) {
    top = Slice (x, zero, end, two, two)  bottom = Slice (x, one, end, two, two)
    a = Slice (top, zero, end, three, two)  b = Slice (bottom, zero, end, three, two)
    c = Slice (top, one, end, three, two)  d = Slice (bottom, one, end, three, two)
    joined = Concat <axis = 1> (a, b, c, d)
    first = Conv <pads = [1, 1, 1, 1]> (joined, w, bias)
    r = Relu (first)
    last = Conv (r, v)
    m = GlobalAveragePool (last)
    y = Flatten (m)
}"""


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime", "openvino"])
def test_a_focus_becomes_one_convolution_and_its_float_file_is_still_known(
    tmp_path: Path, target: Any
) -> None:
    draw = np.random.default_rng(0)
    numbers = {"zero": 0, "one": 1, "two": 2, "three": 3, "end": 2**63 - 1}
    model = network_of(
        FOCUS,
        w=draw.normal(size=(8, 12, 3, 3)).astype(np.float32),
        bias=draw.normal(size=8).astype(np.float32),
        v=draw.normal(size=(5, 8, 1, 1)).astype(np.float32),
        **{name: np.array([number], np.int64) for name, number in numbers.items()},
    )
    path = tmp_path / "float.onnx"
    onnx.save(ir.to_proto(model), path)
    np.savez(tmp_path / "data.npz", x=images(40, seed=5), y=np.arange(40) % 5)
    given = ScanSettings(task=str(path), data=tmp_path / "data.npz", for_=target)
    made = quantized_file(given, tmp_path / "out")
    assert {node.op_type for node in onnx.load(made).graph.node}.isdisjoint({"Slice", "Concat"})
    source = OnnxModel(made, float_path=path)
    assert source.float is not None
    assert source.float.missing == ()
    with source.skipping(frozenset(use.name for use in source.uses)):
        (ours,) = source.run(None, {"x": images(4, seed=1)})
    np.testing.assert_allclose(ours, run_file(path, images(4, seed=1)), rtol=1e-4, atol=1e-4)


def dynamic(path: Path) -> Path:
    model = onnx.load(float_file(path))
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_param, dims[3].dim_param = "h", "w"
    onnx.save(model, path)
    return path


def test_open_sides_are_what_shape_says(tmp_path: Path) -> None:
    path = dynamic(tmp_path / "float.onnx")
    np.savez(tmp_path / "data.npz", x=images(40, seed=5), y=np.arange(40) % 5)
    given = ScanSettings(
        task=str(path), data=tmp_path / "data.npz", shape=("n,3,12,12",), for_="tensorrt"
    )
    made = OnnxModel(quantized_file(given, tmp_path / "out"), float_path=path)
    (port,) = made.get_inputs()
    assert port.shape == ["n", 3, 12, 12]


@pytest.mark.parametrize(("shape", "said"), [
    ("3,12,12", "--shape of x to have its 4 sides, got 3,12,12"),
    ("z=1,3,12,12", r"NAME=SIDES for an input of float.onnx \(x\), got z"),
    ("1,3,0,12", "--shape as numbers above 0 with commas, .* got '1,3,0,12'"),
    ("1x3x12x12", "--shape as numbers above 0"),
])  # fmt: skip
def test_shapes_that_fit_no_input_are_one_sentence(tmp_path: Path, shape: str, said: str) -> None:
    path = dynamic(tmp_path / "float.onnx")
    with pytest.raises(SensitivityError, match=said):
        read_float(path, shapes_of((shape,)))


def half(path: Path) -> Path:
    model = onnx.load(gemm(path))
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, path)
    return path


def test_half_precision_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OnnxFileError, match=r"half.onnx to be a float file in FP32, got weights"):
        read_float(half(tmp_path / "half.onnx"), {})


def test_a_file_with_nothing_to_quantize_is_one_sentence(tmp_path: Path) -> None:
    path = qdq_file(tmp_path / "relu.onnx", "y = Sin (x)", {})
    np.savez(tmp_path / "data.npz", x=np.zeros((20, 4), "f4"), y=np.arange(20) % 4)
    given = ScanSettings(task=str(path), data=tmp_path / "data.npz")
    with pytest.raises(OnnxFileError, match=r"operations that can be quantized, got none \(Sin\)"):
        quantized_file(given, tmp_path)


def files(folder: Path) -> Iterator[tuple[str, Path, bool]]:
    one = float_file(folder / "float.onnx")
    yield "float", one, True
    yield "q/dq", static_file(one, folder / "int8.onnx"), False
    body, scale = "d = DequantizeLinear (w, s) y = Mul (x, d)", {"s": np.float32(0.1)}
    stored = qdq_file(folder / "w.onnx", body, {"w": np.ones((4, 4), "i1"), **scale})
    yield "stored integers", stored, False
    body = "q, s, z = DynamicQuantizeLinear (x) y = DequantizeLinear (q, s, z)"
    yield "dynamic", qdq_file(folder / "dynamic.onnx", body, {}), False


def test_only_files_without_any_quantizer_are_float(tmp_path: Path) -> None:
    for name, path, expected in files(tmp_path):
        assert is_float(path) == expected, name


def test_a_pair_in_a_function_is_a_quantizer(tmp_path: Path) -> None:
    pair = [
        helper.make_node("QuantizeLinear", ["a", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["b"]),
    ]
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    function = helper.make_function("mine", "Pair", ["a", "s"], ["b"], pair, opset[:1])
    port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Pair", ["x", "s"], ["y"], domain="mine")], "g", port[:1], port[1:],
        [numpy_helper.from_array(np.float32(0.1), "s")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, functions=[function], opset_imports=opset), tmp_path / "f")
    assert not is_float(tmp_path / "f")


@pytest.mark.parametrize(("words", "said"), [
    (("--for", "tensorrt"), "no --for with a Q/DQ file, which is calibrated already, got tensorrt"),
    (("--calib-method", "mse"), "no --calib-method with a Q/DQ file"),
    (("--shape", "1,3"), "no --shape with a Q/DQ file"),
])  # fmt: skip
def test_what_only_a_float_file_needs_is_refused_with_another(
    made: Path, tmp_path: Path, words: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quantized = static_file(made / "float.onnx", tmp_path / "int8.onnx")
    out = tmp_path / "out"
    assert verb("scan", quantized, "--data", made / "data.npz", *words, "--out", out) == 1
    assert said in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


@pytest.mark.parametrize("words", [("--calib", "folder"), ("--calib-samples", "3")])
def test_a_task_file_is_calibrated_by_itself(
    words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task.py").write_text("")
    assert verb("scan", tmp_path / "task.py", *words, "--out", tmp_path / "out") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert f"Expected no {words[0]} with a task that is no ONNX file" in told


def test_calibration_says_how_far_it_is(made: Path, tmp_path: Path) -> None:
    done: list[tuple[str, int]] = []

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Advance]:
        yield lambda steps, samples: done.append((f"{what} of {total}", steps))

    quantized_file(settings(made), tmp_path, progress)
    assert done == [("calibrate of 1", 1)]


def test_a_float_model_beside_a_float_file_is_one_sentence(made: Path, tmp_path: Path) -> None:
    given = settings(made, float_model=made / "float.onnx")
    with pytest.raises(TaskError, match="no --float-model with .*, which is a float file"):
        quantized_file(given, tmp_path)


def test_check_says_what_a_run_would_do(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("check", made / "float.onnx", "--for", "tensorrt") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "note float-file float.onnx is a float file of opset 17: run and scan quantize" in told
    assert "by the rules of tensorrt (Conv, ConvTranspose, Gemm, MatMul; signed symmetric" in told
    assert verb("check", made / "float.onnx", "--data", made / "data.npz") == 0
    printed = capsys.readouterr()
    told = " ".join(printed.out.split())
    steps = [line.partition(" s: ")[2] for line in printed.err.splitlines()]
    assert [step for step in steps if step] == ["step 1 of 2 (open)", "step 2 of 2 (check)"]
    assert "note float-proved quantized.onnx with everything unquantized computes what" in told
    assert "note float-file" in told


def test_images_of_a_folder_calibrate_a_detector_and_a_classifier(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(6):
        (tmp_path / "more/deep").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (16, 18, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"more/deep/{number}.png")
    drawn = onnx_data.calibration_images(tmp_path / "more", 4)
    assert len(drawn) == len(set(drawn)) == 4
    assert drawn == onnx_data.calibration_images(tmp_path / "more", 4)
    (tmp_path / "none").mkdir()
    with pytest.raises(TaskError, match="images to calibrate with at .*none, got none that end in"):
        onnx_data.calibration_images(tmp_path / "none", 4)


def test_a_file_of_the_first_ir_versions_is_lifted_with_its_constants(tmp_path: Path) -> None:
    """Before version 4 each constant is also an input, and the converter looks for it among the
    inputs."""
    model = onnx.load(float_file(tmp_path / "float.onnx", opset=9))
    model.ir_version = 3
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)
    onnx.save(model, tmp_path / "old.onnx")
    file, x = read_float(tmp_path / "old.onnx", {}), images(2, seed=1)
    assert len(file.get_inputs()) == 1
    name = file.get_inputs()[0].name
    made = prepared(file, {name: x})
    assert opset_of(made) >= 13
    (tmp_path / "made.onnx").write_bytes(made.SerializeToString())
    np.testing.assert_allclose(
        run_file(tmp_path / "made.onnx", x), run_file(tmp_path / "old.onnx", x), atol=1e-5
    )


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize(("shape", "flat"), [
    ((3,), False), ((1, 3), True), ((1, 1), True), ((1,), True), ((), True), ((4, 3), False),
    ((4, 1), False),
], ids=str)  # fmt: skip
def test_the_bias_of_a_gemm_gets_one_axis_and_the_values_that_it_has(
    shape: tuple[int, ...], flat: bool, transposed: int
) -> None:
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(3, 5) if transposed else (5, 3)).astype(np.float32)
    bias = np.asarray(draw.normal(size=shape), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=transposed)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = {"x": draw.normal(size=(4, 5)).astype(np.float32)}
    before = onnx.reference.ReferenceEvaluator(model).run(None, x)[0]
    flatten_biases(model.graph)
    assert (model.graph.node[0].input[2] != "b") is flat
    np.testing.assert_array_equal(onnx.reference.ReferenceEvaluator(model).run(None, x)[0], before)


def test_a_graph_that_the_quantizer_cannot_take_is_one_sentence(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Any) -> None:
        raise ValueError("The truth value\nof an array")

    monkeypatch.setattr("onnxruntime.quantization.QDQQuantizer.quantize_model", fails)
    with pytest.raises(
        OnnxFileError, match="to take float.onnx, got ValueError: The truth value of"
    ):
        quantized_file(settings(made), tmp_path)


def test_an_output_that_nothing_is_inferred_of_keeps_how_many_sides_it_has(tmp_path: Path) -> None:
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in "xy"
    ]
    node = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    fixed = read_float(tmp_path / "m.onnx", {"x": ("n", 3, 4, 4)}).model
    assert len(fixed.graph.output[0].type.tensor_type.shape.dim) == 4
    onnx.checker.check_model(fixed, full_check=True)


def test_a_bias_that_two_operations_share_is_copied_under_a_name_that_nothing_has() -> None:
    graph = onnx.parser.parse_graph(
        "g (float[n,4] x) => (float[n,4] b2) "
        "<float[4,4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}, float[4] b = {1,2,3,4}> "
        "{ a = Gemm (x, w, b) b2 = Gemm (a, w, b) }"
    )
    separate_biases(graph)
    assert [node.input[2] for node in graph.node] == ["b", "b2_bias"]
    copies = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in graph.initializer}
    assert copies["b2_bias"] == copies["b"] == [1, 2, 3, 4]
