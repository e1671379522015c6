"""Checks that a task's model with all quantizers off computes what the user's own float model
does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.arrays import difference_of
from sensitivity.errors import ModelError, SensitivityError
from sensitivity.exporters.simulate import first_samples
from sensitivity.quantizers.base import QuantizedModel, WithFloat, name_in_words
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.records import Finding, names_of
from sensitivity.session import Session

if TYPE_CHECKING:
    from torch import nn

Arrays = list[NDArray[Any]]

TOLERANCES = {"bfloat16": 5e-2, "float16": 1e-2}
USUAL_TOLERANCE = 1e-4
"""Largest RMS difference of an output, relative to its standard deviation. It allows for sums in
another order, and for BatchNorm folded into weights. TOLERANCES allows more if either model has
weights of one of its types."""
SAMPLES = 2
"""Number of samples of the example batch for finding the first module that differs. They are few
because the outputs of all modules are held at once."""


def task_float_findings(session: Session) -> Iterator[Finding]:
    """Yield a note if the two models compute the same, otherwise an error with the first different
    module.

    Yields nothing if the task gives no float model, and a warning if it cannot be compared.
    """
    float_model = session.loaded.float_model if session.loaded else None
    if float_model is None:
        return
    reason = not_comparable(session.source, float_model, session.example)
    if reason:
        message = f"The task's float_model was not compared: {reason}."
        yield Finding("float-not-compared", "warning", "", message, "")
        return
    try:
        yield compared(session.source, float_model, session.example)
    except SensitivityError as error:
        message = f"The task's float_model cannot be compared: {error}"
        yield Finding("float-differs", "error", "", message, "")


def not_comparable(source: QuantizedModel, float_model: Any, example: Any) -> str | None:
    """Return why the two cannot be compared; None if they can."""
    if example is None:
        return "the task has no example_inputs"
    if isinstance(source, WithFloat):
        return f"{name_in_words(source)} is compared with {source.float_model_from}"
    if isinstance(float_model, type):
        return f"it is the class {float_model.__name__}, not an instance of it"
    if not hasattr(float_model, "named_modules"):
        return f"it is a {type(float_model).__name__}, not a torch model"
    return None


def compared(source: QuantizedModel, float_model: nn.Module, example: Any) -> Finding:
    """Return a note if the two models compute the same, otherwise an error.

    float_model: the user's float model.
    Raises ModelError if it is the quantized model itself or in training mode, and TaskError if it
    refuses the batch.
    """
    if float_model is source.model:
        raise ModelError(
            "Expected float_model to be another object than model, got the same one: toolkits "
            "quantize in place; give copy.deepcopy(model) from before it was quantized."
        )
    if float_model.training:
        raise ModelError(
            "Expected float_model in eval mode, got training mode; call float_model.eval()."
        )
    wanted, found = _outputs(float_model, example), _float_outputs(source, example)
    shapes, others = _shapes_of(wanted), _shapes_of(found)
    if shapes != others:
        return _differs("", f"outputs of shapes {_shapes(others)}, not {_shapes(shapes)}")
    difference, tolerance = furthest(found, wanted), tolerance_of(source.model, float_model)
    if difference <= tolerance:
        message = (
            "With everything disabled the model computes what float_model computes, to "
            f"{difference:.1e} of the outputs' spread (allowed: {tolerance:g})."
        )
        return Finding("float-proved", "note", "", message, "")
    got = f"outputs that differ by {difference:.2g} of their spread (allowed: {tolerance:g})"
    where = first_difference(source, float_model, example, tolerance)
    return _differs(where, f"{got}, first at {where}" if where else got)


def tolerance_of(*models: Any) -> float:
    """Return the loosest tolerance that the types of their weights ask for."""
    kinds = {"float32"}
    for model in models:
        kinds |= {str(tensor.dtype).removeprefix("torch.") for tensor in model.parameters()}
    return max(TOLERANCES.get(kind, USUAL_TOLERANCE) for kind in kinds)


def furthest(found: Arrays, wanted: Arrays) -> float:
    """Return the largest RMS difference of two arrays, relative to the standard deviation of the
    wanted one."""
    if not wanted:
        return 0.0
    return max(map(_distance, found, wanted))


def first_difference(
    source: QuantizedModel, float_model: nn.Module, example: Any, tolerance: float
) -> str:
    """Return the name of the first module, in execution order, that both models have and whose
    outputs differ.

    Returns "" if there is none.
    """
    inputs = first_samples(example, SAMPLES)
    shared = set(dict(float_model.named_modules())) & set(dict(source.model.named_modules())) - {""}
    wanted = dict[str, Arrays]()
    different = list[str]()

    def keep(name: str, outputs: Arrays) -> None:
        wanted.setdefault(name, outputs)

    def compare(name: str, outputs: Arrays) -> None:
        other = wanted.pop(name, None)  # of its first call
        if other is None or different:
            return
        alike = _shapes_of(outputs) == _shapes_of(other)
        if not alike or furthest(outputs, other) > tolerance:
            different.append(name)

    with _seen(float_model, shared, keep):
        _outputs(float_model, inputs)
    with _seen(source.model, shared, compare):
        _float_outputs(source, inputs)
    return next(iter(different), "")


def _seen(model: Any, names: set[str], take: Any) -> ExitStack:
    """Call take(name, output arrays) after each forward of one of these modules, inside the
    `with`."""
    stack = ExitStack()

    def hook_for(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            take(name, _flat(output))

        return hook

    for name, module in model.named_modules():
        if name in names:
            stack.callback(module.register_forward_hook(hook_for(name)).remove)
    return stack


def _outputs(model: Any, inputs: Any) -> Arrays:
    with optional.torch.no_grad():
        return _flat(call(model, to_device(inputs, device_of(model))))


def _float_outputs(source: QuantizedModel, inputs: Any) -> Arrays:
    with source.disabled(names_of(source.quantizers)):
        return _outputs(source.model, inputs)


def _flat(outputs: Any) -> Arrays:
    """Return every tensor of a nest of outputs, as float64 on the host; anything else is left
    out."""
    leaves = optional.pytree.tree_leaves(outputs)
    tensors = [leaf for leaf in leaves if hasattr(leaf, "detach")]
    return [np.array(tensor.detach().double().cpu().numpy()) for tensor in tensors]


def _distance(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the RMS difference, relative to the standard deviation of `wanted` unless that is 0.

    Values that are not finite do not count if both have the same ones; otherwise returns inf.
    """
    off = difference_of(found, wanted)
    if off is None:
        return float("inf")
    is_finite = np.isfinite(wanted)
    if not is_finite.any():
        return 0.0
    error = float(np.sqrt(np.mean(np.square(off[is_finite]))))
    spread = float(np.std(wanted[is_finite]))
    return error / (spread or 1.0)


def _differs(where: str, got: str) -> Finding:
    return Finding(
        "float-differs",
        "error",
        where,
        "Expected the model with everything disabled to compute what the task's float_model "
        f"computes, got {got}.",
        "Give exactly the model that was quantized, with the same weights; or see what the toolkit "
        "changed there.",
    )


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, map(list, shapes)))


def _shapes_of(arrays: Arrays) -> list[tuple[int, ...]]:
    return [array.shape for array in arrays]
