"""The task of `coarse`, quantized by PT2E."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from support.pt2e_models import quantized_by_pt2e
from tasks.tiny import balanced, images, labelled, top1

from sensitivity import Task

COARSE = ("conv2.weight", "conv3.weight", "conv4.weight")


def task() -> Task:
    calibrated = quantized_by_pt2e(balanced(), images(80, seed=9), fold=False)
    for node in calibrated.graph.nodes:
        is_pair = node.target is torch.ops.quantized_decomposed.quantize_per_channel.default
        if is_pair and node.args[0].target in COARSE:
            getattr(calibrated, node.args[1].target).mul_(24)
    data = {
        split: labelled(80, seed, balanced())
        for seed, split in enumerate(("calib", "rank", "confirm", "holdout"))
    }
    return Task(calibrated, data, top1, metric="top-1")
