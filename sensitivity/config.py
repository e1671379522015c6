"""Every setting of every verb, defined once. Command-line options, help and the settings shown in
reports come from here.

The metadata of a field holds `help`. A Literal type gives the choices. What None means is said in
the help.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from sensitivity.errors import SensitivityError
from sensitivity.records import Mode, Target

ExportTarget = Literal["all", "tensorrt", "openvino", "onnxruntime", "qnn"]
QuantizeFor = Literal["tensorrt", "openvino", "onnxruntime"]
PlanFor = Literal["tensorrt", "openvino", "onnxruntime", "qnn"]
CostName = Literal["macs", "operations", "table", "engine"]
DecodeName = Literal[
    "yolo", "yolox", "yolov5", "corners", "end2end", "raw", "rtdetr", "ssd", "tensorflow"
]
Colours = Literal["rgb", "bgr"]
UnitName = Literal["layer", "group", "quantizer"]
ReportFormat = Literal["html", "markdown", "junit", "sarif", "netron"]
FineTune = Literal["auto", "always", "never"]
CalibrationMethod = Literal["max", "percentile", "entropy", "mse"]
DetectorOutput = Literal["decoded", "raw"]
Evaluator = Literal["built-in", "ultralytics"]
IN_PYTHON = "<Python>"
"""Placeholder for the reference of a task that was made in a program and is in no file."""

ImageSize = int | tuple[int, int]
"""Side of a square in pixels, or (height, width)."""


def setting(
    default: Any,
    help: str,  # noqa: A002 - as click calls it
    *,
    least: float | None = None,
    below: float = math.inf,
) -> Any:
    """Return a field of settings.

    help: shown by --help, one or more sentences.
    least: smallest number allowed; None means that nothing is checked.
    below: bound that the number must stay under. See `check_numbers`.
    """
    return field(default=default, metadata={"help": help, "least": least, "below": below})


def registered(default: Any, help: str, *, family: str, also: tuple[str, ...] = ()) -> Any:  # noqa: A002
    """Return a field whose value is a name in a family of the registry, to which other packages may
    add.

    also: further names that are allowed.
    """
    return field(default=default, metadata={"help": help, "family": family, "also": also})


def required(help: str) -> Any:  # noqa: A002
    """Return a field without a default, given as an option or a keyword."""
    return field(metadata={"help": help})


def argument(help: str) -> Any:  # noqa: A002
    """Return a field without a default, given on the command line as a positional argument."""
    return field(metadata={"help": help, "argument": True})


@dataclass(frozen=True, kw_only=True)
class TaskChoices:
    """Which model is measured, and on which data."""

    task: str = argument(
        "A Python file and a function in it that returns a task, as in my_task.py:task; or an ONNX "
        "or .tflite file, quantized or float, with --data."
    )
    data: Path | None = setting(
        None,
        "For an ONNX file: COCO annotations, a data YAML or a folder with images and labels in "
        "YOLO's layout, a folder with one folder of images per class, or an .npz with x and y. "
        "Without labels, the float model's outputs take their place.",
    )
    decode: DecodeName | None = setting(
        None,
        "For an ONNX detector: the format of its outputs; recognised from their shapes and names "
        "by default.",
    )
    evaluator: str | None = setting(
        None,
        "For an ONNX file: your own metric as my_eval.py:function, which is executed as it is. "
        "It receives outputs and targets of a batch and returns one number per sample, higher is "
        "better; their mean is the metric.",
    )
    colours: Colours | None = setting(
        None, "For an ONNX file of images: the order of the colour channels; rgb by default."
    )
    top: float | None = setting(
        None,
        "For an ONNX file of images: the value of white, where black is 0, before --mean and "
        "--std. By default, if these are given, 255 if any of their values is above 1, else 1.",
        least=1e-9,
    )
    mean: str | None = setting(
        None,
        "For an ONNX file of images: what is subtracted from each channel, as in "
        "0.485,0.456,0.406, or from all, as in 127.5. By default what the ultralytics metadata "
        "in the file or the detector requires, else ImageNet's.",
    )
    std: str | None = setting(
        None, "For an ONNX file of images: what each channel is divided by, after --mean."
    )
    imgsz: ImageSize | None = setting(
        None,
        "For an ONNX file of images with dynamic height and width: the side in pixels, or "
        "HEIGHTxWIDTH; by default from the ultralytics metadata.",
    )
    float_model: Path | None = setting(
        None,
        "For a Q/DQ ONNX file: the float file it was made from. Operations that are left out use "
        "its weights.",
    )
    for_: PlanFor | None = setting(
        None,
        "The runtime that the result is for, which need not be installed. A float ONNX file is "
        "quantized by its rules, and a plan with --formats has no format that it does not take. By "
        "default that of --runtime, else onnxruntime.",
    )
    calib: Path | None = setting(
        None,
        "For an ONNX file: the calibration data, in any form that --data takes; labels are not "
        "needed. By default a float file is calibrated on a part of --data that is in no split.",
    )
    calib_samples: int | None = setting(
        None,
        "For an ONNX file: number of calibration samples; 128 by default, and at most a fifth of "
        "--data.",
        least=1,
    )
    calib_method: CalibrationMethod | None = setting(
        None,
        "For a float ONNX file: how activation ranges are found. The default, percentile, leaves "
        "out one value in ten thousand; weights always use max.",
    )
    shape: tuple[str, ...] = setting(
        (),
        "For a float ONNX file with dynamic input shapes: the shape, as in 1,3,640,640, or "
        "NAME=1,3,640,640 for one of several inputs; a word leaves a dimension dynamic.",
    )


@dataclass(frozen=True, kw_only=True)
class DryRunChoices:
    """Whether the job is only forecast."""

    dry_run: bool = setting(
        False,
        "Print what each step would take, from one timed batch: samples, time, memory and disk. "
        "Nothing else is measured, and nothing is written into the run directory.",
    )


@dataclass(frozen=True, kw_only=True)
class TaskSettings(DryRunChoices, TaskChoices):
    """The task, and where the results go."""

    out: Path | None = setting(None, "Run directory; by default runs/<name of the task file>.")
    resume: bool = setting(False, "Continue the run in the run directory.")


@dataclass(frozen=True, kw_only=True)
class CheckSettings(TaskChoices):
    """Check on one batch what a scan relies on."""

    format: Literal["text", "json"] = setting(
        "text", "Sentences, or JSON with one object per finding."
    )


@dataclass(frozen=True, kw_only=True)
class UnitChoices:
    """What is switched as one unit, and which ranges are shared."""

    unit: UnitName = setting(
        "layer",
        "What is left out of INT8 as one unit. layer: each layer; group: layers that the "
        "compiler needs in one precision, and parts of detection heads; quantizer: each "
        "quantizer.",
    )
    group: tuple[str, ...] = setting(
        (),
        "A unit of your own as NAME=PATTERN of layers, as in 'head=model.22.*'; several patterns "
        "are separated by commas.",
    )
    separate_scales: bool = setting(
        False,
        "Keep a separate range for each quantizer, even where an engine needs one range for all "
        "quantizers that read or join a tensor.",
    )
    quantize_residuals: bool = setting(
        False,
        "Also quantize the residual input of each Add, as TensorRT needs to fuse the Add in "
        "INT8. These quantizers are calibrated here.",
    )


@dataclass(frozen=True, kw_only=True)
class WorkerChoices:
    """How many processes measure, and where."""

    workers: int = setting(
        1,
        "Number of processes that measure. Each opens the task itself, and they share the cores "
        "of the machine; 1 measures in this process.",
        least=1,
    )
    ray: str | None = setting(
        None,
        "Run the workers on this Ray cluster, as in auto or HOST:PORT; local starts one here.",
    )

    @property
    def in_parallel(self) -> bool:
        """Whether other processes measure."""
        return self.workers > 1 or self.ray is not None


@dataclass(frozen=True, kw_only=True)
class ScanChoices(WorkerChoices, UnitChoices):
    """How units are ranked, and how much that may cost."""

    mode: Mode | None = setting(
        None,
        "disable: what is gained if one layer alone is left unquantized; enable: what is lost if "
        "one layer alone is quantized. The default is disable, or enable if everything in INT8 "
        "keeps less than a tenth of float's metric, so that no layer alone gains anything.",
    )
    exact: bool = setting(
        False,
        "Measure every layer on the whole of rank, and every set tried on the whole of confirm.",
    )
    samples: int | None = setting(
        None,
        "Samples that the layers may use in a race on the metric. By default they race, with "
        "1000 samples, only if measuring all of them would take more than 20000; with 400 and "
        "5000 if everything in INT8 has collapsed.",
        least=1,
    )
    time_budget: float | None = setting(
        None,
        "Seconds after which the race ends with the results so far; no limit by default.",
        least=0,
    )
    signal: str | None = registered(
        None,
        "Cheap signal that orders the layers before the race and in a plan. By default boxes for "
        "detectors, and sqnr otherwise. metric: no signal; all layers are measured as with "
        "--exact, and a plan uses their order.",
        family="signals",
        also=("metric", "boxes", "fisher"),
    )
    force: bool = setting(
        False,
        "Continue if the check before the scan finds an error. It stays as a warning with the "
        "results.",
    )
    memory: int | None = setting(
        None, "MiB for values kept for replay; a quarter of the free memory by default.", least=1
    )
    seed: int | None = setting(
        None,
        "Seed of everything drawn at random: the splits of the data, calibration samples, signs, "
        "orders and resamples. 0 by default; a command that continues a run uses the seed of the "
        "run.",
        least=0,
    )


@dataclass(frozen=True, kw_only=True)
class PlanChoices:
    """What a plan must achieve, and how it is searched for."""

    max_drop: str | None = setting(
        None,
        "Largest accuracy drop from float, in points (1pt) or relative (1%). 1pt if no target is "
        "given.",
    )
    target: float | None = setting(
        None, "The metric to be reached, as an absolute number such as 0.51."
    )
    confidence: float = setting(
        0.8,
        "Probability with which the true drop has to be within the target, from 0.5 to below 1.",
        least=0.5,
        below=1,
    )
    skip: tuple[str, ...] = setting(
        (), "Leave this unit out of INT8 in every plan: a name, or a pattern such as 'head.*'."
    )
    keep: tuple[str, ...] = setting(
        (), "Keep this unit in INT8 in every plan: a name, or a pattern."
    )
    no_recalibrate: bool = setting(
        False,
        "Keep ranges, biases and rounding as they are. By default, before any unit is left out, "
        "other ranges are tried for the worst ones, all biases are corrected, and the rounding "
        "of weights is learned.",
    )
    fine_tune: FineTune = setting(
        "auto",
        "Fine-tune biases and ranges by distillation from the float model, on calibration inputs "
        "without labels, and keep the result if it helps on other samples. auto: only if a unit "
        "would still have to be left out after all other repairs, and if it takes at most a "
        "minute.",
    )
    formats: str | None = setting(
        None,
        "Formats that a unit may have. The default is int8,float, where int8 stands for the "
        "formats that the model came with. With int8,int16,float a unit may also have 16-bit "
        "activations, at an eighth of the cost of leaving it out, as NPUs and ONNX Runtime "
        "support them; with int8,fp8,float FP8 weights and activations, at a sixteenth, as GPUs "
        "from compute capability 8.9 on do. Both may be given, in any order.",
    )
    planner: str = registered(
        "greedy",
        "greedy: the fewest layers along the ranking; cost: the lowest cost, by integer "
        "programs; exhaustive: every set, for up to 12 layers, or 6 with one more format; rule: "
        "what people leave out by hand, for comparison (detection heads, else the first and the "
        "last layers).",
        family="planners",
    )
    cost: CostName | None = setting(
        None,
        "Cost of leaving a layer out of INT8; table by default, macs for Q/DQ ONNX files, and none "
        "for greedy. macs: arithmetic and bytes from the graph; operations: arithmetic alone; "
        "table: each distinct layer timed in the runtime; engine: whole files, with each layer "
        "left out and for each plan that may be best. Q/DQ ONNX files take macs and operations.",
    )


@dataclass(frozen=True, kw_only=True)
class RuntimeChoices:
    """Where latency is measured."""

    runtime: str = registered(
        "onnxruntime", "The runtime to measure latency in.", family="runtimes"
    )
    threads: int | None = setting(
        None, "Threads of the runtime; all physical cores by default.", least=1
    )


@dataclass(frozen=True, kw_only=True)
class BenchChoices(RuntimeChoices):
    """How often files are timed, and whether their accuracy is measured too."""

    rounds: int | None = setting(
        None,
        "Number of times that each file is timed; files take turns. By default 100, or as many as "
        "fit into a minute, but at least 30.",
        least=1,
    )
    accuracy: bool = setting(
        False,
        "Measure the metric of each file in this runtime, on holdout. Without this option, `run` "
        "measures the plan's file and the one with everything in INT8, if each takes no more than "
        "30 s with those before it, and `bench` measures none.",
    )
    no_accuracy: bool = setting(
        False, "Measure no metric in the runtime. The verdict is then about the simulated accuracy."
    )


@dataclass(frozen=True, kw_only=True)
class DirSettings:
    """The run that a step continues."""

    directory: Path = argument("Run directory made by `sensitivity scan` or `sensitivity run`.")


@dataclass(frozen=True, kw_only=True)
class NamedSettings(DirSettings):
    """One plan of a run."""

    name: str | None = setting(
        None, "The plan in plans/NAME.json of the run directory; by default the one in plan.json."
    )


@dataclass(frozen=True, kw_only=True)
class ScanSettings(ScanChoices, TaskSettings):
    """Rank layers by how much accuracy each costs in INT8."""


@dataclass(frozen=True, kw_only=True)
class PlanSettings(WorkerChoices, RuntimeChoices, PlanChoices, NamedSettings):
    """Choose the layers to leave out of INT8 so that a target holds."""

    frontier: bool = setting(
        False, "Print accuracy against latency of the sets measured so far, and choose nothing."
    )
    search: bool = setting(
        False, "Search again, even if sets measured before answer for this target."
    )
    for_: PlanFor | None = setting(
        None,
        "With --formats: the runtime that the plan is for, which need not be installed. No unit "
        "gets a format that it does not take. By default that of --runtime.",
    )


@dataclass(frozen=True, kw_only=True)
class ExportSettings(NamedSettings):
    """Write and verify the float, INT8 and partial ONNX files."""

    for_: ExportTarget | None = setting(
        None,
        "Also write files lowered for this runtime, checked against the canonical ones. all stands "
        "for those that bench can time, without qnn.",
    )
    config: str | None = registered(
        None,
        "Write the plan as this tool's own settings, config.TOOL.* in the run directory. Files "
        "of this plan that exist are not written again.",
        family="configs",
    )


@dataclass(frozen=True, kw_only=True)
class BenchSettings(BenchChoices, NamedSettings):
    """Measure the latency of the exported files, interleaved."""


@dataclass(frozen=True, kw_only=True)
class LogChoices:
    """Where a run is logged in addition to its directory."""

    log: str | None = registered(
        None,
        "Also log numbers, settings and files with this experiment tracker. Where it writes is "
        "set by its own environment variables.",
        family="loggers",
    )


@dataclass(frozen=True, kw_only=True)
class ReportSettings(LogChoices, NamedSettings):
    """Write report.html, the CSV files and the figures."""

    format: ReportFormat = setting(
        "html",
        "html: write the files. netron: write model.netron.onnx, the plan's file with the format "
        "and the cost of each layer in its node's description. The others are printed and write "
        "nothing: markdown for the summary of a CI job, junit (XML) for services that count "
        "tests, sarif (2.1.0) for code hosts.",
    )


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Show runs, or the plans of one run, side by side."""

    directories: tuple[Path, ...] = argument(
        "Run directories or report folders; one run directory alone stands for all its plans."
    )
    name: tuple[str, ...] = setting(
        (), "Compare this plan of each run directory, plans/NAME.json; may be given several times."
    )
    out: Path | None = setting(
        None,
        "Folder for compare.html, compare.csv and compare_layers.csv; nothing is written by "
        "default.",
    )


@dataclass(frozen=True, kw_only=True)
class RunSettings(LogChoices, BenchChoices, PlanChoices, ScanChoices, TaskSettings):
    """Scan, plan, export, bench and report in one go."""


@dataclass(frozen=True, kw_only=True)
class YoloChoices:
    """Which ultralytics detector is quantized, and on which images."""

    weights: Path = required(
        "A .pt file of the ultralytics package: v5u, v8, v9, v10, 11, 12, 26, RT-DETR, YOLO-World."
    )
    data: Path = required(
        "Labelled images: a data YAML, a COCO JSON file, or a folder with images and labels; for "
        "classification, a folder with one folder per class."
    )
    imgsz: ImageSize = setting(
        640, "Side of the square input in pixels, or HEIGHTxWIDTH; multiples of 32."
    )
    batch: int = setting(8, "Images per batch.")
    split: str = setting(
        "val", "The part of a data YAML that is measured; its train part calibrates."
    )
    image_folder: Path | None = setting(
        None, "Folder with the images of a COCO JSON file; the folder images beside it by default."
    )
    limit: int | None = setting(
        None, "Measure only this many images, drawn at random; all by default."
    )
    calib: Path | None = setting(
        None,
        "Calibration images, in any form that --data takes; labels are not needed. By default "
        "the train part of the data YAML; otherwise a fifth of --data is set aside.",
    )
    calib_images: int = setting(64, "Number of calibration images.")
    calib_method: CalibrationMethod = setting(
        "max", "How activation ranges are found; weights always use max."
    )
    output: DetectorOutput = setting(
        "decoded",
        "What the model and the exported files return. decoded: boxes and confidences, as "
        "ultralytics exports them; raw: box bins and class logits, for runtimes that decode "
        "themselves.",
    )
    end2end: bool = setting(
        False,
        "Use the one-to-one head of v10 and 26, whose boxes need no suppression. In addition to "
        "each file, model.*.end2end.onnx selects the best 300 of them in its graph.",
    )
    quantize_dfl: bool = setting(
        False,
        "Also quantize the convolution in DFL, which sums 16 bins and stays float by default.",
    )
    evaluator: Evaluator = setting(
        "built-in",
        "What evaluates the boxes. built-in: COCO mAP image by image, with intervals; "
        "ultralytics: its own validator, which is slow and gives one number per evaluation.",
    )
    trust_weights: bool = setting(
        False,
        "Execute any code that the weights file contains. Only for a file that you trust, with "
        "classes that ultralytics does not know.",
    )


@dataclass(frozen=True, kw_only=True)
class YoloSettings(LogChoices, BenchChoices, PlanChoices, ScanChoices, DryRunChoices, YoloChoices):
    """Scan, plan, export, bench and report a YOLO of the ultralytics package."""

    out: Path | None = setting(None, "Run directory; by default runs/<name of the weights file>.")
    resume: bool = setting(
        False, "Continue the run in the run directory, with the task file that is there."
    )


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Run the whole job on handwritten digits, in minutes."""

    out: Path = setting(Path("runs/demo"), "Run directory.")


@dataclass(frozen=True, kw_only=True)
class ProgressChoices:
    """What a command prints to stderr while it works. No measurement depends on it."""

    quiet: bool = setting(False, "Print only results and errors, and nothing while working.")
    json_events: bool = setting(
        False,
        "Report progress in JSON, for programs: one object per line on stderr.",
    )


def check_numbers(settings: Any) -> None:
    """Raise SensitivityError for a number outside the bounds of its setting.

    >>> check_numbers(BenchSettings(directory=Path("."), rounds=0))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sensitivity.errors.SensitivityError: Expected --rounds to be at least 1, got 0; ...
    """
    for item in fields(settings):
        least, value = item.metadata.get("least"), getattr(settings, item.name)
        if least is None or value is None:
            continue
        below = item.metadata["below"]
        if not least <= value < below:
            bound = "" if below == math.inf else f" and under {below:g}"
            raise SensitivityError(
                f"Expected {flag_of(item.name)} to be at least {least:g}{bound}, got {value}; "
                "leave it out for the default."
            )


QUANTIZING = ("for_", "calib_method", "shape")
"""Settings for quantizing a float ONNX file."""

READING = ("evaluator", "decode", "colours", "top", "mean", "std", "imgsz")
"""Settings for how an ONNX file takes images and what its outputs mean."""

OF_ONNX = (*QUANTIZING, "calib", "calib_samples", *READING)
"""Settings that apply to ONNX files only."""


TFLITE = ".tflite"
"""Suffix of files that are converted to ONNX files first."""


def is_model_file(task: str) -> bool:
    """Return whether a task is an ONNX or a .tflite file, which needs data, instead of a task
    file."""
    return task.endswith((".onnx", TFLITE))


def refuse_needless(settings: TaskChoices, names: Collection[str], what: str) -> None:
    """Raise SensitivityError for a setting that has no meaning for the given task.

    what: the task, in words.
    """
    limits_formats = getattr(settings, "formats", None) is not None
    for name in names:
        if name == "for_" and limits_formats:
            continue
        value = getattr(settings, name)
        if value not in (None, ()):
            raise SensitivityError(
                f"Expected no {flag_of(name)} with {what}, got {_in_one(value)}; leave it out."
            )


def _in_one(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def target_of(settings: PlanChoices, full_scale: float) -> Target:
    """Return the target that the settings ask for.

    full_scale: largest value of the metric; one point is a hundredth of it.
    Raises SensitivityError for two targets, or for one that cannot be read.

    >>> target_of(PlanSettings(directory=Path("."), max_drop="1pt"), full_scale=1.0)
    Target(metric=None, drop=0.01, relative=None, confidence=0.8)
    >>> target_of(PlanSettings(directory=Path("."), max_drop="2%"), full_scale=1.0)
    Target(metric=None, drop=None, relative=0.02, confidence=0.8)
    """
    if settings.target is not None and settings.max_drop is not None:
        raise SensitivityError("Expected one of --target and --max-drop, got both; leave one out.")
    if settings.target is not None:
        if not math.isfinite(settings.target):
            raise SensitivityError(
                f"Expected --target to be a number such as 0.51, got {settings.target}; give the "
                "metric to be reached."
            )
        return Target(metric=settings.target, confidence=settings.confidence)
    text = (settings.max_drop or "1pt").strip()
    number, unit = (text[:-2], "pt") if text.endswith("pt") else (text[:-1], text[-1:])
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if unit not in ("pt", "%") or not 0 <= value < 100:
        raise SensitivityError(
            "Expected --max-drop in points (1pt) or relative to float (1%), from 0 to under 100, "
            f"got {text!r}; write the unit after the number."
        )
    if unit == "pt":
        return Target(drop=value / 100 * full_scale, confidence=settings.confidence)
    return Target(relative=value / 100, confidence=settings.confidence)


BETWEEN = ("int16", "fp8")
"""Formats that --formats may name between int8, which stands for the formats that the model came
with, and float. int16 stands for those formats with 16-bit activations."""


def formats_of(settings: PlanChoices) -> tuple[str, ...]:
    """Return the formats that a plan chooses from. Raises SensitivityError for other names, for a
    name that is given twice, and if int8 is not the first or float not the last.

    >>> formats_of(PlanSettings(directory=Path("."), formats="int8, int16, float"))
    ('int8', 'int16', 'float')
    >>> formats_of(PlanSettings(directory=Path(".")))
    ('int8', 'float')
    """
    if settings.formats is None:
        return ("int8", "float")
    formats = tuple(word.strip().lower() for word in settings.formats.split(","))
    between = formats[1:-1]
    has_ends = (formats[0], formats[-1]) == ("int8", "float")
    if not has_ends or set(between) - set(BETWEEN) or len(set(between)) < len(between):
        raise SensitivityError(
            "Expected --formats to be int8,float, with int16, fp8 or both between them, got "
            f"{settings.formats!r}; int8 stands for what the model came with, whatever that is, "
            "and float is what a layer gets if no other format is enough."
        )
    return formats


def flag_of(name: str) -> str:
    """Return the option of a field. A trailing underscore avoids the name of a Python keyword.

    >>> flag_of("max_drop"), flag_of("for_")
    ('--max-drop', '--for')
    """
    return f"--{name.rstrip('_').replace('_', '-')}"
