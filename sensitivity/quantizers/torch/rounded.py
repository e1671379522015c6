"""Weights with values that are not rounded to the nearest level.

Such a value is moved onto its other level before it is quantized, so that the quantizers stay as
they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.quantizers.ranges import shape_along
from sensitivity.quantizers.rounding import unpack
from sensitivity.records import Grid

if TYPE_CHECKING:
    from torch import Tensor


class Roundings:
    """The roundings of weights that are in force.

    layers: weight quantizer -> its layer, a module of any kind that holds the weight. Layers whose
        weight cannot be replaced are left out.
    """

    def __init__(self, layers: Mapping[str, Any]) -> None:
        self.layers = {name: layer for name, layer in layers.items() if has_weight(layer)}
        self._own: dict[str, Any] = {}
        self._now: dict[str, str] = {}

    def now(self, name: str) -> str | None:
        """Return the rounding of this quantizer's weight, or None if every value is rounded to the
        nearest level."""
        return self._now.get(name)

    @property
    def in_force(self) -> frozenset[str]:
        """The weight quantizers with a rounding other than to the nearest level."""
        return frozenset(self._now)

    def change(self, name: str, rounding: str | None, grid: Grid | None = None) -> None:
        """Set the rounding of a weight, instead of the one before.

        name: weight quantizer of the layer.
        rounding: the moves of the weight's values, packed as `quantizers.rounding` does. None
            rounds every value to the nearest level.
        grid: the quantizer's grid with this rounding; None only if `rounding` is None.

        Raises ModelError if the quantizer has no layer whose weight can be replaced.
        """
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
        """Set roundings inside the `with`, and restore the present ones after it.

        roundings: weight quantizer -> rounding, as `change` takes it.
        grid_of: function of the name of a quantizer that returns its grid.
        """
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
                "Expected a rounding for the weight of a convolution or linear layer whose values "
                f"in FP32 are known, got one for {name}."
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
    """Return whether a layer's weight can be replaced: it is a parameter in float32."""
    weight = layer._parameters.get("weight")
    return weight is not None and weight.dtype == optional.torch.float32


def levels_of(weight: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return a weight divided by the scale of its grid, and that scale, in a shape that broadcasts
    against the weight."""
    scale = optional.torch.as_tensor(grid.scale, device=weight.device)
    if scale.numel() > 1:
        scale = scale.reshape(shape_along(grid.axis or 0, weight.ndim))
    return weight / scale, scale


def on_levels(weight: Tensor, grid: Grid, rounding: str) -> Tensor:
    """Return a weight with each moved value on its new level, and all other values as they are."""
    moves = optional.torch.from_numpy(unpack(rounding, tuple(weight.shape)).copy())
    moves = moves.to(weight.device)
    steps, scale = levels_of(weight, grid)
    low, high = grid.low - grid.zero_point, grid.high - grid.zero_point
    levels = (steps.round() + moves).clamp(low, high)
    return optional.torch.where(moves != 0, levels * scale, weight)


class RoundedWeight:
    """The operation of a traced graph that quantizes a weight with a rounding, where `Roundings`
    would change the layer's parameter."""

    fresh = True
    overwrite = None

    def __init__(self, quantizer: Callable[[Tensor], Tensor], grid: Grid, rounding: str) -> None:
        self._quantizer, self._grid, self._rounding = quantizer, grid, rounding

    def __call__(self, x: Tensor) -> Tensor:
        return self._quantizer(on_levels(x.contiguous(), self._grid, self._rounding))
