"""Other ranges for `TensorQuantizer` modules: set for a while, and found by their toolkit's own
calibrators."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.quantizers.base import weights_and_activations
from sensitivity.quantizers.torch.calls import every_module_called
from sensitivity.quantizers.torch.modules import class_names
from sensitivity.records import Quantizer, Range, names_of

if TYPE_CHECKING:
    from sensitivity.quantizers.torch.tensor_quantizer import TensorQuantizerModel

PERCENTILES = (99.9, 99.99)
STRIDE = 16
"""How many of 2048 bins lie between the ends of two ranges tried for entropy."""

FEWEST_BINS = 128
"""Bins of the narrowest range tried for entropy, as in ModelOpt."""

TRANSPOSED = {"ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"}
"""Classes of layers whose weight has its output channels along axis 1."""

Amax = tuple[float, ...]
State = tuple[Any, Any, Any]
"""amax, axis and bits of a quantizer module."""

Hook = Callable[[Any, Any], None]
"""A hook of a module: called before its forward, with the module and its arguments."""


@contextmanager
def range_set(module: Any, wanted: Range, *, dimensions: int) -> Iterator[None]:
    """The quantizer module has this range inside the `with`, its own before and after it.

    dimensions: how many axes the tensor of a per-channel range has.
    """
    own, state = module._buffers["_amax"], state_of(module)
    amax = optional.torch.tensor(wanted.amax, dtype=own.dtype, device=own.device)
    if wanted.axis is not None:
        amax = amax.reshape(shape_along(wanted.axis, dimensions))
    if amax.numel() == own.numel():
        amax = amax.reshape(own.shape)
    try:
        module._buffers["_amax"] = amax
        if wanted.axis != first_axis(module._axis):
            vars(module)["_axis"] = wanted.axis
        if wanted.bits is not None:
            vars(module)["_num_bits"] = wanted.bits
        yield
    finally:
        restore(module, state)


def shape_along(axis: int, dimensions: int) -> list[int]:
    """Return the shape in which values of channels broadcast along this axis of a tensor.

    >>> shape_along(1, 4)
    [1, -1, 1, 1]
    """
    shape = [1] * dimensions
    shape[axis] = -1
    return shape


def state_of(module: Any) -> State:
    """Return what `range_set` changes of a quantizer module."""
    return module._buffers["_amax"], module._axis, module._num_bits


def restore(module: Any, state: State) -> None:
    """Give a module what `state_of` said of it."""
    module._buffers["_amax"] = state[0]
    vars(module).update(_axis=state[1], _num_bits=state[2])


def own_range(name: str, amax: Any, axis: int | None) -> Range:
    """Return the range that a quantizer came with. amax: a tensor of one value, or of one for each
    channel along `axis`."""
    return Range(name, "own", _values(amax), axis)


def other_ranges(
    source: TensorQuantizerModel, names: Iterable[str], forward: Callable[[], None]
) -> tuple[Range, ...]:
    """Return the ranges that the toolkit's calibrators find for these quantizers, in the order of
    `names`.

    Activations with one range per tensor: percentiles, MSE and entropy of what reaches them in
    float, as calibration does it. Weights with one range per tensor: one per output channel.
    Quantizers for which there is nothing else, and those that no batch reaches or that have no
    integer grid, get nothing. forward: runs the model on the calibration data.
    """
    by_name = dict(zip(names_of(source.quantizers), source.quantizers, strict=True))
    asked = map(by_name.__getitem__, dict.fromkeys(names))
    wanted = [quantizer for quantizer in asked if _has_one_range(source, quantizer)]
    weights, activations = weights_and_activations(wanted)
    found = _calibrated(source, activations, forward)
    for quantizer in weights:
        found[quantizer.name] = per_channel(source, quantizer)
    in_order = map(found.__getitem__, names_of(wanted))
    return tuple(chain.from_iterable(in_order))


def _has_one_range(source: TensorQuantizerModel, quantizer: Quantizer) -> bool:
    """Return whether the quantizer has an integer grid with one range per tensor, which can be
    changed."""
    try:
        source.grid(quantizer.name)
    except ModelError:
        return False
    return quantizer.axis is None


def per_channel(source: TensorQuantizerModel, quantizer: Quantizer) -> tuple[Range, ...]:
    """Return one range per output channel for a weight that has one in all. Nothing for grouped
    transposed
    convolutions: TensorRT takes no quantized ones."""
    layer = source.model.get_submodule(quantizer.layer)
    weight = getattr(layer, "weight", None)
    if weight is None or weight.ndim < 2:
        return ()
    axis = channel_axis(layer)
    is_transposed = axis != 0
    if is_transposed and layer.groups > 1:
        return ()
    amax = weight.detach().abs().transpose(0, axis).flatten(1).amax(dim=1)
    if not bool((amax > 0).any()):
        return ()
    return (Range(quantizer.name, "per channel", _values(amax), axis),)


def channel_axis(layer: Any) -> int:
    """Return the axis of the output channels of a module's weight."""
    is_transposed = TRANSPOSED & set(class_names(layer))
    return 1 if is_transposed else 0


def _calibrated(
    source: TensorQuantizerModel, quantizers: list[Quantizer], forward: Callable[[], None]
) -> dict[str, tuple[Range, ...]]:
    if not quantizers:
        return {}
    histogram = importlib.import_module(source.calibrators).HistogramCalibrator
    seen: dict[str, Any] = {}
    collectors: dict[str, Hook] = {}
    for one in quantizers:
        calibrator = histogram(one.bits, None, bool(_module(source, one)._unsigned))
        seen[one.name], collectors[one.name] = calibrator, partial(_collect, calibrator)
    with hooked_in_float(source, collectors):
        forward()
    return {name: _ranges_of(name, calibrator) for name, calibrator in seen.items()}


@contextmanager
def hooked_in_float(source: Any, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Inside the `with` the model runs with nothing quantized, and each quantizer named here calls
    its hook with what it gets. source: a quantized PyTorch model with a module for each."""
    with ExitStack() as stack:
        for name, hook in hooks.items():
            module = source.model.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(hook).remove)
        stack.enter_context(source.disabled(names_of(source.quantizers)))
        stack.enter_context(optional.torch.no_grad())
        stack.enter_context(every_module_called())
        yield


def _collect(calibrator: Any, module: Any, args: Any) -> None:
    calibrator.collect(args[0].detach())


def _ranges_of(name: str, calibrator: Any) -> tuple[Range, ...]:
    """Return what each method of calibration finds in a histogram; nothing where no batch came
    there."""
    if calibrator._calib_hist is None:
        return ()
    amaxes: dict[str, float] = {}
    for share in PERCENTILES:
        found = calibrator.compute_amax(method="percentile", percentile=share)
        amaxes[f"percentile {share}"] = float(found)
    levels = 2 ** (calibrator._num_bits - 1 + int(calibrator._unsigned)) - 1
    counts = np.asarray(calibrator._calib_hist, np.float64)
    edges = np.asarray(calibrator._calib_bin_edges, np.float64)
    amaxes["entropy"] = lowest_divergence(counts, edges, levels)
    amaxes["mse"] = lowest_error(counts, edges, levels)
    ranges = []
    for method, amax in amaxes.items():
        if 0 < amax < np.inf:
            ranges.append(Range(name, method, (float(np.float32(amax)),)))
    return tuple(ranges)


def lowest_error(counts: NDArray[np.float64], edges: NDArray[np.float64], levels: int) -> float:
    """Return the amax with the smallest squared error of quantization, among the edges of a
    histogram of absolute values.

    counts: float[bins]. edges: float[bins + 1], ascending from 0. levels: of the positive half, 127
    for INT8. ModelOpt 0.47's own search hands the number of bits to `fake_tensor_quant` as a bias,
    and finds ranges of noise.
    """
    centres = (edges[1:] + edges[:-1]) / 2
    tried = edges[len(edges) // 16 :: STRIDE // 4]
    steps = tried[:, None] / levels
    error = (np.minimum(np.rint(centres / steps), levels) * steps - centres) ** 2 @ counts
    return float(tried[error.argmin()])


def lowest_divergence(
    counts: NDArray[np.float64], edges: NDArray[np.float64], levels: int, *, stride: int = STRIDE
) -> float:
    """Return the amax with which the distribution of the quantized values diverges least
    (Kullback-Leibler), the largest of equals.

    counts, edges, levels: as for `lowest_error`. stride: bins between two ranges tried. Finds what
    ModelOpt's search by entropy finds, whose loops over bins are in Python, in a tenth of the time.
    """
    ends = np.arange(FEWEST_BINS, len(counts) + 1, stride)
    counts = np.concatenate([counts[1:2], counts[1:]])  # 0 is exact in any range
    with np.errstate(invalid="ignore"):
        divergences = [_divergence(counts, int(end), levels + 1) for end in ends[::-1]]
    return float(edges[ends[::-1][np.argmin(divergences)]])


def _divergence(counts: NDArray[np.float64], end: int, bins: int) -> float:
    """Return how far the counts, clipped to the first `end`, diverge from what merging them into
    `bins` leaves of them."""
    kept = counts[:end]
    filled = kept != 0
    merged = np.digitize(np.arange(end), np.linspace(0, end, bins + 1)) - 1
    sums = np.bincount(merged[filled], kept[filled], minlength=bins)
    shares = sums / np.maximum(np.bincount(merged[filled], minlength=bins), 1)
    spread = np.where(filled, shares[merged], 0.0)
    clipped = kept.copy()
    clipped[-1] += counts[end:].sum()
    return float(rel_entr(clipped / clipped.sum(), spread / spread.sum()).sum())


def _module(source: Any, quantizer: Quantizer) -> Any:
    return source.model.get_submodule(quantizer.name)


def _values(amax: Any) -> Amax:
    return tuple(amax.detach().float().cpu().reshape(-1).tolist())


def first_axis(axis: Any) -> Any:
    """Return the axis itself of a list or tuple of one axis; anything else as it is."""
    is_one = isinstance(axis, (tuple, list)) and len(axis) == 1
    return axis[0] if is_one else axis
