"""The step from a plan to verified files."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import TASK, verb

from sensitivity.exporters import evaluate


def test_exporting_a_plan_simulates_none_of_the_samples_that_chose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are compared with the scores that scan and plan have measured on the first batches
    of each split."""
    asked: list[str] = []
    simulated_scores = evaluate.simulated_scores

    def watched(variant, scoring, simulate):
        def watching(inputs):
            asked.append(variant)
            return simulate(inputs)

        return simulated_scores(variant, scoring, watching)

    monkeypatch.setattr("sensitivity.exporters.evaluate.simulated_scores", watched)
    out = tmp_path / "run"
    assert verb("scan", f"{TASK}:task", "--out", out) == 0
    assert verb("plan", out, "--max-drop", "1pt", "--no-recalibrate") == 0
    assert verb("export", out) == 0
    assert asked == []
