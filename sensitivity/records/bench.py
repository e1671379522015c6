"""Latencies and accuracy of exported files in a runtime, and the structure of built engines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sensitivity.records.measurements import Estimate


@dataclass(frozen=True)
class Timing:
    """Latency of one file in one runtime. All files of a bench are timed interleaved in the same
    run.

    spread_ms: interquartile range of the times.
    ratio: time of the float file divided by the time of this one, with a bootstrap interval; above
        1 is faster than float.
    against_fp16: the same ratio with the FP16 file; None if there is no such file, or if the
        runtime computed it in another type.
    same: other variants that are stored in this very file.
    """

    file: str
    variant: Literal["float", "fp16", "int8", "partial"]
    runtime: str
    precision: str
    batch: int
    threads: int
    n: int
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    spread_ms: float
    ratio: Estimate
    against_fp16: Estimate | None = None
    same: tuple[str, ...] = ()

    @property
    def variants(self) -> tuple[str, ...]:
        """All variants that this file is."""
        return (self.variant, *self.same)


def timing_of(variant: str, timings: Iterable[Timing]) -> Timing | None:
    """Return the timing of the file of this variant, or None if it was not timed."""
    return next((timing for timing in timings if variant in timing.variants), None)


@dataclass(frozen=True)
class RuntimeAccuracy:
    """The metric of the plan's file in the runtime where it was timed, on `holdout`.

    level: the metric in the runtime.
    simulated: the simulated metric of the plan on the same samples.
    drop: float minus the file, paired.
    differs: whether file and simulation differ by more than chance.
    cause: the known cause of a difference; "" if none is known.
    """

    runtime: str
    level: Estimate
    simulated: Estimate
    drop: Estimate
    differs: bool
    cause: str = ""


@dataclass(frozen=True)
class BenchResult:
    """Latencies of the files of a run and what they mean.

    sentences: the conclusions in words, the most important first.
    environment: name -> value of hardware and software facts.
    accuracy: variant -> metric of its file in this runtime on `holdout`; empty if not asked for.
    skip: units that the partial file leaves unquantized.
    judged: accuracy of the plan's file in the runtime; None if it was not measured.
    in_int8: number of layers of the plan's file that ran in INT8, and number that it quantizes;
        None if the runtime does not tell.
    keeps_form: whether the files keep the form of the file that was given, so that no file was
        lowered for a runtime.
    """

    timings: tuple[Timing, ...]
    sentences: tuple[str, ...]
    environment: dict[str, str]
    accuracy: dict[str, Estimate]
    skip: tuple[str, ...]
    judged: RuntimeAccuracy | None = None
    in_int8: tuple[int, int] | None = None
    keeps_form: bool = False


PLANNED = {"int8": "INT8", "fp8": "FP8"}
"""Precision that a plan may keep a layer in, other than float -> its name in sentences."""


@dataclass(frozen=True)
class BuiltLayer:
    """A weighted layer of a file, as planned and as built.

    planned: "int8", "fp8" or "float".
    built: precision in the engine ("int8", "fp32", ...); None if no layer of the engine names it.
    """

    layer: str
    planned: str
    built: str | None

    @property
    def as_planned(self) -> bool:
        """Whether the layer is in INT8 or FP8 exactly if the plan wants it to be."""
        in_float = None if self.built is None else self.built not in PLANNED
        return self.built == self.planned or (self.planned == "float" and in_float is True)


@dataclass(frozen=True)
class EngineStructure:
    """The structure of an engine that was built from a file but not executed.

    version: version of the builder.
    sm: compute capability that the engine is for.
    layers: the weighted layers in the order of the file.
    kernels: number of engine layers that write a tensor.
    requantize_kernels: number of those that only quantize, dequantize, cast or reorder.
    activation_bytes: bytes that all kernels write for one sample, without weights.
    """

    version: str
    sm: int
    layers: tuple[BuiltLayer, ...]
    kernels: int
    requantize_kernels: int
    activation_bytes: int

    @property
    def as_planned(self) -> bool:
        """Whether every weighted layer is built as planned."""
        return all(layer.as_planned for layer in self.layers)

    @property
    def kept_plans(self) -> dict[str, tuple[int, int]]:
        """Planned precision ("INT8", "FP8" or "float") -> (layers built as planned, all such
        layers)."""
        found = {}
        for planned, words in (*PLANNED.items(), ("float", "float")):
            layers = [layer for layer in self.layers if layer.planned == planned]
            if layers:
                found[words] = sum(layer.as_planned for layer in layers), len(layers)
        return found

    @property
    def sentence(self) -> str:
        """Description of the structure in words; it makes no claim about time."""
        shares = [
            f"{right} of {every} layers in {planned} as planned"
            for planned, (right, every) in self.kept_plans.items()
        ]
        return (
            f"TensorRT-RTX {self.version} builds it for SM {self.sm}: {'; '.join(shares)}; "
            f"{self.kernels} kernels, {self.requantize_kernels} of which only requantize; "
            f"{self.activation_bytes / 1e6:.2f} MB of activations. Nothing was executed."
        )
