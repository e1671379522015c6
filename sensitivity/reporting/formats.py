"""Numbers in words: every value with its unit, every estimate with its interval."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from sensitivity.errors import listed
from sensitivity.records import Effect, Estimate, FrontierPoint, PlanStep, Target

MINUS = "\N{MINUS SIGN}"
_PERCENT_NAME = re.compile(
    r"acc|top|map|\bap|f1|precision|recall|iou|dice|auc|exact|hit|correct", re.IGNORECASE
)


@dataclass(frozen=True)
class MetricFormat:
    """How the values of one metric are written.

    A metric of full scale 1 or 100 whose name says that it is a share (accuracy, top-1, mAP, ...)
    is written in percent, and its changes in points. Any other is written in its own unit.

    >>> top1 = MetricFormat("top-1", 1.0)
    >>> top1.level(0.299), top1.change(0.161)
    ('29.9 %', '+16.1 pt')
    >>> MetricFormat("psnr", 60.0).level(31.4159)
    '31.42'
    """

    name: str
    full_scale: float

    @property
    def percent(self) -> bool:
        """Whether values are shown in percent, and changes in points."""
        is_share = _PERCENT_NAME.search(self.name) is not None
        return is_share and self.full_scale in (1.0, 100.0)

    @property
    def level_unit(self) -> str:
        """Unit of a value; "" for a metric in its own unit."""
        if self.percent:
            return "%"
        return ""

    @property
    def level_label(self) -> str:
        """Name and unit, for an axis or the head of a column."""
        return joined(self.name, self.level_unit)

    @property
    def change_unit(self) -> str:
        """Unit of a difference of two values; "" for a metric in its own unit."""
        if self.percent:
            return "pt"
        return ""

    def shown(self, value: float) -> float:
        """Return the value as a number in the unit shown."""
        if self.percent:
            return value * 100 / self.full_scale
        return value

    def shown_interval(self, estimate: Estimate) -> tuple[float, float] | tuple[None, None]:
        """Return both ends in the unit shown; (None, None) without an interval."""
        if not estimate.has_interval:
            return None, None
        low, high = estimate.ends
        return self.shown(low), self.shown(high)

    def number(self, value: float, sign: bool = False) -> str:
        """Return the value in the unit shown, without the unit.

        sign: whether a positive value has a plus sign.
        """
        shown = self.shown(value)
        digits = f"{shown:.1f}" if self.percent else f"{shown:.4g}"
        return signed(digits, plus=sign)

    def level(self, value: float) -> str:
        """Return a value with its unit, such as "29.9 %"."""
        return f"{self.number(value)} {self.level_unit}".rstrip()

    def change(self, value: float, sign: bool = True) -> str:
        """Return a difference with its unit, such as "+16.1 pt".

        sign: whether a positive value has a plus sign.
        """
        return f"{self.number(value, sign)} {self.change_unit}".rstrip()

    def apart(self, value: float, other: float) -> str:
        """Return a difference with as many digits as tell it from another one.

        >>> MetricFormat("top-1", 1.0).apart(0.00334, 0.003)
        '0.33 pt'
        """
        digits = 2
        while digits < 6 and round(self.shown(value - other), digits) == 0:
            digits += 1
        return f"{self.shown(value):.{digits}f} {self.change_unit}".rstrip()

    def effect(self, effect: Effect) -> str:
        """Return the change, or why there is none.

        The metric may not depend on the layer, or a race may not have measured it.
        """
        if not effect.judged:
            return "not judged"
        if not effect.is_measured:
            return "by signal only"
        return self.change(effect.effect.value)

    def interval(self, estimate: Estimate) -> str:
        """Return an interval in the unit shown, such as "[27.0, 32.8]".

        Without an interval, returns "(no interval)", or "" for an estimate without samples.
        """
        if estimate.has_interval:
            low, high = map(self.number, estimate.ends)
            return f"[{low}, {high}]"
        if estimate.n:
            return "(no interval)"
        return ""

    def level_of(self, estimate: Estimate) -> str:
        """Return a value with its interval and samples."""
        return f"{self.level(estimate.value)} {self.interval(estimate)} {samples(estimate)}"

    def change_of(self, estimate: Estimate) -> str:
        """Return a difference with its interval and samples, without a plus sign."""
        change = self.change(estimate.value, sign=False)
        return f"{change} {self.interval(estimate)} {samples(estimate)}"

    def as_given(self, value: float) -> str:
        """Return a number that the user gave, in the unit shown, with all its digits.

        >>> metric = MetricFormat("top-1", 1.0)
        >>> metric.as_given(0.01), metric.as_given(0.0005)
        ('1.0', '0.05')
        """
        if self.percent and float(self.number(value)) != round(self.shown(value), 6):
            return f"{self.shown(value):.6g}"
        return self.number(value)

    def allowed(self, target: Target, of_float: float) -> str:
        """Return the drop that a target allows, such as "1.0 pt".

        of_float: value of the float model, from which the drop is counted unless the user gave it.
        """
        if target.drop is None:
            return self.change(of_float - target.floor(of_float), sign=False)
        return f"{self.as_given(target.drop)} {self.change_unit}".rstrip()

    def from_float(self, drop: Estimate) -> str:
        """Return how far a model is from float, with the interval of `drop` if it has one.

        >>> metric = MetricFormat("top-1", 1.0)
        >>> metric.from_float(Estimate(0.002, 0.001, 0.003, 500))
        '0.2 pt [0.1, 0.3] under float'
        >>> metric.from_float(Estimate(-0.003, -0.004, -0.002, 500))
        '0.3 pt [0.2, 0.4] above float'
        """
        is_above = self.number(drop.value).startswith(MINUS)
        distance, side = (drop.under(0.0), "above") if is_above else (drop, "under")
        words = self.change(distance.value, sign=False), self.interval(distance), f"{side} float"
        return " ".join(filter(None, words))

    def target(self, target: Target) -> str:
        """Return what the user asked for, such as "at most 1.0 pt under float"."""
        if target.metric is not None:
            return f"at least {self.as_given(target.metric)} {self.level_unit}".rstrip()
        if target.drop is not None:
            return f"at most {self.allowed(target, 0.0)} under float"
        assert target.relative is not None
        return f"at most {100 * target.relative:g} % of float's own value under float"


def signed(number: str, plus: bool) -> str:
    """Return a number with a true minus sign, a plus sign if asked, and no sign on zero.

    >>> signed("0.5", plus=True), signed("-0.0", plus=True)
    ('+0.5', '0.0')
    """
    if float(number) == 0:
        return number.lstrip("-")
    if number.startswith("-"):
        return MINUS + number[1:]
    if plus:
        return f"+{number}"
    return number


def ratio(estimate: Estimate) -> str:
    """Return a ratio with its interval, such as "1.35x [1.31, 1.40]"."""
    text = f"{estimate.value:.2f}x"
    if not estimate.has_interval:
        return text
    low, high = estimate.ends
    return f"{text} [{low:.2f}, {high:.2f}]"


def milliseconds(value_ms: float) -> str:
    """Return a time with three significant digits.

    >>> milliseconds(0.04567), milliseconds(4.5), milliseconds(1234.5)
    ('0.0457 ms', '4.50 ms', '1234 ms')
    """
    digits = 2 - math.floor(math.log10(value_ms)) if value_ms > 0 else 0
    return f"{value_ms:.{max(digits, 0)}f} ms"


def memory(size: int) -> str:
    """Return a number of bytes with three significant digits, in decimal units.

    >>> memory(5680), memory(91_670_000), memory(12)
    ('5.68 kB', '91.7 MB', '12 bytes')
    """
    if size < 1000:
        return count(size, "byte")
    if size < 1_000_000:
        return f"{size / 1e3:.3g} kB"
    return f"{size / 1e6:.3g} MB"


def includes_zero(estimate: Estimate) -> bool:
    """Return whether the data allow no effect at all; False without an interval."""
    return estimate.has_interval and estimate.allows(0)


def samples(estimate: Estimate) -> str:
    """Return how many samples a value is based on; one evaluation if there are no per-sample
    scores."""
    if estimate.n < 2:
        return "in one evaluation"
    return f"on {count(estimate.n, 'sample')}"


def listing(names: tuple[str, ...], most: int = 6, last: str = ",") -> str:
    """Return the names as they stand in a sentence.

    most: largest number of names.
    last: what stands before the last one.

    >>> listing(("a", "b", "c", "d"), most=2)
    'a, b and 2 more'
    >>> listing(("a", "b", "c"), last="or")
    'a, b or c'
    """
    if last == "," or not 1 < len(names) <= most:
        return listed(names, most)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def joined(*parts: str) -> str:
    """Return the parts that are not empty, with commas between them.

    >>> joined("Conv", "", "float")
    'Conv, float'
    """
    return ", ".join(filter(None, parts))


def format_words(tried: PlanStep | FrontierPoint) -> str:
    """Return the number of layers with activations of 16 bits and of those in FP8, to follow the
    number of those left out.

    Returns "" if there are none.
    """
    words = ""
    if tried.wide:
        words += f", {len(tried.wide)} in 16 bits"
    if tried.fp8:
        words += f", {len(tried.fp8)} in FP8"
    return words


def count(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count(1, "layer"), count(28, "layer")
    ('1 layer', '28 layers')
    """
    if n != 1:
        noun += "s"
    return f"{n:,} {noun}"


def rounded(n: int) -> int:
    """Return a number rounded to two significant digits.

    >>> rounded(3142)
    3100
    """
    step: int = 10 ** max(len(str(n)) - 2, 0)
    return round(n / step) * step


def sure(chance: float) -> str:
    """Return a probability in words, never as certain.

    >>> sure(0.784), sure(0.9999), sure(0.0)
    ('78%', '99%', '1%')
    """
    return f"{min(max(chance, 0.01), 0.99):.0%}"
