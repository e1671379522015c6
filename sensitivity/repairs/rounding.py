"""Learned rounding: round each weight up or down so that the layer's output is nearest to float.

The layer's inputs are those that it gets from the quantized layers before it. Each weight may take
either of its two neighbouring levels (`repairs/descent.py`). This takes two forwards on the
calibration inputs and, for each layer, a matrix of inputs by inputs. It costs an engine nothing.
This module learns for torch models, `repairs/onnx_rounding.py` for Q/DQ files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

import numpy as np

from sensitivity import optional
from sensitivity.quantizers.base import QuantizedModel, form_of
from sensitivity.quantizers.rounding import pack
from sensitivity.records import Range, names_of
from sensitivity.repairs import bias
from sensitivity.repairs.bias import Args, Correctable, RecalibratableModel
from sensitivity.repairs.descent import MOST_INPUTS, OUTPUTS, learned_moves
from sensitivity.repairs.samples import Parts, parts_of
from sensitivity.seeds import generator
from sensitivity.tasks.batches import batch_size

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.quantizers.torch.rounded import Roundings

METHOD = "learned rounding"


@runtime_checkable
class Roundable(Correctable, Protocol):
    """A calibrated torch model whose weights can be rounded differently."""

    roundings: Roundings


def is_roundable(source: QuantizedModel) -> TypeGuard[Roundable]:
    """Return whether this is a torch model whose weights can be rounded differently."""
    return isinstance(source, Roundable)


def takes_rounding(source: QuantizedModel) -> TypeGuard[RecalibratableModel]:
    """Return whether weights of this model, of torch or in a file, can be rounded differently."""
    return form_of(source) == "onnx" or is_roundable(source)


@dataclass(frozen=True, eq=False)
class Wanted:
    """Outputs of a layer in the float model.

    means: float64[channels], over all positions.
    places: for each part, the indices of sampled positions of its output, ascending.
    outputs: float32[n, channels], the outputs at these positions of all parts.
    """

    means: Tensor
    places: Sequence[Tensor]
    outputs: Tensor


def learned_roundings(
    source: RecalibratableModel,
    inputs: Any,
    *,
    ranges: Iterable[Range] = (),
    left_out: Collection[str] = (),
) -> tuple[Range, ...]:
    """Learn a rounding and a bias correction for each weighted layer, returned with the weight's
    range.

    Layers are taken in the order in which the model calls them, each behind the rounded and
    corrected layers before it. A layer that is called several times in one forward is left
    unchanged. A layer whose rounding cannot be learned gets only a bias correction: transposed
    convolutions, convolutions over images with a padding other than zeros, layers with more than
    `MOST_INPUTS` inputs, and in a file also weights of which only the levels are known.

    source: a model for which `takes_rounding` holds.
    inputs: one batch as the model takes it, or `Parts`, which are seen as one.
    ranges: ranges that replace those of quantizers.
    left_out: quantizers that stay disabled; their layers are left unchanged.
    """
    kept = [replace(changed, bias=None, rounding=None) for changed in ranges]
    methods = {
        changed.quantizer: changed.method.removesuffix(f", {bias.METHOD}") for changed in kept
    }
    learn = _learned_in_module
    if form_of(source) == "onnx":
        from sensitivity.repairs.onnx_rounding import learned_in_file  # imports ONNX

        learn = learned_in_file
    learned = learn(source, parts_of(inputs), kept, left_out)
    return tuple(
        replace(new, method=_method(methods.get(new.quantizer), new)) for new in learned.values()
    )


def _learned_in_module(
    source: Any, parts: Parts, ranges: Sequence[Range], left_out: Collection[str]
) -> dict[str, Range]:
    """Return weight quantizer -> the new range of a layer of a torch model."""
    layers = sorted(source.biases.layers.keys() - set(left_out))
    names = [name for name in layers if bias.has_range(source, name)]
    with optional.torch.no_grad():
        with source.disabled(names_of(source.quantizers)):
            wanted = _wanted(source, names, parts)
        with source.with_ranges(ranges), source.disabled(left_out):
            return _learned(source, wanted, parts)


def _method(before: str | None, new: Range) -> str:
    parts = [before] if before not in (None, bias.METHOD, METHOD) else []
    parts += [METHOD] if new.rounding is not None else []
    return ", ".join([*(part for part in parts if part), bias.METHOD])


def _wanted(source: Roundable, names: Collection[str], parts: Parts) -> dict[str, Wanted]:
    """Return the float outputs of those layers that are called once."""
    found: dict[str, _Watched] = {}
    sizes = [batch_size(batch) for batch in parts.batches]

    def keep(name: str, output: Tensor) -> None:
        layer = source.biases.layers[name]
        channels_last = output.movedim(output.ndim - 1 - bias.axes_behind(layer), -1)
        shape = channels_last.shape[:-1]
        if name not in found:
            count = shape.numel() * sum(sizes) // sizes[0]
            drawn = np.sort(generator().permutation(count)[:OUTPUTS])
            found[name] = _Watched(bias.ChannelMean(layer), drawn)
        found[name].mean.add(output)
        places = optional.torch.from_numpy(found[name].next_places(shape.numel()))
        found[name].places.append(places.to(output.device))
        at = optional.torch.unravel_index(found[name].places[-1], shape)
        found[name].outputs.append(channels_last[at])

    bias.watch_layers(source, names, parts, keep)
    once = len(parts.batches)
    return {name: watched.all for name, watched in found.items() if len(watched.places) == once}


@dataclass
class _Watched:
    """The float outputs of one layer, as `Wanted` holds them, in a list for each part.

    drawn: sampled positions of the output, counted over all parts, ascending.
    start: the first position of the next part.
    """

    mean: bias.ChannelMean
    drawn: np.ndarray[Any, np.dtype[np.int64]]
    start: int = 0
    places: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def next_places(self, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the sampled positions of the next part, which has `count` positions."""
        start, self.start = self.start, self.start + count
        is_of_part = (self.drawn >= start) & (self.drawn < self.start)
        return self.drawn[is_of_part] - start

    @property
    def all(self) -> Wanted:
        return Wanted(self.mean.value, self.places, optional.torch.cat(self.outputs))


def _learned(source: Roundable, wanted: dict[str, Wanted], parts: Parts) -> dict[str, Range]:
    """Return the new range of each layer, and delete the target of each once it is learned."""
    learned: dict[str, Range] = {}
    with ExitStack() as stack:

        def learn(name: str, inputs: Sequence[Args]) -> Tensor:
            target = wanted.pop(name)
            rounding = _rounding(source, name, inputs, target)
            rounded = replace(source.range(name), rounding=rounding)
            if rounding is not None:
                stack.enter_context(source.with_ranges([rounded]))
            lacking = bias.lacking_mean(source.biases.layers[name], inputs, target.means)
            learned[name] = replace(rounded, bias=tuple(lacking.float().tolist()))
            return lacking

        bias.visit_layers(source, list(wanted), parts, learn)
    return learned


def _rounding(source: Roundable, name: str, inputs: Sequence[Args], target: Wanted) -> str | None:
    """Return the packed rounding of one layer, or None if it cannot be learned or the nearest
    levels are best.

    inputs: of the layer, not quantized yet.
    """
    layer = source.biases.layers[name]
    if name not in source.roundings.layers or not _can_be_learned(layer):
        return None
    place = next(each.layer for each in source.quantizers if each.name == name)
    before = [
        each.name for each in source.quantizers if (each.layer, each.role) == (place, "input")
    ]
    if len(before) > 1:
        return None
    quantize = source.model.get_submodule(before[0]) if before else _as_it_is
    is_by_value = not before or bias.has_range(source, before[0])
    seen = [
        _quantized_at(layer, given, places, quantize, is_by_value)
        for (given, *_), places in zip(inputs, target.places, strict=True)
    ]
    weight, inputs_seen = layer.weight.detach(), optional.torch.cat(seen)
    arrays = [each.float().cpu().numpy() for each in (weight, inputs_seen, target.outputs)]
    moves = learned_moves(arrays[0], source.grid(name), *arrays[1:])
    return pack(moves) if moves.any() else None


def _as_it_is(given: Tensor) -> Tensor:
    return given


def _can_be_learned(layer: Any) -> bool:
    if layer.weight[0].numel() > MOST_INPUTS:
        return False
    if layer.weight.ndim == 2:
        return True
    is_transposed = getattr(layer, "transposed", False)
    is_padded_with_zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return layer.weight.ndim == 4 and is_padded_with_zeros and not is_transposed


def _quantized_at(
    layer: Any,
    given: Tensor,
    places: Tensor,
    quantize: Callable[[Tensor], Tensor],
    is_by_value: bool,
) -> Tensor:
    """Return the quantized inputs of a layer's kernel at these positions of its output, [n, groups,
    inputs].

    is_by_value: whether a value is quantized in the same way whatever other values there are. Few
        values of an image are then quantized.
    """
    if layer.weight.ndim == 2:
        return quantize(given).flatten(0, -2)[places].unsqueeze(1)
    if not is_by_value:
        given, quantize = quantize(given), _as_it_is
    return quantize(_seen_in(layer, given, places)).reshape(len(places), layer.groups, -1)


def _seen_in(layer: Any, given: Tensor, places: Tensor) -> Tensor:
    """Return the inputs of a convolution's kernel at these positions of its output, [n, channels,
    height, width]."""
    torch = optional.torch
    height, width = _places_along(layer, given, 0), _places_along(layer, given, 1)
    tall, wide = layer.padding
    padded = torch.nn.functional.pad(given, (wide, wide, tall, tall))
    sample, rest = places // (height * width), places % (height * width)
    rows = _seen_along(layer, rest // width, 0)
    columns = _seen_along(layer, rest % width, 1)
    seen = padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return seen.movedim(-1, 1)


def _places_along(layer: Any, given: Tensor, axis: int) -> int:
    """Return how many positions a convolution's output has along an axis of the image."""
    kernel = layer.dilation[axis] * (layer.weight.shape[2 + axis] - 1) + 1
    length = given.shape[2 + axis] + 2 * layer.padding[axis]
    return int((length - kernel) // layer.stride[axis] + 1)


def _seen_along(layer: Any, places: Tensor, axis: int) -> Tensor:
    """Return the indices into the padded image that these positions read along an axis, [n,
    kernel]."""
    steps = optional.torch.arange(layer.weight.shape[2 + axis], device=places.device)
    indices: Tensor = places[:, None] * layer.stride[axis] + steps * layer.dilation[axis]
    return indices
