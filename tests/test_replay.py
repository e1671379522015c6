from __future__ import annotations

import gc
import itertools
import threading
from collections import deque
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import (
    Branches,
    Branching,
    Chain,
    Fixed,
    WritesIntoViews,
    batch,
    quantized,
    seeded,
)
from support.replays import Variants, check, copied
from torch import Tensor, nn

from sensitivity.errors import NamesError
from sensitivity.quantizers.alternatives import Alternatives
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.simulators import choose
from sensitivity.simulators.choose import BIT_FOR_BIT, simulator_for
from sensitivity.simulators.compare import difference, same
from sensitivity.simulators.schedule import schedule
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.simulators.torch import graph as graph_module
from sensitivity.simulators.torch import lanes
from sensitivity.simulators.torch import replay as replay_module
from sensitivity.simulators.torch.cache import TraceCache
from sensitivity.simulators.torch.graph import Graph
from sensitivity.simulators.torch.lanes import Cut, kernel_threads, most_lanes
from sensitivity.simulators.torch.replay import ReplaySimulator

pytest.importorskip("modelopt")


def source_of(build, *inputs: Tensor) -> ModelOptModel:
    return ModelOptModel(quantized(seeded(build), *inputs))


@pytest.fixture(scope="module")
def branches() -> ModelOptModel:
    return source_of(Branches, batch())


@pytest.fixture(scope="module")
def chain() -> ModelOptModel:
    return source_of(Chain, batch())


def scan(source: ModelOptModel) -> Variants:
    """What a scan asks for: quantized, float, each layer off, each layer on alone, weights only."""
    names = frozenset(quantizer.name for quantizer in source.quantizers)
    units = [frozenset(unit.quantizers) for unit in layers(source.quantizers)]
    weights = frozenset(
        quantizer.name for quantizer in source.quantizers if quantizer.role == "weight"
    )
    return [frozenset(), names, *units, *(names - unit for unit in units), weights]


@pytest.mark.parametrize("name", ["branches", "chain"])
@pytest.mark.parametrize("memory", [None, 60_000, 0], ids=["unlimited", "tight", "nothing"])
def test_every_variant_equals_the_toggled_model_bit_for_bit(
    name: str, memory: int | None, request
) -> None:
    source = request.getfixturevalue(name)
    check(source, ReplaySimulator(source, memory), batch(seed=7), scan(source))


def test_all_quantizers_off_equals_the_float_model(branches: ModelOptModel) -> None:
    names = frozenset(quantizer.name for quantizer in branches.quantizers)
    ((_, outputs),) = ReplaySimulator(branches).outputs(batch(seed=1), [names])
    with torch.no_grad():
        assert same(outputs, seeded(Branches)(batch(seed=1)))


def test_any_order_of_variants_gives_the_same_outputs(branches: ModelOptModel) -> None:
    simulator, variants = ReplaySimulator(branches), scan(branches)
    forward = copied(simulator.outputs(batch(), variants))
    backward = copied(simulator.outputs(batch(), variants[::-1]))
    assert all(same(forward[index], backward[len(variants) - 1 - index]) for index in forward)


def test_equal_variants_get_equal_outputs_of_their_own(branches: ModelOptModel) -> None:
    variant = frozenset(["left.input_quantizer"])
    outputs = copied(ReplaySimulator(branches).outputs(batch(), [variant, frozenset(), variant]))
    assert same(outputs[0], outputs[2])
    assert not same(outputs[0], outputs[1])


def test_a_smaller_last_batch_is_replayed_too(chain: ModelOptModel) -> None:
    simulator = ReplaySimulator(chain)
    for samples in (4, 3, 1):
        check(chain, simulator, batch(samples), scan(chain)[:4])
    assert "own modules" not in simulator.reason


def test_a_model_tied_to_its_batch_size_is_traced_for_each() -> None:
    source = source_of(Fixed, torch.randn(4, 3))
    simulator = ReplaySimulator(source)
    for samples in (4, 2):
        check(source, simulator, torch.randn(samples, 3), scan(source))


def test_more_shapes_than_graphs_run_on_the_models_own_modules(monkeypatch) -> None:
    monkeypatch.setattr(replay_module, "GRAPHS", 1)
    source = source_of(Fixed, torch.randn(4, 3))
    simulator = ReplaySimulator(source)
    for samples in (4, 2, 3):
        check(source, simulator, torch.randn(samples, 3), scan(source))
    assert (
        simulator.reason.count(
            "run on the model's own modules, since its batches have more than 1 shapes"
        )
        == 1
    )


class CountsSamples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.shape[0] != 3 else -self.fc(x)


def test_a_batch_size_at_which_the_graph_differs_from_the_model_runs_on_its_own_modules() -> None:
    source = source_of(CountsSamples, torch.randn(4, 3))
    simulator = ReplaySimulator(source)
    for samples in (4, 3, 5):
        check(source, simulator, torch.randn(samples, 3), scan(source))
    assert "run on the model's own modules, since its traced graph differs" in simulator.reason


def test_a_batch_with_large_values_is_cut_into_equal_pieces_and_gives_the_same_bits(
    branches: ModelOptModel, monkeypatch
) -> None:
    monkeypatch.setattr(replay_module, "LARGEST_VALUES", (8 * 8 * 8 * 4 * 2,))
    simulator = ReplaySimulator(branches, memory=100_000)
    check(branches, simulator, batch(6, seed=2), scan(branches))
    assert set(simulator._cuts.values()) == {Cut(3)}


@pytest.mark.parametrize("fastest", [1, 2, 3])
def test_a_batch_is_cut_in_the_way_that_takes_the_least_time(
    branches: ModelOptModel, fastest: int, monkeypatch
) -> None:
    one = 8 * 8 * 8 * 4
    monkeypatch.setattr(replay_module, "LARGEST_VALUES", (2 * one, 3 * one, 6 * one))
    monkeypatch.setattr(
        Graph, "seconds", lambda self, pieces, lanes: abs(6 // len(pieces[0][0]) - fastest)
    )
    simulator = ReplaySimulator(branches)
    check(branches, simulator, batch(6, seed=2), scan(branches))
    assert set(simulator._cuts.values()) == {Cut(fastest)}


def test_an_interrupt_ends_pieces_that_have_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    may_end = threading.Event()

    def piece(number: int) -> None:
        begun.append(number)
        may_end.wait(10)

    def interrupted(futures: Any, own: Any = lanes.wait) -> None:
        monkeypatch.setattr(lanes, "wait", own)
        may_end.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(lanes, "wait", interrupted)
    threads = torch.get_num_threads()
    with kernel_threads(2), pytest.raises(KeyboardInterrupt):
        lanes.side_by_side(piece, range(50), 2)
    assert len(begun) < 50
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("threads", [2, 8])
def test_pieces_run_side_by_side_if_that_takes_the_least_time_and_give_the_same_bits(
    chain: ModelOptModel, threads: int, monkeypatch
) -> None:
    seen = set()

    def seconds(self: Graph, pieces: Any, lanes: int) -> float:
        return 1 / lanes

    def told(self: Graph, *given: Any) -> Any:
        seen.add((threading.current_thread().name.partition("_")[0], torch.get_num_threads()))
        return finish(self, *given)

    finish = Graph._finish
    monkeypatch.setattr(Graph, "seconds", seconds)
    monkeypatch.setattr(Graph, "_finish", told)
    with kernel_threads(threads):
        lanes = most_lanes()
        simulator = ReplaySimulator(chain)
        simulator.prepare(batch(48, seed=2))
        assert set(simulator._cuts.values()) == {Cut(lanes, lanes)}
        seen.clear()
        check(chain, simulator, batch(48, seed=2), scan(chain)[:3])
        assert seen == {("lane", threads // lanes)}
        assert torch.get_num_threads() == threads


def test_the_users_own_quantizers_run_one_piece_after_the_other(branches: ModelOptModel) -> None:
    with kernel_threads(2):
        simulator = ReplaySimulator(branches, own=True)
        check(branches, simulator, batch(6), scan(branches)[:3])
        assert {cut.lanes for cut in simulator._cuts.values()} == {1}


@pytest.mark.parametrize(
    ("cut", "length", "expected"),
    [
        (Cut(2, 2), 16, Cut(2, 2)),
        (Cut(10, 2), 8, Cut(2, 2)),
        (Cut(10, 2), 16, Cut(4, 2)),
        (Cut(2, 2), 3, Cut(1)),
        (Cut(4), 25, Cut(2)),
    ],
)
def test_the_pieces_of_a_shorter_batch_are_no_longer_and_have_two_samples_at_least(
    cut: Cut, length: int, expected: Cut
) -> None:
    assert replay_module._shorter(cut, 50, length) == expected


def test_the_time_of_a_node_counts_as_often_as_there_are_quantizers_upstream(
    chain: ModelOptModel, monkeypatch
) -> None:
    simulator = ReplaySimulator(chain)
    simulator.prepare(batch())
    ((_, graph),) = simulator._graphs
    upstream = [
        graph._network.upstream[step.node].bit_count()
        for step in schedule(graph._network, [0]).legs[0].steps
    ]
    now = itertools.count()
    monkeypatch.setattr(graph_module.time, "perf_counter", lambda: float(next(now)))
    assert graph.seconds([[batch()]] * 3) == 3 * sum(upstream) > 0
    with kernel_threads(2):
        assert graph.seconds([[batch()]] * 2, lanes=2) > 0


def test_a_batch_is_not_cut_where_that_changes_the_numbers(monkeypatch) -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) - self.conv(x).mean(0)

    monkeypatch.setattr(replay_module, "LARGEST_VALUES", (100, 200))
    source = source_of(Mixing, batch())
    simulator = ReplaySimulator(source)
    check(source, simulator, batch(), scan(source))
    assert set(simulator._cuts.values()) == {Cut(1)}


def test_writes_into_views_are_replayed() -> None:
    source = source_of(WritesIntoViews, batch())
    check(source, ReplaySimulator(source), batch(seed=3), scan(source))


def test_a_shared_quantizer_switches_at_all_its_places() -> None:
    model = quantized(seeded(Chain), batch())
    model.conv5.input_quantizer = model.conv2.input_quantizer
    source = ModelOptModel(model)
    check(source, ReplaySimulator(source), batch(seed=3), scan(source))


def test_quantizers_without_an_integer_grid_are_replayed_with_the_users_own_modules() -> None:
    model = quantized(seeded(Chain), batch())
    for index in (2, 5):
        getattr(model, f"conv{index}").input_quantizer._num_bits = (4, 3)
    source = ModelOptModel(model)
    check(source, ReplaySimulator(source), batch(seed=3), scan(source))


def test_channels_last_inputs_give_the_same_bits(branches: ModelOptModel) -> None:
    inputs = batch(seed=4).to(memory_format=torch.channels_last)
    check(branches, ReplaySimulator(branches), inputs, scan(branches))


class Turned(nn.Module):
    """A layer that is faster with channels last, with operations that take only the other order: a
    view, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(3, 12, 3, padding=1, groups=3)
        self.dense = nn.Conv2d(12, 48, 3, padding=1)
        self.point = nn.Conv2d(48, 8, 1)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = torch.relu(self.depthwise(x))
        y = self.point(self.up(self.pool(torch.relu(self.dense(x)))))
        return [y, y.view(len(y), -1).softmax(1), y.mean((2, 3))]


def test_nodes_run_with_channels_last_where_that_changes_no_bit() -> None:
    source = source_of(Turned, batch())
    simulator = ReplaySimulator(source)
    check(source, simulator, batch(seed=5), scan(source))
    ((_, graph),) = simulator._graphs
    runs = [runner.run for runner in graph._runners]
    ways = [getattr(run, "__qualname__", "").partition(".")[0] for run in runs]
    assert (
        ways.count("_on_channels_last") >= 3
    )  # the depthwise convolution, the pooling, the upsampling
    assert "_contiguous_where" in ways  # the view


def test_outputs_are_laid_out_as_the_model_gives_them() -> None:
    source = source_of(Turned, batch())
    for _, outputs in ReplaySimulator(source).outputs(batch(), scan(source)[:2]):
        assert all(output.is_contiguous() for output in outputs)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, list[Tensor]]:
        one, two = self.a(first), self.b(second)
        return one + two, [one, second]


def test_several_inputs_by_position_or_name_and_nested_outputs_are_replayed() -> None:
    first, second = torch.randn(4, 3), torch.randn(4, 2)
    source = source_of(Two, first, second)
    variants = scan(source)
    for inputs in ((first, second), {"second": second, "first": first}):
        ours = dict(ReplaySimulator(source).outputs(inputs, variants))
        assert all(
            same(ours[index], theirs)
            for index, theirs in ToggleSimulator(source).outputs(inputs, variants)
        )


def test_writing_into_an_output_does_not_reach_the_inputs() -> None:
    first, second = torch.randn(4, 3), torch.randn(4, 2)
    before = second.clone()
    for _, outputs in ReplaySimulator(source_of(Two, first, second)).outputs(
        (first, second), [frozenset()]
    ):
        outputs[1][1].zero_()
    assert torch.equal(second, before)


def test_the_model_and_its_quantizers_are_never_touched(branches: ModelOptModel) -> None:
    before = branches.fingerprint()
    results = ReplaySimulator(branches).outputs(batch(), scan(branches))
    next(results)
    assert torch.is_grad_enabled()
    results.close()
    assert branches.fingerprint() == before


def test_an_unknown_name_is_refused(branches: ModelOptModel) -> None:
    with pytest.raises(
        NamesError, match=r"got 'lefd\.input_quantizer'.*Close names: left\.input_quantizer"
    ):
        list(ReplaySimulator(branches).outputs(batch(), [frozenset(["lefd.input_quantizer"])]))


def test_a_batch_is_cut_until_the_values_of_one_part_fit_the_budget(chain: ModelOptModel) -> None:
    """Images are turned as far as no bit changes, which depends on the processor's kernels. A
    warning names the rest."""
    inputs, variants = batch(16, 32), scan(chain)
    value = 4 * 4 * 16 * 32 * 32  # bytes of four float channels of the whole batch
    simulator = ReplaySimulator(chain, memory=value)
    check(chain, simulator, inputs, variants)
    peak = simulator.peak(inputs, variants)
    assert peak <= value * 1.001
    assert (simulator.warnings == ()) == (peak <= value)


def test_a_budget_that_cannot_be_held_is_reported_with_what_is_needed(
    branches: ModelOptModel,
) -> None:
    simulator = ReplaySimulator(branches, memory=1)
    assert simulator.warnings == ()
    deque(simulator.outputs(batch(2, 256), scan(branches)), maxlen=0)
    needed = simulator.peak(batch(2, 256), scan(branches)) / 2**20
    assert simulator.warnings == (
        f"Replay holds up to {needed:.1f} MiB of values at once, more than its budget of 0.0 MiB "
        "(--memory): one batch takes that much where cutting it further would change the numbers; "
        "use smaller batches or a larger budget.",
    )


def test_the_announced_peak_shrinks_with_the_budget_and_is_what_is_held(
    branches: ModelOptModel,
) -> None:
    inputs, variants = batch(16, 32), scan(branches)
    peaks = []
    for memory in (None, 1_500_000, 0):
        simulator = ReplaySimulator(branches, memory)
        announced = simulator.peak(inputs, variants)
        assert most_held(simulator, inputs, variants) <= announced
        peaks.append(announced)
    assert peaks[0] > peaks[2]
    assert peaks == sorted(peaks, reverse=True)


def most_held(simulator: ReplaySimulator, inputs: Tensor, variants: Variants) -> int:
    """The most bytes that new tensors hold at once, counted after every operation.

    Memory inside an operation is left out, and so are the inputs, of which each part of a batch is
    a view.
    """
    deque(simulator.outputs(inputs, variants), maxlen=0)  # weights are folded now, and not counted
    ((_, graph),) = simulator._graphs
    original, most = [runner.run for runner in graph._runners], 0

    def watched(run):
        def call(*values):
            nonlocal most
            result = run(*values)
            held = {
                tensor.untyped_storage().data_ptr(): tensor
                for tensor in gc.get_objects()
                if type(tensor) is Tensor
            }
            held.pop(inputs.untyped_storage().data_ptr(), None)
            most = max(most, sum(tensor.untyped_storage().nbytes() for tensor in held.values()))
            return result

        return call

    for runner in graph._runners:
        runner.run = watched(runner.run)
    gc.collect()
    gc.freeze()  # what is there already is not looked at
    try:
        deque(simulator.outputs(inputs, variants), maxlen=0)
    finally:
        for runner, run in zip(graph._runners, original, strict=True):
            runner.run = run
    return most


class Drawn(nn.Module):
    """A random graph of equal-sized values: convolutions, also used twice, residuals, concats,
    in-place and view ops."""

    def __init__(self, plan: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.plan = plan
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.mixes = nn.ModuleList(nn.Conv2d(6, 3, 1) for _ in plan)

    def forward(self, x: Tensor) -> list[Tensor]:
        values = [x]
        for step, (kind, one, two) in enumerate(self.plan):
            a, b = values[one % len(values)], values[two % len(values)]
            if kind == "conv":
                values.append(self.convs[two % 3](a))
            elif kind == "add":
                values.append(a + b)
            elif kind == "concat":
                values.append(self.mixes[step](torch.cat([a, b], 1)))
            elif kind == "inplace":
                values.append(nn.functional.leaky_relu_(self.convs[two % 3](a), 0.3))
            elif kind == "view":
                values.append(
                    a.flatten(2)
                    .transpose(1, 2)
                    .reshape(b.shape[0], *a.shape[2:], 3)
                    .permute(0, 3, 1, 2)
                )
            else:
                values.append(torch.sigmoid(a) * b)
        return [values[-1], values[len(values) // 2] * 1]


plans = st.lists(
    st.tuples(
        st.sampled_from(["conv", "add", "concat", "inplace", "view", "gate"]),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    min_size=3,
    max_size=8,
).map(lambda plan: [("conv", 0, 0), *plan])


@settings(max_examples=12, deadline=None, database=None)
@given(plans, st.randoms(use_true_random=False))
def test_replay_equals_full_recomputation_on_random_graphs_at_any_budget(plan, random) -> None:
    model = quantized(seeded(lambda: Drawn(plan)), batch(3, 6))
    source = ModelOptModel(model)
    if random.random() < 0.5:
        model.convs[1].input_quantizer = model.convs[0].input_quantizer
        source = ModelOptModel(model)
    names = [quantizer.name for quantizer in source.quantizers]
    variants = scan(source) + [
        frozenset(random.sample(names, random.randint(0, len(names)))) for _ in range(4)
    ]
    random.shuffle(variants)
    expected = dict(ToggleSimulator(source).outputs(batch(3, 6, seed=9), variants))
    unlimited = ReplaySimulator(source).peak(batch(3, 6, seed=9), variants)
    for memory in (None, unlimited, random.randint(1, unlimited), 3000, 0):
        simulator = ReplaySimulator(source, memory)
        ours = copied(simulator.outputs(batch(3, 6, seed=9), variants))
        assert all(same(ours[index], expected[index]) for index in expected)
        held = memory is None or simulator.peak(batch(3, 6, seed=9), variants) <= memory
        assert held == (simulator.warnings == ())


def test_the_last_elements_of_a_sigmoid_keep_their_bits() -> None:
    """Values at the end of a vector take another path than full vectors do. No order of a batch,
    and no way to cut it, may put other values there."""
    source = ModelOptModel(
        quantized(seeded(lambda: Drawn([("conv", 0, 0), ("gate", 1, 1)])), batch(3, 6))
    )
    simulators = [ReplaySimulator(source), ReplaySimulator(source, memory=0)]
    for seed in range(1, 8):
        for simulator in simulators:
            check(source, simulator, batch(3, 6, seed=seed), scan(source))


def test_the_factory_replays_what_agrees_and_says_so(branches: ModelOptModel) -> None:
    simulator = simulator_for(branches, batch())
    assert simulator.name == "replay"
    assert (
        simulator.reason
        == "a traced graph of the model gives its own outputs bit for bit on the example batch"
    )


def test_the_factory_toggles_what_cannot_be_traced_and_says_why() -> None:
    simulator = simulator_for(source_of(Branching, torch.randn(4, 3)), torch.randn(4, 3))
    assert simulator.name == "toggle"
    assert simulator.reason.startswith(
        "the model cannot be replayed, since torch.export cannot follow it"
    )


def test_the_factory_toggles_what_differs_and_says_by_how_much(
    branches: ModelOptModel, monkeypatch
) -> None:
    monkeypatch.setattr(
        replay_module, "native_quantizers", lambda source, own: [Wrong()] * len(source.quantizers)
    )
    simulator = simulator_for(branches, batch())
    assert simulator.name == "toggle"
    assert "a traced graph of the model differs from it by" in simulator.reason


class Wrong:
    fresh = True
    overwrite = None

    def __call__(self, x: Tensor) -> Tensor:
        return x * 1.01


def test_the_factory_toggles_when_asked(branches: ModelOptModel) -> None:
    assert simulator_for(branches, batch(), exact_toggle=True).name == "toggle"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, float("nan")], [1.0, float("nan")], 0.0),
        ([1.0, float("nan")], [float("nan"), 1.0], float("inf")),
        ([4.0, 2.0], [4.0, 1.0], 0.25),
        ([1.0], [1.0, 1.0], float("inf")),
        ([float("inf")], [float("-inf")], float("inf")),
    ],
)
def test_the_difference_of_outputs_is_relative_and_knows_nan_and_inf(
    one, other, expected: float
) -> None:
    assert difference({"y": torch.tensor(one)}, {"y": torch.tensor(other)}) == expected
    assert difference({"y": torch.tensor(one)}, {"z": torch.tensor(one)}) == float("inf")


def test_a_shorter_batch_takes_the_parts_of_a_longer_one_and_is_compared_with_the_model(
    chain: ModelOptModel, monkeypatch
) -> None:
    replay = ReplaySimulator(chain)
    monkeypatch.setattr(ReplaySimulator, "_measured_cut", lambda *_: Cut(2))
    list(replay.outputs(batch(8), [frozenset()]))
    monkeypatch.setattr(ReplaySimulator, "_measured_cut", lambda *_: pytest.fail("measured again"))
    ours, theirs = (
        dict(one.outputs(batch(6), [frozenset()])) for one in (replay, ToggleSimulator(chain))
    )
    assert same(theirs[0], ours[0])


def test_the_next_simulator_of_a_model_cuts_batches_as_the_one_before_did(
    branches: ModelOptModel, monkeypatch
) -> None:
    """For each set of candidate ranges there is a simulator: trying the ways to cut a batch again
    took a tenth of a whole run."""
    cache = TraceCache()
    monkeypatch.setattr(ReplaySimulator, "_measured_cut", lambda *_: Cut(2))
    simulator_for(branches, batch(8), cache=cache)
    monkeypatch.setattr(ReplaySimulator, "_measured_cut", lambda *_: pytest.fail("measured again"))
    simulator_for(branches, batch(8), cache=cache)
    # The second one compares ranges on samples that are too few to be cut.
    assert [list(cuts.values()) for cuts in cache.cuts.values()] == [[Cut(2), Cut(1)]]


def test_a_model_is_traced_once_for_all_ranges_and_biases_on_offer(
    branches: ModelOptModel, monkeypatch
) -> None:
    cache = TraceCache()
    simulator_for(branches, batch(12), cache=cache)
    own = branches.range("stem.0.input_quantizer")
    ranges = [replace(own, amax=(part,)) for part in (0.5, 1.5)]
    weight = branches.range("left.weight_quantizer")
    channels = branches.model.get_submodule("left").out_channels
    offering = Alternatives(branches, [*ranges, replace(weight, bias=(0.25,) * channels)])
    monkeypatch.setattr(replay_module, "trace", lambda *_: pytest.fail("traced again"))
    again = simulator_for(offering, batch(12), cache=cache)
    assert again.reason == BIT_FOR_BIT
    first, second, biased = offering.ranges
    # The bits of a convolution in another layout depend on its bias.
    assert [graph.changed for graph in cache.graphs] == [(), ("left",)]
    others = frozenset(["left.weight_quantizer", second])
    variants = [frozenset(), frozenset([first]), others, frozenset([second, biased])]
    check(offering, again, batch(12, seed=3), variants)


def test_a_graph_taken_over_that_is_not_the_model_with_its_ranges_is_compared_on_the_whole_batch(
    branches: ModelOptModel, monkeypatch
) -> None:
    cache, compared = TraceCache(), []
    simulator_for(branches, batch(12), cache=cache)

    def told(source, replay, inputs) -> float:
        compared.append(len(inputs))
        return 0.0 if len(inputs) == 12 else 1e-6

    monkeypatch.setattr(choose, "_difference", told)
    assert simulator_for(branches, batch(12), cache=cache).reason == BIT_FOR_BIT
    assert compared == [choose.FEW, 12]


def test_choices_are_proved_by_the_comparison_with_the_model_and_else_one_by_one(
    branches: ModelOptModel, monkeypatch
) -> None:
    monkeypatch.setattr(Graph, "seconds", lambda self, pieces, lanes: 1 / lanes)
    lay_out, laid = Graph._lay_out, []

    def told(self: Graph, leaves: Any) -> None:
        laid.append(len(leaves[0]))
        lay_out(self, leaves)

    monkeypatch.setattr(Graph, "_lay_out", told)
    with kernel_threads(2):
        cache = TraceCache()
        assert simulator_for(branches, batch(48), cache=cache).reason == BIT_FOR_BIT
        assert (laid, list(cache.cuts[False].values())) == ([24], [Cut(2, 2)])
        laid.clear()
        differences = iter([1e-6, 0.0, 0.0, 0.0])
        monkeypatch.setattr(choose, "difference", lambda *_: next(differences))
        assert simulator_for(branches, batch(48)).reason == BIT_FOR_BIT
        assert laid == [24, 48]


def test_parts_that_change_a_bit_are_given_up_at_the_first_batch_of_a_shape(
    chain: ModelOptModel, monkeypatch
) -> None:
    replay = ReplaySimulator(chain)
    monkeypatch.setattr(ReplaySimulator, "_measured_cut", lambda *_: Cut(2))
    differences = iter([1e-6, 0.0])
    monkeypatch.setattr(replay_module, "difference", lambda *_: next(differences))
    list(replay.outputs(batch(8), [frozenset()]))
    assert list(replay._cuts.values()) == [Cut(1)]
