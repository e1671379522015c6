"""A run directory is used from any folder, moved, interrupted and damaged, and each command it
prints works as printed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.onnx_models import float_file, labelled, static_file

from sensitivity import api
from sensitivity.cli.main import main, stopped
from sensitivity.config import PlanSettings
from sensitivity.errors import RunDirError
from sensitivity.files import is_as_written, with_checksum
from sensitivity.journal.journal import Journal
from sensitivity.run_dir import RunDir
from sensitivity.steps.report import report_data

TASK = """
from pathlib import Path
from sensitivity.onnx_task import onnx_task

def task():
    here = Path(__file__).parent
    return onnx_task(here / "int8.onnx", here / "data.npz", float_path=here / "float.onnx")
"""
RECORDS = ("run.json", "scan.json", "plan.json", "frontier.json", "export.json", "bench.json")
TARGET = ("--target", "0.5", "--no-recalibrate", "--rounds", "5", "--threads", "1")


def verb(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def typed(command: str) -> int:
    """Execute a line that the tool prints, as a shell would."""
    code = 0
    for part in command.split("; "):
        words = shlex.split(part)
        if words[0] == "rm":
            Path(words[1]).unlink()
        else:
            assert words[0] == "sensitivity"
            code = verb(*words[1:])
    return code


def advised(text: str) -> str:
    """The command that a message tells the user to type."""
    found = re.search(
        r"(?:make it with|make it again with|[Cc]ontinue with|[Ss]tart it again with): (.+)", text
    )
    assert found, text
    return found[1].strip()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with a task file, and a finished run of it in runs/r."""
    folder = tmp_path_factory.mktemp("project") / "here"
    folder.mkdir()
    static_file(float_file(folder / "float.onnx"), folder / "int8.onnx")
    labelled(folder / "float.onnx", folder / "data.npz")
    (folder / "my_task.py").write_text(TASK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert verb("run", "my_task.py:task", *TARGET, "--out", "runs/r") in (0, 2)
    return folder


@pytest.fixture
def copied(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project; its own task file is the only one that can be found."""
    shutil.copytree(project, tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "there"


def every_verb(run: Path) -> None:
    assert verb("plan", run, "--target", "0.5", "--no-recalibrate", "--search") in (0, 2)
    assert verb("export", run) == 0
    assert verb("bench", run, "--rounds", "5", "--threads", "1", "--accuracy") == 0
    assert verb("report", run) == 0


def test_every_verb_works_from_another_folder_and_after_the_run_was_moved(
    project: Path, tmp_path: Path
) -> None:
    assert Path.cwd() != project, "the task was given as a path from the project's folder"
    shutil.copytree(project / "runs/r", tmp_path / "a folder" / "elsewhere")
    every_verb(tmp_path / "a folder" / "elsewhere")


def test_every_verb_works_from_inside_the_run_directory(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project / "runs/r", tmp_path / "r")
    monkeypatch.chdir(tmp_path / "r")
    every_verb(Path())


def test_a_project_that_was_moved_as_a_whole_finds_its_own_task(copied: Path) -> None:
    run = RunDir(copied / "runs/r")
    info = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(info | {"task": "/gone/my_task.py:task"}))
    assert Path(run.reference().rpartition(":")[0]).samefile(copied / "my_task.py")


def test_a_task_file_in_the_run_directory_moves_with_it(project: Path, tmp_path: Path) -> None:
    words = ("--data", project / "data.npz", "--float-model", project / "float.onnx")
    assert verb("scan", project / "int8.onnx", *words, "--out", tmp_path / "a") == 0
    assert json.loads((tmp_path / "a/run.json").read_text())["task"] == "task.py:task"
    (tmp_path / "a").rename(tmp_path / "b")
    assert verb("plan", tmp_path / "b", "--target", "0.5", "--no-recalibrate") in (0, 2)


def test_a_run_of_an_older_version_is_found_from_where_it_was_made(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(copied / "runs/r")
    info = json.loads((run.path / "run.json").read_text())
    del info["near"], info["began"], info["checksum"]
    (run.path / "run.json").write_text(json.dumps(info | {"task": "my_task.py:task"}))
    with pytest.raises(
        RunDirError,
        match=r"Expected the task file of the run .* got nothing there; put it back, or put",
    ):
        run.reference()
    monkeypatch.chdir(copied)
    assert run.reference() == "my_task.py:task"
    assert run.unfinished() is None


def test_a_task_file_that_is_gone_is_one_sentence(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied / "runs/r"
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(
        json.dumps(info | {"task": "/gone/my_task.py:task", "near": "../nowhere.py"})
    )
    for words in (("plan", run, "--target", "0.5", "--no-recalibrate"), ("export", run)):
        assert verb(*words) == 1
        assert "Expected the task file of the run" in capsys.readouterr().err
    shutil.copy(copied / "my_task.py", run)
    assert RunDir(run).reference() == f"{run / 'my_task.py'}:task"


class Interrupted:
    """A journal that is interrupted when it has taken some lines."""

    def __init__(self, patch: pytest.MonkeyPatch, lines: int) -> None:
        real = Journal._append
        self.left = lines

        def append(journal: Journal, record: object) -> None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            real(journal, record)  # type: ignore[arg-type]

        patch.setattr(Journal, "_append", append)


@pytest.mark.parametrize("lines", [3, 40], ids=["in-the-scan", "in-the-plan"])
def test_what_is_advised_after_ctrl_c_works_as_printed(
    lines: int, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a run"
    words = ("run", f"{project / 'my_task.py'}:task", *TARGET, "--out", out)
    with pytest.MonkeyPatch.context() as patch:
        Interrupted(patch, lines)
        assert verb(*words) == 130
    said = advised(capsys.readouterr().err)
    assert said == shlex.join(["sensitivity", *map(str, words), "--resume"])
    if lines == 3:
        assert verb("plan", out) == 1
        assert "Expected" in (of_plan := capsys.readouterr().err)
        assert "--no-recalibrate" in advised(of_plan)
    assert verb("report", out) == 0
    of_report = advised(capsys.readouterr().out)
    (tmp_path / "a run").rename(tmp_path / "moved")
    assert verb("report", tmp_path / "moved") == 0
    assert typed(advised(capsys.readouterr().out)) in (0, 2), "also after it was moved"
    (tmp_path / "moved").rename(out)
    assert typed(of_report) in (0, 2)
    assert typed(said) in (0, 2)
    capsys.readouterr()
    assert verb("report", out) == 0
    assert "is not finished" not in capsys.readouterr().out
    assert "is not finished" not in (out / "report.html").read_text()


def test_each_verb_says_how_to_go_on_with_it() -> None:
    assert stopped(["demo", "--out", "a b"]).endswith("continue with: sensitivity demo --out 'a b'")
    assert stopped(["yolo", "run", "--weights", "w.pt"]).endswith(
        "sensitivity yolo run --weights w.pt --resume"
    )
    assert stopped(["scan", "t.py", "--resume"]).endswith(
        "continue with: sensitivity scan t.py --resume"
    )
    assert stopped(["plan", "r"]).endswith("continue with: sensitivity plan r")
    assert stopped(["export", "r"]) == "Stopped. Start it again with: sensitivity export r"
    assert stopped(["lint", "x.onnx"]) == stopped([]) == "Stopped."


@pytest.mark.parametrize("name", ["plan.json", "export.json", "scan.json"])
def test_what_is_missing_is_made_as_printed(
    name: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied / "runs/r"
    (run / name).unlink()
    words = {"plan.json": "export", "export.json": "bench", "scan.json": "plan"}[name]
    assert verb(words, run, *(("--search",) if words == "plan" else ())) == 1
    assert typed(advised(capsys.readouterr().err)) in (0, 2)
    assert (run / name).exists()


@pytest.mark.parametrize("name", [*RECORDS, "frontier.npz"])
def test_a_flipped_bit_in_a_record_is_one_sentence_that_works_as_printed(
    name: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(copied / "runs/r")
    whole = (run.path / name).read_bytes()
    readers = {
        "run.json": run.info,
        "plan.json": run.plan,
        "frontier.npz": lambda: run.read_values("frontier.npz").tolist(),
    }
    read = readers.get(name, lambda: report_data(run.path))
    right = read()
    rng, refused = np.random.default_rng(0), 0
    for bit in rng.choice(8 * len(whole), size=150, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (run.path / name).write_bytes(damaged)
        try:
            assert read() == right
        except RunDirError:
            refused += 1
    assert refused > (100 if name.endswith(".json") else 1)
    if name != "run.json":  # nothing else tells of the task
        (run.path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(RunDirError) as caught:
            api.plan(
                PlanSettings(directory=run.path, target=0.5, no_recalibrate=True)
            ) if "npz" in name else read()
        assert typed(advised(str(caught.value))) in (0, 2)
        read()


def test_a_record_that_was_changed_on_purpose_is_taken_without_its_checksum(copied: Path) -> None:
    run = RunDir(copied / "runs/r")
    file = run.path / "plan.json"
    edited = file.read_text().replace('"planner": "greedy"', '"planner": "by hand"')
    file.write_text(edited)
    with pytest.raises(
        RunDirError, match='if you changed it on purpose, remove its line "checksum"'
    ):
        run.plan()
    file.write_text(re.sub(r',\n  "checksum": ".*"', "", edited))
    assert run.plan().planner == "by hand"
    file.write_text(json.dumps(json.loads(edited)))
    assert run.plan().planner == "by hand", "written anew by another program"


def test_the_checksum_is_of_all_that_comes_before_it() -> None:
    content = with_checksum(b'{\n  "a": 1\n}\n')
    assert json.loads(content)["a"] == 1
    assert is_as_written(content)
    assert not is_as_written(content.replace(b"1", b"2", 1))


def test_values_of_another_frontier_are_not_planned_from(copied: Path) -> None:
    run = copied / "runs/r"
    with np.load(run / "frontier.npz") as stored:
        values = stored["values"]
    np.savez(run / "frontier.npz", values=values[:-1])
    assert verb("plan", run, "--target", "0.5", "--no-recalibrate") in (0, 2), "searched anew"
