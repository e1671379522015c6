"""Simulates Q/DQ files with a session of the whole edited file per variant, as the reference, and
chooses between this and replay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import TaskError
from sensitivity.onnx_graph.walk import value_name
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.quantizers.onnx.batches import (
    Arrays,
    difference,
    feed,
    fixed_batch,
    joined,
    length,
    of_samples,
    pieces,
)
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.records import names_of
from sensitivity.simulators.base import Simulator
from sensitivity.simulators.memory import host_memory
from sensitivity.simulators.onnx.network import Unsplittable
from sensitivity.simulators.onnx.replay import OnnxReplay

COMPARED = 2
"""Number of samples on which replay is compared with the file: two, since one alone mixes with
none."""

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value of an output, at which replay is used."""


class WholeFile:
    """Simulator that edits the file, builds a session and runs it, for each variant: slow, and
    right for every file."""

    name = "sessions"
    smallest = None
    warnings: tuple[str, ...] = ()

    def __init__(self, source: QuantizedModel, reason: str = "it was asked for") -> None:
        self.reason = reason
        self._source = source

    def outputs(self, inputs: Any, variants: Sequence[frozenset[str]]) -> Iterator[tuple[int, Any]]:
        model: OnnxModel = self._source.model
        arrays = feed(inputs, names_of(model.get_inputs()))
        parts = pieces(arrays, fixed_batch(model))
        for index, disabled in enumerate(variants):
            with self._source.disabled(disabled):
                found = [model.run(None, part) for part in parts]
            yield index, joined(found, length(arrays))


def onnx_simulator(
    source: QuantizedModel, example_inputs: Any, *, memory: int | None = None
) -> Simulator:
    """Return replay if it gives the file's own outputs on `example_inputs`, otherwise whole
    sessions.

    Every other quantizer is off, then the others. For the first simulator of a file, all of them
    are also on, then off.

    memory: bytes that replay may hold besides the weights; None takes a quarter of the free memory.
    """
    whole = WholeFile(source)
    arrays = feed(example_inputs, names_of(source.model.get_inputs()))
    _check_types(arrays, source.model)
    first = _first_samples(arrays, source.model)
    names = names_of(source.quantizers)
    variants = [frozenset(names[::2]), frozenset(names[1::2])]
    if not source.model.agrees_in_parts:
        variants += [frozenset(), frozenset(names)]
    if memory is None:
        memory = host_memory() // 4
    try:
        replay = OnnxReplay(source, memory, example=arrays)
        ours = dict(replay.outputs(first, variants))
    except Unsplittable as error:
        whole.reason = f"the file cannot be run in parts, since {error}"
        return whole
    with source.model.in_one_thread():  # replay runs each piece in one thread too
        worst = max(
            difference(theirs, ours[index]) for index, theirs in whole.outputs(first, variants)
        )
    if worst > TOLERANCE:
        whole.reason = (
            f"the file run in parts differs from itself by {worst:.1e} on the example batch"
        )
        return whole
    source.model.agrees_in_parts = True
    how = "bit for bit" if worst == 0 else f"to {worst:.1e}"
    replay.reason = f"the file run in parts gives its own outputs {how} on the example batch"
    return replay


def _first_samples(arrays: Arrays, model: OnnxModel) -> Arrays:
    """Return as many samples of the example as the file takes at a time; of a file that takes any
    number, `COMPARED` if it takes these."""
    size = fixed_batch(model)
    if size is not None or (length(arrays) or 0) <= COMPARED:
        return pieces(arrays, size)[0]
    few = of_samples(arrays, slice(0, COMPARED))
    try:
        model.run(None, few)
    except Exception:  # noqa: BLE001 - its exceptions share no public base class
        return arrays  # a Reshape, say, may have the number of samples of the traced batch
    return few


def _check_types(arrays: dict[str, NDArray[Any]], model: OnnxModel) -> None:
    """Raise TaskError for numbers of another type than the file's input, for which ONNX Runtime
    would blame the file."""
    for value in model.graph.graph.inputs:
        array, kind = arrays.get(value_name(value)), value.dtype
        if array is None or kind is None or array.dtype.kind not in "biuf":
            continue
        wanted = np.dtype(kind.numpy())
        if array.dtype != wanted:
            raise TaskError(
                f"Expected the batches to have {wanted} in the input {value.name} of "
                f"{model.path.name}, got {array.dtype}; cast them in the task."
            )
