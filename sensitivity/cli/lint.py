"""`sensitivity lint`: check a Q/DQ ONNX file for a runtime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

import sensitivity
from sensitivity.rules.targets import TARGETS

if TYPE_CHECKING:
    from sensitivity.rules.base import Finding

SHOWN = 5
"""Nodes that the table names for each rule; JSON and SARIF name all."""
STYLES = {"error": "red", "warning": "yellow", "info": "cyan"}


@click.command("lint")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--for", "target", type=click.Choice(TARGETS), required=True, help="The runtime that shall run the file.")
@click.option(
    "--plan", type=click.Path(path_type=Path), help="A plan.json: also check that the file quantizes what it keeps."
)
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "sarif"]), default="text", show_default=True,
    help="A table, JSON with one object for each finding, or SARIF 2.1.0 for code hosts.",
)  # fmt: skip
@click.pass_context
def command(context: click.Context, file: Path, target: str, plan: Path | None, form: str) -> None:
    """Check a Q/DQ ONNX file, from any tool, for a runtime. Exits with 1 if there is any error."""
    from sensitivity.rules.lint import run_lint

    findings = run_lint(file, target, plan)
    if form == "json":
        found = [asdict(finding) for finding in findings]
        click.echo(json.dumps({"file": str(file), "target": target, "findings": found}, indent=2))
    elif form == "sarif":
        from sensitivity.rules.sarif import sarif

        click.echo(json.dumps(sarif(findings, file, target, version=sensitivity.__version__), indent=2))
    else:
        show(findings, file, target)
    context.exit(1 if any(finding.severity == "error" for finding in findings) else 0)


def show(findings: Sequence[Finding], file: Path, target: str) -> None:
    """Print one row for each rule that was broken, and how often."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if not findings:
        console.print(f"{file}: nothing to report for {target}.", markup=False, soft_wrap=True)
        return
    table = Table(title=escape(f"{file} for {target}"), title_justify="left", show_lines=True)
    for heading, share in (("Rule", None), ("Where and what", 3), ("Fix", 2)):
        table.add_column(heading, ratio=share, overflow="fold")  # names are folded, never cut
    for code, group in groupby(findings, lambda finding: finding.code):
        same = list(group)
        severity = same[0].severity
        table.add_row(f"[{STYLES[severity]}]{severity}[/]\n{code}", _places(same), escape(same[0].fix))
    console.print(table)
    console.print(count(findings))


def _places(same: Sequence[Finding]) -> str:
    from rich.markup import escape

    lines = [f"[bold]{escape(finding.node)}[/]: {escape(finding.message)}" for finding in same[:SHOWN]]
    return "\n".join(lines + ([f"... and {len(same) - SHOWN} more"] if len(same) > SHOWN else []))


def count(findings: Sequence[Finding]) -> str:
    """How many findings of each severity, in words."""
    totals = {severity: sum(finding.severity == severity for finding in findings) for severity in STYLES}
    return ", ".join(f"{n} {severity}{'s' if n != 1 and severity != 'info' else ''}" for severity, n in totals.items())
