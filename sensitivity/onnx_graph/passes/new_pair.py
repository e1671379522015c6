"""Make a Q/DQ pair."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def new_pair(
    value: ir.Value,
    parameters: Sequence[ir.Value | None],
    axis: int | None,
    names: tuple[str | None, str | None],
    block: int | None = None,
) -> tuple[ir.Node, ir.Node]:
    """Return a Q of this value and the DQ behind it, in no graph yet.

    parameters: scale and zero point. axis: None for a scale per tensor. names: of the two nodes.
    block: how many values along the axis have one scale; None where one is for a channel.
    """
    attributes = {} if axis is None else {"axis": axis}
    attributes |= {} if block is None else {"block_size": block}
    quantize = ir.node("QuantizeLinear", [value, *parameters], attributes, name=names[0])
    integers = quantize.outputs[0]
    dequantize = ir.node("DequantizeLinear", [integers, *parameters], attributes, name=names[1])
    return quantize, dequantize
