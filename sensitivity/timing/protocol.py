"""Latency of several files in one runtime. They are timed in turn, so that all of them see the same
machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import OnnxFileError, RuntimeUnavailable, SensitivityError
from sensitivity.records import Timing
from sensitivity.runtimes.base import Engine, Runtime, Tensors
from sensitivity.seeds import generator
from sensitivity.timing.ratio import median_ratio

LEAST_ROUNDS = 30
"""Number of rounds after which timing may end early. An interval of a ratio is then less than twice
as wide as after 100."""

SLOW_MS = 100
"""Latency from which on every inference counts. The first one of a turn takes as long as the next,
to 0.5 %, where YOLOv8n at 640 pixels takes 150 to 250 ms."""

Variant = Literal["float", "fp16", "int8", "partial"]


def bench_files(
    files: Mapping[Variant, Path],
    runtime: Runtime,
    inputs: Tensors,
    *,
    threads: int,
    rounds: int,
    warmup: int,
    enough_s: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    left_out: Callable[[SensitivityError], None] | None = None,
    seed: int | None = None,
) -> tuple[Timing, ...]:
    """Time every file once per round, in an order that is drawn anew for each round.

    All files are loaded at once. Every engine is closed at the end, also after an exception.

    inputs: one batch, the same for all files; the first axis is the sample.
    threads: of the runtime, for one inference.
    rounds: number of rounds.
    warmup: untimed inferences of each file before the first round.
    enough_s: seconds of timing after which no round begins, once there were `LEAST_ROUNDS`; None
        for no limit.
    progress: called with (rounds done, rounds) after each round.
    left_out: called with the reason if the runtime does not take the FP16 file, which is then not
        timed; None raises it.
    seed: of the order; None takes the seed of the command.
    Raises SensitivityError if the float file is missing (every ratio is against it) or a number
    makes no sense, and what the runtime raises for a file that it cannot load.
    """
    _check(files, threads, rounds, warmup)
    with contextlib.ExitStack() as stack:
        engines: dict[Variant, Engine] = {}
        for variant, file in files.items():
            try:
                engines[variant] = runtime.build(file, threads=threads)
            except (OnnxFileError, RuntimeUnavailable) as error:
                if variant != "fp16" or left_out is None:
                    raise
                left_out(error)
                continue
            stack.callback(engines[variant].close)
        per_turn = getattr(runtime, "per_turn", 1)  # more where a turn is costly, such as a process
        times = interleaved(
            engines,
            inputs,
            rounds=rounds,
            warmup=warmup,
            per_turn=per_turn,
            enough_s=enough_s,
            progress=progress,
            seed=seed,
        )
        batch = len(next(iter(inputs.values())))
        blocks = per_turn if per_turn > 1 else None
        ran_in_fp16 = "fp16" in engines and engines["fp16"].precision == "fp16"
        timings = []
        for variant, engine in engines.items():
            ms, against_fp16 = times[variant], None
            if ran_in_fp16:
                against_fp16 = median_ratio(times["fp16"], ms, block=blocks)
            timings.append(
                Timing(
                    file=str(files[variant]),
                    variant=variant,
                    runtime=runtime.name,
                    precision=engine.precision,
                    batch=batch,
                    threads=threads,
                    ratio=median_ratio(times["float"], ms, block=blocks),
                    against_fp16=against_fp16,
                    **spread_of(ms),
                )
            )
        return tuple(timings)


def interleaved(
    engines: Mapping[Variant, Engine],
    inputs: Tensors,
    *,
    rounds: int,
    warmup: int,
    per_turn: int = 1,
    enough_s: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    seed: int | None = None,
) -> dict[Variant, NDArray[np.float64]]:
    """Return the milliseconds float64[rounds] of each engine; equal indices are of the same round.

    per_turn: number of rounds that an engine runs before the next engine has its turn.
    enough_s: as for `bench_files`. There are fewer rounds if this time is over.
    """
    rng = generator(seed)
    variants = list(engines)
    times: dict[Variant, list[float]] = {variant: [] for variant in variants}
    warm = [np.median(engine.time_ms(inputs, warmup)) for engine in engines.values() if warmup]
    # The first inference of a turn brings back into the caches what the other files evicted.
    untimed = 0 if per_turn == 1 and min(warm, default=0) > SLOW_MS else 1
    start = time.perf_counter()
    for done in range(0, rounds, per_turn):
        is_over = enough_s is not None and time.perf_counter() - start > enough_s
        if is_over and done >= LEAST_ROUNDS:
            break
        timed = min(per_turn, rounds - done)
        for k in rng.permutation(len(variants)):
            found = engines[variants[k]].time_ms(inputs, untimed + timed)
            times[variants[k]] += found[untimed:].tolist()
        if progress:
            progress(done + timed, rounds)
    return {variant: np.array(values) for variant, values in times.items()}


def spread_of(ms: NDArray[np.float64]) -> dict[str, Any]:
    """Return the fields of `Timing` that summarize times float64[n].

    spread_ms is the interquartile range.
    """
    parts = [0.25, 0.5, 0.75, 0.9, 0.95, 0.99]
    q25, q50, q75, q90, q95, q99 = map(float, np.quantile(ms, parts))
    return {
        "n": len(ms),
        "median_ms": q50,
        "p90_ms": q90,
        "p95_ms": q95,
        "p99_ms": q99,
        "spread_ms": q75 - q25,
    }


def _check(files: Mapping[Variant, Path], threads: int, rounds: int, warmup: int) -> None:
    if "float" not in files:
        raise SensitivityError(
            f"Expected a float file to compare with, got {', '.join(files) or 'no files'}; export "
            "it with the others."
        )
    for what, value, least in (
        ("threads", threads, 1),
        ("rounds", rounds, 1),
        ("warmup", warmup, 0),
    ):
        if value < least:
            raise SensitivityError(f"Expected {what} of at least {least}, got {value}.")
