from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from qdq_chain import chain, inputs

from sensitivity.errors import OnnxFileError
from sensitivity.runtimes.onnxruntime import OnnxRuntime


def test_it_computes_what_the_onnx_reference_computes(tmp_path: Path) -> None:
    file = chain(tmp_path / "float.onnx")
    (expected,) = ReferenceEvaluator(str(file)).run(None, inputs())
    with OnnxRuntime().build(file, threads=1) as engine:
        np.testing.assert_allclose(engine.run(inputs())["y"], expected, atol=1e-5)


def test_without_optimizations_a_quantized_file_keeps_its_own_numerics(tmp_path: Path) -> None:
    file = chain(tmp_path / "int8.onnx", {0}, layers=1)  # in a longer chain, values on a rounding boundary flip
    model = onnx.load(file)
    model.opset_import[0].version = 19  # the reference has no Q/DQ of opset 17; those of 19 compute the same
    (expected,) = ReferenceEvaluator(model).run(None, inputs())
    with OnnxRuntime(optimize=False).build(file, threads=1) as engine:
        np.testing.assert_allclose(engine.run(inputs())["y"], expected, atol=1e-5)
        assert {step.op for step in engine.profile(inputs(), 1)} >= {
            "QuantizeLinear",
            "DequantizeLinear",
            "Conv",
            "Relu",
        }


def test_times_are_one_positive_number_per_repeat(tmp_path: Path) -> None:
    with OnnxRuntime().build(chain(tmp_path / "float.onnx"), threads=1) as engine:
        times = engine.time_ms(inputs(), 4)
    assert times.shape == (4,)
    assert (times > 0).all()


def test_the_threads_asked_for_are_the_threads_of_the_session(tmp_path: Path) -> None:
    with OnnxRuntime().build(chain(tmp_path / "float.onnx"), threads=1) as engine:
        assert engine._session.get_session_options().intra_op_num_threads == 1


def test_a_profile_names_the_nodes_of_a_float_file(tmp_path: Path) -> None:
    with OnnxRuntime().build(chain(tmp_path / "float.onnx"), threads=1) as engine:
        steps = engine.profile(inputs(), 3)
    convolutions = [step for step in steps if step.onnx and step.onnx[0].endswith("/Conv")]
    assert [step.onnx for step in convolutions] == [("layer0/Conv",), ("layer1/Conv",), ("layer2/Conv",)]
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


@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=["empty", "not-onnx", "truncated"])
def test_a_file_that_is_no_model_gives_one_clear_sentence(tmp_path: Path, content: bytes | None) -> None:
    file = chain(tmp_path / "model.onnx")
    file.write_bytes(file.read_bytes()[:2000] if content is None else content)
    with pytest.raises(OnnxFileError, match=r"Expected .*model\.onnx.*|Expected an ONNX model in .*"):
        OnnxRuntime().build(file)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(OnnxFileError, match=r"Expected an ONNX file at .*gone\.onnx, got none"):
        OnnxRuntime().build(tmp_path / "gone.onnx")


def test_inputs_of_other_names_or_types_are_refused_by_name(tmp_path: Path) -> None:
    with OnnxRuntime().build(chain(tmp_path / "float.onnx"), threads=1) as engine:
        with pytest.raises(OnnxFileError, match="Expected inputs named x, got image"):
            engine.run({"image": inputs()["x"]})
        with pytest.raises(OnnxFileError, match="Expected input x of type float32, got uint8"):
            engine.run({"x": inputs()["x"].astype(np.uint8)})


def test_float64_inputs_are_cast_to_the_type_of_the_file(tmp_path: Path) -> None:
    with OnnxRuntime().build(chain(tmp_path / "float.onnx"), threads=1) as engine:
        wide = engine.run({"x": inputs()["x"].astype(np.float64)})
        np.testing.assert_array_equal(wide["y"], engine.run(inputs())["y"])


def test_the_file_is_not_changed_by_building_and_profiling(tmp_path: Path) -> None:
    file = chain(tmp_path / "float.onnx")
    before = file.read_bytes()
    with OnnxRuntime().build(file) as engine:
        engine.profile(inputs(), 1)
    assert file.read_bytes() == before
    onnx.checker.check_model(onnx.load(file))
    assert [path.name for path in tmp_path.iterdir()] == ["float.onnx"]
