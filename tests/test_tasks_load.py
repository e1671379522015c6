"""From a reference to a checked task, with one sentence for everything that can be wrong with
it."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sensitivity.errors import MissingPackage, TaskError
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.batches import as_numpy, batch_digest, batch_size, check_pair
from sensitivity.tasks.load import load_task, same_task, split_reference, task_digest

HEAD = """
from sensitivity.tasks.base import EvaluateTask, Task

class Model:
    training = False

BATCHES = [([[1.0]], [0])]
DATA = {"rank": BATCHES, "confirm": BATCHES, "holdout": BATCHES}

def score(outputs, targets):
    return outputs
"""

GOOD = HEAD + "def task():\n    return Task(Model(), DATA, score)\n"


@pytest.fixture
def write(tmp_path: Path):
    def write(source: str, name: str = "task.py") -> str:
        (tmp_path / name).write_text(source)
        return str(tmp_path / name)

    return write


def refused(reference: str, *parts: str) -> TaskError:
    with pytest.raises(TaskError) as caught:
        load_task(reference)
    message = str(caught.value)
    assert message.startswith("Expected ")
    assert "\n" not in message
    for part in parts:
        assert part in message
    return caught.value


def test_what_a_task_file_prints_goes_to_stderr(write, capsys: pytest.CaptureFixture[str]) -> None:
    load_task(
        write("print('read')\n" + GOOD.replace("    return", "    print('called')\n    return"))
    )
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "read\ncalled\n")


def returning(expression: str) -> str:
    return HEAD + f"def task():\n    return {expression}\n"


def test_a_task_file_gives_its_task(write):
    assert isinstance(load_task(write(GOOD) + ":task"), Task)


def test_without_a_function_name_it_is_task(write):
    assert isinstance(load_task(write(GOOD)), Task)


def test_another_function_of_the_file_can_be_named(write):
    source = GOOD + "def quick():\n    return Task(Model(), DATA, score, metric='quick')\n"
    assert load_task(write(source) + ":quick").metric == "quick"


def test_an_evaluate_task_is_served_too(write):
    assert isinstance(
        load_task(write(returning("EvaluateTask(Model(), lambda model: 0.5)"))), EvaluateTask
    )


def test_modules_next_to_the_file_can_be_imported_and_the_path_is_put_back(write, tmp_path):
    (tmp_path / "neighbour_of_a_task.py").write_text("NAME = 'beside'\n")
    late = (
        "def task():\n    from neighbour_of_a_task import NAME\n    return Task(Model(), DATA, "
        "score, metric=NAME)\n"
    )
    before = list(sys.path)
    assert load_task(write(HEAD + late)).metric == "beside"
    assert sys.path == before


def test_the_path_is_put_back_after_an_exception(write):
    before = list(sys.path)
    refused(
        write("import nowhere_to_be_found\n"), "No module named 'nowhere_to_be_found'", "(line 1)"
    )
    assert sys.path == before


def test_folders_that_an_imported_package_adds_to_the_path_stay_there(write, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    load_task(str(write(f"import sys\nsys.path.append({str(tmp_path / 'own')!r})\n" + GOOD)))
    assert sys.path[-1] == str(tmp_path / "own")
    assert str(tmp_path) not in sys.path


def test_a_file_with_the_name_of_a_module_does_not_replace_it(write):
    import json

    load_task(write(GOOD, "json.py"))
    assert sys.modules["json"] is json


def test_two_files_of_the_same_name_do_not_meet(write, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "task.py").write_text(returning("Task(Model(), DATA, score, metric='other')"))
    assert load_task(write(GOOD)).metric == "accuracy"
    assert load_task(str(other / "task.py")).metric == "other"


def test_a_missing_file_is_named(tmp_path):
    refused(
        f"{tmp_path}/nowhere.py:task",
        f"a Python file at {tmp_path}/nowhere.py",
        "got nothing there",
    )


def test_a_folder_is_no_task(tmp_path):
    refused(str(tmp_path), "got a folder", "path/to/task.py:function")


def test_a_file_that_is_no_python_is_refused(write):
    refused(write("{}", "task.json"), "a Python file ending in .py")


def test_a_missing_function_gets_close_names(write):
    refused(write(GOOD) + ":taks", "to define a function taks()", "Close names: task.")


def test_imported_names_are_no_close_names(write):
    error = refused(write(HEAD) + ":Task2", "none of that name")
    assert "EvaluateTask" not in str(error)


def test_a_function_that_raises_is_reported_with_its_line_and_cause(write):
    error = refused(
        write("def task():\n    raise KeyError('weights')\n"),
        "got KeyError: 'weights' (line 2)",
        "task()",
    )
    assert isinstance(error.__cause__, KeyError)


def test_a_syntax_error_is_reported_with_its_line(write):
    error = refused(write("def task(:\n"), "to be imported", "SyntaxError", "line 1")
    assert isinstance(error.__cause__, SyntaxError)


def test_our_own_errors_out_of_a_task_file_stay_as_they_are(write):
    source = (
        "from sensitivity.errors import MissingPackage\ndef task():\n    raise "
        "MissingPackage('a', 'b', 'c')\n"
    )
    with pytest.raises(MissingPackage):
        load_task(write(source))


def test_an_exception_of_many_lines_becomes_one_line(write):
    refused(
        write("def task():\n    raise ValueError('first\\nsecond ' + 'x' * 1000)\n"),
        "got ValueError: first second xxx",
    )


def test_another_type_is_refused_by_name(write):
    refused(write(returning("{'model': 1}")), "to return a Task or EvaluateTask", "got a dict")


def test_a_forgotten_return_is_reported(write):
    refused(write(HEAD + "def task():\n    Task(Model(), DATA, score)\n"), "got None")


@pytest.mark.parametrize("split", ["rank", "confirm", "holdout"])
def test_a_missing_split_is_named(write, split):
    data = f"{{name: batches for name, batches in DATA.items() if name != {split!r}}}"
    refused(write(returning(f"Task(Model(), {data}, score)")), f"got no {split} (only")


@pytest.mark.parametrize("split", ["rank", "confirm", "holdout"])
def test_an_empty_split_is_named(write, split):
    refused(
        write(returning(f"Task(Model(), DATA | {{{split!r}: []}}, score)")),
        f"split {split!r}",
        "got none",
    )


@pytest.mark.parametrize(
    ("batches", "got"),
    [
        ("(batch for batch in BATCHES)", "got a generator"),
        ("iter(BATCHES)", "got a list_iterator"),
        ("None", "got None"),
        (
            "type('Lazy', (), {'__iter__': lambda self: iter(BATCHES)})()",
            "got a Lazy without a len()",
        ),
        (
            "type('Shuffled', (list,), {'sampler': type('RandomSampler', (), {})()})(BATCHES)",
            "that shuffles",
        ),
    ],
    ids=["generator", "iterator", "none", "no-len", "shuffled"],
)
def test_batches_that_cannot_be_read_again_are_refused(write, batches, got):
    refused(
        write(returning(f"Task(Model(), DATA | {{'confirm': {batches}}}, score)")),
        "split 'confirm'",
        got,
    )


def test_data_that_is_no_mapping_is_refused(write):
    refused(
        write(returning("Task(Model(), BATCHES, score)")),
        "task.data to map rank, confirm, holdout",
        "got a list",
    )


@pytest.mark.parametrize("name", ["score", "aggregate"])
def test_a_score_that_is_no_function_is_refused(write, name):
    arguments = {"score": "score", "aggregate": "len"} | {name: "0.5"}
    shown = ", ".join(f"{key}={value}" for key, value in arguments.items())
    refused(
        write(returning(f"Task(Model(), DATA, {shown})")),
        f"task.{name} to be a function, got a float",
    )


def test_an_evaluation_that_is_no_function_is_refused(write):
    refused(
        write(returning("EvaluateTask(Model(), len, holdout=0.5)")),
        "task.holdout to be a function, got a float",
    )


def test_a_forgotten_model_is_reported(write):
    refused(write(returning("Task(None, DATA, score)")), "calibrated model", "got None")


def test_a_model_in_training_mode_is_refused(write):
    source = "import torch\n" + returning("Task(torch.nn.Linear(1, 1), DATA, score)")
    refused(write(source), "in eval mode, got the model in training mode", "model.eval()")


def test_a_batch_norm_in_training_mode_is_refused_by_name(write):
    net = "net = torch.nn.Sequential(torch.nn.BatchNorm2d(1)).eval()\nnet[0].train()\n"
    refused(
        write("import torch\n" + net + returning("Task(net, DATA, score)")),
        "got 0 in training mode",
    )


def test_quantizers_inserted_after_eval_are_no_training_mode(write):
    net = "net = torch.nn.Sequential(torch.nn.ReLU()).eval()\nnet[0].train()\n"
    load_task(write("import torch\n" + net + returning("Task(net, DATA, score)")))


def test_only_what_changes_the_code_makes_another_task_of_it(write):
    digest = task_digest(write(GOOD) + ":task")
    assert digest["text"] == hashlib.sha256(GOOD.encode()).hexdigest()
    for same in (
        GOOD + "# changed\n",
        '"""What it is."""\n' + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("(", "(\n"),
    ):
        other = task_digest(write(same) + ":task")
        assert other["text"] != digest["text"]
        assert same_task(other, digest), same
        assert not same_task(other, digest["text"]), "an old journal knows the text only"
    assert not same_task(task_digest(write(GOOD + "x = 1\n") + ":task"), digest)
    assert not same_task(task_digest(write(GOOD) + ":other"), digest)
    assert same_task(digest, digest["text"])
    assert not same_task(None, digest)


def test_a_file_that_is_missing_from_the_current_folder_is_reported_with_the_folder(write):
    reference = write('def task():\n    open("data.npz")\n')
    with pytest.raises(
        TaskError,
        match=r"FileNotFoundError: .*data.npz.*; paths are taken from the current folder, /",
    ):
        load_task(reference)


def test_a_file_that_is_not_python_has_a_digest_too(write):
    digest = task_digest(write("def task(:\n") + ":task")
    assert digest["text"] == digest["code"]


def test_the_digest_of_a_missing_file_is_an_error_too(tmp_path):
    with pytest.raises(TaskError, match="Expected a Python file"):
        task_digest(str(tmp_path / "nowhere.py"))


def test_a_path_with_a_colon_is_a_path(write, tmp_path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "task.py").write_text(GOOD)
    assert split_reference(str(folder / "task.py")) == ((folder / "task.py").resolve(), "task")


@dataclass
class Boxes:
    boxes: Any
    label: str


ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    "other",
    [
        (ARRAY + 1, None),
        (ARRAY.astype(np.float64), None),
        (ARRAY.reshape(3, 2), None),
        ({"x": ARRAY}, None),
        (ARRAY, ARRAY),
        ((ARRAY, ARRAY), None),
        (ARRAY, "a"),
        (ARRAY, 0),
        (ARRAY, Boxes(ARRAY, "cat")),
        (ARRAY, Boxes(ARRAY, "dog")),
        (ARRAY, [1, 12]),
        (ARRAY, [11, 2]),
    ],
    ids=str,
)
def test_another_batch_has_another_digest(other):
    same = [(ARRAY, None), (ARRAY, Boxes(ARRAY, "cow")), (ARRAY, [1, 1, 2])]
    assert batch_digest(*other) not in {batch_digest(*batch) for batch in same}
    assert batch_digest(*other) == batch_digest(*other)


def test_objects_without_values_do_not_bring_their_address():
    assert batch_digest(ARRAY, object()) == batch_digest(ARRAY, object())


def test_a_digest_is_the_same_in_the_next_process():
    assert batch_digest((ARRAY, "a"), {"y": [1, None]}) == "a4faeb95db635a18"


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(width=32))
)
def test_a_strided_array_has_the_digest_of_its_copy(array):
    assert batch_digest(array.T, None) == batch_digest(array.T.copy(), None)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8]
)
def test_tensors_of_every_type_have_digests(dtype):
    zeros, ones = torch.zeros(2, 3).to(dtype), torch.ones(2, 3).to(dtype)
    assert batch_digest(zeros, None) != batch_digest(ones, None)
    assert as_numpy(ones).sum() == 6


def test_a_tensor_that_needs_a_gradient_is_read():
    assert as_numpy(torch.ones(2, requires_grad=True)).tolist() == [1, 1]


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((5, 2)),
        torch.zeros(5, 2),
        (np.zeros((5, 2)), torch.zeros(5)),
        {"a": {"b": np.zeros(5)}},
    ],
    ids=["numpy", "torch", "tuple", "dict"],
)
def test_the_batch_size_is_the_first_axis_of_its_arrays(inputs):
    assert batch_size(inputs) == 5


def test_an_evaluation_counts_as_one_sample():
    assert batch_size(lambda model: 0.5) == 1


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        ("text", "got str"),
        (np.float32(1), "got shapes ()"),
        ((np.zeros(5), np.zeros(4)), "got shapes (5,), (4,)"),
    ],
    ids=["no-array", "scalar", "two-sizes"],
)
def test_inputs_without_a_common_first_axis_are_refused(inputs, got):
    with pytest.raises(TaskError, match=re.escape(got)):
        batch_size(inputs)


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (np.zeros((2, 3)), "one ndarray"),
        ({"pixels": np.zeros(2), "labels": np.zeros(2)}, "one dict"),
        ((np.zeros(2), np.zeros(2), np.zeros(2)), "3 parts"),
    ],
)
def test_a_batch_that_is_no_pair_is_refused_also_where_it_has_two_of_something(
    batch: Any, got: str
) -> None:
    with pytest.raises(TaskError, match=f"to be \\(inputs, targets\\), got {got};"):
        check_pair(batch, "rank")


def test_a_list_of_inputs_and_targets_is_a_pair_as_loaders_give_it() -> None:
    assert check_pair([1, 2], "rank") == (1, 2)
