"""A traced model made ready to run: callables, weights in both states, memory measured,
schedules."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from operator import not_
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sensitivity.quantizers.torch.native import NativeQuantizer
from sensitivity.records import NOTHING
from sensitivity.simulators.schedule import Leg, Network, Schedule, Step, Value, schedule, value_of
from sensitivity.simulators.torch.layouts import (
    fills_vectors,
    has_channels_last,
    keeping_layout,
    laid_out,
)
from sensitivity.simulators.torch.tracing import Traced

Slots = list[Any]

SCHEDULES = 8
"""How many schedules to keep. A scan asks for the same variants batch after batch; a race drops
some now and then."""


@dataclass(frozen=True)
class _Forward:
    """size: bytes of new memory that each node takes. handed: bytes of the outputs. goes_by_place:
    whether an op that goes by place has elements left over behind its last full vector."""

    size: tuple[int, ...]
    handed: int
    goes_by_place: bool


class Graph:
    """Runs variants, given as bits of disabled quantizers, on the flat inputs of one batch cut into
    equal pieces.

    quantizers: by the index of their nodes. bits: the bit that turns each of them off.
    """

    def __init__(
        self, traced: Traced, quantizers: Sequence[NativeQuantizer], bits: Sequence[int]
    ) -> None:
        self.batches = traced.batches
        self._traced = traced
        self._network = _network(traced, quantizers, bits)
        self._run = [node.run if node.kind == "call" else None for node in traced.nodes]
        self._overwrite = [node.overwrite for node in traced.nodes]
        for place, node in enumerate(traced.nodes):
            if node.kind == "quantizer":
                self._run[place] = quantizers[node.index]
                self._overwrite[place] = quantizers[node.index].overwrite
        self._fixed: dict[Value, Any] = {}
        self._measured: dict[Any, _Forward] = {}
        self._schedules: dict[Any, Schedule] = {}
        self._turned = False

    def holds_for(self, length: int | None) -> bool:
        """Whether it runs batches of this length; None for inputs that have none."""
        if length is None:
            return True
        shortest, longest = self.batches
        return shortest <= length <= longest

    def largest(self, leaves: Sequence[Any]) -> int:
        """Bytes of the largest value that one forward on these inputs makes."""
        return max(self._forward(leaves).size, default=0)

    def goes_by_place(self, leaves: Sequence[Any]) -> bool:
        """Whether a bit of a forward may depend on how these inputs are cut, see `layouts`."""
        return self._forward(leaves).goes_by_place

    def peak(
        self, pieces: Sequence[Sequence[Any]], masks: Sequence[int], memory: int | None
    ) -> int:
        """The most bytes that running these variants holds at once: not counted are weights,
        inputs, the ops' own scratch, and outputs that the caller keeps."""
        return self._schedule(pieces, masks, memory).peak

    def outputs(
        self, pieces: Sequence[Sequence[Any]], masks: Sequence[int], memory: int | None
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index into masks, outputs of the whole batch), cheapest first; to be run without
        gradients."""
        plan = self._schedule(pieces, masks, memory)
        states = [self._start(plan, piece) for piece in pieces]
        for leg in plan.legs:
            yield leg.variant, self._outputs(leg, states)

    def seconds(self, pieces: Sequence[Sequence[Any]]) -> float:
        """How long the variants that each leave out one quantizer take, as far as one forward
        tells: the time of each node counts as often as there are quantizers upstream of it, which
        is how often these variants recompute it."""
        plan = schedule(self._network, [0])
        total = 0.0
        for piece in pieces:
            slots = self._start(plan, piece)
            for step in plan.legs[0].steps:
                start = time.perf_counter()
                self._do(step, slots)
                total += (time.perf_counter() - start) * self._network.upstream[
                    step.node
                ].bit_count()
        return total

    def _schedule(
        self, pieces: Sequence[Sequence[Any]], masks: Sequence[int], memory: int | None
    ) -> Schedule:
        forward = self._forward(pieces[0])
        key = (tuple(masks), memory, len(pieces), forward.size)
        if key not in self._schedules:
            if len(self._schedules) >= SCHEDULES:
                del self._schedules[next(iter(self._schedules))]
            network = replace(self._network, size=forward.size, handed=forward.handed)
            self._schedules[key] = schedule(network, masks, memory, len(pieces))
        return self._schedules[key]

    def _forward(self, leaves: Sequence[Any]) -> _Forward:
        """What one forward on these inputs tells, all quantizers on."""
        shapes = _shapes(leaves)
        if not self._measured:
            self._lay_out(leaves)
        if shapes not in self._measured:
            plan = schedule(self._network, [0])
            slots = self._start(plan, leaves)
            size = [0] * len(self._traced.nodes)
            goes_by_place = False
            for step in plan.legs[0].steps:
                read = [slots[slot] for slot in step.reads]
                slots[step.out] = self._call(step.node, read)
                if self._traced.nodes[step.node].by_place:
                    goes_by_place = goes_by_place or not all(map(fills_vectors, read))
                size[step.node] = sum(_storages(slots[step.out], but=_storages(read)).values())
                for slot in step.frees:
                    slots[slot] = None
            outputs = [slots[slot] for slot in plan.legs[0].outputs]
            handed = sum(leaf.nbytes for leaf in outputs if isinstance(leaf, Tensor))
            self._measured[shapes] = _Forward(tuple(size), handed, goes_by_place)
        return self._measured[shapes]

    def _lay_out(self, leaves: Sequence[Any]) -> None:
        """Choose for each node whether it runs on images with channels last, in one forward beside
        that of the model's own order, all quantizers on."""
        if any(map(has_channels_last, [*leaves, *(node.tensor for node in self._traced.nodes)])):
            return  # the model has an order of its own, which decides about its bits
        self._turned = True
        plan = schedule(self._network, [0])
        plain, slots = self._start(plan, leaves), self._start(plan, leaves)
        for step in plan.legs[0].steps:
            read = [plain[slot] for slot in step.reads]
            own = self._call(step.node, read)
            self._settle(step.node, read, [slots[slot] for slot in step.reads])
            slots[step.out] = self._call(step.node, [slots[slot] for slot in step.reads])
            plain[step.out] = own
            for slot in step.frees:
                plain[slot] = slots[slot] = None

    def _settle(self, place: int, plain: Sequence[Any], given: Sequence[Any]) -> None:
        node, run = self._traced.nodes[place], self._run[place]
        assert run is not None
        if node.kind == "quantizer":
            self._run[place], self._overwrite[place] = keeping_layout(run, self._overwrite[place])
            return
        self._run[place] = found = laid_out(
            run, plain, given, turns=node.turns, by_place=node.by_place
        )
        if found is not run and self._overwrite[place] is not None:
            self._overwrite[place] = found

    def _start(self, plan: Schedule, leaves: Sequence[Any]) -> Slots:
        slots: Slots = [None] * plan.slots
        for value, slot in plan.fixed.items():
            slots[slot] = self._constant(value)
        for place, leaf in zip(self._traced.inputs, leaves, strict=True):
            if place is not None and place in plan.inputs:
                slots[plan.inputs[place]] = leaf
        return slots

    def _constant(self, value: Value) -> Any:
        """A value that no input changes, such as a quantized weight; computed once."""
        if value not in self._fixed:
            node, mask = value
            if self._traced.nodes[node].kind == "tensor":
                self._fixed[value] = self._traced.nodes[node].tensor
            else:
                deps = [
                    self._constant(value_of(self._network, dep, mask))
                    for dep in self._network.deps[node]
                ]
                self._fixed[value] = self._call(node, deps)
        return self._fixed[value]

    def _call(self, node: int, values: Sequence[Any]) -> Any:
        run = self._run[node]
        assert run is not None
        return run(*values)

    def _do(self, step: Step, slots: Slots) -> None:
        run = self._overwrite[step.node] if step.overwrite else self._run[step.node]
        slots[step.out] = run(*[slots[slot] for slot in step.reads])  # type: ignore[misc]
        for slot in step.frees:
            slots[slot] = None

    def _finish(self, leg: Leg, slots: Slots, *, alone: bool) -> list[Any]:
        """Do the steps of one leg and give its outputs, as copies where later legs still read
        them."""
        for step in leg.steps:
            self._do(step, slots)
        results = [slots[slot] for slot in leg.outputs]
        if alone:
            results = [
                value if owned else _copy(value)
                for value, owned in zip(results, leg.owned, strict=True)
            ]
        for slot in leg.frees:
            slots[slot] = None
        return results

    def _outputs(self, leg: Leg, states: list[Slots]) -> Any:
        results = [self._finish(leg, slots, alone=len(states) == 1) for slots in states]
        values = iter(results[0] if len(results) == 1 else map(_joined, zip(*results, strict=True)))
        flat = [
            leaf if constant else self._handed(next(values))
            for leaf, constant in zip(self._traced.outputs, self._traced.constant, strict=True)
        ]
        return pytree.tree_unflatten(flat, self._traced.spec)

    def _handed(self, value: Any) -> Any:
        """An output in the order that the model gives it in."""
        return value.contiguous() if self._turned and has_channels_last(value) else value


def _network(traced: Traced, quantizers: Sequence[NativeQuantizer], bits: Sequence[int]) -> Network:
    fixed: list[bool] = []
    for node in traced.nodes:
        fixed.append(node.kind != "input" and all(fixed[dep] for dep in node.deps))
    runners = [
        quantizers[node.index] if node.kind == "quantizer" else node for node in traced.nodes
    ]
    return Network(
        deps=tuple(node.deps for node in traced.nodes),
        switch=tuple(bits[node.index] if node.kind == "quantizer" else 0 for node in traced.nodes),
        fixed=tuple(fixed),
        fresh=tuple(runner.fresh for runner in runners),
        overwrites=tuple(runner.overwrite is not None for runner in runners),
        size=(0,) * len(traced.nodes),
        outputs=tuple(compress(traced.outputs, map(not_, traced.constant))),
    )


def _shapes(leaves: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor))


def _storages(value: Any, but: Mapping[int, int] = NOTHING) -> dict[int, int]:
    """Address to bytes of the memory under every tensor in a nest, except those in `but`."""
    tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    found = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return {address: found[address] for address in found.keys() - but.keys()}


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _joined(pieces: tuple[Any, ...]) -> Any:
    """One output of all micro-batches. Whether it has the batch in front is not known: splitting is
    checked before."""
    if isinstance(pieces[0], Tensor) and pieces[0].ndim:
        return torch.cat(pieces)
    return _copy(pieces[0])
