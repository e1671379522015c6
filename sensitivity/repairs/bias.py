"""Bias correction: the mean quantization error of each channel is added to the layer's bias.

This is the empirical form of Nagel et al. 2019, "Data-free quantization through weight equalization
and bias correction". It takes two forwards on the calibration inputs and costs an engine nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.quantizers.base import QuantizedModel, Recalibratable, form_of
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.records import Range, names_of
from sensitivity.repairs.lockstep import in_lockstep, stop
from sensitivity.repairs.samples import Parts, parts_of

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.quantizers.torch.biases import Biases

METHOD = "bias correction"

Lacking = dict[str, tuple[Range, tuple[float, ...]]]
"""Weight quantizer -> (its range, the correction of its layer's bias per output channel)."""


class RecalibratableModel(QuantizedModel, Recalibratable, Protocol):
    """A calibrated model whose quantizers can take other ranges."""


@runtime_checkable
class Correctable(RecalibratableModel, Protocol):
    """A calibrated torch model whose layers' biases can be changed."""

    biases: Biases


def bias_corrections(
    source: QuantizedModel,
    inputs: Any,
    *,
    ranges: Iterable[Range] = (),
    left_out: Collection[str] = (),
) -> tuple[Range, ...]:
    """Fit a bias correction for each weighted layer and return it with the weight's range.

    The correction is the mean over calibration inputs of the layer's float output minus its
    quantized output, per output channel. Layers are corrected in the order in which the model calls
    them, each behind the corrected layers before it. A layer that is called several times in one
    forward is left unchanged, because its calls need different corrections.

    source: a model for which `is_correctable` holds.
    inputs: one batch as the model takes it, or `Parts`, which are seen as one.
    ranges: ranges that replace those of quantizers, without biases.
    left_out: quantizers that stay disabled; their layers are not corrected.
    Raises ModelError for a model without such layers.
    """
    if not is_correctable(source):
        raise ModelError(
            f"Expected a model whose biases can be changed, got one of {source.source}."
        )
    ranges = tuple(ranges)
    methods = {replacement.quantizer: f"{replacement.method}, {METHOD}" for replacement in ranges}
    lacking = _lacking_in_module
    if form_of(source) == "onnx":
        from sensitivity.repairs.onnx_bias import lacking_biases  # imports ONNX

        lacking = lacking_biases
    corrections = lacking(source, parts_of(inputs), ranges, left_out)
    return tuple(
        replace(weight_range, method=methods.get(name, METHOD), bias=delta)
        for name, (weight_range, delta) in corrections.items()
    )


def is_correctable(source: QuantizedModel) -> TypeGuard[RecalibratableModel]:
    """Return whether biases of this model can be changed."""
    if form_of(source) == "onnx":
        return True
    return isinstance(source, Correctable)


def _lacking_in_module(
    source: Any,
    parts: Parts,
    ranges: Sequence[Range],
    left_out: Collection[str],
) -> Lacking:
    """Return, for each weight quantizer of a torch model, its current range and its layer's
    correction."""
    every = names_of(source.quantizers)
    layers = sorted(source.biases.layers.keys() - set(left_out))
    names = [name for name in layers if has_range(source, name)]
    with optional.torch.no_grad():
        with source.disabled(every):
            expected = _means(source, names, parts)
        with source.with_ranges(ranges):
            with source.disabled(left_out):
                deltas = _lacking(source, expected, parts)
            return {name: (source.range(name), delta) for name, delta in deltas.items()}


def _means(source: Any, names: Collection[str], parts: Parts) -> dict[str, Tensor]:
    """Return the mean output float64[channels] of each layer that is called once."""
    means: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def keep(name: str, calls_of_layer: Sequence[Call]) -> None:
        calls[name] += 1
        means[name] = channel_means(source.biases.layers[name], calls_of_layer)

    visit_layers(source, names, parts, keep)
    return {name: mean for name, mean in means.items() if calls[name] == 1}


def _lacking(
    source: Any, expected: Mapping[str, Tensor], parts: Parts
) -> dict[str, tuple[float, ...]]:
    """Return the difference of each layer's output from its expected mean, with the layers before
    it corrected."""
    deltas: dict[str, tuple[float, ...]] = {}

    def correct(name: str, calls: Sequence[Call]) -> None:
        deltas[name] = add_lacking(source.biases.layers[name], calls, expected[name])

    visit_layers(source, expected, parts, correct)
    return deltas


def add_lacking(layer: Any, calls: Sequence[Call], expected: Tensor) -> tuple[float, ...]:
    """Add to the outputs of a layer, in place, what their means lack, and return it per channel."""
    lacking = (expected - channel_means(layer, calls)).to(calls[0].output.dtype)
    for each in calls:
        each.output.add_(lacking.reshape(-1, *[1] * axes_behind(layer)))
    return tuple(lacking.float().tolist())


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a layer on one part of the inputs. The output may be changed in place."""

    args: tuple[Any, ...]
    output: Tensor


def visit_layers(
    source: Correctable,
    names: Iterable[str],
    parts: Parts,
    visit: Callable[[str, list[Call]], None],
) -> None:
    """Run the model on all parts, and call `visit` with a layer's weight quantizer and its calls,
    one for each part, before the next layer runs."""

    def meet(name: str, shown: list[tuple[Any, ...]]) -> None:
        visit(name, [Call(*values) for values in shown])

    def hook_for(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            stop(name, args, output)

        return hook

    with ExitStack() as stack:
        for name in names:
            layer = source.biases.layers[name]
            stack.callback(layer.register_forward_hook(hook_for(name)).remove)
        in_lockstep(partial(forward, source), parts.batches, meet)


def forward(source: QuantizedModel, inputs: Any) -> None:
    """Run the model on one batch, for the hooks attached to it."""
    call(source.model, to_device(inputs, device_of(source.model)))


def channel_means(layer: Any, calls: Sequence[Call]) -> Tensor:
    """Return the means float64[channels] of all outputs, whose channel axis depends on the
    layer."""
    trailing = axes_behind(layer)
    sums, rows = [], 0
    for each in calls:
        found = _rows_of_channels(each.output, trailing)
        sums.append(found.sum(0))
        rows += len(found)
    return optional.torch.stack(sums).sum(0) / rows


def _rows_of_channels(output: Tensor, trailing: int) -> Tensor:
    """Return float64[n, channels]: the outputs with the axes behind the channels averaged."""
    channels = output.shape[output.ndim - 1 - trailing]
    if trailing:
        # Average each image in float32 first: the whole output in float64 would take twice its
        # memory.
        exact = optional.torch.promote_types(output.dtype, optional.torch.float32)
        output = output.flatten(-trailing).mean(-1, dtype=exact)
    return output.double().reshape(-1, channels)


def axes_behind(layer: Any) -> int:
    """Return how many axes follow the channel axis in a layer's output: those of the image."""
    return int(layer.weight.ndim) - 2


def has_range(source: Recalibratable, name: str) -> bool:
    """Return whether a quantizer has a range that can be replaced."""
    try:
        source.range(name)
    except ModelError:  # FP8, blocks, learned ranges: no range to attach the bias to
        return False
    return True
