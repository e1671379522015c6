"""Assigns the bits by which simulators that replay a model name what a variant leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sensitivity.quantizers.alternatives import replacing
from sensitivity.quantizers.base import known_names
from sensitivity.records import NOTHING, Quantizer, names_of


class Switches:
    """One bit for each quantizer of a model, including the candidate ranges.

    bits: name of a quantizer, or key of a candidate range -> its bit, in the model's order.
    """

    def __init__(self, quantizers: Sequence[Quantizer]) -> None:
        self._quantizers = quantizers
        self._candidates = {each.name for each in quantizers if each.replaces}
        self.bits = bits_by_name(names_of(quantizers))

    @property
    def everything(self) -> int:
        """The bits of all quantizers together."""
        return self.bits_of(self.bits)

    def bits_of(self, names: Iterable[str]) -> int:
        """Return the bits of these names together."""
        return sum(self.bits[name] for name in names)

    def mask(self, variant: frozenset[str], together: Mapping[str, str] = NOTHING) -> int:
        """Return the bits of what a variant leaves out: disabled quantizers, quantizers replaced by
        another range, and ranges that are not in use.

        variant: names of disabled quantizers, and keys of ranges.
        together: quantizer -> another one that is also left out if the first is replaced.

        Raises NamesError for an unknown name.
        """
        replaced = replacing(self._quantizers, known_names(variant, self.bits))
        left_out = (variant | self._candidates).difference(replaced.values()).union(replaced)
        others = self.bits.keys() & set(map(together.get, replaced))
        return self.bits_of(left_out | others)


def bits_by_name(names: Iterable[str]) -> dict[str, int]:
    """Return a bit of its own for each name, in their order.

    >>> bits_by_name(["stem", "head"])
    {'stem': 1, 'head': 2}
    """
    return {name: 1 << index for index, name in enumerate(names)}
