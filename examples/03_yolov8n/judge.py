"""Someone else's tools judge the exported files: letterbox and suppression of ultralytics, mAP of pycocotools.

    python examples/03_yolov8n/judge.py runs/yolov8n --images holdout

Runs each ONNX file in ONNX Runtime without its optimizations, on the images of a split of the run, and puts the result
beside what the plan says. Shares no code with the measurement but the list of the images.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from sensitivity.tasks.load import load_task
from sensitivity.workflows.yolo_weights import ultralytics

CONFIDENCE, OVERLAP, MOST = 0.001, 0.7, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", default="holdout", choices=("rank", "confirm", "holdout"))
    parser.add_argument("--annotations", type=Path, required=True, help="the COCO JSON of these images")
    settings = parser.parse_args()
    ultralytics()
    split = load_task(f"{settings.run / 'task.py'}:task").data[settings.images]
    names = {image.file.name for image in split.images}
    found = {}
    for variant in ("float", "int8", "partial"):
        file = settings.run / f"model.{variant}.onnx"
        found[variant] = coco_map(
            settings.annotations, names, detections(file, settings.annotations, names, split.size)
        )
        print(
            f"{variant}: mAP50-95 {100 * found[variant]:.2f} % on {len(names)} images of {settings.images}", flush=True
        )
    plan = json.loads((settings.run / "plan.json").read_text())["metric"]
    reported = {"float": plan["holdout_float"]["value"], "partial": plan["holdout"]["value"]}
    if settings.images == "holdout":
        for variant, value in reported.items():
            print(
                f"{variant}: the report says {100 * value:.2f} %, apart by {100 * abs(value - found[variant]):.2f} points"
            )


def detections(file: Path, annotations: Path, names: set[str], size: int) -> list[dict[str, Any]]:
    """What the file finds in each image, as COCO results. Images are read by OpenCV."""
    import cv2
    from ultralytics.data.augment import LetterBox
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import scale_boxes

    content = json.loads(annotations.read_text())
    classes = sorted(category["id"] for category in content["categories"])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options)
    box = LetterBox((size, size), auto=False, scaleup=True)
    results = []
    for image in content["images"]:
        if image["file_name"] not in names:
            continue
        pixels = cv2.imread(str(annotations.parent / "images" / image["file_name"]), cv2.IMREAD_COLOR)
        inputs = box(image=pixels)[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
        (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs})
        kept = non_max_suppression(
            torch.from_numpy(outputs), CONFIDENCE, OVERLAP, multi_label=True, max_det=MOST, max_time_img=10.0
        )[0]
        kept[:, :4] = scale_boxes((size, size), kept[:, :4], pixels.shape)
        for x1, y1, x2, y2, confidence, label in kept.tolist():
            results.append(
                {"image_id": image["id"], "category_id": classes[int(label)], "score": confidence,
                 "bbox": [x1, y1, x2 - x1, y2 - y1]}
            )  # fmt: skip
    return results


def coco_map(annotations: Path, names: set[str], results: list[dict[str, Any]]) -> float:
    """mAP50-95 of pycocotools on these images, 0..1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.params.imgIds = [image["id"] for image in truth.dataset["images"] if image["file_name"] in names]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])


if __name__ == "__main__":
    main()
