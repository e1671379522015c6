"""What a calibrated model offers, whatever toolkit made it: its quantizers, and a way to switch
them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

from sensitivity.errors import ModelError, unknown_name
from sensitivity.records import (
    Finding,
    Grid,
    ModelGraph,
    Quantizer,
    Range,
    Role,
    Unit,
    UnitKind,
    names_of,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Seer = Callable[[str, NDArray[np.floating]], None]
    """Function that is called with the name of a quantizer and the values that it gets."""


SHOWN = 5
"""Number of uncalibrated quantizers that an error names, at most."""


class QuantizedModel(Protocol):
    """A calibrated model and its enabled quantizers.

    source: the toolkit's name in the registry, such as "modelopt".
    model: the user's own object, never copied, always left as it was found.
    quantizers: every quantizer that was enabled when this was made, in the model's order.
        Quantizers that the user had already disabled are not listed and stay disabled.
    warnings: what a reader of results has to know about this model, one sentence each.
    """

    source: str
    model: Any
    quantizers: tuple[Quantizer, ...]
    warnings: tuple[str, ...]

    def disabled(self, names: Iterable[str]) -> AbstractContextManager[None]:
        """Leave exactly these quantizers unquantized inside the `with`.

        The previous state is restored after it, also after an exception. Raises NamesError for a
        name that is not in `quantizers`.
        """
        ...

    def grid(self, name: str) -> Grid:
        """Return the integer grid of one quantizer. Raises ModelError if it has none (FP8,
        block-wise)."""
        ...

    def fingerprint(self) -> str:
        """Return the hex digest of weights, buffers and every quantizer's settings, which changes
        if any of them does."""
        ...

    def remaining(self) -> tuple[Finding, ...]:
        """Return an error finding for each thing that stays quantized with every quantizer
        disabled; empty if there is none."""
        ...

    def executed(self, inputs: Any) -> frozenset[str]:
        """Return the names of the quantizers that a forward on one batch executes, with all of them
        enabled.

        A quantizer without a calibrated range is executed too if the forward reaches it.

        inputs: one batch, as the task gives it.

        Raises TaskError if the model refuses the batch.
        """
        ...


@runtime_checkable
class WithFileGrids(Protocol):
    """A model with quantizers that an ONNX file can hold and `grid` cannot: FP8, blocks, and
    quantizers that multiply by a pre-quantization scale first."""

    def file_grid(self, name: str) -> Grid:
        """Return the grid of one quantizer after its pre-quantization scale.

        Raises ModelError if no file can hold it, as with ranges that are taken from each batch.
        """
        ...


def file_grid(source: QuantizedModel, name: str) -> Grid:
    """Return the grid that an exported file has to hold for one quantizer. Raises ModelError if no
    file can hold it."""
    if isinstance(source, WithFileGrids):
        return source.file_grid(name)
    return source.grid(name)


def amax_of(source: QuantizedModel, name: str) -> Any:
    """Return the largest absolute value that a quantizer can give, as a tensor that broadcasts
    against what it quantizes.

    Returns None for models whose grids do not come from a range of values.
    """
    find = getattr(source, "amax", None)
    return find(name) if find else None


@runtime_checkable
class Recalibratable(Protocol):
    """A calibrated model whose quantizers can take other ranges, as shared scales and recalibration
    need."""

    def range(self, name: str) -> Range:
        """Return the present range of a quantizer. Raises ModelError if it has no fixed range on an
        integer grid."""
        ...

    def with_ranges(self, ranges: Iterable[Range]) -> AbstractContextManager[None]:
        """Give quantizers these ranges inside the `with`.

        The previous ranges are restored after it, also after an exception. Raises NamesError for an
        unknown quantizer, ModelError for one without an integer grid.
        """
        ...

    def other_ranges(self, names: Iterable[str], forward: Callable[[], None]) -> tuple[Range, ...]:
        """Return the ranges that other calibration methods find for these quantizers; empty if
        there is no other method.

        forward: runs the model on the calibration data.
        """
        ...


@runtime_checkable
class TakesFp8(Recalibratable, Protocol):
    """A calibrated model whose quantizers can also quantize to FP8 E4M3, by ranges with `fp8`."""

    def no_fp8(self) -> str | None:
        """Return why this model cannot, and what to do, as the end of a sentence after "got"; None
        if it can."""
        ...


@runtime_checkable
class Changeable(Protocol):
    """A calibrated model that can be changed to a plan for good."""

    def change(self, names: Iterable[str], ranges: Iterable[Range]) -> None:
        """Disable these quantizers, and give the quantizers of these ranges their new ranges, for
        good.

        Nothing is changed if it raises: NamesError for an unknown quantizer, ModelError for a range
        that cannot be changed.
        """
        ...


@runtime_checkable
class Sharing(Protocol):
    """A model in which some quantizers must have one range, because they become one Q/DQ pair of a
    file."""

    def sharing(self) -> tuple[tuple[str, ...], ...]:
        """Return the groups of such quantizers by name, two or more each."""
        ...

    def missing(self) -> str | None:
        """Return why some other ranges cannot be had, and what to do, as a sentence; None if
        nothing is missing."""
        ...


@runtime_checkable
class Structured(Protocol):
    """A model that itself says which of its layers belong together. For other models the modules
    and the traced graph are read."""

    def related(self) -> tuple[tuple[UnitKind, tuple[str, ...]], ...]:
        """Return the related layers: the reason, and the names of two or more layers; the strongest
        reason first."""
        ...


@runtime_checkable
class Connected(Protocol):
    """A model that itself says which of its layers hand each other tensors. For other models the
    traced graph is read."""

    def connections(self) -> ModelGraph:
        """Return the model's graph of layers; its `meetings` are all meetings, whatever their
        ranges."""
        ...


@runtime_checkable
class Watchable(Protocol):
    """A model that shows the values that its quantizers get."""

    def weights(self) -> Iterator[tuple[str, NDArray[np.floating], int | None]]:
        """Yield the name of each weight quantizer, the weight in float, and the axis of its output
        channels; the axis is None if it is not known."""
        ...

    def watching(self, see: Seer) -> AbstractContextManager[None]:
        """Run the model unquantized inside the `with`, and call `see` with the name of each
        activation quantizer and the values that it gets."""
        ...


@runtime_checkable
class Runnable(Protocol):
    """A model that is not called as a torch module is."""

    def forward(self, inputs: Any) -> None:
        """Run the model once, for whoever watches it.

        inputs: one batch, as the task gives it.
        """
        ...


@runtime_checkable
class WithFloat(Protocol):
    """A model that knows the float model from which it was made."""

    float_model_from: str
    """The model that it compares itself with and where that comes from, as a clause."""

    def float_findings(self, inputs: Any) -> Iterable[Finding]:
        """Return findings on whether the model with everything disabled is the float model.

        inputs: one batch, as the task gives it.
        """
        ...


Form = Literal["torch", "onnx"]
"""Form of a model: a torch module, which is called, traced and exported; or a Q/DQ file, which is
cut, edited and run by ONNX Runtime."""


def form_of(source: Any) -> Form:
    """Return the form of a source's models, by its attribute `form`; "torch" without one.

    source: an adapter, or its class.
    """
    form: Form = getattr(source, "form", "torch")
    return form


def name_in_words(source: QuantizedModel) -> str:
    """Return what a model of this source is called in sentences, by its attribute `in_words`."""
    return str(getattr(source, "in_words", f"a {source.source} model"))


@runtime_checkable
class Ordered(Protocol):
    """A model whose graph is known."""

    def nearest_outputs(self) -> tuple[tuple[str, ...], ...]:
        """Return, for each output of the model, the quantizers that it depends on, those nearest to
        it first."""
        ...


def ends(source: QuantizedModel, units: Iterable[Unit]) -> tuple[tuple[str, ...], ...]:
    """Return the units that are nearest to each end of the graph, the nearest first.

    The first end is that of the inputs; the outputs follow, one by one. A model that does not know
    its graph is assumed to compute its units in order, and to have one output.
    """
    unit_of: dict[str, str] = {}
    for unit in units:
        unit_of.update(dict.fromkeys(unit.quantizers, unit.name))

    def units_in_order(quantizers: Iterable[str]) -> tuple[str, ...]:
        own = map(unit_of.get, quantizers)
        return tuple(dict.fromkeys(filter(None, own)))

    from_inputs = units_in_order(names_of(source.quantizers))
    if not isinstance(source, Ordered):
        return from_inputs, from_inputs[::-1]
    return from_inputs, *map(units_in_order, source.nearest_outputs())


def layers(quantizers: Iterable[Quantizer]) -> tuple[Unit, ...]:
    """Group quantizers into layers by exact layer name, in the model's order.

    >>> activation = Quantizer("a.input_quantizer", "a", "input", 8, None)
    >>> weight = Quantizer("a.weight_quantizer", "a", "weight", 8, 0)
    >>> [unit] = layers([activation, weight])
    >>> unit.name, unit.quantizers
    ('a', ('a.input_quantizer', 'a.weight_quantizer'))
    """
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for quantizer in quantizers:
        grouped[quantizer.layer].append(quantizer.name)
    return tuple(Unit(layer, tuple(names)) for layer, names in grouped.items())


class HasRole(Protocol):
    """Anything that quantizes either a weight or an activation."""

    @property
    def role(self) -> Role:
        """What it quantizes: a weight, or the input or output of an operation."""
        ...


OfARole = TypeVar("OfARole", bound=HasRole)


def weights_and_activations(items: Iterable[OfARole]) -> tuple[list[OfARole], list[OfARole]]:
    """Return the items that quantize a weight, and all others, each in their order."""
    weights: list[OfARole] = []
    activations: list[OfARole] = []
    for item in items:
        own_kind = weights if item.role == "weight" else activations
        own_kind.append(item)
    return weights, activations


def known_names(names: Iterable[str], known: Collection[str]) -> frozenset[str]:
    """Return the names, once each. Raises NamesError for a name that is not a quantizer's.

    known: the names of all quantizers of the model.
    """
    wanted = frozenset(names)
    for name in sorted(wanted.difference(known)):
        raise unknown_name("a quantizer's name", name, known)
    return wanted


def first_fault(faults: Mapping[str, bool]) -> str | None:
    """Return the first fault that is present; None if there is none.

    faults: a clause for each fault -> whether it is present.
    """
    for fault, is_there in faults.items():
        if is_there:
            return fault
    return None


def quantizers_of(names: Iterable[str], units: Iterable[Unit]) -> frozenset[str]:
    """Return the names of all quantizers of the units with these names. Raises NamesError for a
    name that no unit has.

    >>> units = (Unit("stem", ("stem.input", "stem.weight")), Unit("head", ("head.input",)))
    >>> sorted(quantizers_of(["stem"], units))
    ['stem.input', 'stem.weight']
    """
    own = {unit.name: unit.quantizers for unit in units}
    quantizers: set[str] = set()
    for name in names:
        if name not in own:
            raise unknown_name("a unit to skip", name, own)
        quantizers.update(own[name])
    return frozenset(quantizers)


def check_calibrated(quantizers: Iterable[Quantizer]) -> None:
    """Raise ModelError with the name of each quantizer that is enabled but not calibrated."""
    bad = [f"{each.name}: {each.problem}" for each in quantizers if each.problem]
    if bad:
        shown = bad[:SHOWN]
        if len(bad) > SHOWN:
            shown.append(f"and {len(bad) - SHOWN} more")
        raise ModelError(
            f"Expected every enabled quantizer to be calibrated, got {len(bad)} that are not "
            f"({'; '.join(shown)}); run calibration on data that reaches these layers, or disable "
            "them."
        )
