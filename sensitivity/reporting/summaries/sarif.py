"""The verdict as SARIF 2.1.0: what does not pass, and each layer that is left out or repaired."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sensitivity
from sensitivity.records import Plan
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.number_formats import in_format
from sensitivity.reporting.summaries.checks import RULES, Outcome, checks
from sensitivity.rules.sarif import SCHEMA, uri

LEVELS: dict[Outcome, str] = {"fail": "error", "open": "warning"}
LAYERS = {
    "left-out": "This layer is left out of INT8, so that the accuracy target holds.",
    "wide": "This layer has activations of 16 bits, so that the accuracy target holds.",
    "fp8": "This layer is in FP8, so that the accuracy target holds.",
    "repaired": "This layer stays in INT8 with other ranges, biases or rounding than it had.",
}
RULE_IDS = [*RULES, *LAYERS]


def render(data: ReportData) -> str:
    """Return one run of the tool. Each result is located at the plan's file and the layer in it."""
    results = list(_failed(data))
    if data.plan is not None:
        results += _of_layers(data, data.plan)
    rules = [
        {"id": name, "shortDescription": {"text": in_format(words, data.format)}}
        for name, words in (RULES | LAYERS).items()
    ]
    driver = {"name": "sensitivity", "version": sensitivity.__version__, "rules": rules}
    run = {"tool": {"driver": driver}, "results": results, "properties": {"run": data.title}}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _failed(data: ReportData) -> Iterator[dict[str, Any]]:
    """Yield a result for each check that does not pass.

    Passed checks are no results, since code hosts show every result as a problem.
    """
    for check in checks(data):
        if check.outcome != "pass":
            text = f"{check.status}: {check.sentence}"
            yield _result(data, check.name, LEVELS[check.outcome], text)


def _of_layers(data: ReportData, plan: Plan) -> Iterator[dict[str, Any]]:
    repaired = [unit.unit for unit in plan.recalibrated]
    by_rule = {"left-out": plan.skip, "wide": plan.wide, "fp8": plan.fp8, "repaired": repaired}
    for rule, names in by_rule.items():
        words = in_format(LAYERS[rule], data.format)
        for name in names:
            result = _result(data, rule, "note", f"{name}: {words}")
            result["locations"][0]["logicalLocations"] = [
                {"fullyQualifiedName": name, "kind": "element"}
            ]
            yield result


def _result(data: ReportData, rule: str, level: str, text: str) -> dict[str, Any]:
    file = Path(data.directory) / data.plan_file
    return {
        "ruleId": rule,
        "ruleIndex": RULE_IDS.index(rule),
        "level": level,
        "message": {"text": text},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri(file)}}}],
    }
