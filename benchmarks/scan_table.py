"""The numbers of `scan.py` as a table, on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Row = tuple[str, str, str, str]
COLUMNS = ("", "naive loop", "exact replay", "raced scan + plan")
SHOWN = (
    "cpu",
    "usable cores",
    "gpu",
    "gpu name",
    "load",
    "os",
    "python",
    "torch",
    "nvidia-modelopt",
    "numpy",
)


def rows(result: dict[str, Any]) -> Iterator[Row]:
    r = result
    yield (
        "wall, s",
        _s(r["naive_s"]),
        _s(r["exact_s"]),
        f"{_s(r['raced_s'])} (worst {_s(r['raced_s_worst'])})",
    )
    yield (
        "… naive loop takes times as long",
        "1",
        _ratio(r, "naive_s", "exact_s"),
        _ratio(r, "naive_s", "raced_s"),
    )
    yield "model time, s", _s(r["naive_model_s"]), _s(r["exact_model_s"]), ""
    yield "… naive loop takes times as long", "1", _ratio(r, "naive_model_s", "exact_model_s"), ""
    yield (
        "floor, s; share of it in the model time",
        "",
        f"{_s(r['floor_s'])}; {_ratio(r, 'floor_s', 'exact_model_s')}",
        "",
    )
    yield "tracing and checking the model, s", "", _s(r["exact_setup_s"]), _s(r["raced_setup_s"])
    yield "reading data; scoring, s", f"{_s(r['naive_data_s'])}; {_s(r['naive_score_s'])}", "", ""
    samples = f"{r['raced_samples']:,.0f} (worst {r['raced_samples_worst']:,})"
    yield "samples forwarded", f"{r['naive_samples']:,}", f"{r['exact_samples']:,}", samples
    yield "metrics equal to the naive loop's", "", _yes(r["metrics_equal"]), ""
    yield (
        "Kendall's tau to the exact ranking",
        "",
        "1",
        f"{r['tau']:.2f} (worst {r['tau_worst']:.2f})",
    )
    units = f"{r['plan_units']:.1f} (worst {r['plan_units_worst']})"
    yield "layers skipped by the plan", str(r["naive_plan_units"]), "", units
    yield (
        "plans that meet the target on all images",
        "",
        "",
        f"{r['plans_met']} of {len(r['raced_runs'])}",
    )
    yield "making the plan, s", f"{_s(r['naive_plan_s'])}, not in wall", "", "in wall"
    for row in r["memory"]:
        within = (
            "within" if row["within"] else "over, and the run says so" if row["warned"] else "OVER"
        )
        held = f"{row['held_mib']:.1f} of {row['unlimited_mib']:.1f} without a budget: {within}"
        yield f"values held at a budget of {row['budget_mib']:.1f} MiB, MiB", "", held, ""
    model = r["cost_model"]
    at = f"computed for {model['layers']} layers, {model['samples']:,} samples"
    loops = [model[name] for name in ("naive", "exact", "raced")]
    yield f"{at}: samples", *(f"{loop['samples']:,.0f}" if loop else "" for loop in loops)
    yield f"{at}: s", *(_s(loop["seconds"]) if loop else "" for loop in loops)


def heading(r: dict[str, Any]) -> list[str]:
    machine = ", ".join(
        f"{name} {r['environment'][name]}" for name in SHOWN if name in r["environment"]
    )
    return [
        f"{r['model']}: {r['units']} layers, {r['samples']:,} samples; {r['metric']} "
        f"{r['float_metric']:.4f} float, {r['quantized_metric']:.4f} quantized, target "
        f"{r['target']:.4f}",
        f"Replay: {r['backend']}, since {r['backend_reason']}. Results at all memory budgets "
        f"equal: {_yes(r['memory_results_equal'])}.",
        f"Command: {r['command']}",
        f"Machine: {machine}",
    ]


def show(result: dict[str, Any]) -> None:
    console = Console(width=140)
    for line in heading(result):
        console.print(escape(line), soft_wrap=True)
    table = Table(*COLUMNS)
    for row in rows(result):
        table.add_row(*row)
    console.print(table)


def markdown(result: dict[str, Any]) -> str:
    title, *lines = heading(result)
    table = [COLUMNS, ("---",) * len(COLUMNS), *rows(result)]
    drawn = "\n".join(f"| {' | '.join(row)} |" for row in table)
    return f"# {title}\n\n" + "\n\n".join(lines) + f"\n\n{drawn}\n"


def _s(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.3f}"


def _ratio(result: dict[str, Any], over: str, under: str) -> str:
    return f"{result[over] / result[under]:.2f}"


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
