"""Changes of the biases of layers, in force while the weights of these layers are quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.quantizers.torch.modules import class_names

if TYPE_CHECKING:
    from torch import Tensor, nn

Delta = tuple[float, ...]

WEIGHTED = {"Linear", "_ConvNd", "WeightedOperation"}
"""Names of the classes from which every layer with a weight and a bias descends: torch's own,
including the layers of the toolkits, and that of a PT2E graph."""


class Biases:
    """The changes of biases that are in force.

    layers: weight quantizer -> its layer, the module that holds the bias, which may be None. Layers
        whose bias cannot be changed are left out.
    """

    def __init__(self, layers: Mapping[str, Any]) -> None:
        self.layers = {name: layer for name, layer in layers.items() if has_bias(layer)}
        # Weight quantizer -> the user's own bias, or None, and the type of the layer when its bias
        # was first changed.
        self._own: dict[str, tuple[Any, Any]] = {}
        self._now: dict[str, Delta] = {}

    def now(self, name: str) -> Delta | None:
        """Return the values added to the bias of this quantizer's layer, or None if nothing is
        added."""
        return self._now.get(name)

    @property
    def in_force(self) -> frozenset[str]:
        """The weight quantizers of the layers whose biases are changed."""
        return frozenset(self._now)

    def change(self, name: str, delta: Delta | None) -> None:
        """Add values to the layer's own bias, instead of those added before.

        name: weight quantizer of the layer.
        delta: one value for each output channel. None restores the layer's own bias.

        Raises ModelError for a change of a layer whose bias cannot be changed.
        """
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
        else:  # The model computes in another type for a while, and gets `own` back after it.
            layer._parameters["bias"] = _in_type_of(layer, own)

    @contextmanager
    def changed(self, deltas: Mapping[str, Delta | None]) -> Iterator[None]:
        """Change biases inside the `with`, and restore them after it.

        deltas: weight quantizer -> the change of its layer's bias, as `change` takes it.
        """
        with ExitStack() as stack:
            for name, delta in deltas.items():
                stack.callback(self.change, name, self.now(name))
                self.change(name, delta)
            yield


def has_bias(layer: Any) -> bool:
    """Return whether a module is a layer of torch whose bias can be changed, which includes a layer
    without a bias."""
    is_weighted = WEIGHTED.intersection(class_names(layer))
    return bool(is_weighted) and "bias" in layer._parameters


def _sum(layer: Any, own: Any, dtype: Any, delta: Delta) -> nn.Parameter:
    """Return the layer's own bias plus a change, in the type that the layer has now.

    own: the layer's own bias, or None.
    dtype: the layer's own type. The sum is computed in it, as when the change was measured.
    """
    values = optional.torch.tensor(delta, dtype=dtype, device=layer.weight.device)
    if own is not None:
        values = own.detach().to(dtype) + values
    values = values.to(layer.weight.dtype)
    return optional.torch.nn.Parameter(values, requires_grad=bool(layer.weight.requires_grad))


def _in_type_of(layer: Any, own: Any) -> nn.Parameter | None:
    """Return the layer's own bias in the type that the layer has now, or None if it has none."""
    if own is None:
        return None
    values = own.detach().to(layer.weight.dtype)
    return optional.torch.nn.Parameter(values, requires_grad=bool(own.requires_grad))


class BiasChange:
    """The operation of a traced graph that adds a change to a bias, where `Biases` would change the
    layer's parameter."""

    fresh = True
    overwrite = None

    def __init__(self, delta: Delta) -> None:
        self._delta = delta

    def __call__(self, bias: Tensor) -> Tensor:
        return bias + optional.torch.tensor(self._delta, dtype=bias.dtype, device=bias.device)


def mark_biases(model: nn.Module, node: Any, numbers: Mapping[str, int]) -> None:
    """Let the biases of a model pass through nodes that a tracer sees.

    model: a copy for tracing only.
    node: function of a bias and the number of its node that returns the bias.
    numbers: path of a layer -> number of its node.

    A bias that is None becomes zeros.
    """
    for path, number in numbers.items():
        layer = model.get_submodule(path)
        # A tracer calls no hooks of a model that is itself a graph, but those of its modules.
        layer.register_forward_pre_hook(partial(_mark, node, number))
        layer.register_forward_hook(_unmark)


def _mark(node: Any, number: int, layer: Any, args: Any) -> None:
    """Let a layer read its bias through a node."""
    bias: Any = layer._parameters["bias"]
    if bias is None:
        weight = layer.weight
        bias = optional.torch.zeros(_channels(layer), dtype=weight.dtype, device=weight.device)
    # Attribute lookup finds this value first; the parameter of this name stays as it is.
    vars(layer)["bias"] = node(bias, number)


def _unmark(layer: Any, args: Any, output: Any) -> None:
    del vars(layer)["bias"]


def _channels(layer: Any) -> int:
    """Return the number of output channels of a linear layer or a convolution."""
    is_linear = hasattr(layer, "out_features")
    return int(layer.out_features if is_linear else layer.out_channels)
