"""Which values to compute, in which order, and when to let each go, so that variants share what
they have in common.

A node's value depends on the variant only through the quantizers upstream of it. So a value is
named by its node and the disabled quantizers upstream: two variants that agree on these share it,
and each value is computed once. For one variant per layer that is exactly "recompute only what lies
downstream". Pure: no torch, no tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

Value = tuple[int, int]
"""A node, and the bits of the disabled quantizers upstream of it."""


@dataclass(frozen=True)
class Network:
    """A functional graph in topological order; every field but `outputs` and `handed` has one entry
    per node.

    deps: the nodes it reads; a node without any, and not fixed, is an input of the model.
    switch: the bit of a quantizer's node, 0 for any other; while disabled it gives back the first
    node that it reads.
    fixed: it does not depend on the model's inputs. fresh: its result never shares memory with what
    it reads.
    overwrites: it can put its result into the memory of the first node it reads. size: bytes of its
    result.
    outputs: the nodes whose values the model returns. twins: for a quantizer's node that reads and
    computes the same as another, that other one, whose values then serve for both; itself for all
    else; None where there are none.
    handed: bytes of the outputs as they are handed out, copied or joined.
    """

    deps: tuple[tuple[int, ...], ...]
    switch: tuple[int, ...]
    fixed: tuple[bool, ...]
    fresh: tuple[bool, ...]
    overwrites: tuple[bool, ...]
    size: tuple[int, ...]
    outputs: tuple[int, ...]
    twins: tuple[int, ...] | None = None
    handed: int = 0

    @cached_property
    def upstream(self) -> tuple[int, ...]:
        """For each node the bits of all quantizers that its value depends on."""
        upstream: list[int] = []
        for deps, bits in zip(self.deps, self.switch, strict=True):
            for dep in deps:
                bits |= upstream[dep]
            upstream.append(bits)
        return tuple(upstream)


@dataclass(frozen=True)
class Step:
    """Run `node` on the values in slots `reads`, put the result into slot `out`, then empty the
    slots `frees`.

    overwrite: nothing else will read the first of `reads`, so its memory may be reused for the
    result.
    """

    node: int
    reads: tuple[int, ...]
    out: int
    overwrite: bool
    frees: tuple[int, ...]


@dataclass(frozen=True)
class Leg:
    """What is left to do for one variant once the legs before it are done.

    variant: index into the variants. owned: for each output, whether its memory is read by nobody
    else afterwards.
    """

    variant: int
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    owned: tuple[bool, ...]
    frees: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """inputs: node to slot. fixed: the slots to fill with values that no input changes, once for
    all batches.
    peak: the most bytes held at once until outputs are handed out; fixed values and inputs are not
    counted.
    """

    legs: tuple[Leg, ...]
    slots: int
    inputs: dict[int, int]
    fixed: dict[Value, int]
    peak: int


def order(masks: Sequence[int], bits: Sequence[int]) -> list[int]:
    """Indices of the variants in an order in which those with a common beginning follow each other.

    masks: the disabled quantizers of each variant. bits: one per quantizer, in the order the
    network meets them. Where variants part, the fewer go first: what they all start from is then
    let go while the many run.

    >>> order([0b00, 0b01, 0b10], [0b01, 0b10])
    [1, 2, 0]
    """
    result: list[int] = []
    group = list(range(len(masks)))
    for position, bit in enumerate(bits):
        disabled = [index for index in group if masks[index] & bit]
        enabled = [index for index in group if not masks[index] & bit]
        parts_here = bool(disabled) and bool(enabled)
        if not parts_here:
            continue
        few, group = sorted((disabled, enabled), key=len)
        order_of_few = order([masks[index] for index in few], bits[position + 1 :])
        result += [few[index] for index in order_of_few]
    return result + group


def schedule(
    network: Network, masks: Sequence[int], memory: int | None = None, copies: int = 1
) -> Schedule:
    """The cheapest schedule found that holds at most `memory` bytes; None means no limit.

    copies: how many micro-batches wait, each with its own kept values, while one of them is run.
    Where the limit is too small, values that wait for a later variant are dropped and computed
    again, those needed farthest in the future first. One forward of one variant is never split, so
    `peak` can stay above `memory`.
    """
    bits = list(dict.fromkeys(bit for bit in network.switch if bit))
    ranked = [(index, masks[index]) for index in order(masks, bits)]
    dropped: set[Value] = set()
    draft = best = _draft(network, ranked, dropped)
    peak, at = _peak(network, draft, copies)
    lowest = peak
    while memory is not None and peak > memory:
        victims = _victims(network, draft, at, peak - memory, copies)
        if not victims:
            break
        dropped |= victims
        draft = _draft(network, ranked, dropped)
        peak, at = _peak(network, draft, copies)
        if peak < lowest:
            lowest, best = peak, draft
    return _finish(network, best, lowest)


HANDOUT = -1
"""The node of a moment at which a variant's outputs are handed out."""


@dataclass
class _Draft:
    """A schedule before it is known when each slot can be emptied.

    values: by slot. moments: (node, slots read, slot filled), or (HANDOUT, output slots, -1).
    legs: (variant, first moment, the moment of handing out).
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
        for value in _missing(network, outputs, held):
            _add(network, draft, held, value)
        draft.legs.append((variant, first, len(draft.moments)))
        draft.moments.append((HANDOUT, tuple(held[value] for value in outputs), -1))
        for value in dropped & held.keys():
            del held[value]
    return draft


def value_of(network: Network, node: int, mask: int) -> Value:
    """The value of a node where `mask` is disabled; that of what it first reads where it is a
    disabled quantizer."""
    while network.switch[node] & mask:
        node = network.deps[node][0]
    # an enabled quantizer's own bit is not in the mask
    upstream = network.upstream[node] & ~network.switch[node]
    return network.twins[node] if network.twins else node, mask & upstream


def _missing(network: Network, wanted: list[Value], held: dict[Value, int]) -> list[Value]:
    """The values not held that the wanted ones need, in an order in which they can be computed."""
    found: set[Value] = set()
    waiting = [value for value in wanted if value not in held]
    while waiting:
        value = waiting.pop()
        if value in found:
            continue
        found.add(value)
        if not network.fixed[value[0]]:
            deps = (value_of(network, dep, value[1]) for dep in network.deps[value[0]])
            waiting += [dep for dep in deps if dep not in held]
    return sorted(found)


def _add(network: Network, draft: _Draft, held: dict[Value, int], value: Value) -> None:
    node, mask = value
    slot = held[value] = len(draft.values)
    draft.values.append(value)
    if network.fixed[node]:
        draft.fixed[value] = slot
    elif not network.deps[node]:
        draft.inputs[node] = slot
    else:
        reads = tuple(held[value_of(network, dep, mask)] for dep in network.deps[node])
        draft.moments.append((node, reads, slot))


def _lives(draft: _Draft) -> list[int]:
    """For each slot the moment it is last read."""
    last = [-1] * len(draft.values)
    for moment, (_, reads, out) in enumerate(draft.moments):
        for slot in reads:
            last[slot] = moment
        if out >= 0:
            last[out] = moment
    return last


def _holds(network: Network, draft: _Draft) -> list[int]:
    """For each slot the moment its memory can go: when its last view was last read."""
    holds = _lives(draft)
    for node, reads, out in reversed(draft.moments):
        if node != HANDOUT and not network.fresh[node]:
            for slot in reads:
                holds[slot] = max(holds[slot], holds[out])
    return holds


def _peak(network: Network, draft: _Draft, copies: int) -> tuple[int, int]:
    """The most bytes held at once, and the leg in which that is.

    Micro-batches take turns at each leg. While one of them runs, each of the others holds what
    waits before the leg, or what is left after it, outputs included; then the outputs of all are
    joined.
    """
    holds = _holds(network, draft)
    going = [0] * len(draft.moments)
    held = peak = at = 0
    for leg, (_, first, handout) in enumerate(draft.legs):
        before = running = held
        for moment in range(first, handout):
            node, _, out = draft.moments[moment]
            going[holds[out]] += network.size[node]
            held += network.size[node]
            running = max(running, held)
            held -= going[moment]
        most = max(running + (copies - 1) * max(before, held), copies * (held + network.handed))
        if most > peak:
            peak, at = most, leg
        held -= going[handout]
    return peak, at


def _victims(network: Network, draft: _Draft, leg: int, excess: int, copies: int) -> set[Value]:
    """Values kept from an earlier leg for this one, or during it for a later one: enough of them to
    save `excess` bytes, where there are; those needed farthest in the future first."""
    _, first, handout = draft.legs[leg]
    last = _lives(draft)
    again: dict[int, int] = {}
    for moment in range(len(draft.moments) - 1, handout, -1):
        again.update(dict.fromkeys(draft.moments[moment][1], moment))
    made = [
        (moment, out)
        for moment, (node, _, out) in enumerate(draft.moments[:handout])
        if node != HANDOUT
    ]
    waiting = [out for moment, out in made if last[out] > handout or moment < first <= last[out]]
    victims: set[Value] = set()
    for slot in sorted(waiting, key=lambda slot: again.get(slot, last[slot]), reverse=True):
        if excess > 0:
            victims.add(draft.values[slot])
            excess -= network.size[draft.values[slot][0]] * copies
    return victims


def _finish(network: Network, draft: _Draft, peak: int) -> Schedule:
    last = _lives(draft)
    exclusive = _exclusive(network)
    mine = [exclusive[node] for node, _ in draft.values]
    stays = set(draft.fixed.values())
    frees: dict[int, list[int]] = {}
    for slot, moment in enumerate(last):
        if slot not in stays:
            frees.setdefault(moment, []).append(slot)

    def step(moment: int) -> Step:
        node, reads, out = draft.moments[moment]
        source = reads[0]
        alone = mine[source] and last[source] == moment and reads.count(source) == 1
        return Step(
            node, reads, out, network.overwrites[node] and alone, tuple(frees.get(moment, ()))
        )

    def leg(variant: int, first: int, handout: int) -> Leg:
        outputs = draft.moments[handout][1]
        owned = tuple(
            mine[slot] and last[slot] == handout and outputs.count(slot) == 1 for slot in outputs
        )
        steps = tuple(step(moment) for moment in range(first, handout))
        return Leg(variant, steps, outputs, owned, tuple(frees.get(handout, ())))

    legs = tuple(leg(*entry) for entry in draft.legs)
    return Schedule(legs, len(draft.values), draft.inputs, draft.fixed, peak)


def _exclusive(network: Network) -> list[bool]:
    """For each node, whether no other value ever shares its memory. A disabled quantizer counts as
    what it reads."""
    exclusive = [
        fresh and not fixed and bool(deps)
        for fresh, fixed, deps in zip(network.fresh, network.fixed, network.deps, strict=True)
    ]
    for node, deps in enumerate(network.deps):
        for source in () if network.fresh[node] else deps:
            exclusive[source] = False
            while network.switch[source]:
                source = network.deps[source][0]
                exclusive[source] = False
    return exclusive
