"""What activations of 16 bits spare plans of MobileNetV1 x0.25 and ResNet-20: MACs above 8 bits and
accuracy, with {INT8, 16-bit activations, float} and with {INT8, float}.

python benchmarks/formats_wide.py --json benchmarks/results/formats_wide.json

Both have the ranges that they came with (`--no-recalibrate`): with others they need hardly any
layer out. The plans of 16 bits are exported, and their partial files run in ONNX Runtime. Needs
SENSITIVITY_ASSETS.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from sensitivity import api
from sensitivity.config import ExportSettings, PlanSettings, ScanSettings
from sensitivity.exporters.verification import FileCheck
from sensitivity.records import Estimate, Plan
from sensitivity.tasks.load import load_task
from sensitivity.timing.environment import environment

EXAMPLES = Path(__file__).parents[1] / "examples"
TASKS = {
    "MobileNetV1 x0.25": f"{EXAMPLES / '01_mobilenet' / 'task.py'}:task",
    "ResNet-20": f"{EXAMPLES / '02_resnet20' / 'task.py'}:task",
}
WIDE = "int8,int16,float"
DROPS = {"MobileNetV1 x0.25": ["0.5pt", "1pt"], "ResNet-20": ["0.1pt", "0.5pt"]}
BIT_OPERATIONS = {"INT8": 8 * 8, "16 bits": 16 * 8, "float": 32 * 32}
"""Of one multiply-accumulate: bits of the activation times bits of the weight."""

TITLE = "Activations of 16 bits in place of float, ranges as they came"

Row = dict[str, Any]


def rows(model: str, drops: Sequence[str], runs: Path) -> Iterator[Row]:
    """One for each target and choice of formats. runs: where scans are kept."""
    out = runs / model.replace(" ", "_")
    api.scan(ScanSettings(task=TASKS[model], out=out, resume=out.exists()))
    macs = layer_macs(TASKS[model])
    for drop in drops:
        for formats in (None, WIDE):
            settings = PlanSettings(
                directory=out, max_drop=drop, formats=formats, no_recalibrate=True, search=True
            )
            plan = api.plan(settings)
            found = {"model": model} | row(drop, plan, macs)
            if plan.widened:
                verified = api.export(ExportSettings(directory=out))
                check = next(one for one in verified.files if one.variant == "partial")
                found |= agreement(check)
            yield found


def layer_macs(reference: str) -> dict[str, int]:
    """Layer -> multiply-accumulates for one image. reference: of the task."""
    task = load_task(reference)
    images = next(iter(task.data["rank"]))[0][:1]
    found: dict[str, int] = {}

    def counted(name: str) -> Any:
        def hook(module: Any, given: Any, output: Any) -> None:
            found[name] = output.numel() * module.weight[0].numel()

        return hook

    handles = [
        module.register_forward_hook(counted(name))
        for name, module in task.model.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    with torch.inference_mode():
        task.model(images)
    for handle in handles:
        handle.remove()
    return found


def row(drop: str, plan: Plan, macs: Mapping[str, int]) -> Row:
    every = sum(macs.values())
    in_float = sum(macs[unit] for unit in plan.skip)
    wide = sum(macs[one.unit] for one in plan.widened)
    operations = {"INT8": every - in_float - wide, "16 bits": wide, "float": in_float}
    bits = sum(BIT_OPERATIONS[name] * number for name, number in operations.items())
    return {
        "max_drop": drop,
        "met": plan.met,
        "in_float": list(plan.skip),
        "in_16_bits": [one.unit for one in plan.widened],
        "macs_in_float": in_float / every,
        "macs_in_16_bits": wide / every,
        "bit_operations": bits / (BIT_OPERATIONS["INT8"] * every),
        "confirm": _numbers(plan.metric.confirm),
        "holdout": _numbers(plan.metric.holdout),
        "holdout_drop": _numbers(plan.metric.holdout_drop),
    }


def agreement(check: FileCheck) -> Row:
    """How far the partial file in ONNX Runtime is from the simulation."""
    metric = check.metric
    return {
        "rms": check.rms,
        "quantization_rms": check.quantization_rms,
        "metric_file": None if metric is None else metric.file,
        "metric_simulated": None if metric is None else metric.simulated,
    }


def _numbers(estimate: Estimate) -> list[float | None]:
    return [estimate.value, estimate.low, estimate.high]


def markdown(result: Mapping[str, Any], title: str = TITLE) -> str:
    """The rows as a table."""
    head = (
        "| model | target | met | layers in float | in 16 bits | MACs in float, % | "
        "in 16 bits, % | bit operations over INT8 | top-1 on confirm | on holdout | "
        "file in ONNX Runtime, simulated |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    lines = [_line(one) for one in result["rows"]]
    cpu = result["environment"].get("cpu", "")
    return "\n".join([
        f"# {title}", "",
        head, *lines, "", f"Command: `{result['command']}`. cpu {cpu}.", "",
    ])  # fmt: skip


def _line(one: Row) -> str:
    checked = "-"
    if one.get("metric_file") is not None:
        checked = f"{100 * one['metric_file']:.1f}, {100 * one['metric_simulated']:.1f}"
    cells = [
        one["model"],
        one["max_drop"],
        "yes" if one["met"] else "no",
        str(len(one["in_float"])),
        str(len(one["in_16_bits"])),
        f"{100 * one['macs_in_float']:.1f}",
        f"{100 * one['macs_in_16_bits']:.1f}",
        f"{one['bit_operations']:.2f}",
        f"{100 * one['confirm'][0]:.1f}",
        f"{100 * one['holdout'][0]:.1f}",
        checked,
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> None:
    """Print each row, and write all of them with a table beside them."""
    parser = argparse.ArgumentParser(description="Activations of 16 bits in place of float.")
    parser.add_argument("--json", type=Path, help="file for all numbers; a table goes beside it")
    parser.add_argument("--runs", type=Path, help="folder that keeps the scans, to go on with")
    parser.add_argument("--models", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--drops", nargs="*", help="targets; two for each model by default")
    given = parser.parse_args(arguments)
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/formats_wide.py", *arguments]),
        "environment": environment(),
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        runs = given.runs or Path(scratch)
        found = (rows(model, given.drops or DROPS[model], runs) for model in given.models)
        for one in chain.from_iterable(found):
            result["rows"].append(one)
            print(json.dumps(one), flush=True)
            if given.json:
                given.json.write_text(json.dumps(result, indent=1) + "\n")
                given.json.with_suffix(".md").write_text(markdown(result))


if __name__ == "__main__":
    main(sys.argv[1:])
