"""What a model is quantized to, in the sentences about it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from sensitivity.records import Quantizer

USUAL = "INT8"
"""The format that every sentence of the reports and of the command line is written with."""


def format_of(quantizers: Iterable[Quantizer]) -> str:
    """What most weights and most activations of a model are quantized to, in words.

    >>> format_of([Quantizer("a.w", "a", "weight", 4, 0, format="INT4 in blocks of 128")])
    'INT4 in blocks of 128'
    >>> weight = Quantizer("a.w", "a", "weight", 8, 0)
    >>> format_of([weight, Quantizer("a.i", "a", "input", 16, None, format="INT16")])
    'INT8 with INT16 activations'
    """
    counted: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for quantizer in quantizers:
        counted[quantizer.role == "weight"][quantizer.format] += 1
    weights, activations = (
        most.most_common(1)[0][0] if most else None for most in counted.values()
    )
    if weights and activations and weights != activations:
        return f"{weights} with {activations} activations"
    return weights or activations or USUAL


def in_format(text: str, name: str) -> str:
    """A text written for INT8, said of another format.

    >>> in_format("Everything in INT8 meets the target: see model.int8.onnx.", "FP8 E4M3")
    'Everything in FP8 E4M3 meets the target: see model.int8.onnx.'
    """
    return text if name == USUAL else re.sub(rf"\b{USUAL}\b", name, text)
