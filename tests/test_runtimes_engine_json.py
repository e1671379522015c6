"""Parsers of TensorRT's JSON, on real engines where they can be found and on small examples of each
form."""

import os
from pathlib import Path

import numpy as np
import pytest

from sensitivity.errors import RuntimeUnavailable
from sensitivity.runtimes.base import LayerRun
from sensitivity.runtimes.engine_json import compute_times, engine_layers, layer_times, read_json
from sensitivity.runtimes.onnx_names import NodeName, OnnxNames
from sensitivity.timing.explain import explain, mixed_adds, reformats

FIXTURES = os.environ.get("SENSITIVITY_FIXTURES")
needs_engines = pytest.mark.skipif(
    not FIXTURES, reason="SENSITIVITY_FIXTURES is not set: no real engines to read"
)


def folder(name: str) -> Path:
    return Path(str(FIXTURES)) / "engines" / f"resnet18-a100-{name}"


def layers(name: str) -> tuple[LayerRun, ...]:
    times = layer_times(read_json(folder(name) / "profile.json"))
    return engine_layers(read_json(folder(name) / "graph.json"), times)


@needs_engines
@pytest.mark.parametrize(
    ("name", "median_ms"), [("fp16", 0.862), ("qat", 0.883), ("qat-residual", 0.546)]
)
def test_the_median_of_a_real_engine(name: str, median_ms: float) -> None:
    assert np.median(compute_times(read_json(folder(name) / "timing.json"))) == pytest.approx(
        median_ms, abs=5e-4
    )


@needs_engines
def test_the_naive_engine_has_12_reformats_that_take_a_quarter_of_its_time() -> None:
    runs = layers("qat")
    found = reformats(runs)
    assert len(found) == 12
    spent, total = sum(item.step.ms or 0 for item in found), sum(run.ms or 0 for run in runs)
    assert spent / total == pytest.approx(0.25, abs=0.01)


@needs_engines
def test_the_explanation_of_the_naive_engine_is_its_unquantized_residual_adds() -> None:
    runs = layers("qat")
    words = explain(runs)
    assert words[0].startswith("8 residual adds are unquantized: Conv_34 + Add_36 + Relu_37, ")
    assert "Conversions and copies: 12 steps, 0.279 of 1.1 ms (25% of the profiled time)." in words
    (residual,) = [
        sentence
        for sentence in words
        if sentence.startswith("On residual adds that are not quantized: 9 steps")
    ]
    assert "Quantize the residual input of these adds" in residual


@needs_engines
def test_quantizing_the_residuals_leaves_one_mixed_add_and_3_reformats() -> None:
    runs = layers("qat-residual")
    assert [run.onnx[-2:] for run in mixed_adds(runs)] == [("Add_292", "Relu_293")]
    assert [item.cause for item in reformats(runs)] == ["input", "residual", "float neighbour"]


@needs_engines
def test_every_convolution_of_a_real_engine_has_its_precision_and_time() -> None:
    for name, precision, count in (
        ("fp16", "fp16", 21),
        ("qat", "int8", 21),
        ("qat-residual", "int8", 20),
    ):
        runs = [run for run in layers(name) if run.op == "CaskConvolution"]
        assert [run.precision for run in runs] == [precision] * count
        assert all(run.ms and run.ms > 0 for run in runs)


@needs_engines
def test_layers_are_mapped_back_to_the_nodes_of_the_model() -> None:
    graph = OnnxNames(
        [
            NodeName("QuantizeLinear_32", "QuantizeLinear", ("layer1.0.conv2.weight",), ("q",)),
            NodeName("Conv_34", "Conv", ("a", "q"), ("b",)),
            NodeName("Add_36", "Add", ("b", "inputs"), ("c",)),
            NodeName("Relu_37", "Relu", ("c",), ("inputs.4",)),
        ]
    )
    runs = engine_layers(read_json(folder("qat") / "graph.json"), {}, graph)
    (run,) = [run for run in runs if "Conv_34" in run.name and run.origin is None]
    assert run.onnx == ("QuantizeLinear_32", "Conv_34", "Add_36", "Relu_37")


def test_the_forms_of_tensorrt_10_are_read() -> None:
    data = {
        "Layers": [
            {
                "Name": "__myl_Fc_myl0_3",
                "LayerType": "gemm",
                "Inputs": [{"Name": "a", "Format/Datatype": "Int8"}],
                "Outputs": [{"Name": "b", "Format/Datatype": "Half"}],
                "Metadata": "[ONNX Layer: /fc/Gemm]\x1f[ONNX Layer: /relu/Relu]\x1e[ONNX Layer: "
                "/fc/Gemm]",
            },
            {
                "Name": "__myl_MulAdd_myl0_4",
                "LayerType": "kgen",
                "Inputs": [{"Name": "b", "Format/Datatype": "Half"}],
                "Outputs": [{"Name": "c", "Format/Datatype": "Int8"}],
                "Metadata": "",
            },
            {"Name": "__mye_signal", "LayerType": "signal", "Inputs": [], "Outputs": []},
        ]
    }
    gemm, kgen, signal = engine_layers(data)
    assert (gemm.precision, gemm.onnx) == ("int8", ("/fc/Gemm", "/relu/Relu"))
    assert (kgen.precision, kgen.outputs[0].precision) == ("fp16", "int8")
    assert signal.precision == "?"


def test_an_engine_without_detailed_verbosity_only_has_names() -> None:
    (run,) = engine_layers({"Layers": ["Conv_0 + Relu_1"]}, {"Conv_0 + Relu_1": [0.5]})
    assert (run.name, run.precision, run.ms, run.onnx) == (
        "Conv_0 + Relu_1",
        "?",
        0.5,
        ("Conv_0", "Relu_1"),
    )


def test_layers_that_share_a_name_get_their_times_in_order() -> None:
    times = layer_times(
        [
            {"count": 2},
            {"name": "a", "medianMs": 1.0},
            {"name": "b", "averageMs": 2.0},
            {"name": "a", "medianMs": 3.0},
        ]
    )
    runs = engine_layers({"Layers": ["a", "a", "b", "c"]}, times)
    assert [run.ms for run in runs] == [1.0, 3.0, 2.0, None]


def test_a_copy_that_costs_nothing_is_no_reformat() -> None:
    noop = {"Name": "Reformatting CopyNode for Input Tensor 0 to Conv_1", "LayerType": "NoOp"}
    copy = {
        "Name": "Reformatting CopyNode for Output Tensor 0 to Conv_1",
        "LayerType": "Reformat",
        "Origin": "REFORMAT",
    }
    assert [run.origin for run in engine_layers({"Layers": [noop, copy]})] == [None, "reformat"]


def test_a_file_that_is_not_json_says_so(tmp_path: Path) -> None:
    (tmp_path / "times.json").write_text("[{")
    with pytest.raises(
        RuntimeUnavailable, match=r"Expected TensorRT to have written JSON to .*times\.json, got"
    ):
        read_json(tmp_path / "times.json")
    with pytest.raises(RuntimeUnavailable, match=r"gone\.json, got"):
        read_json(tmp_path / "gone.json")
