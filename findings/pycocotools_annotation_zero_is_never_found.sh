#!/usr/bin/env bash
# pycocotools 2.0.11: COCOeval marks a detection as matched with the id of the annotation, and takes
# 0 for "matched nothing". An annotation whose id is 0, as in files that number from 0, can never be
# found: its detection counts as a false positive and the object as missed. Nothing is said.
# faster-coco-eval 1.8.0 gives the same numbers, and warns.
#
# Seen: three images with an object each, all found exactly: mAP 1 with ids from 1, 0.44 with ids
# from 0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pycocotools==2.0.11 faster-coco-eval==1.8.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import contextlib
import io
import warnings

import faster_coco_eval
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

BOX = [10, 10, 20, 20]


def judged(first, coco, evaluator):
    """mAP of perfect detections, and whether anything is said about ids."""
    images = [{"id": number, "width": 100, "height": 100} for number in range(3)]
    objects = [
        {"id": first + image["id"], "image_id": image["id"], "category_id": 1, "bbox": BOX,
         "area": 400, "iscrowd": 0}
        for image in images
    ]
    found = [{"image_id": n, "category_id": 1, "bbox": BOX, "score": 0.9} for n in range(3)]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        truth = coco()
        truth.dataset = {
            "info": {}, "images": images, "annotations": objects,
            "categories": [{"id": 1, "name": "thing"}],
        }
        truth.createIndex()
        judge = evaluator(truth, truth.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return round(float(judge.stats[0]), 2), any("id 0" in str(one.message) for one in said)


for first in (1, 0):
    theirs = judged(first, COCO, COCOeval)
    other = judged(first, faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster)
    print(f"ids from {first}: mAP {theirs[0]} in pycocotools, {other[0]} in faster-coco-eval,"
          f" which {'warns' if other[1] else 'says nothing'}")
    assert theirs == ((1.0, False) if first else (0.44, False)), "that changed"
    assert other == ((1.0, False) if first else (0.44, True)), "that changed"
PY
