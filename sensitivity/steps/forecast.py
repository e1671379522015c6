"""What the steps of a run take, before they are done: samples to forward, and seconds for all
else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sensitivity.config import RunSettings, ScanSettings
from sensitivity.measure.progress import Need, Progress, Step, WithSteps
from sensitivity.measure.raced import CONTENDERS, EXACT_UP_TO, RACE_SAMPLES, SIGNAL_SAMPLES
from sensitivity.search import ranges, rerank
from sensitivity.search.soft_judge import MORE_SAMPLES
from sensitivity.session import Session
from sensitivity.signals.soft import has_soft_drop
from sensitivity.steps.bench import AFFORDABLE_S, WARMUP_ROUNDS
from sensitivity.steps.export import METRIC_BATCHES, METRIC_SAMPLES
from sensitivity.tasks.batches import batch_size

STEPS = ("check", "scan", "plan", "export", "bench", "report")
WITHOUT_FILES = ("check", "scan", "plan", "report")
"""The steps of a run whose model cannot be exported."""

MORE_SETS = 4
"""Sets that a planner judges besides those of a bisection."""
METHODS = 3
"""Other ranges that are tried of a quantizer, about."""
FILES = (3, 9)
"""Verified, at least and at most: lowered ones come to the three canonical ones."""
FASTER = 8
"""How many times as fast as the simulation a runtime is, at most."""
TRACED_S = (1.0, 15.0)
"""Seconds to trace, write and load files."""
FITTED_S = (1.0, 40.0)
"""Seconds of a plan besides forwards: to fit other ranges, biases and the rounding of weights, and
to draw conclusions."""
DRAWN_S = (0.5, 5.0)
"""Seconds to draw a report."""


@dataclass(frozen=True)
class Amount:
    """What a step takes, at least and at most."""

    least: Need
    most: Need

    @property
    def middle(self) -> Need:
        """Between the two: as many times the least as the most is of it."""
        return Need(
            math.sqrt(self.least.samples * self.most.samples),
            math.sqrt(self.least.seconds * self.most.seconds),
        )


@dataclass(frozen=True)
class Size:
    """What the amounts follow from. units: number of them. rank, confirm, holdout: samples. batch:
    samples of a batch. compares: whether outputs of samples can be compared, and not only whole
    evaluations. further: samples besides confirm on which a set near the target is looked at."""

    units: int
    rank: int
    confirm: int
    holdout: int
    batch: int
    compares: bool = True
    further: int = 0


def size_of(session: Session) -> Size:
    """The size of a session's job, each batch taken for as large as the first of `rank`."""
    batch = batch_size(session.example) if session.has_samples else 1
    data = session.task.data
    rank, confirm, holdout = (len(data[name]) * batch for name in ("rank", "confirm", "holdout"))
    further = min(rank, MORE_SAMPLES) if has_soft_drop(session.task) else 0
    return Size(len(session.units), rank, confirm, holdout, batch, session.has_samples, further)


def amounts(size: Size, exact: int, settings: RunSettings | ScanSettings) -> dict[str, Amount]:
    """Step -> what it takes. exact: samples of a scan that measures every unit whole. Only the scan
    for settings of a scan."""
    found = {"scan": _scan(size, exact, settings)}
    if isinstance(settings, RunSettings):
        found["plan"] = _plan(size, settings)
        found["export"] = _export(size)
        found["bench"] = _bench(size, settings)
        found["report"] = _fixed(*DRAWN_S)
    return found


def _scan(size: Size, exact: int, settings: RunSettings | ScanSettings) -> Amount:
    wants_exact = settings.exact or settings.signal == "metric"
    has_budget = settings.samples is not None or settings.time_budget is not None
    if wants_exact or (not has_budget and exact <= EXACT_UP_TO):
        return Amount(Need(exact), Need(exact))
    signal = SIGNAL_SAMPLES * (size.units + 1)
    first = min(CONTENDERS, size.units) * size.batch
    raced = max(first, settings.samples or RACE_SAMPLES)
    return Amount(Need(signal + first), Need(signal + raced))


def _plan(size: Size, settings: RunSettings) -> Amount:
    """At least what a plan takes where everything in INT8 meets the target. At most a bisection,
    with the order of units made anew and other ranges tried."""
    held = 2 * size.holdout
    least = 2 * size.confirm + held
    sets = 2 + math.ceil(math.log2(max(size.units, 2))) + MORE_SETS
    most = sets * (size.confirm + size.further) + held + size.holdout
    if size.compares and settings.signal != "metric":
        tried = rerank.SIGNAL_SAMPLES * min(rerank.CONTENDERS, size.units)
        least, most = least + tried, most + tried * min(rerank.MOST, size.units)
    if not settings.no_recalibrate:
        most += min(ranges.WORST, size.units) * (size.rank + _ranges_of_a_unit(size))
    return Amount(Need(least, FITTED_S[0]), Need(most, FITTED_S[1]))


def _ranges_of_a_unit(size: Size) -> int:
    """Samples for finding other ranges of its weights and of its activations."""
    return 2 * METHODS * (ranges.SIGNAL_SAMPLES if size.compares else size.rank)


def _export(size: Size) -> Amount:
    of_a_split = METRIC_BATCHES * size.batch
    judged = min(of_a_split, size.confirm) + min(of_a_split, size.holdout)
    judged = min(judged, max(METRIC_SAMPLES, size.batch))
    least, most = FILES
    return Amount(Need(least * judged / FASTER, TRACED_S[0]), Need(most * judged, TRACED_S[1]))


def _bench(size: Size, settings: RunSettings) -> Amount:
    """Files take turns on one sample; then their metric is measured, where that is soon done."""
    rounds = WARMUP_ROUNDS + settings.rounds
    judging = 0 if settings.no_accuracy else AFFORDABLE_S
    return Amount(
        Need(FILES[0] * rounds / FASTER, TRACED_S[0]),
        Need((FILES[0] + 1) * rounds, TRACED_S[0] + judging),
    )


def _fixed(least: float, most: float) -> Amount:
    return Amount(Need(0, least), Need(0, most))


def begin(
    progress: Progress,
    name: str,
    expected: Mapping[str, Amount] | None = None,
    steps: tuple[str, ...] = STEPS,
) -> None:
    """Tell of a step that begins, where `progress` wants to know. expected: see `amounts`; None
    where they are not known yet."""
    watcher: object = progress
    if not isinstance(watcher, WithSteps):
        return
    at = steps.index(name)
    if expected is None:
        watcher.begin(Step(name, at + 1, len(steps)))
        return
    later = [expected[each].middle for each in steps[at + 1 :]]
    together = Need(sum(one.samples for one in later), sum(one.seconds for one in later))
    watcher.begin(Step(name, at + 1, len(steps), expected[name].middle, together))
