"""Checks that the metric makes sense for the float model: on the first samples of `rank`, then on
all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import TaskError
from sensitivity.measure.checked import check_values, checked_scores, user_error
from sensitivity.records import Finding, Scores, Severity, Target, Variant
from sensitivity.seeds import generator
from sensitivity.session import Session
from sensitivity.signals.distortion import are_logits, float_arrays
from sensitivity.signals.soft import Labelled, has_soft_drop, soft_drop, ties_of
from sensitivity.stats.paired import mean_estimate
from sensitivity.tasks.base import EvaluateTask, Fittable, Task, TellsTies
from sensitivity.tasks.batches import (
    batch_digest,
    batch_size,
    check_pair,
    first_samples,
    sequence_of,
)

SAMPLES = 128
"""Approximate number of samples of `rank` on which float is judged before the scan."""
SHUFFLES = 3
"""Number of times that the answers are given to other samples of their batch."""
FEWEST = 16
"""Smallest number of samples with shuffled answers that allows a conclusion."""

NEXT_TO_NOTHING = 0.01
"""Fraction of the full scale below which a metric such as mAP is no better than boxes at random."""

WRONG_DATA = (
    "Check the order of the classes, the preprocessing and the labels: a drop from such a "
    "float says nothing about the model."
)


AT_CHANCE = "Expected the {} of the float model to be better than guessing"


@dataclass
class Judged:
    """The float model on the first samples of `rank`.

    scores: of all of these samples.
    classes: number of classes that the outputs choose among; None if they are not class scores.
    own: metric of the samples whose batch has different targets; None if the outputs cannot be
        given to other samples.
    shuffled: the same with each answer given to another sample of its batch, one for each shuffle.
    n: number of samples in `own`.
    """

    scores: Scores
    classes: int | None
    own: float | None
    shuffled: tuple[float, ...] = ()
    n: int = 0


def metric_findings(session: Session, target: Target | None = None) -> Iterator[Finding]:
    """Yield what speaks against the metric on the first samples of `rank`.

    Yields nothing for a task that has only evaluate(model).

    target: what a plan must meet; None if it is not known yet.
    """
    if not session.has_samples:
        return
    try:
        judgement = judged(session)
        value = session.measurer.aggregate(judgement.scores)
    except TaskError as error:
        yield Finding("metric-fails", "error", "rank", str(error), "")
        return
    yield from _value_findings(session, judgement, value)
    if target is not None:
        yield from target_findings(judgement.scores, value, target, session.task)


def _value_findings(session: Session, judgement: Judged, value: float) -> Iterator[Finding]:
    """Yield what speaks against float's metric on these samples."""
    n, task = len(judgement.scores), session.task
    if _is_nothing(judgement.scores, value, task):
        yield _at_chance(
            f"{value:.2g} on the first {n} samples of rank",
            task,
            _severity(judgement.scores, value),
        )
    elif _counts(judgement.scores, value) and judgement.classes and value <= 1 / judgement.classes:
        yield _at_chance(
            f"{value:.4g} on the first {n} samples of rank, and guessing has "
            f"{1 / judgement.classes:.4g}",
            task,
        )
    elif _is_luck(judgement, value):
        yield _at_chance(
            f"{judgement.own:.4g} on {judgement.n} samples of rank, and "
            f"{max(judgement.shuffled):.4g} with the answers given for other samples",
            task,
        )


def _is_luck(judgement: Judged, value: float) -> bool:
    """Return whether the answers are no better than when they are given to other samples.

    Returns False if every answer is right: then most samples of a batch have the same target.
    """
    if judgement.own is None or judgement.n < FEWEST:
        return False
    is_perfect = value == 1 and _counts(judgement.scores, value)
    is_no_better = judgement.own <= max(judgement.shuffled)
    return is_no_better and not is_perfect


def without_at_chance(warnings: Iterable[str], metric: str) -> tuple[str, ...]:
    """Return the warnings without those that float cannot be told from guessing.

    The first samples gave one, and all samples give another.
    """
    begins = AT_CHANCE.format(metric)
    return tuple(text for text in warnings if not text.startswith(begins))


def measured_findings(session: Session) -> Iterator[Finding]:
    """Yield the finding that float cannot be told from guessing, once it is measured on all of
    `rank`."""
    scores = session.measurer.known(session.study.float_variant, "rank")
    value, task = session.measurer.aggregate(scores), session.task
    on_all = f"on all of rank ({len(scores)} samples"
    if _is_nothing(scores, value, task):
        yield _at_chance(f"{value:.2g} {on_all})", task, _severity(scores, value))
        return
    classes = _classes_of(session) if _counts(scores, value) else None
    if not classes:
        return
    estimate = mean_estimate(scores)
    if estimate.low is not None and estimate.low <= 1 / classes:
        yield _at_chance(
            f"{value:.4g} {on_all}; its interval begins at {estimate.low:.4g}), and guessing has "
            f"{1 / classes:.4g}",
            task,
        )


def target_findings(scores: Scores, value: float, target: Target, task: Task) -> Iterator[Finding]:
    """Yield an error or warning if every model meets the target, or none can.

    value: the metric of float's scores.
    """
    yield from impossible_findings(target, value, task)
    floor = target.floor(value)
    if scores.min(initial=0.0) >= 0 and floor <= 0:
        yield Finding(
            "target-below-zero",
            _severity(scores, value),
            "",
            f"Expected a target above 0, the least that {task.metric} can be, got {floor:.4g}, "
            f"where float has {value:.4g}: every model meets it.",
            "Give a smaller --max-drop, a relative one such as 1%, or a --target.",
        )


def impossible_findings(
    target: Target, value: float, task: Task | EvaluateTask
) -> Iterator[Finding]:
    """Yield an error for an absolute target above the largest value of the metric.

    value: the metric of the float model. A metric that is larger than its full scale has no largest
        value.
    """
    if target.metric is None or value > task.full_scale or target.metric <= task.full_scale:
        return
    yield Finding(
        "target-above-scale",
        "error",
        "",
        f"Expected --target to be at most {task.full_scale:g}, the largest value of {task.metric}, "
        f"got {target.metric:g}; float has {value:.4g} on rank.",
        "Give a smaller --target, or a drop from float with --max-drop.",
    )


def judged(session: Session) -> Judged:
    """Return float's scores on the first samples of `rank`.

    Raises TaskError if the metric fails on them.
    """
    task, size, classes = session.task, 0, None
    scores: list[Scores] = []
    shuffles = _Shuffles()
    variant = session.study.float_variant
    for number, batch in enumerate(task.data["rank"]):
        inputs, targets = check_pair(batch, "rank")
        count = batch_size(inputs)
        outputs = _outputs(session, variant, inputs)
        where = f" on batch {number} of split 'rank'"
        scores.append(checked_scores(task, outputs, targets, count, where))
        if number == 0 and has_soft_drop(task):
            _check_soft(task, outputs, targets, count)
        check_values(scores[-1], scores[0].shape[1:], where)
        shuffles.add(task, outputs, targets, scores[-1])
        classes = _classes(outputs)
        size += count
        if size >= SAMPLES:
            break
    own, shuffled = shuffles.metrics(session)
    return Judged(np.concatenate(scores), classes, own, shuffled, shuffles.samples)


def _check_soft(task: Task, outputs: Any, targets: Any, size: int) -> None:
    """Raise TaskError if the task's soft drop cannot be fitted, computed or asked for ties on this
    batch; otherwise the whole scan would have passed before planning found out."""
    soft: Any = task.soft
    labelled = Labelled([outputs], [targets], size)
    if isinstance(soft, Fittable):
        try:
            soft = soft.fitted(soft.fit(labelled.outputs, labelled.targets))
        except Exception as error:
            raise user_error("fit of task.soft", "", error) from error
    soft_drop(soft, outputs, outputs, size)
    if isinstance(soft, TellsTies):
        ties_of(soft, labelled, task.full_scale)


@dataclass
class _Shuffles:
    """Scores of the same batches with the right answers, and with each answer given to another
    sample."""

    own: list[Scores] = field(default_factory=list)
    others: list[list[Scores]] = field(default_factory=lambda: [[] for _ in range(SHUFFLES)])
    possible: bool = True

    @property
    def samples(self) -> int:
        """Number of samples that were judged with other answers."""
        return sum(map(len, self.own))

    def add(self, task: Task, outputs: Any, targets: Any, scores: Scores) -> None:
        """Add the scores of a batch with its right answers and with shuffled ones.

        A batch whose targets are all alike is left out. No conclusion is possible if the score
        ignores the targets.
        """
        n = len(scores)
        if not self.possible or n < 4 or _alike(targets, n):
            return
        shuffled_scores = []
        for number in range(SHUFFLES):
            order = generator(offset=number).permutation(n)
            try:
                shuffled = checked_scores(task, _taken(outputs, order), targets, n, "")
            except (_NotBySample, TaskError):
                self.possible = False
                return
            if not _looks_at_targets(shuffled, scores, order):
                self.possible = False
                return
            shuffled_scores.append(shuffled)
        self.own.append(scores)
        for others, shuffled in zip(self.others, shuffled_scores, strict=True):
            others.append(shuffled)

    def metrics(self, session: Session) -> tuple[float | None, tuple[float, ...]]:
        """Return the metric with the right answers, and with each set of others.

        The first is None if they cannot be compared.
        """
        if not self.possible or not self.own:
            return None, ()
        aggregate = session.measurer.aggregate
        own, *others = map(np.concatenate, (self.own, *self.others))
        return aggregate(own), tuple(map(aggregate, others))


def _looks_at_targets(shuffled: Scores, scores: Scores, order: NDArray[np.int64]) -> bool:
    """Return whether the score depends on the targets.

    It does not if the scores moved with the shuffled answers.
    """
    if shuffled.shape != scores.shape:
        return False
    changed_nothing = np.array_equal(shuffled, scores)
    followed = np.array_equal(shuffled, scores[order])
    return changed_nothing or not followed


class _NotBySample(Exception):
    """Outputs whose first axis is not the sample."""


def _taken(outputs: Any, order: NDArray[np.int64]) -> Any:
    """Return the same nest with the samples in another order.

    Raises _NotBySample.
    """
    if hasattr(outputs, "shape"):
        return _taken_array(outputs, order)
    take = partial(_taken, order=order)
    if isinstance(outputs, Mapping):
        names = map(str, outputs)
        values = map(take, outputs.values())
        return type(outputs)(**dict(zip(names, values, strict=True)))
    if not isinstance(outputs, (tuple, list)):
        raise _NotBySample
    return sequence_of(type(outputs), list(map(take, outputs)))


def _taken_array(array: Any, order: NDArray[np.int64]) -> Any:
    if list(array.shape[:1]) != [len(order)]:
        raise _NotBySample
    is_tensor = hasattr(array, "detach")
    return array[order.tolist()] if is_tensor else array[order]


def _outputs(session: Session, variant: Variant, inputs: Any) -> Any:
    ((_, outputs),) = session.measurer.outputs([variant], inputs)
    return outputs


def _alike(targets: Any, n: int) -> bool:
    """Return whether all samples of a batch have the same target, or their targets cannot be
    separated."""
    try:
        rows = [targets[index] for index in range(n)]
    except (TypeError, KeyError, IndexError):
        return True
    digests = {batch_digest(None, row) for row in rows}
    return len(digests) == 1


def _classes_of(session: Session) -> int | None:
    if not session.has_samples:
        return None
    inputs, _ = next(islice(iter(session.task.data["rank"]), 1))
    fewest = session.measurer.simulator.smallest
    few = inputs if fewest is None else first_samples(inputs, fewest)
    return _classes(_outputs(session, session.study.float_variant, few))


def _classes(outputs: Any) -> int | None:
    """Return the number of classes that the outputs choose among.

    Returns None if they are not class scores.
    """
    arrays = float_arrays(outputs)
    if not are_logits(arrays):
        return None
    return int(arrays[0].shape[1])


def _is_nothing(scores: Scores, value: float, task: Task) -> bool:
    """Return whether the metric is 0, or close to 0 and not a mean.

    Returns False for scores that may be negative, since their least value is unknown.
    """
    if scores.min(initial=0.0) < 0:
        return False
    is_mean = scores.ndim == 1
    if is_mean:
        return value == 0
    return value == 0 or value < NEXT_TO_NOTHING * task.full_scale


def _counts(scores: Scores, value: float) -> bool:
    """Return whether the metric is the share of samples that are right."""
    return _is_mean(scores, value) and bool(np.isin(scores, (0.0, 1.0)).all())


def _is_mean(scores: Scores, value: float) -> bool:
    """Return whether the metric is the mean of the samples' scores."""
    return scores.ndim == 1 and bool(np.isclose(scores.mean(), value))


def _severity(scores: Scores, value: float) -> Severity:
    """Return "error" if the metric is the mean of the samples' scores, otherwise "warning".

    Another metric, such as a detector's mAP, is 0 on a handful of images, or before a detector is
    trained, without any mistake in the task. The verdict then claims nothing.
    """
    if _is_mean(scores, value):
        return "error"
    return "warning"


def _at_chance(got: str, task: Task, severity: Severity = "error") -> Finding:
    # A task that was made from a file says how it read the outputs and the images.
    reading = getattr(task.score, "reading", "")
    return Finding(
        "metric-at-chance",
        severity,
        "rank",
        f"{AT_CHANCE.format(task.metric)}, got {got}: it is no better than chance.",
        f"{reading} {WRONG_DATA}".strip(),
    )
