"""Rows of the report's section on a detector: metrics, classes, and images with their boxes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from sensitivity.records import Estimate
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat, listing, signed
from sensitivity.tasks.detection_detail import (
    ClassResult,
    DetectionDetail,
    ShownBox,
    ShownImage,
    SizeResult,
)
from sensitivity.tasks.detection_thresholds import ThresholdResult

COLUMNS = {"float": "Float", "int8": "INT8", "partial": "Partial"}
AREAS = {"small": "up to 32² px", "medium": "32² to 96² px", "large": "from 96² px"}
"""Size -> the areas of its objects, in words."""

CLASSES_SHOWN = 12
LEAST_HEIGHT = 0.09
"""Smallest height of a box that has room for its name, as a fraction of the picture's height."""


@dataclass(frozen=True)
class MetricRow:
    """One metric.

    values: text and interval for each of `COLUMNS`.
    drops: text and interval for INT8 and for the plan against float.
    """

    name: str
    values: tuple[tuple[str, str], ...]
    drops: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ClassRow:
    """One class.

    boxes: number of boxes in the ground truth.
    values: by variant.
    drops: difference of full INT8 and of the partial plan from float.
    """

    name: str
    boxes: int
    values: tuple[str, ...]
    drops: tuple[str, str]


@dataclass(frozen=True)
class SizeRow:
    """The boxes of one size.

    area: the areas of this size, in words.
    objects: number of boxes in the ground truth.
    values: text for each of `COLUMNS`; empty if there are no objects.
    drops: text and interval for INT8 and for the plan against float; empty if there are no objects.
    """

    name: str
    area: str
    objects: int
    values: tuple[str, ...]
    drops: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ThresholdRow:
    """The confidence threshold of one variant.

    threshold: with its interval.
    shift: difference from float, with its interval; empty for float.
    f1, f1_kept: in percent, at the variant's own threshold and at float's.
    """

    name: str
    threshold: tuple[str, str]
    shift: tuple[str, str]
    f1: str
    f1_kept: str


@dataclass(frozen=True)
class Panel:
    """One picture of a variant.

    counts: numbers of its boxes, in words.
    """

    title: str
    counts: str
    boxes: tuple[ShownBox, ...]


@dataclass(frozen=True)
class ImageRow:
    """One image, with a panel for each variant.

    loss: what quantization costs it, with its unit.
    """

    image: ShownImage
    loss: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class DetectionSection:
    """The section on a detector.

    split: the split of the images.
    columns: names of the variants.
    more: rows of the classes table after the first ones.
    size_sentences: what the sizes show, and what they do not.
    """

    n: int
    split: str
    columns: tuple[str, ...]
    metrics: tuple[MetricRow, ...]
    classes: tuple[ClassRow, ...]
    more: tuple[ClassRow, ...]
    images: tuple[ImageRow, ...]
    thresholds: tuple[ThresholdRow, ...]
    sizes: tuple[SizeRow, ...]
    size_sentences: tuple[str, ...]


def detection_section(data: ReportData) -> DetectionSection | None:
    """Return the section on a detector; None for a run of another model."""
    detail = data.detection
    if detail is None:
        return None
    metric = MetricFormat(data.metric, data.full_scale)
    classes = tuple(_class_row(result, metric) for result in detail.classes)
    return DetectionSection(
        detail.n,
        detail.split,
        tuple(COLUMNS.values()),
        tuple(_metric_row(name, detail, metric) for name in detail.metrics),
        classes[:CLASSES_SHOWN],
        classes[CLASSES_SHOWN:],
        _image_rows(detail, metric),
        _threshold_rows(detail.thresholds),
        tuple(_size_row(result, metric) for result in detail.sizes),
        tuple(_size_sentences(detail)),
    )


def _metric_row(name: str, detail: DetectionDetail, metric: MetricFormat) -> MetricRow:
    levels, changes = detail.metrics[name], detail.changes.get(name)
    shown = [(metric.level(levels[key].value), metric.interval(levels[key])) for key in COLUMNS]
    if changes is None:  # a file of an earlier version
        drops = _drops({key: level.value for key, level in levels.items()}, metric)
        return MetricRow(name, tuple(shown), tuple((text, "") for text in drops))
    return MetricRow(name, tuple(shown), _changes(changes, metric))


def _size_row(result: SizeResult, metric: MetricFormat) -> SizeRow:
    area = AREAS[result.name]
    if not result.objects:
        return SizeRow(result.name, area, 0, (), ())
    values = tuple(metric.number(result.precision[key].value) for key in COLUMNS)
    return SizeRow(result.name, area, result.objects, values, _changes(result.change, metric))


def _size_sentences(detail: DetectionDetail) -> Iterator[str]:
    if detail.sizes:
        yield f"INT8 lowers {_lowered(detail.sizes, 'int8')} by more than chance explains."
        yield f"The plan lowers {_lowered(detail.sizes, 'partial')} by more than chance explains."
    if detail.size_note:
        yield detail.size_note


def _lowered(sizes: Iterable[SizeResult], variant: str) -> str:
    """Return which sizes this variant lowers by more than chance explains."""
    names = []
    for result in sizes:
        _, high = result.change[variant].ends if result.objects else (0, 0)
        if high < 0:
            names.append(result.name)
    if not names:
        return "no AP"
    return f"the AP of {listing(tuple(names), last='and')} objects"


def _changes(changes: Mapping[str, Estimate], metric: MetricFormat) -> tuple[tuple[str, str], ...]:
    """Return text and interval for INT8 and for the plan against float."""
    shown = [changes["int8"], changes["partial"]]
    return tuple((metric.change(change.value), metric.interval(change)) for change in shown)


def _class_row(result: ClassResult, metric: MetricFormat) -> ClassRow:
    values = tuple(metric.number(result.precision[key]) for key in COLUMNS)
    return ClassRow(result.name, result.boxes, values, _drops(result.precision, metric))


def _drops(values: Mapping[str, float], metric: MetricFormat) -> tuple[str, str]:
    return (
        metric.change(values["int8"] - values["float"]),
        metric.change(values["partial"] - values["float"]),
    )


def _threshold_rows(result: ThresholdResult | None) -> tuple[ThresholdRow, ...]:
    if result is None:
        return ()
    rows = []
    for key, title in COLUMNS.items():
        shift = ("", "")
        if key in result.shift:
            shift = _hundredths(result.shift[key], sign=True)
        threshold = _hundredths(result.threshold[key])
        f1, f1_kept = f"{100 * result.f1[key]:.1f}", f"{100 * result.f1_kept[key]:.1f}"
        rows.append(ThresholdRow(title, threshold, shift, f1, f1_kept))
    return tuple(rows)


def _hundredths(estimate: Estimate, *, sign: bool = False) -> tuple[str, str]:
    """Return a confidence, or the difference of two, and its interval."""
    value = signed(f"{estimate.value:.2f}", plus=sign)
    if not estimate.has_interval:
        return value, ""
    low, high = (signed(f"{end:.2f}", plus=False) for end in estimate.ends)
    return value, f"[{low}, {high}]"


def _image_rows(detail: DetectionDetail, metric: MetricFormat) -> tuple[ImageRow, ...]:
    shown = filter(_has_boxes, detail.images)
    return tuple(_image_row(image, metric) for image in shown)


def _has_boxes(image: ShownImage) -> bool:
    """Return whether any variant predicted a box; an image with only missed boxes shows nothing."""
    boxes = chain.from_iterable(image.boxes.values())
    return any(box.outcome != "missed" for box in boxes)


def _image_row(image: ShownImage, metric: MetricFormat) -> ImageRow:
    loss = f"{metric.shown(image.loss):.2f} {metric.change_unit}".rstrip()
    panels = []
    for key, title in COLUMNS.items():
        boxes = image.boxes[key]
        panels.append(Panel(title, _counts(boxes), boxes))
    return ImageRow(image, loss, tuple(panels))


def _counts(boxes: tuple[ShownBox, ...]) -> str:
    """Return the counts of boxes by outcome, such as "4 found, 1 false, 2 missed"."""
    outcomes = [box.outcome for box in boxes]
    return ", ".join(
        f"{outcomes.count(outcome)} {outcome}" for outcome in ("found", "false", "missed")
    )


def pixels(box: ShownBox, image: ShownImage) -> dict[str, str]:
    """Return x, y, width and height of a box in the pixels of its picture, for SVG."""
    places = {"x": box.x * image.width, "y": box.y * image.height}
    sides = {"width": box.width * image.width, "height": box.height * image.height}
    return {name: f"{max(value, 0):.1f}" for name, value in (places | sides).items()}


def label_of(box: ShownBox) -> str:
    """Return the label of a box, such as "cat 87 %, found"."""
    sure = "" if box.confidence is None else f" {100 * box.confidence:.0f} %"
    return f"{box.name}{sure}, {box.outcome}"
