"""`sensitivity check`: the check with which a scan begins, on its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sensitivity.cli import lazy
from sensitivity.cli.options import aside, long_verb
from sensitivity.config import CheckSettings

if TYPE_CHECKING:
    from sensitivity.cli.progress import Teller
    from sensitivity.records import Finding

STYLES = {"error": "red", "warning": "yellow", "note": "cyan"}


@long_verb(CheckSettings, "check")
def command(settings: CheckSettings, teller: Teller) -> int:
    """Check on one batch what a scan relies on: that "float" is your float model, and that each
    quantizer is executed.

    TASK is a Python file and a function in it that returns a task, as in my_task.py:task, or a Q/DQ
    ONNX file, with or without --data. `scan` and `run` begin with the same check.

    Exit codes: 0 no error, 1 errors.
    """
    with aside():
        findings = lazy.api.check(settings, teller)
    ok = all(finding.severity != "error" for finding in findings)
    if settings.format == "json":
        click.echo(
            json.dumps({"ok": ok, "findings": [asdict(finding) for finding in findings]}, indent=2)
        )
    else:
        show(findings, settings.task)
    return 0 if ok else 1


def show(findings: Sequence[Finding], task: str) -> None:
    """Print each finding: its severity and code, what was found, and what to do."""
    console = lazy.console.Console(highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(f"[{STYLES[finding.severity]}]{finding.severity}[/] {finding.code}")
        console.print(f"  {finding.message}", markup=False)
        if finding.fix:
            console.print(f"  {finding.fix}", markup=False)
    if not findings:
        console.print(f"{task}: nothing to report.", markup=False)
