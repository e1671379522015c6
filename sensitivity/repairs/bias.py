"""Bias correction: the mean quantization error of each channel is added to the layer's bias.

This is the empirical form of Nagel et al. 2019, "Data-free quantization through weight equalization
and bias correction". It takes two forwards on the calibration inputs and costs an engine nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

from sensitivity import optional
from sensitivity.allocator import trim_heap
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

Corrections = dict[str, tuple[Range, tuple[float, ...]]]
"""Weight quantizer -> (its range, the correction of its layer's bias per output channel)."""

Args = tuple[Any, ...]
"""The inputs of one call of a layer."""


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
    them, each after the corrected layers before it. A layer that is called several times in one
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
    find = _corrections_in_module
    if form_of(source) == "onnx":
        from sensitivity.repairs.onnx_bias import corrections_in_file  # imports ONNX

        find = corrections_in_file
    corrections = find(source, parts_of(inputs), ranges, left_out)
    return tuple(
        replace(weight_range, method=methods.get(name, METHOD), bias=delta)
        for name, (weight_range, delta) in corrections.items()
    )


def is_correctable(source: QuantizedModel) -> TypeGuard[RecalibratableModel]:
    """Return whether biases of this model can be changed."""
    if form_of(source) == "onnx":
        return True
    return isinstance(source, Correctable)


def _corrections_in_module(
    source: Any,
    parts: Parts,
    ranges: Sequence[Range],
    left_out: Collection[str],
) -> Corrections:
    """Return, for each weight quantizer of a torch model, its current range and its layer's
    correction."""
    every = names_of(source.quantizers)
    layers = sorted(source.biases.layers.keys() - set(left_out))
    names = [name for name in layers if has_range(source, name)]
    with optional.torch.no_grad():
        with source.disabled(every):
            expected = _float_means(source, names, parts)
        with source.with_ranges(ranges):
            with source.disabled(left_out):
                deltas = _corrections(source, expected, parts)
            return {name: (source.range(name), delta) for name, delta in deltas.items()}


def _float_means(source: Any, names: Collection[str], parts: Parts) -> dict[str, Tensor]:
    """Return the mean output float64[channels] of each layer that is called once."""
    means: dict[str, ChannelMean] = {}
    calls: Counter[str] = Counter()

    def keep(name: str, output: Tensor) -> None:
        calls[name] += 1
        means.setdefault(name, ChannelMean(source.biases.layers[name])).add(output)

    watch_layers(source, names, parts, keep)
    once = len(parts.batches)
    return {name: mean.value for name, mean in means.items() if calls[name] == once}


def _corrections(
    source: Any, expected: Mapping[str, Tensor], parts: Parts
) -> dict[str, tuple[float, ...]]:
    """Return the difference of each layer's output from its expected mean, with the layers before
    it corrected."""
    deltas: dict[str, tuple[float, ...]] = {}

    def correct(name: str, inputs: Sequence[Args]) -> Tensor:
        error = mean_error(source.biases.layers[name], inputs, expected[name])
        deltas[name] = tuple(error.float().tolist())
        return error

    visit_layers(source, expected, parts, correct)
    return deltas


def mean_error(layer: Any, inputs: Iterable[Args], expected: Tensor) -> Tensor:
    """Return the expected mean of a layer's outputs minus their actual mean, for each channel, in
    the type of the outputs.

    inputs: of the layer, for each part. Only one part's outputs are held at a time.
    """
    mean = ChannelMean(layer)
    for args in inputs:
        mean.add(layer.forward(*args))
    return (expected - mean.value).to(mean.dtype)


class ChannelMean:
    """The mean float64[channels] of all outputs of a layer, which come part by part."""

    def __init__(self, layer: Any) -> None:
        self.dtype: Any = None
        self._trailing = image_axes(layer)
        self._sums: list[Tensor] = []
        self._rows = 0

    def add(self, output: Tensor) -> None:
        """Count the outputs of one part."""
        rows = _channel_rows(output, self._trailing)
        self.dtype = output.dtype
        self._sums.append(rows.sum(0))
        self._rows += len(rows)

    @property
    def value(self) -> Tensor:
        """The mean of all parts so far."""
        return optional.torch.stack(self._sums).sum(0) / self._rows


def watch_layers(
    source: Correctable, names: Iterable[str], parts: Parts, watch: Callable[[str, Tensor], None]
) -> None:
    """Run the model on one part after the other, and call `watch` with a layer's weight quantizer
    and its output whenever the layer is called."""

    def hook_for(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            watch(name, output)

        return hook

    with ExitStack() as stack:
        for name in names:
            layer = source.biases.layers[name]
            stack.callback(layer.register_forward_hook(hook_for(name)).remove)
        advance = stack.enter_context(parts.show(len(parts.batches)))
        for batch in parts.batches:
            forward(source, batch)
            advance(1, 0)
    trim_heap()


def visit_layers(
    source: Correctable,
    names: Collection[str],
    parts: Parts,
    visit: Callable[[str, Sequence[Args]], Tensor],
) -> None:
    """Run the model on all parts, and call `visit` with a layer's weight quantizer and its inputs,
    those of each part, before the layer runs.

    What `visit` returns for the channels is added to the layer's outputs. The parts meet before
    each layer, not after it, so that only its inputs are held for all samples.
    """
    added: dict[str, Tensor] = {}

    def meet(name: str, inputs: Sequence[Args]) -> None:
        added[name] = visit(name, inputs)
        advance(1, 0)

    def stop_at(name: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            stop(name, *args)

        return hook

    def add_to(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            output.add_(added[name].reshape(-1, *[1] * image_axes(module)))

        return hook

    with ExitStack() as stack:
        for name in names:
            layer = source.biases.layers[name]
            stack.callback(layer.register_forward_pre_hook(stop_at(name)).remove)
            stack.callback(layer.register_forward_hook(add_to(name)).remove)
        advance = stack.enter_context(parts.show(len(names)))
        in_lockstep(partial(forward, source), parts.batches, meet)


def forward(source: QuantizedModel, inputs: Any) -> None:
    """Run the model on one batch, for the hooks attached to it."""
    call(source.model, to_device(inputs, device_of(source.model)))


def _channel_rows(output: Tensor, trailing: int) -> Tensor:
    """Return float64[n, channels]: the outputs with the axes after the channels averaged."""
    channels = output.shape[output.ndim - 1 - trailing]
    if trailing:
        # Average each image in float32 first: the whole output in float64 would take twice its
        # memory.
        exact = optional.torch.promote_types(output.dtype, optional.torch.float32)
        output = output.flatten(-trailing).mean(-1, dtype=exact)
    return output.double().reshape(-1, channels)


def image_axes(layer: Any) -> int:
    """Return how many axes follow the channel axis in a layer's output: those of the image."""
    return int(layer.weight.ndim) - 2


def has_range(source: Recalibratable, name: str) -> bool:
    """Return whether a quantizer has a range that can be replaced."""
    try:
        source.range(name)
    except ModelError:  # FP8, blocks, learned ranges: no range to attach the bias to
        return False
    return True
