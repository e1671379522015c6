"""Bias correction: the mean error of each channel goes into the layer's bias (Nagel et al. 2019,
"Data-free quantization through weight equalization and bias correction", in its empirical form).

Costs two forwards on the calibration inputs, and nothing in an engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.quantizers.base import QuantizedModel, Recalibratable, form_of
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.records import Range, names_of

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.quantizers.torch.biases import Biases

METHOD = "bias correction"

Lacking = dict[str, tuple[Range, tuple[float, ...]]]

Change = Callable[[str, Any, "Tensor"], "Tensor | None"]
"""Name of a layer's weight quantizer, what the layer gets and what it gives -> what it gives
instead; None for the same."""


class RecalibratableModel(QuantizedModel, Recalibratable, Protocol):
    """A calibrated model whose quantizers can take other ranges."""


@runtime_checkable
class Correctable(RecalibratableModel, Protocol):
    """A calibrated model of torch whose layers' biases can be changed."""

    biases: Biases


def bias_corrections(
    source: QuantizedModel,
    inputs: Any,
    *,
    ranges: Iterable[Range] = (),
    left_out: Collection[str] = (),
) -> tuple[Range, ...]:
    """For each weighted layer the range that its weight has, with what its bias lacks: the mean
    over calibration inputs of its output in float minus its output quantized, per output channel.

    source: `is_correctable`. inputs: one batch with all samples, as the model takes it. ranges:
    that quantizers have meanwhile, without biases. left_out: quantizers that stay off; their layers
    get nothing. The layers are corrected in the order in which the model calls them, each with
    those before it corrected. A layer that one forward calls several times stays as it is: what its
    calls lack is not the same. Raises ModelError for a model without such layers.
    """
    if not is_correctable(source):
        raise ModelError(
            f"Expected a model whose biases can be changed, got one of {source.source}."
        )
    ranges = tuple(ranges)
    methods = {one.quantizer: f"{one.method}, {METHOD}" for one in ranges}
    lacking = _lacking_in_module
    if form_of(source) == "onnx":
        from sensitivity.repairs.onnx_bias import lacking_biases  # imports ONNX

        lacking = lacking_biases
    found = lacking(source, inputs, ranges, left_out)
    return tuple(
        replace(one, method=methods.get(name, METHOD), bias=delta)
        for name, (one, delta) in found.items()
    )


def is_correctable(source: QuantizedModel) -> TypeGuard[RecalibratableModel]:
    """Whether biases of this model can be changed."""
    if form_of(source) == "onnx":
        return True
    return isinstance(source, Correctable)


def _lacking_in_module(
    source: Any,
    inputs: Any,
    ranges: Sequence[Range],
    left_out: Collection[str],
) -> Lacking:
    """Weight quantizer -> its range now, and what its layer lacks."""
    every = names_of(source.quantizers)
    layers = sorted(source.biases.layers.keys() - set(left_out))
    names = [name for name in layers if has_range(source, name)]
    with optional.torch.no_grad():
        with source.disabled(every):
            expected = _means(source, names, inputs)
        with source.with_ranges(ranges):
            with source.disabled(left_out):
                deltas = _lacking(source, expected, inputs)
            return {name: (source.range(name), delta) for name, delta in deltas.items()}


def _means(source: Any, names: Collection[str], inputs: Any) -> dict[str, Tensor]:
    """What each layer gives on average, float64[channels], of those that are called once."""
    found: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def keep(name: str, args: Any, output: Tensor) -> None:
        calls[name] += 1
        found[name] = channel_means(source.biases.layers[name], output)

    with changing_outputs(source, names, keep):
        forward(source, inputs)
    return {name: mean for name, mean in found.items() if calls[name] == 1}


def _lacking(
    source: Any, expected: Mapping[str, Tensor], inputs: Any
) -> dict[str, tuple[float, ...]]:
    """What the output of each layer lacks to its expected mean, those before it corrected."""
    deltas: dict[str, tuple[float, ...]] = {}

    def correct(name: str, args: Any, output: Tensor) -> Tensor:
        layer = source.biases.layers[name]
        lacking = (expected[name] - channel_means(layer, output)).to(output.dtype)
        deltas[name] = tuple(lacking.float().tolist())
        return output + lacking.reshape(-1, *[1] * axes_behind(layer))

    with changing_outputs(source, expected, correct):
        forward(source, inputs)
    return deltas


@contextmanager
def changing_outputs(source: Any, names: Iterable[str], change: Change) -> Iterator[None]:
    """Inside the `with`, what each layer gives is what `change` makes of it."""

    def hook_for(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            return change(name, args, output)

        return hook

    with ExitStack() as stack:
        for name in names:
            layer = source.biases.layers[name]
            stack.callback(layer.register_forward_hook(hook_for(name)).remove)
        yield


def forward(source: QuantizedModel, inputs: Any) -> None:
    """Run the model on one batch, for what is hooked to it."""
    call(source.model, to_device(inputs, device_of(source.model)))


def channel_means(layer: Any, output: Tensor) -> Tensor:
    """float64[channels] of an output whose channels lie along the axis that the layer puts them
    on."""
    behind = axes_behind(layer)
    channels = output.shape[output.ndim - 1 - behind]
    if behind:
        # Each image in float32 first: all of them in float64 take twice the memory of the output.
        exact = optional.torch.promote_types(output.dtype, optional.torch.float32)
        output = output.flatten(-behind).mean(-1, dtype=exact)
    return output.double().reshape(-1, channels).mean(0)


def axes_behind(layer: Any) -> int:
    """How many axes follow the channels in what a layer gives: those of the image."""
    return int(layer.weight.ndim) - 2


def has_range(source: Recalibratable, name: str) -> bool:
    """Whether a quantizer has a range that can be changed."""
    try:
        source.range(name)
    except ModelError:  # FP8, blocks, learned ranges: nothing to switch the bias along with
        return False
    return True
