"""quantized.onnx in a run directory: made once, reused by --resume, and always written whole."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from sensitivity.config import CalibrationMethod, QuantizeFor, TaskChoices, flag_of
from sensitivity.errors import JournalMismatch, SensitivityError, TaskError
from sensitivity.files import write_whole
from sensitivity.journal.journal import is_used
from sensitivity.measure.progress import Progress, silent
from sensitivity.onnx_graph.digest import digest
from sensitivity.onnx_task.inputs import image_layout, ports
from sensitivity.onnx_task.reading import CALIBRATION_SAMPLES, data_of, reading_of, size_of
from sensitivity.onnx_task.task import task_of
from sensitivity.quantize.prepare import FloatFile, float_file, opset_of, prepared
from sensitivity.quantize.ranges import ranges
from sensitivity.quantize.rules import RULES, RUNTIMES
from sensitivity.quantize.static import quantized
from sensitivity.quantizers.onnx.batches import feed
from sensitivity.quantizers.onnx.float_model import first_samples
from sensitivity.run_dir import QUANTIZED_RECORD, RunDir
from sensitivity.tasks.base import Batches
from sensitivity.tasks.batches import batch_digest
from sensitivity.tasks.images import sides
from sensitivity.tasks.onnx_data import Calibration

FILE = "quantized.onnx"
METHOD: CalibrationMethod = "percentile"
"""Default calibration method; docs/decisions.md says why."""


@dataclass(frozen=True)
class Options:
    """Everything that quantized.onnx depends on.

    model, calib: digests of the float file and of the first calibration batch.
    shape: shapes as given in the settings.
    """

    model: str
    for_: QuantizeFor
    calib_method: CalibrationMethod
    calib_samples: int
    shape: tuple[str, ...]
    calib: str


@dataclass(frozen=True)
class Quantized:
    """Contents of quantized.json.

    sha256: digest of quantized.onnx.
    by: the tool and its version.
    opset: opsets of the float file and of quantized.onnx.
    """

    sha256: str
    options: Options
    by: str
    opset: tuple[int, int]


@dataclass(frozen=True)
class Job:
    """A float file that is to be quantized.

    file: the float file with the shapes in the settings.
    calib: the calibration samples.
    """

    settings: TaskChoices
    file: FloatFile
    calib: Batches

    @cached_property
    def options(self) -> Options:
        """Everything that the result depends on."""
        inputs, _ = next(iter(self.calib))
        return Options(
            model=digest(self.file.path),
            calib=batch_digest(inputs, None),
            calib_samples=samples_of(self.settings),
            calib_method=self.settings.calib_method or METHOD,
            for_=target_of(self.settings),
            shape=self.settings.shape,
        )


def quantized_file(settings: TaskChoices, out: Path, progress: Progress = silent) -> Path:
    """Return the path of quantized.onnx in the run directory, made from the float file in the
    settings.

    The file of an earlier run is reused if it was made in the same way.

    progress: shows the calibration batches that are done.
    Raises TaskError for data that the file cannot take, OnnxFileError for a file that cannot be
    quantized, JournalMismatch if measurements exist of a file that was made in another way.
    """
    job = job_of(settings)
    run_dir, file = RunDir(out), out / FILE
    earlier = run_dir.read_if_there(QUANTIZED_RECORD, Quantized)
    if earlier is not None:
        changed = _changed(earlier, job.options, file)
        if changed is None:
            return file
        if is_used(run_dir.journal):
            raise JournalMismatch(
                f"Expected {file} to be what was measured in this run, got {changed}; repeat the "
                "command that began the run, or choose another --out."
            )
    model = _quantized(job, progress)
    content = model.SerializeToString()
    write_whole(file, content)
    opsets = (job.file.opset, opset_of(model))
    tool = f"onnxruntime {importlib.metadata.version('onnxruntime')}"
    run_dir.write(QUANTIZED_RECORD, Quantized(_sha(content), job.options, tool, opsets))
    return file


def job_of(settings: TaskChoices) -> Job:
    """Return the float file and its calibration samples. Raises TaskError if there are none."""
    if settings.float_model is not None:
        raise TaskError(
            f"Expected no --float-model with {settings.task}, which is a float file and is "
            f"quantized first, got {settings.float_model}; leave it out, or give the Q/DQ file in "
            "place of the float one."
        )
    data = data_of(settings)
    file = sized_file(settings)
    reading = reading_of(settings, Calibration(samples_of(settings), settings.calib))
    calib = task_of(file, data, reading).data.get("calib")
    if calib is None:
        raise TaskError(
            f"Expected at least 5 samples in {data}, of which a fifth calibrates, got fewer; give "
            "more, or others to calibrate on with --calib."
        )
    return Job(settings, file, calib)


def sized_file(settings: TaskChoices) -> FloatFile:
    """Return the float file with the shapes that --shape gives it.

    Without --shape, images whose sides are open get those of --imgsz, or else those in ultralytics'
    metadata.
    """
    path, shapes = Path(settings.task), shapes_of(settings.shape)
    file = float_file(path, shapes)
    inputs, size = ports(file), size_of(settings, file)
    layout = image_layout(inputs)
    if shapes or size is None or layout is None:
        return file
    samples, *image = inputs[0].shape
    if None not in image:
        return file
    height, width = sides(size)
    colour = (3, height, width) if layout == "nchw" else (height, width, 3)
    return float_file(path, {"": (samples or "batch", *colour)})


def samples_of(settings: TaskChoices) -> int:
    """Return the largest number of calibration samples."""
    return settings.calib_samples or CALIBRATION_SAMPLES


def target_of(settings: TaskChoices) -> QuantizeFor:
    """Return the runtime by whose rules a float file is quantized. Raises SensitivityError for one
    without rules."""
    if settings.for_ == "qnn":
        raise SensitivityError(
            "Expected --for tensorrt, openvino or onnxruntime to quantize a float file, got qnn; "
            "quantize it with get_qnn_qdq_config of ONNX Runtime, and scan that Q/DQ file."
        )
    runtime = getattr(settings, "runtime", None)
    return settings.for_ or RUNTIMES.get(str(runtime), "onnxruntime")


def shapes_of(given: tuple[str, ...]) -> dict[str, tuple[int | str, ...]]:
    """Return name of an input -> its sides, with the name "" if none is given.

    Raises SensitivityError for sides that are neither numbers above 0 nor words.

    >>> shapes_of(("1,3,640,640", "mask=n,640"))
    {'': (1, 3, 640, 640), 'mask': ('n', 640)}
    """
    shapes: dict[str, tuple[int | str, ...]] = {}
    for text in given:
        name, _, sides = text.rpartition("=")
        words = map(str.strip, sides.split(","))
        try:
            shapes[name] = tuple(map(_side, words))
        except ValueError:
            raise SensitivityError(
                "Expected --shape as numbers above 0 with commas, a word for a side of any length, "
                f"got {text!r}; write it as 1,3,640,640 or NAME=1,3,640,640."
            ) from None
    return shapes


def _side(word: str) -> int | str:
    """Return a word as it is, and a number above 0 as an int. Raises ValueError for anything
    else."""
    if word.isidentifier():
        return word
    if not word.isdecimal() or int(word) == 0:
        raise ValueError(word)
    return int(word)


def _quantized(job: Job, progress: Progress) -> onnx.ModelProto:
    """Return the quantized model, with the metadata of the float file."""
    name, options = job.file.path.name, job.options
    rules = RULES[options.for_]
    inputs = [value.name for value in job.file.get_inputs()]
    example, _ = next(iter(job.calib))
    model = prepared(job.file, first_samples(feed(example, inputs), 1))
    batches = _inputs(job.calib, progress)
    tensor_ranges = ranges(model, batches, options.calib_method, symmetric=rules.signed)
    result = quantized(model, tensor_ranges, rules, name)
    del result.metadata_props[:]
    result.metadata_props.extend(job.file.model.metadata_props)
    return result


def _inputs(batches: Batches, progress: Progress) -> Iterator[Any]:
    """Yield the inputs of each batch, which counts as done when the next one is asked for."""
    with progress("calibrate", len(batches)) as advance:
        for inputs, _ in batches:
            yield inputs
            advance(1, 0)  # no samples: this takes longer than the forwards of a scan


def _changed(earlier: Quantized, options: Options, file: Path) -> str | None:
    """Return what has changed since quantized.onnx was made, in words; None if nothing has."""
    if not file.is_file() or _sha(file.read_bytes()) != earlier.sha256:
        return "a file that was changed since it was written"
    for item in fields(Options):
        before, now = getattr(earlier.options, item.name), getattr(options, item.name)
        if before != now:
            return WORDS.get(item.name, f"{flag_of(item.name)} {now} instead of {before}")
    return None


WORDS = {
    "model": "another float file",
    "calib": "other samples to calibrate on",
}
"""Names of options that are digests, for messages."""


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
