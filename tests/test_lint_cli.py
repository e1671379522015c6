"""`sensitivity lint` as a user runs it, on our own and on other tools' files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from sensitivity.cli.main import main
from sensitivity.rules.catalog import RULES, rule
from sensitivity.rules.examples import CANONICAL, POINTWISE, Example, conv, qdq, weights
from sensitivity.rules.targets import TARGETS

FLOAT_NET = Example(
    "[stem] a = Conv <pads = [1, 1, 1, 1]> (x, w3, b)\nr = Relu "
    "(a)\n" + conv("r", "w", to="c", name="body")
    + "[add] d = Add (c, r)\ne = Relu (d)\n" + conv("e", "v", to="f", name="side", rest=POINTWISE)
    + "[concat] g = Concat <axis = 1> (e, f)\n[head] h = Conv <pads = [0, 0, 0, 0]> (g, v2)\n"
    + "k = GlobalAveragePool (h)\nm = Flatten (k)\n[fc] y = Gemm (m, l)",
    inputs="float[1,3,8,8] x", outputs="float[1,5] y",
    constants={"w3": weights(16, 3, 3, 3), "v2": weights(16, 32, 1, 1), "l": weights(16, 5)},
)  # fmt: skip


def saved(example: Example, folder: Path, name: str = "model.onnx") -> Path:
    onnx.save(example.proto(), folder / name)
    return folder / name


def lint(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `sensitivity lint`."""
    with pytest.raises(SystemExit) as stop:
        main(["lint", *map(str, arguments)])
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code, out, _ = lint(capsys, *arguments, "--format", "json")
    return code, json.loads(out)


@pytest.mark.parametrize("target", TARGETS)
def test_json_holds_code_severity_node_message_and_fix_and_errors_exit_with_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, target: str
) -> None:
    file = saved(rule("SQ201").bad, tmp_path)
    code, found = as_json(capsys, file, "--for", target)
    assert code == 1
    assert (found["file"], found["target"]) == (str(file), target)
    first = found["findings"][0]
    assert list(first) == ["code", "severity", "node", "message", "fix"]
    assert (first["code"], first["severity"], first["node"]) == ("SQ201", "error", "xq")


def test_warnings_alone_exit_with_0(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, found = as_json(capsys, saved(rule("SQ401").bad, tmp_path), "--for", "tensorrt-10")
    assert code == 0
    assert {finding["severity"] for finding in found["findings"]} == {"warning"}


def test_a_clean_file_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = lint(capsys, saved(CANONICAL, tmp_path), "--for", "tensorrt-11")
    assert code == 0
    assert "nothing to report for tensorrt-11" in out


def test_the_table_names_the_first_nodes_of_each_rule_and_counts_the_rest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    body, value = "", "x"
    for index in range(7):
        body += (
            qdq(value, zero="u", to=f"d{index}d") + f"[relu{index}] r{index} = Relu (d{index}d)\n"
        )
        value = f"r{index}"
    code, out, _ = lint(
        capsys, saved(Example(body + f"y = Identity ({value})"), tmp_path), "--for", "tensorrt-10"
    )
    assert code == 1
    assert "SQ104" in out
    assert "d4q: expected int8" in " ".join(out.split())
    assert "d5q" not in out
    assert "... and 2 more" in out
    assert "7 errors, 1 warning, 0 info" in out


def test_sarif_has_the_rules_and_a_place_for_each_finding(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = lint(
        capsys, saved(rule("SQ302").bad, tmp_path), "--for", "tensorrt-10", "--format", "sarif"
    )
    log = json.loads(out)
    assert code == 1
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [entry["id"] for entry in rules] == [
        entry.code for entry in RULES if "tensorrt-10" in entry.targets
    ]
    (result,) = run["results"]
    assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == "SQ302"
    assert result["level"] == "error"
    assert result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "conv"
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].startswith(
        "file:///"
    )
    assert "expected a float bias" in result["message"]["text"]


def test_a_plan_is_compared_with_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"skip": ["conv"], "quantizers": []}))
    code, found = as_json(
        capsys, saved(rule("SQ501").bad, tmp_path), "--for", "openvino", "--plan", plan
    )
    assert code == 1
    assert [finding["code"] for finding in found["findings"]] == ["SQ501"]


def test_an_unknown_target_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = lint(capsys, saved(CANONICAL, tmp_path), "--for", "tensorrt-9")
    assert code == 1
    assert "tensorrt-8.6" in err


def outside(folder: Path) -> Path:
    inner = folder / "inner"
    inner.mkdir()
    (folder / "weights.bin").write_bytes(bytes(16 * 16 * 9 * 4))
    proto = CANONICAL.proto()
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "w")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")
    (inner / "model.onnx").write_bytes(proto.SerializeToString())
    return inner / "model.onnx"


def text(folder: Path) -> Path:
    (folder / "notes.onnx").write_text("this is not a model, it is a sentence")
    return folder / "notes.onnx"


def truncated(folder: Path) -> Path:
    file = saved(CANONICAL, folder)
    file.write_bytes(file.read_bytes()[:-2000])
    return file


def huge(folder: Path) -> Path:
    with (folder / "huge.onnx").open("wb") as file:
        file.truncate(2**31)  # a hole: no bytes on the disk
    return folder / "huge.onnx"


def missing(folder: Path) -> Path:
    return folder / "missing.onnx"


@pytest.mark.parametrize(("make", "said"), [
    (text, "it is cut short or not ONNX"), (truncated, "it is cut short or not ONNX"),
    (outside, "to lie in its own folder, got "
              "'../weights.bin'"), (huge, "smaller than 2 GB, got 2.15 GB"),
    (missing, "No such file"),
])  # fmt: skip
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_file_that_cannot_be_read_is_one_sentence_on_stderr(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, make: Any, said: str, form: str
) -> None:
    code, out, err = lint(capsys, make(tmp_path), "--for", "tensorrt-10", "--format", form)
    assert code == 1
    assert out == ""
    assert err.startswith("Error: Expected ")
    assert err.count("\n") == 1
    assert said in err


def calibrated(folder: Path, **settings: Any) -> Path:
    """A small net quantized by ONNX Runtime's own quantizer."""
    quantization = pytest.importorskip(
        "onnxruntime.quantization", reason="makes a file of another tool"
    )

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            generator = np.random.default_rng(0)
            self.batches = iter(
                [
                    {"x": generator.standard_normal((1, 3, 8, 8)).astype(np.float32)}
                    for _ in range(3)
                ]
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    source, out = saved(FLOAT_NET, folder, "float.onnx"), folder / "quantized.onnx"
    quantization.quantize_static(source, out, Reader(), **settings)
    return out


def codes(found: dict[str, Any], severity: str) -> set[str]:
    return {finding["code"] for finding in found["findings"] if finding["severity"] == severity}


def test_a_file_of_quantize_static_is_asymmetric_with_int32_biases_for_tensorrt(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = calibrated(tmp_path)
    code, found = as_json(capsys, file, "--for", "tensorrt-8.6")
    assert code == 1
    assert codes(found, "error") == {"SQ102", "SQ302"}
    assert [finding["node"] for finding in found["findings"] if finding["code"] == "SQ302"] == [
        "stem"
    ]
    assert {"SQ306", "SQ402"} <= codes(found, "warning")


def test_quantize_static_with_the_fixes_that_the_rules_name_has_no_errors_for_tensorrt(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    code, found = as_json(
        capsys,
        calibrated(tmp_path, per_channel=True, extra_options=options),
        "--for",
        "tensorrt-10",
    )
    assert code == 0
    assert codes(found, "error") == set()


def test_a_file_of_quantize_static_is_fit_for_onnxruntime_but_for_its_signed_activations(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from onnxruntime.quantization import QuantType

    code, found = as_json(capsys, calibrated(tmp_path), "--for", "onnxruntime")
    assert (code, codes(found, "warning")) == (0, {"SQ701"})
    unsigned = calibrated(tmp_path, activation_type=QuantType.QUInt8)
    assert as_json(capsys, unsigned, "--for", "onnxruntime")[1]["findings"] == []


def test_operator_form_is_an_error_for_tensorrt_and_left_alone_for_onnxruntime(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from onnxruntime.quantization import QuantFormat

    file = calibrated(tmp_path, quant_format=QuantFormat.QOperator)
    code, found = as_json(capsys, file, "--for", "tensorrt-10")
    assert code == 1
    assert "SQ002" in codes(found, "error")
    code, found = as_json(capsys, file, "--for", "onnxruntime")
    assert (code, [finding["code"] for finding in found["findings"]]) == (0, ["SQ003"])


@pytest.mark.parametrize("target", TARGETS)
def test_a_float_file_has_one_finding_that_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, target: str
) -> None:
    code, found = as_json(capsys, saved(FLOAT_NET, tmp_path), "--for", target)
    assert code == 0
    assert [finding["message"] for finding in found["findings"]] == [
        "expected Q/DQ pairs, got none among 11 nodes"
    ]


def test_importing_the_verb_imports_no_onnx() -> None:
    program = (
        "import sys, sensitivity.cli.lint; print([m for m in ('onnx', 'onnx_ir', 'rich') if "
        "m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
