from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.qdq_chain import chain, inputs

from sensitivity.errors import OnnxFileError
from sensitivity.testing.runtimes import RuntimeConformance

pytest.importorskip("openvino", reason="OpenVINO is not installed")

from sensitivity.runtimes.onnx_names import OnnxNames
from sensitivity.runtimes.openvino import OpenVino, _steps


class TestOpenVino(RuntimeConformance):
    runtime = OpenVino()


def test_float_is_fp32_unless_it_asked_otherwise(tmp_path: Path) -> None:
    file = chain(tmp_path / "float.onnx")
    with OpenVino().build(file, threads=1) as engine:
        assert engine.precision == "fp32"
        assert {
            step.precision for step in engine.profile(inputs(), 1) if step.op == "Convolution"
        } == {"fp32"}
    import openvino

    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    with OpenVino(precision="bf16").build(file, threads=1) as engine:
        assert engine.precision == ("bf16" if has_bf16 else "fp32")


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


def test_a_file_that_is_no_model_gives_one_clear_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"not a model")
    with pytest.raises(OnnxFileError, match=r"Expected .*model\.onnx to be"):
        OpenVino().build(file)
    assert capfd.readouterr().err == ""


class Node:
    """A node of a runtime graph, as OpenVINO's Python objects answer."""

    def __init__(
        self,
        name: str,
        kind: str,
        *sources: "Node",
        ms: str = "not_executed",
        precision: str = "u8",
    ) -> None:
        self.name, self.sources = name, sources
        self.info = {
            "layerType": kind,
            "execTimeMcs": ms,
            "runtimePrecision": precision,
            "originalLayersNames": name,
        }
        self.info |= {"outputPrecisions": precision, "outputLayouts": "abcd"}

    def get_friendly_name(self) -> str:
        return self.name

    def get_rt_info(self) -> dict[str, str]:
        return self.info

    def inputs(self) -> list[SimpleNamespace]:
        outputs = [SimpleNamespace(get_node=lambda node=node: node) for node in self.sources]
        return [
            SimpleNamespace(get_source_output=lambda output=output: output) for output in outputs
        ]


def test_what_is_computed_from_constants_alone_is_no_step_and_no_input() -> None:
    x, weight, shift = Node("x", "Input"), Node("w", "Const"), Node("b", "Const", precision="f32")
    bias = Node("bias", "Reshape", shift, ms="3", precision="f32")
    convolution = Node("conv", "Convolution", x, weight, bias, ms="20")
    (step,) = _steps([x, weight, shift, bias, convolution], OnnxNames([]))
    assert [port.tensor for port in step.inputs] == ["x"]
    assert (step.ms, step.precision) == (0.02, "int8")


def test_a_step_that_works_in_place_is_looked_through_and_an_in_place_concat_costs_nothing() -> (
    None
):
    x = Node("x", "Input")
    first = Node("first", "Convolution", x, ms="5")
    reshape = Node("reshape", "Reshape", first)
    second = Node("second", "Convolution", reshape, ms="5")
    concat = Node("concat", "Concatenation", reshape, second)
    steps = _steps([x, first, reshape, second, concat, Node("y", "Output", concat)], OnnxNames([]))
    assert [(step.name, step.ms) for step in steps] == [
        ("first", 0.005),
        ("second", 0.005),
        ("concat", 0.0),
    ]
    assert [port.tensor for port in steps[1].inputs] == ["first"]
    assert [port.tensor for port in steps[2].inputs] == ["first", "second"]


def test_inputs_keep_their_names_where_openvino_folds_a_cast_into_them(tmp_path: Path) -> None:
    with OpenVino().build(chain(tmp_path / "fp16.onnx", half=True), threads=1) as engine:
        assert engine.run(inputs())["y"].shape == (1, 16, 1, 1)
        folded = SimpleNamespace(get_names=lambda: {"x", *(f"x_cast_{i}" for i in range(50))})
        assert engine._name(folded) == "x"


def test_activations_of_weight_only_products_stay_float(tmp_path: Path) -> None:
    """OpenVINO rounds them to int8, group by group, in spite of the f32 hint."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 128)).astype("f4")
    weight = rng.integers(-127, 128, size=(128, 64)).astype("i1")
    scale = rng.uniform(0.01, 0.02, size=(4, 64)).astype("f4")
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [5, 128]), ("y", [5, 64]))
    ]
    stored = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(scale, "s")]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], stored)
    opsets = [helper.make_opsetid("", 21)]
    file = tmp_path / "weight_only.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), file)
    right = x.astype("f8") @ (weight * np.repeat(scale, 32, 0).astype("f8"))
    with OpenVino().build(file, threads=1) as engine:
        found = engine.run({"x": x})["y"]
    assert np.abs(found - right).max() < 1e-5 * np.abs(right).max()
