"""Computes the grid of a range for a Q/DQ file, and finds candidate ranges from calibration samples
and float weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.errors import ModelError
from sensitivity.onnx_graph import groups, qdq
from sensitivity.onnx_graph.clamps import UNLIMITED, Limits
from sensitivity.onnx_graph.levels import E4M3, along, limits_of, nearest_levels, numpy_type
from sensitivity.onnx_graph.passes.insert_qdq import to_levels
from sensitivity.onnx_graph.passes.skip_uses import NewGrid, can_be_per_channel, float_constant
from sensitivity.onnx_graph.qdq import PAIR
from sensitivity.onnx_graph.uses import MOVERS, Path, Use, integer_limits, stored_type
from sensitivity.onnx_graph.uses import uses as uses_of
from sensitivity.onnx_graph.walk import value_name
from sensitivity.quantizers.base import weights_and_activations
from sensitivity.quantizers.histogram import Histogram
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.rounding import unpack
from sensitivity.quantizers.torch.tensor_quantizer import scales_of
from sensitivity.records import Range, names_of

TYPES = {"INT8", "UINT8", "INT16", "UINT16"}
"""Types of quantized values whose range can be changed. Smaller types are stored in blocks, and
larger ones are biases."""

PER_CHANNEL = "per channel"
"""Method name of a range per output channel."""

HALF_OF_LEVELS = 0.55
"""Largest fraction of the levels that weights use if a tool has left half of the levels out: just
above a half."""

ON_GRID = 1e-3
"""Largest distance from a grid, in steps, of values that were rounded to it."""

Tensor = tuple[str, Limits]
"""Name of a value, and the limits within which it reaches a pair."""


def own_range(name: str, use: Use) -> Range:
    """Return the range that the file gives this use. Raises ModelError if it has none that could be
    changed."""
    pair, scale = use.pair, use.pair.scale
    kind = stored_type(pair).name
    if kind not in TYPES or scale is None or scale.ndim > 1:
        raise ModelError(
            f"Expected {name} to have a range that can be changed, got a grid of {kind}."
        )
    low, high = integer_limits(pair)
    zero_point = _zero_point(pair)
    steps = scale.reshape(-1).astype(np.float64)
    amax = tuple((steps * (high - zero_point)).astype(np.float32).tolist())
    if _is_symmetric(pair):
        return Range(name, "own", amax, pair.axis)
    if len(amax) > 1:
        raise ModelError(
            f"Expected {name} to have a range that can be changed, got an asymmetric one per "
            "channel."
        )
    return Range(name, "own", amax, None, float(np.float32(steps[0] * (low - zero_point))))


def new_grids(
    model: OnnxModel, uses: Mapping[str, Use], ranges: Iterable[Range]
) -> dict[str, NewGrid]:
    """Return use -> the grid for its range, of the type and sign of its pair.

    Uses of one pair with equal ranges get the same grid.
    Raises ModelError for a bias or a rounding that cannot be changed.
    """
    made: dict[Any, NewGrid] = {}
    grids = {}
    for wanted in ranges:
        use = uses[wanted.quantizer]
        _check_can_have(model, use, wanted)
        key = (use.pair.dequantize, replace(wanted, quantizer="", method=""))
        if key not in made:
            made[key] = _new_grid(model, use, wanted)
        grids[wanted.quantizer] = made[key]
    return grids


def _check_can_have(model: OnnxModel, use: Use, wanted: Range) -> None:
    """Raise ModelError if the use cannot have the bias or the rounding of the range."""
    if wanted.bias is not None and use.name not in model.bias_places:
        raise ModelError(
            "Expected a change of the bias for the weight of an operation that adds a constant "
            f"one, got one for {use.name}."
        )
    if wanted.rounding is not None and use.role != "weight":
        raise ModelError(f"Expected a rounding for a weight, got one for {use.name}.")


def _new_grid(model: OnnxModel, use: Use, wanted: Range) -> NewGrid:
    """Return the grid for this range."""
    if wanted.fp8:
        return _fp8_grid(model, use, wanted)
    pair, own_scale = use.pair, qdq.known(use.pair.dequantize.inputs[1])
    is_weight = use.role == "weight"
    whole, (low, high) = _levels(pair, wanted.bits)
    if is_weight and _is_own(use, wanted):
        zero_points = np.asarray(pair.zero_points, stored_type(pair).numpy())
        own_zero_point = np.broadcast_to(zero_points.reshape(-1)[0], own_scale.shape)
        return NewGrid(wanted, own_scale, own_zero_point, pair.axis, keeps_pair=True)
    amax = np.asarray(wanted.amax, np.float32)
    if wanted.low is None:
        middle = (low + high + 1) // 2
        zero_point = _zero_point(pair) if wanted.bits is None else middle
        scale = scales_of(amax, high - zero_point, is_weight=is_weight)
    else:
        spread = amax - np.float32(wanted.low)
        scale = np.maximum(spread / np.float32(high - low), np.float32(1e-30))
        zero_point = int(np.clip(np.rint(low - wanted.low / float(scale[0])), low, high))
    shape = () if wanted.axis is None else (len(amax),)
    scale = scale.reshape(shape).astype(own_scale.dtype)
    grid = NewGrid(wanted, scale, np.full(shape, zero_point, whole), wanted.axis)
    if is_weight:
        return replace(grid, constant=_requantized(model, use, grid))
    return grid


def _fp8_grid(model: OnnxModel, use: Use, wanted: Range) -> NewGrid:
    """Return the FP8 grid for this range, whose zero points have the type of its levels."""
    _, high = limits_of(E4M3)
    is_weight = use.role == "weight"
    shape = () if wanted.axis is None else (len(wanted.amax),)
    own_scale = qdq.known(use.pair.dequantize.inputs[1])
    steps = scales_of(np.asarray(wanted.amax, np.float32), high, is_weight=is_weight)
    scale = steps.reshape(shape).astype(own_scale.dtype)
    grid = NewGrid(wanted, scale, np.zeros(shape, numpy_type(E4M3)), wanted.axis)
    if not is_weight:
        return grid
    values = _known_weight(model, use)
    if use.pair.is_compact:
        return replace(grid, constant=_fp8_levels(values, grid).astype(numpy_type(E4M3)))
    return replace(grid, constant=values.astype(qdq.known(use.pair.source).dtype))


def _fp8_levels(values: NDArray[Any], grid: NewGrid) -> NDArray[np.float32]:
    """Return the FP8 levels nearest to values, as float32."""
    return nearest_levels(values / along(grid.scale, grid.axis, values.ndim), E4M3)


def _levels(pair: qdq.Pair, bits: int | None) -> tuple[np.dtype[Any], tuple[int, int]]:
    """Return the type of a pair's levels and the smallest and the largest level, with the pair's
    sign.

    bits: number of bits; None for the pair's own.
    """
    stored = stored_type(pair)
    if bits is None:
        return np.dtype(stored.numpy()), integer_limits(pair)
    kind = np.dtype(f"{'' if stored.is_signed() else 'u'}int{bits}")
    return kind, (int(np.iinfo(kind).min), int(np.iinfo(kind).max))


def _is_own(use: Use, wanted: Range) -> bool:
    """Return whether this is the pair's own range, whatever its method and its bias are."""
    own = own_range(use.name, use)
    return replace(own, method=wanted.method) == replace(wanted, bias=None)


def _requantized(model: OnnxModel, use: Use, grid: NewGrid) -> NDArray[Any]:
    """Return what the pair of a weight reads: the float weight if it has a Q, else the integers.

    Values that are moved off their nearest level are put on the other one.
    """
    values, stored = _known_weight(model, use), qdq.known(use.pair.source)
    limits = integer_limits(use.pair)
    levels = to_levels(values, grid.scale, grid.zero_point, grid.axis, limits)
    if grid.range.rounding is not None:
        moves = unpack(grid.range.rounding, values.shape)
        levels = np.clip(levels + moves, *limits)
        scale, zero_point = (
            along(each, grid.axis, values.ndim) for each in (grid.scale, grid.zero_point)
        )
        moved = (levels - zero_point.astype(levels.dtype)) * scale
        values = np.where(moves != 0, moved, values)
    if not use.pair.is_compact:
        return values.astype(stored.dtype)
    return levels.astype(grid.zero_point.dtype)


def weight_on_grid(use: Use, grid: NewGrid) -> NDArray[Any]:
    """Return the float values that the pair of a weight gives on another grid."""
    pair, stored, limits = use.pair, grid.constant, integer_limits(use.pair)
    assert stored is not None
    if grid.range.fp8:
        levels = stored.astype(np.float32) if pair.is_compact else _fp8_levels(stored, grid)
        scale = along(grid.scale, grid.axis, stored.ndim).astype(np.float32)
        return np.asarray(levels * scale).astype(grid.scale.dtype)
    zero_point = grid.zero_point.astype(np.int64)
    if pair.is_compact:
        levels = np.clip(stored, *limits)
    else:
        levels = to_levels(stored, grid.scale, zero_point, grid.axis, limits)
    scale, offset = (
        along(each, grid.axis, stored.ndim).astype(np.float32) for each in (grid.scale, zero_point)
    )
    return np.asarray((levels.astype(np.float32) - offset) * scale).astype(grid.scale.dtype)


def float_weight(model: OnnxModel, use: Use) -> NDArray[Any] | None:
    """Return the weight before it was quantized, or the pair's output if the float model is not
    known.

    Returns None if it is not a constant.
    """
    pair = use.pair
    name = value_name(pair.source)
    if name in model.weights:
        return np.asarray(model.weights[name])
    return float_constant(pair)


def _known_weight(model: OnnxModel, use: Use) -> NDArray[Any]:
    """Return the same as `float_weight` for a weight that the caller knows to be a constant."""
    values = float_weight(model, use)
    assert values is not None
    return values


def other_ranges(
    model: OnnxModel, uses: Mapping[str, Use], names: Iterable[str], forward: Callable[[], None]
) -> tuple[Range, ...]:
    """Return ranges for these uses, in the order of `names`.

    Activations with one range per tensor get those by percentile, MSE and entropy of their float
    values. Weights with one range per tensor, and with known float values, get one per output
    channel. All others get none.

    forward: runs the model on the calibration data.
    """
    asked = map(uses.__getitem__, dict.fromkeys(names))
    wanted = list(filter(_has_one_range, asked))
    weights, activations = weights_and_activations(wanted)
    suggested = _calibrated(model, activations, forward)
    for use in weights:
        suggested[use.name] = _per_channel(model, use)
    ranges: list[Range] = []
    for use in wanted:
        ranges += suggested.get(use.name, ())
    return tuple(ranges)


def sharing(model: OnnxModel, uses: Mapping[str, Use]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of uses that keep one range together.

    These are uses of one pair, and of equal pairs that see the same values, or parts of what one
    Concat joins, because engines pass these on as integers.
    """
    _, activations = weights_and_activations(filter(_has_one_range, uses.values()))
    readers = [(use.pair.source, use.name) for use in activations]
    # Use -> its meeting with others, if it has one.
    meeting: dict[str, Any] = {}
    for met in groups.met(model.graph.graph, readers, _passes_integers):
        meeting.update(dict.fromkeys(met.quantizers, met))
    together: defaultdict[Any, list[str]] = defaultdict(list)
    for use in activations:
        where = meeting.get(use.name, use.pair.dequantize)
        _, _, own = own_range(use.name, use).key.partition("@")
        together[where, own, stored_type(use.pair)].append(use.name)
    return tuple(tuple(names) for names in together.values() if len(names) > 1)


def _passes_integers(node: ir.Node) -> bool:
    """Return whether engines pass integers on through this operation."""
    return node.op_type in PAIR | MOVERS or groups.keeps_values(node)


def lacks_float_weights(model: OnnxModel, uses: Mapping[str, Use]) -> bool:
    """Return whether weights have one range per tensor, and ranges per channel would gain nothing.

    They gain nothing if only the integers of the weights are known.
    """
    weights, _ = weights_and_activations(filter(_has_one_range, uses.values()))
    for use in weights:
        can_have_channels = output_axis(model, use) is not None
        if can_have_channels and not _is_known(model, use):
            return True
    return False


def knows_float_weights(model: OnnxModel, uses: Mapping[str, Use]) -> bool:
    """Return whether the float values of any weight are known."""
    weights, _ = weights_and_activations(uses.values())
    return any(_is_known(model, use) for use in weights)


def _has_one_range(use: Use) -> bool:
    """Return whether the use has a range per tensor that can be changed."""
    try:
        return len(own_range(use.name, use).amax) == 1
    except ModelError:
        return False


def _zero_point(pair: qdq.Pair) -> int:
    """Return the zero point of the pair. Raises ModelError if channels have different ones."""
    values = pair.zero_points
    if len(values) > 1:
        raise ModelError(
            f"Expected {pair.name} to have a range that can be changed, got several zero points."
        )
    return int(values[0])


def _is_symmetric(pair: qdq.Pair) -> bool:
    """Return whether the zero point is in the middle of the type."""
    kind = stored_type(pair)
    middle = 0 if kind.is_signed() else 2 ** (kind.bitwidth - 1)
    return _zero_point(pair) == middle


def _per_channel(model: OnnxModel, use: Use) -> tuple[Range, ...]:
    """Return one range per output channel, with as many levels as the largest weight has now.

    Some tools leave the outer half of the levels out, for processors that add products of 8 bits in
    16 bits.
    """
    axis = output_axis(model, use)
    if axis is None or not _is_known(model, use) or not _is_symmetric(use.pair):
        return ()
    weight = _known_weight(model, use)
    channels = np.abs(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1)
    largest = channels.max(axis=1).astype(np.float64)
    if not largest.max() > 0:
        return ()
    part_of_levels = min(float(largest.max()) / own_range(use.name, use).amax[0], 1.0)
    if part_of_levels <= HALF_OF_LEVELS:
        largest = largest * (1 / part_of_levels)
    amax = largest.astype(np.float32)
    return (Range(use.name, PER_CHANNEL, tuple(amax.tolist()), axis),)


def output_axis(model: OnnxModel, use: Use) -> int | None:
    """Return the axis of a weight's output channels if every operation that reads it can have
    scales along it, else None."""
    source = use.pair.source
    weight = qdq.constant(source)
    if weight is None or weight.ndim < 2 or not can_be_per_channel(model.graph):
        return None
    axes: set[int | None] = set()
    for path in model.paths:
        if path.root is source:
            axes.add(_axis_of(path, weight.ndim))
    return axes.pop() if len(axes) == 1 else None


def _axis_of(path: Path, rank: int) -> int | None:
    """Return the axis of the output channels of the weight in which a path ends.

    Returns None if something stands between the pair and the operation, and for grouped transposed
    convolutions.
    """
    node = path.user
    if node is None or not path.is_weight:
        return None
    groups = node.attributes.get_int("group", 1)
    is_grouped = node.op_type == "ConvTranspose" and groups > 1
    is_after_mover = len(path.links) > 1
    if is_grouped or is_after_mover:
        return None
    return qdq.output_axis(node, rank)


def _is_known(model: OnnxModel, use: Use) -> bool:
    """Return whether the float values of a weight are known.

    They are if the float model was given, or if the file has them and they are not rounded to the
    pair's grid.
    """
    pair = use.pair
    if value_name(pair.source) in model.weights:
        return True
    values, scale = qdq.constant(pair.source), pair.scale
    if pair.is_compact or values is None or scale is None:
        return False
    steps = values / scale.reshape(-1)[0]
    return bool(np.abs(steps - np.rint(steps)).max(initial=0) > ON_GRID)


def _calibrated(
    model: OnnxModel, uses: list[Use], forward: Callable[[], None]
) -> dict[str, tuple[Range, ...]]:
    """Return use -> the ranges that each method finds in what reaches its pair on the calibration
    data.

    Uses in bodies, and uses that nothing reaches, are left out.
    """
    tensors = roots(model)
    watched: dict[Use, Tensor] = {}
    for use in uses:
        if use.name in tensors:
            watched[use] = tensors[use.name], _limits(model, use)
    if not watched:
        return {}
    histograms = _histograms(model, watched.values(), forward)
    known: dict[Any, dict[str, tuple[float, float]]] = {}
    ranges = {}
    for use, tensor in watched.items():
        if not histograms[tensor].total:
            continue
        low, high = integer_limits(use.pair)
        levels, symmetric = high - low, _is_symmetric(use.pair)
        kind = (tensor, symmetric, levels)
        if kind not in known:
            known[kind] = histograms[tensor].ranges(levels, symmetric=symmetric)
        ranges[use.name] = tuple(
            _as_range(use.name, method, ends, symmetric) for method, ends in known[kind].items()
        )
    return ranges


def _histograms(
    model: OnnxModel, tensors: Iterable[Tensor], forward: Callable[[], None]
) -> dict[Tensor, Histogram]:
    """Return tensor -> histogram of its values on the calibration data, within its limits."""
    histograms = {tensor: Histogram() for tensor in tensors}
    by_name: defaultdict[str, list[tuple[Limits, Histogram]]] = defaultdict(list)
    for (name, limits), histogram in histograms.items():
        by_name[name].append((limits, histogram))

    def see(name: str, values: NDArray[Any]) -> None:
        for limits, histogram in by_name[name]:
            histogram.add(values if limits == UNLIMITED else np.clip(values, *limits))

    with model.watching(tuple(by_name), see):
        forward()
    return histograms


def _as_range(name: str, method: str, ends: tuple[float, float], symmetric: bool) -> Range:
    """Return the ends as a range."""
    low, high = np.asarray(ends, np.float32).tolist()
    if symmetric:
        return Range(name, method, (high,))
    return Range(name, method, (high,), low=low)


def roots(model: OnnxModel) -> dict[str, str]:
    """Return use in the main graph -> the tensor whose values reach its pair. Movers on the way
    change no value."""
    tensors: dict[str, str] = {}
    for path in model.paths:
        if path.graph is model.graph.graph:
            tensors.update(dict.fromkeys(names_of(uses_of([path])), value_name(path.root)))
    return tensors


def _limits(model: OnnxModel, use: Use) -> Limits:
    """Return the limits of what reaches the pair: those of its own activation, and 0 for a side
    that its grid does not have."""
    own = own_range(use.name, use)
    low, high = model.clamps.get(value_name(use.pair.source), UNLIMITED)
    is_asymmetric = own.low is not None
    if own.low == 0:
        low = max(low, 0.0)
    if is_asymmetric and own.amax[0] == 0:
        high = min(high, 0.0)
    return low, high
