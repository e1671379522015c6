"""Weights of layers whose values are rounded otherwise than to the nearest level.

A value that is to go to another level is moved onto it before it is quantized, so that quantizers
stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.quantizers.ranges import shape_along
from sensitivity.quantizers.rounding import unpacked
from sensitivity.records import Grid

if TYPE_CHECKING:
    from torch import Tensor


class Roundings:
    """Which way the weights of layers are rounded now.

    layers: weight quantizer -> the module that holds the weight. Given are layers of any kind;
        those whose weight cannot be replaced are left out.
    """

    def __init__(self, layers: Mapping[str, Any]) -> None:
        self.layers = {name: layer for name, layer in layers.items() if has_weight(layer)}
        self._own: dict[str, Any] = {}
        self._now: dict[str, str] = {}

    def now(self, name: str) -> str | None:
        """Return the rounding of the weight of this quantizer; None where it is to the nearest
        level."""
        return self._now.get(name)

    @property
    def in_force(self) -> frozenset[str]:
        """The weight quantizers whose weights are rounded otherwise now."""
        return frozenset(self._now)

    def change(self, name: str, rounding: str | None, grid: Grid | None = None) -> None:
        """Round the weight of this quantizer so, in the place of what was before; None rounds to
        the nearest level. grid: that the quantizer has with it, for any but None. Raises ModelError
        where the quantizer is of no such layer."""
        layer = self._layer(name)
        own = self._own.setdefault(name, layer._parameters["weight"])
        self._now.pop(name, None)
        if rounding is None:
            layer._parameters["weight"] = self._own.pop(name)
            return
        assert grid is not None
        values = on_levels(own.detach(), grid, rounding)
        self._now[name] = rounding
        layer._parameters["weight"] = optional.torch.nn.Parameter(
            values, requires_grad=bool(own.requires_grad)
        )

    @contextmanager
    def changed(
        self, roundings: Mapping[str, str | None], grid_of: Callable[[str], Grid]
    ) -> Iterator[None]:
        """Inside the `with` weights are rounded so, before and after it as they are now."""
        with ExitStack() as stack:
            for name, rounding in roundings.items():
                if rounding is not None:
                    stack.callback(self._put_back, name, self._state(name))
                    self.change(name, rounding, grid_of(name))
                elif name in self._now:
                    stack.callback(self._put_back, name, self._state(name))
                    self.change(name, None)
            yield

    def _layer(self, name: str) -> Any:
        if name not in self.layers:
            raise ModelError(
                "Expected a rounding for the weight of a convolution or linear layer, got one for "
                f"{name}."
            )
        return self.layers[name]

    def _state(self, name: str) -> tuple[Any, Any, str | None]:
        weight = self._layer(name)._parameters["weight"]
        return weight, self._own.get(name), self._now.get(name)

    def _put_back(self, name: str, state: tuple[Any, Any, str | None]) -> None:
        weight, own, rounding = state
        self.layers[name]._parameters["weight"] = weight
        self._own.pop(name, None)
        self._now.pop(name, None)
        if rounding is not None:
            self._own[name], self._now[name] = own, rounding


def has_weight(layer: Any) -> bool:
    """Return whether a layer's weight is a parameter in float32, which can be replaced."""
    weight = layer._parameters.get("weight")
    return weight is not None and weight.dtype == optional.torch.float32


def levels_of(weight: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return a weight in steps of its grid, and the scale by which it was divided, which
    broadcasts."""
    scale = optional.torch.as_tensor(grid.scale, device=weight.device)
    if scale.numel() > 1:
        scale = scale.reshape(shape_along(grid.axis or 0, weight.ndim))
    return weight / scale, scale


def on_levels(weight: Tensor, grid: Grid, rounding: str) -> Tensor:
    """Return the weight with each value that is moved put onto its new level; all others stay as
    they are."""
    moves = optional.torch.from_numpy(unpacked(rounding, tuple(weight.shape)).copy())
    moves = moves.to(weight.device)
    steps, scale = levels_of(weight, grid)
    levels = (steps.round() + moves).clamp(grid.low, grid.high)
    return optional.torch.where(moves != 0, levels * scale, weight)


class RoundedWeight:
    """Quantizes a weight as its rounding says: what a traced graph does where `Roundings` changes
    the layer's parameter."""

    fresh = True
    overwrite = None

    def __init__(self, quantizer: Callable[[Tensor], Tensor], grid: Grid, rounding: str) -> None:
        self._quantizer, self._grid, self._rounding = quantizer, grid, rounding

    def __call__(self, x: Tensor) -> Tensor:
        return self._quantizer(on_levels(x.contiguous(), self._grid, self._rounding))
