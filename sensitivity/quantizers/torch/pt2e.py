"""Models quantized by PyTorch's own PT2E flow: torch.export, then torchao's prepare_pt2e and
convert_pt2e."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ModelError
from sensitivity.quantizers.base import first_fault, known_names, weights_and_activations
from sensitivity.quantizers.proofs import left_quantized
from sensitivity.quantizers.torch.biases import Biases
from sensitivity.quantizers.torch.calls import with_forward
from sensitivity.quantizers.torch.modules import class_names
from sensitivity.quantizers.torch.pt2e_ranges import file_levels, other_ranges, range_of, range_set
from sensitivity.quantizers.torch.rounded import Roundings
from sensitivity.quantizers.torch.tensor_quantizer import add_tensors, array, is_a, shown_in_float
from sensitivity.records import Finding, Grid, Quantizer, Range

if TYPE_CHECKING:
    from sensitivity.quantizers.base import Seer

HOW = "call torchao's prepare_pt2e, the calibration and convert_pt2e"
RESTORED = (
    "{} of {} weights exist as integers only, without the float values that they were rounded "
    "from: the float baseline has them rounded, and leaving out such a layer restores what it "
    "reads, not its weights. To have them compared, give the model as convert_pt2e(prepared, "
    "fold_quantize=False) makes it."
)
NOT_SYMMETRIC = (
    "{} of {} quantizers are not symmetric and signed: they can be ranked and planned with, but "
    "the files for export hold symmetric ones only."
)


class Pt2eModel:
    """A GraphModule with quantize/dequantize ops, seen as a `QuantizedModel`.

    model: a view of the user's object (`pt2e_view.View`), which shares its weights and has a module
        for each quantizer. It holds as long as the user's graph stays as it is.

    The user's object is switched together with the view, so that an evaluator that holds it sees
    the same variant. Only its `forward` is changed, and only inside `disabled`.

    Raises ModelError for a model that was not converted, or whose scales are not fixed.
    """

    source = "pt2e"
    in_words = "a PT2E graph"

    def __init__(self, model: Any) -> None:
        _check_converted(model)
        from sensitivity.quantizers.torch.pt2e_view import View

        view = View(model)
        self.model: Any = view.module
        self._user = model
        self._placed = {placed.name: placed for placed in view.quantizers}
        self.biases = Biases(view.layers)
        # A weight of which only the integers are known keeps them.
        folded = {name for name, placed in self._placed.items() if placed.folded}
        self.roundings = Roundings(
            {name: layer for name, layer in view.layers.items() if name not in folded}
        )
        self.channel_axes = {name: layer.channel_axis for name, layer in view.layers.items()}
        self.quantizers = tuple(_quantizer(placed) for placed in view.quantizers)
        self.warnings = tuple(self._warnings())

    @staticmethod
    def recognises(model: Any) -> bool:
        """Return whether a model is an exported program, or a graph of torch.export with
        quantizers, converted or only prepared."""
        if not _is_graph(model):
            return _is_program(model)
        return _has_pairs(model) or bool(_observers(model))

    @contextmanager
    def disabled(self, names: Iterable[str]) -> Iterator[None]:
        wanted = known_names(names, self._placed)
        with ExitStack() as stack:
            for name, placed in self._placed.items():
                stack.callback(setattr, placed.module, "_disabled", placed.module._disabled)
                placed.module._disabled = name in wanted
            stack.enter_context(with_forward(self._user, self.model.forward))
            without_changes = dict.fromkeys(wanted)
            stack.enter_context(self.biases.changed(without_changes))
            stack.enter_context(self.roundings.changed(without_changes, self.grid))
            yield

    def grid(self, name: str) -> Grid:
        known_names([name], self._placed)
        module = self._placed[name].module
        zero_points = np.unique(_array(module.zero_point))
        faults = {
            "its levels are those of FP8": module.fp8,
            f"its channels have {len(zero_points)} different zero points": len(zero_points) > 1,
        }
        reason = first_fault(faults) or _problem(module)
        if reason:
            raise ModelError(
                f"Expected {name} to quantize to one integer grid, got a pair that does not: "
                f"{reason}."
            )
        scale = _array(module.scale).astype(np.float32)
        return Grid(scale, int(zero_points[0]), module.low, module.high, module.axis)

    def file_grid(self, name: str) -> Grid:
        known_names([name], self._placed)
        module = self._placed[name].module
        if not module.fp8:
            return self.grid(name)
        scale = _array(module.scale).astype(np.float32)
        return Grid(scale, 0, module.low, module.high, module.axis, is_float=True)

    def no_fp8(self) -> str | None:
        return None

    def range(self, name: str) -> Range:
        """Return the present range of a quantizer, as `with_ranges` takes it. Raises ModelError for
        one without an integer grid."""
        bias, rounding = self.biases.now(name), self.roundings.now(name)
        return replace(range_of(name, self.grid(name)), bias=bias, rounding=rounding)

    @contextmanager
    def with_ranges(self, ranges: Iterable[Range]) -> Iterator[None]:
        owns = [(self.range(wanted.quantizer), wanted) for wanted in ranges]
        with ExitStack() as stack:
            for own, wanted in owns:
                stack.enter_context(range_set(self._placed[own.quantizer].module, own, wanted))
            biases = {wanted.quantizer: wanted.bias for _, wanted in owns}
            roundings = {wanted.quantizer: wanted.rounding for _, wanted in owns}
            stack.enter_context(self.biases.changed(biases))
            stack.enter_context(self.roundings.changed(roundings, self.grid))
            yield

    @contextmanager
    def file_levels(self) -> Iterator[None]:
        """Give activations the levels inside the `with` that they have in a file: -128 too where
        the graph's own grid ends at -127. The levels of weights are stored as they are."""
        _, activations = weights_and_activations(self._placed.values())
        with ExitStack() as stack:
            for placed in activations:
                stack.enter_context(file_levels(placed.module))
            yield

    def other_ranges(self, names: Iterable[str], forward: Callable[[], None]) -> tuple[Range, ...]:
        return other_ranges(self, names, forward)

    def weights(self) -> Iterator[tuple[str, NDArray[np.floating], int | None]]:
        for name, placed in self._placed.items():
            if placed.weight is not None:
                yield name, array(placed.weight), placed.module.axis

    def watching(self, see: Seer) -> AbstractContextManager[None]:
        return shown_in_float(self, see)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(str(self._user.code).encode())
        add_tensors(digest, self._user)
        disabled = [name for name, placed in self._placed.items() if placed.module._disabled]
        digest.update(repr(disabled).encode())
        return digest.hexdigest()

    def remaining(self) -> tuple[Finding, ...]:
        left = filter(_is_pair, self.model.graph.nodes)
        return tuple(left_quantized(str(node.name), f"an operation {node.target}") for node in left)

    def executed(self, inputs: Any) -> frozenset[str]:
        return frozenset(self._placed)  # A graph of torch.export computes all of its nodes.

    def _warnings(self) -> Iterator[str]:
        weights, _ = weights_and_activations(self._placed.values())
        folded = sum(placed.folded for placed in weights)
        if folded:
            yield RESTORED.format(folded, len(weights))
        symmetric = sum(_is_symmetric(placed.module) for placed in self._placed.values())
        if symmetric < len(self._placed):
            yield NOT_SYMMETRIC.format(len(self._placed) - symmetric, len(self._placed))


def _check_converted(model: Any) -> None:
    if _is_program(model):
        raise ModelError(
            f"Expected the module of an exported program, got the program; {HOW} on "
            "program.module()."
        )
    if observers := _observers(model):
        raise ModelError(
            "Expected a converted PT2E model, got one that is only prepared (it holds "
            f"{observers[0]}); calibrate it and call convert_pt2e(model) to get quantize and "
            "dequantize ops."
        )
    if not _is_graph(model) or not _has_pairs(model):
        raise ModelError(
            f"Expected a graph with quantize and dequantize ops, got {type(model).__name__}; {HOW} "
            "first."
        )


def _is_program(model: Any) -> bool:
    return "ExportedProgram" in class_names(model)


def _is_graph(model: Any) -> bool:
    return is_a(model, "GraphModule", "torch")


def _has_pairs(model: Any) -> bool:
    # The namespace tells which ops are those of pairs. torch has the ops themselves only after an
    # import of torchao, which a plain graph does not need.
    return any(map(_is_pair, model.graph.nodes))


def _is_pair(node: Any) -> bool:
    return getattr(node.target, "namespace", None) == "quantized_decomposed"


def _observers(model: Any) -> list[str]:
    """Return the names of the modules with which prepare_pt2e observes values; empty if the model
    is no graph."""
    if not _is_graph(model):
        return []
    children = dict(model.named_children())
    return [name for name in children if name.startswith("activation_post_process")]


def _quantizer(placed: Any) -> Quantizer:
    module = placed.module
    bits = math.ceil(math.log2(module.high - module.low + 1))
    return Quantizer(
        placed.name,
        placed.layer,
        placed.role,
        bits,
        module.axis,
        _problem(module),
        format=f"INT{bits}",
    )


def _is_symmetric(module: Any) -> bool:
    """Return whether the grid is symmetric and signed, with the full or the narrow range."""
    if _array(module.zero_point).any():
        return False
    return (module.low, module.high) in ((-128, 127), (-127, 127))


def _array(value: Any) -> np.ndarray:
    """Return a number, or the values of a tensor, as an array with at least one axis."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.atleast_1d(np.asarray(value))


def _problem(module: Any) -> str | None:
    scale, zero_point = _array(module.scale), _array(module.zero_point)
    faults = {
        "not finite": ~np.isfinite(scale),
        "not above 0": scale <= 0,
    }
    for fault, where in faults.items():
        number = int(where.sum())
        if number and where.size == 1:
            return f"its scale is {fault}"
        if number:
            return f"the scale of {number} of {where.size} channels is {fault}"
    if ((zero_point < module.low) | (zero_point > module.high)).any():
        return f"its zero point is not between {module.low} and {module.high}"
    if (scale == 1).all() and not zero_point.any():
        return (
            "its scale is 1 and its zero point 0, what torchao gives where calibration passed "
            "no data"
        )
    return None
