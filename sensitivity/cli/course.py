"""Progress of a command and the time that it still takes, estimated from the pace so far."""

from __future__ import annotations

from dataclasses import dataclass

from sensitivity.measure.progress import Step


@dataclass
class Work:
    """A piece of work and its progress.

    began: time of the start, in seconds of `time.monotonic`.
    """

    what: str
    total: int
    began: float
    done: int = 0
    samples: int = 0

    def left_s(self, now: float) -> float | None:
        """Return the seconds left at the pace so far; None before anything is done."""
        if not self.done:
            return None
        return (now - self.began) / self.done * (self.total - self.done)


@dataclass
class Spent:
    """Samples that were forwarded, and the seconds that they took."""

    samples: int = 0
    seconds: float = 0.0

    def add(self, samples: int, seconds: float) -> None:
        """Add samples and seconds."""
        self.samples += samples
        self.seconds += seconds

    @property
    def pace(self) -> float | None:
        """Seconds per sample; None before the first sample."""
        return self.seconds / self.samples if self.samples else None


class Course:
    """The current step of a command, and the pace of all work so far.

    The pace is that of the step itself. Before the step has forwarded a sample, it is the pace of
    earlier whole forwards: variants of a scan share most of their forwards, sets of a plan nothing.
    """

    def __init__(self) -> None:
        self.step: Step | None = None
        self._began = 0.0
        self._spent, self._whole = Spent(), Spent()
        self._last_pace: float | None = None
        self._slowed = 1.0

    def begin(self, step: Step, now: float, slowed: float) -> None:
        """Make this the current step.

        slowed: see `Stopwatch`.
        """
        self._last_pace = self._whole.pace or self._pace()
        self._spent = Spent()
        self.step, self._began, self._slowed = step, now, slowed

    def spent(self, samples: int, seconds: float, *, whole: bool = False) -> None:
        """Record the time that some samples took. Nothing is recorded without samples.

        whole: whether each forward was complete, sharing nothing with that of another variant.
        """
        if samples:
            self._spent.add(samples, seconds)
        if samples and whole:
            self._whole.add(samples, seconds)

    def left_s(self, now: float, work: Work | None = None) -> float | None:
        """Return the seconds until the command ends; None if unknown.

        A step that takes longer than expected is assumed to last at least as long as the current
        work.
        """
        step, pace = self.step, self._pace()
        if step is None or step.own is None or step.later is None or pace is None:
            return None
        expected = step.own.at(pace, self._slowed) - (now - self._began)
        in_hand = work.left_s(now) if work else None
        later = step.later.at(self._whole.pace or pace, self._slowed)
        return max(expected, in_hand or 0.0) + later

    def words(self, now: float, work: Work | None = None) -> str:
        """Return the step and the time left, as in "step 3 of 6 (plan), about 3 min left"."""
        if self.step is None:
            return ""
        left = self.left_s(now, work)
        soon = "" if left is None else f", {about(left)} left"
        return f"step {self.step.number} of {self.step.of} ({self.step.name}){soon}"

    def _pace(self) -> float | None:
        return self._spent.pace or self._last_pace


def about(seconds: float) -> str:
    """Return an uncertain time in words.

    >>> [about(seconds) for seconds in (4, 38, 170, 9000)]
    ['under 10 s', 'about 40 s', 'about 3 min', 'about 2.5 h']
    """
    return rounded(seconds) if seconds < 10 else f"about {rounded(seconds)}"


def rounded(seconds: float) -> str:
    """Return a time with one or two digits.

    >>> [rounded(seconds) for seconds in (4, 38, 170, 9000)]
    ['under 10 s', '40 s', '3 min', '2.5 h']
    """
    if seconds < 10:
        return "under 10 s"
    if seconds < 95:
        return f"{round(seconds, -1):.0f} s"
    if seconds < 95 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
