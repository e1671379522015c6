"""Forecast of what a job takes, from one timed batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sensitivity.config import RunSettings, ScanSettings
from sensitivity.journal.lines import pack
from sensitivity.measure.checked import checked_scores
from sensitivity.measure.progress import Stopwatch
from sensitivity.measure.reader import Reader
from sensitivity.planners.base import wants_cost
from sensitivity.records import Scores, Unit, Variant
from sensitivity.repairs.tuning import BUDGET_S
from sensitivity.session import Session
from sensitivity.simulators.memory import peak_memory
from sensitivity.steps.forecast import (
    DRAWN_S,
    EXPORTED_S,
    FASTER,
    FILES,
    FITTED_S,
    MORE_SETS,
    TRACED_S,
    Amount,
    Size,
    amounts,
    size_of,
)

TIMED_UNITS = 8
"""Units whose variants are timed, spread over the model."""

LINE_BYTES = 150
"""Bytes of a line of the journal besides its scores."""

COPIES = (2, 6)
"""Smallest and largest number of copies of the weights that are held while files are written,
verified and timed, besides the model."""

SMALLEST_FILE = 0.25
"""Size of the smallest file as a fraction of the float file: weights of eight bits instead of
32."""

PLAN = (
    "A plan takes the least if everything in INT8 meets the target. At most the planner judges "
    f"{2 + MORE_SETS} sets and log2 of the number of units more on all of confirm, a "
    "classifier's on rank too, other ranges are tried on rank, and the layers are fine-tuned, if "
    f"that takes at most {BUDGET_S:.0f} s or is asked for."
)
FILES_TOO = (
    f"In export and bench the runtime takes from 1/{FASTER} of the simulation's time to all of it. "
    "On a machine with nothing else to do, fitting repairs takes {fitted} s besides their "
    "forwards, writing and checking files {exported} s, and drawing the report {drawn} s. Export "
    "and bench are left out if the model cannot be exported."
)
TRACED = (
    "Tracing the model, or loading files, takes {traced} s in a step on a machine with nothing "
    "else to do."
)
MEMORY = "Memory is the most host memory that this process has held until now."
FILES_MEMORY = f"Files take {COPIES[0]} to {COPIES[1]} more copies of the weights."
COST = "The time to measure the cost of layers is not known, and is not included."
RESUMED = "What the run has measured already is not subtracted."
AS_BUSY = "The machine is assumed to stay as busy as it was until this batch was timed."


@dataclass(frozen=True)
class Pace:
    """What one batch took.

    begin: seconds to load everything and run the first forward.
    unit: seconds per sample and variant in a scan, where units share work.
    whole: seconds per sample and set in a plan.
    line: bytes of the journal for one variant on the batch.
    slowed: see `Stopwatch`.
    """

    begin: float
    unit: float
    whole: float
    line: int
    slowed: float = 1.0


@dataclass(frozen=True)
class Expected:
    """What a step takes, each as (least, most).

    samples: samples forwarded.
    memory: bytes; None if unknown.
    """

    name: str
    samples: tuple[float, float]
    seconds: tuple[float, float]
    memory: tuple[float, float] | None


@dataclass(frozen=True)
class Forecast:
    """What a job takes.

    steps: in the order of execution.
    disk: bytes, (least, most).
    layers: number of layers with quantizers.
    assumed: assumptions of the forecast, one sentence each.
    """

    size: Size
    pace: Pace
    steps: tuple[Expected, ...]
    disk: tuple[float, float]
    layers: int = 0
    assumed: tuple[str, ...] = ()

    @property
    def seconds(self) -> tuple[float, float]:
        """Seconds of all steps together, (least, most)."""
        return (
            sum(step.seconds[0] for step in self.steps),
            sum(step.seconds[1] for step in self.steps),
        )


def forecast_of(
    session: Session, settings: RunSettings | ScanSettings, watch: Stopwatch
) -> Forecast:
    """Time one batch and forecast the job.

    watch: started before the session was opened.
    Raises TaskError as measuring does.
    """
    pace = timed(session, watch)
    size = replace(size_of(session), sample_s=pace.whole)
    needs = amounts(size, session.exact_samples(), settings)
    weights = weight_bytes(session.source.model)
    layers = len({quantizer.layer for quantizer in session.source.quantizers})
    forecast = forecast_from(pace, size, needs, weights)
    return replace(forecast, layers=layers, assumed=tuple(assumed(settings, size.units)))


def forecast_from(pace: Pace, size: Size, needs: dict[str, Amount], weights: int) -> Forecast:
    """Forecast the job from what was timed and counted.

    weights: bytes of the weights.
    """
    least, most = (pace.begin + seconds * pace.slowed for seconds in TRACED_S.of(size.units))
    check = Expected("check", (0, 0), (least, most), _memory(weights, (0, 0)))
    steps = [check, *(_expected(name, amount, pace, weights) for name, amount in needs.items())]
    return Forecast(size, pace, tuple(steps), _disk(pace, size, needs, weights))


def _expected(name: str, amount: Amount, pace: Pace, weights: int) -> Expected:
    a_sample = pace.unit if name == "scan" else pace.whole
    copies = COPIES if name in ("export", "bench") else (0, 0)
    return Expected(
        name,
        (amount.least.samples, amount.most.samples),
        (amount.least.at(a_sample, pace.slowed), amount.most.at(a_sample, pace.slowed)),
        _memory(weights, copies),
    )


def _memory(weights: int, copies: tuple[int, int]) -> tuple[float, float] | None:
    peak = peak_memory()
    return None if peak is None else (peak + copies[0] * weights, peak + copies[1] * weights)


def _disk(pace: Pace, size: Size, needs: dict[str, Amount], weights: int) -> tuple[float, float]:
    """Return the bytes of the journal and the files, (least, most)."""
    kept = [needs[name] for name in ("scan", "plan") if name in needs]
    a_sample = pace.line / size.batch
    least = a_sample * sum(amount.least.samples for amount in kept)
    most = a_sample * sum(amount.most.samples for amount in kept)
    if "export" not in needs:
        return least, most
    smallest = weights * (1 + (FILES[0] - 1) * SMALLEST_FILE)
    return least + smallest, most + weights * FILES[1]


def assumed(settings: RunSettings | ScanSettings, units: int) -> list[str]:
    """Return the assumptions of a forecast for these settings, one sentence each.

    units: number of units of the model.
    """
    sentences = [AS_BUSY, TRACED.format(traced=_between(TRACED_S.of(units)))]
    if isinstance(settings, RunSettings):
        files_too = FILES_TOO.format(
            fitted=_between(FITTED_S.of(units)),
            exported=_between(EXPORTED_S.of(units)),
            drawn=_between(DRAWN_S),
        )
        sentences += [PLAN, files_too, FILES_MEMORY]
        sentences += [COST] if settings.cost or wants_cost(settings.planner) else []
    sentences.append(MEMORY)
    return sentences + ([RESUMED] if settings.resume else [])


def _between(seconds: tuple[float, float]) -> str:
    least, most = seconds
    return f"{least:.1g} to {most:.2g}"


def timed(session: Session, watch: Stopwatch) -> Pace:
    """Time the first batch of `rank`, after one forward that prepares everything.

    A task with only evaluate(model) is evaluated once.
    """
    study = session.study
    quantized = study.baselines["quantized"]
    if not session.has_samples:
        begin = watch.seconds
        seconds, scores = _seconds(session, [quantized])
        return Pace(begin, seconds, seconds, line_bytes(scores), watch.slowed)
    _seconds(session, [quantized])
    begin = watch.seconds
    units = spread(study.units, TIMED_UNITS)
    variants = [*study.baselines.values(), *(study.unit_variant(unit, "disable") for unit in units)]
    whole, scores = _seconds(session, [quantized])
    together, _ = _seconds(session, variants)
    size = len(scores)
    return Pace(
        begin, together / len(variants) / size, whole / size, line_bytes(scores), watch.slowed
    )


def spread(units: Sequence[Unit], most: int) -> list[Unit]:
    """Return up to `most` units, evenly spread from the first to the last."""
    number = min(most, len(units))
    return [units[at * len(units) // number] for at in range(number)]


def line_bytes(scores: Scores) -> int:
    """Return the bytes of a journal line with these scores of one batch."""
    return LINE_BYTES + len(pack(scores))


def _seconds(session: Session, variants: Sequence[Variant]) -> tuple[float, Scores]:
    """Return the seconds that forwarding and scoring took, and the last scores. Nothing is
    stored."""
    measurer = session.measurer
    inputs, targets = Reader(measurer.task, "rank").at(0)
    size = size_of(session).batch
    start = time.monotonic()
    for _, output in measurer.outputs(variants, inputs):
        scores = checked_scores(measurer.task, output, targets, size, " on the timed batch")
    return time.monotonic() - start, scores


def weight_bytes(model: object) -> int:
    """Return the bytes of a torch module's parameters and buffers, or of an ONNX model's file."""
    path = getattr(model, "path", None)
    if isinstance(path, Path):
        return path.stat().st_size
    parameters, buffers = getattr(model, "parameters", list), getattr(model, "buffers", list)
    return sum(tensor.numel() * tensor.element_size() for tensor in (*parameters(), *buffers()))
