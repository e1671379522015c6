"""Checks whether the model can be exported, with the export's own steps, before measuring."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.errors import ExportError, ModelError, OnnxFileError, SensitivityError
from sensitivity.exporters.agreement import relative_rms
from sensitivity.exporters.evaluate import run
from sensitivity.exporters.simulate import first_samples, outputs_of
from sensitivity.exporters.torch_model import canonical
from sensitivity.exporters.verify import flat
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph.levels import level_type
from sensitivity.quantizers.base import QuantizedModel, file_grid, form_of
from sensitivity.quantizers.torch.half import in_float32
from sensitivity.records import Finding, names_of
from sensitivity.reporting.data import NOT_EXPORTABLE
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.session import Session
from sensitivity.tasks.batches import batch_size

TRACED, OTHER, ONLY = 2, 3, 1
"""Samples that the graph is traced with, and the other number that it is run with; ONLY if the
batch has fewer than OTHER."""
TOLERANCE = 1e-3
"""Largest RMS difference between the exported graph and the model, relative to its outputs. Sums
may be computed in another order."""
NO_FILES = (
    "{problem} The scan, the plan and the report are still possible; there will be no ONNX "
    "file and no latency."
)


def export_findings(session: Session) -> Iterator[Finding]:
    """Yield one warning, with the export's own reason, if no file of this model can be written."""
    try:
        check_export(session)
    except SensitivityError as error:
        message, _, fix = str(error).partition("; ")
        message = f"{NOT_EXPORTABLE}{message.rstrip('.')}."
        yield Finding(
            "export-impossible",
            "warning",
            "",
            NO_FILES.format(problem=message),
            f"To get files: {fix or OTHER_FORMAT}",
        )


OTHER_FORMAT = (
    "calibrate with symmetric 8-bit integers, or take the plan's layers to the export "
    "of the toolkit that quantized it."
)


def check_export(session: Session) -> None:
    """Raise SensitivityError, with the export's own message, if this model cannot be exported."""
    if session.example is None:
        raise ExportError(
            "the task has no example_inputs; add one batch of inputs to the EvaluateTask."
        )
    if form_of(session.source) == "onnx":
        return  # its files are cut from the one that is there
    check_grids(session.source)
    graph = session.graph
    if graph is None or graph.traced is None:
        raise ExportError(
            graph.problem if graph and graph.problem else "its graph could not be traced"
        )
    with in_float32(session.source.model):
        check_traced(session.source, graph.traced, session.example)


def check_grids(source: QuantizedModel) -> None:
    """Raise ModelError or ExportError if no file can hold the grids of some quantizers.

    The message names the first of them and says how many there are.
    """
    errors = []
    for quantizer in source.quantizers:
        try:
            level_type(quantizer.name, file_grid(source, quantizer.name))
        except (ModelError, ExportError) as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        message, _, fix = str(errors[0]).partition("; ")
        more = f" ({len(errors)} of {len(source.quantizers)} quantizers are like this)"
        raise ExportError(f"{message.rstrip('.')}{more}" + (f"; {fix}" if fix else "."))


def check_traced(source: QuantizedModel, traced: Any, example: Any) -> None:
    """Raise ExportError if the float graph fails at another batch size than it was traced with.

    It fails if it does not run, or if its outputs differ from the model's.

    traced: the graph of the model.
    example: one batch of inputs.
    """
    layers = {quantizer.name: quantizer.layer for quantizer in source.quantizers}
    size = batch_size(example)
    with tempfile.TemporaryDirectory() as folder:
        file = _written(canonical(traced, {}, {}, layers), Path(folder))
        for samples in dict.fromkeys((min(TRACED, size), OTHER if size >= OTHER else ONLY)):
            difference = _difference(source, file, first_samples(example, samples))
            if not difference <= TOLERANCE:
                raise _other_batch(
                    samples, f"outputs that differ from the model's by {difference:.1g}"
                )


def _written(model: Any, folder: Path) -> Path:
    return save(model, folder / "model.onnx")


def _difference(source: QuantizedModel, file: Path, inputs: Any) -> float:
    """Return the relative RMS difference between the file and the model with all quantizers off.

    Returns inf if shapes differ.
    """
    expected = flat(outputs_of(source, inputs, names_of(source.quantizers)))
    with OnnxRuntime(optimize=False).build(file, threads=1) as engine:
        try:
            outputs = list(run(engine, inputs).values())
        except OnnxFileError as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise _other_batch(
                batch_size(inputs), f"an error of ONNX Runtime (...{reason[-100:]})"
            ) from error
    if list(map(np.shape, outputs)) != list(map(np.shape, expected)):
        return float("inf")
    pairs = zip(outputs, expected, strict=True)
    # A class that two equal logits compete for is a matter of rounding, so numbers alone count.
    floats = [pair for pair in pairs if np.issubdtype(pair[1].dtype, np.floating)]
    return max((relative_rms([ours], [theirs], [theirs]) for ours, theirs in floats), default=0.0)


def _other_batch(samples: int, got: str) -> ExportError:
    return ExportError(
        f"Expected its exported graph, traced with {TRACED} samples, to give the model's outputs "
        f"for {samples}, got {got}; write the forward so that nothing is fixed while tracing: "
        "x.shape[0] instead of len(x), and no choice that depends on values."
    )
