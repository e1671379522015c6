"""Every rule, by code."""

from __future__ import annotations

from sensitivity.rules import neighbours, onnxruntime, openvino, plan, scales, weighted, whole_file, zero_points
from sensitivity.rules.base import Rule

TOPICS = {
    "The file": whole_file,
    "Zero points": zero_points,
    "Scales and axes": scales,
    "Layers with a weight": weighted,
    "Between the layers": neighbours,
    "File and plan": plan,
    "OpenVINO": openvino,
    "ONNX Runtime": onnxruntime,
}
"""Heading in the docs, and the module that holds its rules."""


def rules_of(topic: str) -> tuple[Rule, ...]:
    found = [value for value in vars(TOPICS[topic]).values() if isinstance(value, Rule)]
    return tuple(sorted(found, key=lambda rule: rule.code))


RULES: tuple[Rule, ...] = tuple(rule for topic in TOPICS for rule in rules_of(topic))


def rule(code: str) -> Rule:
    """The rule with this code. Raises KeyError."""
    return {found.code: found for found in RULES}[code]
