"""Made-up runs for the tests of reporting. Numbers are of no model; they only have the right
shape."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from sensitivity.records import (
    Distribution,
    Distributions,
    Effect,
    Estimate,
    FrontierPoint,
    GraphNode,
    ModelGraph,
    OnGrid,
    Plan,
    PlanMetric,
    PlanStep,
    Quantizer,
    Target,
    Timing,
    Unit,
)
from sensitivity.reporting.data import Choice, ReportData

COMMAND = "sensitivity run examples/01_mobilenet/task.py:task --max-drop 1pt --out runs/mobilenet"


def near(value: float, half: float = 0.055, n: int = 300) -> Estimate:
    return Estimate(value, value - half, value + half, n)


def units(number: int, pattern: str = "stage{}.{}") -> tuple[Unit, ...]:
    names = [pattern.format(index // 6 + 1, index % 6) for index in range(number)]
    return tuple(
        Unit(name, (f"{name}.input_quantizer", f"{name}.weight_quantizer")) for name in names
    )


def effects(of: tuple[Unit, ...], interval: bool = True) -> tuple[Effect, ...]:
    """Falling effects; from the third on each is tied with rank 3; the last third includes zero."""
    made = []
    for index, unit in enumerate(of):
        value = 0.17 * math.exp(-index / 3) - 0.002 * index / len(of)
        half = 0.03 * math.exp(-index / 6) + 0.004
        estimate = (
            Estimate(value, value - half, value + half, 300)
            if interval
            else Estimate(value, None, None, 1)
        )
        made.append(Effect(index + 1, min(index + 1, 3), unit.name, estimate, 0.299 + value))
    return tuple(made)


def plan(of: tuple[Unit, ...], left_out: int = 5, met: bool = True) -> Plan:
    names = tuple(unit.name for unit in of)
    floor = 0.512 if met else 0.561
    tried = [len(names), len(names) // 2, 7, 3, 4, left_out]
    path = tuple(
        PlanStep(
            names[:k], round(0.5365 - 0.2355 * math.exp(-k / 2.13), 3), met and k >= left_out, 300
        )
        for k in tried
    )
    path += (PlanStep((names[0], *names[2:left_out]), 0.497, False, 300),)
    metric = PlanMetric(
        name="top-1",
        float=near(floor + 0.01, n=500),
        quantized=near(0.301, n=500),
        confirm=near(0.514, 0.044, n=500),
        holdout=near(0.508, 0.062, n=250),
        holdout_float=near(0.52, 0.062, n=250),
        holdout_drop=near(0.012, 0.016, n=250),
    )
    chosen = names[:left_out]
    return Plan(
        skip=chosen,
        quantizers=tuple(q for unit in of[:left_out] for q in unit.quantizers),
        met=met,
        target=Target(drop=0.01),
        floor=floor,
        metric=metric,
        path=path,
        planner="greedy",
        reason=None
        if met
        else "leaving out all 28 layers reaches 53.0 %, so the loss is not in one of them",
        try_next=()
        if met
        else ("calibrate again with entropy or percentile ranges", "quantization-aware training"),
    )


def timing(
    file: str, median_ms: float, ratio: float, variant: str = "float", runtime: str = "onnxruntime"
) -> Timing:
    return Timing(
        file=file,
        variant=variant,  # type: ignore[arg-type]
        runtime=runtime,
        precision="fp32" if variant == "float" else "int8",
        batch=1,
        threads=2,
        n=200,
        median_ms=median_ms,
        p90_ms=median_ms * 1.06,
        p95_ms=median_ms * 1.1,
        p99_ms=median_ms * 1.3,
        spread_ms=median_ms * 0.03,
        ratio=Estimate(ratio, ratio - 0.02, ratio + 0.02, 200),
    )


TIMINGS = (
    timing("model.float.onnx", 3.21, 1.0),
    timing("model.int8.onnx", 4.47, 0.72, "int8"),
    timing("model.partial.onnx", 4.31, 0.745, "partial"),
)


def scan_only(number: int = 28, pattern: str = "stage{}.{}", interval: bool = True) -> ReportData:
    made = units(number, pattern)
    return ReportData(
        title="MobileNetV1 x0.25 on ImageNet",
        metric="top-1",
        full_scale=1.0,
        mode="disable",
        command=COMMAND,
        settings={"alpha": "0.05", "split rank": "300 samples", "simulator": "toggle", "seed": "0"},
        baselines={
            "float": near(0.519),
            "quantized": near(0.299),
            "weights only": near(0.487),
            "activations only": near(0.331),
        },
        effects=effects(made, interval),
        units=made,
        environment={"machine": "x86_64, 2 cores", "Python": "3.11.7", "torch": "2.13.0"},
    )


def complete(number: int = 28, pattern: str = "stage{}.{}", met: bool = True) -> ReportData:
    data = scan_only(number, pattern)
    return replace(
        data,
        plan=plan(data.units, met=met),
        timings=TIMINGS,
        bench_sentences=(
            "The partial INT8 file is slower than float here: 4.31 ms against 3.21 ms, 0.74x "
            "[0.72, 0.77].",
            "It was not lowered for ONNX Runtime.",
        ),
        verification={
            "top-1 of the exported file": 0.512,
            "largest difference": 1.2e-6,
            "layers without Q/DQ": "5 of 28",
        },
    )


def with_choices(data: ReportData, **changes: object) -> ReportData:
    """Three sets: everything in INT8, one that is beaten, and the plan; float has 52.2 %."""
    assert data.plan
    names = tuple(unit.name for unit in data.units)
    sets = (
        ((), 0.04, "sensitivity plan . --max-drop 4.0pt", 0.04),
        (names[:3], 0.05, "", None),
        (data.plan.skip, 0.01, "sensitivity plan . --max-drop 1.0pt", 0.01),
    )
    choices = tuple(
        Choice(
            FrontierPoint(
                skip, near(0.522 - drop), near(drop, 0.02), near(0.5), near(drop), **changes
            ),
            command=command,
            allowed=allowed,
        )
        for skip, drop, command, allowed in sets
    )
    return replace(data, choices=choices)


def with_graph(data: ReportData) -> ReportData:
    """The same with a graph: all layers in a row, and around the second to fourth a residual sum,
    whose readers have different ranges."""
    layers = [unit.name for unit in data.units]
    names = [("input", "x", ""), *(("layer", name, "Conv") for name in layers[:4])]
    names += [("join", "sum", "Add"), *(("layer", name, "Conv") for name in layers[4:])]
    nodes = tuple(GraphNode(*name) for name in (*names, ("output", "y", "")))  # type: ignore[arg-type]
    edges = (*pairwise(range(len(nodes))), (1, 5), (5, 7))
    readers = (f"{layers[4]}.input_quantizer", f"{layers[5]}.input_quantizer")
    quantizers = tuple(
        Quantizer(name, unit.name, role, 8, None)
        for unit in data.units
        for name, role in zip(unit.quantizers, ("input", "weight"), strict=True)
    )
    return replace(data, graph=ModelGraph(nodes, edges, (readers,)), quantizers=quantizers)


def with_values(data: ReportData) -> ReportData:
    """The same with what the quantizers of its first unit get: of its weights one channel is far
    wider than the other, and one activation in a hundred clips."""
    activations, weights = data.units[0].quantizers
    own = OnGrid((-128.0, 127.0), (1.0, 1.0), 0.0, 1e-4, 0.0, 0.8)
    of_weights = Distribution(weights, "weight", -1.0, 127.0, (99, 0, 0, 1), own, (127.0, 1.0))
    clipped = OnGrid((0.0, 4.0), (0.016, 0.016), 0.01, 1e-4, 0.02)
    of_activations = Distribution(activations, "input", 0.0, 8.0, (900, 90, 9, 1), clipped)
    return replace(data, distributions=Distributions(16, (of_weights, of_activations)))
