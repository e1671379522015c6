"""All rules by code: built-in ones, and those of other packages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from types import ModuleType

from sensitivity.registry import clash, guests, load, names
from sensitivity.rules import (
    axes,
    neighbours,
    onnxruntime,
    openvino,
    plan,
    qnn,
    scales,
    weighted,
    whole_file,
    zero_points,
)
from sensitivity.rules.base import Rule

TOPICS: dict[str, tuple[ModuleType, ...]] = {
    "The file": (whole_file,),
    "Zero points": (zero_points,),
    "Scales and axes": (scales, axes),
    "Layers with a weight": (weighted,),
    "Between the layers": (neighbours,),
    "File and plan": (plan,),
    "OpenVINO": (openvino,),
    "ONNX Runtime": (onnxruntime,),
    "QNN": (qnn,),
}
"""Heading in the docs -> modules that hold its rules."""


def rules_of(topic: str) -> tuple[Rule, ...]:
    """Return the built-in rules of one topic, a key of `TOPICS`, in the order of their codes."""
    values = chain.from_iterable(vars(module).values() for module in TOPICS[topic])
    rules = [value for value in values if isinstance(value, Rule)]
    return tuple(sorted(rules, key=lambda rule: rule.code))


RULES: tuple[Rule, ...] = tuple(rule for topic in TOPICS for rule in rules_of(topic))


def rules_for(target: str) -> tuple[Rule, ...]:
    """Return the built-in rules and those of guests for this target.

    Raises GuestError for a guest's rule that cannot be used.
    """
    return tuple(rule for rule in (*RULES, *_foreign()) if target in rule.targets)


def _foreign() -> Iterator[Rule]:
    ours = {rule.code for rule in RULES}
    for name in names("rules"):
        if name in ours:
            raise clash(
                "rules", name, [entry for entry in guests("rules") if entry.name == name], ours=True
            )
        yield load("rules", name)


def rule(code: str) -> Rule:
    """Return the built-in rule with this code. Raises KeyError."""
    return {found.code: found for found in RULES}[code]
