"""Does a skip-set meet the target, as far as counted answers and float's own beliefs together
say?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sensitivity.measure.soft import SoftMeasurer
from sensitivity.measure.study import Study
from sensitivity.planners.base import Judged, Skip
from sensitivity.records import Estimate, Scores
from sensitivity.stats.proof import NORMAL_95, chance_below
from sensitivity.stats.soft_drop import Ratio, ratio_of, true_drop

LEAST = 0.1
"""Part of `confirm` on which a set is measured before it may be refused."""

HOPELESS = 0.05
"""Chance of meeting the target under which a set is refused before all of `confirm` was seen."""

OPEN = (0.3, 0.98)
"""Chances between which the soft drop of more samples is looked at, batch by batch: elsewhere the
answer stays, and the search goes on all the same."""

MORE_SAMPLES = 500
"""Of `rank` and of what has no labels, at most, for such a set."""

NOTHING = np.empty(0)


@dataclass(frozen=True)
class Lost:
    """Losses against float and soft drops of one set.

    counted, soft: float[n], both of the first n samples of `confirm`. further: losses counted on
    `rank`; more: soft drops of those samples first, then of some that have no labels. Both are
    empty where that was not looked at.
    """

    counted: Scores
    soft: Scores
    further: Scores
    more: Scores

    @property
    def every_counted(self) -> Scores:
        return np.concatenate([self.counted, self.further])

    @property
    def every_soft(self) -> Scores:
        """Of the samples of `every_counted` first, in their order."""
        return np.concatenate([self.soft, self.more])


UNSEEN = Lost(NOTHING, NOTHING, NOTHING, NOTHING)


@dataclass(frozen=True)
class Promise:
    """allowed: the largest drop that meets the target. confidence: the chance of that from which a
    set is taken. whole: measure every set on all of `confirm`."""

    allowed: float
    confidence: float
    whole: bool


class SoftJudge:
    """Judges sets by their true drop as `stats.soft_drop` knows it, each set with what all of them
    say of float's beliefs.

    float_scores: of all of `confirm`. A set is met where its drop is within what is allowed with
    the confidence asked for. Its metric is float's less that drop.
    """

    def __init__(self, study: Study, promise: Promise, float_scores: Scores) -> None:
        self._study, self._promise, self._float = study, promise, float_scores
        self._measurer = SoftMeasurer(study)
        self._lost: dict[frozenset[str], Lost] = {}

    def __call__(self, skip: Skip) -> Judged:
        start, whole = float(self._float.mean()), len(self._float)
        if self._is_float(skip):
            return Judged(start, self._promise.allowed >= 0, whole)
        for lost in self._looks(skip):
            self._lost[frozenset(skip)] = lost
            drop, part = self.drop(skip), len(lost.counted) / whole
            early = LEAST <= part < 1 and not self._promise.whole
            if early and self._chance(drop) < HOPELESS:
                return Judged(start - drop.value, False, drop.n, _error(drop), part)
        self._look_further(skip)
        drop = self.drop(skip)
        return Judged(start - drop.value, self.meets(skip), whole, doubt=_error(drop))

    def meets(self, skip: Skip) -> bool:
        """Return whether a set that was judged meets the target, by all that is known now."""
        return self._chance(self.drop(skip)) >= self._promise.confidence

    def drop(self, skip: Skip) -> Estimate:
        """Return the true drop of a set that was judged, without `holdout`."""
        lost = self._lost[frozenset(skip)]
        return true_drop(
            lost.every_counted, lost.every_soft, self.ratio, full_scale=self._full_scale
        )

    def known(self, skip: Skip) -> Estimate | None:
        """Return the same; None for a set that was not judged, or not on all of `confirm`, and for
        float, which loses nothing."""
        lost = self._lost.get(frozenset(skip))
        if lost is None or len(lost.counted) < len(self._float):
            return None
        return self.drop(skip)

    def with_holdout(self, skip: Skip, float_scores: Scores) -> Estimate | None:
        """Return the true drop from all labels, those of `holdout` too, on which the set is
        measured for it. float_scores: of `holdout`. None for float itself."""
        if self._is_float(skip):
            return None
        if self.known(skip) is None:
            self(skip)
        self._look_further(skip, whole=True)
        lost = self._lost[frozenset(skip)]
        variant = self._study.skip_variant(skip)
        scores, soft = self._measurer.values(variant, "holdout", "plan: holdout")
        counted = np.concatenate([lost.every_counted, float_scores - scores])
        softs = np.concatenate([lost.every_soft, soft])
        return true_drop(counted, softs, self.ratio, full_scale=self._full_scale)

    @property
    def ratio(self) -> Ratio:
        """What all sets judged so far say of float's beliefs."""
        sets = [*self._own_ranges, *self._lost.values()]
        counted = [lost.every_counted for lost in sets]
        soft = [lost.every_soft[: len(lost.every_counted)] for lost in sets]
        return ratio_of(counted, soft)

    @cached_property
    def _own_ranges(self) -> list[Lost]:
        """Everything in INT8 with the ranges that the model came with, as far as it was measured,
        where others are in force: it loses most, and so says most of the ratio."""
        measurer = self._study.measurer
        if not measurer.ranges:
            return []
        with measurer.with_ranges(()):
            scores, soft = self._measurer.known(self._study.baselines["quantized"], "confirm")
        counted = self._float[: len(scores)] - scores
        return [Lost(counted, soft, NOTHING, NOTHING)] if len(scores) else []

    @property
    def _full_scale(self) -> float:
        return self._study.measurer.task.full_scale

    def _chance(self, drop: Estimate) -> float:
        chance = chance_below(drop, self._promise.allowed)
        assert chance is not None, "a true drop has an interval"
        return chance

    def _is_float(self, skip: Skip) -> bool:
        return self._study.skip_variant(skip).disabled == self._study.float_variant.disabled

    def _looks(self, skip: Skip) -> Iterable[Lost]:
        """Return what is known of a set after each batch of `confirm`."""
        found = replace(self._lost.get(frozenset(skip), UNSEEN), counted=NOTHING, soft=NOTHING)
        variant = self._study.skip_variant(skip)
        for scores, moved in self._measurer.stream(
            variant, "confirm", f"plan: {len(skip)} units skipped"
        ):
            seen = len(found.counted)
            lost = self._float[seen : seen + len(scores)] - scores
            found = replace(
                found,
                counted=np.concatenate([found.counted, lost]),
                soft=np.concatenate([found.soft, moved]),
            )
            yield found

    def _look_further(self, skip: Skip, *, whole: bool = False) -> None:
        """Add what the set loses on `rank`, and the soft drops of samples without labels, as long
        as the answer is open. whole: in any case."""
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
        """Yield the losses and soft drops of each batch of `rank`, then of what has no labels,
        where there are no losses."""
        task, variant = self._study.measurer.task, self._study.skip_variant(skip)
        for split in ("rank", "unlabeled"):
            if split not in task.data:
                continue
            seen = 0
            for scores, soft in self._measurer.stream(
                variant, split, f"plan: soft drop on {split}"
            ):
                yield self._float_on_rank[seen : seen + len(scores)] - scores, soft
                seen += len(scores)

    @cached_property
    def _float_on_rank(self) -> Scores:
        measurer = self._study.measurer
        (scores,) = measurer.scores([self._study.float_variant], "rank", "plan: float on rank")
        return scores


def _error(drop: Estimate) -> float:
    _, above = drop.sides
    return above / NORMAL_95
