"""Detectors that select their boxes in the graph and give boxes, labels and scores apart: SSD and
its like, as TensorFlow's and PyTorch's models are exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sensitivity.tasks.batches import as_numpy
from sensitivity.tasks.detection_boxes import Floats
from sensitivity.tasks.images import Size, sides

SelectedForm = Literal["ssd", "tensorflow"]

NAMES: Mapping[SelectedForm, tuple[tuple[str, ...], ...]] = {
    "ssd": (("bboxes", "boxes"), ("labels",), ("scores",)),
    "tensorflow": (("detection_boxes",), ("detection_classes",), ("detection_scores",)),
}
"""Names of the outputs with boxes, labels and scores."""


@dataclass(frozen=True)
class Selected:
    """The form and the positions of the outputs with boxes, labels and scores.

    form: "ssd" for boxes as x1 y1 x2 y2 and labels that count the classes from 1; "tensorflow" for
        boxes as y1 x1 y2 x2 and labels that are the categories' own numbers.
    boxes, labels, scores: positions among the outputs.
    """

    form: SelectedForm
    boxes: int = 0
    labels: int = 1
    scores: int = 2


AS_NAMED = Selected("ssd")
"""Outputs with boxes, labels and scores, in this order."""


def selected(names: Sequence[str]) -> Selected | None:
    """Return the form and positions of outputs with these names, or None if they are not those of
    such a detector.

    >>> selected(["num_detections:0", "detection_boxes:0", "detection_scores:0",
    ...           "detection_classes:0"])
    Selected(form='tensorflow', boxes=1, labels=3, scores=2)
    """
    plain = [name.partition(":")[0].rpartition("/")[2] for name in names]
    for form, wanted in NAMES.items():
        places = [_place(plain, words) for words in wanted]
        found = [place for place in places if place is not None]
        if len(found) == len(places):
            return Selected(form, *found)
    return None


def _place(names: Sequence[str], words: Sequence[str]) -> int | None:
    """Return the position of the first name that is one of the words, or None if there is none."""
    return next((at for at, name in enumerate(names) if name in words), None)


def decode_selected(
    outputs: Any, size: Size, numbers: Sequence[int], where: Selected
) -> tuple[Floats, Floats]:
    """Return boxes, float[n, most, 4] as x1 y1 x2 y2 in pixels of the input, and confidences,
    float[n, classes, most].

    outputs: boxes [n, most, 4] as fractions of the input, labels and scores [n, most].
    size: size of the input in pixels.
    numbers: the label of each class.
    where: positions of boxes, labels and scores in `outputs`.

    No box suppresses another, so judge with `Suppression(iou=1.0)`.
    """
    given, labels, scores = (
        np.asarray(as_numpy(outputs[place]), np.float32)
        for place in (where.boxes, where.labels, where.scores)
    )
    height, width = sides(size)
    corners = given[..., [1, 0, 3, 2]] if where.form == "tensorflow" else given
    boxes = corners * np.array([width, height] * 2, np.float32)
    is_of_class = np.rint(labels)[:, None] == np.asarray(numbers)[:, None]
    return boxes, np.where(is_of_class, scores[:, None], np.float32(0))
