"""Restores activations that a Q/DQ file no longer has, because its pairs clamp in the same way.

Conv -> Relu -> Q -> DQ  is written as  Conv -> Q -> DQ

with the zero point at the lower end of the type.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import starmap

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import matches, needed, require
from sensitivity.onnx_graph.sign import non_negative
from sensitivity.onnx_graph.uses import Use, grid_limits
from sensitivity.onnx_graph.walk import value_name

CLAMPING = {"Relu", "Clip"}
"""Activations that ONNX Runtime's quantizer removes before an asymmetric pair."""

ENDS = ("min", "max")
"""Names of the limits of a Clip."""

CLIP_WITH_INPUTS = 11
"""First opset in which the limits of a Clip are inputs."""

RESTORED = "_restored"
"""Suffix of the name of a restored activation."""

Limits = tuple[float, float]
"""The smallest and the largest value of a tensor; -inf and inf for no limit."""

UNLIMITED: Limits = (-np.inf, np.inf)
RELU: Limits = (0.0, np.inf)

Clamps = Mapping[str, Limits]
"""Tensor before a pair -> limits of the activation that was removed."""


def clamping_pairs(uses: Iterable[Use], inputs: Collection[ir.Value]) -> dict[str, Limits]:
    """Return tensor -> limits of the pair that clamps it at 0, unless the graph proves that the
    tensor is clamped already.

    A restored Relu does no harm to a tensor that is never negative. The other limit of a Clip is
    not known. A pair whose output an activation of the graph reads has not replaced one: its range
    is only that of what the activation passes on.

    inputs: inputs of the main graph, which no activation precedes. The inputs of a Loop's body are
        not among them, since they may carry the output of one.
    """
    return dict(matches(lambda use: _clamp_of(use, inputs), uses))


def _clamp_of(use: Use, inputs: Collection[ir.Value]) -> tuple[str, Limits]:
    """Return the name of the tensor that a pair clamps at 0, and its limits.

    inputs: as for `clamping_pairs`.
    Raises NoMatch for a use of any other pair.
    """
    source = use.pair.source
    require(use.role != "weight")
    require(source not in inputs)
    require(not _is_activated(use.pair))
    limits = _clamped_at_zero(use.pair)
    # A Relu on a tensor that is never negative would change nothing.
    require(limits != RELU or not non_negative(source))
    return value_name(source), limits


def _is_activated(pair: qdq.Pair) -> bool:
    """Return whether an activation of the graph reads the output of the pair."""
    return any(reader.op_type in CLAMPING for reader in pair.output.consumers())


def clamps_of(by_pairs: Mapping[str, Limits], known: Mapping[str, Limits]) -> dict[str, Limits]:
    """Return the clamps to restore.

    by_pairs: limits from pairs that clamp.
    known: limits from the float model, which override the others.
    """
    return {name: limits for name, limits in {**by_pairs, **known}.items() if limits != UNLIMITED}


def limits_of(activation: ir.Node) -> Limits | None:
    """Return the limits of a Relu's or Clip's output; None if the graph computes them."""
    if activation.op_type == "Relu":
        return RELU
    return qdq.clip_limits(activation)


def cuts_like(scale: qdq.Array, zero_point: qdq.Array, activation: ir.Node) -> bool:
    """Return whether all values of a grid of integers lie within the limits of a Relu or Clip, to
    half a step."""
    limits = limits_of(activation)
    if limits is None or zero_point.dtype.kind not in "iu":
        return False
    levels = np.iinfo(zero_point.dtype)
    lowest, highest = (scale * (end - zero_point.astype(float)) for end in (levels.min, levels.max))
    above, below = lowest >= limits[0] - scale / 2, highest <= limits[1] + scale / 2
    return bool(np.all(above & below))


def within(limits: Limits | None, others: Limits | None) -> Limits | None:
    """Return the limits of two clamps in a row; None if one of them is not known."""
    if limits is None or others is None:
        return None
    low, high = others
    return min(max(limits[0], low), high), min(max(limits[1], low), high)


def activation(
    limits: Limits, value: ir.Value, pair: qdq.Pair, opset: int, *, copy: int = 1
) -> ir.Node:
    """Return a Relu or Clip of the value, not yet in any graph.

    The limits of a Clip are constants of the type of the pair's scale.

    copy: how many the graph then has for this pair, which sets their names apart.
    """
    kind = "Relu" if limits == RELU else "Clip"
    number = "" if copy == 1 else f"_copy{copy}"
    name = f"{pair.source.name}_{kind}{number}{RESTORED}"
    output = ir.Value(name=name, type=pair.source.type, shape=pair.source.shape)
    attributes: list[ir.Attr] = []
    ends: list[ir.Value | None] = []
    finite = _finite(limits)
    if kind == "Clip" and opset < CLIP_WITH_INPUTS:
        attributes += starmap(ir.AttrFloat32, finite.items())
    elif kind == "Clip":
        ends += _ends(name, finite, pair)
    return ir.Node("", kind, [value, *ends], attributes, name=name, outputs=[output])


def _finite(limits: Limits) -> dict[str, float]:
    """Return the finite limits by their names."""
    ends = dict(zip(ENDS, limits, strict=True))
    return {key: end for key, end in ends.items() if np.isfinite(end)}


def _ends(name: str, finite: Mapping[str, float], pair: qdq.Pair) -> list[ir.Value | None]:
    """Return both limits of a Clip as inputs, None for one that is left out."""
    scale = pair.scale
    kind = np.float32 if scale is None else scale.dtype
    constants = {key: _constant(f"{name}_{key}", end, kind) for key, end in finite.items()}
    return [constants.get(key) for key in ENDS]


def _constant(name: str, number: float, kind: np.typing.DTypeLike) -> ir.Value:
    """Return a constant that is not yet in any graph."""
    tensor = ir.tensor(np.asarray(number, kind), name=name)
    return ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=tensor.shape,  # type: ignore[arg-type]
        const_value=tensor,
    )


def _clamped_at_zero(pair: qdq.Pair) -> Limits:
    """Return (0, inf) or (-inf, 0) for a pair whose grid has 0 at one end. Raises NoMatch for any
    other pair."""
    require(not pair.is_compact)
    smallest, largest = needed(grid_limits(pair))
    levels = pair.zero_points.tolist()
    if levels == [smallest]:
        return RELU
    require(levels == [largest])
    return -np.inf, 0.0
