"""Does a skip-set meet the target, as far as counted answers and float's own beliefs together
say?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
"""Chances between which the soft drop of more samples is looked at: elsewhere the answer stays, and
the search goes on all the same."""

MORE_SAMPLES = 500
"""Of `rank` and of what has no labels, at most, for the soft drop of such a set."""


@dataclass(frozen=True)
class Lost:
    """counted, soft: float[n], losses and soft drops of one set on the first n samples of
    `confirm`. more: soft drops of other samples."""

    counted: Scores
    soft: Scores
    more: Scores


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
        if OPEN[0] < self._chance(self.drop(skip)) < OPEN[1]:
            self._look_further(skip)
        drop = self.drop(skip)
        return Judged(start - drop.value, self.meets(skip), whole, doubt=_error(drop))

    def meets(self, skip: Skip) -> bool:
        """Whether a set that was judged meets the target, by all that is known now."""
        return self._chance(self.drop(skip)) >= self._promise.confidence

    def drop(self, skip: Skip) -> Estimate:
        """The true drop of a set that was judged, without `holdout`."""
        lost = self._lost[frozenset(skip)]
        soft = np.concatenate([lost.soft, lost.more])
        return true_drop(lost.counted, soft, self.ratio, full_scale=self._full_scale)

    def known(self, skip: Skip) -> Estimate | None:
        """The same; None for a set that was not judged, or not on all of `confirm`, and for float,
        which loses nothing."""
        lost = self._lost.get(frozenset(skip))
        if lost is None or len(lost.counted) < len(self._float):
            return None
        return self.drop(skip)

    def with_holdout(self, skip: Skip, float_scores: Scores) -> Estimate | None:
        """The true drop from `confirm` and `holdout`, which is measured for it. float_scores: of
        `holdout`. None for float itself."""
        if self._is_float(skip):
            return None
        if self.known(skip) is None:
            self(skip)
        if not len(self._lost[frozenset(skip)].more):
            self._look_further(skip)
        lost = self._lost[frozenset(skip)]
        variant = self._study.skip_variant(skip)
        scores, soft = self._measurer.values(variant, "holdout", "plan: holdout")
        counted = np.concatenate([lost.counted, float_scores - scores])
        softs = np.concatenate([lost.soft, soft, lost.more])
        return true_drop(counted, softs, self.ratio, full_scale=self._full_scale)

    @property
    def ratio(self) -> Ratio:
        """What all sets judged so far say of float's beliefs."""
        sets = self._lost.values()
        return ratio_of([lost.counted for lost in sets], [lost.soft for lost in sets])

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
        """What is known of a set after each batch of `confirm`."""
        counted, soft = np.empty(0), np.empty(0)
        more = self._lost.get(frozenset(skip), Lost(counted, soft, np.empty(0))).more
        variant = self._study.skip_variant(skip)
        for scores, moved in self._measurer.stream(
            variant, "confirm", f"plan: {len(skip)} units skipped"
        ):
            float_scores = self._float[len(counted) : len(counted) + len(scores)]
            counted = np.concatenate([counted, float_scores - scores])
            soft = np.concatenate([soft, moved])
            yield Lost(counted, soft, more)

    def _look_further(self, skip: Skip) -> None:
        """Add the soft drops of samples that count no answers here."""
        lost, variant = self._lost[frozenset(skip)], self._study.skip_variant(skip)
        more = list[Scores]()
        for split in ("unlabeled", "rank"):
            if split not in self._study.measurer.task.data:
                continue
            for _, moved in self._measurer.stream(variant, split, f"plan: soft drop on {split}"):
                if sum(map(len, more)) >= MORE_SAMPLES:
                    break
                more.append(moved)
        self._lost[frozenset(skip)] = Lost(lost.counted, lost.soft, np.concatenate(more))


def _error(drop: Estimate) -> float:
    assert drop.high is not None, "a true drop has an interval"
    return (drop.high - drop.value) / NORMAL_95
