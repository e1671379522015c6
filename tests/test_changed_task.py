"""A task file that was changed after its run began. A changed comment does not matter; any other
change must still measure the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sensitivity.cli.main import main

TASK = '''
import numpy as np
from dataclasses import replace
from sensitivity.onnx_task import onnx_task
from sensitivity.tasks.onnx_arrays import ArrayBatches

def whole(last=0):
    """In batches of 20; `last` is added to the labels after the first batch."""
    found = onnx_task({model!r}, {data!r})
    later = lambda y: np.where(np.arange(len(y)) < 20, y, (y + last) % 5)
    batches = {{name: ArrayBatches(part.x, later(part.y), 20) for name, part in found.data.items()}}
    return replace(found, data=batches)

def half(scores):
    return float(np.mean(scores)) / 2

def harsh(outputs, targets):
    return (outputs.argmax(1) == targets) * 1.0 - 1.0

def task():
    return whole()
'''


def verb(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task file, and the run of its scan and plan."""
    from support.onnx_models import float_file, labelled, static_file

    folder = tmp_path_factory.mktemp("changed")
    static_file(float_file(folder / "float.onnx"), folder / "int8.onnx")
    labelled(folder / "float.onnx", folder / "data.npz")
    text = TASK.format(model=str(folder / "int8.onnx"), data=str(folder / "data.npz"))
    (folder / "my_task.py").write_text(text)
    assert verb("scan", f"{folder / 'my_task.py'}:task", "--out", folder / "run") == 0
    assert verb("plan", folder / "run", "--target", "0.5", "--no-recalibrate") in (0, 2)
    return folder


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    """A copy to be changed: the task file, and the run directory, which names it."""
    shutil.copytree(begun, tmp_path / "c")
    info = json.loads((tmp_path / "c/run/run.json").read_text())
    info["task"] = f"{tmp_path / 'c/my_task.py'}:task"
    (tmp_path / "c/run/run.json").write_text(json.dumps(info))
    return tmp_path / "c"


def edit(folder: Path, old: str, new: str) -> None:
    file = folder / "my_task.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def samples(folder: Path) -> int:
    return int(json.loads((folder / "run/run.json").read_text())["samples"])


def test_a_comment_is_not_spoken_of(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run, "def task():", '# a comment\ndef task():\n    """What it is."""')
    before = samples(run)
    assert verb("plan", run / "run", "--target", "0.5", "--no-recalibrate") in (0, 2)
    assert verb("scan", f"{run / 'my_task.py'}:task", "--out", run / "run", "--resume") == 0
    assert "has changed" not in capsys.readouterr().out
    assert samples(run) == before, "nothing is measured again"


def test_other_code_that_measures_the_same_is_reported_once_and_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run, "return whole()", "found = whole()\n    return found")
    command = ("plan", run / "run", "--target", "0.5", "--no-recalibrate")
    assert verb(*command) in (0, 2)
    assert "The task file has changed since this run began." in capsys.readouterr().out
    before = (run / "run/journal.jsonl").read_bytes()
    assert before.splitlines()[-1].startswith(b'{"op":"task"')
    assert verb(*command, "--search") in (0, 2)
    assert (run / "run/journal.jsonl").read_bytes() == before, "known from now on"


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (
            "replace(whole(), score=harsh)",
            "other scores of the float model on the first batch of rank, whose mean is 0 ",
        ),
        (
            "replace(whole(), aggregate=half)",
            "another metric from the same scores of the float model, 0.475 instead of 0.95;",
        ),
        ("replace(whole(), data=dict(whole().data, confirm=whole().data['rank']))", "data.confirm"),
        ("replace(whole(), metric='other')", 'metric was "top-1", is "other"'),
    ],
    ids=["score", "aggregate", "data", "metric"],
)
def test_a_task_that_measures_something_else_is_refused_with_the_difference(
    run: Path, new: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run, "return whole()", f"return {new}")
    before = (run / "run/journal.jsonl").read_bytes()
    for words in (
        ("plan", run / "run", "--target", "0.5", "--no-recalibrate"),
        ("scan", f"{run / 'my_task.py'}:task", "--out", run / "run", "--resume"),
    ):
        assert verb(*words) == 1
        assert sentence in capsys.readouterr().err
    assert (run / "run/journal.jsonl").read_bytes() == before


def test_data_that_differs_behind_the_first_batch_is_found(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run, "return whole()", "return whole(last=1)")
    assert verb("scan", f"{run / 'my_task.py'}:task", "--out", run / "run", "--resume") == 1
    assert "got other data in batch 1 of split 'rank'; undo the change" in capsys.readouterr().err
