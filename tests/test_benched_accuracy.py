"""The file that is benched is the file that was judged: the plan's file in its runtime against the
simulation, and equal files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from support.reporting_samples import timing

from sensitivity.config import BenchSettings
from sensitivity.errors import RuntimeUnavailable
from sensitivity.reporting.tables import bench_table
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.stats.paired import paired_effect
from sensitivity.steps import bench
from sensitivity.steps.bench import HeldOut, _accuracy, runtime_accuracy
from sensitivity.tasks.base import Task
from sensitivity.timing.same_files import same_files
from sensitivity.timing.sentences import bench_sentences

N = 400


def score(outputs, targets):
    return outputs


def answers(right: int) -> np.ndarray:
    return (np.arange(N) < right).astype(float)


HELD = HeldOut(Task(None, {"holdout": []}, score), answers(380), answers(376))
MINUTE = timing("model.float.onnx", 150.0, 1.0)
FILES = (
    MINUTE,
    replace(MINUTE, variant="int8", median_ms=40.0),
    replace(MINUTE, variant="partial", median_ms=50.0),
)
SETTINGS = BenchSettings(directory=Path())


def test_a_file_that_does_what_was_simulated_has_its_drop_measured_against_float(
    tmp_path: Path,
) -> None:
    found = runtime_accuracy(answers(375), HELD, "onnxruntime", tmp_path / "none.onnx")
    assert (found.level.value, found.simulated.value) == (375 / N, 376 / N)
    expected = paired_effect(answers(375), answers(380))
    assert (found.drop.value, found.drop.low, found.drop.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert (found.differs, found.cause) == (False, "")


@pytest.mark.parametrize(
    ("right", "differs"), [(376, False), (372, False), (340, True), (400, True)]
)
def test_only_more_than_chance_differs(right: int, differs: bool, tmp_path: Path) -> None:
    """11 answers of 400 that all change in the same direction have a probability of at most 0.001
    by chance."""
    assert runtime_accuracy(answers(right), HELD, "none", tmp_path / "none.onnx").differs is differs


def measured(
    monkeypatch: pytest.MonkeyPatch, *, is_noise: bool = False, **choices: bool
) -> tuple[list[str], list[str], bool]:
    monkeypatch.setattr(bench, "_scores", lambda timing, runtime, task: answers(376))
    settings = replace(SETTINGS, **choices)
    found, judged, why = _accuracy(FILES, OnnxRuntime(), HELD, settings, is_noise=is_noise)
    return list(found), why, judged is not None


def test_the_plan_s_file_is_measured_first_and_others_while_it_takes_less_than_half_a_minute(
    monkeypatch,
) -> None:
    # 400 samples of 50 ms are 20 s, and of 150 ms one minute more.
    found, why, judged = measured(monkeypatch)
    assert (found, judged) == (["partial"], True)
    assert "was not measured for int8" in why[0]
    assert measured(monkeypatch, accuracy=True) == (["partial", "float", "int8"], [], True)


def test_a_file_that_is_noise_is_measured_only_if_that_is_asked_for(monkeypatch) -> None:
    assert measured(monkeypatch, is_noise=True) == (["partial"], [], True)
    found, _, _ = measured(monkeypatch, is_noise=True, accuracy=True)
    assert found == ["partial", "float", "int8"]


def test_a_metric_that_cannot_be_measured_does_not_end_a_run_that_did_not_ask_for_it(
    monkeypatch,
) -> None:
    def fail(*_):
        raise RuntimeUnavailable("Expected a batch of 4, got 2.")

    monkeypatch.setattr(bench, "_scores", fail)
    assert _accuracy(FILES, OnnxRuntime(), HELD, SETTINGS) == (
        {},
        None,
        ["The metric in onnxruntime could not be measured: Expected a batch of 4, got 2."],
    )
    with pytest.raises(RuntimeUnavailable):
        _accuracy(FILES, OnnxRuntime(), HELD, replace(SETTINGS, accuracy=True))


def file(path: Path, value: float, *, name: str = "g", external: bool = False) -> Path:
    x, y = (helper.make_tensor_value_info(one, onnx.TensorProto.FLOAT, [300]) for one in "xy")
    weight = onnx.numpy_helper.from_array(np.full(300, value, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"], name="mul")], name, [x], [y], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    helper.set_model_props(model, {"made": path.name})
    onnx.save(
        model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0
    )
    return path


@pytest.mark.parametrize("external", [False, True])
def test_files_are_the_same_by_nodes_and_numbers(tmp_path: Path, external: bool) -> None:
    files = {
        "float": file(tmp_path / "f.onnx", 1.0),
        "int8": file(tmp_path / "i.onnx", 2.0, external=external),
        "partial": file(tmp_path / "p.onnx", 2.0, name="other"),
    }
    assert same_files(files) == {"float": "float", "int8": "int8", "partial": "int8"}
    assert same_files(files | {"partial": file(tmp_path / "q.onnx", 3.0)})["partial"] == "partial"


def test_one_file_of_two_names_is_one_row_named_for_both() -> None:
    files = [timing("f", 4.0, 1.0), replace(timing("i", 2.0, 2.0, "int8"), same=("partial",))]
    assert "Full INT8 and the partial plan are the same file, timed once." in bench_sentences(files)
    assert bench_table(files)["same"].tolist() == ["", "partial"]
