"""Prepares a model as engines need it before a scan: shared scales and quantized skip connections.

Both change what the quantized model computes. They come before the scan, so that what is measured
is what is exported.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from sensitivity.errors import ModelError
from sensitivity.exporters.simulate import outputs_of
from sensitivity.onnx_graph import groups
from sensitivity.onnx_graph.marks import SumOperand
from sensitivity.quantizers.base import QuantizedModel, Recalibratable
from sensitivity.records import Range, names_of

ADD = "residual_add"
QUANTIZER = "residual_quantizer"


def scale_groups(source: QuantizedModel, example_inputs: Any) -> tuple[tuple[str, ...], ...]:
    """Return the names of the quantizers that should share one scale.

    These are fan-out siblings, and all that meet in a Concat. Raises ExportError if the model
    cannot be traced.
    """
    from sensitivity.exporters.trace import trace

    return tuple(meeting.quantizers for meeting in groups.meetings(trace(source, example_inputs)))


@contextmanager
def unified_scales(
    source: QuantizedModel, names: Iterable[Sequence[str]]
) -> Iterator[tuple[Range, ...]]:
    """Give every group of quantizers the largest amax of its members, inside the `with`.

    names: the quantizers of each group.
    Yields the original ranges of the quantizers that changed; they are restored afterwards. Raises
    ModelError for a model whose ranges cannot be changed, or a quantizer without a per-tensor amax.
    """
    if not isinstance(source, Recalibratable):
        raise ModelError(
            f"Expected a model whose ranges can be changed, got one of {source.source}."
        )
    changed: list[Range] = []
    shared: list[Range] = []
    for group in names:
        ranges = [_per_tensor(source.range(name)) for name in group]
        largest = max(member.amax for member in ranges)
        lower = [member for member in ranges if member.amax != largest]
        changed += lower
        shared += [Range(member.quantizer, "shared", largest) for member in lower]
    with source.with_ranges(shared):
        yield tuple(changed)


def has_one_amax(range_: Range) -> bool:
    """Return whether a range is per tensor, so that it can be shared."""
    return range_.axis is None and len(range_.amax) == 1


def _per_tensor(range_: Range) -> Range:
    if not has_one_amax(range_):
        raise ModelError(
            f"Expected {range_.quantizer} to have one amax to share with its group, got "
            f"{len(range_.amax)}; calibrate it per tensor."
        )
    return range_


def add_residual_quantizers(source: QuantizedModel, batches: Sequence[Any]) -> tuple[str, ...]:
    """Quantize the tensor of each skip connection, which TensorRT needs to fuse the Add in INT8.

    The model is changed for good: the module whose code adds gets a `residual_add` with a copy of
    one of the model's input quantizers, which only the Add reads through. Other readers of the
    tensor have their own quantizers, or read it in float. Make a new `QuantizedModel` afterwards.

    batches: inputs for calibration; amax is the largest absolute value over them.
    Returns the names of the new quantizers.
    """
    from sensitivity.exporters.trace import trace
    from sensitivity.quantizers.torch.sums import QuantizedSums, change_sums

    operands = groups.residual_operands(trace(source, batches[0], sums=True))
    templates = [
        quantizer.name
        for quantizer in source.quantizers
        if quantizer.role == "input" and quantizer.axis is None
    ]
    if not templates or not operands:
        return ()
    largest = _largest_operands(source, operands, batches)
    names = []
    changes: dict[str, QuantizedSums] = defaultdict(QuantizedSums)
    for operand in operands:
        quantizer = copy.deepcopy(source.model.get_submodule(templates[0]))
        quantizer._amax.fill_(largest[operand])
        added = changes[operand.module].add(operand, quantizer)
        owner = source.model.get_submodule(operand.module)
        attribute = f"{ADD}_{operand.sum}" if hasattr(owner, ADD) else ADD
        owner.add_module(attribute, added)
        names.append(f"{operand.module}.{attribute}.{QUANTIZER}".removeprefix("."))
    change_sums(source.model, changes)
    return tuple(names)


@contextmanager
def residual_quantizers(
    source: QuantizedModel, batches: Sequence[Any]
) -> Iterator[tuple[str, ...]]:
    """Apply `add_residual_quantizers` inside the `with`, and undo it afterwards.

    Raises ModelError for a model that takes no new quantizers.
    """
    if not hasattr(source.model, "named_modules") or not isinstance(source, Recalibratable):
        raise ModelError(
            "Expected a model that takes new quantizers for --quantize-residuals, got one of "
            f"{source.source}; quantize the skip connections where it was made."
        )
    from sensitivity.quantizers.torch.sums import restore_sums

    names = add_residual_quantizers(source, batches)
    try:
        yield names
    finally:
        restore_sums(source.model)
        for name in names:
            owner, _, add = name.removesuffix(f".{QUANTIZER}").rpartition(".")
            delattr(source.model.get_submodule(owner), add)


def _largest_operands(
    source: QuantizedModel, operands: Sequence[SumOperand], batches: Sequence[Any]
) -> dict[SumOperand, float]:
    from sensitivity.quantizers.torch.sums import changed_sums

    largest = dict.fromkeys(operands, 0.0)

    def keep(module: str, position: int, *values: Any) -> Any:
        for operand in operands:
            if (operand.module, operand.sum) == (module, position):
                value = float(values[operand.index].abs().max())
                largest[operand] = max(largest[operand], value)
        return values

    changes = {operand.module: partial(keep, operand.module) for operand in operands}
    with changed_sums(source.model, changes):
        for inputs in batches:
            # In float, as ranges are calibrated.
            outputs_of(source, inputs, names_of(source.quantizers))
    return largest
