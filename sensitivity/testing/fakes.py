"""Stand-ins that need no framework: a model whose quantization errors are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import unknown_name
from sensitivity.records import Finding, Grid, Quantizer, names_of


class FakeModel:
    """A QuantizedModel of `len(harm)` layers, each with an input and a weight quantizer.

    The output for an input of float[n] is right (1.0) if the input is at least the total harm of
    all enabled layers, so the accuracy of any variant is known.

    harm: layer -> how strongly quantizing it disturbs a sample.
    """

    source = "fake"
    warnings: tuple[str, ...] = ()

    def __init__(self, harm: dict[str, float]) -> None:
        self.harm = harm
        self.model = self
        self.off: frozenset[str] = frozenset()
        self.quantizers = tuple(
            Quantizer(f"{layer}.{role}_quantizer", layer, role, 8, 0 if role == "weight" else None)
            for layer in harm
            for role in ("input", "weight")
        )

    @contextmanager
    def disabled(self, names: Iterable[str]) -> Iterator[None]:
        names = list(names)
        known = set(names_of(self.quantizers))
        for name in names:
            if name not in known:
                raise unknown_name("a quantizer", name, known)
        before = self.off
        self.off = frozenset(names)
        try:
            yield
        finally:
            self.off = before

    def __call__(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        total = sum(self.harm[q.layer] / 2 for q in self.quantizers if q.name not in self.off)
        return (inputs >= total - 1e-12).astype(np.float64)

    def grid(self, name: str) -> Grid:
        return Grid(np.ones(1, np.float32), 0, -128, 127, None)

    def fingerprint(self) -> str:
        return repr(sorted(self.harm.items()))

    def remaining(self) -> tuple[Finding, ...]:
        return ()

    def executed(self, inputs: Any) -> frozenset[str]:
        return frozenset(names_of(self.quantizers))


class FakeSimulator:
    """Runs a FakeModel's variants in the order asked; `calls` counts the outputs made."""

    name = "fake"
    reason = "for tests"
    smallest = 1
    warnings: tuple[str, ...] = ()

    def __init__(self, source: FakeModel) -> None:
        self.source = source
        self.calls = 0

    def outputs(self, inputs: Any, variants: Sequence[frozenset[str]]) -> Iterator[tuple[int, Any]]:
        for index, disabled in enumerate(variants):
            with self.source.disabled(disabled):
                self.calls += 1
                yield index, self.source.model(inputs)
