#!/usr/bin/env bash
# pycocotools 2.0.11: with another largest number of boxes per image than 100 (params.maxDets, say
# 300 as detectors without suppression give), COCOeval's mAP is -1, the value that stands for "no
# object of this kind". summarize() looks for the column of 100 boxes for this number alone; AP50,
# AP75 and the rest are right. faster-coco-eval 1.8.0 takes the largest number for all of them.
#
# Seen: with [1, 10, 300] mAP is -1 beside AP50 1 in pycocotools, and 1 in faster-coco-eval; with
# [1, 10, 100] both are 1 in both.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pycocotools==2.0.11 faster-coco-eval==1.8.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import contextlib
import io

import faster_coco_eval
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

BOX = [10, 10, 20, 20]


def judged(most, coco, evaluator):
    """mAP and AP50 of a perfect detection, up to so many boxes an image."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco()
        truth.dataset = {
            "info": {}, "images": [{"id": 1, "width": 100, "height": 100}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX,
                             "area": 400, "iscrowd": 0}],
            "categories": [{"id": 1, "name": "thing"}],
        }
        truth.createIndex()
        found = [{"image_id": 1, "category_id": 1, "bbox": BOX, "score": 0.9}]
        judge = evaluator(truth, truth.loadRes(found), "bbox")
        judge.params.maxDets = [1, 10, most]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [round(float(value), 3) for value in judge.stats[:2]]


for most in (100, 300):
    theirs = judged(most, COCO, COCOeval)
    other = judged(most, faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster)
    print(f"up to {most} boxes: mAP and AP50 {theirs} in pycocotools, {other} in faster-coco-eval")
    assert other == [1, 1]
    assert theirs == ([1, 1] if most == 100 else [-1, 1]), "that changed"
PY
