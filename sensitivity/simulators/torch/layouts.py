"""Chooses layouts: images have their channels last if a kernel is faster on them and gives the same
bits.

On a CPU, depthwise convolutions, pooling and upsampling take two to twelve times as long if each
channel lies by itself in memory. Whether a kernel sums in the same order in both layouts depends on
its shapes, so it is tried at each node, on the values of a whole forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress, count
from typing import Any

import torch
from torch import Tensor, fx

from sensitivity.quantizers.torch.native import GridQuantizer
from sensitivity.simulators.compare import same

Run = Callable[..., Any]

EXACT = {
    torch.ops.aten.abs,
    torch.ops.aten.add,
    torch.ops.aten.clamp,
    torch.ops.aten.clamp_max,
    torch.ops.aten.clamp_min,
    torch.ops.aten.div,
    torch.ops.aten.hardtanh,
    torch.ops.aten.hardtanh_,
    torch.ops.aten.leaky_relu,
    torch.ops.aten.leaky_relu_,
    torch.ops.aten.maximum,
    torch.ops.aten.minimum,
    torch.ops.aten.mul,
    torch.ops.aten.neg,
    torch.ops.aten.relu,
    torch.ops.aten.relu_,
    torch.ops.aten.sub,
    torch.ops.aten.where,
}
"""Pointwise ops with at most one arithmetic operation, which IEEE 754 rounds. The bits of a value
depend on its operands only."""

VECTOR = 64
"""A number of elements that is a multiple of what a pointwise kernel of torch takes at once on any
processor. Elements left over at the end take another path, in which the last bit, of a sigmoid for
example, may differ."""

CHUNK = 32768
"""The fewest elements that torch gives to a thread in a pointwise op: at::internal::GRAIN_SIZE."""

FASTER = {
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.max_pool2d.default,
    torch.ops.aten.upsample_nearest2d.vec,
}
"""Ops for which images are converted to channels last. All other ops take images as they come."""


def prefers_channels_last(node: fx.Node) -> bool:
    """Return whether an op gains from converting its image to channels last. Pointwise convolutions
    do not, since the conversion costs what they gain."""
    if node.target not in FASTER:
        return False
    read = node.all_input_nodes
    weight = read[1].meta.get("val") if len(read) > 1 else None
    is_pointwise = isinstance(weight, Tensor) and weight.shape[2:] == (1, 1)
    return not is_pointwise


def depends_on_position(node: fx.Node) -> bool:
    """Return whether the bits of an element may depend on its place in memory."""
    target: Any = node.target
    if torch.Tag.pointwise not in getattr(target, "tags", ()):
        return False
    return target.overloadpacket not in EXACT or bool(node.kwargs)


def fills_vectors(value: Any) -> bool:
    """Return whether a pointwise op on a value has no elements left over at the end of any thread's
    part."""
    if not isinstance(value, Tensor):
        return True
    threads = min(torch.get_num_threads(), -(-value.numel() // CHUNK))
    return value.numel() % (VECTOR * max(threads, 1)) == 0


def has_channels_last(value: Any) -> bool:
    """Return whether a value is a batch of images with channels last that is not contiguous as
    well."""
    if not isinstance(value, Tensor) or value.ndim != 4:
        return False
    is_plain = value.is_contiguous()
    return not is_plain and value.is_contiguous(memory_format=torch.channels_last)


def with_channels_last(value: Any) -> Any:
    """Return a batch of images on the CPU in float32 with its channels last, and any other value
    unchanged."""
    if not isinstance(value, Tensor):
        return value
    if (value.ndim, value.dtype, value.device.type) != (4, torch.float32, "cpu"):
        return value
    return value.contiguous(memory_format=torch.channels_last)


def in_best_layout(
    run: Run,
    plain: Sequence[Any],
    given: Sequence[Any],
    *,
    try_channels_last: bool = False,
    by_position: bool = False,
) -> Run:
    """Return the fastest way to run a node that gives the same bits as for `plain`.

    plain: the values that the node reads, in the layouts of the model itself.
    given: the same values in the layouts in which they come here.
    try_channels_last: whether to try its image with channels last.
    by_position: whether `depends_on_position` holds for the node. A trial is then no proof, since
        few elements are concerned, and most of them are the same in both layouts.
    """
    differs = list(map(_differ, plain, given))
    as_plain = _contiguous_where(differs, run)
    as_given = _where_vectors_are_filled(run, as_plain) if by_position else run
    ways: list[Run] = []
    if try_channels_last:
        ways.append(_on_channels_last(run))
    if any(differs):
        ways.append(as_given)
    if not ways:
        return run
    expected = run(*plain)
    for way in ways:
        if _gives(way, given, expected):
            return way
    return as_plain


def keeping_layout(quantizer: Run, overwrite: Run | None) -> tuple[Run, Run | None]:
    """Return a quantizer and its form that overwrites, changed to keep channels last, as a disabled
    quantizer does."""
    if isinstance(quantizer, GridQuantizer):
        return quantizer.in_layout, quantizer.overwrite_in_layout

    def kept(x: Tensor) -> Any:
        if has_channels_last(x):
            return with_channels_last(quantizer(x.contiguous()))
        return quantizer(x)

    return kept, overwrite and kept


def _gives(run: Run, values: Sequence[Any], expected: Any) -> bool:
    try:
        return same(expected, run(*values))
    except RuntimeError:  # The node is a view that works in the other layout only.
        return False


def _where_vectors_are_filled(run: Run, plain: Run) -> Run:
    def filling(*values: Any) -> Any:
        chosen = run if all(map(fills_vectors, values)) else plain
        return chosen(*values)

    return filling


def _on_channels_last(run: Run) -> Run:
    def converted(image: Any, *others: Any) -> Any:
        return run(with_channels_last(image), *others)

    return converted


def _differ(plain: Any, given: Any) -> bool:
    """Return whether a value comes in another layout than in the model itself, if it does not have
    channels last there."""
    if not isinstance(plain, Tensor) or has_channels_last(plain):
        return False
    return bool(plain.stride() != given.stride())


def _contiguous_where(differs: Sequence[bool], run: Run) -> Run:
    others = list(compress(count(), differs))

    def as_plain(*values: Any) -> Any:
        given = list(values)
        for index in others:
            given[index] = given[index].contiguous()
        return run(*given)

    return as_plain
