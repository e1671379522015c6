#!/usr/bin/env bash
# tidecv 1.0.1: COCO's mAP is the mean over the classes of which the images hold an object. TIDE
# also counts a class that was only found, never there, and gives it an AP of 0. On a part of a data
# set, where most classes have no object, one weak false box for each divides mAP by the number of
# classes; its table then calls a detector bad that COCO calls good. Nothing is said.
#
# Seen: one object, found exactly, and a false box of score 0.01 of each of nine other classes: mAP
# at an IoU of 0.5 is 10 instead of 100 percent; with objects of all classes both agree.
# pycocotools 2.0.11 gives 100.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tidecv==1.0.1 pycocotools==2.0.11 numpy==2.4.6 pandas==3.1.1 \
    seaborn==0.13.2 matplotlib==3.11.2 opencv-python==5.0.0.93 appdirs==1.4.4
cd "$work"
HOME="$work" "$work/venv/bin/python" - <<'PY'
import contextlib
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tidecv import TIDE, Data

CLASSES = range(1, 11)
BOX, AWAY = [10, 10, 50, 50], [120, 120, 40, 40]


def by_tide(objects, boxes):
    truth, found = Data("truth"), Data("found")
    for number in CLASSES:
        truth.add_class(number, str(number))
    for image in (1, 2):
        truth.add_image(image, str(image))
    for image, kind, box in objects:
        truth.add_ground_truth(image, kind, box)
    for image, kind, box, score in boxes:
        found.add_detection(image, kind, score, box)
    return TIDE().evaluate(truth, found, pos_threshold=0.5, mode=TIDE.BOX).ap


def by_pycocotools(objects, boxes):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {}, "images": [{"id": n, "width": 200, "height": 200} for n in (1, 2)],
            "categories": [{"id": number, "name": str(number)} for number in CLASSES],
            "annotations": [
                {"id": n + 1, "image_id": image, "category_id": kind, "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0}
                for n, (image, kind, box) in enumerate(objects)
            ],
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes([
            {"image_id": image, "category_id": kind, "bbox": box, "score": score}
            for image, kind, box, score in boxes
        ]), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return 100 * float(judge.stats[1])


one = [(1, 1, BOX)]
every = [*one, *((2, kind, AWAY) for kind in CLASSES if kind > 1)]
exact = [(1, 1, BOX, 0.9)]
false = [(1, kind, AWAY, 0.01) for kind in CLASSES if kind > 1]
for objects, boxes, title in ((one, exact, "one class, found"), (every, [*exact, *false], "all there"),
                              (one, [*exact, *false], "one there, ten found")):
    wanted, seen = by_pycocotools(objects, boxes), by_tide(objects, boxes)
    print(f"{title}: mAP at 0.5 is {wanted:.1f} in pycocotools, {seen:.1f} in TIDE")
    if title == "one there, ten found":
        assert abs(wanted - 100) < 0.01 and abs(seen - 10) < 0.01, "that changed"
    else:
        assert abs(wanted - seen) < 0.01
PY
