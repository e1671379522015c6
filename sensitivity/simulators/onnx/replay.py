"""Runs many variants of a Q/DQ file on one batch in ONNX Runtime, and computes what they have in
common once.

The values that a variant needs, beyond those held from the variants before it, are computed by one
session. The session is made at the first batch and kept for all others. Its kernels are those of a
session of the whole file, so the numbers are the same.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from sensitivity.errors import SensitivityError, TaskError
from sensitivity.onnx_graph.passes.skip_uses import NewGrid
from sensitivity.quantizers.alternatives import Alternatives
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
from sensitivity.quantizers.recent import Recent
from sensitivity.simulators.memory import budget_warnings
from sensitivity.simulators.onnx.network import Candidates, Unsplittable, split
from sensitivity.simulators.onnx.program import (
    Action,
    Key,
    Program,
    Values,
    ort_value,
    share_memory,
)
from sensitivity.simulators.schedule import Leg, Schedule, Value, needed, schedule
from sensitivity.simulators.switches import Switches

LARGEST_VALUE = 4 * 2**20
"""Size in bytes. A batch is cut until no value is larger than this, so that values stay in the
caches, and until every core has a piece."""

ALONE = 4
"""Number of samples that a batch may be cut down to: as many as the signal of large samples
takes."""

SCHEDULES = 2
"""Number of schedules that are kept with their sessions. A scan asks for the same variants batch
after batch."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A schedule and the program of each of its legs."""

    schedule: Schedule
    legs: tuple[tuple[Leg, Program], ...]


class OnnxReplay:
    """Simulator that recomputes, for each variant of a Q/DQ file, only what differs from the
    variants before it."""

    name = "replay"

    def __init__(
        self,
        source: QuantizedModel,
        memory: int | None = None,
        *,
        threads: int | None = None,
        example: Arrays | None = None,
    ) -> None:
        """Split the file into operations.

        memory: bytes for values that wait for a later variant; None for no limit.
        example: a batch by which to see whether samples stand alone; None keeps batches whole.
        threads: number of pieces of a batch that run at a time; None for one per core.

        Raises Unsplittable for a file that cannot be run in parts.
        """
        share_memory()
        self.reason = "it was asked for"
        self._model: OnnxModel = source.model
        self._memory = memory
        self._threads = threads or len(os.sched_getaffinity(0))
        self._switches = Switches(source.quantizers)
        self._split = split(self._model, self._switches.bits, candidate_grids(source))
        self._batch = fixed_batch(self._model)
        self._example = example
        self._constants: dict[Key, Values] = {}
        self._sizes: dict[Any, tuple[int, ...]] = {}
        self._cuts: dict[Any, int | None] = {}
        self._plans = Recent[Prepared](SCHEDULES)
        self._needed = 0

    @property
    def smallest(self) -> int | None:
        """The file's own batch size. A file that takes any size may mix samples: its batches are
        cut down to ALONE samples if these stand alone in the example.

        The answer must not depend on what was run before, or on the number of threads, since
        workers and resumed runs have to measure the same.
        """
        if self._batch is not None:
            return self._batch
        few = {} if self._example is None else of_samples(self._example, slice(0, 2 * ALONE))
        if (length(few) or 0) <= ALONE:
            return None
        try:
            return ALONE if self._stand_alone(few, ALONE) else None
        except TaskError:  # a Reshape, say, may have the number of samples of the traced batch
            return None

    @property
    def warnings(self) -> tuple[str, ...]:
        return budget_warnings(self._needed, self._memory)

    def outputs(self, inputs: Any, variants: Sequence[frozenset[str]]) -> Iterator[tuple[int, Any]]:
        # The scale of an integer bias comes from a range, so its pair is left out with the range.
        masks = [self._switches.mask(variant, self._model.biases) for variant in variants]
        arrays = feed(inputs, list(self._split.inputs))
        parts = pieces(arrays, self._size_of_pieces(arrays))
        plan = self._plan(parts, masks)
        self._needed = max(self._needed, plan.schedule.peak)
        yield from self._run(plan, parts, length(arrays))

    def _run(
        self, plan: Prepared, parts: Sequence[Arrays], samples: int | None
    ) -> Iterator[tuple[int, Any]]:
        """Yield the index of each variant and its outputs; while the caller judges one variant, the
        next one is computed."""
        states = [self._start(plan.schedule, part) for part in parts]
        with ThreadPoolExecutor(min(self._threads, len(states))) as pool:

            def begin(leg: Leg, program: Program) -> list[Future[list[NDArray[Any]]]]:
                self._refusing(program.build, states[0])
                return [pool.submit(self._finish, leg, program, slots) for slots in states]

            running = begin(*plan.legs[0]) if plan.legs else []
            for number, (leg, _) in enumerate(plan.legs, 1):
                # All pieces have to be done, because the next leg reads the values of this one.
                found = [future.result() for future in running]
                running = begin(*plan.legs[number]) if number < len(plan.legs) else []
                yield leg.variant, joined(found, samples)

    def _size_of_pieces(self, arrays: Arrays) -> int | None:
        """Return the number of samples that run at a time; None for the whole batch, if its samples
        depend on each other."""
        samples = length(arrays)
        if self._batch is not None or samples is None or samples == 1:
            return self._batch
        shape = _shape(arrays)
        if shape not in self._cuts:
            self._cuts[shape] = self._cut(arrays, samples)
        return self._cuts[shape]

    def _cut(self, arrays: Arrays, samples: int) -> int | None:
        """Return the number of these samples that run at a time, as `_size_of_pieces` defines
        it."""
        largest = max(self._measured(arrays), default=0)
        count = min(samples, max(-(-largest // LARGEST_VALUE), self._threads))
        size = -(-samples // count)
        # Two pieces give the same answer as all of the batch, which may not fit into memory.
        two = of_samples(arrays, slice(0, 2 * size))
        return size if self._stand_alone(two, size) else None

    def _stand_alone(self, arrays: Arrays, size: int) -> bool:
        """Return whether the pieces give what the whole batch gives, with all quantizers on and
        with all off. It is tried once for a file, whatever ranges are tried for it."""
        known, key = self._model.stand_alone, (_shape(arrays), size)
        if key not in known:
            known[key] = self._give_the_same(arrays, size)
        return known[key]

    def _give_the_same(self, arrays: Arrays, size: int) -> bool:
        masks = [0, self._switches.everything]

        def run(parts: list[Arrays]) -> list[Any]:
            found = dict(self._run(self._plan(parts, masks), parts, length(arrays)))
            return [found[index] for index in range(len(masks))]

        whole, in_pieces = run([arrays]), run(pieces(arrays, size))
        return not any(map(difference, whole, in_pieces))

    def _plan(self, parts: Sequence[Arrays], masks: Sequence[int]) -> Prepared:
        key = (tuple(masks), len(parts), _shape(parts[0]))
        return self._plans.get(key, partial(self._prepared, parts, masks))

    def _prepared(self, parts: Sequence[Arrays], masks: Sequence[int]) -> Prepared:
        network = replace(self._split.network, size=self._measured(parts[0]))
        made = schedule(network, masks, self._memory, len(parts))
        return Prepared(made, tuple((leg, self._program(leg)) for leg in made.legs))

    def _program(self, leg: Leg) -> Program:
        actions = _actions(leg)
        keep = {out for _, _, out in actions} - leg.freed_by_steps
        return Program(self._model, self._split, actions, keep)

    def _measured(self, arrays: Arrays) -> tuple[int, ...]:
        """Return the bytes of each node's values in a forward with all quantizers on.

        All of them are held at once. A file that takes any batch is therefore run on a single
        sample, and the size for more samples is taken to be proportional.
        """
        samples = length(arrays)
        if self._batch is not None or samples is None:
            return self._held_by(arrays)
        try:
            of_one = self._held_by(of_samples(arrays, slice(0, 1)))
        except TaskError:  # a Reshape, say, may have the number of samples of the traced batch
            return self._held_by(arrays)
        return tuple(size * samples for size in of_one)

    def _held_by(self, arrays: Arrays) -> tuple[int, ...]:
        """Return the bytes of each node's values in a forward of this batch."""
        shape = _shape(arrays)
        if shape not in self._sizes:
            plan = schedule(self._split.network, [0])
            (leg,) = plan.legs
            actions = _actions(leg)
            program = Program(self._model, self._split, actions, {out for _, _, out in actions})
            slots = self._start(plan, arrays)
            self._refusing(program.build, slots)
            found = self._refusing(program.run, slots)
            size = [0] * len(self._split.recipes)
            for node, _, out in actions:
                size[node] = sum(map(_bytes, found[out]))
            self._sizes[shape] = tuple(size)
        return self._sizes[shape]

    def _start(self, plan: Schedule, arrays: Arrays) -> list[Any]:
        slots: list[Any] = [None] * plan.slots
        self._compute(list(plan.fixed))
        for value, slot in plan.fixed.items():
            slots[slot] = self._constants[value]
        for name, node in self._split.inputs.items():
            if node in plan.inputs:
                slots[plan.inputs[node]] = [ort_value(arrays[name])]
        return slots

    def _compute(self, wanted: Sequence[Value]) -> None:
        """Compute values that no input changes, such as quantized weights, once for all batches."""
        network = self._split.network
        missing = needed(wanted, self._constants, network.reads)
        actions: list[Action] = [(value[0], network.reads(value), value) for value in missing]
        program = Program(self._model, self._split, actions, set(missing))
        program.build(self._constants)
        self._constants.update(program.run(self._constants))

    def _refusing(self, function: Any, values: Any) -> Any:
        """Return the function's result. Raises TaskError for a batch that ONNX Runtime refuses."""
        try:
            return function(values)
        except (Unsplittable, SensitivityError):
            raise
        except Exception as error:  # its exceptions share no public base class
            raise TaskError(
                f"Expected the model to accept a batch of the task's data, got from ONNX Runtime: "
                f"{' '.join(str(error).split())[:300]}; compare the batch with the inputs of "
                f"{self._model.path.name}."
            ) from error

    def _finish(self, leg: Leg, program: Program, slots: list[Any]) -> list[NDArray[Any]]:
        for key, values in self._refusing(program.run, slots).items():
            slots[key] = values
        outputs = zip(leg.outputs, self._split.outputs, strict=True)
        arrays = [(slot, slots[slot][output].numpy()) for slot, (_, output) in outputs]
        # The arrays share ONNX Runtime's memory. An output that a later variant gives too is
        # copied, so that the caller cannot change it.
        found = [array if slot in leg.frees else array.copy() for slot, array in arrays]
        for slot in leg.freed_by_steps.union(leg.frees):
            slots[slot] = None
        return found


def candidate_grids(source: QuantizedModel) -> Candidates:
    """Return the grids of the candidate ranges of a model."""
    if not isinstance(source, Alternatives):
        return {}
    own: Any = source.own
    found: defaultdict[str, dict[str, NewGrid]] = defaultdict(dict)
    for key, candidate in source.ranges.items():
        grids = own.new_grids([candidate])
        found[candidate.quantizer][key] = grids[candidate.quantizer]
    return found


def _actions(leg: Leg) -> list[Action]:
    return [(step.node, step.reads, step.out) for step in leg.steps]


def _bytes(value: Any) -> int:
    """Return the number of bytes of an OrtValue; 0 for an output that the file leaves out."""
    return 0 if value is None else int(value.tensor_size_in_bytes())


def _shape(arrays: Mapping[str, NDArray[Any]]) -> Any:
    return tuple((name, array.shape, str(array.dtype)) for name, array in arrays.items())
