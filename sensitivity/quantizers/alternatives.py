"""Adds other ranges to a calibrated model as quantizers, so that any mix of them can be measured at
once."""

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
    """A `QuantizedModel` with one more quantizer, off by default, for each candidate range.
    Its name is the range's key.

    The names that `disabled` takes are switches: the name of a quantizer turns it off, and the key
    of a range puts the range in place of the quantizer's own. The ranges of a quantizer that is off
    do nothing; of several ranges the first counts.
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
        self.ranges = {candidate.key: candidate for candidate in ranges}
        by_name = dict(zip(names_of(source.quantizers), source.quantizers, strict=True))
        candidates = [
            _as_quantizer(by_name[candidate.quantizer], candidate)
            for candidate in self.ranges.values()
        ]
        self.quantizers = (*source.quantizers, *candidates)

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
        """Give the quantizer of this range's key that range inside the `with`, and yield the
        quantizer's name.

        For the name of a quantizer nothing changes.
        """
        candidate = self.ranges.get(name)
        if candidate is None:
            yield name
            return
        with self._set([candidate]):
            yield candidate.quantizer

    def grid(self, name: str) -> Grid:
        with self._in_use(name) as own:
            return self.own.grid(own)

    def file_grid(self, name: str) -> Grid:
        with self._in_use(name) as own:
            return file_grid(self.own, own)

    def amax(self, name: str) -> Any:
        """Return what the adapter gives; None for models that are quantized another way."""
        with self._in_use(name) as own:
            return amax_of(self.own, own)

    def module(self, name: str) -> Any:
        """Return the user's own module; for the key of a candidate range, a copy that has the
        range."""
        if name not in self.ranges:
            return self.model.get_submodule(name)
        with self._in_use(name) as own:
            return copy.deepcopy(self.model.get_submodule(own))

    def fingerprint(self) -> str:
        return self.own.fingerprint()

    def remaining(self) -> tuple[Finding, ...]:
        return self.own.remaining()

    def executed(self, inputs: Any) -> frozenset[str]:
        """Return the names that a forward executes; a candidate range is executed if its quantizer
        is."""
        own = self.own.executed(inputs)
        candidates = (key for key, one in self.ranges.items() if one.quantizer in own)
        return own.union(candidates)


def with_alternatives(source: QuantizedModel, ranges: Iterable[Range]) -> QuantizedModel:
    """Return the model with these candidate ranges, or the model itself if there are none.

    Raises ModelError if its ranges cannot be changed.
    """
    ranges = tuple(ranges)
    if not ranges:
        return source
    return Alternatives(source, ranges)


OWN = Range("", "own", ())
"""Placeholder for the range of a quantizer that is no candidate: it has no bias, bits or rounding
of its own."""


def candidate_ranges(source: QuantizedModel) -> list[Range]:
    """Return the range that each quantizer of a model stands for, in their order: `OWN`, except for
    those that `Alternatives` adds."""
    candidates = source.ranges if isinstance(source, Alternatives) else {}
    return [candidates.get(name, OWN) for name in names_of(source.quantizers)]


def replacing(quantizers: Iterable[Quantizer], switched: Iterable[str]) -> dict[str, str]:
    """Return the key of the range that takes the place of each quantizer when these names are
    switched, by quantizer."""
    switched = frozenset(switched)
    by_original: dict[str, str] = {}
    for quantizer in quantizers:
        original = quantizer.replaces
        if original is None or original in switched:
            continue
        if quantizer.name in switched:
            by_original.setdefault(original, quantizer.name)
    return by_original


def in_use(
    quantizers: Iterable[Quantizer], switched: Iterable[str], ranges: dict[str, Range]
) -> list[Range]:
    """Return the ranges that replace those of quantizers when these names are switched.

    ranges: candidate ranges by their key.
    """
    return [ranges[key] for key in replacing(quantizers, switched).values()]


def _as_quantizer(quantizer: Quantizer, new_range: Range) -> Quantizer:
    candidate = replace(quantizer, name=new_range.key, axis=new_range.axis, replaces=quantizer.name)
    return new_range.given_to(candidate)
