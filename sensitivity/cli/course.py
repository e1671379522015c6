"""How far a command is, and how long it still takes: from the pace of what is done."""

from __future__ import annotations

from dataclasses import dataclass

from sensitivity.measure.progress import Step


@dataclass
class Work:
    """A piece of work and how far it is. began: seconds, of `time.monotonic`."""

    what: str
    total: int
    began: float
    done: int = 0
    samples: int = 0

    def left_s(self, now: float) -> float | None:
        """Seconds that are left at the pace so far; None where nothing is done yet."""
        if not self.done:
            return None
        return (now - self.began) / self.done * (self.total - self.done)


@dataclass
class Spent:
    """Samples that were forwarded, and the seconds that they took."""

    samples: int = 0
    seconds: float = 0.0

    def add(self, samples: int, seconds: float) -> None:
        """Count these too."""
        self.samples += samples
        self.seconds += seconds

    @property
    def pace(self) -> float | None:
        """Seconds a sample; None before the first."""
        return self.seconds / self.samples if self.samples else None


class Course:
    """The step that a command is in, and the pace of all work so far.

    The pace is that of the step itself, and before it has forwarded a sample that of whole forwards
    before it: variants of a scan share most of theirs, sets of a plan nothing.
    """

    def __init__(self) -> None:
        self.step: Step | None = None
        self._began = 0.0
        self._spent, self._whole = Spent(), Spent()
        self._last_pace: float | None = None
        self._slowed = 1.0

    def begin(self, step: Step, now: float, slowed: float) -> None:
        """Take the step for that of now. slowed: see `Stopwatch`."""
        self._last_pace = self._whole.pace or self._pace()
        self._spent = Spent()
        self.step, self._began, self._slowed = step, now, slowed

    def spent(self, samples: int, seconds: float, *, whole: bool = False) -> None:
        """Take in what some samples took; nothing where none was forwarded. whole: whether each
        forward was whole, and shared nothing with that of another variant."""
        if samples:
            self._spent.add(samples, seconds)
        if samples and whole:
            self._whole.add(samples, seconds)

    def left_s(self, now: float, work: Work | None = None) -> float | None:
        """Seconds until the command ends; None where that cannot be said yet.

        A step that takes longer than expected has at least what the work in hand still takes.
        """
        step, pace = self.step, self._pace()
        if step is None or step.own is None or step.later is None or pace is None:
            return None
        expected = step.own.at(pace, self._slowed) - (now - self._began)
        in_hand = work.left_s(now) if work else None
        later = step.later.at(self._whole.pace or pace, self._slowed)
        return max(expected, in_hand or 0.0) + later

    def words(self, now: float, work: Work | None = None) -> str:
        """The step and the time left, as in "step 3 of 6 (plan), about 3 min left"."""
        if self.step is None:
            return ""
        left = self.left_s(now, work)
        soon = "" if left is None else f", {about(left)} left"
        return f"step {self.step.number} of {self.step.of} ({self.step.name}){soon}"

    def _pace(self) -> float | None:
        return self._spent.pace or self._last_pace


def about(seconds: float) -> str:
    """A time that is not known well, in words.

    >>> [about(seconds) for seconds in (4, 38, 170, 9000)]
    ['under 10 s', 'about 40 s', 'about 3 min', 'about 2.5 h']
    """
    return rounded(seconds) if seconds < 10 else f"about {rounded(seconds)}"


def rounded(seconds: float) -> str:
    """A time to one or two digits.

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
