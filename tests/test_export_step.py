"""The step from a plan to verified files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from support.commands import TASK, verb

from sensitivity.exporters import evaluate
from sensitivity.session import SomeBatches


def test_exporting_a_plan_simulates_none_of_the_samples_that_chose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are compared with the scores that scan and plan measured on the first batches of
    each split."""
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


@pytest.mark.parametrize(
    ("total", "found"),
    [
        (2, ["confirm 0", "confirm 1"]),
        (5, ["confirm 0", "confirm 1", "confirm 2", "rank 0", "rank 1"]),
        (99, ["confirm 0", "confirm 1", "confirm 2", "rank 0", "rank 1", "rank 2", "holdout 0"]),
    ],
)
def test_files_are_judged_on_the_first_batches_until_there_are_enough(
    total: int, found: list[str]
) -> None:
    lengths = {"rank": 4, "confirm": 3, "holdout": 1}
    data = {split: [(f"{split} {at}", at) for at in range(n)] for split, n in lengths.items()}
    batches = SomeBatches(SimpleNamespace(data=data), most=3, total=total)
    assert [inputs for inputs, _ in batches] == found
    assert [f"{split} {at}" for split, at in batches.places] == found
