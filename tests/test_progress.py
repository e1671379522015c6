"""What commands say while they work."""

from __future__ import annotations

import json

import pytest

from sensitivity.cli import progress
from sensitivity.cli.main import main
from sensitivity.cli.progress import Events, Lines, Quiet, Teller, teller
from sensitivity.config import ProgressChoices

LONG = ("run", "scan", "plan", "export", "bench", "demo")


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(progress, "time", own)
    return own


def sets(tell: Teller, clock: Clock, number: int, step_s: float = 3.0) -> None:
    """Sets that are judged one after the other, two batches each."""
    for at in range(number):
        with tell(f"set {at}", 2) as advance:
            for _ in range(2):
                clock.now += step_s
                advance(1, 25)


def test_without_a_terminal_many_short_steps_in_a_row_are_told_of_with_their_times(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    sets(Lines(), clock, 5)
    assert capsys.readouterr().err.splitlines() == [
        "12 s: set 1: 2 of 2 done, about 0 s left, 50 samples spent",
        "24 s: set 3: 2 of 2 done, about 0 s left, 50 samples spent",
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
    assert list(events[0]) == ["step", "done", "total", "samples", "seconds"]
    assert rows == [
        ("set 0", 0, 4, 0, 0.0),
        ("set 0", 2, 4, 50, 1.2),
        ("set 0", 4, 4, 100, 2.4),
        ("set 0", 4, 4, 100, 2.4),
    ]


def test_work_that_is_given_up_ends_without_a_last_event(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="broken"), Events()("set", 4):
        raise ValueError("broken")
    assert len(capsys.readouterr().err.splitlines()) == 1


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
