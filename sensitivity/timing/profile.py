"""Finds the precision in which a runtime runs each layer of a file, apart from any timing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import onnx_ir as ir

from sensitivity.errors import RuntimeUnavailable
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.qdq import (
    activation,
    pair_of,
    quantized,
    through_transpose,
    weight,
    weighted_nodes,
)
from sensitivity.onnx_graph.uses import format_of
from sensitivity.onnx_graph.walk import name_of
from sensitivity.records import FP8, EngineStructure
from sensitivity.runtimes.base import LayerRun, Port, Runtime, Tensors
from sensitivity.timing.protocol import Variant


@dataclass(frozen=True)
class FileProfile:
    """The steps of one inference of a file.

    runs: in order of execution.
    kept: the ONNX nodes that are in INT8 in the file.
    fp8: those that are in FP8 in it.
    """

    runs: tuple[LayerRun, ...]
    kept: tuple[str, ...]
    fp8: tuple[str, ...] = ()


def profile_file(
    file: Path, runtime: Runtime, inputs: Tensors, *, threads: int | None = None, repeats: int = 10
) -> FileProfile:
    """Return the profile of a file.

    Raises RuntimeUnavailable if the runtime has no profiler.
    """
    engine = runtime.build(file, threads=threads)
    try:
        profile = getattr(engine, "profile", None)
        if profile is None:
            raise RuntimeUnavailable(
                f"Expected a runtime with a profiler, got {runtime.name}, which has none."
            )
        return FileProfile(profile(inputs, repeats), *_by_format(file))
    finally:
        engine.close()


def profile_files(
    files: Mapping[Variant, Path],
    canonical: Mapping[Variant, Path],
    runtime: Runtime,
    inputs: Tensors,
) -> dict[str, FileProfile]:
    """Return the profile of each file, by variant; empty for a runtime that has no profiler.

    canonical: files whose quantized layers should run in INT8. In a file that was lowered for the
        runtime, some of them may be in float.
    """
    profiles = {}
    try:
        for variant, file in files.items():
            profile = profile_file(file, runtime, inputs)
            kept, fp8 = _by_format(canonical.get(variant, file))
            profiles[str(variant)] = replace(profile, kept=kept, fp8=fp8)
    except RuntimeUnavailable:
        return {}
    return profiles


def quantized_nodes(file: Path) -> tuple[str, ...]:
    """Return the names of the weighted nodes whose input and weight both come from Q/DQ.

    They are in the file's order. The input may have been moved since, for example by a Concat. A
    node without a name is named by its first output.
    """
    nodes = weighted_nodes(load_model(file).graph)
    return tuple(name_of(node) for node in nodes if _is_quantized(node))


def _by_format(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the quantized nodes that are in INT8, and those that are in FP8."""
    int8, fp8 = list[str](), list[str]()
    for node in weighted_nodes(load_model(file).graph):
        if not _is_quantized(node):
            continue
        if is_in_fp8(node):
            fp8.append(name_of(node))
        elif _is_in_int8(node):
            int8.append(name_of(node))
    return tuple(int8), tuple(fp8)


def is_in_fp8(node: ir.Node) -> bool:
    """Return whether the weight of this node is in FP8."""
    pair = through_transpose(weight(node))
    return pair is not None and format_of(pair) == FP8


def _is_in_int8(node: ir.Node) -> bool:
    """Return whether the pairs at a quantized node have 8-bit integers; a moved activation may have
    its pair elsewhere."""
    pairs = pair_of(activation(node)), through_transpose(weight(node))
    return all(pair is None or format_of(pair) == "INT8" for pair in pairs)


def _is_quantized(node: ir.Node) -> bool:
    return quantized(activation(node)) and through_transpose(weight(node)) is not None


def layer_rows(
    variant: str, profile: FileProfile, engine: EngineStructure | None = None
) -> list[dict[str, object]]:
    """Return one row per step, for layers.csv.

    `share` is relative to the profiled time; None if nothing was timed.

    engine: what TensorRT-RTX built of the same variant, without executing it; None if it built
        nothing. A row then holds the planned and the built precision of the step's weighted layers.
    """
    total = sum(run.ms or 0.0 for run in profile.runs)
    built = {layer.layer: layer for layer in engine.layers} if engine else {}
    rows = list[dict[str, object]]()
    for index, run in enumerate(profile.runs, start=1):
        layers = list(filter(None, map(built.get, run.onnx)))
        is_timed = run.ms is not None and total > 0
        rows.append(
            {
                "variant": variant,
                "step": index,
                "layer": run.name,
                "op": run.op,
                "precision": run.precision,
                "ms": run.ms,
                "share": (run.ms or 0.0) / total if is_timed else None,
                "onnx": " ".join(run.onnx),
                "quantized": not set(run.onnx).isdisjoint(profile.kept),
                "origin": run.origin or "",
                "inputs": _precisions(run.inputs),
                "outputs": _precisions(run.outputs),
                "rtx_planned": " ".join(map(attrgetter("planned"), layers)),
                "rtx_built": " ".join(layer.built or "?" for layer in layers),
            }
        )
    return rows


def _precisions(ports: Iterable[Port]) -> str:
    return " ".join(map(attrgetter("precision"), ports))
