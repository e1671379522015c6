from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from support.qdq_chain import chain, inputs

from sensitivity.errors import RuntimeUnavailable
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.testing.runtimes import RuntimeConformance


class TestOnnxRuntime(RuntimeConformance):
    runtime = OnnxRuntime()


class TestOnnxRuntimeUnoptimized(RuntimeConformance):
    runtime = OnnxRuntime(optimize=False)


def test_without_optimizations_a_quantized_file_keeps_its_own_numerics(tmp_path: Path) -> None:
    # in a longer chain, values on a rounding boundary flip
    file = chain(tmp_path / "int8.onnx", {0}, layers=1)
    model = onnx.load(file)
    # the reference has no Q/DQ of opset 17; those of 19 compute the same
    model.opset_import[0].version = 19
    (expected,) = ReferenceEvaluator(model).run(None, inputs())
    with OnnxRuntime(optimize=False).build(file, threads=1) as engine:
        np.testing.assert_allclose(engine.run(inputs())["y"], expected, atol=1e-5)
        assert {step.op for step in engine.profile(inputs(), 1)} >= {
            "QuantizeLinear",
            "DequantizeLinear",
            "Conv",
            "Relu",
        }


def test_the_threads_asked_for_are_the_threads_of_the_session(tmp_path: Path) -> None:
    with OnnxRuntime().build(chain(tmp_path / "float.onnx"), threads=1) as engine:
        assert engine._session.get_session_options().intra_op_num_threads == 1


def test_a_file_whose_weights_cannot_be_converted_runs_without_exact_products_and_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime only converts weights on processors without VNNI."""
    import onnxruntime

    real, seen = onnxruntime.InferenceSession, []

    def session(file: str, options: Any, **settings: Any) -> Any:
        seen.append(options.get_session_config_entry("session.x64quantprecision"))
        if seen == ["1"]:
            raise RuntimeError("Attempt to replace the existing tensor 'z'")
        return real(file, options, **settings)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with OnnxRuntime().build(chain(tmp_path / "float.onnx"), threads=1):
        assert seen == ["1", "0"]
    assert capfd.readouterr().err == ""


def test_a_profile_names_the_nodes_of_a_float_file(tmp_path: Path) -> None:
    with OnnxRuntime().build(chain(tmp_path / "float.onnx"), threads=1) as engine:
        steps = engine.profile(inputs(), 3)
    convolutions = [step for step in steps if step.onnx and step.onnx[0].endswith("/Conv")]
    assert [step.onnx for step in convolutions] == [
        ("layer0/Conv",),
        ("layer1/Conv",),
        ("layer2/Conv",),
    ]
    assert {step.precision for step in convolutions} == {"fp32"}
    assert all(step.ms is not None and step.ms >= 0 for step in steps)


def test_a_profile_tells_layers_in_int8_from_layers_whose_qdq_was_not_fused(tmp_path: Path) -> None:
    fused = chain(tmp_path / "fused.onnx", {0, 1, 2}, outputs_too=True, dtype=np.uint8)
    unfused = chain(tmp_path / "unfused.onnx", {0, 1, 2})
    for file, precision in ((fused, "int8"), (unfused, "fp32")):
        with OnnxRuntime().build(file, threads=1) as engine:
            steps = engine.profile(inputs(), 1)
        assert {step.precision for step in steps if "Conv" in step.op} == {precision}
        assert any(step.origin == "qdq" for step in steps)


def test_an_fp16_file_runs_in_fp32_between_casts_and_keeps_its_names(tmp_path: Path) -> None:
    with OnnxRuntime().build(chain(tmp_path / "fp16.onnx", half=True), threads=1) as engine:
        steps = [step for step in engine.profile(inputs(), 1) if "Conv" in step.op]
    assert [(step.precision, step.onnx) for step in steps] == [
        ("fp32", (f"layer{i}/Conv",)) for i in range(3)
    ]


def test_a_profile_that_a_full_disk_took_in_part_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime does not look whether its profile was written."""
    file = chain(tmp_path / "float.onnx")
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: real(path)[:-20])
    said = "Expected ONNX Runtime to have written JSON to .*; see that there is room in "
    with (
        OnnxRuntime().build(file) as engine,
        pytest.raises(RuntimeUnavailable, match=said),
    ):
        engine.profile(inputs(), 1)


@pytest.mark.parametrize("clamp", ["Relu (xd)", "Clip (xd, zero)"])
@pytest.mark.parametrize("kind", ["float8e4m3fn", "int4"])
@pytest.mark.parametrize("pair", ["s, z", "s"])
def test_a_clamp_in_front_of_a_pair_of_a_rare_type_stays(
    clamp: str, kind: str, pair: str, tmp_path: Path
) -> None:
    number = {"float8e4m3fn": 17, "int4": 22}[kind]
    named = f" <output_dtype = {number}>" if pair == "s" else ""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 21]>
        net (float[1, 4] x) => (float[1, 4] y) <float s = {{0.5}}, float zero = {{0}}, {kind} z>
        {{
            xq = QuantizeLinear (x, s, z)
            xd = DequantizeLinear (xq, s, z)
            r = {clamp}
            rq = QuantizeLinear{named} (r, {pair})
            y = DequantizeLinear (rq, s)
        }}"""
    )
    model.graph.initializer.append(onnx.helper.make_tensor("z", number, [], b"\0", raw=True))
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "rare.onnx")
    x = np.array([[-2, -0.5, 0.5, 2]], np.float32)
    with OnnxRuntime().build(tmp_path / "rare.onnx", threads=1) as engine:
        np.testing.assert_array_equal(engine.run({"x": x})["y"], np.maximum(x, 0))
