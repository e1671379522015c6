"""Samples without labels: agreement with the float model is the metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from support.commands import verb
from support.onnx_models import float_file, images, static_file

from sensitivity.errors import TaskError
from sensitivity.onnx_task import onnx_task
from sensitivity.tasks.agreement import FloatBatches, FloatModel, FloatOutputs, agreement

X = np.random.default_rng(0).normal(size=(40, 6))


def judged(other: Any, *outputs: Any) -> np.ndarray:
    """The scores of these outputs against those of float."""
    given = outputs or (X,)
    model = FloatModel(lambda inputs: list(given), [(X, None)])
    return agreement(other, FloatOutputs(model, X))


def test_agreement_is_the_coefficient_of_determination() -> None:
    near = X + np.random.default_rng(1).normal(0, 0.1, X.shape)
    left, spread = ((near - X) ** 2).sum(), ((X - X.mean(0)) ** 2).sum()
    assert judged(near).mean() == pytest.approx(1 - left / spread)
    assert judged(X).tolist() == [1.0] * 40


def test_what_is_no_nearer_than_the_mean_of_the_samples_is_worth_nothing() -> None:
    assert judged(X + 100).tolist() == [0.0] * 40
    assert judged(np.where(X > 2, np.nan, X)).min() == 0


def test_of_whole_numbers_the_part_that_is_equal_counts() -> None:
    classes = np.arange(80).reshape(40, 2)
    other = classes.copy()
    other[0, 0] += 1
    assert judged(other, classes).tolist() == [0.5] + [1.0] * 39


def test_outputs_count_alike_but_for_those_that_tell_no_samples_apart() -> None:
    state = np.zeros((2, 40, 3))
    same = np.ones((40, 5))
    scores = judged((X, X * 0, state, same + 1), X, X, state, same)
    assert scores.mean() == pytest.approx(0.5, abs=0.15)
    with pytest.raises(TaskError, match=r"differs between samples, got \[40, 5\] for 40 samples"):
        judged(same, same)


def test_boxes_that_the_model_counts_itself_cannot_be_compared() -> None:
    with pytest.raises(TaskError, match=r"got \[7, 6\] and \[40, 6\]: the model chooses how many"):
        judged(X[:7])


def test_float_is_run_once_for_a_batch_as_long_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[int] = []

    def run(inputs: Any) -> list[Any]:
        ran.append(len(inputs))
        return [inputs]

    batches = FloatBatches([(X[:10], None), (X[10:], None)], FloatModel(run, [(X, None)]))
    for _ in range(3):
        for _, outputs in batches:
            assert len(outputs.arrays[0]) == outputs.samples
    assert ran == [10, 30]
    monkeypatch.setattr("sensitivity.tasks.kept.KEPT_BYTES", X[:10].nbytes)
    batches = FloatBatches(batches.batches, batches.model)
    for _ in range(3):
        for _, outputs in batches:
            assert len(outputs.arrays) == 1
    assert ran[2:] == [10, 30, 30, 30]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with float.onnx, int8.onnx, open.onnx (float, of images of any size), images
    without labels and alone.npz."""
    folder = tmp_path_factory.mktemp("alone")
    static_file(float_file(folder / "float.onnx"), folder / "int8.onnx")
    model = onnx.load(folder / "float.onnx")
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.Clear()
    onnx.save(model, folder / "open.onnx")
    np.savez(folder / "alone.npz", x=images(60, 3))
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(20):
        pixels = rng.integers(0, 255, (16, 18, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    return folder


def test_a_float_file_and_inputs_alone_are_enough_for_a_run(made: Path) -> None:
    """Files with open sizes are timed with the sizes of a sample."""
    words = ("--no-recalibrate", "--rounds", "3", "--threads", "1", "--out", made / "run")
    ended = verb("run", made / "open.onnx", "--data", made / "alone.npz", *words)
    assert ended in (0, 2)
    assert json.loads((made / "run/export.json").read_text())["sizes"] == {"x": [1, 3, 12, 12]}
    page = (made / "run/plan.json").read_text()
    assert '"agreement with float"' in page
    task = onnx_task(made / "run/quantized.onnx", made / "alone.npz", float_path=made / "open.onnx")
    (inputs, outputs) = next(iter(task.data["holdout"]))
    assert agreement(outputs.arrays[0], outputs).tolist() == [1.0] * len(inputs)


def test_a_folder_of_images_needs_no_labels(made: Path) -> None:
    task = onnx_task(made / "int8.onnx", made / "photos", float_path=made / "float.onnx")
    assert task.metric == "agreement with float"
    inputs, outputs = next(iter(task.data["rank"]))
    assert inputs.shape == (10, 3, 12, 12)
    assert len(outputs.arrays[0]) == 10


def test_what_stands_for_labels_must_be_there(made: Path) -> None:
    with pytest.raises(TaskError, match=r"Expected labels, or --float-model with int8.onnx"):
        onnx_task(made / "int8.onnx", made / "photos")
    (made / "mine.py").write_text("def score(outputs, targets):\n    return outputs[:, 0]\n")
    with pytest.raises(TaskError, match=r"Expected labels in --data .* leave --evaluator out"):
        onnx_task(made / "int8.onnx", made / "photos", evaluator=f"{made}/mine.py:score")
