"""What each repair gives, one on top of the other, with MobileNetV1 x0.25 all in INT8.

    python benchmarks/fine_tuning.py
    python benchmarks/fine_tuning.py --source pt2e

Repairs are fitted on the 200 images of calibration and measured on the 800 others. The drop is
counted on four views of each, as in `promise.py`: counted once it is known to 1.2 points only.
Needs SENSITIVITY_ASSETS.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from promise_draw import VIEWS, seen_from
from torch.nn import functional

from sensitivity.exporters.torch_model import even_links
from sensitivity.opened import quantized_model
from sensitivity.records import Range, names_of
from sensitivity.repairs.bias import bias_corrections
from sensitivity.repairs.equalization import equalized_ranges
from sensitivity.repairs.rounding import learned_roundings
from sensitivity.repairs.samples import calibration_parts
from sensitivity.repairs.training import is_tunable
from sensitivity.repairs.tuning import Limits, fine_tuned
from sensitivity.signals.distillation import distillation_loss
from sensitivity.stats.paired import paired_effect
from sensitivity.tasks.classification import ImageBatches
from sensitivity.timing.environment import environment

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.scripts import load_script

Ranges = dict[str, Range]
Row = dict[str, Any]
TASKS = {
    "modelopt": "examples/01_mobilenet/task.py",
    "pt2e": "examples/01_mobilenet/task_pt2e.py",
}
"""Toolkit -> script that quantizes MobileNetV1 with it, on the same images."""


def repairs(source: Any, batches: Sequence[Any], steps: int) -> Iterator[tuple[str, Ranges]]:
    """Yield each repair in words, with all ranges that replace those of the model."""
    parts = calibration_parts(batches)
    names = names_of(source.quantizers)
    yield "none: max ranges, as calibrated", {}

    def forward() -> None:
        with torch.no_grad():
            for batch in batches:
                source.model(batch)

    found = source.other_ranges(names, forward)
    ranges = {one.quantizer: one for one in found if one.method == "mse"}
    yield "MSE ranges", ranges
    links = even_links(source, batches[0][:2])
    ranges = ranges | _by_name(equalized_ranges(source, list(links), parts))
    yield "and equalized activations", ranges
    yield (
        "and corrected biases",
        ranges | _by_name(bias_corrections(source, parts, ranges=ranges.values())),
    )
    ranges = ranges | _by_name(learned_roundings(source, parts, ranges=ranges.values()))
    yield "and learned rounding (with biases)", ranges
    if not is_tunable(source):
        return
    yield (
        "and fine-tuning",
        ranges
        | _by_name(
            fine_tuned(
                source,
                parts,
                ranges=ranges.values(),
                loss_of=distillation_loss,
                limits=Limits(steps=steps),
            )
        ),
    )


def _by_name(found: Sequence[Range]) -> Ranges:
    return {one.quantizer: one for one in found}


def outputs(model: Any, images: Any) -> torch.Tensor:
    """Return the logits of all images."""
    with torch.no_grad():
        return torch.cat([model(inputs) for inputs, _ in images])


def row(name: str, views: torch.Tensor, wanted: torch.Tensor, labels: torch.Tensor) -> Row:
    """Return what a repair gives against float.

    views, wanted: logits of the variant and of float (views, images, classes); the first view is
        the usual crop.
    """
    logits, float_ = views[0], wanted[0]
    divergence = functional.kl_div(
        logits.log_softmax(1), float_.log_softmax(1), log_target=True, reduction="batchmean"
    )
    answers, own = logits.argmax(1), float_.argmax(1)
    beliefs = float_.softmax(1)
    lost = beliefs.amax(1) - beliefs.gather(1, answers[:, None])[:, 0]
    right = [(given.argmax(2) == labels).double().mean(0).numpy() for given in (wanted, views)]
    drop = paired_effect(*reversed(right))
    return {
        "repair": name,
        "top1": float((answers == labels).double().mean()),
        "drop": drop.value,
        "drop_low": drop.low,
        "drop_high": drop.high,
        "expected_loss": float(lost.double().mean()),
        "agreement": float((answers == own).double().mean()),
        "kl": float(divergence),
    }


def rows(toolkit: str, steps: int) -> Iterator[Row]:
    """Yield float, and everything in INT8 after each repair."""
    mobilenet = load_script("examples/01_mobilenet/task.py")
    images = mobilenet.imagenet()
    number = mobilenet.CALIBRATION_IMAGES
    calib = mobilenet.batches(images.take(range(number)))
    others = images.take(range(number, len(images.files)))
    views = [ImageBatches(others, partial(seen_from, view), batch=50) for view in VIEWS]
    labels = torch.as_tensor(np.arange(number, len(images.files)))
    float_ = mobilenet.float_model()
    wanted = torch.stack([outputs(float_, view) for view in views])
    yield row("float", wanted, wanted, labels) | {"seconds": 0.0}
    source = quantized_model(load_script(TASKS[toolkit]).calibrated(calib))
    started = time.process_time()
    for name, ranges in repairs(source, [inputs for inputs, _ in calib], steps):
        seconds = time.process_time() - started
        with source.with_ranges(ranges.values()):
            logits = torch.stack([outputs(source.model, view) for view in views])
        yield row(name, logits, wanted, labels) | {"seconds": seconds}
        started = time.process_time()


def markdown(result: dict[str, Any]) -> str:
    """Return the table."""
    lines = [
        "# Repairs of MobileNetV1 x0.25, everything in INT8, on 800 images not calibrated on",
        "",
        "| repair | top-1, % | drop on four views, points | loss that float expects, points | "
        "same answer as float, % | KL from float | seconds of a core |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['repair']} | {100 * one['top1']:.1f} | {100 * one['drop']:.2f} "
        f"[{100 * one['drop_low']:.2f}, {100 * one['drop_high']:.2f}] | "
        f"{100 * one['expected_loss']:.2f} | "
        f"{100 * one['agreement']:.1f} | {one['kl']:.4f} | {one['seconds']:.0f} |"
        for one in result["rows"]
    ]
    machine = ", ".join(f"{name} {result['environment'][name]}" for name in ("cpu", "torch"))
    return "\n".join([*lines, "", f"Command: `{result['command']}`. {machine}.", ""])


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="What each repair gives.")
    parser.add_argument(
        "--json", type=Path, help="file for all numbers; a table goes beside it, as .md"
    )
    parser.add_argument("--source", choices=TASKS, default="modelopt", help="toolkit")
    parser.add_argument("--steps", type=int, default=Limits().steps, help="of fine-tuning")
    given = parser.parse_args(arguments)
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/fine_tuning.py", *arguments]),
        "environment": environment(),
        "rows": [],
    }
    for one in rows(given.source, given.steps):
        print(json.dumps(one), flush=True)
        result["rows"].append(one)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
        given.json.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main(sys.argv[1:])
