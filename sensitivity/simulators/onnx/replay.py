"""Runs many variants of a Q/DQ file on one batch in ONNX Runtime and computes what they have in
common once.

What a variant needs beyond the values held from variants before it is one session, made at the
first batch and kept for all others. Its kernels are those of a session of the whole file, so the
numbers are the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from sensitivity.errors import SensitivityError, TaskError, unknown_name
from sensitivity.onnx_graph.passes.skip_uses import NewGrid
from sensitivity.quantizers.alternatives import Alternatives, replacing
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.quantizers.onnx.batches import (
    Arrays,
    difference,
    feed,
    fixed_batch,
    joined,
    length,
    pieces,
)
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.simulators.memory import over_budget
from sensitivity.simulators.onnx.network import Offered, Unsplittable, split
from sensitivity.simulators.onnx.program import Action, Program, Values, share_memory
from sensitivity.simulators.schedule import Leg, Schedule, Value, schedule, value_of

LARGEST_VALUE = 4 * 2**20
"""Bytes. A batch is cut until no value is larger than this, for the caches, and until every core
has a piece."""

SCHEDULES = 2
"""How many to keep, with their sessions. A scan asks for the same variants batch after batch."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A schedule and the program of each of its legs."""

    schedule: Schedule
    legs: tuple[tuple[Leg, Program], ...]


class OnnxReplay:
    """memory: bytes for values that wait for a later variant; None: no limit. threads: pieces of a
    batch run at a time."""

    name = "replay"

    def __init__(
        self, source: QuantizedModel, memory: int | None = None, *, threads: int | None = None
    ) -> None:
        share_memory()
        self.reason = "it was asked for"
        self._model: OnnxModel = source.model
        self._memory = memory
        self._threads = threads or len(os.sched_getaffinity(0))
        self._bits = {
            quantizer.name: 1 << index for index, quantizer in enumerate(source.quantizers)
        }
        self._quantizers = source.quantizers
        self._offered = frozenset(
            quantizer.name for quantizer in source.quantizers if quantizer.replaces
        )
        self._split = split(self._model, self._bits, offered_grids(source))
        self._batch = fixed_batch(self._model)
        self.smallest = self._batch  # a file that takes any size may mix its samples
        self._constants: dict[Value, Values] = {}
        self._sizes: dict[Any, tuple[int, ...]] = {}
        self._cuts: dict[Any, int | None] = {}
        self._plans: dict[Any, Prepared] = {}
        self._needed = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        held = self._memory is None or self._needed <= self._memory
        return () if held else (over_budget(self._needed, self._memory or 0),)

    def outputs(self, inputs: Any, variants: Sequence[frozenset[str]]) -> Iterator[tuple[int, Any]]:
        masks = [self._mask(variant) for variant in variants]
        arrays = feed(inputs, list(self._split.inputs))
        parts = pieces(arrays, self._size_of_pieces(arrays))
        plan = self._plan(parts, masks)
        self._needed = max(self._needed, plan.schedule.peak)
        yield from self._run(plan, parts, length(arrays))

    def _mask(self, variant: frozenset[str]) -> int:
        """Bits of what is left out: disabled quantizers, those replaced by another range, ranges
        not in use, and biases whose steps were those of a range that is replaced."""
        for name in variant - self._bits.keys():
            raise unknown_name("a quantizer's name", name, self._bits)
        replaced = replacing(self._quantizers, variant)
        out = ((variant | self._offered) - set(replaced.values())) | replaced.keys()
        out |= {
            self._model.biases[name] for name in replaced if name in self._model.biases
        } & self._bits.keys()
        return sum(self._bits[name] for name in out)

    def _run(
        self, plan: Prepared, parts: Sequence[Arrays], samples: int | None
    ) -> Iterator[tuple[int, Any]]:
        """While the caller judges a variant the next one is computed."""
        states = [self._start(plan.schedule, part) for part in parts]
        with ThreadPoolExecutor(min(self._threads, len(states))) as pool:

            def begin(leg: Leg, program: Program) -> list[Future[list[NDArray[Any]]]]:
                self._refusing(program.build, states[0])
                return [pool.submit(self._finish, leg, program, slots) for slots in states]

            running = begin(*plan.legs[0]) if plan.legs else []
            for number, (leg, _) in enumerate(plan.legs, 1):
                # all pieces: the next leg reads what this one leaves
                found = [future.result() for future in running]
                running = begin(*plan.legs[number]) if number < len(plan.legs) else []
                yield leg.variant, joined(found, samples)

    def _size_of_pieces(self, arrays: Arrays) -> int | None:
        """How many samples are run at a time; None for the whole batch, where its samples do not
        stand alone."""
        samples = length(arrays)
        if self._batch is not None or samples is None or samples == 1:
            return self._batch
        shape = _shape(arrays)
        if shape not in self._cuts:
            largest = max(self._measured(arrays), default=0)
            count = min(samples, max(-(-largest // LARGEST_VALUE), self._threads))
            size = -(-samples // count)
            self._cuts[shape] = size if self._stand_alone(arrays, size) else None
        return self._cuts[shape]

    def _stand_alone(self, arrays: Arrays, size: int) -> bool:
        """Whether the batch in pieces gives what it gives as a whole, all quantizers on and all
        off."""
        masks = [0, sum(self._bits.values())]
        runs = [
            dict(self._run(self._plan(parts, masks), parts, length(arrays)))
            for parts in ([arrays], pieces(arrays, size))
        ]
        return all(difference(runs[0][index], runs[1][index]) == 0 for index in range(len(masks)))

    def _plan(self, parts: Sequence[Arrays], masks: Sequence[int]) -> Prepared:
        key = (tuple(masks), len(parts), _shape(parts[0]))
        if key not in self._plans:
            while len(self._plans) >= SCHEDULES:
                del self._plans[next(iter(self._plans))]
            network = replace(self._split.network, size=self._measured(parts[0]))
            made = schedule(network, masks, self._memory, len(parts))
            self._plans[key] = Prepared(made, tuple((leg, self._program(leg)) for leg in made.legs))
        return self._plans[key]

    def _program(self, leg: Leg) -> Program:
        let_go = {slot for step in leg.steps for slot in step.frees}
        keep = {step.out for step in leg.steps} - let_go
        return Program(
            self._model,
            self._split,
            [(step.node, step.reads, step.out) for step in leg.steps],
            keep,
        )

    def _measured(self, arrays: Arrays) -> tuple[int, ...]:
        """Bytes of each node's values, from one forward with all quantizers on."""
        shape = _shape(arrays)
        if shape not in self._sizes:
            plan = schedule(self._split.network, [0])
            (leg,) = plan.legs
            actions: list[Action] = [(step.node, step.reads, step.out) for step in leg.steps]
            program = Program(self._model, self._split, actions, {out for _, _, out in actions})
            slots = self._start(plan, arrays)
            self._refusing(program.build, slots)
            found = self._refusing(program.run, slots)
            size = [0] * len(self._split.recipes)
            for node, _, out in actions:
                size[node] = sum(
                    value.tensor_size_in_bytes() for value in found[out] if value is not None
                )
            self._sizes[shape] = tuple(size)
        return self._sizes[shape]

    def _start(self, plan: Schedule, arrays: Arrays) -> list[Any]:
        slots: list[Any] = [None] * plan.slots
        self._compute(list(plan.fixed))
        for value, slot in plan.fixed.items():
            slots[slot] = self._constants[value]
        for name, node in self._split.inputs.items():
            if node in plan.inputs:
                slots[plan.inputs[node]] = [
                    onnxruntime.OrtValue.ortvalue_from_numpy(arrays[name])._ortvalue
                ]
        return slots

    def _compute(self, wanted: Sequence[Value]) -> None:
        """Values that no input changes, such as quantized weights: computed once for all
        batches."""
        actions: dict[Value, Action] = {}
        network = self._split.network

        def add(value: Value) -> None:
            if value in self._constants or value in actions:
                return
            node, mask = value
            deps = [value_of(network, dep, mask) for dep in network.deps[node]]
            for dep in deps:
                add(dep)
            actions[value] = (node, deps, value)

        for value in wanted:
            add(value)
        program = Program(self._model, self._split, list(actions.values()), set(actions))
        program.build(self._constants)
        found = program.run(self._constants)
        self._constants.update({value: found[value] for value in actions})

    def _refusing(self, function: Any, values: Any) -> Any:
        """What the function gives; a batch that ONNX Runtime refuses is told as such."""
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
        # They share ONNX Runtime's memory, and what a later variant gives too must not be the
        # caller's to change.
        found = [array if slot in leg.frees else array.copy() for slot, array in arrays]
        for slot in (*leg.frees, *(slot for step in leg.steps for slot in step.frees)):
            slots[slot] = None
        return found


def offered_grids(source: QuantizedModel) -> Offered:
    """The grids of the ranges that a model offers."""
    if not isinstance(source, Alternatives):
        return {}
    own: Any = source.own
    found: dict[str, dict[str, NewGrid]] = {}
    for key, one in source.ranges.items():
        found.setdefault(one.quantizer, {})[key] = own.new_grids([one])[one.quantizer]
    return found


def _shape(arrays: Mapping[str, Any]) -> Any:
    return tuple((name, array.shape, str(array.dtype)) for name, array in arrays.items())
