"""The rows of `runtimes.py` as a table, on the terminal and as Markdown."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

COLUMNS = (
    *(
        "model",
        "runtime",
        "file",
        "computes in",
        "median ms",
        "p95 ms",
        "float takes times as long",
    ),
    *("differs from canonical", "… of what INT8 changes", "in INT8", "metric"),
)
SHOWN = (
    "cpu",
    "cpu flags",
    "usable cores",
    "load",
    "os",
    "python",
    "onnxruntime",
    "openvino",
    "torch",
    "nvidia-modelopt",
)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    interval = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    return (
        row["model"],
        row["runtime"],
        row["file"],
        row["precision"],
        f"{row['median_ms']:.2f}",
        f"{row['p95_ms']:.2f}",
        f"{row['ratio_vs_float']:.2f}{interval}",
        f"{row['rms_vs_canonical']:.2%}",
        ""
        if not row["quantization_rms"]
        else f"{row['rms_vs_canonical'] / row['quantization_rms']:.1%}",
        f"{row['ran_in_int8']} of {row['quantized_layers']}" if row["quantized_layers"] else "",
        "" if row["metric"] is None else f"{row['metric']:.4f}",
    )


def heading(result: dict[str, Any]) -> list[str]:
    machine = ", ".join(
        f"{name} {result['environment'][name]}" for name in SHOWN if name in result["environment"]
    )
    return [
        f"Latency of one inference, batch 1, {result['threads']} threads, {result['rounds']} "
        "rounds in turn",
        f"Metric: {result['metric'] or 'none'}.",
        f"Command: {result['command']}",
        f"Machine: {machine}",
    ]


def show(result: dict[str, Any]) -> None:
    console = Console(width=180)
    for line in heading(result):
        console.print(escape(line), soft_wrap=True)
    table = Table(*COLUMNS)
    for row in result["rows"]:
        table.add_row(*cells(row))
    console.print(table)


def markdown(result: dict[str, Any]) -> str:
    title, *lines = heading(result)
    table = [COLUMNS, ("---",) * len(COLUMNS), *map(cells, result["rows"])]
    drawn = "\n".join(f"| {' | '.join(row)} |" for row in table)
    return f"# {title}\n\n" + "\n\n".join(lines) + f"\n\n{drawn}\n"
