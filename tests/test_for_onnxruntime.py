"""Files that ONNX Runtime would change while it loads them, and copies of them that it does not
change."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from support.commands import verb
from support.processors import exact_int8

from sensitivity.errors import ExportError
from sensitivity.exporters import for_onnxruntime
from sensitivity.exporters.example import Example
from sensitivity.exporters.for_onnxruntime import faithful, faithful_copies, fast
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.keep_float import KeepFloat
from sensitivity.onnx_graph.passes.room_for_bias import RoomForBias
from sensitivity.onnx_graph.passes.unsigned import UnsignedActivations
from sensitivity.rules.lint import lint_model
from sensitivity.runtimes.onnxruntime import EXACT_PRODUCTS

OF_THE_LOADER = {"SQ704", "SQ705", "SQ706"}

FRONT = "xq = QuantizeLinear (x, s, u128)\nxd = DequantizeLinear (xq, s, u128)\n"
WEIGHT = (
    "wq = QuantizeLinear <axis = {axis}> (w, ws, wz)\nwd = DequantizeLinear <axis = {axis}> "
    "(wq, ws, wz)\n"
)
STORED = "wd = DequantizeLinear <axis = {axis}> (levels, ws, wz)\n"
PER_TENSOR = "wq = QuantizeLinear (w, s1, z1)\nwd = DequantizeLinear (wq, s1, z1)\n"
BEHIND = "cq = QuantizeLinear (c, t, u128)\ny = DequantizeLinear (cq, t, u128)\n"


def build(
    body: str, *, axis: int = 0, opset: int = 17, image: bool = True, **arrays: np.ndarray
) -> ir.Model:
    """A graph from x float[n,8,6,6], or float[n,8], to y; the first four channels have a weight of
    1e-9, a bias of 1 to 3."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(8, 8, 3, 3) if image else (8, 8)).astype(np.float32) * np.float32(0.2)
    channels = np.moveaxis(w, axis, 0)
    channels[:4] *= 1e-9
    ws = np.abs(channels).reshape(8, -1).max(1) / np.float32(127)
    given = {
        "w": w, "ws": ws, "wz": np.zeros(8, np.int8), "b": np.linspace(3, 1, 8, dtype=np.float32),
        "s1": np.array(1e-9, np.float32), "z1": np.array(0, np.int8),
        "s": np.array(0.03, np.float32),
        "t": np.array(0.05, np.float32), "u128": np.array(128, np.uint8),
        "z": np.array(-7, np.int8), "z8": np.array(0, np.int8),
        "levels": np.moveaxis(np.rint(channels / ws.reshape(-1, *[1] * (w.ndim - 1))), 0,
         axis).astype(np.int8),
    }  # fmt: skip
    given |= arrays
    inputs = "float[n,8,6,6] x" if image else "float[n,8] x"
    proto = onnx.parser.parse_model(
        f'<ir_version: {8 if opset < 19 else 10}, opset_import: ["" : {opset}]> example ({inputs}) '
        f"=> (float y) {{{body}}}"
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    used = [name for name in given if any(name in node.input for node in proto.graph.node)]
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(given[name], name) for name in used)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, check_type=True))


def outputs(model: ir.Model, *, optimize: bool = True, exact: bool = False) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if exact:
        options.add_session_config_entry(*EXACT_PRODUCTS)
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    shape = [side if isinstance(side, int) else 4 for side in given.shape]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return np.asarray(session.run(None, {given.name: x})[0])


CONV = "c = Conv <pads = [1, 1, 1, 1]> (xd, wd, b)\n"
LOST = {
    "Conv": build(FRONT + WEIGHT.format(axis=0) + CONV + BEHIND),
    "Conv of a stored weight": build(FRONT + STORED.format(axis=0) + CONV + BEHIND),
    "Conv and Clip": build(
        FRONT + WEIGHT.format(axis=0) + "k = Conv <pads = [1, 1, 1, 1]> (xd, wd, b)\nc = Clip (k, "
                                        "z0)\n" + BEHIND,
        z0=np.array(0, np.float32),
    ),
    "Conv between moves": build(
        FRONT + WEIGHT.format(axis=0) + "m = MaxPool <kernel_shape = [2, 2]> (xd)\n"
        + "k = Conv <pads = [1, 1, 1, 1]> (m, wd, b)\nc = Transpose <perm = [0, 1, 3, 2]> "
          "(k)\n" + BEHIND
    ),
    "ConvTranspose": build(FRONT + WEIGHT.format(axis=1) + "c = ConvTranspose (xd, wd, "
                                                           "b)\n" + BEHIND, axis=1),
    "Gemm": build(FRONT + WEIGHT.format(axis=1) + "c = Gemm (xd, wd, "
                                                  "b)\n" + BEHIND, axis=1, image=False),
    "Gemm transB": build(FRONT + WEIGHT.format(axis=0) + "c = Gemm <transB = 1> (xd, wd, "
                                                         "b)\n" + BEHIND, image=False),
    "MatMul and Add": build(
        FRONT + WEIGHT.format(axis=1) + "m = MatMul (xd, wd)\nc = Add (m, "
                                        "b)\n" + BEHIND, axis=1, image=False
    ),
    "Gemm, axis from the end": build(
        FRONT + STORED.format(axis=-1) + "c = Gemm (xd, wd, b)\n" + BEHIND, axis=1, image=False
    ),
    "one scale for all": build(
        FRONT + PER_TENSOR + CONV + BEHIND, w=np.full((8, 8, 3, 3), 1e-8, np.float32)
    ),
}  # fmt: skip


@exact_int8
@pytest.mark.parametrize("name", LOST)
def test_a_bias_that_does_not_fit_int32_gets_room(name: str) -> None:
    model = LOST[name].clone()
    plain = outputs(model, optimize=False)
    assert np.abs(outputs(model) - plain).max() > 0.5, "a bias of 1 to 3 has to be lost"
    assert [one.code for one in lint_model(model, "onnxruntime") if one.code in OF_THE_LOADER] == [
        "SQ704"
    ]
    made = faithful(model)
    assert made is not None
    assert np.abs(outputs(made, optimize=False) - plain).max() <= 0.05 + 1e-6, (
        "at most a step of the output's grid"
    )
    assert np.abs(outputs(made) - plain).max() <= 0.05 + 1e-6
    assert [one.code for one in lint_model(made, "onnxruntime") if one.code in OF_THE_LOADER] == []
    assert faithful(made) is None


def test_only_scales_that_are_too_small_are_raised_and_each_just_enough() -> None:
    model = LOST["Conv"].clone()
    before = next(qdq.pair_of(qdq.weight(node)) for node in qdq.weighted_nodes(model.graph))
    RoomForBias()(model)
    after = next(qdq.pair_of(qdq.weight(node)) for node in qdq.weighted_nodes(model.graph))
    assert before is not None
    assert after is not None
    needed = np.linspace(3, 1, 8)[:4] / (2**31 - 1) / 0.03
    np.testing.assert_allclose(after.scale[:4], needed * 1.0001, rtol=1e-5)
    np.testing.assert_array_equal(after.scale[4:], before.scale[4:])


def test_a_layer_that_shares_the_weight_keeps_the_pair_it_has() -> None:
    model = build(
        FRONT + WEIGHT.format(axis=0) + CONV + BEHIND.replace("y =", "h =")
        + "g = Conv <pads = [1, 1, 1, 1]> (h, wd)\ngq = QuantizeLinear (g, t, u128)\ny = "
          "DequantizeLinear (gq, t, u128)\n"
    )  # fmt: skip
    before = [qdq.weight(node).name for node in qdq.weighted_nodes(model.graph)]
    RoomForBias()(model)
    after = [qdq.weight(node).name for node in qdq.weighted_nodes(model.graph)]
    assert (before, after) == (["wd", "wd"], ["wd_for_bias", "wd"])


FLOAT = {
    "Conv": FRONT + "c = Conv <pads = [1, 1, 1, 1]> (xd, w, b)\n" + BEHIND,
    "Conv without bias, with Relu": FRONT + "k = Conv (xd, w)\nc = Relu (k)\n" + BEHIND,
    "Conv after a MaxPool": FRONT
    + "m = MaxPool <kernel_shape = [2, 2]> (xd)\nc = Conv (m, w, b)\n"
    + BEHIND,
    "Conv before a MaxPool": FRONT
    + "k = Conv (xd, w, b)\nc = MaxPool <kernel_shape = [2, 2]> (k)\n"
    + BEHIND,
    "ConvTranspose": FRONT + "c = ConvTranspose (xd, w, b)\n" + BEHIND,
    "Gemm": FRONT + "c = Gemm (xd, w, b)\n" + BEHIND,
    "MatMul and Add": FRONT + "m = MatMul (xd, w)\nc = Add (m, b)\n" + BEHIND,
}


@pytest.mark.parametrize("name", FLOAT)
def test_a_float_weight_stays_float(name: str) -> None:
    rng = np.random.default_rng(3)
    image = "Conv" in name
    weight = rng.normal(size=(8, 8, 3, 3) if image else (8, 8)).astype(np.float32) * np.float32(0.2)
    fine = np.array(0.01, np.float32)  # a grid on which 8 bits in the weight show
    model = build(FLOAT[name], image=image, w=weight, b=np.zeros(8, np.float32), t=fine)
    plain = outputs(model, optimize=False)
    assert np.abs(outputs(model) - plain).max() > 0.009, "it has to be quantized by ONNX Runtime"
    assert [one.code for one in lint_model(model, "onnxruntime") if one.code in OF_THE_LOADER] == [
        "SQ705"
    ]
    made = faithful(model)
    assert made is not None
    np.testing.assert_allclose(outputs(made), plain, atol=0.01 + 1e-6)
    assert np.mean(outputs(made) != plain) < 0.01, (
        "but for a value at a rounding boundary they are the same"
    )
    assert faithful(made) is None


def test_a_float_weight_without_a_q_behind_is_left_alone() -> None:
    assert not KeepFloat()(build(FRONT + "c = Conv (xd, w, b)\ny = Sigmoid (c)")).modified


@pytest.mark.parametrize(
    "move", ["Transpose <perm = [0, 1, 3, 2]> (d)", "MaxPool <kernel_shape = [2, 2]> (d)"]
)
def test_int8_that_is_moved_in_a_new_opset_can_be_loaded(move: str) -> None:
    body = (
        f"q = QuantizeLinear (x, s, z)\nd = DequantizeLinear (q, s, z)\nm = {move}\ny = Sigmoid (m)"
    )
    model = build(body, opset=21)
    plain = outputs(model, optimize=False)
    with pytest.raises(Exception, match="output_dtype INT8 does not match"):
        outputs(model)
    assert [one.code for one in lint_model(model, "onnxruntime") if one.code in OF_THE_LOADER] == [
        "SQ706"
    ]
    made = faithful(model)
    assert made is not None
    np.testing.assert_allclose(outputs(made), plain, atol=1e-6)
    assert faithful(build(body, opset=17)) is None


@pytest.mark.parametrize(
    ("zero", "from_0", "shifted"),
    [(0, False, 128), (-128, False, 0), (-7, True, 121), (127, False, 255)],
)
def test_any_int8_zero_point_can_be_shifted(zero: int, from_0: bool, shifted: int) -> None:
    model = build(
        "q = QuantizeLinear (x, s, z)\nd = DequantizeLinear (q, s, z)\ny = Sigmoid (d)",
        z=np.array(zero, np.int8),
    )
    plain = outputs(model, optimize=False)
    UnsignedActivations(zero_point_0=from_0)(model)
    (pair,) = qdq.pairs(model.graph)
    assert (pair.zero_point, pair.zero_point.dtype) == (shifted, np.uint8)
    np.testing.assert_array_equal(outputs(model, optimize=False), plain)


def saved(model: ir.Model, path: Path) -> Path:
    ir.save(model, path)
    return path


def changed_by_loader(folder: Path) -> dict[str, Path]:
    """The files of an export that ONNX Runtime would change while loading them."""
    models = {"float": build("y = Conv <pads = [1, 1, 1, 1]> (x, w, b)")}
    models |= dict.fromkeys(("int8", "partial"), LOST["Conv"])
    return {name: saved(model, folder / f"model.{name}.onnx") for name, model in models.items()}


def test_a_copy_that_is_not_needed_any_more_is_removed(tmp_path: Path) -> None:
    files = changed_by_loader(tmp_path)
    x = np.random.default_rng(0).normal(size=(4, 8, 6, 6)).astype(np.float32)
    found = faithful_copies(files, Example({"x": x}))
    assert list(found) == ["model.int8.onnxruntime.onnx", "model.partial.onnxruntime.onnx"]
    assert all((tmp_path / name).exists() for name in found)
    saved(build("y = Conv <pads = [1, 1, 1, 1]> (x, w, b)"), files["partial"])
    assert list(faithful_copies(files, Example({"x": x}))) == ["model.int8.onnxruntime.onnx"]
    assert not (tmp_path / "model.partial.onnxruntime.onnx").exists()


def test_a_copy_that_computes_something_else_is_refused_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = changed_by_loader(tmp_path)
    wrong = LOST["Conv"].clone()
    monkeypatch.setattr(for_onnxruntime, "faithful", lambda model: wrong)
    x = np.random.default_rng(0).normal(size=(4, 8, 6, 6)).astype(np.float32)
    with pytest.raises(
        ExportError, match="model.int8.onnxruntime.onnx to differ from model.int8.onnx by at most"
    ):
        faithful_copies(files, Example({"x": x}))
    reasons: dict[str, str] = {}
    assert faithful_copies(files, Example({"x": x}), left_out=reasons) == {}
    assert (
        "computes something other than model.partial.onnx"
        in reasons["model.partial.onnxruntime.onnx"]
    )
    assert not (tmp_path / "model.partial.onnxruntime.onnx").exists()


def test_what_is_benched_in_onnxruntime_has_the_accuracy_that_the_plan_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    end = "g = GlobalAveragePool (y0)\ny = Flatten (g)\n"
    saved(
        build(FRONT + WEIGHT.format(axis=0) + CONV + BEHIND.replace("y =", "y0 =") + end),
        tmp_path / "q.onnx",
    )
    plain = build("y0 = Conv <pads = [1, 1, 1, 1]> (x, w, b)\n" + end)
    x = np.random.default_rng(0).normal(size=(200, 8, 6, 6)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(ir.to_proto(plain).SerializeToString(), options)
    np.savez(tmp_path / "d.npz", x=x, y=session.run(None, {"x": x})[0].argmax(1))
    assert verb(
        "run", "q.onnx", "--data", "d.npz", "--max-drop", "5pt", "--rounds", "5", "--out", "out"
    ) in (0, 2)
    promised = json.loads((tmp_path / "out/plan.json").read_text())["metric"]["holdout"]["value"]
    assert verb("bench", "out", "--rounds", "5", "--accuracy") == 0
    bench = json.loads((tmp_path / "out/bench.json").read_text())
    files = {
        Path(one["file"]).name
        for one in bench["timings"]
        if "partial" in (one["variant"], *one["same"])
    }
    assert files <= {"model.partial.onnxruntime.onnx", "model.int8.onnxruntime.onnx"}
    assert bench["accuracy"]["partial"]["value"] == pytest.approx(promised, abs=0.02)


def dead_channels() -> tuple[Any, Any]:
    """A calibrated model whose first channels have almost no weight, and a batch."""
    torch = pytest.importorskip("torch", reason="exports a PyTorch model")
    pytest.importorskip("modelopt", reason="exports a model calibrated by ModelOpt")
    from support.models import quantized

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 3, padding=1),
        torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 1),
    ).eval()  # fmt: skip
    with torch.no_grad():
        net[0].weight[:8] *= 1e-5
        net[0].bias[:8] = torch.linspace(1, 3, 8)
    images = torch.randn(4, 3, 8, 8)
    return quantized(net, images), images


@pytest.mark.parametrize("fast", [True, False], ids=["lowered", "lowering-refused"])
def test_a_torch_model_with_dead_channels_keeps_their_bias_in_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    model, images = dead_channels()
    from sensitivity.exporters import lowered
    from sensitivity.exporters.evaluate import named_arrays
    from sensitivity.exporters.example import Example
    from sensitivity.exporters.torch_model import export_files
    from sensitivity.quantizers.base import layers
    from sensitivity.quantizers.torch.modelopt import ModelOptModel

    source = ModelOptModel(model)
    files = export_files(
        source, images, layers(source.quantizers), [], tmp_path, fingerprint="test"
    )
    if not fast:
        monkeypatch.setattr(lowered, "check_lowering", refuse)
    reasons: dict[str, str] = {}
    example = Example(named_arrays(images))
    lowered.lower_files(files, ["onnxruntime"], example, left_out=reasons)
    plain = outputs(ir.load(files["int8"]), optimize=False)
    scale = np.abs(plain).max()
    assert np.abs(outputs(ir.load(files["int8"])) - plain).max() > 0.1 * scale, (
        "the canonical file loses them"
    )
    made = ir.load(tmp_path / "model.int8.onnxruntime.onnx")
    # Products saturate without VNNI. The copy shares zero points: exact ones do not load.
    assert np.abs(outputs(made, exact=fast) - plain).max() < 0.05 * scale
    assert [one.code for one in lint_model(made, "onnxruntime") if one.code in OF_THE_LOADER] == []
    wanted = (
        []
        if fast
        else [
            "changed only where ONNX Runtime would compute something else: Expected it, got "
            "another."
        ]
        * 2
    )
    assert list(reasons.values()) == wanted


def refuse(*_: object, **__: object) -> None:
    raise ExportError("Expected it, got another.")


LINEAR = FRONT + WEIGHT.format(axis=1)
PAIR = "{made}q = QuantizeLinear ({given}, t, z8)\n{made} = DequantizeLinear ({made}q, t, z8)\n"
IN_FLOAT = {
    "Gemm": "y = Gemm (xd, wd, b)",
    "Gemm and Sigmoid": "c = Gemm (xd, wd, b)\ny = Sigmoid (c)",
    "MatMul and Add": "m = MatMul (xd, wd)\ny = Add (m, b)",
    "a bias shared through Identity": "i = Identity (b)\ny = Gemm (xd, wd, i)",
}


@pytest.mark.parametrize("name", IN_FLOAT)
def test_a_gemm_with_a_float_bias_runs_in_integers_in_the_copy(tmp_path: Path, name: str) -> None:
    weight = np.random.default_rng(2).normal(size=(8, 8)).astype(np.float32)
    scales = np.abs(weight).max(0) / np.float32(127)
    given = {"axis": 1, "image": False, "w": weight, "ws": scales}
    model = build(LINEAR + IN_FLOAT[name], **given)
    plain, before = outputs(model, optimize=False), kinds(model, tmp_path)
    assert before & {"Gemm", "FusedGemm"}
    assert faithful(model.clone()) is None
    made = fast(model)
    assert made is not None
    assert "QGemm" in kinds(made, tmp_path)
    half_a_step = 0.03 * scales.max() / 2
    np.testing.assert_allclose(outputs(made, optimize=False), plain, atol=half_a_step + 1e-6)
    np.testing.assert_allclose(outputs(made, exact=True), plain, atol=half_a_step + 1e-6)
    assert [one for one in lint_model(made, "onnxruntime") if one.code == "SQ713"] == []
    assert fast(made) is None


@pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"}, reason="other processors keep int8"
)
def test_layers_about_an_int8_value_that_two_read_run_in_integers_in_the_copy(
    tmp_path: Path,
) -> None:
    """A skip connection of a file with int8 activations, the default of quantize_static."""

    def layer(given: str, made: str) -> str:
        lines = f"{made}c = Conv <pads = [1, 1, 1, 1]> ({given}, wd, b)\n"
        return lines + PAIR.format(given=f"{made}c", made=made)

    skip = "a = Add (k, h)\n" + PAIR.format(given="a", made="y")
    body = PAIR.format(given="x", made="xd") + WEIGHT.format(axis=0) + layer("xd", "h")
    weight = np.random.default_rng(2).normal(size=(8, 8, 3, 3)).astype(np.float32)
    scales = np.abs(weight).reshape(8, -1).max(1) / np.float32(127)
    model = build(body + layer("h", "k") + skip, w=weight, ws=scales)
    plain = outputs(model, optimize=False)
    assert "Conv" in kinds(model, tmp_path)
    assert faithful(model.clone()) is None
    made = fast(model)
    assert made is not None
    np.testing.assert_array_equal(outputs(made, optimize=False), plain)
    ran = kinds(made, tmp_path)
    assert ran >= {"QLinearConv", "QLinearAdd"}
    assert not ran & {"Conv", "Add"}
    assert fast(made) is None


def test_int8_values_that_one_operation_reads_are_left_to_the_loader() -> None:
    single = PAIR.format(given="x", made="xd") + WEIGHT.format(axis=0) + CONV
    weight = np.ones((8, 8, 3, 3), np.float32)
    scales = np.full(8, 0.01, np.float32)
    behind = PAIR.format(given="c", made="y")
    assert fast(build(single + behind, w=weight, ws=scales)) is None


def test_a_copy_that_is_wrong_when_fast_is_changed_where_it_must_be_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = changed_by_loader(tmp_path)
    wrong = LOST["Conv"].clone()
    monkeypatch.setattr(for_onnxruntime, "fast", lambda model: wrong)
    x = np.random.default_rng(0).normal(size=(4, 8, 6, 6)).astype(np.float32)
    reasons: dict[str, str] = {}
    found = faithful_copies(files, Example({"x": x}), left_out=reasons)
    assert list(found) == ["model.int8.onnxruntime.onnx", "model.partial.onnxruntime.onnx"]
    assert list(reasons) == list(found)
    assert all(
        one.startswith("left as it is but where ONNX Runtime would compute something else: Exp")
        for one in reasons.values()
    )


def kinds(model: ir.Model, folder: Path) -> set[str]:
    """The operations that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    content = ir.to_proto(model).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node}
