"""The runtime benchmark on a tiny residual net: its output, and that values are right. Times are
not checked."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.processors import exact_int8

torch = pytest.importorskip("torch")
pytest.importorskip("modelopt")
pytest.importorskip("openvino")
ROOT = Path(__file__).parents[1]
KEYS = {
    *(
        "model",
        "file",
        "runtime",
        "precision",
        "median_ms",
        "p95_ms",
        "ratio_vs_float",
        "low",
        "high",
    ),
    *("rms_vs_canonical", "metric"),
}
FILES = ["float", "fp16", "canonical int8", "int8", "skip-quarter", "skip-half"]


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield SimpleNamespace(
            **{
                name: importlib.import_module(name)
                for name in ("runtimes", "runtimes_models", "runtimes_table")
            }
        )


@pytest.fixture(scope="module")
def subject(bench):
    made = bench.runtimes_models.resnet18(width=16, size=32)
    images = [(batch[:1], torch.zeros(1)) for batch in made.calibration[:2]]
    judge = bench.runtimes_models.Judge(
        "mean", images, lambda outputs, _: outputs.mean(1), lambda scores: scores.mean()
    )
    return bench.runtimes_models.replace(made, judge=judge)


@pytest.fixture(scope="module")
def written(bench, subject, tmp_path_factory):
    file = tmp_path_factory.mktemp("benchmark") / "out" / "runtimes.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bench.runtimes.SUBJECTS, "resnet18", lambda images: subject)
        bench.runtimes.main(
            ["--models", "resnet18", "--rounds", "3", "--threads", "1", "--json", str(file)]
        )
    return file


@pytest.fixture(scope="module")
def rows(written):
    return {(row["runtime"], row["file"]): row for row in json.loads(written.read_text())["rows"]}


def test_every_file_has_a_row_in_every_runtime(rows):
    assert list(rows) == [
        (runtime, file) for runtime in ("onnxruntime", "openvino") for file in FILES
    ]
    assert all(row.keys() >= KEYS for row in rows.values())
    assert all(row["ratio_vs_float"] == 1 for (_, file), row in rows.items() if file == "float")


def test_the_head_says_how_to_repeat_it(written):
    head = json.loads(written.read_text())
    assert head["command"].startswith("python benchmarks/runtimes.py --models resnet18")
    assert {"cpu", "load", "onnxruntime", "openvino"} <= head["environment"].keys()
    assert (head["rounds"], head["threads"]) == (3, 1)


@exact_int8
def test_float_files_agree_with_the_reference_and_int8_files_to_what_int8_changes(rows):
    for (_, file), row in rows.items():
        if file == "float":
            assert row["rms_vs_canonical"] < 1e-5
        elif file == "fp16":
            assert 0 < row["rms_vs_canonical"] < 0.01
        else:
            assert 0 < row["rms_vs_canonical"] < 3 * row["quantization_rms"]


def test_plans_keep_fewer_layers_in_int8_the_more_they_skip(rows):
    for runtime in ("onnxruntime", "openvino"):
        kept = [rows[runtime, file]["quantized_layers"] for file in FILES[3:]]
        assert kept == sorted(kept, reverse=True)
        assert len(set(kept)) == 3
    assert [rows["openvino", file]["quantized_layers"] for file in FILES] == [0, 0, 21, 21, 16, 11]


def test_metrics_are_those_of_the_file_in_its_runtime(rows):
    metrics = {key: row["metric"] for key, row in rows.items()}
    assert metrics["openvino", "float"] == pytest.approx(metrics["onnxruntime", "float"], abs=1e-5)
    assert metrics["openvino", "int8"] != metrics["openvino", "float"]


def test_the_table_beside_the_json_has_a_line_for_each_row(written):
    lines = [
        line
        for line in written.with_suffix(".md").read_text().splitlines()
        if line.startswith("| resnet18")
    ]
    assert len(lines) == 2 * len(FILES)


def test_the_residual_net_has_the_layers_of_resnet18(bench):
    model = bench.runtimes_models.ResNet18()
    # as torchvision's
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_689_512


def test_skip_connections_of_the_residual_net_are_quantized(subject):
    residual = [
        quantizer.name for quantizer in subject.source.quantizers if "residual" in quantizer.name
    ]
    assert len(residual) == 8
