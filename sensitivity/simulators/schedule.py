"""Schedules which values to compute, in which order, and when to release each, so that variants
share what they have in common.

A node's value depends on the variant only through the quantizers upstream of it. A value is
therefore named by its node and the disabled quantizers upstream. Two variants that agree on these
share it, and each value is computed once. For one variant per layer this means "recompute only what
lies downstream". The module is pure: no torch, no tensors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain

Value = tuple[int, int]
"""A node, and the bits of the disabled quantizers upstream of it."""


@dataclass(frozen=True)
class Network:
    """A functional graph in topological order; every field but `outputs` and `output_bytes` has one
    entry per node.

    deps: nodes that it reads; a node without any that is not fixed is an input of the model.
    switch: bit of a quantizer's node, 0 for any other; while disabled, a quantizer gives back the
        first node that it reads.
    fixed: whether it does not depend on the model's inputs.
    fresh: whether its result never shares memory with what it reads.
    overwrites: whether it can put its result into the memory of the first node it reads.
    size: bytes of its result.
    outputs: nodes whose values the model returns.
    twins: for a quantizer's node that reads and computes the same as another, that other node,
        whose values then serve for both; itself for every other node. None if there are no twins.
    output_bytes: bytes of the outputs as the caller gets them, copied or joined.
    """

    deps: tuple[tuple[int, ...], ...]
    switch: tuple[int, ...]
    fixed: tuple[bool, ...]
    fresh: tuple[bool, ...]
    overwrites: tuple[bool, ...]
    size: tuple[int, ...]
    outputs: tuple[int, ...]
    twins: tuple[int, ...] | None = None
    output_bytes: int = 0

    @cached_property
    def upstream(self) -> tuple[int, ...]:
        """Bits of all quantizers that the value of each node depends on."""
        upstream: list[int] = []
        for deps, bits in zip(self.deps, self.switch, strict=True):
            for dep in deps:
                bits |= upstream[dep]
            upstream.append(bits)
        return tuple(upstream)

    def reads(self, value: Value) -> list[Value]:
        """Return the values that a value is computed from, in the order of its node's deps."""
        node, mask = value
        return [value_of(self, dep, mask) for dep in self.deps[node]]


@dataclass(frozen=True)
class Step:
    """One computation: run `node` on the values in slots `reads`, put the result into slot `out`,
    then empty the slots `frees`.

    overwrite: whether nothing else will read the first of `reads`, so that its memory may be reused
        for the result.
    """

    node: int
    reads: tuple[int, ...]
    out: int
    overwrite: bool
    frees: tuple[int, ...]


@dataclass(frozen=True)
class Leg:
    """The remaining work for one variant once the legs before it are done.

    variant: index into the variants.
    steps: computations, in order.
    outputs: slots of the outputs.
    owned: for each output, whether nothing else reads its memory afterwards.
    frees: slots to empty once the outputs are handed out.
    """

    variant: int
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    owned: tuple[bool, ...]
    frees: tuple[int, ...]

    @cached_property
    def freed_by_steps(self) -> frozenset[int]:
        """The slots that its steps empty."""
        return frozenset(chain.from_iterable(step.frees for step in self.steps))


@dataclass(frozen=True)
class Schedule:
    """The work for all variants.

    legs: one for each variant, in order.
    slots: number of slots.
    inputs: node of an input -> its slot.
    fixed: value that no input changes -> its slot, which is filled once for all batches.
    peak: largest number of bytes held at once until outputs are handed out; fixed values and inputs
        are not counted.
    """

    legs: tuple[Leg, ...]
    slots: int
    inputs: dict[int, int]
    fixed: dict[Value, int]
    peak: int


def order(masks: Sequence[int], bits: Sequence[int]) -> list[int]:
    """Return the indices of the variants in an order in which those with a common beginning follow
    each other.

    Where variants part, the smaller group goes first: the values that it starts from are then
    released while the larger group runs.

    masks: disabled quantizers of each variant.
    bits: one per quantizer, in the order the network meets them.

    >>> order([0b00, 0b01, 0b10], [0b01, 0b10])
    [1, 2, 0]
    """
    return _ordered(list(range(len(masks))), masks, bits)


def _ordered(group: list[int], masks: Sequence[int], bits: Sequence[int]) -> list[int]:
    """Return the indices of a group of variants in the order that `order` describes."""
    result: list[int] = []
    for position, bit in enumerate(bits, 1):
        enabled: list[int] = []
        disabled: list[int] = []
        for index in group:
            part = disabled if masks[index] & bit else enabled
            part.append(index)
        if enabled and disabled:
            few, group = sorted((disabled, enabled), key=len)
            result += _ordered(few, masks, bits[position:])
    return result + group


def schedule(
    network: Network,
    masks: Sequence[int],
    memory: int | None = None,
    copies: int = 1,
    lanes: int = 1,
) -> Schedule:
    """Return the cheapest schedule found that holds at most `memory` bytes.

    If the limit is too small, values that wait for a later variant are dropped and computed again,
    those needed farthest in the future first. One forward of one variant is never split, so `peak`
    can stay above `memory`.

    masks: disabled quantizers of each variant.
    memory: limit in bytes; None means no limit.
    copies: number of micro-batches, each with its own kept values.
    lanes: how many of them run side by side; the others take turns.
    """
    bits = list(dict.fromkeys(filter(None, network.switch)))
    ranked = [(index, masks[index]) for index in order(masks, bits)]
    dropped: set[Value] = set()
    draft = best = _draft(network, ranked, dropped)
    peak, leg = _peak(network, draft, copies, lanes)
    lowest = peak
    while memory is not None and peak > memory:
        victims = _victims(network, draft, leg, peak - memory, copies)
        if not victims:
            break
        dropped |= victims
        draft = _draft(network, ranked, dropped)
        peak, leg = _peak(network, draft, copies, lanes)
        if peak < lowest:
            lowest, best = peak, draft
    return _finish(network, best, lowest)


HANDOUT = -1
"""Node of a moment at which a variant's outputs are handed out."""


@dataclass
class _Draft:
    """A schedule before it is known when each slot can be emptied.

    values: value of each slot.
    moments: (node, slots read, slot filled), or (HANDOUT, output slots, -1).
    legs: (variant, first moment, moment of handing out).
    """

    inputs: dict[int, int] = field(default_factory=dict)
    fixed: dict[Value, int] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)
    moments: list[tuple[int, tuple[int, ...], int]] = field(default_factory=list)
    legs: list[tuple[int, int, int]] = field(default_factory=list)


def _draft(network: Network, ranked: list[tuple[int, int]], dropped: set[Value]) -> _Draft:
    draft = _Draft()
    held: dict[Value, int] = {}
    for variant, mask in ranked:
        first = len(draft.moments)
        outputs = [value_of(network, node, mask) for node in network.outputs]
        for value in needed(outputs, held, partial(_reads_of_moment, network)):
            _add(network, draft, held, value)
        draft.legs.append((variant, first, len(draft.moments)))
        draft.moments.append((HANDOUT, tuple(held[value] for value in outputs), -1))
        for value in dropped & held.keys():
            del held[value]
    return draft


def value_of(network: Network, node: int, mask: int) -> Value:
    """Return the value of a node with the quantizers of `mask` disabled; for a disabled quantizer,
    the value of the node that it reads first."""
    while network.switch[node] & mask:
        node = network.deps[node][0]
    # The own bit of an enabled quantizer is not in the mask.
    upstream = network.upstream[node] & ~network.switch[node]
    if network.twins:
        node = network.twins[node]
    return node, mask & upstream


def needed(
    wanted: Iterable[Value],
    held: Container[object],
    reads: Callable[[Value], Iterable[Value]],
) -> list[Value]:
    """Return the values that have to be computed for the wanted ones and are not held, each after
    those that it reads.

    reads: returns the values that a value is computed from.
    """
    found: set[Value] = set()
    waiting = list(wanted)
    while waiting:
        value = waiting.pop()
        if value not in held and value not in found:
            found.add(value)
            waiting += reads(value)
    return sorted(found)


def _reads_of_moment(network: Network, value: Value) -> list[Value]:
    """Return what `Network.reads` returns, but nothing for fixed values, which are computed once
    beforehand."""
    node, _ = value
    return [] if network.fixed[node] else network.reads(value)


def _add(network: Network, draft: _Draft, held: dict[Value, int], value: Value) -> None:
    node, _ = value
    slot = held[value] = len(draft.values)
    draft.values.append(value)
    if network.fixed[node]:
        draft.fixed[value] = slot
    elif not network.deps[node]:
        draft.inputs[node] = slot
    else:
        reads = tuple(held[read] for read in network.reads(value))
        draft.moments.append((node, reads, slot))


def _lives(draft: _Draft) -> list[int]:
    """Return the moment at which each slot is last read."""
    last = [-1] * len(draft.values)
    for moment, (_, reads, out) in enumerate(draft.moments):
        for slot in reads:
            last[slot] = moment
        if out >= 0:
            last[out] = moment
    return last


def _holds(network: Network, draft: _Draft) -> list[int]:
    """Return the moment at which the memory of each slot can be released: when its last view was
    last read."""
    holds = _lives(draft)
    for node, reads, out in reversed(draft.moments):
        if node == HANDOUT or network.fresh[node]:
            continue
        for slot in reads:
            holds[slot] = max(holds[slot], holds[out])
    return holds


def _peak(network: Network, draft: _Draft, copies: int, lanes: int) -> tuple[int, int]:
    """Return the largest number of bytes held at once, and the leg in which it is reached.

    Micro-batches take turns at each leg. While some of them run, side by side, each of the others
    holds what waits before the leg, or what is left after it, outputs included; then the outputs of
    all are joined.
    """
    at_once = min(lanes, copies)
    others = copies - at_once
    holds = _holds(network, draft)
    going = [0] * len(draft.moments)
    held = peak = worst_leg = 0
    for leg, (_, first, handout) in enumerate(draft.legs):
        before = running = held
        for moment in range(first, handout):
            node, _, out = draft.moments[moment]
            going[holds[out]] += network.size[node]
            held += network.size[node]
            running = max(running, held)
            held -= going[moment]
        in_leg = at_once * running + others * max(before, held)
        most = max(in_leg, copies * (held + network.output_bytes))
        if most > peak:
            peak, worst_leg = most, leg
        held -= going[handout]
    return peak, worst_leg


def _victims(network: Network, draft: _Draft, leg: int, excess: int, copies: int) -> set[Value]:
    """Return values to drop, those needed farthest in the future first, enough to save `excess`
    bytes if there are as many.

    They are values kept from an earlier leg for this one, or during it for a later one.
    """
    _, first, handout = draft.legs[leg]
    last = _lives(draft)
    # Slot -> moment of its next read after this leg, or of its last read if none follows.
    needed_at: dict[int, int] = {}
    for moment, (node, _, out) in enumerate(draft.moments[:handout]):
        if node == HANDOUT:
            continue
        is_for_later = last[out] > handout
        is_from_earlier = moment < first <= last[out]
        if is_for_later or is_from_earlier:
            needed_at[out] = last[out]
    for moment in range(len(draft.moments) - 1, handout, -1):
        read = needed_at.keys() & draft.moments[moment][1]
        needed_at.update(dict.fromkeys(read, moment))
    victims: set[Value] = set()
    for slot in sorted(needed_at, key=needed_at.__getitem__, reverse=True):
        if excess <= 0:
            break
        victims.add(draft.values[slot])
        excess -= network.size[draft.values[slot][0]] * copies
    return victims


def _finish(network: Network, draft: _Draft, peak: int) -> Schedule:
    last = _lives(draft)
    exclusive = _exclusive(network)
    is_exclusive = [exclusive[node] for node, _ in draft.values]
    stays = set(draft.fixed.values())
    frees: defaultdict[int, list[int]] = defaultdict(list)
    for slot, moment in enumerate(last):
        if slot not in stays:
            frees[moment].append(slot)

    def is_alone(slot: int, moment: int) -> bool:
        """Return whether a single read at this moment is the last use of a slot's memory."""
        reads = draft.moments[moment][1]
        return is_exclusive[slot] and last[slot] == moment and reads.count(slot) == 1

    def step(moment: int) -> Step:
        node, reads, out = draft.moments[moment]
        overwrite = network.overwrites[node] and is_alone(reads[0], moment)
        return Step(node, reads, out, overwrite, tuple(frees[moment]))

    def leg(variant: int, first: int, handout: int) -> Leg:
        outputs = draft.moments[handout][1]
        owned = tuple(is_alone(slot, handout) for slot in outputs)
        steps = tuple(map(step, range(first, handout)))
        return Leg(variant, steps, outputs, owned, tuple(frees[handout]))

    legs = tuple(leg(*entry) for entry in draft.legs)
    return Schedule(legs, len(draft.values), draft.inputs, draft.fixed, peak)


def _exclusive(network: Network) -> list[bool]:
    """Return whether no other value ever shares the memory of each node. A disabled quantizer
    counts as the node that it reads."""
    exclusive = list(map(bool, network.deps))
    for node, deps in enumerate(network.deps):
        if network.fixed[node] or not network.fresh[node]:
            exclusive[node] = False
        if not network.fresh[node]:
            for source in deps:
                _mark_shared(source, network, exclusive)
    return exclusive


def _mark_shared(node: int, network: Network, exclusive: list[bool]) -> None:
    """Mark a node as not exclusive, and every node that it gives back while it is disabled."""
    exclusive[node] = False
    while network.switch[node]:
        node = network.deps[node][0]
        exclusive[node] = False
