from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensitivity.simulators.schedule import Network, Schedule, order, schedule

Numbers = dict[int, list[int]]


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Random graphs: one input, weights, quantizers (also shared ones), views, joins, several
    outputs."""
    deps: list[tuple[int, ...]] = [(), ()]
    switch, fixed, fresh, overwrites, size = (
        [0, 0],
        [False, True],
        [True, True],
        [False, False],
        [0, 0],
    )
    for node in range(2, draw(st.integers(4, 16))):
        is_switch = draw(st.booleans())
        count = 1 if is_switch else draw(st.integers(1, 3))
        reads = tuple(draw(st.integers(0, node - 1)) for _ in range(count))
        deps.append(reads)
        switch.append(1 << draw(st.integers(0, 3)) if is_switch else 0)
        fixed.append(all(fixed[read] for read in reads))
        fresh.append(is_switch or draw(st.booleans()))
        overwrites.append(fresh[-1] and draw(st.booleans()))
        size.append(draw(st.integers(1, 9)) if fresh[-1] else 0)
    outputs = tuple(draw(st.lists(st.integers(0, len(deps) - 1), min_size=1, max_size=3)))
    return Network(*map(tuple, (deps, switch, fixed, fresh, overwrites, size)), outputs)  # type: ignore[arg-type]


masks = st.lists(st.integers(0, 15), min_size=1, max_size=6)


class Memory:
    """A cell of memory: a fresh node owns one, and a view is the cell of its input."""

    def __init__(self, content: object) -> None:
        self.content = content


def reference(network: Network, mask: int) -> list[object]:
    values: list[object] = []
    for node, deps in enumerate(network.deps):
        read = tuple(values[dep] for dep in deps)
        values.append(read[0] if network.switch[node] & mask else (node, read))
    return [values[node] for node in network.outputs]


def fixed_value(network: Network, node: int, mask: int) -> object:
    return reference(replace(network, outputs=(node,)), mask)[0]


def run(network: Network, plan: Schedule) -> dict[int, list[object]]:
    """Follows a schedule literally: emptied slots are gone, and an overwritten cell has lost its
    value."""
    slots: list[Memory | None] = [None] * plan.slots
    for (node, mask), slot in plan.fixed.items():
        slots[slot] = Memory(fixed_value(network, node, mask))
    for node, slot in plan.inputs.items():
        slots[slot] = Memory((node, ()))
    given_out = {}
    for leg in plan.legs:
        for step in leg.steps:
            read = [slots[slot] for slot in step.reads]
            assert None not in read
            content = (step.node, tuple(cell.content for cell in read if cell))
            if step.overwrite:
                read[0].content = content  # type: ignore[union-attr]
                slots[step.out] = read[0]
            elif network.fresh[step.node] or len(read) > 1:
                slots[step.out] = Memory(content)
            else:
                slots[step.out] = View(read[0], step.node)  # type: ignore[arg-type]
            for slot in step.frees:
                slots[slot] = None
        cells = [slots[slot] for slot in leg.outputs]
        assert None not in cells
        given_out[leg.variant] = [cell.content for cell in cells if cell]
        for cell, owned in zip(cells, leg.owned, strict=True):
            if owned:  # the user may write into what was handed out
                cell.content = "written over"  # type: ignore[union-attr]
        for slot in leg.frees:
            slots[slot] = None
    return given_out


class View(Memory):
    """A view changes with the memory under it."""

    def __init__(self, cell: Memory, node: int) -> None:
        self._cell, self._node = cell, node

    @property
    def content(self) -> object:  # type: ignore[override]
        return (self._node, (self._cell.content,))

    @content.setter
    def content(self, content: object) -> None:
        self._cell.content = content


@settings(max_examples=200, deadline=None)
@given(networks(), masks, st.sampled_from([None, 0, 5, 20]), st.integers(1, 3))
def test_every_variant_gets_what_it_would_get_alone(
    network: Network, masks: list[int], memory: int | None, copies: int
) -> None:
    given_out = run(network, schedule(network, masks, memory, copies))
    assert sorted(given_out) == list(range(len(masks)))
    for index, mask in enumerate(masks):
        assert given_out[index] == reference(network, mask)


@settings(max_examples=100, deadline=None)
@given(networks(), masks)
def test_without_a_limit_no_value_is_computed_twice(network: Network, masks: list[int]) -> None:
    plan = schedule(network, masks)
    steps = [step for leg in plan.legs for step in leg.steps]
    seen = {(step.node, step.reads) for step in steps}
    assert len(seen) == len(steps)


@settings(max_examples=100, deadline=None)
@given(networks(), masks)
def test_a_limit_never_costs_more_memory_and_never_saves_steps(
    network: Network, masks: list[int]
) -> None:
    free, tight = schedule(network, masks), schedule(network, masks, memory=0)
    assert tight.peak <= free.peak
    assert sum(len(leg.steps) for leg in tight.legs) >= sum(len(leg.steps) for leg in free.legs)


def held(network: Network, plan: Schedule, copies: int) -> int:
    """The most bytes held when micro-batches take turns at each leg, counted cell by cell after
    each step."""
    uncounted = {*plan.inputs.values(), *plan.fixed.values()}
    states: list[dict[int, frozenset[int]]] = [
        dict.fromkeys(uncounted, frozenset()) for _ in range(copies)
    ]
    size: dict[int, int] = {}
    most = 0
    for leg in plan.legs:
        results: list[frozenset[int]] = []
        for cells in states:
            for step in leg.steps:
                read = [cells[slot] for slot in step.reads]
                if step.overwrite:
                    cells[step.out] = read[0]
                elif network.fresh[step.node]:
                    size[len(size)] = network.size[step.node]
                    cells[step.out] = frozenset([len(size) - 1])
                else:
                    cells[step.out] = frozenset().union(*read)
                most = max(
                    most,
                    sum(
                        size[cell]
                        for cell in frozenset().union(
                            *results, *(c for s in states for c in s.values())
                        )
                    ),
                )
                for slot in step.frees:
                    del cells[slot]
            results += [cells[slot] for slot in leg.outputs]
            for slot in leg.frees:
                del cells[slot]
        waiting = frozenset().union(*results, *(c for s in states for c in s.values()))
        most = max(most, sum(size[cell] for cell in waiting) + copies * network.output_bytes)
    return most


@settings(max_examples=200, deadline=None)
@given(networks(), masks, st.sampled_from([None, 0, 5, 20]), st.integers(1, 4), st.integers(0, 9))
def test_the_announced_peak_is_what_micro_batches_in_turn_hold(
    network: Network, masks: list[int], memory: int | None, copies: int, output_bytes: int
) -> None:
    network = replace(network, output_bytes=output_bytes, overwrites=(False,) * len(network.deps))
    plan = schedule(network, masks, memory, copies)
    assert held(network, plan, copies) == plan.peak


@settings(max_examples=100, deadline=None)
@given(networks(), masks, st.integers(1, 4))
def test_micro_batches_side_by_side_hold_at_most_what_each_of_them_would_alone(
    network: Network, masks: list[int], copies: int
) -> None:
    alone = schedule(network, masks).peak
    beside = schedule(network, masks, copies=copies, lanes=copies).peak
    in_turn = schedule(network, masks, copies=copies).peak
    assert in_turn <= beside <= copies * alone


def test_with_no_memory_nothing_waits_from_one_variant_for_another() -> None:
    network, masks = two_branches(), [0, *(1 << bit for bit in range(6))]
    alone = max(schedule(network, [mask]).peak for mask in masks)
    assert schedule(network, masks, memory=0).peak == alone


def chain(length: int) -> Network:
    """input -> (quantizer -> layer) * length, each value of one byte."""
    deps: list[tuple[int, ...]] = [()]
    switch = [0]
    for layer in range(length):
        deps += [(len(deps) - 1,), (len(deps),)]
        switch += [1 << layer, 0]
    count = len(deps)
    flags = (True,) * count
    return Network(
        tuple(deps),
        tuple(switch),
        (False,) * count,
        flags,
        (False,) * count,
        (1,) * count,
        (count - 1,),
    )


def test_on_a_chain_each_unit_costs_only_what_lies_downstream() -> None:
    length = 10
    units = [1 << layer for layer in range(length)]
    plan = schedule(chain(length), [0, *units])
    steps = sum(len(leg.steps) for leg in plan.legs)
    # The baseline: 2 per layer. A unit: its own layer without its quantizer, and 2 for each layer
    # after it.
    assert steps == 2 * length + sum(1 + 2 * (length - 1 - layer) for layer in range(length))


def test_on_a_chain_only_one_value_waits_for_the_variants_to_come() -> None:
    plan = schedule(chain(50), [0, *(1 << layer for layer in range(50))])
    assert plan.peak <= 4


def test_variants_with_a_common_beginning_follow_each_other_and_the_fewer_go_first() -> None:
    assert order([0b000, 0b001, 0b010, 0b100], [0b001, 0b010, 0b100]) == [1, 2, 3, 0]
    assert order([0b111, 0b110, 0b101, 0b011], [0b001, 0b010, 0b100])[:2] == [1, 2]


def two_branches() -> Network:
    """input -> a big value that waits while a long branch runs many times, then joins."""
    deps: list[tuple[int, ...]] = [(), (0,), (1,)]
    switch = [0, 0, 1]
    for bit in range(1, 6):
        deps += [(len(deps) - 1,)]
        switch += [1 << bit]
    deps.append((len(deps) - 1, 1))
    switch.append(0)
    count = len(deps)
    size = tuple(100 if node == 1 else 10 for node in range(count))
    flags = (True,) * count
    return Network(
        tuple(deps), tuple(switch), (False,) * count, flags, (False,) * count, size, (count - 1,)
    )


def test_a_limit_that_can_be_held_is_held_by_computing_again() -> None:
    network, masks = two_branches(), [0, *(1 << bit for bit in range(6))]
    free = schedule(network, masks, copies=4)
    tight = schedule(network, masks, memory=free.peak - 1, copies=4)
    assert tight.peak < free.peak
    assert sum(len(leg.steps) for leg in tight.legs) > sum(len(leg.steps) for leg in free.legs)


@pytest.mark.parametrize("is_view", [True, False])
def test_memory_that_a_view_still_looks_at_is_not_overwritten(is_view: bool) -> None:
    network = Network(
        deps=((), (0,), (1,), (1,), (2, 3)),
        switch=(0,) * 5,
        fixed=(False,) * 5,
        fresh=(True, True, not is_view, True, True),
        overwrites=(False, False, False, True, False),
        size=(1,) * 5,
        outputs=(4,),
    )
    (leg,) = schedule(network, [0]).legs
    assert {step.node: step.overwrite for step in leg.steps}[3] is not is_view


def test_values_that_wait_are_counted_once_for_each_micro_batch() -> None:
    masks = [0, *(1 << bit for bit in range(6))]
    waiting = 100 + 10  # the big value, and the one at which the variants at work part
    assert (
        schedule(two_branches(), masks, copies=4).peak
        >= schedule(two_branches(), masks).peak + 3 * waiting
    )
