"""Learned rounding: weights go up or down so that what a layer gives is nearest to float, for what
it gets from the quantized layers before it.

Each value may go to either of the two levels around it. The mean squared error of an output channel
is a quadratic form of its weights (Nagel et al. 2020, "Up or down? Adaptive rounding for
post-training quantization", section 3), and one value after the other takes the better level while
the others stay (coordinate descent, as in Zhang et al. 2024, "COMQ"): no gradients, no learning
rate. Costs two forwards on the calibration inputs, a matrix of inputs by inputs for each layer, and
nothing in an engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

import numpy as np

from sensitivity import optional
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.quantizers.rounding import packed
from sensitivity.quantizers.torch.rounded import levels_of
from sensitivity.records import Grid, Range, names_of
from sensitivity.repairs import bias
from sensitivity.repairs.bias import Correctable
from sensitivity.seeds import generator

if TYPE_CHECKING:
    from torch import Tensor

    from sensitivity.quantizers.torch.rounded import Roundings

METHOD = "learned rounding"

OUTPUTS = 8192
"""Places of a layer's output, over all samples, that its rounding is learned on. With 20,000 of
MobileNetV1's 200 images the outputs came no nearer to float."""

MOST_INPUTS = 2304
"""Of one output: those of 3x3 kernels over 256 channels. The matrix has so many rows and columns;
layers with more keep their rounding."""

RIDGE = 1e-3
"""What moving off the float weights costs, over the mean square of an input; for as few outputs as
inputs it is as much as an input itself."""

SWEEPS = 2

SAMPLES = 16
"""Images that are quantized at a time, for what is seen of them."""


@runtime_checkable
class Roundable(Correctable, Protocol):
    """A calibrated model of torch whose weights can be rounded otherwise."""

    roundings: Roundings


def is_roundable(source: QuantizedModel) -> TypeGuard[Roundable]:
    """Whether weights of this model can be rounded otherwise."""
    return isinstance(source, Roundable)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a layer gives in float. means: float64[channels], over all. places: int64[n], numbers of
    some places of its output. outputs: float32[n, channels], there."""

    means: Tensor
    places: Tensor
    outputs: Tensor


def learned_roundings(
    source: Roundable,
    inputs: Any,
    *,
    ranges: Iterable[Range] = (),
    left_out: Collection[str] = (),
) -> tuple[Range, ...]:
    """For each weighted layer the range that its weight has, with its rounding, and with what its
    bias lacks then.

    source: `is_roundable`. inputs: one batch with all samples, as the model takes it. ranges: that
    quantizers have meanwhile. left_out: quantizers that stay off; their layers get nothing. Layers
    are taken in the order in which the model calls them, each behind those before it as they are
    rounded and corrected. A layer that one forward calls several times stays as it is; one whose
    rounding cannot be learned (transposed convolutions, kernels over images that are padded with
    other values than 0, more than `MOST_INPUTS`) gets its bias alone.
    """
    kept = {one.quantizer: replace(one, bias=None, rounding=None) for one in ranges}
    methods = {name: one.method.removesuffix(f", {bias.METHOD}") for name, one in kept.items()}
    layers = sorted(source.biases.layers.keys() - set(left_out))
    names = [name for name in layers if bias.has_range(source, name)]
    with optional.torch.no_grad():
        with source.disabled(names_of(source.quantizers)):
            wanted = _wanted(source, names, inputs)
        with source.with_ranges(kept.values()), source.disabled(left_out):
            found = _learned(source, wanted, inputs)
    return tuple(
        replace(one, method=_method(methods.get(one.quantizer), one)) for one in found.values()
    )


def _method(before: str | None, one: Range) -> str:
    parts = [before] if before not in (None, bias.METHOD, METHOD) else []
    parts += [METHOD] if one.rounding is not None else []
    return ", ".join([*(part for part in parts if part), bias.METHOD])


def _wanted(source: Roundable, names: Collection[str], inputs: Any) -> dict[str, Wanted]:
    """Of those layers that are called once."""
    found: dict[str, Wanted] = {}
    calls: Counter[str] = Counter()

    def keep(name: str, args: Any, output: Tensor) -> None:
        calls[name] += 1
        layer = source.biases.layers[name]
        turned = output.movedim(output.ndim - 1 - bias.axes_behind(layer), -1)
        count = turned[..., 0].numel()
        drawn = generator().permutation(count)[:OUTPUTS]
        places = optional.torch.from_numpy(np.sort(drawn)).to(output.device)
        outputs = turned[optional.torch.unravel_index(places, turned.shape[:-1])]
        found[name] = Wanted(bias.channel_means(layer, output), places, outputs)

    with bias.changing_outputs(source, names, keep):
        bias.forward(source, inputs)
    return {name: one for name, one in found.items() if calls[name] == 1}


def _learned(source: Roundable, wanted: Mapping[str, Wanted], inputs: Any) -> dict[str, Range]:
    found: dict[str, Range] = {}
    with ExitStack() as stack:

        def learn(name: str, args: Any, output: Tensor) -> Tensor:
            layer, target = source.biases.layers[name], wanted[name]
            rounding = _rounding(source, name, args[0], target)
            one = replace(source.range(name), rounding=rounding)
            if rounding is not None:
                stack.enter_context(source.with_ranges([one]))
                output = layer.forward(*args)
            lacking = (target.means - bias.channel_means(layer, output)).to(output.dtype)
            found[name] = replace(one, bias=tuple(lacking.float().tolist()))
            return output + lacking.reshape(-1, *[1] * bias.axes_behind(layer))

        with bias.changing_outputs(source, wanted, learn):
            bias.forward(source, inputs)
    return found


def _rounding(source: Roundable, name: str, given: Tensor, target: Wanted) -> str | None:
    """Of one layer, packed; None where it cannot be learned, or none is better than the nearest.
    given: what the layer gets, not quantized yet."""
    layer = source.biases.layers[name]
    if name not in source.roundings.layers or not _can_be_learned(layer):
        return None
    place = next(one.layer for one in source.quantizers if one.name == name)
    before = [one.name for one in source.quantizers if (one.layer, one.role) == (place, "input")]
    if len(before) > 1:
        return None
    quantize = source.model.get_submodule(before[0]) if before else _as_it_is
    seen = _inputs_at(layer, given, target.places, quantize)
    moves = learned_moves(layer.weight.detach(), source.grid(name), seen, target.outputs)
    return packed(moves) if moves.any() else None


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


def _inputs_at(
    layer: Any, given: Tensor, places: Tensor, quantize: Callable[[Tensor], Tensor]
) -> Tensor:
    """What the kernel of a layer sees at these places of its output: [n, groups, inputs]."""
    if layer.weight.ndim == 2:
        return quantize(given).flatten(0, -2)[places].unsqueeze(1)
    found = []
    for start in range(0, len(given), SAMPLES):
        part = quantize(given[start : start + SAMPLES])
        count = _places_along(layer, part, 0) * _places_along(layer, part, 1)
        is_of_part = (places >= start * count) & (places < (start + len(part)) * count)
        found.append(_seen_in(layer, part, places[is_of_part] - start * count))
    return optional.torch.cat(found)


def _seen_in(layer: Any, given: Tensor, places: Tensor) -> Tensor:
    """The same of images that are quantized."""
    torch = optional.torch
    height, width = _places_along(layer, given, 0), _places_along(layer, given, 1)
    tall, wide = layer.padding
    padded = torch.nn.functional.pad(given, (wide, wide, tall, tall))
    sample, rest = places // (height * width), places % (height * width)
    rows = _seen_along(layer, rest // width, 0)
    columns = _seen_along(layer, rest % width, 1)
    seen = padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return seen.movedim(-1, 1).reshape(len(places), layer.groups, -1)


def _places_along(layer: Any, given: Tensor, axis: int) -> int:
    """How many places a convolution's output has along an axis of the image."""
    kernel = layer.dilation[axis] * (layer.weight.shape[2 + axis] - 1) + 1
    length = given.shape[2 + axis] + 2 * layer.padding[axis]
    return int((length - kernel) // layer.stride[axis] + 1)


def _seen_along(layer: Any, places: Tensor, axis: int) -> Tensor:
    """[n, kernel]: indices into the padded image of what is seen from these places."""
    steps = optional.torch.arange(layer.weight.shape[2 + axis], device=places.device)
    found: Tensor = places[:, None] * layer.stride[axis] + steps * layer.dilation[axis]
    return found


def learned_moves(
    weight: Tensor, grid: Grid, seen: Tensor, outputs: Tensor
) -> np.ndarray[Any, np.dtype[np.int8]]:
    """By how many levels each value of a weight is moved off the nearest one: -1, 0 or 1.

    seen: [n, groups, inputs], what the kernel sees. outputs: [n, channels], what the layer gives
    there in float. The bias takes what both are on average.
    """
    torch = optional.torch
    groups, inputs = seen.shape[1:]
    channels = weight.shape[0] // groups
    steps, scale = levels_of(weight, grid)
    scale = scale.expand(weight.shape[0], *[1] * (weight.ndim - 1)).reshape(groups, channels, 1)
    steps = steps.reshape(groups, channels, inputs).double()
    centred = (seen - seen.mean(0)).movedim(1, 0).double()
    wanted = (outputs - outputs.mean(0)).reshape(-1, groups, channels).double()
    square = centred.mT @ centred / len(seen)
    mixed = wanted.permute(1, 2, 0) @ centred / len(seen)
    ridge = (RIDGE + inputs / len(seen)) * square.diagonal(dim1=1, dim2=2).mean(1)
    ridge = ridge.clamp(min=1e-30).reshape(-1, 1, 1)
    square = square + ridge * torch.eye(inputs, dtype=square.dtype, device=square.device)
    mixed = mixed / scale.double() + ridge * steps
    nearest = steps.round().clamp(grid.low, grid.high)
    other = (nearest + (steps - nearest).sign()).clamp(grid.low, grid.high)
    chosen = _descended(square, mixed, nearest, other)
    moves = (chosen - nearest).reshape(weight.shape).to(torch.int8)
    return np.asarray(moves.cpu().numpy())


def _descended(square: Tensor, mixed: Tensor, nearest: Tensor, other: Tensor) -> Tensor:
    """Levels [groups, channels, inputs], each the nearest or the other one, with a small w S w - 2
    w M, one after the other for all channels."""
    low, high = optional.torch.minimum(nearest, other), optional.torch.maximum(nearest, other)
    chosen = nearest.clone()
    left = mixed - chosen @ square
    for _ in range(SWEEPS):
        for at in range(chosen.shape[-1]):
            best = chosen[:, :, at] + left[:, :, at] / square[:, at, at].unsqueeze(1)
            level = best.round().clamp(low[:, :, at], high[:, :, at])
            move = level - chosen[:, :, at]
            left -= move.unsqueeze(2) * square[:, at].unsqueeze(1)
            chosen[:, :, at] = level
    return chosen
