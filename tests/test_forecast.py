"""The estimate of what a run takes, before it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sensitivity import api
from sensitivity.cli.course import rounded
from sensitivity.cli.forecast import between, mebibytes, short, sizes
from sensitivity.cli.main import main
from sensitivity.config import RunSettings, ScanSettings
from sensitivity.measure.progress import Advance, Need, Step
from sensitivity.steps import dry_run
from sensitivity.steps.dry_run import Expected, Forecast, Pace, assumed, forecast_from, spread
from sensitivity.steps.forecast import STEPS, WITHOUT_FILES, Amount, Size, amounts, begin

TINY = f"{Path(__file__).parent / 'tasks' / 'tiny.py'}:task"
SIZE = Size(units=20, rank=100, confirm=200, holdout=300, batch=10)
TUNED = replace(SIZE, misses=True, is_tunable=True, sample_s=0.001)
RUN = RunSettings(task="a.py:task")


def range_of(amount: Amount) -> tuple[float, float]:
    return amount.least.samples, amount.most.samples


class Watcher:
    """Records the steps."""

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
        # float and one set on confirm, two on holdout; 8 units of the order on 32 samples; at most
        # float, everything in INT8, log2(20) sets and 4, one more on holdout, and 20 places
        (SIZE, {"no_recalibrate": True}, (400 + 600, 11 * 200 + 900 + 4096)),
        (SIZE, {}, (1000, 7196 + 20 * (100 + 6 * 32))),
        # all of INT8 misses the target: a quarter of those places, and repairs, are sure
        (replace(SIZE, misses=True), {}, (1256 + 20 * 48 + 12 * 100, 7196 + 20 * (100 + 6 * 32))),
        (replace(SIZE, misses=False), {}, (1000, 7196)),
        # 150 steps on 32 samples, each of which counts as 6 forwards
        (TUNED, {}, (1256 + 960 + 1200, 7196 + 20 * 292 + 28_800)),
        (TUNED, {"fine_tune": "never"}, (1256 + 960 + 1200, 7196 + 20 * 292)),
        (replace(TUNED, sample_s=0.1), {}, (1256 + 960 + 1200, 7196 + 20 * 292)),
        (
            replace(TUNED, sample_s=0.1),
            {"fine_tune": "always"},
            (1256 + 960 + 1200 + 28_800, 7196 + 20 * 292 + 28_800),
        ),
        # after a collapse: four sets and what repairs take until they are dropped, or all of them,
        # a bisection of all units and an order
        (
            replace(SIZE, misses=True, collapsed=True),
            {},
            (4 * 200 + 600 + 400, 9 * 200 + 900 + 1200 + 256),
        ),
        (SIZE, {"no_recalibrate": True, "signal": "metric"}, (1000, 3100)),
        # the search begins with a part of confirm, unless the scan is exact
        (
            replace(SIZE, part=50),
            {"no_recalibrate": True, "signal": "metric"},
            (100 + 600, 3100),
        ),
        (
            replace(SIZE, part=50),
            {"no_recalibrate": True, "signal": "metric", "exact": True},
            (1000, 3100),
        ),
        # each of the 11 sets is looked at on rank too
        (
            replace(SIZE, further=100),
            {"no_recalibrate": True, "signal": "metric"},
            (1000, 3100 + 11 * 100),
        ),
        # whole evaluations: nothing to compare
        (Size(2, 1, 1, 1, 1, compares=False), {}, (4, 7 + 3 + 2 * (1 + 6))),
    ],
    ids=[
        "own-ranges",
        "other-ranges",
        "missed",
        "met",
        "fine-tuned",
        "never-fine-tuned",
        "slow-to-fine-tune",
        "fine-tuned-when-asked",
        "collapsed",
        "order-of-the-metric",
        "part",
        "exact",
        "soft-drop",
        "evaluations",
    ],
)
def test_a_plan_takes_from_one_set_to_a_bisection(
    size: Size, changes: dict[str, object], expected: tuple[float, float]
) -> None:
    assert range_of(amounts(size, 100, replace(RUN, **changes))["plan"]) == expected


def test_files_are_verified_timed_and_judged() -> None:
    found = amounts(SIZE, 100, RUN)
    assert found["export"] == Amount(Need(3 * (100 / 2 + 30), 3), Need(9 * (100 + 30), 12))
    assert found["bench"] == Amount(Need(3 * 110 / 2, 2.1), Need(2 * 4 * 110, 36))
    assert found["report"] == Amount(Need(0, 0.5), Need(0, 5))
    without = amounts(SIZE, 100, replace(RUN, no_accuracy=True, rounds=10))
    assert without["bench"] == Amount(Need(3 * 20 / 2, 1.1), Need(2 * 4 * 20, 6))


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
    size = Size(7, 40, 40, 40, 4, misses=False)
    expected = amounts(size, 7 * 40 + 4 * 40, settings)
    scan, plan = watcher.steps[1], watcher.steps[2]
    assert scan.own == Need(440)
    assert plan.own == expected["plan"].middle
    assert watcher.samples["scan"] == pytest.approx(440, rel=0.1)
    least, most = range_of(expected["plan"])
    assert least <= watcher.samples["plan"] <= most


PACE = Pace(begin=4.0, unit=0.5, whole=2.0, line=500, slowed=3.0)


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(dry_run, "peak_memory", lambda: 1000)
    return 1000


def test_time_memory_and_disk_follow_from_the_pace_of_a_batch(peak: int) -> None:
    needs = {
        "scan": Amount(Need(100), Need(200)),
        "plan": Amount(Need(10), Need(50)),
        "export": Amount(Need(3, 1), Need(6, 15)),
        "report": Amount(Need(0, 1), Need(0, 5)),
    }
    found = forecast_from(PACE, SIZE, needs, weights=400)
    assert found.steps == (
        Expected("check", (0, 0), (pytest.approx(7.3), 22.0), (peak, peak)),
        Expected("scan", (100, 200), (50.0, 100.0), (peak, peak)),
        Expected("plan", (10, 50), (20.0, 100.0), (peak, peak)),
        Expected("export", (3, 6), (9.0, 57.0), (peak + 800, peak + 2400)),
        Expected("report", (0, 0), (3.0, 15.0), (peak, peak)),
    )
    assert found.seconds == (pytest.approx(89.3), 294.0)
    # 500 bytes for each 10 samples; float and two files of a quarter, or nine files
    assert found.disk == (110 * 50 + 400 * 1.5, 250 * 50 + 400 * 9)


def test_a_scan_writes_no_files(peak: int) -> None:
    found = forecast_from(PACE, SIZE, {"scan": Amount(Need(100), Need(200))}, weights=400)
    assert found.disk == (5000, 10_000)


def test_memory_is_not_known_where_the_system_does_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dry_run, "peak_memory", lambda: None)
    found = forecast_from(PACE, SIZE, {"scan": Amount(Need(1), Need(1))}, weights=400)
    assert [step.memory for step in found.steps] == [None, None]


def test_what_a_forecast_rests_on_is_said() -> None:
    scan = ScanSettings(task="a.py:task")
    traced = dry_run.TRACED.format(traced="1 to 6")
    assert assumed(scan, 20) == [dry_run.AS_BUSY, traced, dry_run.MEMORY]
    assert assumed(replace(scan, resume=True), 20)[-1] == dry_run.RESUMED
    of_a_run = assumed(RUN, 20)
    assert dry_run.PLAN in of_a_run
    assert any("files 3 to 12 s, and drawing the report 0.5 to 5 s." in one for one in of_a_run)
    assert dry_run.COST not in of_a_run
    assert dry_run.COST in assumed(replace(RUN, cost="table"), 20)
    assert dry_run.COST in assumed(replace(RUN, planner="cost"), 20)


def test_a_model_of_few_layers_takes_less_time_besides_its_forwards() -> None:
    few, many = (amounts(replace(SIZE, units=units), 100, RUN) for units in (4, 60))
    assert few["export"].middle.seconds < 3 < 12 < many["export"].middle.seconds


def test_timed_units_are_spread_over_the_model() -> None:
    assert spread(range(20), 8) == [0, 2, 5, 7, 10, 12, 15, 17]
    assert spread(range(3), 8) == [0, 1, 2]


def test_weights_are_parameters_and_buffers_or_the_file(tmp_path: Path) -> None:
    # 4 * 3 + 4 weights and biases; 4 * 4 numbers and a counter of 8 bytes
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    assert dry_run.weight_bytes(net) == 4 * 16 + 4 * 16 + 8

    class OfFile:
        path = tmp_path / "model.onnx"

    OfFile.path.write_bytes(b"12345")
    assert dry_run.weight_bytes(OfFile()) == 5


def test_the_sizes_are_said_in_one_line() -> None:
    found = Forecast(SIZE, PACE, (), (0, 0), layers=18)
    assert sizes(found) == (
        "20 units of 18 layers; up to 100 samples of rank, 200 of confirm and 300 of holdout. "
        "Timed on one batch of 10: 500 ms a sample in a scan, 2 s in a plan."
    )
    assert [short(seconds) for seconds in (0.00123, 0.999, 0.9996)] == ["1.23 ms", "999 ms", "1 s"]
    assert between((100, 101), rounded) == "about 2 min"
    assert between((20, 200), rounded) == "20 s to 3 min"
    assert between((1, 2), rounded) == "under 10 s"
    assert [mebibytes(size) for size in (3e5, 3e6, 3e9)] == ["under 1 MiB", "2.9 MiB", "2861 MiB"]


@pytest.mark.parametrize(
    ("verb", "steps"),
    [("run", ("check", "scan", "plan", "export", "bench", "report")), ("scan", ("check", "scan"))],
)
def test_a_dry_run_says_each_step_and_writes_nothing(
    verb: str, steps: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as ended:
        main([verb, TINY, "--out", str(out), "--dry-run", "--quiet"])
    assert not ended.value.code
    assert not out.exists()
    shown = capsys.readouterr().out
    assert (
        "7 units of 7 layers; up to 40 samples of rank, 40 of confirm and 40 of holdout." in shown
    )
    rows = [line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")]
    assert rows == [*steps, "all"]
    assert f"Assumed: {dry_run.MEMORY}" in shown


def test_a_dry_run_leaves_a_run_directory_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "journal.jsonl").write_text("another run")
    api.forecast(ScanSettings(task=TINY, out=out))
    assert [file.name for file in out.iterdir()] == ["journal.jsonl"]
    assert (out / "journal.jsonl").read_text() == "another run"


def test_a_task_with_evaluate_only_is_timed_by_one_evaluation() -> None:
    found = api.forecast(RunSettings(task=TINY.replace(":task", ":evaluate_only")))
    assert (found.size.rank, found.size.batch, found.size.compares) == (1, 1, False)
    assert found.steps[1].samples == (7 + 4, 7 + 4)
    assert found.pace.unit == found.pace.whole
    assert sizes(found).startswith("7 units of 7 layers; up to 1 evaluations of rank")
