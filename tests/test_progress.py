"""Lines of progress where there is no terminal."""

from __future__ import annotations

import pytest

from sensitivity.cli import progress


def test_many_short_steps_in_a_row_are_told_of_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sets that are judged one after the other, each for less than the time between two lines."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress, "PACE", progress.Pace())
    for number in range(5):
        with progress.bar(f"set {number}", 2) as advance:
            for _ in range(2):
                clock[0] += 3.0
                advance(1, 25)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "set 1: 2 of 2 done, about 0 s left, 50 samples spent",
        "set 3: 2 of 2 done, about 0 s left, 50 samples spent",
    ]
