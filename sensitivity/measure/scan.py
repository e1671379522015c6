"""The scan: baselines and every unit in turn, measured on the `rank` split."""

from __future__ import annotations

from dataclasses import dataclass, field

from sensitivity.measure.ranking import estimate, rank_effects
from sensitivity.measure.reader import Reader
from sensitivity.measure.study import Study
from sensitivity.measure.variants import BASE_OF
from sensitivity.records import Effect, Estimate, Mode

COLLAPSED = 0.1
"""Fraction of float's metric below which the outputs of the fully quantized model are noise."""


def has_collapsed(float_metric: float, quantized: float) -> bool:
    """Return whether the outputs of the quantized model are noise.

    A negative metric, such as -loss, has collapsed if it is ten times float's.

    >>> has_collapsed(0.8, 0.05), has_collapsed(-0.1, -0.2), has_collapsed(-0.1, -2.0)
    (True, False, True)
    """
    return quantized < (COLLAPSED * float_metric if float_metric >= 0 else float_metric / COLLAPSED)


@dataclass(frozen=True)
class Scan:
    """Ranked effects of all units, and the baselines on the same samples.

    mode: which variant of each unit was measured.
    baselines: estimates by name (see `variants.BASELINES`).
    effects: one for each unit, largest first.
    signal: unit -> distortion, in ranking order, if the scan was a race; empty if every unit was
        measured on the whole split.
    sharing: accuracy, with everything in INT8, that is lost because some quantizers share one
        range; None if no range changed.
    """

    mode: Mode
    baselines: dict[str, Estimate]
    effects: tuple[Effect, ...]
    signal: dict[str, float] = field(default_factory=dict)
    sharing: Estimate | None = None

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Units that the metric cannot see."""
        return tuple(effect.unit for effect in self.effects if not effect.judged)

    @property
    def collapsed(self) -> bool:
        """Whether the fully quantized model is so bad that leaving out one unit shows nothing."""
        return has_collapsed(self.baselines["float"].value, self.baselines["quantized"].value)


def scan(study: Study, mode: Mode) -> Scan:
    """Measure baselines and units on all of `rank` and rank the units by effect."""
    measurer, base = study.measurer, study.baselines
    variants = [*base.values(), *(study.unit_variant(unit, mode) for unit in study.units)]
    measured = measurer.scores(variants, "rank", f"scan: {len(study.units)} units")
    by_name = dict(zip(base, measured, strict=False))
    reference = by_name[BASE_OF[mode]]
    measurer.aggregate(reference)  # names a broken aggregate before the statistics call it
    aggregate = measurer.task.aggregate
    return Scan(
        mode=mode,
        baselines={name: estimate(scores, aggregate) for name, scores in by_name.items()},
        effects=rank_effects(study.units, measured[len(base) :], reference, aggregate, mode),
    )


def usual_mode(study: Study) -> Mode:
    """Return the mode that shows differences: `enable` if everything in INT8 has collapsed on the
    first batch of `rank`, otherwise `disable`."""
    measurer = study.measurer
    variants = [study.baselines["float"], study.baselines["quantized"]]
    with measurer.progress("scan: has INT8 collapsed", len(variants)) as advance:
        first = measurer.batch(variants, "rank", 0, Reader(measurer.task, "rank"), advance)
    float_metric, quantized = (measurer.aggregate(scores) for scores in first)
    return "enable" if has_collapsed(float_metric, quantized) else "disable"
