"""Someone else's tools judge the exported files: suppression of ultralytics, mAP of pycocotools, in
ONNX Runtime.

    python examples/03_yolov8n/judge.py runs/yolov8n --annotations coco/val/instances.json
    python examples/03_yolov8n/judge.py runs/yolov8n --annotations coco/val/instances.json --images
    holdout --pixels opencv

Runs the files in ONNX Runtime without its optimizations, and puts their mAP beside what the report
says: of the files on the images that they were verified on, or of the simulated models on `confirm`
or `holdout`. With `--pixels run` they get the arrays that the run measured; with `--pixels opencv`
OpenCV reads and ultralytics letterboxes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from sensitivity.records import SPLITS
from sensitivity.steps.export import METRIC_BATCHES
from sensitivity.tasks.load import load_task
from sensitivity.workflows.yolo_weights import ultralytics

CONFIDENCE, OVERLAP, MOST = 0.001, 0.7, 300
SIMULATED = {
    "confirm": {"float": "float", "partial": "confirm"},
    "holdout": {"float": "holdout_float", "partial": "holdout"},
}
"""Where plan.json has the metric of each variant. That of int8 there may be of other ranges than
the file's."""

Batches = Iterator[tuple[Sequence[Path], np.ndarray]]
"""Image files, and float32[n, 3, size, size] of them."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--annotations", type=Path, required=True, help="the COCO JSON of the images"
    )
    parser.add_argument("--images", default="verified", choices=("verified", *SIMULATED))
    parser.add_argument("--pixels", default="run", choices=("run", "opencv"))
    settings = parser.parse_args()
    ultralytics()
    data = load_task(f"{settings.run / 'task.py'}:task").data
    for variant, told in reported(settings.run, settings.images).items():
        batches = measured(data, settings.images)
        if settings.pixels == "opencv":
            batches = read_again(batches)
        found, count = judged(settings.run / f"model.{variant}.onnx", batches, settings.annotations)
        print(
            f"{variant}: mAP50-95 {100 * found:.2f} % on {count} images, the report says "
            f"{100 * told:.2f} %, apart by {100 * abs(found - told):.2f} points",
            flush=True,
        )


def reported(run: Path, images: str) -> dict[str, float]:
    """Variant -> what the report has for these images."""
    if images == "verified":
        checks = json.loads((run / "export.json").read_text())["files"]
        return {check["variant"]: check["metric"]["file"] for check in checks if check["metric"]}
    metric = json.loads((run / "plan.json").read_text())["metric"]
    return {variant: metric[key]["value"] for variant, key in SIMULATED[images].items()}


def measured(data: Any, images: str) -> Batches:
    """As the run measured them; files were verified on the first batches of each split."""
    splits, most = (SPLITS, METRIC_BATCHES) if images == "verified" else ((images,), None)
    for split in splits:
        for number, (inputs, _) in enumerate(islice(data[split], most)):
            start = number * data[split].batch
            yield (
                [image.file for image in data[split].images[start : start + len(inputs)]],
                inputs.numpy(),
            )


def read_again(batches: Batches) -> Batches:
    import cv2
    from ultralytics.data.augment import LetterBox

    for files, inputs in batches:
        box = LetterBox(inputs.shape[2:], auto=False, scaleup=True)
        pixels = np.stack([box(image=cv2.imread(str(file), cv2.IMREAD_COLOR)) for file in files])
        yield files, np.ascontiguousarray(pixels[..., ::-1].transpose(0, 3, 1, 2), np.float32) / 255


def judged(file: Path, batches: Batches, annotations: Path) -> tuple[float, int]:
    """mAP50-95 of a file, 0..1, and on how many images."""
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import scale_boxes

    content = json.loads(annotations.read_text())
    known = {image["file_name"]: image for image in content["images"]}
    classes = sorted(category["id"] for category in content["categories"])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options)
    seen, results = [], []
    for files, inputs in batches:
        (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs})
        kept = non_max_suppression(
            torch.from_numpy(outputs),
            CONFIDENCE,
            OVERLAP,
            multi_label=True,
            max_det=MOST,
            max_time_img=60.0,
        )
        for name, found in zip((file.name for file in files), kept, strict=True):
            image = known[name]
            seen.append(image["id"])
            found[:, :4] = scale_boxes(
                inputs.shape[2:], found[:, :4], (image["height"], image["width"])
            )
            for x1, y1, x2, y2, confidence, label in found.tolist():
                results.append(
                    {"image_id": image["id"], "category_id": classes[int(label)],
                     "score": confidence,
                     "bbox": [x1, y1, x2 - x1, y2 - y1]}
                )  # fmt: skip
    return coco_map(annotations, seen, results), len(seen)


def coco_map(annotations: Path, images: Iterable[int], results: list[dict[str, Any]]) -> float:
    """mAP50-95 of pycocotools on these images, 0..1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.params.imgIds = list(images)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])


if __name__ == "__main__":
    main()
