"""Finds which operation uses which Q/DQ pair. These uses are the switches of a Q/DQ file.

activation -> Q -> DQ -> Conv and Sigmoid   two uses of one pair: each can be left out alone
weight -> Q -> DQ -> Transpose -> Conv      a use by Conv: a Transpose only moves values
x -> Q -> DQ -> Reshape -> Q -> DQ -> Add   two uses by Add: on one grid, neither counts alone
x -> Q -> DQ -> graph output                a use by the output itself
x -> Q -> DQ -> If(Conv)                    a use by the Conv in the body, not by the If
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, starmap
from operator import attrgetter

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import bodies, is_kind, made_by, not_none
from sensitivity.records import Role

MOVERS = {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast"}
"""Operations that give the values of their first input in another shape, order or type."""

WITH_BIAS = {"Conv", "ConvTranspose", "Gemm"}
"""Operations that have a bias input besides their weight."""

BIAS_INPUT = 2
"""Index of the bias input of each of them."""

SUFFIXES = ("/QuantizeLinear", "_QuantizeLinear", "/DequantizeLinear", "_DequantizeLinear")
"""Endings that quantizing tools add to the names of Qs and DQs."""

Link = qdq.Pair | ir.Node
"""A pair or a mover on the way from a value to the operation that reads it."""


@dataclass(frozen=True, eq=False)
class Use:
    """One pair as one operation uses it.

    name: exact name of the use, unique in the file.
    unit: name of the operation or output that uses the pair.
    """

    name: str
    unit: str
    role: Role
    pair: qdq.Pair


@dataclass(frozen=True, eq=False)
class Path:
    """The way from a value to an input of an operation, or to an output of the graph, through one
    or more pairs.

    graph: the main graph, or the body of an If, Loop or Scan, that holds the operation.
    user: the operation; None for an output of `graph`.
    index: index of the input or output.
    root: the value at which the path starts.
    links: pairs and movers from the root to the user, each with its use; None for a mover.
    """

    graph: ir.Graph
    user: ir.Node | None
    index: int
    unit: str
    root: ir.Value
    links: tuple[tuple[Link, Use | None], ...]

    @property
    def operation(self) -> ir.Node:
        """The operation at the end of the path, which must not end in an output."""
        return not_none(self.user)

    @property
    def uses(self) -> tuple[Use, ...]:
        """The uses of pairs on the path, one or more, from its root to its user."""
        return tuple(use for _, use in self.links if use is not None)

    @property
    def last_use(self) -> Use:
        """The use of the pair that is nearest to the user."""
        return self.uses[-1]

    @property
    def is_weight(self) -> bool:
        """Whether the path ends in the weight of an operation."""
        if self.user is None:
            return False
        return qdq.WEIGHT_INPUT.get(self.user.op_type) == self.index

    @property
    def is_bias(self) -> bool:
        """Whether the path ends in the bias of an operation with a weight."""
        return is_kind(self.user, *WITH_BIAS) and self.index == BIAS_INPUT


def paths(graph: ir.Graph) -> tuple[Path, ...]:
    """Return every path, in the order of the graph's operations and their inputs.

    Paths to the graph's outputs follow those to its operations, and paths in subgraphs come last.
    """
    names = _unit_names(graph)
    every: list[Path] = []
    for inner, within in _graphs(graph, names):
        every += _paths_to_operations(inner, names)
        every += _paths_to_outputs(inner, within)
    return _named(every)


def uses(paths: Iterable[Path]) -> tuple[Use, ...]:
    """Return every use of a pair on these paths, in their order, from the root of each path to its
    user."""
    return tuple(chain.from_iterable(path.uses for path in paths))


def path_owners(paths: Iterable[Path]) -> dict[ir.Node, str]:
    """Return operation of a Q/DQ file -> its unit.

    paths: paths of the file, as from `paths`.
    """
    return {path.user: path.unit for path in paths if path.user is not None}


def integer_biases(paths: Sequence[Path]) -> dict[str, str]:
    """Return use of an operation's input or weight -> use of its bias, for biases that are stored
    as INT32."""
    biases: dict[str, str] = {}
    for _, own in groupby(paths, key=attrgetter("user")):
        *others, last = own
        bias = last.last_use
        if last.is_bias and is_integer_bias(bias.pair):
            names = [path.last_use.name for path in others]
            biases |= dict.fromkeys(names, bias.name)
    return biases


def is_integer_bias(pair: qdq.Pair) -> bool:
    """Return whether the pair reads a constant that is stored as INT32."""
    return pair.is_compact and stored_type(pair) is ir.DataType.INT32


def bits_of(pair: qdq.Pair) -> int:
    """Return the number of bits of the pair's quantized values."""
    return int(stored_type(pair).bitwidth)


def format_of(pair: qdq.Pair) -> str:
    """Return the format of the pair's quantized values in words.

    "INT8" stands for int8 and uint8. Other examples are "FP8 E4M3" and "INT4 in blocks of 32".
    """
    stored = stored_type(pair)
    name = re.sub(r"^FLOAT(\d)(E\dM\d).*", r"FP\1 \2", stored.name)
    if name == stored.name:
        name = f"INT{stored.bitwidth}"
    if pair.block is None:
        return name
    return f"{name} in blocks of {pair.block}"


def grid_limits(pair: qdq.Pair) -> tuple[int, int] | None:
    """Return the smallest and largest level of a pair with an integer type; None for other
    types."""
    stored = stored_type(pair)
    if not stored.is_integer():
        return None
    levels = 2**stored.bitwidth
    low = -(levels // 2) if stored.is_signed() else 0
    high = low + levels - 1
    limits = pair.limits or (low, high)
    return int(max(low, limits[0])), int(min(high, limits[1]))


def integer_limits(pair: qdq.Pair) -> tuple[int, int]:
    """Return the smallest and largest level of a pair that the caller knows to have an integer
    type."""
    return not_none(grid_limits(pair))


def level_gap(pair: qdq.Pair, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance from each level to the next one: 1 for integers, more for large FP8
    values.

    levels: levels of the pair's type, of any shape. The result has the same shape.
    """
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
    """Return why the pair cannot be used; None if it can.

    A scale that the graph computes is not judged. Scales of stored integers may be 0 or negative,
    because nothing is divided by them.
    """
    scales = qdq.scales_of(pair.dequantize).astype(np.float64)
    faults = {"not finite": ~np.isfinite(scales)}
    if not pair.is_compact:
        faults |= {"0": scales == 0, "negative": scales < 0}
    reasons = starmap(_fault, faults.items())
    return "; ".join(filter(None, reasons)) or None


def _fault(name: str, where: NDArray[np.bool_]) -> str:
    """Return what is wrong with a scale in words; "" if nothing is.

    name: the fault.
    where: which numbers of the scale have it.
    """
    count = np.count_nonzero(where)
    if count == 0:
        return ""
    if where.size == 1:
        return f"its scale is {name}"
    return f"its scale is {name} in {count} of {where.size} places"


def stored_type(pair: qdq.Pair) -> ir.DataType:
    """Return the type of the quantized values."""
    if pair.quantize is None:
        return _type(pair.source) or ir.DataType.INT8
    return quantized_type(pair.quantize)


def quantized_type(quantize: ir.Node) -> ir.DataType:
    """Return the type of the values that a Q gives.

    If the file leaves out the zero point and the Q has no `output_dtype`, the type is uint8, as
    ONNX defines.
    """
    stored = _type(qdq.zero_point_value(quantize))
    if stored is not None:
        return stored
    declared = quantize.attributes.get_int("output_dtype", 0)
    return ir.DataType(declared or ir.DataType.UINT8)


def _type(value: ir.Value | None) -> ir.DataType | None:
    """Return the type of a value's elements; None if it is not known, or for None."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        return value.dtype
    return tensor.dtype


def _paths_to_operations(graph: ir.Graph, names: Mapping[ir.Node, str]) -> Iterator[Path]:
    """Yield the paths of one graph that end in an operation.

    names: operation -> its unit.
    """
    for node in filter(_is_operation, graph):
        for index, value in enumerate(node.inputs):
            yield from _path(graph, node, index, names[node], value)


def _paths_to_outputs(graph: ir.Graph, within: str) -> Iterator[Path]:
    """Yield the paths of one graph that end in an output.

    within: prefix of the names of its outputs.
    """
    for index, output in enumerate(graph.outputs):
        unit = f"{within}{output.name or 'output'}"
        yield from _path(graph, None, index, unit, output)


def _path(
    graph: ir.Graph, user: ir.Node | None, index: int, unit: str, value: ir.Value | None
) -> Iterator[Path]:
    """Yield the path that ends in this input or output, if there is a pair on it."""
    links = list(_links_before(value))
    pairs = [link for link in links if isinstance(link, qdq.Pair)]
    if not pairs:
        return
    first = pairs[-1]
    # Movers before the first pair do not belong to the path.
    links = links[: links.index(first) + 1]
    used = tuple((link, _use(link, unit, user)) for link in reversed(links))
    yield Path(graph, user, index, unit, first.source, used)


def _links_before(value: ir.Value | None) -> Iterator[Link]:
    """Yield the pairs and the single-reader movers that a value passes through, the nearest
    first."""
    link = _last_link(value)
    while link is not None:
        yield link
        link = _last_link(_read_by(link))


def _last_link(value: ir.Value | None) -> Link | None:
    """Return the pair or the single-reader mover that gives the value; None if another operation
    does."""
    return qdq.pair_of(value) or _single_mover(value)


def _read_by(link: Link) -> ir.Value | None:
    """Return the value that a link reads."""
    if isinstance(link, qdq.Pair):
        return link.source
    return link.inputs[0]


def _single_mover(value: ir.Value | None) -> ir.Node | None:
    """Return the mover that gives the value, if its output has a single reader; else None."""
    mover = made_by(value, *MOVERS)
    if mover is None or not _only_moves(mover):
        return None
    return mover


def _use(link: Link, unit: str, user: ir.Node | None) -> Use | None:
    """Return the use of a pair on a path; None for a mover."""
    if isinstance(link, ir.Node):
        return None
    return Use(link.name, unit, _role(link, user), link)


def _role(pair: qdq.Pair, user: ir.Node | None) -> Role:
    """Return the role of a pair on a path.

    user: the operation at the end of the path; None for an output.
    """
    if qdq.rooted_at_constant(pair.source):
        return "weight"
    if user is None:
        return "output"
    return "input"


def _graphs(
    graph: ir.Graph, names: Mapping[ir.Node, str], within: str = ""
) -> Iterator[tuple[ir.Graph, str]]:
    """Yield the graph and all its subgraphs, each with the prefix of its outputs' names.

    The prefix of a subgraph is the name of the node that holds it.
    """
    yield graph, within
    for node in graph:
        for body in bodies(node):
            yield from _graphs(body, names, f"{names[node]}/")


def _is_operation(node: ir.Node) -> bool:
    """Return whether this node can use a pair: it is not part of a pair, and not a mover with a
    single reader."""
    if node.op_type in qdq.PAIR or _limits_pair(node):
        return False
    return not _only_moves(node)


def _limits_pair(node: ir.Node) -> bool:
    """Return whether this is the Clip of a pair."""
    if node.op_type != "Clip":
        return False
    given = (user.outputs[0] for user in node.outputs[0].consumers())
    pairs = filter(None, map(qdq.pair_of, given))
    return node in (pair.clip for pair in pairs)


def _only_moves(node: ir.Node) -> bool:
    """Return whether this is a mover whose output has a single reader."""
    output = node.outputs[0]
    return node.op_type in MOVERS and len(output.uses()) + output.is_graph_output() == 1


def _unit_names(graph: ir.Graph) -> dict[ir.Node, str]:
    """Return the unit of each node: its own name, or one made of its output's name if its own is
    missing or not unique."""
    nodes = list(graph.all_nodes())
    count = Counter(node.name for node in nodes)
    # An output is a unit too, by its own name.
    count.update(value.name for value in graph.outputs)
    return {node: _unit_name(node, is_own=count[node.name] == 1) for node in nodes}


def _unit_name(node: ir.Node, *, is_own: bool) -> str:
    """Return the unit of one node.

    is_own: whether nothing else has the name of the node.
    """
    if node.name and is_own:
        return node.name
    return f"{node.op_type}:{node.outputs[0].name}"


def _named(paths: list[Path]) -> tuple[Path, ...]:
    """Return the paths with a unique name for each use.

    A use is named after its pair. If several operations use the pair, the name of the unit is
    appended.
    """
    every = uses(paths)
    names = _pair_names(every)
    users = Counter(use.pair.dequantize for use in every)
    taken: Counter[str] = Counter()
    renamed: dict[Use | None, Use | None] = {None: None}
    for use in every:
        name = names[use.pair.dequantize]
        if users[use.pair.dequantize] > 1:
            name = f"{name}>{use.unit}"
        taken[name] += 1
        if taken[name] > 1:
            name = f"{name}#{taken[name]}"
        renamed[use] = replace(use, name=name)
    named = []
    for path in paths:
        links = tuple((link, renamed[use]) for link, use in path.links)
        named.append(replace(path, links=links))
    return tuple(named)


def _pair_names(every: Sequence[Use]) -> dict[ir.Node, str]:
    """Return DQ -> name of its pair: the first of its short name, its full name and its output's
    name that no other pair has."""
    names = {use.pair.dequantize: use.pair.name for use in every}
    short = Counter(map(_short, names.values()))
    full = Counter(names.values())

    def free_name(dequantize: ir.Node, name: str) -> str:
        if short[_short(name)] == 1:
            return _short(name)
        if full[name] == 1:
            return name
        return dequantize.outputs[0].name or name

    return {dequantize: free_name(dequantize, name) for dequantize, name in names.items()}


def _short(name: str) -> str:
    """Return the name without the suffix of a quantizing tool. A name that is only a suffix is
    returned unchanged."""
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix) or name
    return name
