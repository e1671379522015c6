"""The results of planners.py as Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

HEAD = (
    "| target, points | planner | layers out | met on confirm | predicted ms | measured ms | "
    "against all of INT8 | holdout drop, points | tries | samples | seconds |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)
PEERS = ("ranked prefix", "NNCF-style greedy")
RECALIBRATED = "cost, recalibrated"


def markdown(content: Mapping[str, Any]) -> str:
    lines = [
        f"# Planners on {content['model']}",
        "",
        f"Command: `{content['command']}`",
        "",
        _machine(content["machine"]),
    ]
    if "instances" in content:
        return "\n".join([*lines, "", *_instances(content["instances"])]) + "\n"
    lines += ["", _subject(content), "", *HEAD]
    measured = content.get("builds_ms")
    for index, row in enumerate(content["rows"]):
        lines.append(_row(row, measured[index] if measured else None, content.get("int8_ms")))
    if measured:
        lines += ["", *_gains(content["rows"], measured)]
    return "\n".join(lines) + "\n"


def _subject(content: Mapping[str, Any]) -> str:
    splits = ", ".join(f"{split} {n}" for split, n in content["splits"].items())
    times = ""
    if "int8_ms" in content:
        times = f" Float {content['float_ms']:.3g} ms, all of INT8 {content['int8_ms']:.3g} ms."
    return (
        f"{content['units']} layers; samples: {splits}; latency in {content['runtime']}, cost by "
        f"whole engines.{times} Measured times: mean and standard error over builds, each beside "
        "everything in INT8. Drops: float minus plan, paired, with 95 % interval."
    )


def _row(row: Mapping[str, Any], ms: Sequence[float] | None, int8_ms: float | None) -> str:
    held = f"{100 * row['holdout_drop']:.1f}"
    if row["holdout_low"] is not None:
        held += f" ({100 * row['holdout_low']:.1f} to {100 * row['holdout_high']:.1f})"
    against = f"{np.mean(ms) / int8_ms:.2f}" if ms and int8_ms else ""
    cells = (
        f"{row['points']:g}", row["planner"], str(len(row["skip"])), "yes" if row["met"] else "no",
        _ms(row["predicted_ms"]), _builds(ms), against, held, str(row["tries"]),
        f"{row['samples']:,}", f"{row['seconds']:.1f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _gains(rows: Sequence[Mapping[str, Any]], measured: Sequence[Sequence[float]]) -> list[str]:
    """Our planners against each method of other tools at the same target, where both meet it, with
    95 % intervals over builds."""
    lines = []
    for points in dict.fromkeys(row["points"] for row in rows):
        times = {
            row["planner"]: ms
            for row, ms in zip(rows, measured, strict=True)
            if row["points"] == points and row["met"]
        }
        for own, name in itertools.product(("cost", RECALIBRATED), (*PEERS, "greedy")):
            if name in times and own in times:
                gain = _gain(times[name], times[own])
                lines.append(f"- {points:g} points: {own} runs {gain} times as fast as {name}.")
    return lines


def _gain(theirs: Sequence[float], ours: Sequence[float]) -> str:
    logs = np.log(theirs) - np.log(ours)
    if not logs.any():
        return "1.00"  # one plan
    interval = ttest_1samp(logs, 0.0).confidence_interval()
    return f"{np.exp(logs.mean()):.2f} ({np.exp(interval.low):.2f} to {np.exp(interval.high):.2f})"


def _builds(ms: Sequence[float] | None) -> str:
    return "" if ms is None else f"{np.mean(ms):.3g} ± {np.std(ms, ddof=1) / len(ms) ** 0.5:.2g}"


def _instances(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| planner | within 1 % of the best cost | the best | mean excess | worst | tries, mean | "
        "met and holds |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name in ("cost", "greedy"):
        excess = np.array([row[name]["excess"] for row in rows])
        holds = all(row[name]["holds"] for row in rows if row[name]["met"])
        cells = (
            name, f"{np.mean(excess <= 0.01):.1%}", f"{np.mean(excess < 1e-9):.1%}",
            f"{excess.mean():.2%}",
            f"{excess.max():.1%}", f"{np.mean([row[name]['tries'] for row in rows]):.1f}",
            "all" if holds else "NOT ALL",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return [f"{len(rows)} random instances of up to 12 units.", "", *lines]


def _machine(machine: Mapping[str, str]) -> str:
    names = (
        "cpu",
        "usable cores",
        "load",
        "python",
        "onnxruntime",
        "openvino",
        "torch",
        "nvidia-modelopt",
    )
    return "Machine: " + ", ".join(f"{name} {machine[name]}" for name in names if name in machine)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
