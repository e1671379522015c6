"""Which operation uses which Q/DQ pair: the switches of a Q/DQ file.

activation -> Q -> DQ -> Conv and Sigmoid   two uses of one pair: either can be left out alone
weight -> Q -> DQ -> Transpose -> Conv      a use by Conv: a Transpose only moves values
x -> Q -> DQ -> Reshape -> Q -> DQ -> Add   two uses by Add: on one grid neither alone counts
x -> Q -> DQ -> graph output                a use by the output itself
x -> Q -> DQ -> If(Conv)                    a use by the Conv in the body, and not by the If
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import bodies
from sensitivity.records import Role

MOVERS = {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast"}
"""Operations that give the values of their first input in another shape, order or type."""

WITH_BIAS = {"Conv", "ConvTranspose", "Gemm"}
"""Operations that have a bias beside their weight."""

BIAS_INPUT = 2
"""Of each of them."""

SUFFIXES = ("/QuantizeLinear", "_QuantizeLinear", "/DequantizeLinear", "_DequantizeLinear")

Link = qdq.Pair | ir.Node
"""A pair, or a mover, between a value and the operation that reads it."""


@dataclass(frozen=True, eq=False)
class Use:
    """One pair as one operation uses it. name: exact and unique in the file. unit: name of the
    operation or output."""

    name: str
    unit: str
    role: Role
    pair: qdq.Pair


@dataclass(frozen=True, eq=False)
class Path:
    """How an operation gets one of its inputs, or the graph one of its outputs, through at least
    one pair.

    graph: the main graph, or the body of an If, Loop or Scan that the operation stands in. user:
    the operation; None for an output of `graph`. index: of the input or output. root: the value it
    starts from.
    links: from the root to the user, `None` for a mover in the place of its use.
    """

    graph: ir.Graph
    user: ir.Node | None
    index: int
    unit: str
    root: ir.Value
    links: tuple[tuple[Link, Use | None], ...]

    @property
    def is_weight(self) -> bool:
        """Whether it ends in the weight of an operation."""
        return self.user is not None and qdq.WEIGHT_INPUT.get(self.user.op_type) == self.index

    @property
    def is_bias(self) -> bool:
        """Whether it ends in the bias of an operation with a weight."""
        has_bias = self.user is not None and self.user.op_type in WITH_BIAS
        return has_bias and self.index == BIAS_INPUT


def paths(graph: ir.Graph) -> tuple[Path, ...]:
    """Every path, in the order of the graph's operations and their inputs; those of the graph's
    outputs come last, and those of bodies behind them."""
    names = _unit_names(graph)
    found = [path for one, owner in _graphs(graph) for path in _paths_of(one, owner, names)]
    return _named(found)


def uses(found: Sequence[Path]) -> tuple[Use, ...]:
    """Every use of a pair on these paths, in their order, from the root of each to its user."""
    return tuple(use for path in found for _, use in path.links if use is not None)


def integer_biases(found: Sequence[Path]) -> dict[str, str]:
    """Use of the input or the weight of an operation -> use of its bias, where that is stored as
    INT32."""
    last = {(path.user, path.index): uses([path])[-1] for path in found}
    biases = {}
    for path in filter(lambda path: path.is_bias, found):
        bias = last[path.user, BIAS_INPUT]
        if is_integer_bias(bias):
            places = [(path.user, index) for index in range(BIAS_INPUT)]
            biases.update({last[place].name: bias.name for place in places if place in last})
    return biases


def is_integer_bias(use: Use) -> bool:
    """Whether it is of a constant that is stored as INT32."""
    return use.pair.is_compact and stored_type(use.pair) is ir.DataType.INT32


def bits_of(pair: qdq.Pair) -> int:
    """Bits of the pair's quantized values."""
    return int(stored_type(pair).bitwidth)


def format_of(pair: qdq.Pair) -> str:
    """Of the pair's quantized values, in words: "INT8" for int8 and uint8, "FP8 E4M3", "INT4 in
    blocks of 32"."""
    stored = stored_type(pair)
    name = re.sub(r"^FLOAT(\d)(E\dM\d).*", r"FP\1 \2", stored.name)
    if name == stored.name:
        name = f"INT{stored.bitwidth}"
    return f"{name} in blocks of {pair.block}" if pair.block else name


def grid_limits(pair: qdq.Pair) -> tuple[int, int] | None:
    """Smallest and largest level of an integer type; None for the others."""
    stored = stored_type(pair)
    if not stored.is_integer():
        return None
    levels = 2**stored.bitwidth
    low = -(levels // 2) if stored.is_signed() else 0
    high = low + levels - 1
    limits = pair.limits or (low, high)
    return int(max(low, limits[0])), int(min(high, limits[1]))


def integer_limits(pair: qdq.Pair) -> tuple[int, int]:
    """Smallest and largest level of a pair that is known to have an integer type."""
    limits = grid_limits(pair)
    assert limits is not None
    return limits


def level_gap(pair: qdq.Pair, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """From each of these levels of the pair's type (any shape) to the next: 1 for integers, more at
    large FP8 values."""
    stored = stored_type(pair)
    if not stored.is_floating_point():
        return np.ones_like(levels)
    kind = ml_dtypes.finfo(stored.numpy())  # type: ignore[no-untyped-call]
    _, exponent = np.frexp(levels.astype(stored.numpy()).astype(np.float64))
    gaps: NDArray[np.float64] = np.ldexp(
        1.0, np.maximum(exponent - 1, int(kind.minexp)) - int(kind.nmant)
    )
    return gaps


def problem(pair: qdq.Pair) -> str | None:
    """Why the pair cannot be used; None where it can. A scale that is computed in the graph is not
    judged.

    Stored integers may have scales of 0 and below: nothing is divided by them.
    """
    scale = pair.scale
    if scale is None:
        return None
    values = np.asarray(scale, np.float64)
    faults = {"not finite": ~np.isfinite(values)}
    if pair.quantize is not None:
        faults |= {"0": values == 0, "negative": values < 0}
    found = []
    for fault, where in faults.items():
        if where.any():
            places = "" if values.size == 1 else f" in {where.sum()} of {values.size} places"
            found.append(f"its scale is {fault}{places}")
    return "; ".join(found) or None


def stored_type(pair: qdq.Pair) -> ir.DataType:
    """The type of the quantized values. Where the file leaves out the zero point it is what ONNX
    says: uint8 for Q."""
    if pair.quantize is None:
        return _type(pair.source) or ir.DataType.INT8
    kind = _type(qdq.zero_point_value(pair.quantize))
    if kind is not None:
        return kind
    said = pair.quantize.attributes.get_int("output_dtype", 0)
    return ir.DataType(said) if said else ir.DataType.UINT8


def _type(value: ir.Value | None) -> ir.DataType | None:
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return tensor.dtype if tensor is not None else value.dtype


def _paths_of(
    graph: ir.Graph, owner: ir.Node | None, names: Mapping[ir.Node, str]
) -> Iterator[Path]:
    """Those of one graph; owner: the node whose body it is, None for the main graph."""
    for node in graph:
        if _is_operation(node):
            for index, value in enumerate(node.inputs):
                yield from _path(graph, node, index, names[node], value)
    within = "" if owner is None else f"{names[owner]}/"
    for index, value in enumerate(graph.outputs):
        yield from _path(graph, None, index, f"{within}{value.name or 'output'}", value)


def _path(
    graph: ir.Graph, user: ir.Node | None, index: int, unit: str, value: ir.Value | None
) -> Iterator[Path]:
    """The path that ends in this input or output, if a pair is on it."""
    links: list[Link] = []
    # Movers in front of the first pair are no part of the path.
    end, root = 0, value
    while value is not None:
        pair, mover = qdq.pair_of(value), value.producer()
        if pair is not None:
            links.append(pair)
            value = root = pair.source
            end = len(links)
        elif mover is not None and _only_moves(mover):
            links.append(mover)
            value = mover.inputs[0]
        else:
            break
    if end and root is not None:
        made = [(link, _use(link, unit, user)) for link in reversed(links[:end])]
        yield Path(graph, user, index, unit, root, tuple(made))


def _use(link: Link, unit: str, user: ir.Node | None) -> Use | None:
    if isinstance(link, ir.Node):
        return None
    role: Role = "output" if user is None else "input"
    return Use(link.name, unit, "weight" if qdq.rooted_at_constant(link.source) else role, link)


def _graphs(
    graph: ir.Graph, owner: ir.Node | None = None
) -> Iterator[tuple[ir.Graph, ir.Node | None]]:
    """The graph and every body in it, each with the node whose body it is."""
    yield graph, owner
    for node in graph:
        for body in bodies(node):
            yield from _graphs(body, node)


def _is_operation(node: ir.Node) -> bool:
    """False for Q and DQ, for what belongs to a pair, and for a mover on the way to a single
    reader."""
    if node.op_type in qdq.PAIR or _is_inside_pair(node):
        return False
    return not _only_moves(node)


def _is_inside_pair(node: ir.Node) -> bool:
    if node.op_type != "Clip":
        return False
    behind = (qdq.pair_of(user.outputs[0]) for user in node.outputs[0].consumers())
    return any(pair is not None and pair.clip is node for pair in behind)


def _only_moves(node: ir.Node) -> bool:
    output = node.outputs[0]
    return node.op_type in MOVERS and len(output.uses()) + output.is_graph_output() == 1


def _unit_names(graph: ir.Graph) -> dict[ir.Node, str]:
    """The node's own name; the name of its first output where it has none, or shares it with
    another."""
    nodes = list(graph.all_nodes())
    count = Counter(node.name for node in nodes)
    outputs = {value.name for value in graph.outputs}
    names = {}
    for node in nodes:
        is_unique = count[node.name] == 1 and node.name not in outputs
        by_output = f"{node.op_type}:{node.outputs[0].name}"
        names[node] = (is_unique and node.name) or by_output
    return names


def _named(found: list[Path]) -> tuple[Path, ...]:
    """Each use named by its pair, shortened where that stays unique, and by its unit too where the
    pair has several."""
    every = uses(found)
    names = _pair_names(every)
    users = Counter(use.pair.dequantize for use in every)
    taken: Counter[str] = Counter()

    def renamed(use: Use) -> Use:
        name = names[use.pair.dequantize]
        if users[use.pair.dequantize] > 1:
            name = f"{name}>{use.unit}"
        taken[name] += 1
        return replace(use, name=name if taken[name] == 1 else f"{name}#{taken[name]}")

    return tuple(
        replace(path, links=tuple((link, use and renamed(use)) for link, use in path.links))
        for path in found
    )


def _pair_names(every: Sequence[Use]) -> dict[ir.Node, str]:
    """By the DQ of each pair: the short form of its name, its name, or else its output's: the first
    that no other pair has."""
    pairs = {use.pair.dequantize: use.pair.name for use in every}
    short = Counter(_short(name) for name in pairs.values())
    full = Counter(pairs.values())
    names = {}
    for dequantize, name in pairs.items():
        if short[_short(name)] == 1:
            names[dequantize] = _short(name)
        elif full[name] == 1:
            names[dequantize] = name
        else:
            names[dequantize] = dequantize.outputs[0].name or name
    return names


def _short(name: str) -> str:
    for suffix in SUFFIXES:
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name
