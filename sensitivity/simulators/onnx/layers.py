"""Runs a Q/DQ file layer by layer over all samples, so that a layer's output can be changed before
the next layer reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.errors import SensitivityError, TaskError
from sensitivity.quantizers.onnx.batches import feed, fixed_batch, length, pieces
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.records import NOTHING, names_of
from sensitivity.simulators.onnx.network import INPUT, Split, Unsplittable, split
from sensitivity.simulators.onnx.program import Action, Key, Program, ort_value, share_memory
from sensitivity.simulators.schedule import Value, needed, value_of
from sensitivity.simulators.switches import bits_by_name

Change = Callable[[str, list[NDArray[Any]]], "list[NDArray[Any]] | None"]
"""Function of a layer's name and its output, one array for each piece of the batch, that returns
the new output, or None to keep it."""

Before = Callable[[str, Sequence[Mapping[int, NDArray[Any]]]], Mapping[int, NDArray[Any]]]
"""Function of an operation's name and its inputs by index, for each piece of the batch, that
returns the inputs to replace for all pieces."""

Held = dict[Key, list[Any]]


class Layers:
    """The operations of a file, with the grids in force when this is made."""

    def __init__(self, model: OnnxModel, inputs: Any) -> None:
        """Split the file and the batch.

        inputs: one batch with all samples. A file with a fixed batch size gets it in pieces of that
            size; the remaining samples are left out.

        Raises Unsplittable for a file that cannot be run in parts.
        """
        share_memory()
        self._model = model
        self._bits = bits_by_name(names_of(model.uses))
        self._split: Split = split(model, self._bits)
        arrays, size = feed(inputs, list(self._split.inputs)), fixed_batch(model)
        samples = length(arrays) or 1
        whole = max(samples // (size or samples), 1)
        self._pieces = pieces(arrays, size)[:whole]

    @property
    def everything(self) -> frozenset[str]:
        return frozenset(self._bits)

    def run(
        self,
        off: frozenset[str],
        layers: Mapping[str, ir.Node],
        change: Change,
        operations: Mapping[str, ir.Node] = NOTHING,
        before: Before | None = None,
    ) -> None:
        """Run the model up to the last of these operations, and call `change` with the output of
        each.

        off: uses of pairs that are left out.
        layers: name of a layer -> its operation.
        operations: name -> operation before which `before` is called; None calls nothing.

        Raises TaskError for a batch that ONNX Runtime refuses.
        """
        mask = sum(self._bits[name] for name in off)
        network = self._split.network
        names, called = self._by_value(layers, mask), self._by_value(operations, mask)
        given = {(node, 0) for node in self._split.inputs.values()}
        order = needed(names, given, network.reads)
        # Value -> the value that reads it last.
        last_reader: dict[Value, Value] = {}
        for value in order:
            last_reader.update(dict.fromkeys(network.reads(value), value))
        # Value -> values of which it is the last reader.
        read_last: defaultdict[Value, list[Value]] = defaultdict(list)
        for read, reader in last_reader.items():
            read_last[reader].append(read)
        held = list(map(self._given, self._pieces))
        for value in order:
            if value in called and before is not None:
                self._replace_inputs(called[value], value, held, before)
            self._advance(value, held)
            if value in names:
                self._change(names[value], value, held, change)
            for values in held:
                _empty(values, read_last[value])

    def _by_value(self, nodes: Mapping[str, ir.Node], mask: int) -> dict[Value, str]:
        """Return the value of each operation with these pairs left out -> its name."""
        at = self._split.operations
        return {value_of(self._split.network, at[node], mask): name for name, node in nodes.items()}

    def _replace_inputs(self, name: str, value: Value, held: list[Held], before: Before) -> None:
        """Call `before` with the inputs of an operation, and hold what it returns instead."""
        reads = self._split.network.reads(value)
        places: dict[int, tuple[Value, int]] = {}
        for read, (dep, output) in self._split.recipes[value[0]].reads.items():
            if read.startswith(INPUT):
                places[int(read.removeprefix(INPUT))] = reads[dep], output
        inputs = []
        for values in held:
            arrays = {index: values[key][output] for index, (key, output) in places.items()}
            inputs.append({index: array.numpy() for index, array in arrays.items()})
        for index, array in before(name, inputs).items():
            key, _ = places[index]
            whole = np.ascontiguousarray(array)
            for values in held:
                values[key] = [ort_value(whole), whole]

    def _given(self, arrays: Mapping[str, NDArray[Any]]) -> Held:
        held: Held = {}
        for name, node in self._split.inputs.items():
            array = arrays[name]
            held[node, 0] = [ort_value(array), array]
        return held

    def _advance(self, value: Value, held: list[Held]) -> None:
        action: Action = (value[0], self._split.network.reads(value), value)
        program = Program(self._model, self._split, [action], {value})
        try:
            program.build(held[0])
            for values in held:
                values.update(program.run(values))
        except (Unsplittable, SensitivityError):
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise TaskError(
                "Expected the model to accept its calibration inputs as one batch, got from ONNX "
                f"Runtime: {' '.join(str(error).split())[:300]}."
            ) from error

    def _change(self, name: str, value: Value, held: list[Held], change: Change) -> None:
        changed = change(name, [values[value][0].numpy() for values in held])
        if changed is None:
            return
        for values, array in zip(held, changed, strict=True):
            # The array is kept as well, because an OrtValue does not keep its memory alive.
            values[value] = [ort_value(array), *values[value][1:], array]


def _empty(values: Held, keys: Iterable[Key]) -> None:
    for key in keys:
        del values[key]
