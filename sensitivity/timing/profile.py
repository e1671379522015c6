"""What one file ran in, layer by layer, apart from any timing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sensitivity.errors import RuntimeUnavailable
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.qdq import (
    activation,
    quantized,
    through_transpose,
    weight,
    weighted_nodes,
)
from sensitivity.records import EngineStructure
from sensitivity.runtimes.base import LayerRun, Runtime, Tensors
from sensitivity.timing.protocol import Variant


@dataclass(frozen=True)
class FileProfile:
    """runs: the steps of one inference, in order. kept: the ONNX nodes that are quantized in the
    file."""

    runs: tuple[LayerRun, ...]
    kept: tuple[str, ...]


def profile_file(
    file: Path, runtime: Runtime, inputs: Tensors, *, threads: int | None = None, repeats: int = 20
) -> FileProfile:
    """Raises RuntimeUnavailable where this runtime cannot say what its layers ran in."""
    engine = runtime.build(file, threads=threads)
    try:
        profile = getattr(engine, "profile", None)
        if profile is None:
            raise RuntimeUnavailable(
                f"Expected a runtime with a profiler, got {runtime.name}, which has none."
            )
        return FileProfile(profile(inputs, repeats), quantized_nodes(file))
    finally:
        engine.close()


def profile_files(
    files: Mapping[Variant, Path],
    canonical: Mapping[Variant, Path],
    runtime: Runtime,
    inputs: Tensors,
) -> dict[str, FileProfile]:
    """The profile of each file, by variant; empty for a runtime that cannot say.

    canonical: what is quantized there should run in INT8; a file lowered for the runtime may have
    given up on some.
    """
    found = {}
    try:
        for variant, file in files.items():
            profile = profile_file(file, runtime, inputs)
            found[str(variant)] = replace(
                profile, kept=quantized_nodes(canonical.get(variant, file))
            )
    except RuntimeUnavailable:
        return {}
    return found


def quantized_nodes(file: Path) -> tuple[str, ...]:
    """Names of the weighted nodes (Conv, Gemm, ...) whose input and weight both come from Q/DQ, in
    the file's order. The input may have been moved since, by a Concat for one. A node without a
    name goes by its first output."""
    return tuple(
        node.name or node.outputs[0].name or "?"
        for node in weighted_nodes(load_model(file).graph)
        if quantized(activation(node)) and through_transpose(weight(node)) is not None
    )


def layer_rows(
    variant: str, profile: FileProfile, engine: EngineStructure | None = None
) -> list[dict[str, object]]:
    """One row per step, for layers.csv; `share` is of the profiled time, None where nothing was
    timed.

    engine: that TensorRT-RTX built of the same variant, which nothing executed; of the weighted
    layers of each step, what was planned and what it has. None where it built none.
    """
    total = sum(run.ms or 0.0 for run in profile.runs)
    layers = {layer.layer: layer for layer in engine.layers} if engine else {}
    return [
        {
            "variant": variant,
            "step": index,
            "layer": run.name,
            "op": run.op,
            "precision": run.precision,
            "ms": run.ms,
            "share": run.ms / total if run.ms is not None and total else None,
            "onnx": _joined(run.onnx),
            "quantized": any(name in profile.kept for name in run.onnx),
            "origin": run.origin or "",
            "inputs": _joined(port.precision for port in run.inputs),
            "outputs": _joined(port.precision for port in run.outputs),
            "rtx_planned": _joined(layers[name].planned for name in run.onnx if name in layers),
            "rtx_built": _joined(layers[name].built or "?" for name in run.onnx if name in layers),
        }
        for index, run in enumerate(profile.runs, start=1)
    ]


def _joined(words: Iterable[str]) -> str:
    return " ".join(words)
