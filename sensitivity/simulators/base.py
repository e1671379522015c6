"""Interface for computing the outputs of many variants of a fake-quantized model for one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol


class Simulator(Protocol):
    """Computes the model's outputs with some quantizers disabled.

    name: "toggle", "replay", ... as shown in reports and kept in the journal's head.
    reason: one sentence that says why this simulator was chosen.
    """

    name: str
    reason: str

    @property
    def smallest(self) -> int | None:
        """Number of samples to which a batch may be cut down; None if it has to stay whole."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader of a run has to know about the batches so far, one sentence each."""
        ...

    def outputs(self, inputs: Any, variants: Sequence[frozenset[str]]) -> Iterator[tuple[int, Any]]:
        """Yield the index of each variant, and the outputs of the model on `inputs` with exactly
        its quantizers disabled.

        A variant may also hold keys of ranges, if the model has any (`quantizers.alternatives`).
        Each index comes once, in the order that is cheapest. Outputs are valid until the next ones
        are asked for. The model is as it was found whenever the iterator is exhausted, closed, or
        raises.
        """
        ...
