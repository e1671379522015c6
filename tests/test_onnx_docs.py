"""The tasks in docs/onnx.md work as they are written there."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import verb
from support.onnx_models import float_file, labelled, static_file

from sensitivity import onnx_task
from sensitivity.opened import quantized_model
from sensitivity.records import SPLITS
from sensitivity.tasks.base import Task
from sensitivity.tasks.load import load_evaluator, load_task

PAGE = (Path(__file__).parents[1] / "docs/onnx.md").read_text()
BLOCKS = re.findall(r"```python\n((?:.*\n)*?)```", PAGE)

VAL = """
# A script that knows nothing of this project.
import numpy as np

def part(split):
    at = {"rank": slice(0, 60), "confirm": slice(60, 90), "holdout": slice(90, 120)}[split]
    with np.load("samples.npz") as samples:
        return samples["x"][at], samples["y"][at]

def images(split):
    return part(split)[0]

def accuracy(session, split):
    x, y = part(split)
    outputs = session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: x})
    return float((outputs[0].argmax(1) == y).mean())
"""


@pytest.fixture
def folder(user_folder: Path) -> Path:
    """A user's folder with everything that the page's tasks read, except COCO."""
    static_file(float_file(user_folder / "model.onnx"), user_folder / "model.qdq.onnx")
    labelled(user_folder / "model.onnx", user_folder / "samples.npz", 120)
    (user_folder / "val.py").write_text(VAL)
    return user_folder


def test_the_page_has_a_task_of_each_kind() -> None:
    assert ["onnx_task(" in block for block in BLOCKS] == [True, False, False, False]
    assert ["EvaluateTask(" in block for block in BLOCKS] == [False, False, False, True]


def test_the_task_file_of_the_page_names_arguments_that_exist(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = inspect.signature(onnx_task.onnx_task)
    task = Task(0, {split: [(0, 0)] for split in SPLITS}, lambda outputs, targets: [0.0])

    def checked(**given: Any) -> Task:
        arguments.bind(**given)
        return task

    monkeypatch.setattr(onnx_task, "onnx_task", checked)
    (folder / "my_task.py").write_text(BLOCKS[0])
    assert load_task("my_task.py") is task


def test_data_and_metric_of_ones_own_work(folder: Path) -> None:
    (folder / "my_task.py").write_text(BLOCKS[1])
    task: Any = load_task("my_task.py")
    assert quantized_model(task.model).source == "onnx_qdq"
    inputs, targets = task.data["rank"][0]
    assert np.asarray(task.score(task.model.run(None, {"x": inputs})[0], targets)).shape == (12,)


def test_the_metric_of_the_page_scores_each_sample(folder: Path) -> None:
    (folder / "my_eval.py").write_text(BLOCKS[2])
    evaluator = load_evaluator("my_eval.py:overlap")
    masks = np.arange(24).reshape(2, 3, 4) % 3
    outputs = np.moveaxis(np.eye(3)[masks], 3, 1)
    masks[1, 0] = (masks[1, 0] + 1) % 3
    assert evaluator.score(outputs, masks).tolist() == pytest.approx([1, 2 / 3])


def test_a_script_that_expects_an_inference_session_drives_a_whole_run(folder: Path) -> None:
    (folder / "my_task.py").write_text(BLOCKS[3])
    assert (
        verb(
            "run",
            "my_task.py",
            "--target",
            "0.95",
            "--rounds",
            "5",
            "--threads",
            "1",
            "--out",
            "out",
        )
        == 0
    )
    scan = json.loads(Path("out/scan.json").read_text())
    assert scan["baselines"]["float"]["value"] == 1.0
    assert scan["baselines"]["quantized"]["value"] < 0.95
    assert Path("out/model.partial.onnx").exists()
