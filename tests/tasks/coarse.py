"""A task whose weights are on so coarse grids that channels give too much or too little on average:
what corrected biases mend, and other ranges do not."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.models import quantized
from tasks.tiny import balanced, images, labelled, top1

from sensitivity import Task

COARSE = ("conv2", "conv3", "conv4")


def task() -> Task:
    calibrated = quantized(balanced(), images(8, seed=9))
    for name in COARSE:
        calibrated.get_submodule(name).weight_quantizer.amax *= 24
    data = {
        split: labelled(80, seed, balanced())
        for seed, split in enumerate(("calib", "rank", "confirm", "holdout"))
    }
    return Task(calibrated, data, top1, metric="top-1")
