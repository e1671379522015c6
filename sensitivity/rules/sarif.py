"""Findings as SARIF 2.1.0, which code hosts and editors show beside a change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sensitivity.rules.base import Finding, Rule
from sensitivity.rules.catalog import rules_for

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def sarif(findings: Sequence[Finding], path: Path, target: str, *, version: str) -> dict[str, Any]:
    """Return one run of this linter on one file.

    Places are node names (logical locations), since an ONNX file has no lines.

    version: version of the linter.
    """
    rules = rules_for(target)
    index = {rule.code: position for position, rule in enumerate(rules)}
    driver = {
        "name": "sensitivity lint",
        "version": version,
        "rules": [_rule(rule) for rule in rules],
    }
    results = [_result(finding, index[finding.code], path) for finding in findings]
    run = {"tool": {"driver": driver}, "results": results, "properties": {"target": target}}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.name.replace("-", " ")},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.fix} Source: {rule.source}."},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
    }


def _result(finding: Finding, index: int, path: Path) -> dict[str, Any]:
    place = {
        "physicalLocation": {"artifactLocation": {"uri": uri(path)}},
        "logicalLocations": [{"fullyQualifiedName": finding.node, "kind": "element"}],
    }
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": LEVELS[finding.severity],
        "message": {"text": f"{finding.node}: {finding.message}. {finding.fix}"},
        "locations": [place],
    }


def uri(path: Path) -> str:
    """Return a relative path as given, and an absolute one as file://, both escaped.

    >>> uri(Path("runs/a b/model.onnx"))
    'runs/a%20b/model.onnx'
    """
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
