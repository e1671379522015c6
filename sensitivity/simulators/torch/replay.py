"""Simulator that runs many variants of a torch model on one batch and computes what they have in
common once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sensitivity.quantizers.base import QuantizedModel
from sensitivity.quantizers.torch.calls import device_of, to_device
from sensitivity.quantizers.torch.native import (
    OwnQuantizer,
    bias_changes,
    biased_layers,
    layers_with_changes,
    marked_copy,
    native_quantizers,
)
from sensitivity.simulators.compare import TOLERANCE, difference, same
from sensitivity.simulators.memory import budget_warnings
from sensitivity.simulators.switches import Switches
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.simulators.torch.cache import CachedGraph, TraceCache
from sensitivity.simulators.torch.candidates import chains_of, with_candidates
from sensitivity.simulators.torch.graph import Graph, Runners
from sensitivity.simulators.torch.lanes import WHOLE, Cut, most_lanes
from sensitivity.simulators.torch.layouts import has_channels_last
from sensitivity.simulators.torch.tracing import Traced, Untraceable, ordered_arguments, trace
from sensitivity.tasks.batches import first_samples

LARGEST_VALUES = (4 * 2**20, 8 * 2**20, 24 * 2**20)
"""Limits in bytes, of which the fastest is used: on a CPU a batch is cut until no value is larger
than the limit. Small parts stay in the caches. Large parts share the cost of each call of a kernel,
which matters in the deep layers that most variants recompute. The last limit is for glibc, which
gives memory of 32 MiB and more back to the system at once. Fetching it again, page by page, costs
more than the arithmetic of a whole layer."""

TIMINGS = 2
"""How often each way to cut a batch is timed. The shortest time counts."""

GRAPHS = 6
"""Number of graphs to keep, for models whose graph holds for one input shape only. Batches of other
shapes run on the model's own modules."""


class ReplaySimulator:
    """Simulator that recomputes, for each variant, only what differs from the variants before it.

    memory: limit in bytes for values that wait for a later variant and for those of the variant
        that runs. None for no limit. A batch is cut to meet it as far as its numbers stay the same;
        `warnings` says if that is not enough.
    own: whether to run the user's own quantizer modules in the graph, for quantizers whose
        arithmetic differs from that of `GridQuantizer`.
    reason: why this simulator was chosen, in words.
    cache: what earlier simulators of the model have traced and compared. They may differ from this
        one only in the candidate ranges.

    Its outputs are right as long as the weights, buffers and quantizers of the model do not change.
    Batches of a shape that cannot be traced run on the user's own modules.
    """

    name = "replay"

    def __init__(
        self,
        source: QuantizedModel,
        memory: int | None = None,
        *,
        own: bool = False,
        reason: str = "it was asked for",
        cache: TraceCache | None = None,
    ) -> None:
        self.reason = reason
        self._source = source
        self._memory = memory
        self._switches = Switches(source.quantizers)
        self._quantizers = native_quantizers(source, own=own)
        self._node_bits = list(self._switches.bits.values())
        for change in bias_changes(source):
            # The change of a bias is switched together with the range that brings it.
            self._node_bits.append(self._node_bits[change.index])
        self._biased = biased_layers(source)
        self._changed = layers_with_changes(source)
        self._own_asked = own
        self._own = OwnQuantizer in set(map(type, self._quantizers))
        self._graphs: list[tuple[Any, Graph]] = []
        self._cache = TraceCache() if cache is None else cache
        self._cuts = self._cache.cuts[own]
        self._refused: dict[Any, Untraceable] = {}
        self._checked: set[Any] = set()
        self._needed = 0
        self._trusts = False

    def outputs(self, inputs: Any, variants: Sequence[frozenset[str]]) -> Iterator[tuple[int, Any]]:
        masks = list(map(self._switches.mask, variants))
        inputs, leaves, spec = self._flat(inputs)
        try:
            self._check(inputs, leaves, spec)
            graph, pieces, lanes = self._pieces(leaves, spec)
        except Untraceable as error:
            if "own modules" not in self.reason:
                self.reason += (
                    f"; batches of another shape run on the model's own modules, since {error}"
                )
            yield from ToggleSimulator(self._source).outputs(inputs, variants)
            return
        self._needed = max(self._needed, graph.peak(pieces, masks, self._memory, lanes))
        results = graph.outputs(pieces, masks, self._memory, lanes)
        while True:
            with self._ready():
                item = next(results, None)
            if item is None:
                return
            yield item
            del item  # Its memory is freed before the next one is computed.

    def _flat(self, inputs: Any) -> tuple[Any, list[Any], Any]:
        """Move a batch to the model's device.

        Returns the batch as the task gives it, then its leaves and the spec of their nest, both in
        the order of the model's arguments.
        """
        inputs = to_device(inputs, device_of(self._source.model))
        return inputs, *pytree.tree_flatten(ordered_arguments(self._source.model, inputs))

    @property
    def smallest(self) -> int | None:
        """The smallest batch of the first traced graph, or None if no graph is traced or if this
        graph holds for one length only."""
        if not self._graphs:
            return None
        _, graph = self._graphs[0]
        shortest, longest = graph.batches
        return shortest if shortest < longest else None

    @property
    def warnings(self) -> tuple[str, ...]:
        return budget_warnings(self._needed, self._memory)

    def prepare(self, inputs: Any, *, trusting: bool = False) -> None:
        """Trace the model for batches like this one. The caller has to check the outputs.

        trusting: whether the fastest cut is taken, and layouts are chosen on a part of the batch,
            without comparing either with the whole batch. That comparison takes longer than the
            caller's own, after which `prepare_again` takes back what changes bits.
        Raises Untraceable if batches like this one cannot be replayed.
        """
        _, leaves, spec = self._flat(inputs)
        self._trusts = trusting
        self._pieces(leaves, spec)
        self._trusts = False
        self._checked.add(_shape(leaves, spec))

    def prepare_again(self, inputs: Any) -> None:
        """Trace the model anew after `prepare(trusting=True)`, and compare each choice with the
        whole batch.

        Raises Untraceable if batches like this one cannot be replayed.
        """
        self._graphs.clear()
        self._cuts.clear()
        self._cache.graphs.clear()
        self.prepare(inputs)

    def uncompared_samples(self, inputs: Any, samples: int) -> Any:
        """Return the first samples of a batch if only the candidate ranges are left to compare with
        the model.

        samples: how many samples are wanted. A graph that needs longer batches gets more.

        Returns None if no earlier simulator has compared a graph of the model on batches like this
        one.
        """
        inputs, leaves, spec = self._flat(inputs)
        kind = (spec, _kinds(leaves)), self._changed, self._own_asked
        cached = self._cache.graph(kind, _length(leaves))
        is_compared = _shape(leaves, spec) in self._cache.checked[self._own_asked]
        if cached is None or not is_compared:
            return None
        shortest, _ = cached.traced.batches
        return first_samples(inputs, max(samples, shortest))

    def reuse_checks(self) -> None:
        """Skip the comparison with the model on shapes on which an earlier simulator made it."""
        self._checked |= self._cache.checked[self._own_asked]

    def share_checks(self) -> None:
        """Tell later simulators on which shapes this one was compared with the model."""
        self._cache.checked[self._own_asked] |= self._checked

    def peak(self, inputs: Any, variants: Sequence[frozenset[str]]) -> int:
        """Return the largest number of bytes that values take while these variants run on a batch.

        Raises Untraceable if batches like this one cannot be replayed.
        """
        _, leaves, spec = self._flat(inputs)
        graph, pieces, lanes = self._pieces(leaves, spec)
        masks = list(map(self._switches.mask, variants))
        return graph.peak(pieces, masks, self._memory, lanes)

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Disable gradients inside the `with`, and enable the user's own quantizers if the graph
        runs them."""
        enabled = self._source.disabled(()) if self._own else nullcontext()
        with torch.no_grad(), enabled:
            yield

    def _check(self, inputs: Any, leaves: list[Any], spec: Any) -> None:
        """Compare the graph with the model, all quantizers enabled, on the first batch of a shape.

        Raises Untraceable if they differ, or if there is no graph for the batch.
        """
        shape = _shape(leaves, spec)
        if shape in self._checked:
            return
        graph, pieces, lanes = self._pieces(leaves, spec)
        ((_, theirs),) = ToggleSimulator(self._source).outputs(inputs, [frozenset()])
        with self._ready():
            all_on = self._switches.mask(frozenset())
            ((_, ours),) = graph.outputs(pieces, [all_on], self._memory, lanes)
        distance = difference(theirs, ours)
        if distance > 0 and len(pieces) > 1:
            # The cut may come from a longer batch and was then not tried on this one.
            self._cuts[shape] = WHOLE
            self._check(inputs, leaves, spec)
            return
        if distance > TOLERANCE:
            self._refused[shape] = Untraceable(
                f"its traced graph differs from it by {distance:.1e}"
            )
            raise self._refused[shape]
        self._checked.add(shape)
        self._cache.checked[self._own_asked].add(shape)

    def _pieces(self, leaves: list[Any], spec: Any) -> tuple[Graph, list[list[Any]], int]:
        """Return the graph for a batch, the pieces of the batch, and how many of them run side by
        side; a single piece if splitting does not pay or changes a bit."""
        shape = _shape(leaves, spec)
        if shape in self._refused:
            raise self._refused[shape]
        if shape not in self._cuts:
            with self._ready():
                self._cuts[shape] = self._known_cut(shape) or self._measured_cut(leaves, spec)
        cut = self._cuts[shape]
        pieces = _split(leaves, cut.parts)
        return self._graph(pieces[0], spec), pieces, cut.lanes

    def _known_cut(self, shape: Any) -> Cut | None:
        """Return the cut for which no piece is longer than those of a longer batch of the same
        kind, or None if there was no such batch."""
        *kind, length = shape
        if length is None:
            return None
        for (*other_kind, other), cut in self._cuts.items():
            if other_kind == kind and other > length:
                return _shorter(cut, int(other), int(length))
        return None

    def _measured_cut(self, leaves: list[Any], spec: Any) -> Cut:
        """Return how a batch is cut.

        It is the fastest way, or one with more parts for which one forward fits in half of the
        memory. Ways that change a bit of the outputs are left out. Whether bits change depends on
        the kernels, which are chosen by the shape and the number of threads, so it is tried.
        """
        whole, length = self._graph(leaves, spec), _length(leaves)
        if length is None or whole.depends_on_position(leaves):
            return WHOLE
        sample = self._sample(whole, leaves)
        masks = [0, self._switches.everything]
        theirs: dict[int, Any] = {}

        def changes_nothing(cut: Cut) -> bool:
            if cut == WHOLE:
                return True
            pieces = _split(leaves, cut.parts)
            graph = self._common_graph(pieces, spec)
            if graph is None or any(map(graph.depends_on_position, pieces)):
                return False
            if self._trusts:
                return True
            theirs.update(theirs or whole.outputs([leaves], masks, None))
            for index, ours in graph.outputs(pieces, masks, None, cut.lanes):
                if not same(theirs[index], ours):
                    return False
            return True

        largest = whole.largest(sample) * length // (_length(sample) or 1)
        ways = _ways(leaves, length, largest, self._lanes)
        shortest, longest = whole.batches
        if shortest < longest:  # Another graph takes longer to trace than its pieces would gain.
            ways = [cut for cut in ways if length // cut.parts >= shortest] or [WHOLE]
        cut = next(filter(changes_nothing, self._by_speed(ways, leaves, spec)), WHOLE)
        finer, most = cut, length // whole.batches[0]
        while not self._fits(leaves, cut, spec):
            finer = replace(finer, parts=finer.parts * 2)
            if finer.parts > most:
                break
            if changes_nothing(finer):
                cut = finer
        return cut

    @property
    def _lanes(self) -> int:
        """How many pieces may run side by side: the user's own quantizers may hold a state."""
        return 1 if self._own else most_lanes()

    def _sample(self, graph: Graph, leaves: list[Any]) -> list[Any]:
        """Return the part of a batch on which layouts are chosen: all of it if each choice has to
        be compared with the model's own layout on all of it, else a half or a lane's part."""
        length, parts = _length(leaves), max(self._lanes, 2)
        if not self._trusts or length is None or length < 2 * parts:
            return leaves
        part = _split(leaves, parts)[0]
        return part if graph.holds_for(_length(part)) else leaves

    def _by_speed(self, ways: Sequence[Cut], leaves: list[Any], spec: Any) -> list[Cut]:
        """Return these ways to cut a batch, the fastest first, and of equals the one with the
        fewest parts. Ways whose pieces need different graphs are left out.

        As many pieces are timed as run side by side.
        """
        if len(ways) == 1:
            return list(ways)
        seconds: dict[Cut, float] = {}
        for _, cut in product(range(TIMINGS), ways):
            pieces = _split(leaves, cut.parts)
            graph = self._common_graph(pieces, spec)
            if graph is not None:
                taken = graph.seconds(pieces[: cut.lanes], cut.lanes) * cut.parts / cut.lanes
                seconds[cut] = min(seconds.get(cut, math.inf), taken)
        return sorted(seconds, key=lambda cut: (seconds[cut], cut.parts))

    def _fits(self, leaves: list[Any], cut: Cut, spec: Any) -> bool:
        """Return whether the forward of one variant leaves half of the memory to values that wait
        for later variants."""
        if self._memory is None:
            return True
        pieces = _split(leaves, cut.parts)
        peak = self._graph(pieces[0], spec).peak(pieces, [0], None, cut.lanes)
        return peak <= self._memory // 2

    def _common_graph(self, pieces: list[list[Any]], spec: Any) -> Graph | None:
        """Return the graph that holds for all pieces, or None if they need different graphs or
        cannot be traced."""
        try:
            graphs = {self._graph(piece, spec) for piece in pieces}
        except Untraceable:
            return None
        return graphs.pop() if len(graphs) == 1 else None

    def _graph(self, leaves: list[Any], spec: Any) -> Graph:
        key = (spec, _kinds(leaves))
        length = _length(leaves)
        for known, graph in self._graphs:
            if known == key and graph.holds_for(length):
                return graph
        if len(self._graphs) >= GRAPHS:
            raise Untraceable(f"its batches have more than {GRAPHS} shapes")
        graph = self._traced(leaves, spec)
        self._graphs.append((key, graph))
        return graph

    def _traced(self, leaves: list[Any], spec: Any) -> Graph:
        shape = _shape(leaves, spec)
        try:
            graph = self._new_graph(leaves, spec)
        except Untraceable as error:
            self._refused[shape] = error
            raise
        except RuntimeError as error:  # A graph that does not run is no better than none.
            self._refused[shape] = Untraceable(
                f"its traced graph fails ({type(error).__name__}: {error})"
            )
            raise self._refused[shape] from error
        return graph

    def _new_graph(self, leaves: list[Any], spec: Any) -> Graph:
        """Return a graph with the candidate ranges that has run a batch.

        It comes from a graph that an earlier simulator has traced, or from a new trace. Layouts are
        chosen anew where biases change.
        """
        kind = (spec, _kinds(leaves)), self._changed, self._own_asked
        cached = self._cache.graph(kind, _length(leaves))
        traced = self._cache.trace((kind[0], self._own_asked), _length(leaves))
        if traced is None:
            args, kwargs = pytree.tree_unflatten(leaves, spec)
            traced = self._new_trace(kwargs or args)
        extended = with_candidates(traced, chains_of(self._source))
        runners = None if cached is None else _renumbered(cached.runners, extended.origins)
        graph = Graph(extended.traced, self._quantizers, self._node_bits, runners)
        with self._ready():
            graph.largest(self._sample(graph, leaves))
        if cached is None:
            places = {origin: place for place, origin in extended.origins.items()}
            self._cache.graphs.append(
                CachedGraph(*kind, traced, _renumbered(graph.runners, places))
            )
        return graph

    def _new_trace(self, inputs: Any) -> Traced:
        """Trace the model with all biases marked, or without marks if that fails and no candidate
        range changes a bias."""
        try:
            return trace(_marked(self._source, self._biased), inputs)
        except Untraceable:
            if not self._biased or bias_changes(self._source):
                raise
        return trace(_marked(self._source, ()), inputs)


def _renumbered(runners: Runners, origins: Mapping[int, int]) -> Runners:
    """Return how the nodes of a graph run, from how the same nodes of another graph run.

    origins: position of a node -> its position in the other graph, in which a bias may have none.
    """
    by_node = {
        place: runners.by_node[origin]
        for place, origin in origins.items()
        if origin in runners.by_node
    }
    return Runners(by_node, runners.channels_last)


def _marked(source: QuantizedModel, biased: tuple[str, ...]) -> torch.nn.Module:
    try:
        return marked_copy(source, biased)
    except Exception as error:  # Attributes of the model may raise anything in a deep copy.
        raise Untraceable(f"it cannot be copied ({type(error).__name__}: {error})") from error


def _split(leaves: list[Any], parts: int) -> list[list[Any]]:
    """Return the leaves of each of `parts` pieces of a batch.

    Tensors whose axis 0 is the batch are cut; every piece has all other leaves as they are.
    """
    length = _length(leaves)
    cut: list[Sequence[Any]] = []
    for leaf in leaves:
        is_batched = isinstance(leaf, Tensor) and leaf.shape[:1] == (length,)
        cut.append(leaf.tensor_split(parts) if is_batched else [leaf] * parts)
    return list(map(list, zip(*cut, strict=True)))


def _kind(leaf: Any) -> Any:
    """Return what must be the same in another batch for a graph to hold, besides its length."""
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.dtype, tuple(leaf.shape[1:]), leaf.device, has_channels_last(leaf)


def _kinds(leaves: list[Any]) -> tuple[Any, ...]:
    return tuple(map(_kind, leaves))


def _shape(leaves: list[Any], spec: Any) -> Any:
    return spec, _kinds(leaves), _length(leaves)


def _length(leaves: list[Any]) -> int | None:
    """Return the length along axis 0 of the first tensor that has an axis, or None if there is
    none."""
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    return None


def _shorter(cut: Cut, other: int, length: int) -> Cut:
    """Return the cut of a batch of this length whose pieces are no longer than those of a longer
    batch.

    As many pieces run side by side if each has two samples at least.

    other: number of samples in the longer batch.
    """
    few = math.ceil(cut.parts * length / other)
    parts = _multiple(few, cut.lanes)
    return Cut(few) if 2 * parts > length else Cut(parts, cut.lanes)


def _ways(leaves: Iterable[Any], length: int, largest: int, lanes: int) -> list[Cut]:
    """Return the ways to try of cutting a batch on the CPU, or one piece for a batch elsewhere, for
    which cutting is not faster.

    length: number of samples in the batch.
    largest: bytes of the largest value in its forward.
    lanes: how many pieces may run side by side. One after the other is tried, too.
    """
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.device.type != "cpu":
            return [WHOLE]
    ways = []
    for at_once in sorted({1, lanes}, reverse=True):
        few = [max(at_once, -(-largest // limit)) for limit in LARGEST_VALUES]
        ways += [Cut(_parts(length, least, at_once), at_once) for least in few]
    return [cut for cut in dict.fromkeys(ways) if cut.parts >= cut.lanes]


def _parts(length: int, least: int, lanes: int) -> int:
    """Return the least number of parts that is a multiple of `lanes`, or up to twice as many if
    those have equal lengths.

    length: number of samples in the batch, which no number of parts exceeds.
    """
    few = min(_multiple(least, lanes), length)
    for parts in range(few, min(2 * few, length) + 1, lanes):
        if length % parts == 0:
            return parts
    return few


def _multiple(number: int, of: int) -> int:
    """Return the smallest multiple that is not below a number.

    >>> _multiple(5, 2)
    6
    """
    return -(-number // of) * of
