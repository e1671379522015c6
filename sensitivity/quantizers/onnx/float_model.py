"""Checks whether a Q/DQ file with everything unquantized is the float model, by comparison with the
user's file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.arrays import difference_of
from sensitivity.errors import OnnxFileError, TaskError, listed
from sensitivity.onnx_graph.align import align, ports
from sensitivity.onnx_graph.float_model import FloatModel
from sensitivity.onnx_graph.walk import value_name
from sensitivity.quantizers.onnx.batches import (
    Arrays,
    feed,
    fixed_batch,
    joined,
    length,
    of_samples,
    pieces,
)
from sensitivity.quantizers.onnx.model import OnnxModel, session
from sensitivity.records import Finding, names_of
from sensitivity.seeds import generator

Array = NDArray[Any]

SAMPLES, LARGEST_INPUT = 8, 4_000_000
"""Largest number of samples that both models run on, and largest number of values in these samples,
so that it takes seconds."""

TOLERANCE = 1e-4
"""Largest difference of outputs, as a fraction of their spread. Rounding alone adds up to some 1e-6
in a deep network."""

TOLERANCES: dict[ir.DataType | None, float] = {
    ir.DataType.FLOAT16: 2e-2,
    ir.DataType.BFLOAT16: 1e-1,
}
"""`TOLERANCE` for models that compute something in one of these types, in which rounding adds up to
some 1e-3 and 1e-2."""

LAST_BITS = 2.0**-22
"""Fraction of an FP32 number that rounding may change."""

TIMES_ROUNDING, ILL_CONDITIONED = 10, 1e-2
"""Two forms of a model may differ by this multiple of the change that the last bits of its inputs
cause, up to this fraction of an output's spread."""

ONLY_ROUNDING = (
    "on this batch they are dominated by rounding: they change by a thousandth of their spread if "
    "the inputs change in their last bits, as if a detector sees no object that it knows, or gets "
    "pixels in another range than in training"
)


FLOAT_TYPES: dict[str, type[np.floating]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
"""ONNX Runtime's name of a floating-point type -> numpy type."""

FULL_CHANNEL = 64
"""Smallest number of values in a channel for which its own spread is known. Such channels are
compared by their own spread, since pixel coordinates would hide probabilities in the same
output."""


def compare_with_float(model: OnnxModel, inputs: Any) -> tuple[Finding, ...]:
    """Return findings on whether the file with everything unquantized is its float model, compared
    on a batch.

    Raises TaskError if the batch does not fit the file.
    """
    known = model.float
    assert known is not None
    arrays = _few_samples(feed(inputs, names_of(model.get_inputs())))
    findings = _weights(model, known)
    outputs = _comparable_outputs(model.graph, known)
    if not outputs:
        return (*findings, _not_compared(model, known, "it has other outputs"))
    names = list(outputs.values())
    original = session(with_outputs(known.original), known.name, model.custom_ops)
    try:
        theirs = run_batch(original, arrays, names)
    except (OnnxFileError, FloatInputError) as error:
        return (*findings, _not_compared(model, known, str(error).rstrip(".")))
    with model.skipping(frozenset(names_of(model.uses))):
        ours = run_batch(model, arrays, list(outputs))
    usual = _tolerance(model.graph, known.original)
    allowed = tolerances(original, arrays, theirs, usual)
    if not allowed:
        return (*findings, _not_compared(model, known, ONLY_ROUNDING))
    distances: dict[str, float] = {}
    parts_of_tolerance: dict[str, float] = {}
    for name, other in outputs.items():
        if other in allowed:
            distances[name] = distance(ours[name], theirs[other])
            parts_of_tolerance[name] = distances[name] / allowed[other]
    worst = max(distances, key=parts_of_tolerance.__getitem__)
    tolerance = allowed[outputs[worst]]
    if distances[worst] <= tolerance:
        return (*findings, _same(model, known, distances[worst], tolerance))
    where = _first_difference(model, known, arrays, usual)
    return (_differs(model, known, worst, distances[worst], tolerance, where),)


class FloatInputError(TaskError):
    """The batch cannot be given to the file, and why."""


def tolerances(
    model: Any, arrays: Arrays, outputs: Mapping[str, Array], usual: float
) -> dict[str, float]:
    """Return output -> its largest allowed distance between two forms of a float model.

    It is `usual`, or a multiple of the output's change if the last bits of the inputs change. An
    output that changes too much is left out, because nothing could be compared there.

    model: a session.
    outputs: outputs of the model for the batch.
    """
    moved = run_batch(model, _nudged(arrays), list(outputs))
    allowed: dict[str, float] = {}
    for name, output in outputs.items():
        rounding = TIMES_ROUNDING * distance(moved[name], output)
        if rounding <= max(usual, ILL_CONDITIONED):
            allowed[name] = max(usual, rounding)
    return allowed


def _nudged(arrays: Arrays) -> Arrays:
    """Return the arrays with each float number changed in its last bits, randomly but the same in
    each call."""
    rng = generator(0)

    def nudge(array: Array) -> Array:
        if array.dtype.kind != "f":
            return array
        moved = array * (1 + rng.uniform(-LAST_BITS, LAST_BITS, array.shape))
        return np.asarray(moved.astype(array.dtype))

    return {name: nudge(array) for name, array in arrays.items()}


def distance(own: Array, theirs: Array) -> float:
    """Return the largest difference of two outputs as a fraction of the spread of `theirs`, its
    standard deviation.

    The spread is taken per channel, of the second or the last axis, if channels have enough values.
    Returns inf if shapes differ, or if a value is not finite in only one of them.
    """
    if own.shape != theirs.shape:
        return float("inf")
    off = difference_of(own, theirs)
    if off is None:
        return float("inf")
    if not off.any():
        return 0.0
    finite = np.where(np.isfinite(theirs), theirs, 0).astype(np.float64)
    spreads = [_spread(finite, axis) for axis in _full_axes(finite)] or [_spread(finite, None)]
    return max(float((np.abs(off) / spread).max()) for spread in spreads)


def _full_axes(output: Array) -> list[int]:
    """Return the axes that may be channels (the second and the last) and have enough values per
    entry."""
    if output.ndim <= 2:
        return []
    enough = output.size // FULL_CHANNEL
    return [axis for axis in {1, output.ndim - 1} if output.shape[axis] <= enough]


def _spread(values: Array, axis: int | None) -> Array:
    """Return the standard deviation per channel of this axis, plus a fraction of the values for
    channels that hardly vary.

    axis: None for the whole array.
    """
    whole = values.std() + 1e-30
    if axis is None:
        return np.asarray(whole + 0.02 * np.abs(values).max())
    others = tuple(other for other in range(values.ndim) if other != axis)
    largest = np.abs(values).max(others, keepdims=True)
    return np.asarray(values.std(others, keepdims=True) + 0.02 * largest + 1e-3 * whole)


def _few_samples(arrays: Arrays) -> Arrays:
    """Return as many samples as `SAMPLES` and `LARGEST_INPUT` allow, at least one."""
    numbers = sum(array.size for array in first_samples(arrays, 1).values())
    return first_samples(arrays, min(SAMPLES, max(1, LARGEST_INPUT // max(numbers, 1))))


def first_samples(arrays: Arrays, samples: int) -> Arrays:
    """Return the first samples of every array that has one entry per sample; others are left
    whole."""
    return of_samples(arrays, slice(samples))


def sample_sizes(model: OnnxModel, batch: Any) -> dict[str, tuple[int, ...]]:
    """Return input -> shape of one sample of a batch, or the whole shape if an array has no entry
    per sample.

    batch: as `feed` takes it.
    """
    given = feed(batch, [value.name for value in model.get_inputs()])
    return {name: array.shape for name, array in first_samples(given, 1).items()}


def _comparable_outputs(graph: ir.Model, known: FloatModel) -> dict[str, str]:
    """Return output of the Q/DQ file -> output of the float model: for all outputs, or for none."""
    own, theirs = ports(graph.graph.outputs, known.original.graph.outputs)
    if len(own) < len(graph.graph.outputs):
        return {}
    return {
        value_name(output): value_name(other) for output, other in zip(own, theirs, strict=True)
    }


def float_runner(model: OnnxModel) -> Callable[[Any], list[Array]]:
    """Return a function from the inputs of a batch to the float model's outputs, in the order of
    the Q/DQ file's.

    Raises TaskError if the float model is not known, or has other outputs.
    """
    known = model.float
    if known is None:
        raise TaskError(
            f"Expected labels, or --float-model with {model.path.name}, whose outputs stand for "
            "labels where there are none, got neither; give the file that was quantized."
        )
    outputs = _comparable_outputs(model.graph, known)
    if not outputs:
        raise TaskError(
            f"Expected {known.name} to have the outputs of {model.path.name}, which stand for "
            "labels where there are none, got others; give labels, or the file that was quantized."
        )
    judge = session(with_outputs(known.original), known.name, model.custom_ops)
    names = names_of(model.get_inputs())

    def run(inputs: Any) -> list[Array]:
        return list(run_batch(judge, feed(inputs, names), list(outputs.values())).values())

    return run


def run_batch(model: Any, arrays: Arrays, names: Sequence[str]) -> dict[str, Array]:
    """Return some outputs of a session (or an `OnnxModel`) for a batch.

    arrays: inputs by the names of the model, or by position.
    Raises FloatInputError if the batch does not fit the inputs.
    """
    wanted = model.get_inputs()
    given = _given(arrays, names_of(wanted))
    typed = {value.name: _as(given[value.name], value.type) for value in wanted}
    try:
        parts = [model.run(list(names), dict(part)) for part in pieces(typed, fixed_batch(model))]
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        said = " ".join(str(error).split())[:200]
        raise FloatInputError(
            f"Expected the batch to fit the inputs of the file, got from ONNX Runtime: {said}"
        ) from error
    result = joined(parts, length(typed))
    outputs = result if isinstance(result, tuple) else (result,)
    return dict(zip(names, outputs, strict=True))


def _given(arrays: Arrays, names: Sequence[str]) -> Arrays:
    """Return the arrays by the names of a file's inputs: by their own names, or else by
    position."""
    if arrays.keys() >= set(names):
        return arrays
    if len(names) != len(arrays):
        raise FloatInputError(f"it has the inputs {', '.join(names)}, not {', '.join(arrays)}")
    return dict(zip(names, arrays.values(), strict=True))


def _as(array: Array, kind: str) -> Array:
    """Return floating-point values in the type of an input; other arrays are returned unchanged.

    kind: ONNX Runtime's name of the type.
    """
    wanted = FLOAT_TYPES.get(kind)
    if wanted is None or array.dtype.kind != "f":
        return array
    return array.astype(wanted)


def with_outputs(model: ir.Model, outputs: Sequence[str] = ()) -> bytes:
    """Return the model as bytes for ONNX Runtime.

    outputs: tensors that become additional outputs.
    """
    proto = ir.to_proto(model)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return bytes(proto.SerializeToString())


def _tolerance(own: ir.Model, theirs: ir.Model) -> float:
    """Return the tolerance for the types that the two models compute in."""
    values = [*_values(own), *_values(theirs)]
    return max(TOLERANCES.get(value.dtype, TOLERANCE) for value in values)


def _values(model: ir.Model) -> list[ir.Value]:
    graph = model.graph
    return [*graph.inputs, *graph.outputs, *graph.initializers.values()]


def _first_difference(model: OnnxModel, known: FloatModel, arrays: Arrays, tolerance: float) -> str:
    """Return the first tensor that differs in what both models compute for one sample, in words."""
    off = model.without(frozenset(names_of(model.uses)))
    pairs = _common_tensors(off.graph, known.model.graph)
    if not pairs:
        return "they share no tensor"
    own_names, their_names = list(pairs), sorted(set(pairs.values()))
    sample = first_samples(arrays, 1)
    own = session(with_outputs(off, own_names), model.path.name, model.custom_ops)
    ours = run_batch(own, sample, own_names)
    original = session(with_outputs(known.model, their_names), known.name, model.custom_ops)
    theirs = run_batch(original, sample, their_names)
    for name, other in pairs.items():
        apart = distance(ours[name], theirs[other])
        if apart > tolerance:
            alias = "" if name == other else f" ({other} there)"
            return f"the first tensor that differs is {name}{alias}, by {apart:.2g}"
    return f"none of the {len(pairs)} tensors that both have differs before it"


def _common_tensors(own: ir.Graph, theirs: ir.Graph) -> dict[str, str]:
    """Return tensor -> its counterpart in the float model, in the order of the graph, without
    constants and outputs."""
    aligned, named = align(own, theirs).values, _inner_values(theirs)
    known = set(named.values())
    tensors = {}
    for name, value in _inner_values(own).items():
        other = aligned.get(value, named.get(name))
        if other in known:
            tensors[name] = value_name(other)
    return tensors


def _inner_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return name -> value for all computed values that are not outputs of the graph, in its
    order."""
    values = {}
    for node in graph:
        for value in node.outputs:
            if value.name is not None and not value.is_graph_output():
                values[value.name] = value
    return values


def _found_in_words(known: FloatModel) -> str:
    """Return how many quantized constants the float model has, in words."""
    as_written = "" if known.form == "as it is" else f" ({known.form})"
    return (
        f"{known.stored - len(known.missing)} of {known.stored} quantized constants were found "
        f"in it{as_written}"
    )


def _weights(model: OnnxModel, known: FloatModel) -> tuple[Finding, ...]:
    """Return a warning that names the weights which are not in the float model; nothing if all
    are."""
    if not known.missing:
        return ()
    message = (
        f"Expected every weight of {model.path.name} in {known.name}: {_found_in_words(known)}, "
        f"not {listed(known.missing)}; these stay rounded if their layer is left out."
    )
    return (
        Finding(
            "float-weights",
            "warning",
            model.path.name,
            message,
            "Give exactly the file that was quantized.",
        ),
    )


def _same(model: OnnxModel, known: FloatModel, apart: float, tolerance: float) -> Finding:
    """Return the note that the outputs agree."""
    message = (
        f"{model.path.name} with everything unquantized computes what {known.name} computes: "
        f"outputs differ by at most {apart:.2g} of their spread (up to {tolerance:.0e} is "
        f"rounding); {_found_in_words(known)}."
    )
    return Finding("float-proved", "note", model.path.name, message, "")


def _not_compared(model: OnnxModel, known: FloatModel, why: str) -> Finding:
    """Return the warning that the outputs could not be compared.

    why: the reason, as part of a sentence.
    """
    message = (
        f"Expected to compare the outputs of {model.path.name} with those of {known.name}, but "
        f"{why}, so nothing proves that one was made from the other; {_found_in_words(known)}."
    )
    return Finding(
        "float-not-compared",
        "warning",
        known.name,
        message,
        "Give exactly the file that was quantized.",
    )


def _differs(
    model: OnnxModel, known: FloatModel, output: str, apart: float, tolerance: float, where: str
) -> Finding:
    """Return the error that the outputs differ.

    where: the first tensor that differs, in words.
    """
    missing = f" (not {listed(known.missing)})" if known.missing else ""
    message = (
        f"Expected {model.path.name} with everything unquantized to compute what {known.name} "
        f"computes, got output {output} that differs by {apart:.2g} of its spread (up to "
        f"{tolerance:.0e} is rounding); {where}; {_found_in_words(known)}{missing}."
    )
    fix = "Give exactly the file that was quantized, and the Q/DQ file as the tool wrote it."
    return Finding("float-differs", "error", model.path.name, message, fix)
