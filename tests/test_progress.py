"""The messages of commands while they work."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from sensitivity.cli import progress
from sensitivity.cli.course import Course, Work, about
from sensitivity.cli.main import main
from sensitivity.cli.progress import Bars, Below, Events, Lines, Quiet, Teller, teller
from sensitivity.config import ProgressChoices
from sensitivity.measure import progress as measure_progress
from sensitivity.measure.progress import Need, Step, Stopwatch

LONG = ("run", "scan", "check", "plan", "export", "bench", "demo")


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slowed = 1.0

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / self.slowed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    for module in (progress, measure_progress):
        monkeypatch.setattr(module, "time", own)
    return own


def sets(tell: Teller, clock: Clock, number: int, step_s: float = 3.0) -> None:
    """Sets that are judged one after the other, two batches each."""
    for at in range(number):
        with tell(f"set {at}", 2) as advance:
            for _ in range(2):
                clock.now += step_s
                advance(1, 25)


def test_without_a_terminal_many_short_steps_in_a_row_are_reported_with_their_times(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    sets(Lines(), clock, 5)
    assert capsys.readouterr().err.splitlines() == [
        "12 s: set 1: 2 of 2 done, 50 samples spent",
        "24 s: set 3: 2 of 2 done, 50 samples spent",
    ]


def test_a_line_says_how_long_the_work_takes_at_its_own_pace(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    tell = Lines()
    tell.say("Loading.")
    clock.now += 30
    with tell("plan", 10) as advance:
        clock.now += 12
        advance(4, 100)
    assert capsys.readouterr().err.splitlines() == [
        "0 s: Loading.",
        "42 s: plan: 4 of 10 done, about 18 s left, 100 samples spent",
    ]


def test_events_are_json_of_the_begin_the_end_and_one_a_second_between(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    tell = Events()
    tell.say("Loading.")
    with tell("set 0", 4) as advance:
        for _ in range(4):
            clock.now += 0.6
            advance(1, 25)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    rows = [tuple(event.values()) for event in events]
    names = ["kind", "step", "done", "total", "samples", "seconds", "left"]
    assert list(events[0]) == names
    assert rows == [
        ("work", "set 0", 0, 4, 0, 0.0, None),
        ("work", "set 0", 2, 4, 50, 1.2, None),
        ("work", "set 0", 4, 4, 100, 2.4, None),
        ("work", "set 0", 4, 4, 100, 2.4, None),
    ]


def test_a_first_part_that_takes_no_time_tells_nothing_of_the_others(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    tell = Lines()
    clock.now += 20
    with tell("checks", 6) as advance:
        advance(1, 0)
        clock.now += 20
        advance(1, 0)
    assert capsys.readouterr().err.splitlines() == [
        "20 s: checks: 1 of 6 done",
        "40 s: checks: 2 of 6 done, about 40 s left",
    ]


def test_work_that_is_given_up_ends_without_a_last_event(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="broken"), Events()("set", 4):
        raise ValueError("broken")
    assert len(capsys.readouterr().err.splitlines()) == 1


def course_of_a_run(tell: Lines | Events | Bars, clock: Clock) -> None:
    """A scan of 100 samples, two seconds each, 40 of them done; then a plan of 200 and 10 s, which
    a set of 8 batches begins at one second a sample; afterwards come 30 s."""
    tell.begin(Step("check", 1, 6))
    clock.now += 5
    tell.begin(Step("scan", 2, 6, Need(100), Need(200, 40)))
    with tell("7 units", 10) as advance:
        clock.now += 80
        advance(4, 40)
    tell.begin(Step("plan", 3, 6, Need(200, 10), Need(0, 30)))
    with tell("set 0", 8) as advance:
        clock.now += 20
        advance(1, 20)


def test_the_steps_of_a_run_say_how_long_all_of_it_takes(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    course_of_a_run(Lines(), clock)
    assert capsys.readouterr().err.splitlines() == [
        "0 s: step 1 of 6 (check)",
        "5 s: step 2 of 6 (scan)",
        # (100 - 40) * 2 + 200 * 2 + 40 = 560 s
        "85 s: step 2 of 6 (scan), about 9 min left; 7 units: 4 of 10 done, about 120 s left, "
        "40 samples spent",
        # 200 * 2 + 10 + 30 = 440 s
        "85 s: step 3 of 6 (plan), about 7 min left",
        # 200 * 1 + 10 - 20 + 30 = 220 s
        "105 s: step 3 of 6 (plan), about 4 min left; set 0: 1 of 8 done, about 140 s left, "
        "20 samples spent",
    ]


def test_events_tell_of_the_steps_and_of_the_time_that_is_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    course_of_a_run(Events(), clock)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    steps = [event for event in events if event["kind"] == "step"]
    assert [(one["step"], one["done"], one["total"], one["left"]) for one in steps] == [
        ("check", 0, 6, None),
        ("scan", 1, 6, None),
        ("plan", 2, 6, 440.0),
    ]
    assert events[-1]["left"] == 220.0


def test_a_terminal_shows_the_step_above_the_bar_while_it_works(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Below] = []
    console = Console(file=StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Below", lambda *args: shown.append(Below(*args)) or shown[0])
    tell = Bars(console)
    tell.begin(Step("plan", 3, 6, Need(100), Need(0, 30)))
    with tell("set 0", 2) as advance:
        clock.now += 60
        advance(1, 50)
        above, bar = shown[0].get_renderables()
        assert str(above) == "step 3 of 6 (plan), about 90 s left"
        assert isinstance(bar, Table)
        advance(1, 50)
        assert len(list(shown[0].get_renderables())) == 1, "nothing is left to grow old"


def test_a_step_that_takes_longer_than_expected_takes_what_is_in_hand() -> None:
    course = Course()
    course.begin(Step("plan", 3, 6, Need(10), Need(0, 5)), 0.0, slowed=1.0)
    course.spent(50, 100.0)
    assert course.left_s(100.0) == 5.0, "what comes later"
    assert course.left_s(100.0, Work("set 9", 10, began=80.0, done=5)) == 25.0


def test_sets_of_a_plan_take_whole_forwards_which_variants_of_a_scan_share() -> None:
    course = Course()
    course.begin(Step("scan", 2, 6, Need(1000), Need(200)), 0.0, slowed=1.0)
    course.spent(10, 20.0, whole=True)
    course.spent(90, 10.0)
    assert course.left_s(0.0) == 1000 * 0.3 + 200 * 2.0
    course.begin(Step("plan", 3, 6, Need(150), Need(50)), 30.0, slowed=1.0)
    assert course.left_s(30.0) == 200 * 2.0


def test_of_commands_with_one_step_nothing_is_said_of_steps() -> None:
    course = Course()
    course.spent(10, 10.0)
    assert (course.left_s(10.0), course.words(10.0)) == (None, "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (9.9, "under 10 s"),
        (10, "about 10 s"),
        (94, "about 90 s"),
        (95, "about 2 min"),
        (5699, "about 95 min"),
        (5700, "about 1.6 h"),
    ],
)
def test_times_are_given_as_exactly_as_they_are_known(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_quiet_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    tell = Quiet()
    tell.say("Loading.")
    sets(tell, clock, 5, step_s=60)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("choices", "kind"),
    [
        (ProgressChoices(), Lines),
        (ProgressChoices(quiet=True), Quiet),
        (ProgressChoices(json_events=True), Events),
    ],
    ids=["neither", "quiet", "json-events"],
)
def test_the_options_choose_who_tells(choices: ProgressChoices, kind: type[Teller]) -> None:
    assert type(teller(choices)) is kind


@pytest.mark.parametrize("verb", LONG)
def test_quiet_and_json_events_together_are_refused(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [] if verb == "demo" else ["runs/none"]
    with pytest.raises(SystemExit) as ended:
        main([verb, *words, "--quiet", "--json-events"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "Error: Expected one of --quiet and --json-events, got both; leave one out.\n"
    )


def test_a_busy_machine_stretches_what_takes_seconds_besides_samples(clock: Clock) -> None:
    watch = Stopwatch()
    assert watch.slowed == 1.0
    clock.slowed = 1.0  # 30 s of the clock, of which the processor gave 12
    clock.now += 30
    watch._processor += 18
    assert watch.slowed == 2.5
    course = Course()
    course.begin(Step("export", 4, 6, Need(0, 10), Need(0, 4)), 0.0, slowed=2.5)
    course.spent(1, 1.0)
    assert course.left_s(5.0) == 10 * 2.5 - 5 + 4 * 2.5
