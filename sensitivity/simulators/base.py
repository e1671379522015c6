"""How the outputs of many variants of a fake-quantized model are computed for one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol


class Simulator(Protocol):
    """Computes what the model would output with some quantizers disabled.

    name: "toggle", "replay", ... as shown in reports and kept in the journal's head.
    reason: one sentence that says why this one was chosen.
    """

    name: str
    reason: str

    @property
    def smallest(self) -> int | None:
        """How many samples a batch may be cut down to; None where it has to stay whole."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader of a run must know of the batches so far, a sentence each."""
        ...

    def outputs(self, inputs: Any, variants: Sequence[frozenset[str]]) -> Iterator[tuple[int, Any]]:
        """Yield (index into `variants`, outputs of the model on `inputs` with exactly those
        quantizers disabled).

        A variant may also hold keys of ranges, where the model offers any
        (`quantizers.alternatives`).

        Each index comes once, in the order that is cheapest. Outputs are valid until the next one
        is asked for. The model is as it was found whenever the iterator is exhausted, closed, or
        raises.
        """
        ...
