"""What NVIDIA's TensorRT-RTX parser and builder make of the exported files: the structure of the
engine, without times.

    python benchmarks/rtx.py

Five models, each in float, INT8 and partial, in the canonical form and lowered for TensorRT
(strongly typed). Needs tensorrt-rtx and no GPU, since nothing is executed. SENSITIVITY_ASSETS says
where weights and images are, REPVGG_YOLO and SCENES where `examples/09_repvgg_yolo/train.py` wrote
its files. A model whose files are missing is named and left out. Partial files leave out the layers
of the plans in `reports/`. ResNet-20 has no report, and its partial file leaves out the first and
the last layer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sensitivity.config import ScanSettings
from sensitivity.errors import SensitivityError
from sensitivity.exporters.lower import lower_file
from sensitivity.exporters.torch_model import export_files
from sensitivity.records import EngineStructure
from sensitivity.runtimes.tensorrt_rtx_build import build
from sensitivity.session import open_session
from sensitivity.timing.engine_structure import structure_of

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "results" / "rtx.md"


@dataclass(frozen=True)
class Model:
    """One model.

    task: the reference of its task, or a function that writes the task into a folder.
    skip: the layers that the partial file leaves out.
    """

    task: str | Callable[[Path], str]
    skip: Callable[[], list[str]]


@dataclass(frozen=True)
class Row:
    """The engine of one file.

    problem: why there is no engine; its structure is then missing.
    """

    model: str
    form: str
    variant: str
    structure: EngineStructure | None
    problem: str | None


def _demo(folder: Path) -> str:
    from sensitivity.workflows.demo import prepare

    return prepare(folder)


def _of_report(name: str) -> Callable[[], list[str]]:
    return lambda: json.loads((ROOT / "reports" / name / "plan.json").read_text())["skip"]


def _example(name: str) -> str:
    return f"{ROOT / 'examples' / name / 'task.py'}:task"


MODELS: Mapping[str, Model] = {
    # The plans of the demo and of ResNet-20 leave nothing out.
    "demo": Model(_demo, lambda: ["conv2", "conv8"]),
    "MobileNetV1": Model(_example("01_mobilenet"), _of_report("mobilenet")),
    "ResNet-20": Model(_example("02_resnet20"), lambda: ["conv1", "linear"]),
    "YOLOv8n": Model(_example("03_yolov8n"), _of_report("yolov8n")),
    "RepVGG-YOLO": Model(_example("09_repvgg_yolo"), _of_report("repvgg_yolo")),
}


def canonical_files(model: Model, folder: Path) -> dict[str, Path]:
    """Variant -> file, as `sensitivity export` writes them before it verifies them."""
    task = model.task if isinstance(model.task, str) else model.task(folder / "task")
    settings = ScanSettings(task=task, out=folder / "run")
    with open_session(task, settings.out, resume=False, choices=settings) as session:
        return export_files(
            session.source,
            session.example,
            session.units,
            model.skip(),
            folder,
            fingerprint=session.source.fingerprint(),
            calibration=session.inputs(),
        )


def rows(name: str, model: Model, folder: Path) -> Iterator[Row]:
    """Build both forms of the three files."""
    canonical = canonical_files(model, folder)
    skip = model.skip()
    for form in ("canonical", "strongly typed"):
        for variant, file in canonical.items():
            if form == "strongly typed":
                file = lower_file(file, "tensorrt", file.with_suffix(".tensorrt.onnx"))
            made = build(file)
            structure = (
                structure_of(made, file, skip if variant == "partial" else None)
                if made.ok
                else None
            )
            yield Row(name, form, variant, structure, made.problem)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--out", type=Path, default=OUT, help="The table, as Markdown.")
    parser.add_argument("--files", type=Path, help="Keep the ONNX files in this folder.")
    arguments = parser.parse_args()
    found, missing = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.models:
            folder = (arguments.files or Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            try:
                found += rows(name, MODELS[name], folder)
            except (SensitivityError, KeyError, OSError) as error:
                missing[name] = str(error)
            print(name, "left out" if name in missing else "done", flush=True)
    arguments.out.write_text(markdown(found, missing))


def markdown(found: list[Row], missing: Mapping[str, str]) -> str:
    """The table, whose head names the versions that it was made with."""
    versions = sorted(
        {f"{row.structure.version}, SM {row.structure.sm}" for row in found if row.structure}
    )
    lines = [
        "# What TensorRT-RTX builds of the exported files",
        "",
        f"`python benchmarks/rtx.py`, with tensorrt-rtx {'; '.join(versions)}. Structure of the "
        "engine that NVIDIA's builder",
        "makes; nothing was executed, and nothing here is a time. Kernels are the layers that the "
        "builder lists; the GPU's",
        "driver compiles them later. A kernel requantizes where it does nothing but quantize, "
        "dequantize, cast or reorder.",
        "Activation MB: what kernels write, weights apart. A dash: not in the file. Partial files "
        "leave out the layers",
        "of the plans in `reports/`, ResNet-20's its first and its last. A RepVGG-YOLO of one "
        "epoch of training serves as well as one",
        "of ten: its types are looked at, not its accuracy.",
        "",
        "| model | form | file | parses, builds | INT8 as planned | float as planned | kernels | "
        "of them requantize | activation MB |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(_line, found),
    ]
    lines += [f"\n{name} is left out: {why}" for name, why in missing.items()]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    start = f"| {row.model} | {row.form} | {row.variant} |"
    made = row.structure
    if made is None:
        return f"{start} no: {row.problem} | | | | | |"
    shares = " | ".join(_share(made, planned) for planned in ("int8", "float"))
    size = f"{made.activation_bytes / 1e6:.2f}"
    return f"{start} yes | {shares} | {made.kernels} | {made.requantize_kernels} | {size} |"


def _share(made: EngineStructure, planned: str) -> str:
    layers = [layer for layer in made.layers if layer.planned == planned]
    return f"{sum(layer.as_planned for layer in layers)} of {len(layers)}" if layers else "-"


if __name__ == "__main__":
    main()
