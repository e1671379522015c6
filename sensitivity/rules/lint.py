"""Lints an ONNX file for a target."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir

from sensitivity.errors import RunDirError, unknown_name
from sensitivity.files import is_as_written
from sensitivity.onnx_graph.calls import written_out
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.well_formed import blamed_on
from sensitivity.rules.base import Finding, PlanNames, Subject
from sensitivity.rules.catalog import rules_for
from sensitivity.rules.targets import TARGETS

ORDER = {"error": 0, "warning": 1, "info": 2}


def run_lint(path: Path, target: str, plan: Path | None = None) -> list[Finding]:
    """Return every place in `path` where a rule for `target` does not hold: errors first, then by
    code, then in the order of the file.

    target: one of TARGETS.
    plan: a plan.json to compare the file with; None makes no comparison.
    Raises OnnxFileError for a file that cannot be read, RunDirError for a plan that cannot be read,
    and NamesError for an unknown target.
    """
    if target not in TARGETS:
        raise unknown_name("--for", target, TARGETS)
    names = read_plan(plan) if plan is not None else None
    with blamed_on(path):
        return lint_model(load_model(path), target, names)


def lint_model(model: ir.Model, target: str, plan: PlanNames | None = None) -> list[Finding]:
    """Return the findings for a model in memory, which is not changed.

    Names of nodes in functions start with the name of the call.
    """
    subject = Subject(written_out(model), target, plan)
    findings = [finding for rule in rules_for(target) for finding in rule.findings(subject)]
    return sorted(findings, key=lambda finding: (ORDER[finding.severity], finding.code))


def read_plan(path: Path) -> PlanNames:
    """Read the units and quantizers that a plan.json skips. Raises RunDirError if it is not a
    plan."""
    try:
        content = path.read_bytes()
        data = json.loads(content)
        if not is_as_written(content):
            raise ValueError("another checksum than it was written with")
        skip, quantizers = data["skip"], data["quantizers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = getattr(error, "strerror", None) or (
            f"no {error}" if isinstance(error, KeyError) else error
        )
        raise RunDirError(
            f"Expected {path} to be a plan.json with 'skip' and 'quantizers', got: {problem}; "
            "use the one that 'sensitivity plan' wrote."
        ) from error
    if not (_is_list_of_names(skip) and _is_list_of_names(quantizers)):
        raise RunDirError(
            f"Expected 'skip' and 'quantizers' in {path} to be lists of names; write the plan "
            "again."
        )
    return PlanNames(tuple(skip), tuple(quantizers))


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
