"""The metric of an ONNX file, in ONNX Runtime with every graph optimization off: the reference
numerics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike

from sensitivity import optional
from sensitivity.exporters.agreement import agreed
from sensitivity.exporters.simulate import flat_inputs
from sensitivity.exporters.verification import MetricCheck
from sensitivity.onnx_graph.digest import digest
from sensitivity.quantizers.onnx.batches import feed, joined, length, pieces
from sensitivity.records import Scores
from sensitivity.runtimes.base import Engine, Runtime
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.tasks.batches import arrays, as_numpy, scores_of
from sensitivity.tasks.scoring import Scoring

STRUCTURE = "sensitivity.outputs"


def evaluate_file(
    file: Path,
    batches: Iterable[tuple[Any, Any]],
    score: Callable[[Any, Any], ArrayLike],
    aggregate: Callable[[Scores], float],
    *,
    runtime: Runtime | None = None,
) -> tuple[float, Scores]:
    """The aggregate metric of a file, and its per-sample scores.

    batches, score, aggregate: as in a task. runtime: None for ONNX Runtime without optimizations.
    Outputs reach `score` in the nest that the model gave them in, where the file is one of our
    exports.
    """
    structure, ports = output_structure(file), input_ports(file)
    scores = []
    with (runtime or OnnxRuntime(optimize=False)).build(file) as engine:  # type: ignore[attr-defined]
        for inputs, targets in batches:
            outputs = outputs_of(engine, inputs, ports, structure)
            scores.append(scores_of(score(outputs, targets)))
    every = np.concatenate(scores)
    return float(aggregate(every)), every


def file_scores(file: Path, scoring: Scoring, *, optimize: bool = False) -> Scores:
    """Per-sample scores of a file in ONNX Runtime on all batches of `scoring`; evaluated once, as
    several checks ask for them, also of files that are the same but for their names."""
    key = (digest(file), optimize)
    if key not in scoring.of_files:
        _, scores = evaluate_file(
            file,
            scoring.batches,
            scoring.score,
            scoring.aggregate,
            runtime=OnnxRuntime(optimize=optimize),
        )
        scoring.of_files[key] = scores
    return scoring.of_files[key]


def check_metric(
    file: Path, variant: str, simulate: Callable[[Any], Any], scoring: Scoring
) -> MetricCheck:
    """The metric of a variant's file and of its simulated model on the batches of `scoring`.

    simulate: gives the model's outputs for inputs. Raises ExportError where the two differ by more
    than 0.3 points and more than by chance: rounding flips turn single samples right and wrong,
    which on few samples is more than 0.3 points.
    """
    expected = simulated_scores(variant, scoring, simulate)
    scores = file_scores(file, scoring)
    return agreed(file.name, "the simulated model", expected, scores, scoring)


def simulated_scores(variant: str, scoring: Scoring, simulate: Callable[[Any], Any]) -> Scores:
    """Per-sample scores of the simulated model of a variant on all batches of `scoring`: what was
    measured before, else from the outputs that `simulate` gives for inputs."""
    found = []
    for number, (inputs, targets) in enumerate(scoring.batches):
        known = scoring.simulated(variant, number)
        if known is None:
            known = scores_of(scoring.score(simulate(inputs), targets))
        found.append(known)
    return np.concatenate(found)


def outputs_of(
    engine: Engine, inputs: Any, ports: Mapping[str, int | None], structure: str | None
) -> Any:
    """What the file gives for a batch: as tensors in the model's own nest, for files of a torch
    model; else as arrays, also where the task's data are tensors, as a Q/DQ file's own task gets
    them. Files of a torch model that were scanned as Q/DQ files themselves get arrays and give
    arrays."""
    is_of_numpy = isinstance(next(arrays(inputs), None), np.ndarray)
    if structure is not None and not is_of_numpy:
        return nested(list(run(engine, inputs).values()), structure)
    fed = feed(inputs, list(ports))
    fixed = next((size for size in ports.values() if size is not None), None)
    return joined([list(engine.run(part).values()) for part in pieces(fed, fixed)], length(fed))


def arrays_of(file: Path, inputs: Any) -> dict[str, np.ndarray]:
    """A batch of arrays by the names of the file's inputs; the first samples only, where the file
    takes so many.

    Raises TaskError where number or names differ from the file's.
    """
    ports = input_ports(file)
    fixed = next((size for size in ports.values() if size is not None), None)
    return {name: array[:fixed] for name, array in feed(inputs, list(ports)).items()}


def input_ports(file: Path) -> dict[str, int | None]:
    """The file's inputs by name, and the batch size that each is made for; None where it takes
    any."""
    graph = onnx.load(file, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    sides = {
        value.name: value.type.tensor_type.shape.dim
        for value in graph.input
        if value.name not in stored
    }
    return {name: dims[0].dim_value or None if dims else None for name, dims in sides.items()}


def output_structure(file: Path) -> str | None:
    """The nest of the model's outputs as our export keeps it in the file; None for files of
    others."""
    proto = onnx.load(file, load_external_data=False)
    return next((item.value for item in proto.metadata_props if item.key == STRUCTURE), None)


def run(engine: Engine, inputs: Any) -> dict[str, np.ndarray]:
    """Outputs of an engine for one batch of torch tensors."""
    names, tensors = flat_inputs(inputs)
    feed = {name: as_numpy(tensor) for name, tensor in zip(names, tensors, strict=True)}
    return engine.run(feed)


def nested(outputs: list[np.ndarray], structure: str | None) -> Any:
    """Outputs as torch tensors in the model's own nest; without one, a tensor or a tuple of
    them."""
    tensors = [optional.torch.from_numpy(np.ascontiguousarray(output)) for output in outputs]
    if structure is not None:
        return optional.pytree.tree_unflatten(tensors, optional.pytree.treespec_loads(structure))
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
