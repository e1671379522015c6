"""The models that `scan.py` measures, and their samples: in another order, fewer of them, or read
anew on each pass."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.tasks.base import Batches, Task
from sensitivity.tasks.batches import batch_size
from sensitivity.tasks.load import load_task

EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    reference: a task whose `rank` holds all images.
    points: the loss against float that a plan may have, in hundredths of the metric's full scale.
    """

    name: str
    reference: str
    points: float


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("mobilenet_v1", f"{EXAMPLES}/01_mobilenet/task.py:all_images", 1.0),
        Subject("resnet20", f"{EXAMPLES}/02_resnet20/task.py:all_images", 1.0),
        Subject("yolov8n", f"{EXAMPLES}/03_yolov8n/task.py:all_images", 0.3),
    )
}
YOLO_SIZE = "320"


def loaded(reference: str, device: str = "cpu") -> Task:
    os.environ["YOLOV8N_SIZE"] = YOLO_SIZE  # read when the example is imported
    task = load_task(reference)
    assert isinstance(task, Task), "the benchmark needs per-sample scores"
    task.model.to(device)
    return task


@dataclass(frozen=True)
class Anew:
    """Batches of which nothing is kept from one pass to the next, as with a DataLoader over image
    files."""

    batches: Any
    order: Sequence[int]

    def __len__(self) -> int:
        return len(taken(self.batches, self.order))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(taken(self.batches, self.order))


def read_anew(task: Task, samples: int | None) -> Task:
    """The task with the first `samples` samples of its `rank`; None takes all of them."""
    return replace(
        task, data={**task.data, "rank": Anew(task.data["rank"], range(samples or count(task)))}
    )


def reordered(task: Task, seed: int, samples: int) -> Task:
    """`samples` samples of `rank` in a random order, to rank and to confirm, and one batch of them
    as holdout.

    If there are more samples, the first ones are used; if there are fewer, each is repeated as
    often as needed. What has been decoded to rank is kept to confirm, as in a user's run.
    """
    order = np.random.default_rng(seed).permutation(np.arange(samples) % count(task))
    batches = taken(task.data["rank"], order.tolist())
    return replace(
        task, data={"rank": batches, "confirm": batches, "holdout": [next(iter(batches))]}
    )


def count(task: Task) -> int:
    batches: Any = task.data["rank"]
    if isinstance(batches, Anew):
        return len(batches.order)
    if hasattr(batches, "images"):
        return len(getattr(batches.images, "files", batches.images))
    return sum(batch_size(inputs) for inputs, _ in batches)


def taken(batches: Any, order: Sequence[int]) -> Batches:
    """These samples in this order, with nothing decoded yet.

    batches: of one of the project's image tasks, or of tensors.
    """
    if isinstance(batches, Anew):
        return taken(batches.batches, [batches.order[at] for at in order])
    if hasattr(batches, "images"):
        images = batches.images
        chosen = images.take(order) if hasattr(images, "take") else [images[at] for at in order]
        fresh: Batches = replace(batches, images=chosen, _kept={})
        return fresh
    return _tensors(batches, order)


def _tensors(batches: Any, order: Sequence[int]) -> Batches:
    import torch

    inputs, targets = (torch.cat(parts)[list(order)] for parts in zip(*batches, strict=True))
    size = batch_size(next(iter(batches))[0])
    return [(inputs[at : at + size], targets[at : at + size]) for at in range(0, len(order), size)]
