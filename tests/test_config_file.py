"""`--config`: options that the command line may leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.commands import verb

from sensitivity.cli import lazy
from sensitivity.config import CompareSettings, PlanSettings, RunSettings, YoloSettings


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings that verbs were called with; nothing is measured."""
    settings: list[Any] = []

    def take(given: Any, *_: Any) -> None:
        settings.append(given)
        raise KeyboardInterrupt

    for name in ("run", "plan", "bench", "compare"):
        monkeypatch.setattr(lazy.api, name, take)
    monkeypatch.setattr(lazy.yolo, "prepare", take)
    return settings


def written(folder: Path, text: str) -> Path:
    file = folder / "options.toml"
    file.write_text(text)
    return file


def test_every_kind_of_setting_comes_from_its_table(tmp_path: Path, taken: list[Any]) -> None:
    file = written(
        tmp_path,
        """
        [run]
        task = "my_task.py:task"
        out = "runs/mine"
        max-drop = "0.5pt"
        confidence = 0.9
        rounds = 20
        skip = ["head.*", "stem"]
        keep = "neck"
        runtime = "openvino"
        exact = true
        resume = false
        for = "tensorrt"
        [plan]
        max-drop = "2pt"
        [yolo.run]
        weights = "best.pt"
        data = "coco.yaml"
        imgsz = "384x640"
        """,
    )
    verb("--config", file, "run")
    verb("--config", file, "plan", "runs/mine")
    verb("--config", file, "yolo", "run")
    wanted = RunSettings(
        task="my_task.py:task",
        out=Path("runs/mine"),
        max_drop="0.5pt",
        confidence=0.9,
        rounds=20,
        skip=("head.*", "stem"),
        keep=("neck",),
        runtime="openvino",
        exact=True,
        for_="tensorrt",
    )
    assert taken == [
        wanted,
        PlanSettings(directory=Path("runs/mine"), max_drop="2pt"),
        YoloSettings(weights=Path("best.pt"), data=Path("coco.yaml"), imgsz=(384, 640)),
    ]


def test_the_command_line_goes_before_the_file(tmp_path: Path, taken: list[Any]) -> None:
    file = written(
        tmp_path,
        """
        run = {task = "a.py", max-drop = "1pt", skip = ["stem"], rounds = 20}
        compare = {directories = ["runs/a", "runs/b"], name = "fast"}
        """,
    )
    verb("--config", file, "run", "b.py", "--max-drop", "2pt", "--skip", "head")
    assert taken == [RunSettings(task="b.py", max_drop="2pt", skip=("head",), rounds=20)]
    verb("--config", file, "compare")
    two = (Path("runs/a"), Path("runs/b"))
    assert taken[1:] == [CompareSettings(directories=two, name=("fast",))]


WRONG = {
    "no-verb": ("[scna]", "Expected each table in FILE to be of a verb", "Close names: scan"),
    "no-key": ("[run]\nmax-dorp = '1pt'", "Expected each key in [run] of FILE", "max-drop"),
    "key-of-field": ("[run]\nmax_drop = '1pt'", "Expected each key in [run] of FILE", "max-drop"),
    "key-of-nested-verb": ("[yolo.run]\nweight = 'a'", "in [run] of [yolo] of FILE", "weights"),
    "outside": ("rounds = 3", "Expected every key in FILE to stand in the table", "'rounds'"),
    "yolo-outside": ("[yolo]\nweights = 'a'", "every key in [yolo] of FILE", "[run]"),
    "fraction": ("[bench]\nrounds = 2.5", "Of 'rounds' in [bench] of FILE", "'2.5' is not a valid"),
    "word": ("[run]\nrounds = 'many'", "Of 'rounds' in [run] of FILE", "'many' is not a valid"),
    "no-choice": ("[scan]\nunit = 'block'", "Of 'unit' in [scan] of FILE", "'block' is not one of"),
    "no-runtime": ("[run]\nruntime = 'ort'", "Of 'runtime' in [run] of FILE", "onnxruntime"),
    "flag": ("[run]\nexact = 1", "Expected 'exact' in [run] of FILE to be true or false", "got 1"),
    "true": ("[run]\nrounds = true", "Expected 'rounds' in [run] of FILE to be text", "True"),
    "list": ("[run]\nmax-drop = ['1pt']", "'max-drop' in [run] of FILE to be text or", "['1pt']"),
    "lists": ("[run]\nskip = [['a']]", "'skip' in [run] of FILE to be text or a number, or", "a"),
    "no-toml": ("[run", "Expected --config to be a TOML file, got FILE", "docs/automation.md"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_mistake_is_one_sentence_that_names_the_file_and_the_key(
    tmp_path: Path, taken: list[Any], capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    text, start, end = WRONG[wrong]
    file = written(tmp_path, text)
    assert verb("--config", file, "run", "a.py") == 1
    said = capsys.readouterr().err
    assert start.replace("FILE", str(file)) in said
    assert end in said
    assert said.count("\n") == 1
    assert not taken


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("--config", "no.toml", "run", "a.py") == 1
    assert "got no.toml: No such file or directory; check its path." in capsys.readouterr().err


def test_it_stands_before_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("run", "a.py", "--config", "a.toml") == 1
    assert "sensitivity --config FILE VERB" in capsys.readouterr().err


def test_an_interrupted_command_is_said_with_its_file(
    tmp_path: Path, taken: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "[run]\ntask = 'a.py'")
    assert verb("--config", file, "run") == 130
    assert f"sensitivity --config {file} run --resume" in capsys.readouterr().err
    assert taken
