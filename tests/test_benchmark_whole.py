"""The benchmark of whole jobs: its summary of turns, and that it runs two builds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from support.scripts import ROOT, load_script


@pytest.fixture(scope="module")
def whole() -> Any:
    return load_script("benchmarks/whole.py")


def row(seconds: float, skipped: int = 2, status: str = "met", peak: float = 100.0) -> Any:
    found = {"seconds": seconds, "processor_s": seconds / 2, "peak_mib": peak}
    return {**found, "skipped": skipped, "status": status}


def test_the_ratio_is_the_geometric_mean_over_turns_with_an_interval(whole: Any) -> None:
    turns = [
        {"this build": row(10), "against": row(20)},
        {"this build": row(10), "against": row(80, peak=300.0)},
    ]
    found = whole.summary(turns)
    assert found["ratio"] == pytest.approx(4.0)
    assert (found["seconds"], found["against_seconds"]) == (10.0, 50.0)
    assert (found["processor_s"], found["against_processor_s"]) == (5.0, 25.0)
    assert (found["peak_mib"], found["against_peak_mib"]) == (100.0, 300.0)
    # Student's t with one degree of freedom: 12.706 standard errors of log 2 on each side.
    half = 12.7062 * math.log(2)
    assert found["low"] == pytest.approx(4 * math.exp(-half), rel=1e-3)
    assert found["high"] == pytest.approx(4 * math.exp(half), rel=1e-3)


def test_one_turn_has_no_interval(whole: Any) -> None:
    found = whole.summary([{"this build": row(10), "against": row(25)}])
    assert (found["ratio"], found["low"], found["high"]) == (pytest.approx(2.5), None, None)


@pytest.mark.parametrize(
    ("mine", "other", "good"),
    [
        (row(1, 2), row(1, 2), True),
        (row(1, 3), row(1, 2), False),
        (row(1, 3, "not proven"), row(1, 2, "met"), False),
        (row(1, 3, "met"), row(1, 2, "missed"), True),
    ],
)
def test_a_plan_is_no_worse_with_no_more_layers_or_a_better_name(
    whole: Any, mine: Any, other: Any, good: bool
) -> None:
    assert whole.same_or_better(mine, other) is good


def test_a_plan_of_an_older_build_only_says_whether_it_is_met(whole: Any) -> None:
    assert whole.plan_facts({"skip": ["a"], "met": True}) == {"skipped": 1, "status": "met"}
    newer = {"skip": [], "met": True, "verdict": {"accuracy": "not proven"}}
    assert whole.plan_facts(newer) == {"skipped": 0, "status": "not proven"}


def test_the_plain_command_of_each_model(whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSITIVITY_ASSETS", "/assets")
    words = whole.command_of("yolov8n", Path("/tree"), Path("/out"))
    assert words[:2] == ["run", "/tree/examples/03_yolov8n/task.py:task"]
    assert words[-4:] == ["--max-drop", "0.3pt", "--out", "/out"]
    assert whole.command_of("demo", Path("/tree"), Path("/out")) == ["demo", "--out", "/out"]


def test_a_command_that_fails_is_reported_with_what_it_said(
    whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(whole.COMMANDS, "broken", "plan {out}")
    with pytest.raises(RuntimeError, match="plan .*/run failed: Error: Expected"):
        whole.timed("broken", ROOT)


def test_the_build_that_runs_is_the_one_in_its_tree(
    whole: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "sensitivity"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import json, pathlib, sys\n"
        "out = pathlib.Path(sys.argv[-1])\n"
        "out.mkdir()\n"
        "(out / 'plan.json').write_text(json.dumps({'skip': [__file__], 'met': False}))\n"
        "sys.exit(2)\n"
    )
    monkeypatch.chdir(ROOT)
    found = whole.timed("demo", tmp_path)
    assert (found["skipped"], found["status"]) == (1, "missed")
    assert found["seconds"] > 0
    assert 0 < found["processor_s"] < found["seconds"] * 10
    assert 1 < found["peak_mib"] < 1000
