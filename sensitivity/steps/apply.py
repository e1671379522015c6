"""Applies a plan to the user's own quantized model, temporarily or permanently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sensitivity.errors import ModelError, begun
from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import Changeable, QuantizedModel, Recalibratable
from sensitivity.records import Plan, Range, names_of
from sensitivity.run_dir import RunInfo
from sensitivity.steps.recalibrate import format_plan_ranges, plan_ranges
from sensitivity.units.placement import unified_scales


@contextmanager
def applied(model: Any, plan: Plan, info: RunInfo) -> Iterator[Any]:
    """Put the model into the state that the plan was judged in, inside the `with`.

    Units of the plan are left out, and shared and recalibrated ranges are in force. The model is
    restored afterwards, also after an exception.

    model: the model that was scanned, or another one with the same quantizers.
    Raises ModelError, with their names, if quantizers of the run are missing.
    """
    source = _source(model, info)
    with _ranges(source, plan, info), source.disabled(plan.quantizers):
        yield model


def apply_for_good(model: Any, plan: Plan, info: RunInfo) -> None:
    """Put the model into the state in which the plan was judged, permanently.

    Raises ModelError, and changes nothing, for a model whose toolkit does not allow it.
    """
    source = _source(model, info)
    if not isinstance(source, Changeable):
        raise ModelError(
            "Expected a model that can be changed for good, of ModelOpt or pytorch-quantization, "
            f"got one of {source.source}; use `with plan.apply(model)`, or the exported file."
        )
    changed = {name for group in info.scales for name in group}
    changed |= {new_range.quantizer for new_range in plan.ranges}
    with _ranges(source, plan, info):
        ranges: list[Range] = []
        if isinstance(source, Recalibratable):
            ranges = [source.range(name) for name in sorted(changed)]
    # If a quantizer has two ranges, the last one counts.
    source.change(plan.quantizers, [*ranges, *plan.format_ranges])


@contextmanager
def _ranges(source: QuantizedModel, plan: Plan, info: RunInfo) -> Iterator[None]:
    with ExitStack() as stack:
        if info.scales:
            stack.enter_context(unified_scales(source, info.scales))
        stack.enter_context(plan_ranges(plan, source))
        stack.enter_context(format_plan_ranges(plan, source))
        yield


def _source(model: Any, info: RunInfo) -> QuantizedModel:
    source = quantized_model(model)
    known = set(names_of(source.quantizers))
    missing = [quantizer.name for quantizer in info.quantizers if quantizer.name not in known]
    if missing:
        shown = begun(missing)
        raise ModelError(
            f"Expected a model with the {len(info.quantizers)} quantizers of the run enabled, got "
            f"{len(missing)} that are missing or disabled ({shown}); give the model as it was "
            "quantized, before any plan was applied."
        )
    return source
