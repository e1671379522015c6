"""Finds in a float model what a Q/DQ file was made from: its weights, biases and activations."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, permutations
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.align import Alignment, align
from sensitivity.onnx_graph.clamps import Limits
from sensitivity.onnx_graph.matching import match_or_none, matches, needed, require
from sensitivity.onnx_graph.passes.fold_batchnorm import FoldBatchNorm
from sensitivity.onnx_graph.passes.skip_uses import Weights, broadcast, float_constant
from sensitivity.onnx_graph.uses import BIAS_INPUT, MOVERS, Path, level_gap
from sensitivity.onnx_graph.walk import all_outputs, input_at, of_kind, source, value_name

Array = NDArray[Any]


ROUNDED = 0.51
"""Largest distance of a weight from its stored value if it was rounded to nearest, in steps of the
grid."""

MOST = 0.99
"""Fraction of a tensor's values that must be within `ROUNDED`. The rest may be clamped."""

LEARNED = 1.0
"""Largest distance of a weight from its stored value if only its place or its name matches: root
mean square, in steps of the grid. Its rounding may have been learned (AdaRound, GPTQ), or its range
chosen."""

LARGEST_RANK = 4
"""Largest rank for which a weight of the float model is tried in every order of its axes."""

Form = tuple[str, Callable[[], ir.Model]]
"""Name of an equivalent way to write the float model, and the function that loads it."""


@dataclass(frozen=True, eq=False)
class FloatModel:
    """The float model of a Q/DQ file, and what was found in it.

    original: the user's model.
    form, model: the way to write it that is nearest to the Q/DQ file.
    weights: name of a stored constant of the Q/DQ file -> the float model's values in the file's
        shape and type. They are of quantized weights and biases, and of float biases that the
        quantizing tool corrected; a corrected bias is only right beside the quantized weight.
    limits: tensor of the Q/DQ file -> limits, -inf and inf for none, that activations missing from
        the file gave it. Tensors whose limits are not known are left out.
    stored: number of quantized constants in the file.
    missing: names of those that are not in the float model.
    doubts: number of operations without a counterpart in the float model, plus the number of
        weights that are not just rounded.
    """

    name: str
    original: ir.Model
    form: str
    model: ir.Model
    weights: Weights = field(default_factory=dict)
    limits: dict[str, Limits] = field(default_factory=dict)
    stored: int = 0
    missing: tuple[str, ...] = ()
    doubts: int = 0

    @property
    def not_found(self) -> tuple[int, int]:
        """Numbers of missing weights and of doubts: the fewer, the better the form."""
        return len(self.missing), self.doubts


def float_model(
    graph: ir.Graph, paths: Sequence[Path], forms: Sequence[Form], name: str
) -> FloatModel:
    """Return the float model in the form in which most weights and operations of the file are
    found.

    graph, paths: graph and paths of the Q/DQ file.
    forms: equivalent ways to write the float model; the first is the user's model.
    name: name of the float file.
    Raises OnnxFileError if no weight is found.
    """
    original = forms[0][1]()
    models: list[FloatModel] = []
    for form, load in forms:
        finder = _Finder(graph, paths, load())
        models.append(replace(finder.found(name, form), original=original))
        if not any(models[-1].not_found):
            break
    best = min(models, key=lambda model: model.not_found)
    has_nothing = len(best.missing) == best.stored
    if best.stored and has_nothing:
        raise OnnxFileError(
            f"Expected {name} to be the float model that was quantized, got none of the "
            f"{best.stored} quantized weights in it; give exactly the file that the quantizer read."
        )
    return best


def with_batchnorm_folded(model: ir.Model) -> ir.Model:
    """Return a copy in which each BatchNormalization after a layer is folded into the layer's
    weight.

    Quantizing tools fold BatchNormalization first, so a Q/DQ file often has only such weights.
    """
    folded = model.clone()
    FoldBatchNorm()(folded)
    return folded


@dataclass(frozen=True, eq=False)
class _Stored:
    """A constant of the Q/DQ file that a pair quantizes.

    is_integer: whether the file stores its integers and has no Q for it.
    values: what the DQ gives if the file stores integers, else the float values before the Q.
    step: distance from each value to the next one of the grid, in the shape of `values`.
    path: the path that the pair is on.
    """

    name: str
    is_integer: bool
    values: Array
    step: Array
    path: Path

    def like(self, array: Array) -> Array:
        """Return an array with as many values in the shape and type of `values`."""
        return array.reshape(self.values.shape).astype(self.values.dtype)

    def is_rounded(self, array: Array) -> bool:
        """Return whether `values` are this array of the same shape, rounded to nearest."""
        values = self.values.astype(np.float64)
        off = np.abs(array.astype(np.float64) - values)
        near = off <= ROUNDED * self.step + 1e-6 * np.abs(values)
        return near.size == 0 or bool(near.mean() >= MOST)

    def is_learned(self, array: Array) -> bool:
        """Return whether `values` may be this array with a learned rounding or a chosen range."""
        if array.shape != self.values.shape:
            return False
        off = array.astype(np.float64) - self.values.astype(np.float64)
        steps = off / np.maximum(self.step, 1e-30)
        return bool(np.sqrt(np.mean(np.square(steps))) <= LEARNED)


class _Finder:
    """Looks for the constants of a Q/DQ file in one form of the float model."""

    def __init__(self, graph: ir.Graph, paths: Sequence[Path], original: ir.Model) -> None:
        self._graph, self._original = graph, original
        self._places = {(path.user, path.index) for path in paths}
        self._stored = list(chain.from_iterable(map(_stored, paths)))
        self._alignment: Alignment = align(graph, original.graph)
        self._constants = _constants(original.graph)
        self._weights: dict[str, Array] = {}
        self._seen: set[str] = set()
        self._learned = 0
        self._weight_names: defaultdict[ir.Node, set[str]] = defaultdict(set)
        for stored in self._stored:
            if stored.path.is_weight:
                self._weight_names[stored.path.operation].add(stored.name)

    def found(self, name: str, form: str) -> FloatModel:
        """Return the float model with everything that was found in this form."""
        every = {stored.name: stored for stored in self._stored}
        # A bias is looked up beside its weight, so all weights come first.
        for stored in sorted(every.values(), key=lambda stored: stored.path.is_bias):
            find = self._bias_beside if stored.path.is_bias else self._nearest
            self._take(stored, find(stored))
        self._take_corrected()
        return FloatModel(
            name,
            self._original,
            form,
            self._original,
            self._weights,
            limits={value_name(value): known for value, known in self._alignment.limits.items()},
            stored=len(every),
            missing=tuple(name for name in every if name not in self._seen),
            doubts=self._learned + len(self._alignment.unmatched),
        )

    def _take(self, stored: _Stored, values: Array | None) -> None:
        """Keep the values that were found for a constant; None if nothing was found."""
        if values is None:
            return
        self._seen.add(stored.name)
        if stored.is_integer or not np.array_equal(values, stored.values):
            self._weights[stored.name] = values

    def _nearest(self, stored: _Stored) -> Array | None:
        """Return the float values of a constant.

        Candidates are the input of the operation's counterpart, the constant of the same name, and
        then all constants. The first that is only rounded is taken, else one of the first two with
        a learned rounding. Returns None if there is none.
        """
        own = match_or_none(self._of_operation, stored.path)
        named = self._constants.get(stored.name.removesuffix("_quantized"))
        likely = [array for array in (own, named) if array is not None]
        for array in (*likely, *self._constants.values()):
            versions = _versions(array, stored.values.shape)
            rounded = next(filter(stored.is_rounded, versions), None)
            if rounded is not None:
                return stored.like(rounded)
        learned = next(filter(stored.is_learned, likely), None)
        if learned is None:
            return None
        self._learned += 1
        return stored.like(learned)

    def _bias_beside(self, stored: _Stored) -> Array | None:
        """Return the bias beside a weight that was found, even if the bias was corrected; zeros if
        the tool added it."""
        beside = match_or_none(self._bias_of_twin, stored)
        if beside is None:
            return self._nearest(stored)
        return beside

    def _bias_of_twin(self, stored: _Stored) -> Array:
        """Return the bias of the operation's counterpart in the float model, zeros if that has
        none.

        Raises NoMatch if the weight was not found, or the bias has another size.
        """
        user = stored.path.operation
        twin = needed(self._alignment.nodes.get(user))
        require(self._has_weight(user))
        if input_at(twin, stored.path.index) is None:
            return np.zeros_like(stored.values)
        bias = self._of_operation(stored.path)
        require(bias.size == stored.values.size)
        return stored.like(bias)

    def _take_corrected(self) -> None:
        """Keep float biases that differ from the float model's, for operations whose weights were
        found."""
        self._weights.update(matches(self._corrected_bias, self._alignment.nodes.items()))

    def _corrected_bias(self, twins: tuple[ir.Node, ir.Node]) -> tuple[str, Array]:
        """Return the name of an operation's bias and the float model's values, zeros if that has no
        bias.

        twins: an operation of the file and its counterpart in the float model.
        Raises NoMatch if the values are the same, or one of them is not known.
        """
        node, twin = twins
        require(self._has_weight(node))
        require((node, BIAS_INPUT) not in self._places)
        bias = needed(input_at(node, BIAS_INPUT))
        name, own = needed(bias.name), needed(qdq.constant(bias))
        theirs = _bias_like(own, twin)
        require(not np.allclose(own, theirs, rtol=1e-5, atol=1e-6))
        return name, theirs

    def _has_weight(self, node: ir.Node) -> bool:
        """Return whether the node's weight is quantized and was found in the float model."""
        return not self._seen.isdisjoint(self._weight_names[node])

    def _of_operation(self, path: Path) -> Array:
        """Return the float constant that the counterpart of the operation at the end of a path
        reads.

        Raises NoMatch if the counterpart or the constant is not known.
        """
        twin = needed(self._alignment.nodes.get(needed(path.user)))
        return _constant_input(twin, path.index)


def _bias_like(own: Array, twin: ir.Node) -> Array:
    """Return the float model's bias in the shape of the file's, zeros if it has none.

    own: the file's bias.
    twin: the operation of the float model.
    Raises NoMatch if the float model's bias has another size or is not a constant.
    """
    if len(twin.inputs) <= BIAS_INPUT:
        return np.zeros_like(own)
    theirs = _constant_input(twin, BIAS_INPUT)
    require(theirs.size == own.size)
    return theirs.reshape(own.shape).astype(own.dtype)


def _stored(path: Path) -> Iterator[_Stored]:
    """Return the constants that the pairs of a path quantize."""
    pairs = [use.pair for use in path.uses]
    return matches(lambda pair: _stored_in(pair, path), pairs)


def _stored_in(pair: qdq.Pair, path: Path) -> _Stored:
    """Return the constant that a pair quantizes. Raises NoMatch if it does not quantize a
    constant."""
    own_scale = needed(pair.scale).astype(np.float64)
    values = needed(float_constant(pair))
    scale = np.abs(broadcast(own_scale, pair, values.shape))
    levels = values.astype(np.float64) / np.where(scale == 0, 1, scale)
    step = scale * level_gap(pair, levels)
    return _Stored(value_name(pair.source), pair.is_compact, values, step, path)


def _constants(graph: ir.Graph) -> dict[str, Array]:
    """Return name -> array for every float constant of the graph."""
    computed = all_outputs(of_kind(graph, "Constant"))
    return dict(matches(_named_constant, [*graph.initializers.values(), *computed]))


def _named_constant(value: ir.Value) -> tuple[str, Array]:
    """Return the name and array of a float constant. Raises NoMatch for any other value."""
    return value_name(value), _float_constant(value)


def _float_constant(value: ir.Value) -> Array:
    """Return the array of a float constant. Raises NoMatch for any other value."""
    array = needed(qdq.constant(value))
    require(array.dtype.kind == "f" or array.dtype.name == "bfloat16")
    return array


def _constant_input(node: ir.Node, index: int) -> Array:
    """Return the float constant at this input of the operation, looking through operations that
    only move values.

    Raises NoMatch if it reads no float constant there.
    """
    value = needed(input_at(node, index))
    return _float_constant(source(value, lambda mover: mover.op_type in MOVERS))


def _versions(array: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """Yield the array in this shape: as it is, with its axes in another order, or reshaped."""
    if array.size != math.prod(shape):
        return
    # `permutations` yields the array's own order of axes first.
    orders = permutations(range(array.ndim))
    tried = orders if array.ndim <= LARGEST_RANK else islice(orders, 1)
    for order in tried:
        moved = array.transpose(order)
        if moved.shape == shape:
            yield moved
    if array.shape != shape:
        yield array.reshape(shape)
