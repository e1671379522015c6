"""The example with a text recogniser, on small numbers worked by hand; and on the real weights
where their package is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support.scripts import load_script

from sensitivity.errors import TaskError


@pytest.fixture(scope="module")
def characters() -> ModuleType:
    return load_script("examples/17_text_recogniser/characters.py")


def one_hot(rows: list[list[int]]) -> np.ndarray:
    return np.eye(6)[np.array(rows)]


@pytest.mark.parametrize(
    ("read", "wanted", "edits"),
    [
        ([1, 2, 3], [1, 2, 3], 0),
        ([1, 3], [1, 2, 3], 1),
        ([1, 4, 3], [1, 2, 3], 1),
        ([4, 1, 2, 3, 5], [1, 2, 3], 2),
        ([], [1, 2, 3], 3),
        ([2, 1], [1, 2], 2),
    ],
)
def test_edits_are_those_counted_by_hand(
    characters: ModuleType, read: list[int], wanted: list[int], edits: int
) -> None:
    assert characters.edits(np.array(read), np.array(wanted)) == edits


def test_repeated_places_are_one_character_and_blanks_part_equal_ones(
    characters: ModuleType,
) -> None:
    outputs = one_hot([[1, 1, 0, 1, 2, 2], [0, 3, 3, 3, 0, 0], [5, 4, 5, 4, 5, 4]])
    targets = np.array([[1, 1, 2], [3, 4, 0], [1, 0, 0]])
    assert characters.character_accuracy(outputs, targets) == [1.0, 0.5, 0.0]


@pytest.mark.skipif(
    importlib.util.find_spec("rapidocr_onnxruntime") is None,
    reason="rapidocr-onnxruntime is not installed: no weights of a text recogniser",
)
def test_the_real_recogniser_reads_most_of_the_lines_in_float(
    characters: ModuleType, tmp_path: Path
) -> None:
    import onnxruntime

    script = load_script("examples/17_text_recogniser/render.py")
    script.LINES = 10
    script.main(tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "recogniser.onnx"))
    with np.load(tmp_path / "lines.npz") as lines:
        outputs = session.run(None, {session.get_inputs()[0].name: lines["x"]})[0]
        assert np.mean(characters.character_accuracy(outputs, lines["y"])) > 0.7


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = load_script("examples/17_text_recogniser/render.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wanted = "in an installed package, got none; run: pip install --no-deps rapidocr-onnxruntime"
    with pytest.raises(TaskError, match=wanted):
        script.model_file()
