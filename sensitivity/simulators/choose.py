"""Chooses the simulator of a model: replay if its numbers are the model's own, toggling
otherwise."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sensitivity import optional
from sensitivity.quantizers.base import QuantizedModel, form_of
from sensitivity.quantizers.torch.calls import device_of
from sensitivity.records import names_of
from sensitivity.simulators.base import Simulator
from sensitivity.simulators.compare import TOLERANCE, difference
from sensitivity.simulators.memory import host_memory
from sensitivity.simulators.toggle import ToggleSimulator

if TYPE_CHECKING:
    from sensitivity.simulators.torch.cache import TraceCache
    from sensitivity.simulators.torch.replay import ReplaySimulator

BIT_FOR_BIT = "a traced graph of the model gives its own outputs bit for bit on the example batch"
AGREES = "a traced graph of the model gives its own outputs to {:.1e} on the example batch"
DIFFERS = "a traced graph of the model differs from it by {:.1e} on the example batch"

FEW = 2
"""Number of samples on which candidate ranges are compared, once the graph itself was compared.
A range that is not applied as the model applies it moves the outputs of every sample."""


def simulator_for(
    source: QuantizedModel,
    example_inputs: Any,
    *,
    memory: int | None = None,
    exact_toggle: bool = False,
    cache: TraceCache | None = None,
) -> Simulator:
    """Return a replay simulator that agrees with the model on `example_inputs`, otherwise a
    toggling one.

    The result's `reason` says what was found.

    example_inputs: one batch as the task gives it.
    memory: bytes that replay may hold besides the weights; None takes a quarter of the free memory.
    exact_toggle: whether to toggle without trying replay.
    cache: as for `ReplaySimulator`.
    """
    if form_of(source) == "onnx":
        from sensitivity.simulators.onnx.whole import WholeFile, onnx_simulator

        if exact_toggle:
            return WholeFile(source)
        return onnx_simulator(source, example_inputs, memory=memory)
    if exact_toggle:
        return ToggleSimulator(source)
    from sensitivity.simulators.torch.tracing import Untraceable

    memory = free_memory(source.model) // 4 if memory is None else memory
    try:
        replay, off_by = _closest_replay(source, example_inputs, memory, cache)
    except Untraceable as error:
        return ToggleSimulator(source, f"the model cannot be replayed, since {error}")
    if off_by > TOLERANCE:
        return ToggleSimulator(source, DIFFERS.format(off_by))
    replay.reason = BIT_FOR_BIT if off_by == 0 else AGREES.format(off_by)
    return replay


def _closest_replay(
    source: QuantizedModel, inputs: Any, memory: int, cache: TraceCache | None
) -> tuple[ReplaySimulator, float]:
    """Return the replay simulator whose outputs are nearest to the model's own, and their largest
    difference.

    The user's own quantizers run in it only if it does not agree bit for bit without them.

    Raises Untraceable.
    """
    from sensitivity.simulators.torch.replay import ReplaySimulator

    tried: list[tuple[ReplaySimulator, float]] = []
    for own in (False, True):
        replay = ReplaySimulator(source, memory, own=own, cache=cache)
        if _agrees_as_before(source, replay, inputs):
            replay.reuse_checks()
            return replay, 0.0
        off_by = _difference(source, replay, inputs)
        if off_by == 0:
            replay.share_checks()
            return replay, 0.0
        tried.append((replay, off_by))
    return min(tried, key=itemgetter(1))


def _agrees_as_before(source: QuantizedModel, replay: ReplaySimulator, inputs: Any) -> bool:
    """Return whether a graph that was compared with the model before still gives its outputs bit
    for bit with the present candidate ranges, on a few samples."""
    few = replay.uncompared_samples(inputs, FEW)
    return few is not None and _difference(source, replay, few) == 0


def _difference(source: QuantizedModel, replay: Any, inputs: Any) -> float:
    """Return the largest difference from the model itself, with every other quantizer off, then
    with the others off.

    Each quantizer is thus seen in both states. With all of them on, the outputs are compared again
    at the first batch of any other shape. What replay chooses for speed is proved by the same
    comparison. Where it fails, each choice is compared on its own.
    """
    names = names_of(source.quantizers)
    variants = [frozenset(names[::2]), frozenset(names[1::2])]
    theirs = dict(ToggleSimulator(source).outputs(inputs, variants))

    def largest() -> float:
        outputs = replay.outputs(inputs, variants)
        return max(difference(theirs[index], ours) for index, ours in outputs)

    replay.prepare(inputs, trusting=True)
    off_by = largest()
    if off_by > 0:
        replay.prepare_again(inputs)
        off_by = largest()
    return off_by


def free_memory(model: Any) -> int:
    """Return the bytes free on the device of the model's first parameter; 8 GiB if the system does
    not say."""
    device = device_of(model)
    if device is not None and device.type == "cuda":
        return int(optional.torch.cuda.mem_get_info(device)[0])
    return host_memory()
