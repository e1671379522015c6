"""The loss that a detector in float itself expects from a variant's other boxes. It needs no
labels.

Float's own detections take the place of labelled objects. Each counts as much as it is probable
that float is right about it, which depends on its confidence and on how exact a box has to be.
These probabilities are fitted to labels.

The soft drop is a drop of average precision over the detections of all images and classes together.
In mAP, one object of a rare class may weigh as much as a hundred others, and the order of two boxes
matters only if they are of one class. All of them together vary far less by chance, and tell the
same of a few images as of many.

A record of an image holds 4 * limit numbers: float's confidences, the variant's confidences, the
confidence of float's box that each of the variant's boxes stands for, and the overlap of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from sensitivity.records import Scores
from sensitivity.tasks.detection_boxes import Bools, Detections, Floats
from sensitivity.tasks.detection_map import IOUS, outcomes

Aggregate = Callable[[Scores], float]

Parameters = tuple[float, ...]

USUAL: Parameters = (0.66, 1.06, 0.71, -0.08, -0.24)
"""Parameters of `probabilities` for YOLOv8n on 200 images of COCO at 320 pixels."""

SPREADS: Parameters = (1.0, 0.3, 0.5, 0.1, 0.1)
"""Standard deviations of the parameters of other detectors about `USUAL`, before labels are
seen."""

SURE = 1e-6
"""Confidences count as at least this, and as at most 1 minus this."""

STEPS = 200
"""Number of steps, equal in the logit of the confidence, in which probabilities are fitted."""

SLACK: Floats = 1 - IOUS
"""What the overlap of a box may lack at each threshold."""

LEAST_SLACK = 0.01
"""A box that may lack less than this is not right."""


class Reporter(Protocol):
    """The score of a detector."""

    def __call__(self, outputs: Any, targets: Mapping[str, Any]) -> Scores: ...

    @property
    def aggregate(self) -> Aggregate:
        """Records of images -> the metric."""
        ...

    def box_rows(self, scores: Scores) -> Scores:
        """Return the part of the records that judges boxes, as rows of `image_scores`."""
        ...

    def reported(self, outputs: Any) -> Detections:
        """Return the detections of a batch, with boxes in pixels of the input."""
        ...

    def overlaps(self, boxes: Floats, others: Floats) -> Floats:
        """Return how far boxes [n, k, ...] overlap boxes [n, m, ...], float[n, k, m]."""
        ...


@dataclass(frozen=True)
class BoxesLost:
    """What the float model expects to lose by the boxes of a variant.

    It is called with the outputs of the float model, or what `condensed` makes of them, and those
    of the variant for the same images. It returns their records, float64[n, 4 * limit], which
    `drops` turns into soft drops.

    score: says what a detector reports.
    classes: the number of classes.
    parameters: those of `probabilities`.
    limit: the most detections of an image that are looked at, the surest ones.
    """

    score: Reporter
    classes: int
    parameters: Parameters = USUAL
    limit: int = 100

    def __call__(self, float_outputs: Any, outputs: Any) -> Scores:
        is_condensed = isinstance(float_outputs, Detections)
        wanted = float_outputs if is_condensed else self.condensed(float_outputs)
        got = self.condensed(outputs)
        places, overlaps = counterparts(wanted, got, self.score.overlaps(got.boxes, wanted.boxes))
        stands_for = np.take_along_axis(wanted.confidences, places, axis=1)
        columns = (wanted.confidences, got.confidences, stands_for, overlaps)
        return np.concatenate(columns, axis=1, dtype=np.float64)

    def condensed(self, outputs: Any) -> Detections:
        """Return the surest boxes of the outputs of a batch, as copies, so that keeping them does
        not keep the others."""
        found, limit = self.score.reported(outputs), self.limit
        return Detections(
            found.boxes[:, :limit].copy(),
            found.confidences[:, :limit].copy(),
            found.classes[:, :limit].copy(),
        )

    def stands_for(self, aggregate: Aggregate) -> bool:
        return aggregate == self.score.aggregate

    def drops(self, records: Scores) -> Scores:
        """Return the soft drop of each image, float64[n].

        Their mean is the drop of all of them together, and their spread its sampling error.

        records: of the images.
        """
        wanted, got, stands_for, overlaps = np.split(records, 4, axis=1)
        right = probabilities(wanted, self.parameters)
        right[wanted == 0] = 0
        found = probabilities(stands_for, self.parameters, overlaps)
        found[overlaps == 0] = 0
        objects = right[..., 0].sum(axis=1)
        own = precision_values(wanted, right, objects)
        return own - precision_values(got, found, objects)

    def fit(self, outputs: Sequence[Any], targets: Sequence[Any]) -> Parameters:
        """Return the parameters with the highest posterior, rounded to two decimals.

        outputs: the float model's outputs, batch by batch.
        targets: the ground truth of the same images, batch by batch.
        """
        records = [self.score(*batch) for batch in zip(outputs, targets, strict=True)]
        rows = self.score.box_rows(np.concatenate(records))
        reported, right = _by_step(*outcomes(rows, self.classes))
        confidences = expit(np.linspace(logit(SURE), -logit(SURE), STEPS))
        usual, spreads = np.array(USUAL), np.array(SPREADS)

        def negative_log_posterior(parameters: NDArray[np.float64]) -> float:
            belief = np.clip(probabilities(confidences, tuple(parameters)), SURE, 1 - SURE)
            log_likelihood = right * np.log(belief) + (reported - right) * np.log1p(-belief)
            prior = np.sum(((parameters - usual) / spreads) ** 2) / 2
            return float(prior - log_likelihood.sum())

        best = minimize(negative_log_posterior, usual, method="BFGS").x
        return tuple(np.round(best, 2).tolist())

    def fitted(self, parameters: Parameters) -> BoxesLost:
        return replace(self, parameters=parameters)


def probabilities(
    confidences: Floats, parameters: Parameters, overlaps: Floats | None = None
) -> Floats:
    """Return the probability that a box is right at each overlap threshold, float64[..., 10].

    confidences: of float's boxes, float[...], 0..1.
    overlaps: of a variant's boxes with float's, float[...]; None for float's own boxes. A shift
        from float's box is taken to be independent of float's own error, so their squares add up.
        If a shift counted only from the threshold on, small ones would cost nothing.

    >>> probabilities(np.array([0.05, 0.9]), USUAL)[:, [0, 5, 9]].round(2).tolist()
    [[0.08, 0.03, 0.0], [0.95, 0.92, 0.4]]
    """
    start, of_sure, of_slack, of_both, of_exact = parameters
    sure = logit(np.clip(confidences.astype(np.float64), SURE, 1 - SURE))[..., None]
    slack = np.broadcast_to(SLACK, (*confidences.shape, len(IOUS)))
    if overlaps is not None:
        slack = np.sqrt(np.maximum(slack**2 - (1 - overlaps[..., None]) ** 2, 0))
    share = np.maximum(slack, LEAST_SLACK) / SLACK[0]
    odds = start + of_sure * sure + (of_slack + of_both * sure) * np.log(share)
    odds += of_exact * (1 / share - 1)
    return np.where(slack < LEAST_SLACK, 0.0, expit(odds))


def counterparts(
    wanted: Detections, got: Detections, overlaps: Floats
) -> tuple[NDArray[np.int64], Floats]:
    """Return float's box that each of a variant's boxes stands for, int64[n, limit], and how far
    the two overlap, float64[n, limit]; 0 if it stands for none.

    As with labelled objects, the surest box comes first and takes the free one of its class that it
    overlaps most.

    overlaps: float[n, limit, limit], of each of the variant's boxes with each of float's.
    """
    n, limit = got.classes.shape
    places, found = np.zeros((n, limit), np.int64), np.zeros((n, limit))
    may_stand = (got.classes[:, :, None] == wanted.classes[:, None]) & (overlaps >= IOUS[0])
    may_stand &= (got.confidences > 0)[:, :, None] & (wanted.confidences > 0)[:, None]
    image, box, place = np.nonzero(may_stand)
    value = overlaps[image, box, place]
    order = np.lexsort((-value, box, image))
    columns = (column[order].tolist() for column in (image, box, place, value))
    taken = set[tuple[int, int]]()
    for i, own, other, overlap in zip(*columns, strict=True):
        if found[i, own] or (i, other) in taken:
            continue
        taken.add((i, other))
        places[i, own], found[i, own] = other, overlap
    return places, found


def precision_values(confidences: Floats, right: Floats, objects: Floats) -> Scores:
    """Return values of single images whose mean is the average precision over the boxes of all
    images together, the mean over the overlap thresholds, float64[n]. It is 0 without objects.

    The precision of a box counts as often as the box is probably right. A value is the whole plus
    n times the influence of its image, the derivative by its weight. This is the jackknife's
    pseudo-value, without computing the precision n times.

    confidences: float[n, limit], 0 where there is no box.
    right: float[n, limit, 10], the probability that each box is right.
    objects: float[n], the number of objects that is expected in each image.
    """
    n, total = len(confidences), float(objects.sum())
    if total == 0:
        return np.zeros(n)
    image, box = np.nonzero(confidences > 0)
    order = np.argsort(-confidences[image, box], kind="stable")
    image, box = image[order], box[order]
    weights, ranks = right[image, box], np.arange(1, len(order) + 1)[:, None]
    precision = np.cumsum(weights, axis=0) / ranks
    whole = (weights * precision).sum(axis=0) / total
    # A box also adds to the precision of those that follow it, and to their ranks.
    raises, lowers = _from_here(weights / ranks), _from_here(weights * precision / ranks)
    share = (weights * (precision + raises) - lowers).mean(axis=1)
    influence = np.bincount(image, share, n) - whole.mean() * objects
    return np.asarray(whole.mean() + n / total * influence)


def _from_here(values: Floats) -> Floats:
    """Return the sum of the values from each row on."""
    return np.asarray(np.cumsum(values[::-1], axis=0)[::-1])


def _by_step(confidences: Floats, true: Bools, ignored: Bools) -> tuple[Floats, Floats]:
    """Return how many boxes of each step of confidence count, and how many of these are right, at
    each overlap threshold, float64[STEPS, 10] each.

    confidences: float[n, limit].
    true, ignored: bool[10, n, limit].
    """
    is_reported = confidences > 0
    sure = logit(np.clip(confidences[is_reported], SURE, 1 - SURE))
    step = np.rint(np.interp(sure, [logit(SURE), -logit(SURE)], [0, STEPS - 1])).astype(int)

    def counted(flags: Bools) -> Floats:
        levels = [np.bincount(step, flag[is_reported], STEPS) for flag in flags]
        return np.stack(levels, axis=1)

    return counted(~ignored), counted(true)
