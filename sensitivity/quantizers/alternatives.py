"""A calibrated model that offers other ranges for its quantizers, so that any mix of them can be
measured at once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sensitivity.errors import ModelError
from sensitivity.quantizers.base import (
    QuantizedModel,
    Recalibratable,
    amax_of,
    file_grid,
    form_of,
    known_names,
)
from sensitivity.records import Finding, Grid, Quantizer, Range, names_of


class Alternatives:
    """A `QuantizedModel` in which each range offered is one more quantizer, named by its key, off
    by default.

    What `disabled` takes are switches: the name of a quantizer turns it off, the key of a range
    puts the range in the place of the quantizer's own. For a quantizer that is off its ranges do
    nothing; of several ranges the first counts.
    """

    def __init__(self, source: QuantizedModel, ranges: Iterable[Range]) -> None:
        if not isinstance(source, Recalibratable):
            raise ModelError(
                f"Expected a model whose ranges can be changed, got one of {source.source}."
            )
        self.source, self.form = source.source, form_of(source)
        self.model: Any = source.model
        self.warnings = source.warnings
        self.own: QuantizedModel = source
        self._set = source.with_ranges
        self.ranges = {offered.key: offered for offered in ranges}
        by_name = dict(zip(names_of(source.quantizers), source.quantizers, strict=True))
        on_offer = [
            _as_quantizer(by_name[offered.quantizer], offered) for offered in self.ranges.values()
        ]
        self.quantizers = (*source.quantizers, *on_offer)

    @contextmanager
    def disabled(self, names: Iterable[str]) -> Iterator[None]:
        wanted = known_names(names, names_of(self.quantizers))
        with (
            self._set(in_use(self.quantizers, wanted, self.ranges)),
            self.own.disabled(wanted - self.ranges.keys()),
        ):
            yield

    @contextmanager
    def _in_use(self, name: str) -> Iterator[str]:
        """Inside the `with` the range of this key is that of its quantizer, whose name this gives;
        for the name of a quantizer all stays as it is."""
        offered = self.ranges.get(name)
        if offered is None:
            yield name
            return
        with self._set([offered]):
            yield offered.quantizer

    def grid(self, name: str) -> Grid:
        with self._in_use(name) as own:
            return self.own.grid(own)

    def file_grid(self, name: str) -> Grid:
        if name in self.ranges:
            return self.grid(name)
        return file_grid(self.own, name)

    def amax(self, name: str) -> Any:
        """As the adapter has it; None for models that are quantized otherwise."""
        with self._in_use(name) as own:
            return amax_of(self.own, own)

    def module(self, name: str) -> Any:
        """Return the user's own module; for a range offered, a copy that has it."""
        if name not in self.ranges:
            return self.model.get_submodule(name)
        with self._in_use(name) as own:
            return copy.deepcopy(self.model.get_submodule(own))

    def fingerprint(self) -> str:
        return self.own.fingerprint()

    def remaining(self) -> tuple[Finding, ...]:
        return self.own.remaining()

    def executed(self, inputs: Any) -> frozenset[str]:
        """Return a range that is offered is executed where its quantizer is."""
        own = self.own.executed(inputs)
        offered = (key for key, offered in self.ranges.items() if offered.quantizer in own)
        return own.union(offered)


def with_alternatives(source: QuantizedModel, ranges: Iterable[Range]) -> QuantizedModel:
    """Return the model itself where there are no ranges. Raises ModelError where its ranges cannot
    be changed."""
    ranges = tuple(ranges)
    if not ranges:
        return source
    return Alternatives(source, ranges)


OWN = Range("", "own", ())
"""Stands for the range of a quantizer that is none on offer: no bias, bits or rounding of its
own."""


def ranges_on_offer(source: QuantizedModel) -> list[Range]:
    """Return the range that each quantizer of a model stands for, in their order: `OWN` for all but
    those that `Alternatives` add."""
    offered = source.ranges if isinstance(source, Alternatives) else {}
    return [offered.get(name, OWN) for name in names_of(source.quantizers)]


def replacing(quantizers: Iterable[Quantizer], switched: Iterable[str]) -> dict[str, str]:
    """Quantizer -> key of the range that takes its place when these names are switched."""
    switched = frozenset(switched)
    found: dict[str, str] = {}
    for quantizer in quantizers:
        original = quantizer.replaces
        if original is None or original in switched:
            continue
        if quantizer.name in switched:
            found.setdefault(original, quantizer.name)
    return found


def in_use(
    quantizers: Iterable[Quantizer], switched: Iterable[str], ranges: dict[str, Range]
) -> list[Range]:
    """Return the ranges that replace those of quantizers when these names are switched. ranges: by
    their key."""
    return [ranges[key] for key in replacing(quantizers, switched).values()]


def _as_quantizer(quantizer: Quantizer, one: Range) -> Quantizer:
    offered = replace(quantizer, name=one.key, axis=one.axis, replaces=quantizer.name)
    if one.bits is None:
        return offered
    return replace(offered, bits=one.bits, format=f"INT{one.bits}")
