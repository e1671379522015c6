"""Makes Q/DQ pairs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def new_dequantize(
    levels: ir.Value,
    parameters: Sequence[ir.Value | None],
    axis: int | None,
    name: str | None,
) -> ir.Node:
    """Return a DQ of these levels, not yet in any graph.

    parameters: scale and zero point.
    axis: None for a scale per tensor.
    """
    attributes = {} if axis is None else {"axis": axis}
    return ir.node("DequantizeLinear", [levels, *parameters], attributes, name=name)


def new_pair(
    value: ir.Value,
    parameters: Sequence[ir.Value | None],
    axis: int | None,
    names: tuple[str | None, str | None],
    block: int | None = None,
) -> tuple[ir.Node, ir.Node]:
    """Return a Q of this value and the DQ after it, not yet in any graph.

    parameters: scale and zero point.
    axis: None for a scale per tensor.
    names: names of the two nodes.
    block: number of values along the axis that share one scale; None for a scale per channel.
    """
    attributes = {} if axis is None else {"axis": axis}
    attributes |= {} if block is None else {"block_size": block}
    quantize = ir.node("QuantizeLinear", [value, *parameters], attributes, name=names[0])
    integers = quantize.outputs[0]
    dequantize = ir.node("DequantizeLinear", [integers, *parameters], attributes, name=names[1])
    return quantize, dequantize
