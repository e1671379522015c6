"""Whether other tools leave out exactly the layers that a plan leaves out.

    python benchmarks/configs.py --out benchmarks/results/configs.md

It takes about fifteen minutes with all tools. The tools that --tools names must be installed, and
one that is not is refused. Each row is written as soon as it is complete, beside the rows of
earlier runs.

Plans are drawn at random: each leaves out some layers of a model, and their number is random too.
For each plan the settings are written, the tool quantizes the float model with them, and the layers
of its result are compared with the plan by name.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sensitivity.errors import SensitivityError
from sensitivity.exporters.configs.aimet import moved_from, rounded_for
from sensitivity.files import write_whole
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.registry import load

if TYPE_CHECKING:
    from support.configs import Exported

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "examples/01_mobilenet"), str(ROOT / "tests")]
PACKAGES = {
    "ort": "onnxruntime",
    "modelopt": "nvidia-modelopt",
    "nncf": "nncf",
    "quark": "amd-quark",
    "aimet": "aimet-onnx",
    "modelopt-onnx": "nvidia-modelopt",
}
"""Tool -> its package. ModelOpt ONNX comes last, since it changes ONNX Runtime's quantizer for all
that follows in the process."""

COLUMNS = ("tool", "version", "model", "layers", "plans", "same layers out", "first other")

NO_WEIGHT = "no weight quantizer is enabled"
"""What ModelOpt says of a plan that keeps no layer with weights."""

MODELS = ("residual network, width 16", "MobileNetV1 x0.25", "ViT of four blocks")


@dataclass(frozen=True)
class Model:
    """A float model.

    build: returns the model, with the same seed and so the same weights in each call.
    inputs: one batch.
    """

    name: str
    build: Callable[[], torch.nn.Module]
    inputs: torch.Tensor


def models() -> list[Model]:
    """Three networks: one with shortcuts, one with depthwise convolutions, and a transformer."""
    from mobilenet import MobileNet
    from support.blocks import Residual
    from support.scripts import load_script

    vit = load_script("examples/12_transformer/task.py").Vit
    sizes = {Residual: (3, 32, 32), MobileNet: (3, 32, 32), vit: (1, 8, 8)}
    draw = torch.Generator().manual_seed(0)
    return [
        Model(name, build, torch.randn(2, *size, generator=draw))
        for name, (build, size) in zip(MODELS, sizes.items(), strict=True)
    ]


def plans(names: Collection[str], count: int) -> list[list[str]]:
    """The layers that each plan leaves out: at least one, and not all of them."""
    draw = np.random.default_rng(0)
    every = list(names)
    sizes = draw.integers(1, len(every), count)
    return [draw.choice(every, size, replace=False).tolist() for size in sizes]


def quantized_by_modelopt(model: Model, entries: Collection[dict[str, Any]]) -> set[str]:
    """The layers with an enabled quantizer after ModelOpt quantized the model with these
    entries."""
    import modelopt.torch.quantization as mtq
    from support.models import seeded

    config = copy.deepcopy(mtq.INT8_DEFAULT_CFG)
    config["quant_cfg"] += entries
    made = mtq.quantize(seeded(model.build), config, lambda net: net(model.inputs))
    return {quantizer.layer for quantizer in ModelOptModel(made).quantizers}


def kept_by(tool: str, model: Model, made: Exported, skip: Collection[str]) -> set[str]:
    """The layers that the tool quantizes with the settings of the plan that leaves out `skip`."""
    from support.configs import aimet_rounds, apply_config, in_int8

    plan = made.without(skip)
    config = load("configs", tool)().write(plan)
    if tool == "modelopt":
        return quantized_by_modelopt(model, json.loads(config.text))
    if tool == "aimet":
        rounded, moved = aimet_rounds(made.file, json.loads(config.text)), moved_from(plan)
        return {
            each.name
            for each in plan.operations
            if each.int8 and rounded.issuperset(rounded_for(each, each.int8, moved))
        }
    return in_int8(apply_config(made, tool, config, made.file.with_name("made.onnx")), plan)


def row(tool: str, model: Model, made: Exported, count: int) -> list[Any]:
    """The results of all plans with one tool, over the layers that it quantizes if all are kept."""
    layers = {each.name for each in made.plan.operations if each.int8}
    layers &= kept_by(tool, model, made, [])
    others, taken = [], 0
    for skip in plans(sorted(layers), count):
        try:
            found = layers - kept_by(tool, model, made, skip)
        except RuntimeError as error:
            if NO_WEIGHT not in str(error):
                raise
            continue
        taken += 1
        if found != set(skip):
            others.append(", ".join(sorted(found ^ set(skip))))
        print(tool, model.name, len(others), file=sys.stderr)
    return [
        tool,
        importlib.metadata.version(PACKAGES[tool]),
        model.name,
        len(layers),
        taken,
        f"{taken - len(others)} of {taken}",
        others[0] if others else "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", nargs="+", default=list(PACKAGES), choices=list(PACKAGES))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--plans", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    settings = parser.parse_args()
    from support.configs import exported, problem_of

    for tool in settings.tools:
        problem = problem_of(tool)
        if problem is not None:
            raise SensitivityError(f"Expected {tool} to be importable, got: {problem}.")
    with tempfile.TemporaryDirectory() as folder:
        made = [
            (model, exported(Path(folder) / model.name, model.build, model.inputs))
            for model in models()
            if model.name in settings.models
        ]
        for tool in settings.tools:
            for model, one in made:
                write(settings.out, row(tool, model, one, settings.plans))


def write(out: Path, new: list[Any]) -> None:
    """The table with one more row, which replaces an earlier row of the same tool and model."""
    rows = {(cells[0], cells[2]): cells for cells in rows_in(out)}
    rows[new[0], new[2]] = [str(cell) for cell in new]
    tools = list(PACKAGES)
    table = sorted(rows.values(), key=lambda row: (tools.index(row[0]), MODELS.index(row[2])))
    lines = [COLUMNS, ["---"] * len(COLUMNS), *table]
    text = "\n\n".join(
        [
            "# Random plans as settings of other tools",
            f"Command: python benchmarks/configs.py --out {out}, in one run or one for each row",
            "A plan leaves one to all but one layers out, drawn at random. `same layers out` "
            "counts plans for which the tool's own result has exactly those in float, by name. "
            "Layers that a tool never quantizes, such as LayerNorm in NNCF and Quark, are not "
            "drawn. `plans` counts those that the tool takes: ModelOpt refuses plans that keep no "
            "layer with weights.",
            "\n".join(f"| {' | '.join(cells)} |" for cells in lines),
        ]
    )
    write_whole(out, (text + "\n").encode())


def rows_in(out: Path) -> list[list[str]]:
    """The rows of an earlier table; none if there is no such table."""
    lines = out.read_text().splitlines() if out.exists() else []
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [row for row in cells if row and row[0] in PACKAGES]


if __name__ == "__main__":
    main()
