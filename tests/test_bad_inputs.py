"""A part of the bad inputs of `benchmarks/bad_inputs.py`, and what the table of all of them
promises."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from sensitivity import api
from sensitivity.cli.main import main
from sensitivity.config import BenchSettings, PlanSettings, ScanSettings, check_numbers, target_of
from sensitivity.errors import SensitivityError

ROOT = Path(__file__).parents[1]


def test_some_bad_inputs_are_one_clear_sentence_each(warm_bin: Path) -> None:
    script = ROOT / "benchmarks/bad_inputs.py"
    command = [warm_bin / "python", script, "--every", "12"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"2\d bad inputs, 0 that are not", done.stdout)


def test_the_table_holds_two_hundred_and_more_each_with_a_sentence() -> None:
    rows = re.findall(
        r"^\| \d+ \| .* \| `sensitivity .*` \| (.+) \| (\d+) \|$",
        (ROOT / "docs/bad_inputs.md").read_text(),
        re.M,
    )
    assert len(rows) > 200
    assert all(sentence.strip() and code in "12" for sentence, code in rows)
    assert not [sentence for sentence, _ in rows if "Traceback" in sentence]


@pytest.mark.parametrize(
    "settings",
    [
        BenchSettings(directory=Path(), rounds=0),
        BenchSettings(directory=Path(), threads=0),
        ScanSettings(task="t.py", samples=0),
        ScanSettings(task="t.py", time_budget=-1.0),
        ScanSettings(task="t.py", time_budget=float("nan")),
        ScanSettings(task="t.py", memory=0),
    ],
    ids=["rounds", "threads", "samples", "time-budget", "time-budget-nan", "memory"],
)
def test_a_number_under_its_least_is_refused(settings: object) -> None:
    with pytest.raises(SensitivityError, match=r"Expected --[a-z-]+ to be at least \d, got"):
        check_numbers(settings)


def test_the_usual_numbers_and_the_least_ones_are_taken() -> None:
    check_numbers(ScanSettings(task="t.py", samples=1, time_budget=0.0, memory=1))
    check_numbers(BenchSettings(directory=Path()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_target_is_a_number(value: float) -> None:
    with pytest.raises(SensitivityError, match="Expected --target to be a number"):
        target_of(PlanSettings(directory=Path(), target=value), 1.0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_sentence_whoever_wrote(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of writing that names no file."""

    def fails(settings: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(api, "report", fails)
    with pytest.raises(SystemExit) as ended:
        main(["report", "runs/some"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        f"Error: Expected enough disk space, got: {os.strerror(number)}; free some space in "
        f"the run directory or in {tempfile.gettempdir()}, and repeat the command: what was "
        "measured is kept.\n"
    )
