"""One command at a time in a run directory."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensitivity import api, lock
from sensitivity.config import (
    BenchSettings,
    ExportSettings,
    PlanSettings,
    RunSettings,
    ScanSettings,
)
from sensitivity.errors import RunDirError, SensitivityError, WriteError
from sensitivity.lock import locked

HOLD = """
import sys
from pathlib import Path
from sensitivity.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `run`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(api.__file__).parents[1],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def refused(run: Path, pid: int) -> str:
    return (
        f"Expected one command at a time in {re.escape(str(run))}, got a second one while process "
        rf"{pid} on host \S+ \(since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\) is at work there; wait "
        "until it has ended, or choose another --out."
    )


def test_a_second_process_learns_who_is_at_work(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    for _ in range(2):
        with (
            pytest.raises(RunDirError, match=refused(tmp_path / "run", holder.pid)),
            locked(tmp_path / "run"),
        ):
            pass
    holder.communicate("")
    assert list(tmp_path.iterdir()) == [], "the holder made the folder and wrote nothing"


def test_what_a_killed_process_leaves_behind_locks_nothing(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    left = (tmp_path / "run" / ".lock").read_text()
    assert str(holder.pid) in left
    with locked(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / ".lock").read_text()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_second_thread_of_the_same_process_is_refused_and_the_first_goes_on(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    with locked(run):
        with pytest.raises(RunDirError, match=refused(run, os.getpid())), locked(run):
            pass
        code = HOLD.replace('print("held", flush=True)', "pass")
        other = subprocess.run(
            [sys.executable, "-c", code, str(run)],
            input="",
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(api.__file__).parents[1],
        )
        assert f"while process {os.getpid()} on host" in other.stderr
    with locked(run):
        pass


@pytest.mark.parametrize("verb", ["run", "scan", "plan", "export", "bench"])
def test_every_verb_that_writes_into_a_run_directory_holds_it(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.RunDir, "info", lambda self: None)
    task = {"task": "nowhere.py:task", "out": tmp_path}
    settings = {
        "run": lambda: RunSettings(**task),
        "scan": lambda: ScanSettings(**task),
        "plan": lambda: PlanSettings(directory=tmp_path),
        "export": lambda: ExportSettings(directory=tmp_path),
        "bench": lambda: BenchSettings(directory=tmp_path),
    }[verb]()
    with locked(tmp_path), pytest.raises(RunDirError, match="Expected one command at a time in"):
        getattr(api, verb)(settings)


def test_a_verb_of_a_folder_that_is_no_run_makes_none(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="run.json"):
        api.bench(BenchSettings(directory=tmp_path / "none"))
    with pytest.raises(SensitivityError, match="nowhere.py"):
        api.scan(ScanSettings(task="nowhere.py:task", out=tmp_path / "none" / "deep"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_taken_away_meanwhile_is_no_error(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        (tmp_path / "run" / ".lock").unlink()
        (tmp_path / "run").rmdir()


def test_a_file_system_without_locks_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", none)
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    ("function", "number", "reason"),
    [
        ("open", errno.EROFS, "Read-only file system"),
        ("write", errno.ENOSPC, "No space left on device"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_sentence(
    function: str, number: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.os, function, fails)
    sentence = f"Expected to write to .*run, got {reason}; free some space, allow"
    with pytest.raises(WriteError, match=sentence), locked(tmp_path / "run"):
        pass
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
