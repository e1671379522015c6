"""Biases of layers that are changed for as long as their weights are quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.quantizers.torch.modules import class_names

if TYPE_CHECKING:
    from torch import Tensor, nn

Delta = tuple[float, ...]

WEIGHTED = {"Linear", "_ConvNd"}
"""Names of the classes of torch from which all layers with a weight and a bias descend, those of
the toolkits too."""


class Biases:
    """What is added to the biases of layers now.

    layers: weight quantizer -> the module that holds the bias, which may be None. Given are the
        modules of all weights; those whose bias cannot be changed are left out.
    """

    def __init__(self, layers: Mapping[str, Any]) -> None:
        self.layers = {name: layer for name, layer in layers.items() if has_bias(layer)}
        # The user's own parameter, or None, and the type that the layer had with it.
        self._own: dict[str, tuple[Any, Any]] = {}
        self._now: dict[str, Delta] = {}

    def now(self, name: str) -> Delta | None:
        """Return what is added to the bias of the layer of this quantizer; None where that is
        nothing."""
        return self._now.get(name)

    @property
    def in_force(self) -> frozenset[str]:
        """The weight quantizers of the layers whose biases are changed now."""
        return frozenset(self._now)

    def change(self, name: str, delta: Delta | None) -> None:
        """Add this to the layer's own bias, in the place of what was added before; None adds
        nothing. Raises ModelError for a change where the quantizer is not of such a layer."""
        if name not in self.layers:
            if not delta:
                return
            raise ModelError(
                "Expected a change of the bias for the weight of a convolution or linear layer, "
                f"got one for {name}."
            )
        layer = self.layers[name]
        self._now.pop(name, None)
        own, dtype = self._own.setdefault(name, (layer._parameters["bias"], layer.weight.dtype))
        if delta is not None:
            self._now[name] = delta
            layer._parameters["bias"] = _sum(layer, own, dtype, delta)
        elif layer.weight.dtype == dtype:
            layer._parameters["bias"] = own
            del self._own[name]
        else:  # the model computes in another type for a while, and `own` comes back after it
            layer._parameters["bias"] = _in_type_of(layer, own)

    @contextmanager
    def changed(self, deltas: Mapping[str, Delta | None]) -> Iterator[None]:
        """Inside the `with` the biases are those, before and after it as they are now."""
        with ExitStack() as stack:
            for name, delta in deltas.items():
                stack.callback(self.change, name, self.now(name))
                self.change(name, delta)
            yield


def has_bias(layer: Any) -> bool:
    """Return whether a module is a layer of torch whose bias can be changed, one that has none yet
    included."""
    is_weighted = WEIGHTED.intersection(class_names(layer))
    return bool(is_weighted) and "bias" in layer._parameters


def _sum(layer: Any, own: Any, dtype: Any, delta: Delta) -> nn.Parameter:
    """Add in the layer's own type, as where the change was measured, and give the sum in the type
    that the layer has now."""
    values = optional.torch.tensor(delta, dtype=dtype, device=layer.weight.device)
    if own is not None:
        values = own.detach().to(dtype) + values
    values = values.to(layer.weight.dtype)
    return optional.torch.nn.Parameter(values, requires_grad=bool(layer.weight.requires_grad))


def _in_type_of(layer: Any, own: Any) -> nn.Parameter | None:
    """Return the layer's own bias, None where it has none, in the type that the layer has now."""
    if own is None:
        return None
    values = own.detach().to(layer.weight.dtype)
    return optional.torch.nn.Parameter(values, requires_grad=bool(own.requires_grad))


class BiasChange:
    """Adds to a bias: what a traced graph does where `Biases` changes the layer's parameter."""

    fresh = True
    overwrite = None

    def __init__(self, delta: Delta) -> None:
        self._delta = delta

    def __call__(self, bias: Tensor) -> Tensor:
        return bias + optional.torch.tensor(self._delta, dtype=bias.dtype, device=bias.device)


def mark_biases(model: nn.Module, node: Any, places: Mapping[str, tuple[int, int]]) -> None:
    """Let the biases of a model, which is a copy for tracing, go through nodes that a tracer sees.

    node: called with a bias and the number of a node. places: path of a layer -> (number, channels)
    of its node. A bias that is None becomes zeros.
    """
    layers = [(model.get_submodule(path), *place) for path, place in places.items()]

    def begin(module: Any, args: Any) -> None:
        for layer, number, channels in layers:
            bias: Any = layer._parameters["bias"]
            if bias is None:
                weight: Any = layer.weight
                bias = optional.torch.zeros(channels, dtype=weight.dtype, device=weight.device)
            # found before the parameter of this name, which stays as it is
            vars(layer)["bias"] = node(bias, number)

    def end(module: Any, args: Any, outputs: Any) -> None:
        for layer, _, _ in layers:
            del vars(layer)["bias"]

    model.register_forward_pre_hook(begin)
    model.register_forward_hook(end)
