"""Tests that every runtime must pass, to be inherited.

    class TestMyRuntime(RuntimeConformance):
        runtime = MyRuntime()

The tests are skipped if the runtime's library is missing, with the reason that the runtime gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sensitivity.errors import OnnxFileError
from sensitivity.runtimes.base import Runtime


def small_model(path: Path) -> Path:
    """Write a model of two convolutions, each with a ReLU, and return its path.

    Its input is x float32[1, 3, 8, 8], its output y float32[1, 4, 8, 8].
    """
    rng, nodes, constants, x = np.random.default_rng(0), [], [], "x"
    for index, channels in enumerate((3, 4)):
        weight = rng.normal(size=(4, channels, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"weight{index}"))
        output = "y" if index else "relu0"
        nodes.append(
            helper.make_node(
                "Conv", [x, f"weight{index}"], [f"conv{index}"], f"Conv_{index}", pads=[1] * 4
            )
        )
        nodes.append(helper.make_node("Relu", [f"conv{index}"], [output], f"Relu_{index}"))
        x = output
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, c, 8, 8])
        for name, c in (("x", 3), ("y", 4))
    ]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


class RuntimeConformance:
    """Tests of one runtime.

    runtime: the runtime under test.
    atol: largest absolute difference of outputs from the ONNX reference.
    """

    runtime: Runtime
    atol = 1e-4

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        if problem := self.runtime.unavailable():
            pytest.skip(problem)
        return small_model(tmp_path / "small.onnx")

    @pytest.fixture
    def inputs(self) -> dict[str, Any]:
        return {"x": np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)}

    def test_it_computes_what_the_onnx_reference_computes(
        self, file: Path, inputs: dict[str, Any]
    ) -> None:
        (expected,) = ReferenceEvaluator(str(file)).run(None, inputs)
        with self.runtime.build(file, threads=1) as engine:  # type: ignore[attr-defined]
            np.testing.assert_allclose(engine.run(inputs)["y"], expected, atol=self.atol)

    def test_times_are_one_positive_number_per_repeat(
        self, file: Path, inputs: dict[str, Any]
    ) -> None:
        with self.runtime.build(file, threads=1) as engine:  # type: ignore[attr-defined]
            times = engine.time_ms(inputs, 4)
        assert times.shape == (4,)
        assert times.dtype == np.float64
        assert (times > 0).all()

    def test_a_profile_covers_every_convolution_once(
        self, file: Path, inputs: dict[str, Any]
    ) -> None:
        with self.runtime.build(file, threads=1) as engine:  # type: ignore[attr-defined]
            steps = engine.profile(inputs, 2)
        ran = list[str]()
        for step in steps:
            assert step.precision
            if step.origin is None:
                ran += step.onnx
        convolutions = [node for node in ran if node.startswith("Conv")]
        assert sorted(convolutions) == ["Conv_0", "Conv_1"]

    def test_it_says_its_version_and_precision(self, file: Path) -> None:
        assert self.runtime.version()[0].isdigit()
        with self.runtime.build(file, threads=1) as engine:  # type: ignore[attr-defined]
            assert engine.precision

    def test_two_engines_live_side_by_side(self, file: Path, inputs: dict[str, Any]) -> None:
        with (
            self.runtime.build(file, threads=1) as one,  # type: ignore[attr-defined]
            self.runtime.build(file, threads=1) as other,  # type: ignore[attr-defined]
        ):
            np.testing.assert_array_equal(one.run(inputs)["y"], other.run(inputs)["y"])

    def test_outputs_stay_as_they_were_when_it_runs_again(
        self, file: Path, inputs: dict[str, Any]
    ) -> None:
        with self.runtime.build(file, threads=1) as engine:  # type: ignore[attr-defined]
            first = engine.run(inputs)["y"]
            before = first.copy()
            engine.run({"x": -inputs["x"]})
        np.testing.assert_array_equal(first, before)

    def test_float64_inputs_are_cast_to_the_type_of_the_file(
        self, file: Path, inputs: dict[str, Any]
    ) -> None:
        with self.runtime.build(file, threads=1) as engine:  # type: ignore[attr-defined]
            wide = engine.run({"x": inputs["x"].astype(np.float64)})
            np.testing.assert_array_equal(wide["y"], engine.run(inputs)["y"])

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ({"image": np.zeros((1, 3, 8, 8), np.float32)}, "Expected inputs named x, got image"),
            (
                {"x": np.zeros((1, 3, 8, 8), np.uint8)},
                "Expected input x of type float32, got uint8",
            ),
        ],
        ids=["name", "type"],
    )
    def test_inputs_of_other_names_or_types_are_refused(
        self, given: Any, sentence: str, file: Path
    ) -> None:
        engine: Any = self.runtime.build(file, threads=1)
        with engine, pytest.raises(OnnxFileError, match=sentence):
            engine.run(given)

    @pytest.mark.parametrize(
        "content", [b"", b"not a model", None], ids=["empty", "not-onnx", "truncated"]
    )
    def test_a_file_that_is_no_model_gives_one_clear_sentence(
        self, content: bytes | None, file: Path
    ) -> None:
        file.write_bytes(file.read_bytes()[:200] if content is None else content)
        with pytest.raises(OnnxFileError, match=r"^Expected .*small\.onnx"):
            self.runtime.build(file)

    def test_a_missing_file_says_where_it_was_looked_for(self, file: Path) -> None:
        with pytest.raises(OnnxFileError, match=r"Expected an ONNX file at .*gone\.onnx, got none"):
            self.runtime.build(file.with_name("gone.onnx"))

    def test_the_file_and_its_folder_are_left_as_they_were(
        self, file: Path, inputs: dict[str, Any]
    ) -> None:
        before = file.read_bytes()
        with self.runtime.build(file, threads=1) as engine:  # type: ignore[attr-defined]
            engine.profile(inputs, 1)
        assert file.read_bytes() == before
        assert [path.name for path in file.parent.iterdir()] == ["small.onnx"]
