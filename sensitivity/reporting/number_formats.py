"""Adapts sentences to the number format that a model is quantized to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable

from sensitivity.records import Plan, Quantizer, Unit

USUAL = "INT8"
"""The format that every sentence of the reports and of the command line is written with."""

FLOAT = "float"
"""What a unit runs in if a plan leaves it out."""


def format_of(quantizers: Iterable[Quantizer]) -> str:
    """Return what most weights and most activations of a model are quantized to, in words.

    >>> format_of([Quantizer("a.w", "a", "weight", 4, 0, format="INT4 in blocks of 128")])
    'INT4 in blocks of 128'
    >>> weight = Quantizer("a.w", "a", "weight", 8, 0)
    >>> format_of([weight, Quantizer("a.i", "a", "input", 16, None, format="INT16")])
    'INT8 with INT16 activations'
    """
    weights, activations = list[str](), list[str]()
    for quantizer in quantizers:
        own = weights if quantizer.role == "weight" else activations
        own.append(quantizer.format)
    of_weights, of_activations = _most_common(weights), _most_common(activations)
    if not of_weights or not of_activations:
        return of_weights or of_activations or USUAL
    if of_weights == of_activations:
        return of_weights
    return f"{of_weights} with {of_activations} activations"


def unit_formats(
    units: Iterable[Unit], quantizers: Iterable[Quantizer], skip: Container[str]
) -> dict[str, str]:
    """Return unit -> what it runs in, in words.

    This is the format of its own quantizers, and "float" for units in `skip`.

    >>> weight = Quantizer("a.w", "a", "weight", 8, 0, format="FP8 E4M3")
    >>> unit_formats([Unit("a", ("a.w",)), Unit("b", ("b.w",))], [weight], skip=["b"])
    {'a': 'FP8 E4M3', 'b': 'float'}
    """
    by_name = {quantizer.name: quantizer for quantizer in quantizers}
    formats = {}
    for unit in units:
        own = filter(None, map(by_name.get, unit.quantizers))
        formats[unit.name] = FLOAT if unit.name in skip else format_of(own)
    return formats


def plan_formats(
    units: Iterable[Unit], quantizers: Iterable[Quantizer], plan: Plan
) -> dict[str, str]:
    """Return the formats of a plan's units, as `unit_formats` does, in the plan's own formats."""
    return unit_formats(units, planned_quantizers(quantizers, plan), plan.skip)


def planned_quantizers(quantizers: Iterable[Quantizer], plan: Plan | None) -> list[Quantizer]:
    """Return the quantizers with the formats that a plan gives them; unchanged without a plan."""
    if plan is None:
        return list(quantizers)
    by_name = {quantizer.name: quantizer for quantizer in quantizers}
    for of_format in plan.format_ranges:
        by_name[of_format.quantizer] = of_format.given_to(by_name[of_format.quantizer])
    return list(by_name.values())


def _most_common(formats: Iterable[str]) -> str:
    """Return the first of the most common formats; "" if there is none."""
    counts = Counter(formats)
    return max(counts, key=counts.__getitem__, default="")


def in_format(text: str, name: str) -> str:
    """Return a text that is written for INT8, with the name of another format in its place.

    A text that has the name already is returned as it is.

    >>> in_format("Everything in INT8 meets the target: see model.int8.onnx.", "FP8 E4M3")
    'Everything in FP8 E4M3 meets the target: see model.int8.onnx.'
    >>> in_format("INT8 with INT16 activations", "INT8 with INT16 activations")
    'INT8 with INT16 activations'
    """
    if name == USUAL:
        return text
    return re.sub(rf"{re.escape(name)}|\b{USUAL}\b", name, text)
