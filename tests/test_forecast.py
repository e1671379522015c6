"""What a run is expected to take, before it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sensitivity import api
from sensitivity.config import RunSettings, ScanSettings
from sensitivity.measure.progress import Advance, Need, Step
from sensitivity.steps.forecast import STEPS, WITHOUT_FILES, Amount, Size, amounts, begin

TINY = f"{Path(__file__).parent / 'tasks' / 'tiny.py'}:task"
SIZE = Size(units=20, rank=100, confirm=200, holdout=300, batch=10)
RUN = RunSettings(task="a.py:task")


def range_of(amount: Amount) -> tuple[float, float]:
    return amount.least.samples, amount.most.samples


class Watcher:
    """Notes the steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.samples: dict[str, int] = {}

    def begin(self, step: Step) -> None:
        self.steps.append(step)

    @contextmanager
    def __call__(self, what: str, total: int) -> Iterator[Advance]:
        def advance(steps: int, samples: int) -> None:
            name = self.steps[-1].name
            self.samples[name] = self.samples.get(name, 0) + samples

        yield advance


@pytest.mark.parametrize(
    ("exact", "changes", "expected"),
    [
        (2400, {}, (2400, 2400)),
        # 16 of each unit and of float; then 8 contenders on a batch, and 1000 samples at most
        (20_001, {}, (336 + 80, 336 + 1000)),
        (20_001, {"exact": True}, (20_001, 20_001)),
        (20_001, {"signal": "metric"}, (20_001, 20_001)),
        (2400, {"samples": 500}, (336 + 80, 336 + 500)),
        (2400, {"samples": 5}, (336 + 80, 336 + 80)),
    ],
    ids=["affordable", "raced", "exact", "metric", "budget", "small-budget"],
)
def test_a_scan_takes_every_unit_or_a_race(
    exact: int, changes: dict[str, object], expected: tuple[float, float]
) -> None:
    settings = ScanSettings(task="a.py:task")
    found = amounts(SIZE, exact, replace(settings, **changes))
    assert list(found) == ["scan"]
    assert range_of(found["scan"]) == expected


@pytest.mark.parametrize(
    ("size", "changes", "expected"),
    [
        # float and one set on confirm, two on holdout, 8 units of the order on 32 samples; at most
        # float, everything in INT8, log2(20) sets and 4, one more on holdout, and 16 places
        (SIZE, {"no_recalibrate": True}, (400 + 600 + 256, 11 * 200 + 900 + 4096)),
        (SIZE, {}, (1256, 7196 + 16 * (100 + 6 * 64))),
        (SIZE, {"no_recalibrate": True, "signal": "metric"}, (1000, 3100)),
        # whole evaluations: nothing to compare
        (Size(2, 1, 1, 1, 1, compares=False), {}, (4, 7 + 3 + 2 * (1 + 6))),
    ],
    ids=["own-ranges", "other-ranges", "order-of-the-metric", "evaluations"],
)
def test_a_plan_takes_from_one_set_to_a_bisection(
    size: Size, changes: dict[str, object], expected: tuple[float, float]
) -> None:
    assert range_of(amounts(size, 100, replace(RUN, **changes))["plan"]) == expected


def test_files_are_verified_timed_and_judged() -> None:
    found = amounts(SIZE, 100, RUN)
    assert found["export"] == Amount(Need(3 * 120 / 8, 1), Need(9 * 120, 15))
    assert found["bench"] == Amount(Need(3 * 110 / 8, 1), Need(4 * 110, 31))
    assert found["report"] == Amount(Need(0, 0.5), Need(0, 5))
    without = amounts(SIZE, 100, replace(RUN, no_accuracy=True, rounds=10))
    assert without["bench"] == Amount(Need(3 * 20 / 8, 1), Need(4 * 20, 1))


def test_the_middle_is_as_many_times_the_least_as_the_most_is_of_it() -> None:
    assert Amount(Need(10, 1), Need(1000, 4)).middle == Need(100, 2)


def test_a_step_says_what_it_and_all_later_ones_take() -> None:
    watcher = Watcher()
    expected = {name: Amount(Need(n, 1), Need(n, 1)) for n, name in enumerate(STEPS)}
    begin(watcher, "check")
    begin(watcher, "plan", expected)
    begin(watcher, "plan", expected, WITHOUT_FILES)
    assert watcher.steps == [
        Step("check", 1, 6),
        Step("plan", 3, 6, Need(2, 1), Need(3 + 4 + 5, 3)),
        Step("plan", 3, 4, Need(2, 1), Need(5, 1)),
    ]


def test_a_run_takes_what_was_expected_of_it(tmp_path: Path) -> None:
    watcher = Watcher()
    settings = RunSettings(task=TINY, out=tmp_path / "run", rounds=3)
    api.run(settings, watcher)
    assert [(step.name, step.number, step.of) for step in watcher.steps] == [
        (name, number + 1, 6) for number, name in enumerate(STEPS)
    ]
    expected = amounts(Size(7, 40, 40, 40, 4), 7 * 40 + 4 * 40, settings)
    scan, plan = watcher.steps[1], watcher.steps[2]
    assert scan.own == Need(440)
    assert plan.own == expected["plan"].middle
    assert watcher.samples["scan"] == pytest.approx(440, rel=0.1)
    least, most = range_of(expected["plan"])
    assert least <= watcher.samples["plan"] <= most
