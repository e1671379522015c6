"""Units and ranges in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import starmap
from operator import attrgetter

from sensitivity.records import Quantizer, Range, Unit
from sensitivity.reporting.formats import count

WORDS = {
    "fan-out": "read one tensor",
    "concat": "meet in a concat",
    "residual": "meet in a residual add",
    "shared": "share a quantizer",
    "repvgg": "RepVGG",
    "head": "head",
    "pattern": "group of yours",
}


def kind_of(unit: Unit) -> str:
    """Return what the reader must know about a unit besides its name.

    Returns "" for a plain layer or quantizer.

    >>> kind_of(Unit("concat:a", ("a.q", "b.q"), "concat", ("a", "b")))
    '2 layers that meet in a concat'
    >>> kind_of(Unit("head.0", ("head.0.q",), "head")), kind_of(Unit("a", ("a.q",)))
    ('head', '')
    """
    words = WORDS.get(unit.kind, "")
    if len(unit.layers) < 2 or not words:
        return words
    several = count(len(unit.layers), "layer")
    if unit.kind in ("repvgg", "head", "pattern"):
        return f"{words}, {several}"
    return f"{several} that {words}"


def layer_words(units: Sequence[Unit], quantizers: Iterable[Quantizer], layers: int) -> str:
    """Return how many layers there are, and how many of them have quantized weights if not all do.

    In Q/DQ files, every operation between two pairs is a layer.

    layers: number of layers in the whole model.

    >>> units = [Unit("conv", ("conv.w", "conv.i")), Unit("add", ("add.i",))]
    >>> roles = [Quantizer(n, n[0], "weight" if n == "conv.w" else "input", 8, None) for n in
    ...     ("conv.w", "conv.i", "add.i")]
    >>> layer_words(units, roles, 2), layer_words(units[:1], roles[:2], 1)
    ('2 layers, 1 of them with weights', '1 layer')
    """
    weights = _weights_of(quantizers)
    weighted = sum(not weights.isdisjoint(unit.quantizers) for unit in units)
    words = count(layers, "layer")
    if 0 < weighted < len(units) == layers:
        words += f", {weighted} of them with weights"
    return words


def weights_alone(units: Sequence[Unit], quantizers: Iterable[Quantizer]) -> tuple[str, ...]:
    """Return the units that quantize their weights and not their inputs; engines run them in float.

    Returns an empty tuple if no unit quantizes more than weights.

    >>> both, alone = Unit("a", ("a.w", "a.i")), Unit("b", ("b.w",))
    >>> roles = [Quantizer(n, n[0], "input" if n == "a.i" else "weight", 8, None) for n in
    ...     ("a.w", "a.i", "b.w")]
    >>> weights_alone([both, alone], roles), weights_alone([alone], roles)
    (('b',), ())
    """
    weights = _weights_of(quantizers)
    alone = tuple(unit.name for unit in units if weights.issuperset(unit.quantizers))
    if len(alone) == len(units):
        return ()
    return alone


def _weights_of(quantizers: Iterable[Quantizer]) -> set[str]:
    """Return the names of all quantizers of weights."""
    return {quantizer.name for quantizer in quantizers if quantizer.role == "weight"}


def is_moved(old: Range, new: Range) -> bool:
    """Return whether a repair changed where values clip.

    A corrected bias alone leaves a range as it is.

    >>> is_moved(Range("a", "own", (1.25,)), Range("a", "bias correction", (1.25,), bias=(0.5,)))
    False
    """
    return (old.amax, old.low) != (new.amax, new.low)


def is_tuned(new: Range) -> bool:
    """Return whether this range, or the weight and the bias with it, were fine-tuned.

    >>> is_tuned(Range("a", "mse, fine-tuning", (1.25,)))
    True
    """
    return "fine-tuning" in new.method.split(", ")


def range_words(ranges: tuple[Range, ...]) -> str:
    """Return the ranges of one unit in words.

    A range per channel is given from its smallest to its largest amax, an asymmetric one by both
    ends.

    >>> range_words((Range("a", "mse", (1.25,)), Range("b", "per channel", (0.5, 2.0), 0)))
    '1.25; 0.5 to 2 over 2 channels'
    >>> range_words((Range("a", "mse", (1.25,), low=-0.5),))
    '[-0.5, 1.25]'
    >>> range_words((Range("a", "bias correction", (1.25,), bias=(0.5, -0.75)),))
    '1.25; bias by up to 0.75'
    >>> range_words((Range("a", "fine-tuning", (1.25,)),))
    '1.25; fine-tuned'
    """
    ends = dict.fromkeys(map(attrgetter("amax", "low"), ranges))
    words = list(starmap(_amax_words, ends))
    biases = filter(None, map(attrgetter("bias"), ranges))
    words += [f"bias by up to {max(map(abs, bias)):.4g}" for bias in biases]
    if any(map(is_tuned, ranges)):
        words.append("fine-tuned")
    elif any(map(attrgetter("rounding"), ranges)):
        words.append("rounding learned")
    return "; ".join(words)


def _amax_words(amax: tuple[float, ...], low: float | None) -> str:
    """Return the ends of one range, or the smallest and largest amax of a range per channel."""
    if low is not None:
        return f"[{low:.4g}, {amax[0]:.4g}]"
    if len(amax) == 1:
        return f"{amax[0]:.4g}"
    return f"{min(amax):.4g} to {max(amax):.4g} over {len(amax)} channels"
