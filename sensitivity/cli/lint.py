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
from sensitivity.cli import lazy
from sensitivity.errors import SensitivityError
from sensitivity.rules.targets import RTX, TARGETS

if TYPE_CHECKING:
    from sensitivity.records import EngineStructure
    from sensitivity.rules.base import Finding

SHOWN = 5
"""Nodes that the table lists for each rule; JSON and SARIF list all."""
STYLES = {"error": "red", "warning": "yellow", "info": "cyan"}


@click.command("lint")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--for",
    "target",
    type=click.Choice(TARGETS),
    required=True,
    help="The runtime that will run the file.",
)
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    help="A plan.json: also check that the file quantizes what the plan keeps.",
)
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "sarif"]), default="text",
    show_default=True,
    help="A table, JSON with one object per finding, or SARIF 2.1.0 for code hosts.",
)  # fmt: skip
@click.option(
    "--build", "with_build", is_flag=True,
    help="Also let NVIDIA's TensorRT-RTX parse and build the file, which needs no GPU, and print "
         "the precision of each layer.",
)  # fmt: skip
@click.option("--sm", type=int, help="Compute capability that --build builds for; 89 by default.")
@click.pass_context
def command(
    context: click.Context,
    file: Path,
    target: str,
    plan: Path | None,
    form: str,
    with_build: bool,
    sm: int | None,
) -> None:
    """Check a Q/DQ ONNX file, from any tool, for a runtime. Exits with 1 if there is an error."""
    check_build(target, form, with_build, sm)
    findings = lazy.lint.run_lint(file, target, plan)
    refused = any(finding.severity == "error" for finding in findings)
    try:
        built = _build(file, plan, sm) if with_build and not refused else None
    except SensitivityError:
        _print(findings, file, target, form, None)
        raise
    _print(findings, file, target, form, built)
    if with_build and refused:
        click.echo("Not built: TensorRT-RTX gets only files that have no error above.", err=True)
    context.exit(1 if refused or (built is not None and not built.as_planned) else 0)


def check_build(target: str, form: str, with_build: bool, sm: int | None) -> None:
    """Raise UsageError for options that exclude each other."""
    if sm is not None and not with_build:
        raise click.UsageError(
            "Expected --build with --sm, which says what the build is for; got --sm alone."
        )
    if with_build and target != RTX:
        raise click.UsageError(
            f"Expected --for {RTX} with --build, got --for {target}, which nothing here builds for."
        )
    if with_build and form == "sarif":
        raise click.UsageError(
            "Expected --format text or json with --build, got sarif, which has no place for an "
            "engine."
        )


def _build(file: Path, plan: Path | None, sm: int | None) -> EngineStructure:
    return lazy.engine_structure.build_structure(
        file,
        sm=lazy.tensorrt_rtx_build.SM if sm is None else sm,
        plan=None if plan is None else lazy.lint.read_plan(plan),
    )


def _print(
    findings: Sequence[Finding], file: Path, target: str, form: str, built: EngineStructure | None
) -> None:
    if form == "json":
        listed = [asdict(finding) for finding in findings]
        more = {} if built is None else {"build": asdict(built)}
        click.echo(
            json.dumps({"file": str(file), "target": target, "findings": listed, **more}, indent=2)
        )
    elif form == "sarif":
        click.echo(
            json.dumps(
                lazy.sarif.sarif(findings, file, target, version=sensitivity.__version__), indent=2
            )
        )
    else:
        show(findings, file, target)
        if built is not None:
            show_build(built)


def show_build(built: EngineStructure) -> None:
    """Print what was built, and each layer that is not as planned."""
    click.echo(built.sentence)
    for layer in built.layers:
        if not layer.as_planned:
            click.echo(
                f"{layer.layer}: planned {layer.planned}, built {layer.built or 'under no name'}"
            )


def show(findings: Sequence[Finding], file: Path, target: str) -> None:
    """Print one row for each broken rule, with the places where it is broken."""
    console = lazy.console.Console(highlight=False)
    if not findings:
        console.print(f"{file}: nothing to report for {target}.", markup=False, soft_wrap=True)
        return
    table = lazy.table.Table(
        title=lazy.markup.escape(f"{file} for {target}"), title_justify="left", show_lines=True
    )
    for heading, share in (("Rule", None), ("Where and what", 3), ("Fix", 2)):
        table.add_column(heading, ratio=share, overflow="fold")  # names are folded, never cut
    for code, group in groupby(findings, lambda finding: finding.code):
        same = list(group)
        severity = same[0].severity
        table.add_row(
            f"[{STYLES[severity]}]{severity}[/]\n{code}",
            _places(same),
            lazy.markup.escape(same[0].fix),
        )
    console.print(table)
    console.print(count(findings))


def _places(same: Sequence[Finding]) -> str:
    lines = [
        f"[bold]{lazy.markup.escape(finding.node)}[/]: {lazy.markup.escape(finding.message)}"
        for finding in same[:SHOWN]
    ]
    return "\n".join(lines + ([f"... and {len(same) - SHOWN} more"] if len(same) > SHOWN else []))


def count(findings: Sequence[Finding]) -> str:
    """Return the number of findings of each severity, in words."""
    totals = {
        severity: sum(finding.severity == severity for finding in findings) for severity in STYLES
    }
    return ", ".join(
        f"{n} {severity}{'s' if n != 1 and severity != 'info' else ''}"
        for severity, n in totals.items()
    )
