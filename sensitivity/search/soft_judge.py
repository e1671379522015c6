"""Judge of skip-sets that combines counted answers with float's own beliefs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat

import numpy as np
from scipy.special import ndtr, ndtri

from sensitivity.measure.ranking import losses
from sensitivity.measure.soft import Pair, SoftMeasurer
from sensitivity.measure.study import Study
from sensitivity.planners.base import Judged, Skip
from sensitivity.records import Estimate, Scores, TrueDrop
from sensitivity.stats.proof import NORMAL_95, chance_below
from sensitivity.stats.soft_drop import Belief, line_of, true_drop
from sensitivity.stats.soft_ratio import Ratio, ratio_of
from sensitivity.tasks.base import mean

FIRST_LOOK = 16
"""Number of samples after which a set is looked at first if the metric is no mean."""

LEAST = 0.1
"""Fraction of `confirm` that is measured before a set may be refused."""

HOPELESS = 0.05
"""Probability of meeting the target below which a set is refused before all of `confirm` was
seen."""

CLEAR = 0.95
"""Probability of meeting the target above which a set is taken before all of a part of `confirm`
was measured."""

FUTILE = 0.1
"""Probability that the whole part of `confirm` takes a set, below which it is refused before all of
the part was measured. A wrong refusal costs a unit more (`docs/statistics.md`)."""

OPEN = (0.3, 0.98)
"""Probabilities of meeting the target between which more samples are measured, batch by batch.
Outside them the answer is unlikely to change, and the search goes on."""

COLLAPSED = 0.5
"""Fraction of float's metric above which a soft drop says nothing about small ones."""

ALL_LOST = Ratio(1.0)
"""What such a soft drop is worth: where nothing is found any more, all of it is really lost, and
less than half of a small one."""

MORE_SAMPLES = 500
"""Number of samples of `rank` and of unlabelled data that are measured for such a set, at most."""

NOTHING = np.empty(0)

Batch = tuple[Scores, Scores, Scores]
"""Float's scores, a variant's scores and its soft drops or records of the same samples."""


@dataclass(frozen=True)
class Lost:
    """Losses against float and soft drops of one set.

    counted: float[n], losses of the first n samples of `confirm`.
    soft: float[n], soft drops of the same samples.
    further: losses counted on `rank`; empty if `rank` was not measured.
    more: soft drops of the samples of `further` first, then of unlabelled samples; empty if neither
        was measured.
    """

    counted: Scores
    soft: Scores
    further: Scores
    more: Scores

    @property
    def every_counted(self) -> Scores:
        """All counted losses: of `confirm` first, then of `rank`."""
        return np.concatenate([self.counted, self.further])

    @property
    def every_soft(self) -> Scores:
        """All soft drops: of the samples of `every_counted` first, in their order."""
        return np.concatenate([self.soft, self.more])

    @property
    def parts(self) -> tuple[str, ...]:
        """Splits whose labels are counted."""
        return ("rank", "confirm") if len(self.further) else ("confirm",)


UNSEEN = Lost(NOTHING, NOTHING, NOTHING, NOTHING)


@dataclass(frozen=True)
class Promise:
    """What a set has to hold to be taken.

    allowed: largest drop that meets the target.
    confidence: smallest probability of meeting the target with which a set is taken.
    whole: whether to measure every set on all of `confirm` that is in use.
    part: whether only a part of `confirm` is in use. Sets are then measured until their answer is
        clear, and on no other split, since `confirm` has more samples.
    """

    allowed: float
    confidence: float
    whole: bool
    part: bool = False

    def answer(self, drop: Estimate, moves: float) -> bool | None:
        """Return whether a set is taken before all of `confirm` that is in use was measured; None
        if the answer is not clear yet.

        drop: true drop by what was measured so far.
        moves: standard deviation by which it changes until all was measured.
        """
        if self.whole:
            return None
        chance = _chance(drop, self.allowed)
        if not self.part:
            return False if chance < HOPELESS else None
        if chance > max(CLEAR, self.confidence):
            return True
        return False if self._taken_later(drop, moves) < FUTILE else None

    def _taken_later(self, drop: Estimate, moves: float) -> float:
        """Return the probability that a set is taken once all was measured."""
        later = math.sqrt(max(_error(drop) ** 2 - moves**2, 0.0))
        room = self.allowed - drop.value - self.deviations * later
        return float(ndtr(room / moves))

    @property
    def deviations(self) -> float:
        """Standard errors by which a drop has to be under the allowed one."""
        return float(ndtri(self.confidence))


class SoftJudge:
    """Judge of sets by their true drop (`stats.soft_drop`), in which all sets tell how far float's
    beliefs can be trusted.

    A set is met if its drop is within the allowed drop with the confidence asked for. Its metric is
    float's metric minus that drop.
    """

    def __init__(self, study: Study, promise: Promise, float_scores: Scores) -> None:
        """Set the target.

        promise: what a set has to hold.
        float_scores: scores of the float model on all of `confirm`.
        """
        self._study, self._promise, self._float = study, promise, float_scores
        self._start = study.measurer.aggregate(float_scores)
        self._measurer = SoftMeasurer(study)
        self._lost: dict[frozenset[str], Lost] = {}

    def __call__(self, skip: Skip) -> Judged:
        start, whole = self._start, len(self._float)
        if self._is_float(skip):
            return Judged(start, self._promise.allowed >= 0, whole)
        for lost in self._looks(skip):
            self._lost[frozenset(skip)] = lost
            drop, part = self.drop(skip), len(lost.counted) / whole
            if not LEAST <= part < 1:
                continue
            answer = self._promise.answer(drop, self._moves(lost, 1 - part))
            if answer is not None:
                return self._judged(drop, answer, part)
        self._look_further(skip)
        return self._judged(self.drop(skip), self.meets(skip), 1.0)

    def _moves(self, lost: Lost, left: float) -> float:
        """Return the standard deviation by which a drop changes until all of `confirm` that is in
        use was measured.

        left: fraction that was not measured yet.
        """
        error = self.line.error(lost.soft / self._full_scale)
        return self._full_scale * error * math.sqrt(left)

    def _judged(self, drop: TrueDrop, met: bool, part: float) -> Judged:
        error = _error(drop)
        is_whole = part == 1
        return Judged(
            self._start - drop.value,
            met,
            len(self._float) if is_whole else drop.n,
            0.0 if is_whole else error,
            part,
            error if is_whole else 0.0,
            self._promise.deviations * error,
        )

    def meets(self, skip: Skip) -> bool:
        """Return whether a set that was judged meets the target, by all that is known now."""
        return self._chance(self.drop(skip)) >= self._promise.confidence

    def drop(self, skip: Skip) -> TrueDrop:
        """Return the true drop of a set that was judged, without `holdout`."""
        lost = self._lost[frozenset(skip)]
        return self._drop(lost.every_counted, lost.every_soft, lost.parts)

    def _drop(self, counted: Scores, soft: Scores, parts: tuple[str, ...]) -> TrueDrop:
        line = ALL_LOST if self._has_collapsed(soft) else self.line
        found = true_drop(counted, soft, line, full_scale=self._full_scale)
        return TrueDrop(found.value, found.low, found.high, found.n, parts)

    def known(self, skip: Skip) -> TrueDrop | None:
        """Return the true drop of a set without `holdout`, or None if it is not known.

        It is not known for a set that was not judged on all of `confirm`, nor for float, which
        loses nothing.
        """
        lost = self._lost.get(frozenset(skip))
        if lost is None or len(lost.counted) < len(self._float):
            return None
        return self.drop(skip)

    def with_holdout(self, skip: Skip) -> TrueDrop | None:
        """Return the true drop of a set from all labels, those of `holdout` too; None for float
        itself.

        The set is measured on `holdout` for it, and so is float.
        """
        if self._is_float(skip):
            return None
        if self.known(skip) is None:
            *_, self._lost[frozenset(skip)] = self._looks(skip)
        self._look_further(skip, whole=True)
        lost = self._lost[frozenset(skip)]
        variant = self._study.skip_variant(skip)
        (float_scores,) = self._study.measurer.scores(
            [self._study.float_variant], "holdout", "plan: float on holdout"
        )
        scores, soft = self._measurer.values(variant, "holdout", "plan: holdout")
        counted = np.concatenate([lost.every_counted, self._losses(float_scores, scores)])
        softs = np.concatenate([lost.every_soft, soft])
        return self._drop(counted, softs, (*lost.parts, "holdout"))

    @property
    def line(self) -> Belief:
        """What soft drops are worth, from float's close answers and all sets judged so far. If the
        metric is no mean, sets with which the model has collapsed do not count."""
        sets = [*self._ties, *self._own_ranges, *self._lost.values()]
        sets = [lost for lost in sets if not self._has_collapsed(lost.every_soft)]
        counted = [lost.every_counted for lost in sets]
        soft = [lost.every_soft[: len(lost.every_counted)] for lost in sets]
        if self._is_mean:
            return line_of(counted, soft, full_scale=self._full_scale)
        scale = self._full_scale
        return ratio_of([lost / scale for lost in counted], [moved / scale for moved in soft])

    def _has_collapsed(self, soft: Scores) -> bool:
        """Return whether a set with these soft drops finds hardly anything, for a metric that is no
        mean."""
        return not self._is_mean and float(soft.mean()) > COLLAPSED * self._start

    @property
    def _is_mean(self) -> bool:
        return self._study.measurer.task.aggregate is mean

    def _losses(self, float_scores: Scores, scores: Scores) -> Scores:
        """Return what each sample loses, float[n]."""
        return losses(float_scores, scores, self._study.measurer.task.aggregate)

    @cached_property
    def _ties(self) -> list[Lost]:
        """What float's second best answers lose where they are close; empty if the task does not
        tell.

        They are the answers that variants change, and no variant has to be measured for them.
        """
        counted, soft = self._measurer.ties()
        return [Lost(counted, soft, NOTHING, NOTHING)] if len(counted) else []

    @cached_property
    def _own_ranges(self) -> list[Lost]:
        """Losses of the model with everything in INT8 and its original ranges, as far as they were
        measured; empty if no other ranges are in force.

        This variant loses most, so it says most about the slope of the line.
        """
        measurer = self._study.measurer
        if not measurer.ranges:
            return []
        with measurer.with_ranges(()):
            scores, soft = self._measurer.known(self._study.baselines["quantized"], "confirm")
        if not len(scores):
            return []
        counted = self._losses(self._float[: len(scores)], scores)
        return [Lost(counted, soft, NOTHING, NOTHING)]

    @property
    def _full_scale(self) -> float:
        return self._study.measurer.task.full_scale

    def _chance(self, drop: Estimate) -> float:
        return _chance(drop, self._promise.allowed)

    def _is_float(self, skip: Skip) -> bool:
        return self._study.skip_variant(skip).disabled == self._study.float_variant.disabled

    def _looks(self, skip: Skip) -> Iterable[Lost]:
        """Yield what is known of a set after each batch of `confirm`. If the metric is no mean,
        this is only after FIRST_LOOK samples, each time their number has doubled, and at the
        end."""
        known = self._lost.get(frozenset(skip), UNSEEN)
        variant = self._study.skip_variant(skip)
        pairs, seen, look = list[Pair](), 0, 1 if self._is_mean else FIRST_LOOK
        for pair in self._measurer.stream(variant, "confirm", f"plan: {len(skip)} left out"):
            pairs.append(pair)
            seen += len(pair[1])
            if look <= seen < len(self._float):
                yield self._with_confirm(known, pairs)
                look = 1 if self._is_mean else 2 * seen
        yield self._with_confirm(known, pairs)

    def _with_confirm(self, known: Lost, pairs: Sequence[Pair]) -> Lost:
        """Return what is known of a set with these pairs of the first batches of `confirm`."""
        scores, soft = self._measurer.joined(pairs)
        return replace(known, counted=self._losses(self._float[: len(scores)], scores), soft=soft)

    def _look_further(self, skip: Skip, *, whole: bool = False) -> None:
        """Add the losses of the set on `rank`, and the soft drops of unlabelled samples, as long as
        the answer is open; add nothing if only a part of `confirm` is in use.

        whole: whether to go on if the answer is not open.
        """
        if self._promise.part:
            return
        lost = replace(self._lost[frozenset(skip)], further=NOTHING, more=NOTHING)
        batches = self._further(skip)
        while (whole or self._is_open(skip)) and len(lost.more) < MORE_SAMPLES:
            batch = next(batches, None)
            if batch is None:
                return
            counted, soft = batch
            lost = replace(
                lost,
                further=np.concatenate([lost.further, counted]),
                more=np.concatenate([lost.more, soft]),
            )
            self._lost[frozenset(skip)] = lost

    def _is_open(self, skip: Skip) -> bool:
        return OPEN[0] < self._chance(self.drop(skip)) < OPEN[1]

    def _further(self, skip: Skip) -> Iterator[tuple[Scores, Scores]]:
        """Yield the losses and soft drops of each batch of `rank`, then of each batch of unlabelled
        samples, which have no losses."""
        task, variant = self._study.measurer.task, self._study.skip_variant(skip)
        for split in ("rank", "unlabeled"):
            if split not in task.data:
                continue
            pairs = self._measurer.stream(variant, split, f"plan: soft drop on {split}")
            float_scores: Iterable[Sequence[Scores]] = repeat((NOTHING,))
            if split == "rank":
                float_ = [self._study.float_variant]
                float_scores = self._study.measurer.stream(float_, split, "plan: float on rank")
            # `repeat` never ends, so the two are of different lengths. Float comes first, since
            # its outputs are kept for the other.
            measured = ((base, *pair) for (base,), pair in zip(float_scores, pairs, strict=False))
            for part in self._parts(measured):
                float_part = np.concatenate([base for base, _, _ in part])
                scores, soft = self._measurer.joined((scores, moved) for _, scores, moved in part)
                counted = self._losses(float_part, scores) if len(scores) else NOTHING
                yield counted, soft

    def _parts(self, batches: Iterable[Batch]) -> Iterator[Sequence[Batch]]:
        """Yield the batches one by one. If the metric is no mean, yield all of them together, up to
        MORE_SAMPLES samples."""
        if self._is_mean:
            yield from ([batch] for batch in batches)
            return
        part, samples = list[Batch](), 0
        for batch in batches:
            part.append(batch)
            samples += len(batch[-1])
            if samples >= MORE_SAMPLES:
                break
        yield part


def _chance(drop: Estimate, allowed: float) -> float:
    chance = chance_below(drop, allowed)
    assert chance is not None, "a true drop has an interval"
    return chance


def _error(drop: Estimate) -> float:
    """Return the standard error of a true drop."""
    _, above = drop.sides
    return above / NORMAL_95
