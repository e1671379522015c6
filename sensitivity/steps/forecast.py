"""Forecast of what the steps of a run take: samples to forward, and seconds for everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sensitivity.config import RunSettings, ScanSettings, target_of
from sensitivity.measure.progress import Need, Progress, Step, WithSteps
from sensitivity.measure.raced import (
    CONTENDERS,
    COSTLY_RACE,
    COSTLY_SAMPLES,
    EXACT_UP_TO,
    RACE_SAMPLES,
    SIGNAL_SAMPLES,
)
from sensitivity.measure.scan import Scan
from sensitivity.repairs.training import BATCH, FORWARDS_PER_STEP, is_tunable
from sensitivity.repairs.tuning import BUDGET_S, Limits
from sensitivity.search import ranges, rerank
from sensitivity.search.part import PLANNER, first_part
from sensitivity.search.soft_judge import MORE_SAMPLES
from sensitivity.session import Session
from sensitivity.signals.soft import has_soft_drop
from sensitivity.steps.bench import AFFORDABLE_S, USUAL_ROUNDS, WARMUP_ROUNDS
from sensitivity.steps.export import EXAMPLE_SAMPLES, METRIC_BATCHES, metric_samples
from sensitivity.tasks.batches import batch_size

STEPS = ("check", "scan", "plan", "export", "bench", "report")
WITHOUT_FILES = ("check", "scan", "plan", "report")
"""Steps of a run whose model cannot be exported."""
CHECKING = ("open", "check")
"""Steps of a check alone."""

MORE_SETS = 4
"""Sets that a planner judges in addition to those of a bisection."""
METHODS = 3
"""Approximate number of other ranges tried for a quantizer."""
FILES = (3, 9)
"""Smallest and largest number of files that are verified: three canonical ones, plus lowered
ones."""
FASTER = 2
"""Largest speed-up of a runtime over the simulation. Files are verified with the optimizations of
ONNX Runtime off."""
RUNS_OF_A_FILE = 3
"""Forwards of the example batch for a file: of the model, of the file, and of both anew where
roundings turn over."""
REPAIR_FORWARDS = 12
"""How often a repaired plan forwards as many samples as `rank` has: to try repairs, and to fit them
on calibration inputs, by the user's own modules."""
DROPPED_FORWARDS = 4
"""The same if the outputs of a collapsed model stay noise, so that repairs are dropped at once."""
SHARED = 4
"""How many times as long whole forwards would take as the forwards of other ranges, which share
most of their computation."""
DRAWN_S = (0.5, 5.0)
"""Seconds to draw a report."""


@dataclass(frozen=True)
class Overhead:
    """Seconds that a step takes besides its forwards, at least and at most.

    least, most: (seconds for any model, seconds for each unit in addition).
    """

    least: tuple[float, float]
    most: tuple[float, float]

    def of(self, units: int) -> tuple[float, float]:
        """Return the seconds for a model of this many units, at least and at most."""
        (least, each), (most, each_at_most) = self.least, self.most
        return least + units * each, most + units * each_at_most


TRACED_S = Overhead((0.5, 0.03), (1.0, 0.25))
"""To trace a model, or to load files and read their profiles."""
EXPORTED_S = Overhead((1.0, 0.1), (2.0, 0.5))
"""To write files and to check their layers."""
FITTED_S = Overhead((0.2, 0.02), (1.0, 0.2))
"""To solve for the rounding of weights, and to draw conclusions."""


@dataclass(frozen=True)
class Amount:
    """What a step takes, at least and at most."""

    least: Need
    most: Need

    @property
    def middle(self) -> Need:
        """Geometric mean of the two."""
        return Need(
            math.sqrt(self.least.samples * self.most.samples),
            math.sqrt(self.least.seconds * self.most.seconds),
        )


@dataclass(frozen=True)
class Size:
    """The sizes that the amounts follow from.

    units: number of units.
    rank, confirm, holdout: number of samples in the split.
    batch: number of samples in a batch.
    compares: whether outputs of samples can be compared, not only whole evaluations.
    further: samples in addition to `confirm` on which a set near the target is measured.
    part: samples of `confirm` that a search begins with; None for all.
    misses: whether everything in INT8 misses the target, so that other ranges and repairs are
        tried; None if not known yet.
    collapsed: whether everything in INT8 is known to have collapsed. Culprits are searched for
        then, and repairs are tried on all units together.
    sample_s: seconds of the forward of a sample; None if not known.
    affordable: number of samples up to which every unit is measured on the whole split.
    is_tunable: whether the model can be fine-tuned.
    """

    units: int
    rank: int
    confirm: int
    holdout: int
    batch: int
    compares: bool = True
    further: int = 0
    misses: bool | None = None
    collapsed: bool = False
    part: int | None = None
    sample_s: float | None = None
    affordable: int = EXACT_UP_TO
    is_tunable: bool = False

    @property
    def has_large_samples(self) -> bool:
        """Whether fewer samples are affordable because each holds many values."""
        return self.affordable < EXACT_UP_TO


def int8_misses(scanned: Scan, settings: RunSettings, full_scale: float) -> bool:
    """Return whether everything in INT8 misses the target on the samples of the scan."""
    target = target_of(settings, full_scale)
    return scanned.baselines["quantized"].value < target.floor(scanned.baselines["float"].value)


def size_of(session: Session) -> Size:
    """Return the size of a session's job. All batches are taken to be as large as the first one of
    `rank`."""
    batch = batch_size(session.example) if session.has_samples else 1
    data = session.task.data
    rank, confirm, holdout = (len(data[name]) * batch for name in ("rank", "confirm", "holdout"))
    further = min(rank, MORE_SAMPLES) if has_soft_drop(session.task) else 0
    batches = first_part(session.task).batches
    return Size(
        len(session.units),
        rank,
        confirm,
        holdout,
        batch,
        session.has_samples,
        further,
        part=None if batches is None else batches * batch,
        affordable=session.affordable,
        is_tunable=is_tunable(session.source) and session.has_samples,
    )


def amounts(size: Size, exact: int, settings: RunSettings | ScanSettings) -> dict[str, Amount]:
    """Return step -> what it takes. Settings of a scan give only the scan.

    exact: samples of a scan that measures every unit on the whole split.
    """
    needs = {"scan": _scan(size, exact, settings)}
    if isinstance(settings, RunSettings):
        needs["plan"] = _plan(size, settings, raced=exact > size.affordable)
        needs["export"] = _export(size, judged_later=not settings.no_accuracy)
        needs["bench"] = _bench(size, settings)
        needs["report"] = _fixed(*DRAWN_S)
    return needs


def _scan(size: Size, exact: int, settings: RunSettings | ScanSettings) -> Amount:
    wants_exact = settings.exact or settings.signal == "metric"
    has_budget = settings.samples is not None or settings.time_budget is not None
    if wants_exact or (not has_budget and exact <= size.affordable):
        return Amount(Need(exact), Need(exact))
    each, usual = SIGNAL_SAMPLES, RACE_SAMPLES
    if size.has_large_samples:
        each, usual = COSTLY_SAMPLES, COSTLY_RACE
    signal = each * (size.units + 1)
    first = min(CONTENDERS, size.units) * size.batch
    raced = max(first, settings.samples or usual)
    return Amount(Need(signal + first), Need(signal + raced))


def _plan(size: Size, settings: RunSettings, *, raced: bool) -> Amount:
    """Return what a plan takes.

    At least: everything in INT8 meets the target, unless it is known to miss it. At most: a
    bisection, with units ranked again and other ranges tried.

    raced: whether the scan is a race because exact scans are not affordable.
    """
    held = 2 * size.holdout
    if size.collapsed and size.compares:
        return _plan_after_collapse(size, settings)
    is_part = settings.planner == PLANNER and not settings.exact
    part = (size.part if is_part else None) or size.confirm
    least = 2 * part + held
    sets = 2 + math.ceil(math.log2(max(size.units, 2))) + MORE_SETS
    most = sets * (size.confirm + size.further) + held + size.holdout
    if size.compares and settings.signal != "metric":
        tried = rerank.SIGNAL_SAMPLES * min(rerank.CONTENDERS, size.units)
        most += tried * min(rerank.MOST, size.units)
        if size.misses:  # otherwise nothing may have to be ranked
            least += tried
    fitted_least, fitted_most = FITTED_S.of(size.units)
    if not settings.no_recalibrate and size.misses is not False:
        fewest, all_tried = _other_ranges(size, raced=raced)
        most += all_tried
        if size.misses:
            repaired = REPAIR_FORWARDS * size.rank if size.compares else 0
            least += fewest + repaired
            fitted_least = fitted_most / 4
        tuned = _tuning(size, settings)
        most += tuned
        least += tuned if settings.fine_tune == "always" else 0
    return Amount(Need(least, fitted_least), Need(most, fitted_most))


def _plan_after_collapse(size: Size, settings: RunSettings) -> Amount:
    """Return what a plan takes if everything in INT8 has collapsed. At least: the first sets, which
    miss by far, are seen to on few samples. At most: a bisection of all units follows."""
    each, held = size.confirm + size.further, 2 * size.holdout
    dropped, repaired = DROPPED_FORWARDS * size.rank, REPAIR_FORWARDS * size.rank
    if settings.no_recalibrate:
        dropped = repaired = 0
    most = (MORE_SETS + math.ceil(math.log2(max(size.units, 2)))) * each
    ordered, tuned = rerank.SIGNAL_SAMPLES * rerank.CONTENDERS, _tuning(size, settings)
    sure = held + dropped + (tuned if settings.fine_tune == "always" else 0)
    fitted_least, fitted_most = FITTED_S.of(size.units)
    return Amount(
        Need(MORE_SETS * each + sure, fitted_least),
        Need(most + held + size.holdout + repaired + ordered + tuned, fitted_most),
    )


def _tuning(size: Size, settings: RunSettings) -> int:
    """Return as how many samples fine-tuning counts; 0 if it is not tried."""
    if not size.is_tunable or settings.fine_tune == "never":
        return 0
    samples = FORWARDS_PER_STEP * Limits().steps * BATCH
    is_affordable = size.sample_s is not None and samples * size.sample_s <= BUDGET_S
    return samples if is_affordable or settings.fine_tune == "always" else 0


def _other_ranges(size: Size, *, raced: bool) -> tuple[int, int]:
    """Return the samples for finding other ranges and judging them, at least and at most.

    raced: as for `_plan`.
    """
    is_costly = raced and size.has_large_samples
    units = min(ranges.COSTLY_UNITS if is_costly else ranges.WORST_UNITS, size.units)
    of_units = units * _ranges_of_a_unit(size)
    return of_units // SHARED, of_units + units * size.rank


def _ranges_of_a_unit(size: Size) -> int:
    """Return the samples for finding other ranges of a unit's weights and activations."""
    return 2 * METHODS * (ranges.SIGNAL_SAMPLES if size.compares else size.rank)


def _export(size: Size, *, judged_later: bool) -> Amount:
    wanted = metric_samples(judged_later=judged_later, large=size.has_large_samples)
    of_a_split = METRIC_BATCHES * size.batch
    judged = min(of_a_split, size.confirm) + min(of_a_split, size.holdout)
    judged = min(judged, max(wanted, size.batch))
    least, most = FILES
    fewest_s, most_s = EXPORTED_S.of(size.units)
    example = RUNS_OF_A_FILE * min(size.batch, EXAMPLE_SAMPLES)
    return Amount(
        Need(least * (judged / FASTER + example), fewest_s),
        Need(most * (judged + example), most_s),
    )


def _bench(size: Size, settings: RunSettings) -> Amount:
    """Return what a bench takes: files take turns on one sample, and then their metric is measured
    if that is quick."""
    rounds = WARMUP_ROUNDS + (settings.rounds or USUAL_ROUNDS)
    least, most = TRACED_S.of(size.units)
    if not settings.no_accuracy:
        least, most = least + 1, most + AFFORDABLE_S
    return Amount(
        Need(FILES[0] * rounds / FASTER, least), Need(FASTER * (FILES[0] + 1) * rounds, most)
    )


def _fixed(least: float, most: float) -> Amount:
    return Amount(Need(0, least), Need(0, most))


def begin(
    progress: Progress,
    name: str,
    expected: Mapping[str, Amount] | None = None,
    steps: tuple[str, ...] = STEPS,
) -> None:
    """Tell `progress` that a step begins, if it wants to know.

    expected: see `amounts`; None if not known yet.
    """
    watcher: object = progress
    if not isinstance(watcher, WithSteps):
        return
    at = steps.index(name)
    if expected is None:
        watcher.begin(Step(name, at + 1, len(steps)))
        return
    later = [expected[step].middle for step in steps[at + 1 :]]
    together = Need(sum(need.samples for need in later), sum(need.seconds for need in later))
    watcher.begin(Step(name, at + 1, len(steps), expected[name].middle, together))
