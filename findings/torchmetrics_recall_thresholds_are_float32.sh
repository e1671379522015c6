#!/usr/bin/env bash
# torchmetrics 1.9.0: MeanAveragePrecision makes its 101 recall thresholds in float32, and
# pycocotools gets 0.8000000119 for 0.8 and 0.6999999881 for 0.7. A class with 4 of 5 or 7 of 10
# objects found has just that recall, and counts one threshold less, or one more: its AP is off by
# one part of 101 from that of pycocotools for the same boxes, with both backends. In small
# validation sets that is as much as INT8 costs. rec_thresholds=numpy.linspace(0, 1, 101).tolist()
# gives COCO's numbers.
#
# Seen, with only right boxes found: 4 of 5 are 0.8020 in pycocotools and 0.7921 in torchmetrics, 7
# of 10 are 0.6931 and 0.7030; both agree for 5 of 10, and for all three with thresholds of float64.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 torchvision==0.28.0 torchmetrics==1.9.0 \
    pycocotools==2.0.11 faster-coco-eval==1.8.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import contextlib
import io
import sys
import types

import numpy as np
import torch

# Wheels of torch and torchvision of different builds do not load together; no operator of
# torchvision is used here, and this module is the one that asks for them.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("unused")
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision


def with_pycocotools(boxes, found):
    sizes = [[float(x), float(y), float(a - x), float(b - y)] for x, y, a, b in boxes]
    shared = {"image_id": 1, "category_id": 1}
    notes = [
        {**shared, "id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for number, box in enumerate(sizes, 1)
    ]
    seen = [{**shared, "bbox": box, "score": 0.9 - n / 100} for n, box in enumerate(sizes[:found])]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": 1, "width": 640, "height": 640}],
            "categories": [{"id": 1, "name": "a"}],
            "annotations": notes,
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(seen), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])


def with_torchmetrics(boxes, found, **options):
    metric = MeanAveragePrecision(**options)
    places = torch.tensor(boxes, dtype=torch.float32)
    scores = torch.tensor([0.9 - n / 100 for n in range(found)])
    labels = torch.ones(len(boxes), dtype=torch.long)
    seen = {"boxes": places[:found], "scores": scores, "labels": labels[:found]}
    metric.update([seen], [{"boxes": places, "labels": labels}])
    return float(metric.compute()["map"])


exact = {"rec_thresholds": np.linspace(0, 1, 101).tolist()}
for objects, found, more in ((10, 5, 0), (5, 4, -1), (10, 7, 1)):
    boxes = [[20 * n, 0, 20 * n + 10, 10] for n in range(objects)]
    wanted = with_pycocotools(boxes, found)
    found_by = {
        backend: with_torchmetrics(boxes, found, backend=backend)
        for backend in ("pycocotools", "faster_coco_eval")
    }
    repaired = with_torchmetrics(boxes, found, **exact)
    print(f"{found} of {objects}: pycocotools {wanted:.4f}, float64 {repaired:.4f}, {found_by}")
    assert abs(repaired - wanted) < 1e-6
    for value in found_by.values():
        assert abs(value - wanted - more / 101) < 1e-6, "that changed"
PY
