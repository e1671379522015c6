"""What engines want before a model is scanned: shared scales, quantized skip connections.

Both change what the quantized model computes, so they come before the scan: what is measured is
what is exported.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sensitivity.errors import ModelError
from sensitivity.onnx_graph import groups
from sensitivity.onnx_graph.marks import ModuleOutput, is_mark
from sensitivity.quantizers.base import QuantizedModel, Recalibratable
from sensitivity.records import Range

RESIDUAL = "residual_quantizer"


def scale_groups(source: QuantizedModel, example_inputs: Any) -> tuple[tuple[str, ...], ...]:
    """Names of the quantizers that should share one scale: fan-out siblings, and all that meet in a
    Concat.

    Raises ExportError where the model cannot be traced.
    """
    from sensitivity.export.trace import trace

    return tuple(meeting.quantizers for meeting in groups.meetings(trace(source, example_inputs)))


@contextmanager
def unified_scales(
    source: QuantizedModel, names: Iterable[Sequence[str]]
) -> Iterator[tuple[Range, ...]]:
    """Inside the `with`, every group of quantizers has the largest amax of its members; before and
    after it, their own.

    Yields the own ranges of the quantizers that changed. Raises ModelError for a model whose ranges
    cannot be changed, or a quantizer without a per-tensor amax.
    """
    if not isinstance(source, Recalibratable):
        raise ModelError(
            f"Expected a model whose ranges can be changed, got one of {source.source}."
        )
    own = [[_per_tensor(source.range(name)) for name in group] for group in names]
    changed: list[Range] = []
    shared: list[Range] = []
    for group in own:
        largest = max(one.amax[0] for one in group)
        lower = [one for one in group if one.amax[0] != largest]
        changed += lower
        shared += [Range(one.quantizer, "shared", (largest,)) for one in lower]
    with source.with_ranges(shared):
        yield tuple(changed)


def _per_tensor(one: Range) -> Range:
    if one.axis is not None or len(one.amax) != 1:
        raise ModelError(
            f"Expected {one.quantizer} to have one amax to share with its group, got "
            f"{len(one.amax)}; calibrate it per tensor."
        )
    return one


def add_residual_quantizers(source: QuantizedModel, batches: Sequence[Any]) -> tuple[str, ...]:
    """Quantize what comes over each skip connection, as TensorRT needs to fuse the Add in INT8.

    The model is changed for good: the module whose output the skip connection carries gets a
    `residual_quantizer`, a copy of one of the model's input quantizers, that its output passes.
    amax is the largest absolute value over `batches` (inputs, for calibration). Make the
    `QuantizedModel` anew afterwards. A skip connection that is no module's output is left alone.
    Returns the names of the new quantizers.
    """
    from sensitivity.export.trace import trace

    traced = trace(source, batches[0], every_module=True)
    modules = [_module_of(value) for value in groups.residual_inputs(traced)]
    wanted = list(dict.fromkeys(output.module for output in modules if output is not None))
    template = next(
        (one.name for one in source.quantizers if one.role == "input" and one.axis is None), None
    )
    if template is None or not wanted:
        return ()
    largest = _largest_outputs(source, wanted, batches)
    for name in wanted:
        quantizer = copy.deepcopy(source.model.get_submodule(template))
        quantizer._amax.fill_(largest[name])
        module = source.model.get_submodule(name)
        module.add_module(RESIDUAL, quantizer)
        module.register_forward_hook(quantize_output)
    return tuple(f"{name}.{RESIDUAL}" for name in wanted)


@contextmanager
def residual_quantizers(
    source: QuantizedModel, batches: Sequence[Any]
) -> Iterator[tuple[str, ...]]:
    """`add_residual_quantizers`, taken back after the `with`. Raises ModelError for a model that
    takes no new ones."""
    if not hasattr(source.model, "named_modules") or not isinstance(source, Recalibratable):
        raise ModelError(
            "Expected a model that takes new quantizers for --quantize-residuals, got one of "
            f"{source.source}; quantize the skip connections where it was made."
        )
    names = add_residual_quantizers(source, batches)
    try:
        yield names
    finally:
        for name in names:
            module = source.model.get_submodule(name.rpartition(".")[0])
            delattr(module, RESIDUAL)
            for key in [
                key for key, hook in module._forward_hooks.items() if hook is quantize_output
            ]:
                del module._forward_hooks[key]


def quantize_output(module: Any, args: Any, output: Any) -> Any:
    return getattr(module, RESIDUAL)(output)


def _module_of(value: Any) -> ModuleOutput | None:
    """The outermost module that gave this value: all that read it outside of that module see it
    quantized."""
    found = None
    user = next((node for node in value.consumers() if is_mark(node, "Output")), None)
    while user is not None:
        found = ModuleOutput(user.attributes.get_string("module"), user.attributes.get_int("call"))
        user = next((node for node in user.outputs[0].consumers() if is_mark(node, "Output")), None)
    return found


def _largest_outputs(
    source: QuantizedModel, names: Sequence[str], batches: Sequence[Any]
) -> dict[str, float]:
    from sensitivity.export.simulate import hooked, outputs_of

    largest = dict.fromkeys(names, 0.0)

    def keep(name: str, args: Any, output: Any) -> None:
        largest[name] = max(largest[name], float(output.abs().max()))

    with hooked(source, names, keep):
        for inputs in batches:
            # In float, as ranges are calibrated.
            outputs_of(source, inputs, [quantizer.name for quantizer in source.quantizers])
    return largest
