"""Distortion of the model's outputs by quantization. It needs no labels, no metric and no
framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ModelError
from sensitivity.records import Scores
from sensitivity.signals.base import Distance, Outputs, Signal
from sensitivity.signals.channels import Group, groups_of
from sensitivity.tasks.batches import as_numpy


def sqnr(reference: Outputs, outputs: Outputs) -> Scores:
    """Return the power of the quantization noise over the power of the signal, float64[n]: 0 is no
    distortion, larger is worse.

    For each sample and array this is ||output - reference||^2 / ||reference||^2, averaged over the
    arrays, so that each counts the same whatever its size. The signal-to-quantization-noise ratio
    in decibels is -10 log10 of it. An array that is all 0 in the reference counts 0 if it stays so,
    and 1, all noise, if it does not.

    reference, outputs: arrays float[n, ...] of the float model and of a variant, for the same
        samples.

    Raises ModelError if shapes differ or a value is not finite.

    >>> sqnr([np.array([[3.0, 4.0]])], [np.array([[3.0, 4.5]])]).tolist()
    [0.01]
    """
    _check_alike(reference, outputs)
    ratios = list(map(_noise_ratio, map(_rows, reference), map(_rows, outputs)))
    return np.asarray(np.mean(ratios, axis=0), dtype=np.float64)


def by_spread(batches: Iterable[Outputs]) -> Distance:
    """Return the distance fitted to these outputs: `sqnr` if all of them are of one unit, otherwise
    the mean over their groups.

    For each group of channels that share a unit (`channels.groups_of`), this is the mean square of
    the noise over the square of float's own spread in the group, so that pixels do not drown the
    probabilities beside them. A group that float always gives as 0 counts 0 if it stays so and 1 if
    it does not.

    batches: outputs of the float model for the data.

    Raises ModelError if a value is not finite; the distance raises what `sqnr` raises.
    """
    groups = groups_of(map(_finite, batches))
    if len(groups) < 2:
        return sqnr

    def distance(reference: Outputs, outputs: Outputs) -> Scores:
        _check_alike(reference, outputs)
        ratios = [
            _over_spread(group, reference[group.output], outputs[group.output]) for group in groups
        ]
        return np.asarray(np.mean(ratios, axis=0), dtype=np.float64)

    return distance


def kl(reference: Outputs, outputs: Outputs) -> Scores:
    """Return the Kullback-Leibler divergence of a classifier's probabilities, float64[n], in nats:
    KL(reference || output).

    reference, outputs: one array each, logits float[n, classes]; the softmax is taken here.

    Raises ModelError for any other outputs, and if a value is not finite.

    >>> kl([np.log([[0.5, 0.5]])], [np.log([[0.25, 0.75]])]).round(4).tolist()
    [0.1438]
    """
    _check_alike(reference, outputs)
    if not are_logits(reference):
        shapes = ", ".join(str(array.shape) for array in reference)
        raise ModelError(
            "Expected the model to have one output, the logits [samples, classes] of two classes "
            f"or more, got {shapes}; use --signal sqnr."
        )
    wanted, got = _log_softmax(reference[0]), _log_softmax(outputs[0])
    # Only rounding can make these values negative.
    return np.asarray(np.maximum(np.sum(np.exp(wanted) * (wanted - got), axis=1), 0.0))


def are_logits(outputs: Sequence[Any]) -> bool:
    """Return whether the outputs are scores [samples, classes] of two classes or more.

    outputs: arrays or tensors.
    """
    if len(outputs) != 1:
        return False
    classes = outputs[0].shape[1:]
    return len(classes) == 1 and int(classes[0]) > 1


SQNR = Signal("sqnr", sqnr, fitted=by_spread, edition=" by spread")
KL = Signal("kl", kl)


def flat_outputs(outputs: Any) -> list[NDArray[np.floating]]:
    """Return the floating-point arrays in what a model returned, in order, on the host.

    Arrays of other types, such as chosen classes and masks, have no distance and are left out. The
    result may share memory with `outputs`.

    outputs: a tensor or array, or a nest of tuples, lists, dicts and dataclasses of them.

    Raises ModelError if nothing is left.
    """
    floats = float_arrays(outputs)
    if not floats:
        raise ModelError(
            "Expected the model to return arrays of floating-point numbers, got "
            f"{type(outputs).__name__} without any; use --signal metric."
        )
    return floats


def float_arrays(outputs: Any) -> list[NDArray[np.floating]]:
    """Return the same as `flat_outputs`; an empty list if nothing is left."""
    floats = []
    for array in _arrays(outputs):
        is_float = np.issubdtype(array.dtype, np.floating)
        if is_float and array.ndim:
            floats.append(array)
    return floats


def _arrays(value: Any) -> Iterable[NDArray[Any]]:
    """Return all arrays of a nest, in order."""
    is_array = hasattr(value, "shape") and hasattr(value, "dtype")
    if is_array:
        return (as_numpy(value),)
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, (tuple, list)):
        return chain.from_iterable(map(_arrays, value))
    return ()


def _check_alike(reference: Outputs, outputs: Outputs) -> None:
    """Raise ModelError if outputs do not have the same samples and shapes: boxes after suppression,
    say, cannot be compared."""
    wanted, got = _shapes(reference), _shapes(outputs)
    samples = {shape[:1] for shape in wanted}
    if wanted != got or len(samples) != 1:
        raise ModelError(
            "Expected outputs whose first axis is the sample and whose shapes do not depend on "
            f"the values, got {_in_words(wanted)} from the float model and {_in_words(got)} from a "
            "quantized one; return what comes before suppression or selection, or use --signal "
            "metric."
        )
    _finite((*reference, *outputs))


def _finite(outputs: Outputs) -> Outputs:
    if not all(np.isfinite(array).all() for array in outputs):
        raise ModelError(
            "Expected finite outputs, got infinite values or NaN; use --signal metric."
        )
    return outputs


def _shapes(outputs: Outputs) -> list[tuple[int, ...]]:
    return [array.shape for array in outputs]


def _in_words(shapes: list[tuple[int, ...]]) -> str:
    """Return the first shapes as text."""
    words = " and ".join(map(str, shapes[:4]))
    if len(shapes) > 4:
        words += ", ..."
    return words


def _rows(array: NDArray[np.floating]) -> NDArray[np.float64]:
    # Convert before squaring, because the square of a float16 above 255 is infinite.
    return array.reshape(len(array), -1).astype(np.float64)


def _noise_ratio(wanted: NDArray[np.float64], got: NDArray[np.float64]) -> NDArray[np.float64]:
    noise, signal = np.sum((got - wanted) ** 2, axis=1), np.sum(wanted**2, axis=1)
    silent = (noise > 0).astype(np.float64)
    return np.asarray(np.divide(noise, signal, out=silent, where=signal > 0))


def _over_spread(
    group: Group, wanted: NDArray[np.floating], got: NDArray[np.floating]
) -> NDArray[np.float64]:
    noise = np.mean((group.of(got) - group.of(wanted)) ** 2, axis=1)
    if group.power > 0:
        return np.asarray(noise / group.power)
    return np.asarray(noise > 0, dtype=np.float64)


def _log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True)))
