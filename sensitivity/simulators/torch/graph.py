"""A traced model that is ready to run, with its operations, quantized and float weights, measured
memory and schedules."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from operator import not_
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sensitivity.quantizers.recent import Recent
from sensitivity.quantizers.torch.native import NativeQuantizer
from sensitivity.simulators.schedule import Leg, Network, Schedule, Step, Value, schedule
from sensitivity.simulators.torch.lanes import side_by_side
from sensitivity.simulators.torch.layouts import (
    fills_vectors,
    has_channels_last,
    in_best_layout,
    keeping_layout,
)
from sensitivity.simulators.torch.tracing import Node, Run, Traced

Slots = list[Any]

SCHEDULES = 8
"""Number of schedules to keep. A scan asks for the same variants in each batch; a race drops some
now and then."""


@dataclass(frozen=True)
class _Forward:
    """Measurements of one forward, which hold for all batches of its shape.

    size: bytes of new memory that each node takes.
    output_bytes: bytes of the outputs.
    depends_on_position: whether an op whose bits depend on the position in memory has elements left
        over after its last full vector.
    """

    size: tuple[int, ...]
    output_bytes: int
    depends_on_position: bool


@dataclass
class _Runner:
    """How a node is run.

    run: returns its value.
    overwrite: returns its value in the memory of the first value that it reads. None if it cannot.
    """

    run: Run
    overwrite: Run | None = None


@dataclass(frozen=True)
class Runners:
    """How the nodes of a graph run.

    by_node: position of a node -> how it runs.
    channels_last: whether images may have their channels last in the graph.
    """

    by_node: dict[int, _Runner]
    channels_last: bool


class Graph:
    """A traced model that runs variants on the flat inputs of one batch, cut into equal pieces.

    A variant is a mask, the bits of its disabled quantizers.

    quantizers: the operations of quantizers, by the index of their nodes.
    bits: the bit that disables each of them.
    runners: how the other nodes run. None finds it out at the first batch.
    """

    def __init__(
        self,
        traced: Traced,
        quantizers: Sequence[NativeQuantizer],
        bits: Sequence[int],
        runners: Runners | None = None,
    ) -> None:
        self.batches = traced.batches
        self._traced = traced
        self._network = _network(traced, quantizers, bits)
        self._whole = schedule(self._network, [0])
        self._runners = [_runner(node, quantizers) for node in traced.nodes]
        self._fixed: dict[Value, Any] = {}
        self._measured: dict[Any, _Forward] = {}
        self._schedules = Recent[Schedule](SCHEDULES)
        self._channels_last = False
        self._is_in_best_layout = runners is not None
        if runners is not None:
            self._reuse(runners)

    @property
    def runners(self) -> Runners:
        """How the nodes run, after a first batch."""
        return Runners(dict(enumerate(self._runners)), self._channels_last)

    def _reuse(self, runners: Runners) -> None:
        self._channels_last = runners.channels_last
        for place, node in enumerate(self._traced.nodes):
            if node.kind != "quantizer":
                self._runners[place] = runners.by_node[place]
            elif runners.channels_last and not self._network.fixed[place]:
                self._keep_layout(place)

    def _keep_layout(self, place: int) -> None:
        runner = self._runners[place]
        runner.run, runner.overwrite = keeping_layout(runner.run, runner.overwrite)

    def holds_for(self, length: int | None) -> bool:
        """Return whether the graph holds for batches of this length.

        length: None for inputs that have none.
        """
        return self._traced.holds_for(length)

    def largest(self, leaves: Sequence[Any]) -> int:
        """Return the bytes of the largest value in one forward on these inputs."""
        return max(self._forward(leaves).size, default=0)

    def depends_on_position(self, leaves: Sequence[Any]) -> bool:
        """Return whether a bit of a forward may depend on how these inputs are cut, see
        `layouts.depends_on_position`."""
        is_possible = any(node.depends_on_position for node in self._traced.nodes)
        return is_possible and self._forward(leaves).depends_on_position

    def peak(
        self,
        pieces: Sequence[Sequence[Any]],
        masks: Sequence[int],
        memory: int | None,
        lanes: int = 1,
    ) -> int:
        """Return the largest number of bytes that are held at once while these variants run.

        Weights, inputs, the scratch memory of ops, and outputs that the caller keeps do not count.

        pieces: flat inputs of each piece of the batch.
        memory: limit in bytes; None for no limit.
        lanes: how many pieces run side by side.
        """
        return self._schedule(pieces, masks, memory, lanes).peak

    def outputs(
        self,
        pieces: Sequence[Sequence[Any]],
        masks: Sequence[int],
        memory: int | None,
        lanes: int = 1,
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index into `masks`, outputs of the whole batch), the cheapest variant first. The
        caller must disable gradients.

        pieces, masks, memory, lanes: as for `peak`.
        """
        plan = self._schedule(pieces, masks, memory, lanes)
        states = [self._start(plan, piece) for piece in pieces]
        for leg in plan.legs:
            yield leg.variant, self._outputs(leg, states, lanes)

    def seconds(self, pieces: Sequence[Sequence[Any]], lanes: int = 1) -> float:
        """Return how long all variants with one quantizer disabled would take, in seconds, from the
        times of one forward of each piece.

        The time of a node counts once for each quantizer upstream of it, since so many of these
        variants recompute it.

        lanes: how many pieces run side by side.
        """
        # Constants are computed before, so that two lanes do not compute them at once.
        states = [self._start(self._whole, piece) for piece in pieces]
        return sum(side_by_side(self._weighted_seconds, states, lanes)) / lanes

    def _weighted_seconds(self, slots: Slots) -> float:
        """Run one forward and return the seconds of its nodes, each as often as there are
        quantizers upstream of it."""
        upstream = self._network.upstream
        total = 0.0
        for step in self._steps:
            start = time.perf_counter()
            self._do(step, slots)
            taken = time.perf_counter() - start
            total += taken * upstream[step.node].bit_count()
        return total

    @property
    def _steps(self) -> tuple[Step, ...]:
        """The steps of one forward with all quantizers enabled."""
        return self._whole.legs[0].steps

    def _schedule(
        self,
        pieces: Sequence[Sequence[Any]],
        masks: Sequence[int],
        memory: int | None,
        lanes: int,
    ) -> Schedule:
        forward = self._forward(pieces[0])
        key = (tuple(masks), memory, len(pieces), lanes, forward.size)

        def make() -> Schedule:
            network = replace(self._network, size=forward.size, output_bytes=forward.output_bytes)
            return schedule(network, masks, memory, len(pieces), lanes)

        return self._schedules.get(key, make)

    def _forward(self, leaves: Sequence[Any]) -> _Forward:
        """Return the measurements of one forward on inputs of these shapes, with all quantizers
        enabled."""
        shapes = _shapes(leaves)
        if not self._is_in_best_layout:
            self._lay_out(leaves)
            self._is_in_best_layout = True
        if shapes not in self._measured:
            self._measured[shapes] = self._measure(leaves)
        return self._measured[shapes]

    def _measure(self, leaves: Sequence[Any]) -> _Forward:
        slots = self._start(self._whole, leaves)
        size = [0] * len(self._traced.nodes)
        depends_on_position = False
        for step in self._steps:
            read = _take(slots, step.reads)
            slots[step.out] = self._runners[step.node].run(*read)
            if self._traced.nodes[step.node].depends_on_position:
                depends_on_position |= not all(map(fills_vectors, read))
            before, after = _storages(read), _storages(slots[step.out])
            size[step.node] = sum(after[address] for address in after.keys() - before.keys())
            _empty(slots, step.frees)
        outputs = _take(slots, self._whole.legs[0].outputs)
        output_bytes = sum(tensor.nbytes for tensor in _tensors(outputs))
        return _Forward(tuple(size), output_bytes, depends_on_position)

    def _lay_out(self, leaves: Sequence[Any]) -> None:
        """Choose for each node whether it runs on images with channels last.

        Each choice is tried in a forward beside one in the model's own layout, with all quantizers
        enabled.
        """
        constants = [node.tensor for node in self._traced.nodes]
        if any(map(has_channels_last, [*leaves, *constants])):
            return  # The model has a layout of its own, on which its bits depend.
        self._channels_last = True
        plain, slots = self._start(self._whole, leaves), self._start(self._whole, leaves)
        for step in self._steps:
            read, given = _take(plain, step.reads), _take(slots, step.reads)
            plain[step.out] = self._runners[step.node].run(*read)
            self._choose_runner(step.node, read, given)
            slots[step.out] = self._runners[step.node].run(*given)
            _empty(plain, step.frees)
            _empty(slots, step.frees)

    def _choose_runner(self, place: int, plain: Sequence[Any], given: Sequence[Any]) -> None:
        """Choose how one node runs.

        place: position of the node.
        plain, given: as for `in_best_layout`.
        """
        node, runner = self._traced.nodes[place], self._runners[place]
        if node.kind == "quantizer":
            self._keep_layout(place)
            return
        found = in_best_layout(
            runner.run,
            plain,
            given,
            try_channels_last=node.prefers_channels_last,
            by_position=node.depends_on_position,
        )
        if found is not runner.run and runner.overwrite is not None:
            runner.overwrite = found
        runner.run = found

    def _start(self, plan: Schedule, leaves: Sequence[Any]) -> Slots:
        slots: Slots = [None] * plan.slots
        for value, slot in plan.fixed.items():
            slots[slot] = self._constant(value)
        given = dict(zip(self._traced.inputs, leaves, strict=True))
        for place, slot in plan.inputs.items():
            slots[slot] = given[place]
        return slots

    def _constant(self, value: Value) -> Any:
        """Return a value that depends on no input, such as a quantized weight. It is computed
        once."""
        if value not in self._fixed:
            node, _ = value
            if self._traced.nodes[node].kind == "tensor":
                self._fixed[value] = self._traced.nodes[node].tensor
            else:
                read = map(self._constant, self._network.reads(value))
                self._fixed[value] = self._runners[node].run(*read)
        return self._fixed[value]

    def _do(self, step: Step, slots: Slots) -> None:
        runner = self._runners[step.node]
        run = runner.overwrite if step.overwrite else runner.run
        slots[step.out] = run(*[slots[slot] for slot in step.reads])  # type: ignore[misc]
        for slot in step.frees:
            slots[slot] = None

    def _finish(self, leg: Leg, slots: Slots) -> list[Any]:
        """Run the steps of one leg and return its outputs, whose memory later legs may still
        read."""
        for step in leg.steps:
            self._do(step, slots)
        results = _take(slots, leg.outputs)
        _empty(slots, leg.frees)
        return results

    def _outputs(self, leg: Leg, states: list[Slots], lanes: int) -> Any:
        """Run one leg and return the outputs of the whole batch, in memory of their own."""
        results = side_by_side(partial(self._finish, leg), states, lanes)
        if len(results) == 1:
            own = zip(results[0], leg.owned, strict=True)
            values = [value if owned else _copy(value) for value, owned in own]
        else:
            values = list(map(_joined, zip(*results, strict=True)))
        return self._traced.nested(map(self._handed, values))

    def _handed(self, value: Any) -> Any:
        """Return an output in the layout in which the model gives it."""
        is_converted = self._channels_last and has_channels_last(value)
        return value.contiguous() if is_converted else value


def _runner(node: Node, quantizers: Sequence[NativeQuantizer]) -> _Runner:
    if node.kind == "quantizer":
        quantizer = quantizers[node.index]
        return _Runner(quantizer, quantizer.overwrite)
    return _Runner(node.run, node.overwrite)


def _take(slots: Slots, places: Sequence[int]) -> list[Any]:
    return [slots[place] for place in places]


def _empty(slots: Slots, places: Sequence[int]) -> None:
    for place in places:
        slots[place] = None


def _network(traced: Traced, quantizers: Sequence[NativeQuantizer], bits: Sequence[int]) -> Network:
    fixed: list[bool] = []
    switch: list[int] = []
    fresh: list[bool] = []
    overwrites: list[bool] = []
    for node in traced.nodes:
        is_quantizer = node.kind == "quantizer"
        kernel = quantizers[node.index] if is_quantizer else node
        fixed.append(node.kind != "input" and all(fixed[dep] for dep in node.deps))
        switch.append(bits[node.index] if is_quantizer else 0)
        fresh.append(kernel.fresh)
        overwrites.append(kernel.overwrite is not None)
    return Network(
        deps=tuple(node.deps for node in traced.nodes),
        switch=tuple(switch),
        fixed=tuple(fixed),
        fresh=tuple(fresh),
        overwrites=tuple(overwrites),
        size=(0,) * len(traced.nodes),
        outputs=tuple(compress(traced.outputs, map(not_, traced.constant))),
    )


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


def _shapes(leaves: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in _tensors(leaves))


def _storages(value: Any) -> dict[int, int]:
    """Return the memory of every tensor in a nest, as address -> bytes."""
    found = {}
    for tensor in _tensors(pytree.tree_leaves(value)):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    return found


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _joined(pieces: tuple[Any, ...]) -> Any:
    """Return one output of the whole batch from its pieces.

    Whether axis 0 of a tensor is the batch is not known here; splitting was checked before.
    """
    if isinstance(pieces[0], Tensor) and pieces[0].ndim:
        return torch.cat(pieces)
    return _copy(pieces[0])
