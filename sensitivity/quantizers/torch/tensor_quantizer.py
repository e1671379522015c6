"""The common part of ModelOpt and pytorch-quantization, whose quantizers have one ancestor.

Quantizers are recognised by their class name, so neither toolkit is ever imported here. A model
that holds a quantizer has imported its toolkit already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.errors import ModelError, listed
from sensitivity.quantizers.base import known_names, weights_and_activations
from sensitivity.quantizers.proofs import reached, still_quantized
from sensitivity.quantizers.ranges import (
    channel_axis,
    first_axis,
    hooked_in_float,
    other_ranges,
    own_range,
    range_set,
    restore,
    state_of,
)
from sensitivity.quantizers.torch.biases import Biases
from sensitivity.quantizers.torch.half import HALF, half_type
from sensitivity.quantizers.torch.modules import class_names, named_modules
from sensitivity.quantizers.torch.rounded import Roundings
from sensitivity.records import Finding, Grid, Quantizer, Range, Role, names_of

if TYPE_CHECKING:
    from sensitivity.quantizers.base import Seer

SMALLEST_AMAX = 2.0**-24
"""The amax up to which a channel is dead: both toolkits (`_tensor_quant`) replace all of its values
by 0."""

SMALLEST_SCALE = 4 * SMALLEST_AMAX
"""The smallest scale for a dead channel of a weight. It rounds all values of the channel to 0."""

DEAD_INPUT_SCALE = 2.0**20
"""The scale for a dead activation. It rounds values up to half of it to 0, as the toolkits replace
all values by 0."""

DEAD_INPUT = (
    "{names}: calibration saw only values of 0 there, so every input becomes 0. Calibrate on data "
    "that reaches this layer, unless it is dead."
)


class TensorQuantizerModel:
    """A model with `TensorQuantizer` modules, seen as a `QuantizedModel`.

    The layer of a quantizer is the module that holds it. Its role comes from the name of its
    attribute: every name other than `..weight_quantizer` and `..output_quantizer` is that of an
    input. A quantizer with several names is listed once, under the first.

    toolkit: name of the toolkit in messages.
    how: how to quantize with it, in messages.
    package: the package of its classes.
    calibrators: the module that has its `HistogramCalibrator`.
    transposed: how to get scales along axis 1 for the weights of transposed convolutions.
    flags: attributes that switch a quantizer, and those that its forward writes.
    settings: attributes that decide, together with its buffers, which values a quantizer gives.

    Raises ModelError if the model has no enabled quantizer.
    """

    source: ClassVar[str]
    toolkit: ClassVar[str]
    how: ClassVar[str]
    package: ClassVar[str]
    calibrators: ClassVar[str]
    transposed: ClassVar[str]
    flags: ClassVar[tuple[str, ...]]
    settings: ClassVar[tuple[str, ...]]
    warnings: tuple[str, ...] = ()

    def __init__(self, model: Any) -> None:
        self.model = model
        modules = named_modules(model)
        self._all: dict[str, Any] = {}
        self._enabled: dict[str, Any] = {}
        for name, module in modules.items():
            if self._is_quantizer(module):
                self._all[name] = module
                if _is_enabled(module):
                    self._enabled[name] = module
        self._check_some_enabled()
        self.quantizers = tuple(self._quantizer(name, modules) for name in self._enabled)
        weights, activations = weights_and_activations(self.quantizers)
        self._of_weights = frozenset(names_of(weights))
        self.biases = Biases({each.name: modules[each.layer] for each in weights})
        self.roundings = Roundings(self.biases.layers)
        self.warnings = tuple(self._warnings(names_of(activations)))

    def _check_some_enabled(self) -> None:
        if self._enabled:
            return
        found = f"{len(self._all)} quantizers, all disabled" if self._all else "a model without any"
        raise ModelError(
            f"Expected at least one enabled {self.toolkit} quantizer, got {found}; {self.how} "
            "first."
        )

    def _warnings(self, activations: Iterable[str]) -> Iterator[str]:
        dead = list(filter(self._is_dead, activations))
        if dead:
            yield DEAD_INPUT.format(names=listed(dead, 3))
        half = half_type(self.model)
        if half:
            yield HALF.format(type=half)

    @classmethod
    def recognises(cls, model: Any) -> bool:
        """Return whether the model holds quantizers of this toolkit, enabled or not."""
        return any(map(cls._is_quantizer, named_modules(model).values()))

    @contextmanager
    def disabled(self, names: Iterable[str]) -> Iterator[None]:
        wanted = known_names(names, self._enabled)
        without_changes = dict.fromkeys(wanted)
        with ExitStack() as stack:
            for module in self._all.values():
                stack.callback(vars(module).update, self._state(module))
            stack.enter_context(self._more_restored())
            stack.enter_context(self.biases.changed(without_changes))
            stack.enter_context(self.roundings.changed(without_changes, self.grid))
            for name, module in self._enabled.items():
                module._disabled = name in wanted
                # A measurement would change a quantizer that still collects values.
                module._if_calib = False
            yield

    def grid(self, name: str) -> Grid:
        module = self._named(name)
        reason = self._not_an_integer_grid(module) or self._problem(module)
        if reason:
            raise ModelError(
                f"Expected {name} to quantize to one integer grid, got a quantizer that does not: "
                f"{reason}."
            )
        low, high = self._bounds(module)
        scale = self._scale(name, high)
        return Grid(scale=scale, zero_point=0, low=low, high=high, axis=self._axis(module))

    def _named(self, name: str) -> Any:
        known_names([name], self._enabled)
        return self._enabled[name]

    def _scale(self, name: str, high: int) -> NDArray[np.float32]:
        """Return the scale of each of a quantizer's ranges, float32[n].

        high: the quantizer's largest level.
        """
        amax = array(self._amax(self._enabled[name])).reshape(-1)
        return scales_of(amax, high, is_weight=name in self._of_weights)

    def amax(self, name: str) -> Any:
        """Return the largest absolute value that a quantizer can give, as a tensor that broadcasts
        against what it quantizes."""
        return self._amax(self._enabled[name])

    def range(self, name: str) -> Range:
        """Return the present range of a quantizer, as `with_ranges` takes it.

        Raises ModelError for a quantizer without an integer grid, and for a range that is learned
        or scaled.
        """
        self.grid(name)
        module = self._enabled[name]
        amax = self._amax(module)
        if amax is not getattr(module, "_amax", None):
            raise ModelError(
                f"Expected {name} to have a range that can be changed, got a learned or scaled one."
            )
        bias, rounding = self.biases.now(name), self.roundings.now(name)
        return replace(own_range(name, amax, self._axis(module)), bias=bias, rounding=rounding)

    def with_ranges(self, ranges: Iterable[Range]) -> AbstractContextManager[None]:
        ranges = tuple(ranges)
        for one in ranges:
            self.range(one.quantizer)
        return self._with_ranges(ranges)

    @contextmanager
    def _with_ranges(self, ranges: Sequence[Range]) -> Iterator[None]:
        deltas, roundings = {}, {}
        with ExitStack() as stack:
            for one in ranges:
                name = one.quantizer
                deltas[name], roundings[name] = one.bias, one.rounding
                stack.enter_context(
                    range_set(self._enabled[name], one, dimensions=self._dimensions(name))
                )
            stack.enter_context(self.biases.changed(deltas))
            stack.enter_context(self.roundings.changed(roundings, self.grid))
            yield

    def change(self, names: Iterable[str], ranges: Iterable[Range]) -> None:
        ranges, wanted = tuple(ranges), known_names(names, self._enabled)
        modules = [self._enabled[one.quantizer] for one in ranges]
        with self.with_ranges(ranges):
            states = list(map(state_of, modules))
        for module, state in zip(modules, states, strict=True):
            restore(module, state)
        for one in ranges:
            if one.quantizer not in wanted:
                self._change_layer(one)
        for name in wanted:
            self._enabled[name]._disabled = True

    def _change_layer(self, one: Range) -> None:
        """Change the bias and the weight of a quantizer's layer permanently, as a range says."""
        self.biases.change(one.quantizer, one.bias)
        if one.rounding is not None:
            self.roundings.change(one.quantizer, one.rounding, self.grid(one.quantizer))

    def other_ranges(self, names: Iterable[str], forward: Callable[[], None]) -> tuple[Range, ...]:
        return other_ranges(self, names, forward)

    def weights(self) -> Iterator[tuple[str, NDArray[np.floating], int | None]]:
        weights, _ = weights_and_activations(self.quantizers)
        for quantizer in weights:
            layer = self.model.get_submodule(quantizer.layer)
            weight = getattr(layer, "weight", None)
            if weight is not None:
                yield quantizer.name, array(weight), channel_axis(layer)

    def watching(self, see: Seer) -> AbstractContextManager[None]:
        return shown_in_float(self, see)

    def _dimensions(self, name: str) -> int:
        """Return the number of axes of the tensor that a quantizer gets, as far as per-channel
        ranges need it."""
        layer = name.rpartition(".")[0]
        amax = self._enabled[name]._amax
        weight = getattr(self.model.get_submodule(layer), "weight", None)
        return max(int(amax.ndim), getattr(weight, "ndim", 0))

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, module in self.model.named_modules(remove_duplicate=False):
            digest.update(f"{name}:{type(module).__name__}\n".encode())
        for name, module in self._all.items():
            settings = [(setting, getattr(module, setting, None)) for setting in self.settings]
            digest.update(f"{name}:{settings}\n".encode())
        add_tensors(digest, self.model)
        return digest.hexdigest()

    def remaining(self) -> tuple[Finding, ...]:
        return still_quantized(self.model, self._all.values())

    def executed(self, inputs: Any) -> frozenset[str]:
        with self.disabled(()):
            return reached(self.model, self._enabled, inputs)

    # What differs between the toolkits.
    # ------------------------------------------------------------------------------

    def _more_restored(self) -> Any:
        """Return a context that restores, after it, what a user's code may switch besides
        `flags`."""
        return ExitStack()

    def _amax(self, module: Any) -> Any:
        return getattr(module, "_amax", None)

    def _bounds(self, module: Any) -> tuple[int, int]:
        """Return the smallest and the largest level."""
        if module._unsigned:
            return 0, 2**module._num_bits - 1
        high = 2 ** (module._num_bits - 1) - 1
        lowest = -high - 1
        return lowest + int(module._narrow_range), high

    def _is_fixed(self, module: Any) -> bool:
        """Return whether the range comes from calibration, so that it must be present."""
        return True

    def _not_an_integer_grid(self, module: Any) -> str | None:
        raise NotImplementedError

    def _format(self, module: Any) -> str:
        """Return the format of the quantized values, in words."""
        if isinstance(module._num_bits, int):
            return f"INT{module._num_bits}"
        exponent, mantissa = module._num_bits
        return f"FP{1 + exponent + mantissa} E{exponent}M{mantissa}"

    def _is_container(self, module: Any) -> bool:
        """Return whether a module only holds quantizers of the module that holds it."""
        return False

    # ----------------------------------------------------------------------------------------------

    def _is_dead(self, name: str) -> bool:
        """Return whether a quantizer replaces all of its input by 0."""
        module = self._enabled[name]
        if not self._is_fixed(module):
            return False
        amax = self._amax(module)
        return amax is not None and bool((amax <= SMALLEST_AMAX).all())

    @classmethod
    def _is_quantizer(cls, module: Any) -> bool:
        return is_a(module, "TensorQuantizer", cls.package)

    def _state(self, module: Any) -> Mapping[str, Any]:
        own = vars(module)
        return {flag: own[flag] for flag in own.keys() & self.flags}

    def _quantizer(self, name: str, modules: Mapping[str, Any]) -> Quantizer:
        module = modules[name]
        layer, attribute = self._place(name, modules)
        role, axis = _role(attribute), self._axis(module)
        problem = self._problem(module)
        # pytorch-quantization's own layers do not descend from torch's ConvTranspose2d, only from
        # its base.
        is_transposed = "_ConvTransposeNd" in class_names(modules[layer])
        if role == "weight" and is_transposed and not problem:
            problem = self._wrong_axis(axis)
        return Quantizer(
            name, layer, role, _bits(module), axis, problem, format=self._format(module)
        )

    def _place(self, name: str, modules: Mapping[str, Any]) -> tuple[str, str]:
        """Return the layer that holds a quantizer, and the name of the attribute that does.

        A quantizer that stands by itself is its own layer, since no module stands for the operation
        that it quantizes.
        """
        layer, _, attribute = name.rpartition(".")
        while layer and self._holds_quantizers(layer, modules[layer]):
            layer, _, attribute = layer.rpartition(".")
        if layer and attribute.endswith(("quantizer", "quantizers")):
            return layer, attribute
        return name, attribute

    def _holds_quantizers(self, name: str, module: Any) -> bool:
        """Return whether a module is no layer itself, but only holds the quantizers of a layer.

        Recurrent layers hold lists of quantizers, one for each of their own layers and directions.
        """
        is_list = type(module).__name__ == "ModuleList" and name.endswith("quantizers")
        return is_list or self._is_container(module)

    def _wrong_axis(self, axis: int | None) -> str | None:
        """Return the fault of a channel axis for the weight of a transposed convolution, or None.

        Both toolkits give every weight axis 0 by default. In a transposed convolution the kernel
        sums over this axis, and no engine can take scales out of that sum.
        """
        if axis in (None, 1):
            return None
        return (
            f"its scales run along axis {axis}, and the output channels of a ConvTranspose are "
            f"axis 1; {self.transposed}"
        )

    def _axis(self, module: Any) -> int | None:
        """Return the channel axis of a quantizer, from 0, or None if it is per-tensor or has more
        than one channel axis.

        The shape of amax decides, as it does when values are quantized. The axis that the quantizer
        names decides only if the shape does not.
        """
        amax, axis = self._amax(module), _named_axis(module)
        if amax is None:
            return axis
        dimensions = int(amax.ndim)
        along = np.flatnonzero(np.greater(tuple(amax.shape), 1)).tolist()
        if len(along) > 1 or dimensions == 0:
            return None
        if along:
            return int(along[0]) if dimensions > 1 else None
        if axis is None:
            return None
        return axis % dimensions

    def _problem(self, module: Any) -> str | None:
        if not module._if_quant:
            return "it was left in calibration mode, with quantization off"
        if not self._is_fixed(module):
            return None
        amax = self._amax(module)
        if amax is None:
            # Both toolkits would silently take the range of each batch instead.
            return "amax is missing"
        return range_problem(array(amax))


def is_a(module: Any, kind: str, package: str) -> bool:
    """Return whether a module is of this class of a package. Both are compared by name, so that the
    package need not be imported."""
    names = [(base.__name__, base.__module__.partition(".")[0]) for base in type(module).__mro__]
    return (kind, package) in names


def shown_in_float(source: Any, see: Seer) -> AbstractContextManager[None]:
    """Run the model unquantized inside the `with`, and call `see` with the name and the input of
    each quantizer of an activation."""

    def show(name: str, module: Any, given: Any) -> None:
        see(name, array(given[0]))

    _, activations = weights_and_activations(source.quantizers)
    return hooked_in_float(source, {name: partial(show, name) for name in names_of(activations)})


def array(tensor: Any) -> NDArray[np.float32]:
    """Return the tensor's values on the host, as float32."""
    return np.asarray(tensor.detach().float().cpu().numpy(), dtype=np.float32)


def scales_of(amax: NDArray[np.float32], high: float, *, is_weight: bool) -> NDArray[np.float32]:
    """Return the scales of channels, float32[channels], all above 0: amax divided by the largest
    level, or for a dead channel a scale that keeps its values 0.

    A dead channel of a weight takes the smallest scale of the other channels, at most 1. Its bias,
    in steps of this scale, is then as precise as theirs.

    >>> scales_of(np.float32([127.0, 254.0, 0.0]), 127, is_weight=True).tolist()
    [1.0, 2.0, 1.0]
    """
    dead = amax <= SMALLEST_AMAX
    scale = amax / np.float32(high)
    of_weight = max(float(scale[~dead].min(initial=1.0)), SMALLEST_SCALE)
    kept = of_weight if is_weight else DEAD_INPUT_SCALE
    return np.where(dead, np.float32(kept), scale)


def range_problem(amax: NDArray[np.float32]) -> str | None:
    """Return the faults of the ranges of a quantizer's channels, or None if there are none. A dead
    channel has no fault."""
    faults = [
        _describe("not finite", ~np.isfinite(amax)),
        _describe("negative", amax < 0),
    ]
    return "; ".join(filter(None, faults)) or None


def add_tensors(digest: Any, model: Any) -> None:
    """Add the names, types, shapes and bytes of all weights and buffers to a digest.

    This includes buffers that are not persistent, which state_dict() leaves out, since they change
    the outputs, too.
    """
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))


def _is_enabled(module: Any) -> bool:
    if module._disabled:
        return False
    # Interrupted calibration leaves quantization off and collecting on. The user did not choose
    # that, so the quantizer is listed.
    return bool(module._if_quant or module._if_calib)


def _role(attribute: str) -> Role:
    if attribute.endswith(("weight_quantizer", "weight_quantizers")):
        return "weight"
    if attribute.endswith("output_quantizer"):
        return "output"
    return "input"


def _bits(module: Any) -> int:
    """Return the number of bits of a quantized value. A float format is given by its numbers of
    exponent and mantissa bits, to which the sign adds one."""
    bits: int | tuple[int, int] = module._num_bits
    if isinstance(bits, int):
        return bits
    return 1 + sum(bits)


def _describe(fault: str, where: NDArray[np.bool_]) -> str | None:
    """Return a fault of amax in words, or None if no channel has it.

    where: bool[channels], true for the channels that have it.
    """
    count = int(where.sum())
    if count == 0:
        return None
    channels = "" if where.size == 1 else f" of {count} of {where.size} channels"
    return f"amax{channels} is {fault}"


def _bytes(tensor: Any) -> bytes:
    return bytes(
        tensor.detach().cpu().contiguous().reshape(-1).view(optional.torch.uint8).numpy().data
    )


def _named_axis(module: Any) -> int | None:
    """Return the channel axis that a quantizer names, or None if it names none or several."""
    axis = first_axis(module._axis)
    return axis if isinstance(axis, int) else None
