"""Simulator that runs the user's own modules, one whole forward per variant: slow, and right for
every model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sensitivity import optional
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.quantizers.torch.calls import call, device_of, to_device


class ToggleSimulator:
    """The reference simulator: `source.model` itself, with its own quantizers switched.

    Each variant is computed, and the model is put back, before its outputs are handed out.
    """

    name = "toggle"
    smallest = None
    warnings: tuple[str, ...] = ()

    def __init__(
        self, source: QuantizedModel, reason: str = "the model's own modules were asked for"
    ) -> None:
        self.reason = reason
        self._source = source

    def outputs(self, inputs: Any, variants: Sequence[frozenset[str]]) -> Iterator[tuple[int, Any]]:
        inputs = to_device(inputs, device_of(self._source.model))
        for index, disabled in enumerate(variants):
            # Under inference_mode, a model that caches a tensor in its forward would keep one that
            # cannot be trained on.
            with optional.torch.no_grad(), self._source.disabled(disabled):
                outputs = call(self._source.model, inputs)
            yield index, outputs
