"""Judges of skip-sets on `confirm`: they measure all of the split, or as much of it as the answer
takes."""

from __future__ import annotations

import numpy as np

from sensitivity.measure.raced import score_bound
from sensitivity.measure.ranking import gain
from sensitivity.measure.scan import Scan
from sensitivity.measure.study import Study
from sensitivity.planners.base import Judge, Judged
from sensitivity.records import Scores, Target
from sensitivity.search.soft_judge import Promise, SoftJudge
from sensitivity.signals.soft import has_soft_drop
from sensitivity.stats.sequential import is_at_least
from sensitivity.tasks.base import Task, mean

REJECT = 0.3
"""Largest probability of refusing a set that just meets the target (`docs/statistics.md`). It may
be large, because a wrong refusal only costs one unit more."""

LEAST = 0.1
"""Fraction of the split that is measured before a set may be refused, because the search goes on
from the measured loss."""

TOLD = 0.01
"""Least drop, as a fraction of the full scale, that the soft drop of a metric that is no mean can
tell from none. It takes sets of a detector that lose 0.2 to 0.5 points for 0.2 to 0.4 worse
(`docs/statistics.md`); for a smaller target it would leave out most layers."""

FIRST_LOOK = 16
"""Number of samples that are measured before a rough judge may refuse a set."""


def float_scores_of(study: Study) -> Scores:
    """Return the scores of the float model on all of `confirm` that is in use."""
    (scores,) = study.measurer.scores([study.float_variant], "confirm", "plan: float")
    return scores


def judge_of(study: Study, target: Target, float_scores: Scores, scanned: Scan) -> Judge:
    """Return the judge of skip-sets for a search.

    It judges by the true drop if the task says what float expects to lose (`told_from`), otherwise
    by the counted metric. After a raced scan, or on a part of `confirm`, it measures a set only
    until the answer is clear.

    float_scores: scores of the float model on all of `confirm` that is in use.
    """
    task = study.measurer.task
    start = study.measurer.aggregate(float_scores)
    floor, raced = target.floor(start), bool(scanned.signal)
    if can_tell(start - floor, told_from(task)):
        is_part = study.measurer.uses_part("confirm")
        whole = not raced and not is_part
        promise = Promise(start - floor, target.confidence, whole, is_part)
        return SoftJudge(study, promise, float_scores)
    if not raced:
        return SplitJudge(study, floor)
    if scanned.collapsed and score_bound(task, float_scores) is None:
        return RoughJudge(study, floor, float_scores)
    return SequentialJudge(study, floor, float_scores)


def can_tell(allowed: float, least: float | None) -> bool:
    """Return whether sets are judged by their true drop for a target that allows this drop.

    least: from `told_from`.
    """
    return least is not None and allowed >= least


def told_from(task: Task) -> float | None:
    """Return the least allowed drop for which sets are judged by their true drop, in the metric's
    unit; None if the task does not say what float expects to lose."""
    if not has_soft_drop(task):
        return None
    # A target of one point is not exactly one after a subtraction.
    return 0.0 if task.aggregate is mean else TOLD * task.full_scale * (1 - 1e-9)


class SplitJudge:
    """Judge that measures every skip-set on the whole split, exactly."""

    def __init__(self, study: Study, floor: float) -> None:
        self._study, self._floor = study, floor

    def __call__(self, skip: tuple[str, ...]) -> Judged:
        measurer, variant = self._study.measurer, self._study.skip_variant(skip)
        (scores,) = measurer.scores([variant], "confirm", f"plan: {len(skip)} left out")
        metric = measurer.aggregate(scores)
        return Judged(metric, metric >= self._floor, len(scores))


class SequentialJudge:
    """Judge that stops as soon as a skip-set clearly misses the target, and looks after every batch
    (`stats.sequential`).

    A set is only called met once it has been measured on all of the split, so a refusal may be
    wrong with a small probability, but a plan never is. If the scores of a metric have no known
    range, every set is measured on the whole split.
    """

    def __init__(self, study: Study, floor: float, float_scores: Scores) -> None:
        """Set the target.

        floor: metric to reach.
        float_scores: scores of the float model on all of `confirm`.
        """
        self._study = study
        self._float = float_scores
        self._allowed = floor - study.measurer.aggregate(float_scores)
        self._bound = score_bound(study.measurer.task, float_scores)
        self._whole = SplitJudge(study, floor)

    def __call__(self, skip: tuple[str, ...]) -> Judged:
        refused = self._refused(skip) if self._bound is not None else None
        return refused or self._whole(skip)

    def _refused(self, skip: tuple[str, ...]) -> Judged | None:
        """Return a refusal once it is clear; None if the whole split has to decide."""
        variant = self._study.skip_variant(skip)
        difference = np.empty(0)
        for (scores,) in self._study.measurer.stream(
            [variant], "confirm", f"plan: {len(skip)} left out"
        ):
            seen = difference.size
            difference = np.append(difference, scores - self._float[seen : seen + len(scores)])
            part = difference.size / len(self._float)
            if LEAST <= part < 1 and self._is_below(difference):
                metric = float(self._float.mean() + difference.mean())
                return Judged(metric, False, difference.size, self._error(difference), part)
        return None

    def _error(self, difference: Scores) -> float:
        """Return the standard error of the mean as an estimate of the split's mean, as if one
        sample more had the largest possible difference."""
        assert self._bound is not None
        n = difference.size
        variance = (np.sum(difference**2) + self._bound**2) / (n + 1) - difference.mean() ** 2
        return float(np.sqrt(variance / n * (1 - n / len(self._float))))

    def _is_below(self, difference: Scores) -> bool:
        answer = is_at_least(
            difference, self._allowed, len(self._float), alpha=REJECT, bound=self._bound
        )
        return answer == "below"


class RoughJudge:
    """Judge that stops if a skip-set misses the target by far, for a metric whose scores have no
    known range, such as mAP.

    It looks at FIRST_LOOK samples and each time their number has doubled. It refuses a set if the
    95 % interval of the drop, from jackknife values, lies above the allowed drop. A refusal may be
    wrong with a small probability, which costs one unit more. A set is only called met once it has
    been measured on all of the split.
    """

    def __init__(self, study: Study, floor: float, float_scores: Scores) -> None:
        """Set the target.

        floor: metric to reach.
        float_scores: scores of the float model on all of `confirm`.
        """
        self._study = study
        self._float = float_scores
        self._metric = study.measurer.aggregate(float_scores)
        self._allowed = self._metric - floor
        self._whole = SplitJudge(study, floor)

    def __call__(self, skip: tuple[str, ...]) -> Judged:
        variant = self._study.skip_variant(skip)
        parts, seen, look = list[Scores](), 0, FIRST_LOOK
        for (scores,) in self._study.measurer.stream(
            [variant], "confirm", f"plan: {len(skip)} left out"
        ):
            parts.append(scores)
            seen += len(scores)
            if look <= seen < len(self._float):
                refused = self._refused(np.concatenate(parts))
                if refused is not None:
                    return refused
                look = 2 * seen
        return self._whole(skip)

    def _refused(self, scores: Scores) -> Judged | None:
        """Return a refusal by these first scores of the split; None if they do not allow one."""
        seen, whole = len(scores), len(self._float)
        drop = gain(scores, self._float[:seen], self._study.measurer.task.aggregate)
        low, _ = drop.ends
        if low <= self._allowed:
            return None
        error = (drop.value - low) / 2 * np.sqrt(1 - seen / whole)
        return Judged(self._metric - drop.value, False, seen, float(error), seen / whole)
