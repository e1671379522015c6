"""One plan of `promise.py`: scan and plan on one draw of the splits, then score the plan on images
that are in no split.

It runs in a separate process whose PYTHONPATH names the build. It uses only the public, stable API
of the build, so that it can run with an old build too. Builds before the API plan by their command
line, and plans of ModelOpt models are then applied here.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"
MOBILENET_SIZES = {"rank": 250, "confirm": 250, "holdout": 50, "unseen": 250}
"""Sizes of the splits, out of the 800 images that are not used for calibration."""

VIEWS = ((16, 16, False), (16, 16, True), (4, 24, False), (28, 8, True))
"""Views of each unseen image: top and left of the crop in its middle 256 pixels, and whether it is
mirrored. The first is the usual crop. An eighth of 250 images change their answer, so a drop that
is counted once on each image is known to 3.6 points only; each view is nearly another image."""

RESNET_SIZES = {"rank": 300, "confirm": 250, "holdout": 250, "unseen": 1200}
REPVGG_SIZES = {"rank": 250, "confirm": 250, "holdout": 50, "unseen": 447}
REPVGG_EPOCHS = 10
"""Epochs of training. The demo of an older build has others, and all builds get the same model."""

YOLO_SIZES = {"rank": 40, "confirm": 50, "holdout": 10, "unseen": 100}
YOLO_SIDE = 320
"""The side of YOLOv8n's input in pixels. At 640 a draw takes four times as long."""


@dataclass(frozen=True)
class Drawn:
    """A task with drawn splits, the user's own float model, and the samples that are in no split as
    batches of each view."""

    task: Any
    float_model: Any
    unseen: Sequence[Any]


def mobilenet_v1(draw: int) -> Drawn:
    from sensitivity.tasks.classification import ImageBatches, classification_task, random_parts

    example = _example("01_mobilenet")
    images = example.imagenet()
    calibration = range(example.CALIBRATION_IMAGES)
    others = images.take(range(len(calibration), len(images.files)))
    at = random_parts(len(others.files), MOBILENET_SIZES, seed=draw)
    unseen = others.take(at.pop("unseen"))
    parts = {name: example.batches(others.take(at[name])) for name in at}
    calib = example.batches(images.take(calibration))
    task = classification_task(example.calibrated(calib), {"calib": calib, **parts})
    views = [ImageBatches(unseen, partial(seen_from, view), batch=50) for view in VIEWS]
    return Drawn(task, example.float_model(), views)


def seen_from(view: tuple[int, int, bool], image: Any) -> Any:
    """A Pillow image as the network takes it, in one of VIEWS."""
    from PIL import ImageOps

    from sensitivity.tasks.images import centre_crop

    top, left, mirrored = view
    left, top = left + (image.width - 256) // 2, top + (image.height - 256) // 2
    part = image.crop((left, top, left + 224, top + 224))
    return centre_crop(224)(ImageOps.mirror(part) if mirrored else part)


def resnet20(draw: int) -> Drawn:
    from sensitivity.tasks.classification import (
        classification_task,
        images_by_class,
        random_parts,
    )

    example = _example("02_resnet20")
    images = images_by_class(example.assets() / "cifar10/test")
    at = random_parts(len(images.files), RESNET_SIZES, seed=draw)
    parts = {name: example.batches(images.take(at[name])) for name in at}
    calib = example.batches(images_by_class(example.assets() / "cifar10/train"))
    unseen = parts.pop("unseen")
    task = classification_task(example.calibrated(), {"calib": calib, **parts})
    return Drawn(task, example.float_model(), [unseen])


def repvgg(draw: int) -> Drawn:
    import numpy as np

    from sensitivity.tasks.classification import ArrayBatches, classification_task, random_parts
    from sensitivity.workflows import demo

    splits = demo.digits()
    others = [splits[name] for name in ("rank", "confirm", "holdout")]
    x, y = (np.concatenate([getattr(split, axis) for split in others]) for axis in "xy")
    at = random_parts(len(x), REPVGG_SIZES, seed=draw)
    parts = {name: ArrayBatches(x[at[name]], y[at[name]], 50) for name in at}
    unseen, calib = parts.pop("unseen"), splits["calib"]
    float_model = _trained_repvgg(splits["train"])
    model = demo.calibrated(copy.deepcopy(float_model), calib)
    return Drawn(classification_task(model, {"calib": calib, **parts}), float_model, [unseen])


def _trained_repvgg(split: Any) -> Any:
    """The model of `sensitivity demo`, the same with each build."""
    import torch

    from sensitivity.workflows import demo
    from sensitivity.workflows.repvgg import RepVGG, repeatable, train

    with repeatable(demo.SEED):
        model = RepVGG(demo.WIDTH, demo.DEPTHS, classes=10)
        for weight in model.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        x, y = torch.from_numpy(split.x), torch.from_numpy(split.y)
        rate, decay = demo.RATE, demo.DECAY
        train(model, x, y, epochs=REPVGG_EPOCHS, rate=rate, decay=decay, seed=demo.SEED)
        return model.plain().eval()


def yolov8n(draw: int) -> Drawn:
    from sensitivity.tasks.classification import random_parts
    from sensitivity.tasks.detection import ImageBatches, detection_task

    example = _example("03_yolov8n")
    labels = example.coco("val")
    at = random_parts(len(labels.images), YOLO_SIZES, seed=draw)
    parts = {name: [labels.images[number] for number in at[name]] for name in at}
    unseen = ImageBatches(parts.pop("unseen"), size=YOLO_SIDE, batch=8)
    model = example.int8_model(YOLO_SIDE)
    task = detection_task(model, parts, labels.names, size=YOLO_SIDE)
    return Drawn(task, example.float_model(), [unseen])


MODELS: dict[str, Callable[[int], Drawn]] = {
    "mobilenet_v1": mobilenet_v1,
    "resnet20": resnet20,
    "repvgg": repvgg,
    "yolov8n": yolov8n,
}


def rows(model: str, draw: int, targets: Sequence[str], out: Path) -> Iterator[dict[str, Any]]:
    """One row for each target. Its `lost` is float's score minus the plan's for each sample in no
    split, the mean of its views.

    out: the run directory. If it holds a scan of the same task, that scan is planned from.
    """
    import sensitivity as sv

    start = time.perf_counter()
    drawn = MODELS[model](draw)
    float_scores = scores(drawn, drawn.float_model)
    plans = by_api if hasattr(sv, "plan") else partial(by_commands, model, draw)
    for target, (planned, facts) in zip(targets, plans(drawn, targets, out), strict=True):
        plan_scores = scores(drawn, planned)
        yield {
            "draw": draw,
            "target": target,
            **facts,
            "ms_vs_int8": None,
            "lost": [a - b for a, b in zip(float_scores, plan_scores, strict=True)],
            "seconds": round(time.perf_counter() - start, 1),
        }


def by_api(drawn: Drawn, targets: Sequence[str], out: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The model as planned and the plan's own figures, for each target."""
    import sensitivity as sv

    if not (out / "scan.json").exists():
        sv.scan(drawn.task, out=out)
    for target in targets:
        found = sv.plan(out, task=drawn.task, max_drop=target, search=True)
        with found.apply(drawn.task.model) as planned:
            yield planned, evidence(found)


def by_commands(
    model: str, draw: int, drawn: Drawn, targets: Sequence[str], out: Path
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The same by the commands of a build that has no Python API, which draw the task again."""
    if not (out / "scan.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        task = out.with_suffix(".py")
        task.write_text(TASK.format(folder=str(Path(__file__).parent), model=model, draw=draw))
        _command("scan", f"{task}:task", "--out", str(out))
    for target in targets:
        _command("plan", str(out), "--max-drop", target, "--search")
        plan = json.loads((out / "plan.json").read_text())
        yield with_plan(drawn.task.model, plan), evidence_of(plan)


TASK = """
import sys
sys.path.insert(0, {folder!r})
from promise_draw import MODELS
def task():
    return MODELS[{model!r}]({draw}).task
"""


def _command(*words: str) -> None:
    """Run a command of the build. Its code is 2 if the target is missed."""
    done = subprocess.run([sys.executable, "-P", "-m", "sensitivity", *words])  # noqa: S603
    if done.returncode not in (0, 2):
        raise RuntimeError(f"{shlex.join(words)} failed with code {done.returncode}.")


def with_plan(model: Any, plan: dict[str, Any]) -> Any:
    """A copy of a ModelOpt model with the ranges of a plan, and without its quantizers."""
    import torch

    planned = copy.deepcopy(model)
    for unit in plan["recalibrated"]:
        for new in unit["ranges"]:
            quantizer = planned.get_submodule(new["quantizer"])
            quantizer.amax = torch.tensor(new["amax"]).reshape(quantizer.amax.shape)
    for name in plan["quantizers"]:
        planned.get_submodule(name).disable()
    return planned


def evidence_of(plan: dict[str, Any]) -> dict[str, Any]:
    """The same figures as `evidence` from plan.json of an old build, which has no verdict."""
    metric = plan["metric"]
    return {
        "status": "met" if plan["met"] else "missed",
        "skipped": len(plan["skip"]),
        "skip": plan["skip"],
        "repaired": len(plan["recalibrated"]),
        "confirm_drop": metric["float"]["value"] - metric["confirm"]["value"],
    }


def evidence(found: Any) -> dict[str, Any]:
    """The plan's own figures."""
    record = found.record
    return {
        "status": found.verdict.accuracy,
        "skipped": len(found.skip),
        "skip": list(found.skip),
        "repaired": len(record.recalibrated),
        "confirm_drop": record.metric.float.value - record.metric.confirm.value,
    }


def scores(drawn: Drawn, model: Any) -> list[float]:
    """The mean score of the views of each sample in no split. For a metric that is not a mean, such
    as mAP, these are the jackknife values whose mean it is."""
    import numpy as np
    import torch

    from sensitivity.stats.jackknife import pseudo_values

    found: list[list[float]] = []
    with torch.no_grad():
        for batches in drawn.unseen:
            scored = [drawn.task.score(model(inputs), targets) for inputs, targets in batches]
            rows = np.concatenate(scored)
            if rows.ndim > 1:
                rows = pseudo_values(rows, drawn.task.aggregate)
            found.append(rows.tolist())
    return [sum(views) / len(views) for views in zip(*found, strict=True)]


def _example(folder: str) -> Any:
    sys.path.insert(0, str(EXAMPLES / folder))
    return importlib.import_module("task")


def main() -> None:
    parser = argparse.ArgumentParser(description="One plan, judged on images in no split.")
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("draw", type=int)
    parser.add_argument("file", type=Path, help="for the rows, as JSON")
    parser.add_argument("out", type=Path, help="run directory")
    parser.add_argument("targets", nargs="+")
    given = parser.parse_args()
    given.file.write_text(json.dumps(list(rows(given.model, given.draw, given.targets, given.out))))


if __name__ == "__main__":
    main()
