"""What ModelOpt and pytorch-quantization, whose quantizers have one ancestor, have in common.

The quantizers are told by their class name, so neither toolkit is ever imported here: a model that
holds one has imported it already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.errors import ModelError, listed, unknown_name
from sensitivity.quantizers.proofs import reached, still_quantized
from sensitivity.quantizers.ranges import (
    channel_axis,
    hooked_in_float,
    other_ranges,
    own_range,
    ranges_set,
    restore,
    state_of,
)
from sensitivity.quantizers.torch.biases import Biases, has_bias
from sensitivity.quantizers.torch.half import HALF, half_type
from sensitivity.quantizers.torch.rounded import Roundings, has_weight
from sensitivity.records import Finding, Grid, Quantizer, Range, Role

if TYPE_CHECKING:
    from sensitivity.quantizers.base import Seer

SMALLEST_AMAX = 2.0**-24
"""Both toolkits (`_tensor_quant`) replace every value of a channel by 0 where amax is not above
this: it is dead."""

SMALLEST_SCALE = 4 * SMALLEST_AMAX
"""Of a dead channel: no value of it is rounded to anything but 0."""

DEAD_INPUT_SCALE = 2.0**20
"""Of a dead activation: values up to half of this are rounded to 0, as the toolkits replace them
all by 0."""

DEAD_INPUT = (
    "{names}: only values of 0 came there in calibration, so everything that comes there becomes "
    "0. Calibrate on data that reaches this layer, unless it is dead."
)


class TensorQuantizerModel:
    """A model with `TensorQuantizer` modules, seen as a `QuantizedModel`.

    A quantizer's layer is the module that holds it; its role comes from the attribute's name, and
    every name but `..weight_quantizer` and `..output_quantizer` is an input. One quantizer under
    several names is listed once, under the first. Raises ModelError where the model has no enabled
    quantizer.

    toolkit, how: its name in messages, and how to quantize with it. transposed: how to get scales
    along axis 1 for the weights of transposed convolutions. package: of its classes. calibrators:
    the module that has its `HistogramCalibrator`. flags: every switch of a quantizer, and what else
    its forward writes. settings: what, next to its buffers, decides the values it gives.
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
        modules = dict(model.named_modules()) if hasattr(model, "named_modules") else {}
        self._all = {name: module for name, module in modules.items() if self._is_quantizer(module)}
        enabled = {name: module for name, module in self._all.items() if _is_enabled(module)}
        if not enabled:
            found = (
                f"{len(self._all)} quantizers, all disabled" if self._all else "a model without any"
            )
            raise ModelError(
                f"Expected at least one enabled {self.toolkit} quantizer, got {found}; {self.how} "
                "first."
            )
        self._enabled = enabled
        self.quantizers = tuple(
            self._quantizer(name, module, modules) for name, module in enabled.items()
        )
        self._roles = {quantizer.name: quantizer.role for quantizer in self.quantizers}
        self.biases = Biases(
            {
                each.name: modules[each.layer]
                for each in self.quantizers
                if each.role == "weight" and has_bias(modules[each.layer])
            }
        )
        self.roundings = Roundings(
            {name: layer for name, layer in self.biases.layers.items() if has_weight(layer)}
        )
        dead = [
            name
            for name, role in self._roles.items()
            if role != "weight" and self._is_dead(enabled[name])
        ]
        self.warnings = (DEAD_INPUT.format(names=listed(dead, 3)),) if dead else ()
        if half := half_type(model):
            self.warnings += (HALF.format(type=half),)

    @classmethod
    def recognises(cls, model: Any) -> bool:
        """Whether the model holds quantizers of this toolkit, enabled or not."""
        return hasattr(model, "modules") and any(map(cls._is_quantizer, model.modules()))

    @contextmanager
    def disabled(self, names: Iterable[str]) -> Iterator[None]:
        wanted = self._known(names)
        with ExitStack() as stack:
            for module in self._all.values():
                stack.callback(vars(module).update, self._state(module))
            stack.enter_context(self._more_restored())
            stack.enter_context(
                self.biases.changed(dict.fromkeys(wanted & self.biases.layers.keys()))
            )
            stack.enter_context(self.roundings.changed(dict.fromkeys(wanted), self.grid))
            for name, module in self._enabled.items():
                module._disabled = name in wanted
                # a quantizer that still collects would be changed by being measured
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

    def _known(self, names: Iterable[str]) -> set[str]:
        """The names, once each. Raises NamesError for one that is no quantizer's."""
        wanted = set(names)
        for name in sorted(wanted - self._enabled.keys()):
            raise unknown_name("a quantizer's name", name, self._enabled)
        return wanted

    def _named(self, name: str) -> Any:
        self._known([name])
        return self._enabled[name]

    def _scale(self, name: str, high: int) -> NDArray[np.float32]:
        """float32[n]: one for each of the quantizer's ranges. high: its largest level."""
        amax = array(self._amax(self._enabled[name])).reshape(-1)
        return scales_of(amax, high, is_weight=self._roles[name] == "weight")

    def amax(self, name: str) -> Any:
        """The largest absolute value that a quantizer can give, a tensor that broadcasts against
        what it quantizes."""
        return self._amax(self._enabled[name])

    def range(self, name: str) -> Range:
        """The range that a quantizer has now, as `with_ranges` takes it."""
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
        dims = {one.quantizer: self._dimensions(one.quantizer) for one in ranges}
        roundings = {one.quantizer: one.rounding for one in ranges}
        with (
            ranges_set(self._enabled, ranges, dims),
            self.biases.changed(self._deltas(ranges)),
            self.roundings.changed(roundings, self.grid),
        ):
            yield

    def change(self, names: Iterable[str], ranges: Iterable[Range]) -> None:
        ranges, wanted = tuple(ranges), self._known(names)
        modules = [self._enabled[one.quantizer] for one in ranges]
        with self.with_ranges(ranges):
            states = [state_of(module) for module in modules]
        for module, state in zip(modules, states, strict=True):
            restore(module, state)
        deltas = self._deltas(ranges)
        for name in deltas.keys() - wanted:
            self.biases.change(name, deltas[name])
        for one in ranges:
            if one.rounding is not None and one.quantizer not in wanted:
                self.roundings.change(one.quantizer, one.rounding, self.grid(one.quantizer))
        for name in wanted:
            self._enabled[name]._disabled = True

    def other_ranges(self, names: Iterable[str], forward: Callable[[], None]) -> tuple[Range, ...]:
        return other_ranges(self, names, forward)

    def weights(self) -> Iterator[tuple[str, NDArray[np.floating], int | None]]:
        for quantizer in self.quantizers:
            layer = self.model.get_submodule(quantizer.layer)
            weight = getattr(layer, "weight", None)
            if quantizer.role == "weight" and weight is not None:
                yield quantizer.name, array(weight), channel_axis(layer)

    def watching(self, see: Seer) -> AbstractContextManager[None]:
        return shown_in_float(self, see)

    def _deltas(self, ranges: Iterable[Range]) -> dict[str, tuple[float, ...] | None]:
        """What is added to biases with these ranges; nothing is where a weight has no change."""
        known = self.biases.layers
        return {one.quantizer: one.bias for one in ranges if one.quantizer in known or one.bias}

    def _dimensions(self, name: str) -> int:
        """How many axes the tensor that this quantizer gets has, as far as per-channel ranges need
        it."""
        amax = self._enabled[name]._amax
        weight = getattr(self.model.get_submodule(name.rpartition(".")[0]), "weight", None)
        return max(int(amax.ndim), 0 if weight is None else int(weight.ndim))

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
        """A context that restores what a user's code may switch besides `flags`."""
        return ExitStack()

    def _amax(self, module: Any) -> Any:
        return getattr(module, "_amax", None)

    def _bounds(self, module: Any) -> tuple[int, int]:
        high = 2 ** (module._num_bits - 1 + int(module._unsigned)) - 1
        return (0 if module._unsigned else -high if module._narrow_range else -high - 1), high

    def _is_fixed(self, module: Any) -> bool:
        """Whether the range comes from calibration, and must be there."""
        return True

    def _not_an_integer_grid(self, module: Any) -> str | None:
        raise NotImplementedError

    def _format(self, module: Any) -> str:
        """Of the quantized values, in words."""
        if isinstance(module._num_bits, int):
            return f"INT{module._num_bits}"
        exponent, mantissa = module._num_bits
        return f"FP{1 + exponent + mantissa} E{exponent}M{mantissa}"

    def _is_container(self, module: Any) -> bool:
        """Whether the module only holds the quantizers of the module above it."""
        return False

    # ----------------------------------------------------------------------------------------------

    def _is_dead(self, module: Any) -> bool:
        """Whether it replaces all that it gets by 0."""
        amax = self._amax(module) if self._is_fixed(module) else None
        return amax is not None and bool((amax <= SMALLEST_AMAX).all())

    @classmethod
    def _is_quantizer(cls, module: Any) -> bool:
        return is_a(module, "TensorQuantizer", cls.package)

    def _state(self, module: Any) -> Mapping[str, Any]:
        return {flag: vars(module)[flag] for flag in self.flags if flag in vars(module)}

    def _quantizer(self, name: str, module: Any, modules: Mapping[str, Any]) -> Quantizer:
        layer, _, attribute = name.rpartition(".")
        while layer and (self._is_container(modules[layer]) or _is_list(layer, modules[layer])):
            layer, _, attribute = layer.rpartition(".")
        if not layer or not attribute.endswith(("quantizer", "quantizers")):
            layer = name  # it stands by itself: what it quantizes is the operation
        bits = module._num_bits if isinstance(module._num_bits, int) else 1 + sum(module._num_bits)
        problem = self._problem(module) or self._wrong_axis(
            module, _role(attribute), modules[layer]
        )
        return Quantizer(
            name,
            layer,
            _role(attribute),
            bits,
            self._axis(module),
            problem,
            format=self._format(module),
        )

    def _wrong_axis(self, module: Any, role: Role, layer: Any) -> str | None:
        """Both toolkits give every weight axis 0 by default, which in a transposed convolution is
        the axis that the kernel sums over: no engine can take scales out of that sum."""
        # pytorch-quantization's own layers do not descend from torch's ConvTranspose2d, only from
        # its base.
        transposed = "_ConvTransposeNd" in {base.__name__ for base in type(layer).__mro__}
        if role != "weight" or not transposed or self._axis(module) in (None, 1):
            return None
        return (
            f"its scales run along axis {self._axis(module)}, and the output channels of a "
            f"ConvTranspose are axis 1; {self.transposed}"
        )

    def _axis(self, module: Any) -> int | None:
        """The channel axis, from 0; None for per tensor, and for grids with more than one axis.

        The shape of amax decides, as it does when values are quantized; what the quantizer says,
        where the shape says nothing.
        """
        amax, told = self._amax(module), _told_axis(module)
        if amax is None:
            return told
        along = [index for index, length in enumerate(amax.shape) if length > 1]
        if along:
            is_one_axis = len(along) == 1 and amax.ndim > 1
            return along[0] if is_one_axis else None
        if told is None or amax.ndim == 0:
            return None
        return told % int(amax.ndim)

    def _problem(self, module: Any) -> str | None:
        if not module._if_quant:
            return "it was left in calibration mode, with quantization off"
        if not self._is_fixed(module):
            return None
        amax = self._amax(module)
        if amax is None:
            # Both toolkits would take the range of each batch instead, silently.
            return "amax is missing"
        return range_problem(array(amax))


def is_a(module: Any, kind: str, package: str) -> bool:
    """Whether a module is of this class of a package, found by name: the package need not be
    imported."""
    return any(
        base.__name__ == kind and base.__module__.partition(".")[0] == package
        for base in type(module).__mro__
    )


def shown_in_float(source: Any, see: Seer) -> AbstractContextManager[None]:
    """Inside the `with` the model runs with nothing quantized, and `see` is called with the name of
    each quantizer of an activation and what it gets."""

    def shown(name: str) -> Callable[[Any, Any], None]:
        return lambda module, given: see(name, array(given[0]))

    watched = [one.name for one in source.quantizers if one.role != "weight"]
    return hooked_in_float(source, {name: shown(name) for name in watched})


def array(tensor: Any) -> NDArray[np.float32]:
    """The tensor's values on the host, as float32."""
    return np.asarray(tensor.detach().float().cpu().numpy(), dtype=np.float32)


def scales_of(amax: NDArray[np.float32], high: int, *, is_weight: bool) -> NDArray[np.float32]:
    """float32[channels], all above 0: amax over the largest level, and for dead channels one that
    keeps their values 0.

    A dead channel of a weight takes the smallest scale of the living ones, 1 at most, so that its
    bias, in steps of it, is held as well as theirs.

    >>> scales_of(np.float32([127.0, 254.0, 0.0]), 127, is_weight=True).tolist()
    [1.0, 2.0, 1.0]
    """
    dead = amax <= SMALLEST_AMAX
    scale = amax / np.float32(high)
    of_weight = max(float(scale[~dead].min(initial=1.0)), SMALLEST_SCALE)
    kept = of_weight if is_weight else DEAD_INPUT_SCALE
    return np.where(dead, np.float32(kept), scale)


def range_problem(amax: NDArray[np.float32]) -> str | None:
    """What is wrong with the ranges of a quantizer's channels; None where nothing is. Those of dead
    channels are right."""
    faults = {"not finite": ~np.isfinite(amax), "negative": amax < 0}
    found = [_describe(fault, where) for fault, where in faults.items() if where.any()]
    return "; ".join(found) or None


def add_tensors(digest: Any, model: Any) -> None:
    """Add names, types and bytes of all weights and buffers to a digest.

    Not those of state_dict(): buffers that are not persistent change the outputs too.
    """
    for kind in (model.named_parameters(), model.named_buffers()):
        for name, tensor in kind:
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
            digest.update(_bytes(tensor))


def _is_enabled(module: Any) -> bool:
    # Interrupted calibration leaves quantization off and collecting on: not the user's choice, so
    # it is listed.
    return not module._disabled and (module._if_quant or module._if_calib)


def _is_list(name: str, module: Any) -> bool:
    """Recurrent layers hold lists of quantizers, one for each of their own layers and
    directions."""
    return type(module).__name__ == "ModuleList" and name.endswith("quantizers")


def _role(attribute: str) -> Role:
    if attribute.endswith(("weight_quantizer", "weight_quantizers")):
        return "weight"
    return "output" if attribute.endswith("output_quantizer") else "input"


def _describe(fault: str, where: NDArray[np.bool_]) -> str:
    return (
        f"amax is {fault}"
        if where.size == 1
        else f"amax of {int(where.sum())} of {where.size} channels is {fault}"
    )


def _bytes(tensor: Any) -> bytes:
    return bytes(
        tensor.detach().cpu().contiguous().reshape(-1).view(optional.torch.uint8).numpy().data
    )


def _told_axis(module: Any) -> int | None:
    """The channel axis that a quantizer says it has; None for none and for several."""
    axis: int | tuple[int, ...] | list[int] | None = module._axis
    if not isinstance(axis, (tuple, list)):
        return axis
    return axis[0] if len(axis) == 1 else None
