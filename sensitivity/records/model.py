"""A calibrated model: its quantizers, units and graph, and variants of it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role = Literal["input", "weight", "output"]
UnitKind = Literal[
    "layer", "quantizer", "fan-out", "concat", "residual", "shared", "repvgg", "head", "pattern"
]
NodeKind = Literal["layer", "join", "input", "output"]


FP8 = "FP8 E4M3"
"""Format of quantizers to 8-bit floating-point numbers with 4 exponent and 3 mantissa bits."""


@dataclass(frozen=True)
class Quantizer:
    """One fake-quantization point of a calibrated model.

    name: exact name, unique in the model.
    layer: name of the operation that the quantizer belongs to.
    bits: width of the quantized values.
    axis: channel axis of a per-channel quantizer; None means per tensor.
    problem: why the quantizer cannot be used ("amax is missing"); None means it is calibrated.
    replaces: name of the quantizer that this one copies with another range; None for a quantizer of
        the model itself.
    format: number format of the quantized values, in words ("INT8", "FP8 E4M3", "INT4 in blocks of
        128").
    """

    name: str
    layer: str
    role: Role
    bits: int
    axis: int | None
    problem: str | None = None
    replaces: str | None = None
    format: str = "INT8"


@dataclass(frozen=True)
class Range:
    """A range that a quantizer can use instead of its own.

    quantizer: name of the quantizer.
    method: how the range was found ("mse", "percentile 99.9", "own", ...).
    amax: largest absolute value that does not clip, one per tensor, or one per channel along
        `axis`. With `low`, the largest value that does not clip.
    axis: channel axis of `amax`; None means per tensor.
    low: smallest value of an asymmetric grid that does not clip, at most 0; None means that the
        grid keeps its zero point.
    bias: correction added to the layer's bias while this weight is quantized, one value per output
        channel; None leaves the bias unchanged.
    bits: width of the integers with this range; None keeps the quantizer's own.
    rounding: by how many levels each weight is rounded away from its nearest level, packed as in
        `quantizers.rounding`; None rounds every value to the nearest.
    fp8: whether the levels are those of FP8 E4M3, the largest of which, 448, stands for `amax`.
    """

    quantizer: str
    method: str
    amax: tuple[float, ...]
    axis: int | None = None
    low: float | None = None
    bias: tuple[float, ...] | None = None
    bits: int | None = None
    rounding: str | None = None
    fp8: bool = False

    @cached_property
    def key(self) -> str:
        """Name by which simulators and journals identify the range, unique within a model."""
        parts: tuple[Any, ...] = (self.amax, self.axis)
        parts += () if self.low is None and self.bias is None else (self.low,)
        parts += () if self.bias is None else (self.bias,)
        parts += () if self.bits is None else (f"{self.bits} bits",)
        parts += () if self.rounding is None else (self.rounding,)
        parts += ("FP8",) if self.fp8 else ()
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
        return f"{self.quantizer}@{self.method}#{digest}"

    def given_to(self, quantizer: Quantizer) -> Quantizer:
        """Return the quantizer with the number of bits and the format that it has with this
        range."""
        if self.fp8:
            return replace(quantizer, bits=8, format=FP8)
        if self.bits is None:
            return quantizer
        return replace(quantizer, bits=self.bits, format=f"INT{self.bits}")


@dataclass(frozen=True, eq=False)
class Grid:
    """An integer grid.

    A value x becomes (clip(round(x / scale) + zero_point, low, high) - zero_point) * scale.

    scale: float32[1] per tensor, float32[channels] along `axis` otherwise; finite and > 0. With
        `block`, it has the shape of the tensor with fewer entries along `axis`.
    zero_point: the integer that stands for 0.
    low, high: the smallest and the largest integer.
    axis: channel axis; None means per tensor.
    block: number of consecutive values along `axis` that share one scale; None means one scale per
        channel or tensor.
    is_float: whether the levels are those of FP8 E4M3 instead of integers.
    """

    scale: NDArray[np.float32]
    zero_point: int
    low: int
    high: int
    axis: int | None
    block: int | None = None
    is_float: bool = False


@dataclass(frozen=True)
class Unit:
    """What a scan toggles: a layer, a group of layers or one quantizer.

    quantizers: exact names of its quantizers.
    kind: why its quantizers switch together; "head" and "repvgg" also mark single layers.
    layers: names of the layers that it holds; empty for a unit that is one layer.
    """

    name: str
    quantizers: tuple[str, ...]
    kind: UnitKind = "layer"
    layers: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names that a pattern may match: the unit's own and those of its layers."""
        return (self.name, *(layer for layer in self.layers if layer != self.name))


@dataclass(frozen=True)
class GraphNode:
    """A node in the graph of a model's layers.

    kind: "layer", "input", "output", or "join" for an operation outside all layers that combines
        tensors of several nodes.
    name: unique among the nodes of its kind; for a layer, the name that its quantizers refer to.
    operation: ONNX operator type, such as "Conv"; for a layer, that of the operation with its
        weight; "" if there is none.
    """

    kind: NodeKind
    name: str
    operation: str = ""


@dataclass(frozen=True)
class ModelGraph:
    """Which layers of a model pass tensors to each other.

    nodes: in the order of execution.
    edges: (before, after), positions in `nodes`.
    meetings: groups of quantizers with different ranges that read the same tensor, or tensors
        joined by one Concat. An engine requantizes there.
    """

    nodes: tuple[GraphNode, ...]
    edges: tuple[tuple[int, int], ...]
    meetings: tuple[tuple[str, ...], ...] = ()

    def of_kind(self, *kinds: NodeKind) -> list[int]:
        """Return the positions of all nodes of these kinds."""
        return [at for at, node in enumerate(self.nodes) if node.kind in kinds]

    def without(self, nodes: Collection[int]) -> ModelGraph:
        """Return the graph without the nodes at these positions and without their edges."""
        kept = [at for at in range(len(self.nodes)) if at not in nodes]
        position = {at: new for new, at in enumerate(kept)}
        edges = [edge for edge in self.edges if position.keys() >= set(edge)]
        return replace(
            self,
            nodes=tuple(self.nodes[at] for at in kept),
            edges=tuple((position[before], position[after]) for before, after in edges),
        )


@dataclass(frozen=True)
class OnGrid:
    """How well the integer grid of a quantizer represents the values it receives.

    ends: smallest and largest value that does not clip, over all channels.
    step: smallest and largest step of the grid, over all channels.
    clipped: fraction of the values that clip.
    rounding: squared error of the values within the range, averaged over all values, as a fraction
        of the mean square of all values.
    clipping: the same for the values outside the range.
    median_channel: rounding plus clipping error of the median output channel of a weight, as a
        fraction of that channel's own mean square; None without such channels.
    """

    ends: tuple[float, float]
    step: tuple[float, float]
    clipped: float
    rounding: float
    clipping: float
    median_channel: float | None = None


@dataclass(frozen=True)
class Distribution:
    """Distribution of the values that one quantizer receives while nothing is quantized.

    low, high: smallest and largest value.
    counts: number of values in each of the bins of equal width between `low` and `high`.
    on_grid: None for a format without an integer grid.
    channels: for a weight, the largest absolute value of each output channel in descending order,
        or of 64 evenly spaced ones if there are more than 64 channels; empty for activations.
    """

    quantizer: str
    role: Role
    low: float
    high: float
    counts: tuple[int, ...]
    on_grid: OnGrid | None = None
    channels: tuple[float, ...] = ()


@dataclass(frozen=True)
class Distributions:
    """Distributions of the values of all quantizers.

    samples: number of calibration samples on which the activations were observed. Large tensors are
        subsampled at even steps.
    """

    samples: int
    quantizers: tuple[Distribution, ...]


@dataclass(frozen=True)
class Variant:
    """The model with some quantizers disabled and some ranges replaced.

    Two variants with the same `disabled` and `ranges` are the same variant, whatever their labels.

    label: what reports call the variant.
    disabled: exact names of the disabled quantizers.
    ranges: ranges that replace those of their quantizers.
    """

    label: str
    disabled: frozenset[str]
    ranges: frozenset[Range] = frozenset()

    @cached_property
    def switched(self) -> frozenset[str]:
        """What a simulator has to switch: names of disabled quantizers and keys of replaced
        ranges."""
        return self.disabled | {replacement.key for replacement in self.ranges}

    @cached_property
    def key(self) -> str:
        """Name by which a journal identifies the variant."""
        return hashlib.sha256("\n".join(sorted(self.switched)).encode()).hexdigest()[:16]


NOTHING: Mapping[Any, Any] = MappingProxyType({})
"""Default of a parameter that takes an optional mapping."""


class Named(Protocol):
    """Anything with a name, such as a quantizer or a unit."""

    @property
    def name(self) -> str: ...


def names_of(things: Iterable[Named]) -> list[str]:
    """Return the names, in order."""
    return [thing.name for thing in things]
