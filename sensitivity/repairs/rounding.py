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
from sensitivity.repairs.windows import Indices, Window
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
    """Return whether weights of this model, of torch or in a file, can be rounded differently.

    Those of a file of which only the integers are known get bias corrections alone.
    """
    if form_of(source) == "onnx":
        from sensitivity.quantizers.onnx.qdq import OnnxQdqModel  # imports ONNX

        return isinstance(source, OnnxQdqModel) and source.takes_rounding()
    return is_roundable(source)


@dataclass(frozen=True, eq=False)
class Target:
    """Outputs of a layer in the float model, which the quantized layer should reproduce.

    means: float64[channels], over all positions.
    positions: for each part, sampled positions of its output, ascending.
    outputs: float32[n, channels], the outputs at these positions of all parts.
    sides: sides of the output, without its samples and channels.
    """

    means: Tensor
    positions: Sequence[Indices]
    outputs: Tensor
    sides: tuple[int, ...]


def learned_roundings(
    source: RecalibratableModel,
    inputs: Any,
    *,
    ranges: Iterable[Range] = (),
    left_out: Collection[str] = (),
) -> tuple[Range, ...]:
    """Learn a rounding and a bias correction for each weighted layer, returned with the weight's
    range.

    Layers are taken in the order in which the model calls them, each after the rounded and
    corrected layers before it. A layer that is called several times in one forward is left
    unchanged. A layer whose rounding cannot be learned gets only a bias correction: transposed
    convolutions, convolutions over images with a padding other than zeros, layers with more than
    `MOST_INPUTS` inputs, and in a file also weights of which only the levels are known. A layer
    with its weight in FP8 gets nothing.

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
    in_fp8 = {changed.quantizer for changed in ranges if changed.fp8}
    layers = sorted(source.biases.layers.keys() - set(left_out) - in_fp8)
    names = [name for name in layers if bias.has_range(source, name)]
    with optional.torch.no_grad():
        with source.disabled(names_of(source.quantizers)):
            targets = _targets(source, names, parts)
        with source.with_ranges(ranges), source.disabled(left_out):
            return _learned(source, targets, parts)


def _method(before: str | None, new: Range) -> str:
    parts = [before] if before not in (None, bias.METHOD, METHOD) else []
    parts += [METHOD] if new.rounding is not None else []
    return ", ".join([*(part for part in parts if part), bias.METHOD])


def _targets(source: Roundable, names: Collection[str], parts: Parts) -> dict[str, Target]:
    """Return the targets of those layers that are called once."""
    sampled: dict[str, _Sampled] = {}
    sizes = [batch_size(batch) for batch in parts.batches]

    def keep(name: str, output: Tensor) -> None:
        layer = source.biases.layers[name]
        channels_last = output.movedim(output.ndim - 1 - bias.image_axes(layer), -1)
        shape = channels_last.shape[:-1]
        if name not in sampled:
            count = shape.numel() * sum(sizes) // sizes[0]
            drawn = np.sort(generator().permutation(count)[:OUTPUTS])
            sampled[name] = _Sampled(bias.ChannelMean(layer), drawn, tuple(shape[1:]))
        sampled[name].mean.add(output)
        positions = sampled[name].next_positions(shape.numel())
        at = optional.torch.unravel_index(_on_device(positions, output), shape)
        sampled[name].positions.append(positions)
        sampled[name].outputs.append(channels_last[at])

    bias.watch_layers(source, names, parts, keep)
    once = len(parts.batches)
    return {name: layer.target for name, layer in sampled.items() if len(layer.positions) == once}


@dataclass
class _Sampled:
    """The target of one layer while its parts are collected.

    drawn: sampled positions of the output, counted over all parts, ascending.
    sides: as for `Target`.
    start: the first position of the next part.
    positions, outputs: as for `Target`, for the parts so far.
    """

    mean: bias.ChannelMean
    drawn: Indices
    sides: tuple[int, ...]
    start: int = 0
    positions: list[Indices] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def next_positions(self, count: int) -> Indices:
        """Return the sampled positions of the next part, which has `count` positions."""
        start, self.start = self.start, self.start + count
        is_of_part = (self.drawn >= start) & (self.drawn < self.start)
        return self.drawn[is_of_part] - start

    @property
    def target(self) -> Target:
        """The target of all parts so far."""
        outputs = optional.torch.cat(self.outputs)
        return Target(self.mean.value, self.positions, outputs, self.sides)


def _learned(source: Roundable, targets: dict[str, Target], parts: Parts) -> dict[str, Range]:
    """Return the new range of each layer, and delete the target of each once it is learned."""
    learned: dict[str, Range] = {}
    with ExitStack() as stack:

        def learn(name: str, inputs: Sequence[Args]) -> Tensor:
            target = targets.pop(name)
            rounding = _rounding(source, name, inputs, target)
            rounded = replace(source.range(name), rounding=rounding)
            if rounding is not None:
                stack.enter_context(source.with_ranges([rounded]))
            error = bias.mean_error(source.biases.layers[name], inputs, target.means)
            learned[name] = replace(rounded, bias=tuple(error.float().tolist()))
            return error

        bias.visit_layers(source, list(targets), parts, learn)
    return learned


def _rounding(source: Roundable, name: str, inputs: Sequence[Args], target: Target) -> str | None:
    """Return the packed rounding of one layer, or None if it cannot be learned or the nearest
    levels are best.

    inputs: of the layer, not quantized yet.
    """
    layer, before = source.biases.layers[name], _input_quantizers(source, name)
    if name not in source.roundings.layers or len(before) > 1 or not _can_be_learned(layer):
        return None
    quantize = source.model.get_submodule(before[0]) if before else _unchanged
    is_by_value = not before or bias.has_range(source, before[0])
    reader = _Reader(layer, quantize, is_by_value)
    parts = zip(inputs, target.positions, strict=True)
    by_part = [reader.inputs_of(positions, given, target.sides) for (given, *_), positions in parts]
    tensors = (layer.weight.detach(), optional.torch.cat(by_part), target.outputs)
    weight, inputs_of_kernel, outputs = (each.float().cpu().numpy() for each in tensors)
    moves = learned_moves(weight, source.grid(name), inputs_of_kernel, outputs)
    return pack(moves) if moves.any() else None


def _input_quantizers(source: Roundable, name: str) -> list[str]:
    """Return the quantizers of the inputs of the layer with this weight quantizer."""
    held = set(source.biases.layers[name].modules())
    inputs = [each.name for each in source.quantizers if each.role == "input"]
    return [name for name in inputs if source.model.get_submodule(name) in held]


def _unchanged(values: Tensor) -> Tensor:
    return values


def _can_be_learned(layer: Any) -> bool:
    if layer.weight[0].numel() > MOST_INPUTS:
        return False
    if layer.weight.ndim == 2:
        return True
    is_transposed = getattr(layer, "transposed", False)
    return layer.weight.ndim == 4 and layer.padding_mode == "zeros" and not is_transposed


@dataclass(frozen=True)
class _Reader:
    """Reads the quantized inputs of a layer.

    quantize: the quantizer of the layer's input.
    is_by_value: whether it quantizes a value in the same way whatever the other values are. Only
        the sampled values of an image are then quantized.
    """

    layer: Any
    quantize: Callable[[Tensor], Tensor]
    is_by_value: bool

    def inputs_of(self, positions: Indices, inputs: Tensor, sides: tuple[int, ...]) -> Tensor:
        """Return the quantized inputs that these positions of the output depend on, [n, groups,
        inputs].

        positions, sides: as for `Target`.
        inputs: the input of the layer, not quantized yet.
        """
        if self.is_by_value and self.layer.weight.ndim == 4:
            patches = self.quantize(_patches(self.layer, inputs, positions, sides))
        else:
            patches = _patches(self.layer, self.quantize(inputs), positions, sides)
        return patches.reshape(len(positions), getattr(self.layer, "groups", 1), -1)


def _patches(layer: Any, given: Tensor, positions: Indices, sides: tuple[int, ...]) -> Tensor:
    """Return the inputs that these positions of a layer's output depend on: [n, inputs], or [n,
    channels, height, width] of the kernel of a convolution.

    sides: height and width of the output of a convolution.
    """
    if layer.weight.ndim == 2:
        rows: Tensor = given.flatten(0, -2)[_on_device(positions, given)]
        return rows
    padded = optional.torch.nn.functional.pad(given, _padding(layer))
    window = Window(layer.weight.shape[2:], layer.stride, layer.dilation)
    indices = window.indices(positions, sides)
    sample, rows, columns = (_on_device(each, given) for each in indices)
    return padded[sample, :, rows, columns].movedim(-1, 1)


def _padding(layer: Any) -> tuple[int, int, int, int]:
    """Return the zeros that a convolution adds on the left, on the right, at the top and at the
    bottom."""
    if not isinstance(layer.padding, str):
        tall, wide = layer.padding
        return wide, wide, tall, tall
    sides = zip(layer.weight.shape[2:], layer.dilation, strict=True)
    tall, wide = [step * (side - 1) if layer.padding == "same" else 0 for side, step in sides]
    return wide // 2, wide - wide // 2, tall // 2, tall - tall // 2


def _on_device(indices: Indices, like: Tensor) -> Tensor:
    """Return indices as a tensor on the device of another one."""
    return optional.torch.from_numpy(indices).to(like.device)
