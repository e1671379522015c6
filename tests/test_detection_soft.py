"""What float expects a detector to lose, on drawn detectors whose true drops are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from sensitivity.measure.ranking import losses
from sensitivity.signals.soft import has_soft_drop
from sensitivity.stats.proof import chance_below
from sensitivity.stats.soft_drop import true_drop
from sensitivity.stats.soft_ratio import ratio_of
from sensitivity.tasks.base import Task, mean
from sensitivity.tasks.detection import DetectionScore
from sensitivity.tasks.detection_boxes import Detections, Suppression, decode_ultralytics
from sensitivity.tasks.detection_map import IOUS, outcomes
from sensitivity.tasks.detection_rotated import RotatedScore
from sensitivity.tasks.detection_soft import (
    USUAL,
    BoxesLost,
    counterparts,
    precision_values,
    probabilities,
)

CLASSES = 6
SCORE = DetectionScore(
    tuple(map(str, range(CLASSES))), decode_ultralytics, Suppression(limit=16), sized=False
)


@dataclass(frozen=True)
class World:
    """Images drawn with their objects, a float detector, and variants that differ from it.

    targets: ground truth of all images.
    outputs: of float first, then of each variant.
    """

    targets: dict[str, np.ndarray]
    outputs: list[np.ndarray]

    @classmethod
    def drawn(cls, seed: int, boldness: float, n: int = 600) -> World:
        """boldness: what the logits of all confidences are multiplied with."""
        rng = np.random.default_rng(seed)
        places = np.stack(np.meshgrid(np.arange(4), np.arange(3)), axis=-1).reshape(-1, 2)
        is_object = rng.random((n, 12)) < rng.uniform(0.05, 0.6, (n, 1))
        kinds = rng.choice(CLASSES, (n, 12), p=[0.5, 0.2, 0.12, 0.08, 0.06, 0.04])
        centre = 100.0 * places + 50 + rng.uniform(-10, 10, (n, 12, 2))
        size = rng.uniform(20, 70, (n, 12, 2))
        seen = np.where(is_object, rng.normal(1, 1.8, (n, 12)), rng.normal(-2.5, 1.5, (n, 12)))
        own, blur = rng.normal(0, 0.7, (n, 12)), 0.06 * rng.lognormal(0, 0.5, (n, 12, 1))
        shifts = rng.normal(size=(n, 12, 4)) * blur
        outputs = []
        for noise in (0.0, 0.6, 0.45, 0.35, 0.25, 0.18, 0.1):
            sure = boldness * (seen + own + noise * rng.normal(size=(n, 12)))
            moved = shifts + noise * blur * rng.normal(size=(n, 12, 4))
            found = np.concatenate([centre, size], axis=2) + moved * np.tile(size, 2)
            confidences = expit(sure)[..., None] * (kinds[..., None] == np.arange(CLASSES))
            outputs.append(np.moveaxis(np.concatenate([found, confidences], axis=2), 2, 1))
        corners = np.concatenate([centre - size / 2, centre + size / 2], axis=2)
        targets = {
            "boxes": corners,
            "classes": np.where(is_object, kinds, -1),
            "crowd": np.zeros((n, 12), bool),
            "geometry": np.tile([1.0, 1, 0, 0, 400, 300], (n, 1)),
        }
        return cls(targets, outputs)


@dataclass(frozen=True)
class Measured:
    """A world's scores float[1 + sets, n, ...], of float first, and what float says of the sets,
    float[sets, n, ...]."""

    records: np.ndarray
    beliefs: np.ndarray
    lost: BoxesLost

    def drops(self, images: Any = slice(None)) -> np.ndarray:
        """The drop of each set, counted on these images."""
        metrics = [SCORE.aggregate(records[images]) for records in self.records]
        return metrics[0] - np.array(metrics[1:])

    def searched(self, images: np.ndarray) -> tuple[list[Any], np.ndarray]:
        """The true drop of each set by some images, and the one counted on them."""
        float_, *others = self.records[:, images]
        counted = [losses(float_, other, SCORE.aggregate) for other in others]
        soft = list(map(self.lost.drops, self.beliefs[:, images]))
        ratio = ratio_of(counted, soft)
        drops = [true_drop(lost, moved, ratio) for lost, moved in zip(counted, soft, strict=True)]
        return drops, np.array([lost.mean() for lost in counted])


@cache
def measured(seed: int, boldness: float) -> Measured:
    world = World.drawn(seed, boldness)
    labelled = {name: values[:100] for name, values in world.targets.items()}
    lost = BoxesLost(SCORE, CLASSES)
    lost = lost.fitted(lost.fit([world.outputs[0][:100]], [labelled]))
    float_, *others = world.outputs
    records = np.stack([SCORE(outputs, world.targets) for outputs in world.outputs])
    return Measured(records, np.stack([lost(float_, other) for other in others]), lost)


WORLDS = [(0, 1.0), (1, 0.6), (2, 1.6)]


@pytest.mark.parametrize("world", [(0, 1.0), (2, 1.6)], ids=["calibrated", "bold"])
def test_drops_of_drawn_detectors_are_known_far_better_than_by_counting(
    world: tuple[int, float],
) -> None:
    """All 600 images are the truth, and 60 of them are labelled."""
    known, rng = measured(*world), np.random.default_rng(0)
    truth = known.drops()
    soft, counted, inside, met = [], [], [], []
    for _ in range(10):
        drops, by_counting = known.searched(rng.choice(600, 60, replace=False))
        values = np.array([drop.value for drop in drops])
        soft.append(values - truth)
        counted.append(by_counting - truth)
        pairs = zip(drops, truth, strict=True)
        inside.append([drop.low <= true <= drop.high for drop, true in pairs])
        chances = np.array([chance_below(drop, 0.03) for drop in drops])
        met.extend(truth[chances >= 0.8] <= 0.03)
    assert np.mean(np.square(soft)) < 0.6 * np.mean(np.square(counted))
    assert np.mean(inside) > 0.85
    assert len(met) > 15
    assert np.mean(met) >= 0.9


def test_soft_drops_are_as_many_times_too_large_for_small_changes_as_for_large_ones() -> None:
    """A shift that counted only beyond a threshold would cost nothing where it is small."""
    known = measured(0, 1.0)
    believed = np.array([known.lost.drops(belief).mean() for belief in known.beliefs])
    ratios = known.drops()[:4] / believed[:4]
    assert ratios.min() > 0.3
    assert ratios.max() < 0.8


def test_float_itself_loses_nothing() -> None:
    world = World.drawn(0, 1.0, n=20)
    lost = BoxesLost(SCORE, CLASSES)
    records = lost(world.outputs[0], world.outputs[0])
    assert records.shape == (20, 4 * 16)
    np.testing.assert_allclose(lost.drops(records), 0, atol=1e-12)


def test_values_of_images_are_their_influence_on_the_precision_of_all() -> None:
    """Their mean is the average precision, worked out box by box here, and their spread is that of
    the jackknife."""
    rng = np.random.default_rng(0)
    confidences = -np.sort(-rng.random((150, 4)), axis=1) * (rng.random((150, 1)) < 0.9)
    right, objects = rng.random((150, 4, 10)) * confidences[..., None], rng.uniform(0.5, 3, 150)

    def whole(of: np.ndarray) -> float:
        every = zip(-confidences[of].ravel(), map(list, right[of].reshape(-1, 10)), strict=True)
        boxes = sorted(every)
        found, total = np.zeros(10), np.zeros(10)
        for rank, (sure, belief) in enumerate(boxes, 1):
            if sure == 0:
                break
            found += belief
            total += np.array(belief) * found / rank
        return float(total.mean() / objects[of].sum())

    values = precision_values(confidences, right, objects)
    assert values.mean() == pytest.approx(whole(np.arange(150)))
    without = [whole(np.delete(np.arange(150), image)) for image in range(150)]
    pseudo = 150 * whole(np.arange(150)) - 149 * np.array(without)
    assert np.median(np.abs(values - pseudo)) < 0.002
    assert values.std() == pytest.approx(pseudo.std(), rel=0.03)


def test_probabilities_are_fitted_to_labels() -> None:
    """The detector is too sure of itself by a factor of 1.6 in the logit."""
    lost = measured(2, 1.6).lost
    assert lost.parameters != USUAL
    world = World.drawn(2, 1.6)
    rows = SCORE(world.outputs[0][300:], {n: v[300:] for n, v in world.targets.items()})
    confidences, true, _ = outcomes(rows, CLASSES)
    sure = (confidences > 0.5) & (confidences < 0.9)
    found = true[:, sure].mean(axis=1)
    np.testing.assert_allclose(
        probabilities(confidences[sure], lost.parameters).mean(axis=0), found, atol=0.08
    )
    assert abs(probabilities(confidences[sure], USUAL).mean(axis=0) - found).max() > 0.08


def test_a_shifted_box_is_right_where_both_errors_together_are_small_enough() -> None:
    own = probabilities(np.array([0.8]), USUAL)[0]
    near, far = probabilities(np.array([0.8, 0.8]), USUAL, np.array([0.96, 0.7]))
    assert (near <= own).all()
    assert near[0] == pytest.approx(own[0], rel=0.01)
    assert near[-1] < 0.7 * own[-1]
    np.testing.assert_array_equal(far > 0, IOUS < 0.695)


def test_each_box_stands_for_the_free_one_of_its_class_that_it_overlaps_most() -> None:
    """The surest takes the first of float's boxes; the second and the third have to share what is
    left; the fourth is of another class."""
    wanted = Detections(np.zeros((1, 2, 4)), np.array([[0.9, 0.8]]), np.array([[0, 0]]))
    got = Detections(
        np.zeros((1, 4, 4)), np.array([[0.9, 0.8, 0.7, 0.6]]), np.array([[0, 0, 0, 1]])
    )
    overlaps = np.array([[[0.9, 0.6], [0.95, 0.7], [0.5, 0.8], [1.0, 1.0]]])
    places, found = counterparts(wanted, got, overlaps)
    assert places.tolist() == [[0, 1, 0, 0]]
    assert found.tolist() == [[0.9, 0.7, 0, 0]]


def test_masks_and_metrics_of_ones_own_have_no_soft_drop() -> None:
    task = Task(None, {}, SCORE, SCORE.aggregate, soft=SCORE.soft)
    assert has_soft_drop(task)
    assert not has_soft_drop(replace(task, aggregate=lambda scores: 0.0))
    assert not has_soft_drop(replace(task, aggregate=mean))
    with_masks = replace(SCORE, part=SimpleNamespace(name="mask"))
    assert with_masks.soft is None


def test_rotated_boxes_are_compared_by_their_own_overlap() -> None:
    score = RotatedScore(("a",), decode_ultralytics, Suppression())
    box = np.array([[[50.0, 50, 40, 10, 0.0]]])
    turned = np.array([[[50.0, 50, 40, 10, math.pi / 2]]])
    assert score.overlaps(box, box)[0, 0, 0] == pytest.approx(1, abs=1e-3)
    assert score.overlaps(box, turned)[0, 0, 0] < 0.6
    assert score.soft is not None


def test_samples_of_a_group_share_a_loss_without_a_smaller_error() -> None:
    """At most 200 groups are left out in turn. The mean of 1,000 values is as uncertain as that of
    as many single losses."""
    rng = np.random.default_rng(0)
    base, other = rng.random((2, 1000, 1))

    def middle(scores: np.ndarray) -> float:
        return float(scores.mean())

    lost = losses(base, other, middle)
    assert lost.mean() == pytest.approx((base - other).mean())
    assert lost.std() == pytest.approx((base - other).std(), rel=0.1)
