"""References for the detection code: greedy suppression as in textbooks, and pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np

from sensitivity.tasks.detection_boxes import Detections
from sensitivity.tasks.detection_map import Truth


def greedy_nms(boxes, confidences, classes, iou, limit):
    """One box after the other, most confident first; dropped where it overlaps a kept box of its
    class."""
    kept = []
    for j in sorted(range(len(boxes)), key=lambda j: -confidences[j]):
        if all(classes[i] != classes[j] or not _iou(boxes[i], boxes[j]) > iou for i in kept):
            kept.append(j)
    return kept[:limit]


def _iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def pycocotools_ap(
    found: Detections,
    truth: Truth,
    classes: int,
    masks=None,
    keypoints=None,
    size: tuple[float, float] = (0, 1e10),
) -> np.ndarray:
    """AP float64[10, classes] by pycocotools, 100 detections; nan for classes without ground truth.

    size: the smallest and the largest area of the objects that are judged.
    masks: run lengths by image of the "found" and of the "truth", to judge by those. keypoints: of
    both [n, ..., k, 3], with "areas" of the truth and "sigmas"; then 20 detections count.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": _xywh(box),
            "area": 1.0 if truth.areas is None else float(truth.areas[image, at]),
            "iscrowd": int(crowd),
            **_more(masks, keypoints, "truth", image, at),
        }
        for image in range(len(truth.boxes))
        for at, (box, label, crowd) in enumerate(
            zip(truth.boxes[image], truth.classes[image], truth.crowd[image], strict=True)
        )
        if label >= 0
    ]
    results = [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": _xywh(box),
            "score": float(confidence),
            **_more(masks, keypoints, "found", image, at),
        }
        for image in range(len(found.boxes))
        for at, (box, label, confidence) in enumerate(
            zip(found.boxes[image], found.classes[image], found.confidences[image], strict=True)
        )
        if confidence > 0
    ]
    kind = "segm" if masks else "keypoints" if keypoints else "bbox"
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = {
            "images": [
                {"id": image, "height": 64, "width": 64} for image in range(len(truth.boxes))
            ],
            "categories": [{"id": label} for label in range(classes)],
            "annotations": [
                annotation | {"id": number} for number, annotation in enumerate(annotations, 1)
            ],
        }
        ground.createIndex()
        # loadRes refuses an empty list; one detection of a class that does not exist stands for
        # none.
        nothing = {"image_id": 0, "category_id": classes, "bbox": [0, 0, 1, 1], "score": 0.5}
        nothing |= {"keypoints": [0, 0, 1]} if keypoints else {}
        given = ground.loadRes(_without_box(results, kind) or [nothing])
        evaluation = COCOeval(ground, given, kind)
        if keypoints:
            evaluation.params.kpt_oks_sigmas = np.array(keypoints["sigmas"])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [size], ["judged"]
        evaluation.params.maxDets = [20 if keypoints else 100]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]
    return np.where(precision[:, 0] == -1, np.nan, precision.mean(axis=1))


def _more(masks, keypoints, whose, image, at):
    if masks:
        return {"segmentation": masks[whose][image][at]}
    if not keypoints:
        return {}
    points = keypoints[whose][image][at]
    more = {"keypoints": points.ravel().tolist()}
    if whose == "truth":
        more["num_keypoints"] = int((points[:, 2] > 0).sum())
        more["area"] = float(keypoints["areas"][image][at])
    return more


def _without_box(results, kind):
    """Make loadRes take an entry for boxes alone, as it does for anything that has a box."""
    if kind == "bbox":
        return results
    return [{name: value for name, value in one.items() if name != "bbox"} for one in results]


def _xywh(box):
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]
