#!/usr/bin/env bash
# mean-average-precision 2024.1.5.0: objects of an image may be marked as difficult; to find or to
# miss one counts nothing in Pascal VOC. Here each of them counts as missed, also when it is found.
# And the marks are laid out as if they belonged to the found boxes instead of the objects: with two
# of each, the first box meets the first mark, whatever it lies on. In the mode for COCO
# (mpolicy="soft"), boxes are a pixel wider and higher than they are, as in Pascal VOC; COCO's are
# not. Nothing is said.
#
# Seen: of an easy and a difficult object, both found, AP is 0.5 instead of 1. In the order of the
# objects the easy one is the one that counts; with the boxes in the other order, and the scores as
# before, it is left out and the difficult one counts. In the mode for COCO a box that covers 0.48
# of an object of 10 x 10 pixels is right at 0.5, and one that covers a tenth, where an object
# measures 1 x 1.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mean-average-precision==2024.1.5.0 pandas==3.1.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
from mean_average_precision import MetricBuilder

EASY, DIFFICULT = [10, 10, 50, 50], [100, 100, 150, 150]


def judged(found, objects, **mode):
    """Average precision, and which of the found boxes, by falling score, counted as right."""
    judge = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=1)
    judge.add(np.array(found, "f8"), np.array(objects, "f8"))
    seen = judge.value(iou_thresholds=0.5, **mode)[0.5][0]
    return float(seen["ap"]), (np.diff(seen["recall"], prepend=0) > 0).tolist()


objects = [[*EASY, 0, 0, 0], [*DIFFICULT, 0, 1, 0]]
easy, difficult = [*EASY, 0, 0.9], [*DIFFICULT, 0, 0.8]
for found, right in (([easy, difficult], [True, False]), ([difficult, easy], [False, True])):
    seen = judged(found, objects)
    print(f"boxes {found}: AP {seen[0]}, easy and difficult count: {seen[1]}")
    assert seen == (0.5, right), "that changed"
assert judged([easy], objects[:1]) == (1.0, [True])

thresholds = np.linspace(0, 1, 101)
for size, covered in ((10, 0.48), (1, 0.1)):
    found = [[0, 0, size, size * covered, 0, 0.9]]
    coco = {"mpolicy": "soft", "recall_thresholds": thresholds}
    seen = judged(found, [[0, 0, size, size, 0, 0, 0]], **coco)
    print(f"an object of {size} x {size}, covered {covered}: AP {seen[0]:.2f} at 0.5")
    assert seen[0] > 0.99, "that changed"
PY
