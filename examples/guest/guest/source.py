"""Models of the toy toolkit as `sensitivity` sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from guest.toolkit import LEVELS, Rounder
from sensitivity.errors import ModelError, unknown_name
from sensitivity.quantizers.proofs import left_quantized, reached
from sensitivity.quantizers.torch.tensor_quantizer import add_tensors
from sensitivity.records import Finding, Grid, Quantizer


class ToyModel:
    """See `sensitivity.quantizers.base.QuantizedModel`, which says what each method promises."""

    source = "toy"
    warnings: tuple[str, ...] = ()

    def __init__(self, model: Any) -> None:
        self.model = model
        self._all = {
            name: module for name, module in model.named_modules() if isinstance(module, Rounder)
        }
        self._rounders = {name: module for name, module in self._all.items() if module.active}
        self.quantizers = tuple(_quantizer(name, module) for name, module in self._rounders.items())

    @staticmethod
    def recognises(model: Any) -> bool:
        return hasattr(model, "modules") and any(
            isinstance(module, Rounder) for module in model.modules()
        )

    @contextmanager
    def disabled(self, names: Iterable[str]) -> Iterator[None]:
        wanted = {name for name in names if self._known(name)}
        before = {name: module.active for name, module in self._rounders.items()}
        try:
            for name, module in self._rounders.items():
                module.active = name not in wanted
            yield
        finally:
            for name, active in before.items():
                self._rounders[name].active = active

    def grid(self, name: str) -> Grid:
        module = self._known(name)
        limit = module.limit.detach().cpu().numpy()
        if not (np.isfinite(limit) & (limit > 0)).all():
            raise ModelError(f"Expected {name} to have ranges above 0, got others; calibrate it.")
        scale = np.asarray(limit / LEVELS, np.float32)
        return Grid(scale, 0, -LEVELS, LEVELS, 0 if module.per_channel else None)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(
            repr([(name, module.active) for name, module in self._all.items()]).encode()
        )
        add_tensors(digest, self.model)
        return digest.hexdigest()

    def remaining(self) -> tuple[Finding, ...]:
        with self.disabled(self._rounders):
            return tuple(
                left_quantized(name, "a Rounder")
                for name, module in self._all.items()
                if module.active
            )

    def executed(self, inputs: Any) -> frozenset[str]:
        with self.disabled(()):
            return reached(self.model, self._rounders, inputs)

    def _known(self, name: str) -> Rounder:
        if name not in self._rounders:
            raise unknown_name("a quantizer's name", name, self._rounders)
        return self._rounders[name]


def _quantizer(name: str, module: Rounder) -> Quantizer:
    layer, _, attribute = name.rpartition(".")
    role = "weight" if attribute == "weight_rounder" else "input"
    problem = "its limit is not finite" if not bool(module.limit.isfinite().all()) else None
    return Quantizer(name, layer, role, 8, 0 if module.per_channel else None, problem)
