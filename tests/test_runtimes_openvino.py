from pathlib import Path

import numpy as np
import pytest
from qdq_chain import chain, inputs

from sensitivity.errors import OnnxFileError
from sensitivity.testing.runtimes import RuntimeConformance

pytest.importorskip("openvino", reason="OpenVINO is not installed")

from sensitivity.runtimes.openvino import OpenVino


class TestOpenVino(RuntimeConformance):
    runtime = OpenVino()


def test_float_is_fp32_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    file = chain(tmp_path / "float.onnx")
    with OpenVino().build(file, threads=1) as engine:
        assert engine.precision == "fp32"
        assert {step.precision for step in engine.profile(inputs(), 1) if step.op == "Convolution"} == {"fp32"}
    with OpenVino(precision="bf16").build(file, threads=1) as engine:
        assert engine.precision == "bf16"


def test_a_profile_tells_the_quantized_layers_from_the_others(tmp_path: Path) -> None:
    file = chain(tmp_path / "partial.onnx", {1, 2}, dtype=np.uint8)
    with OpenVino().build(file, threads=1) as engine:
        steps = engine.profile(inputs(), 3)
    precisions = {step.onnx[0]: step.precision for step in steps if step.op == "Convolution"}
    assert precisions == {"layer0/Conv": "fp32", "layer1/Conv": "int8", "layer2/Conv": "int8"}
    assert all(step.ms is not None for step in steps)


def test_each_step_names_the_tensors_between_it_and_its_neighbours(tmp_path: Path) -> None:
    with OpenVino().build(chain(tmp_path / "int8.onnx", {0, 1, 2}), threads=1) as engine:
        steps = engine.profile(inputs(), 1)
    made = {port.tensor for step in steps for port in step.outputs} | {"x"}
    assert {port.tensor for step in steps for port in step.inputs} <= made


def test_the_threads_asked_for_are_the_threads_it_has(tmp_path: Path) -> None:
    with OpenVino().build(chain(tmp_path / "float.onnx"), threads=1) as engine:
        assert engine._compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_a_file_that_is_no_model_gives_one_clear_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"not a model")
    with pytest.raises(OnnxFileError, match=r"Expected .*model\.onnx to be"):
        OpenVino().build(file)
    assert capfd.readouterr().err == ""
