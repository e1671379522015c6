"""Images with their channels last, where a kernel is faster on them and gives the same bits.

On a CPU depthwise convolutions, pooling and upsampling take two to twelve times as long where each
channel lies by itself. Whether a kernel sums in the same order either way depends on its shapes: it
is tried at each node, on the values of a whole forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from sensitivity.quantizers.torch.native import GridQuantizer
from sensitivity.simulators.compare import same

Run = Callable[..., Any]

FASTER = {
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.max_pool2d.default,
    torch.ops.aten.upsample_nearest2d.vec,
}
"""Ops that images are turned for. All others take them as they come."""


def is_faster(node: fx.Node) -> bool:
    """Whether an op is worth turning its image for. Pointwise convolutions are not: what they gain
    goes into the turning."""
    if node.target not in FASTER:
        return False
    values = [dep.meta.get("val") for dep in node.all_input_nodes[1:2]]
    return not any(isinstance(value, Tensor) and value.shape[2:] == (1, 1) for value in values)


def has_channels_last(value: Any) -> bool:
    """Whether it is a batch of images in memory by place, then channel, and not the other way
    round too."""
    return (
        isinstance(value, Tensor)
        and value.ndim == 4
        and not value.is_contiguous()
        and value.is_contiguous(memory_format=torch.channels_last)
    )


def with_channels_last(value: Any) -> Any:
    """A batch of images on the CPU in float32 with its channels last; anything else as it is."""
    is_image = isinstance(value, Tensor) and value.ndim == 4 and value.dtype == torch.float32
    if not is_image or value.device.type != "cpu":
        return value
    return value.contiguous(memory_format=torch.channels_last)


def laid_out(run: Run, plain: Sequence[Any], given: Sequence[Any], *, turns: bool) -> Run:
    """How to run a node so that it gives the bits that it gives for `plain`.

    plain: the values that it reads as the model itself would have them. given: the same values as
    they come here. turns: try its image with channels last.
    """
    ways = [_turning(run)] if turns else []
    ways += [run] if any(map(has_channels_last, given)) else []
    if not ways:
        return run
    expected = run(*plain)
    for way in ways:
        if _gives(way, given, expected):
            return way
    return _like(run, plain)


def keeping_layout(quantizer: Run, overwrite: Run | None) -> tuple[Run, Run | None]:
    """A quantizer, and its form that overwrites, that give images with channels last where they get
    them, as while it is disabled."""
    if isinstance(quantizer, GridQuantizer):
        return quantizer.in_layout, quantizer.overwrite_in_layout

    def kept(x: Tensor) -> Any:
        turned = has_channels_last(x)
        return with_channels_last(quantizer(x.contiguous())) if turned else quantizer(x)

    return kept, overwrite and kept


def _gives(run: Run, values: Sequence[Any], expected: Any) -> bool:
    try:
        return same(expected, run(*values))
    except RuntimeError:  # a view that takes the other order in memory only
        return False


def _turning(run: Run) -> Run:
    def turned(image: Any, *others: Any) -> Any:
        return run(with_channels_last(image), *others)

    return turned


def _like(run: Run, plain: Sequence[Any]) -> Run:
    """Run with images laid out as these are."""
    kept = [has_channels_last(value) for value in plain]

    def as_plain(*values: Any) -> Any:
        pairs = zip(values, kept, strict=True)
        return run(
            *[
                value.contiguous() if has_channels_last(value) and not keep else value
                for value, keep in pairs
            ]
        )

    return as_plain
