"""How a calibrated model is seen and switched, whatever toolkit made it."""

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
    """Is called with the name of a quantizer and what it gets."""

SHOWN = 5
"""How many quantizers without calibration an error names."""


class QuantizedModel(Protocol):
    """A calibrated model and its enabled quantizers.

    source: the toolkit's name in the registry, such as "modelopt".
    model: the user's own object, never copied, always left as it was found.
    quantizers: every quantizer that was enabled when this was made, in the model's order.
        Quantizers that the user had already disabled are not listed and stay disabled.
    warnings: what the reader of results must know of this model, a sentence each.
    """

    source: str
    model: Any
    quantizers: tuple[Quantizer, ...]
    warnings: tuple[str, ...]

    def disabled(self, names: Iterable[str]) -> AbstractContextManager[None]:
        """Leave exactly these quantizers unquantized inside the `with`; the state before it is
        restored after it, also after an exception. Raises NamesError for a name that is not in
        `quantizers`."""
        ...

    def grid(self, name: str) -> Grid:
        """Return the integer grid of one quantizer. Raises ModelError where it is not an integer
        grid (FP8, block-wise)."""
        ...

    def fingerprint(self) -> str:
        """Return the hex digest of weights, buffers and every quantizer's settings: changes when
        any of them does."""
        ...

    def remaining(self) -> tuple[Finding, ...]:
        """Return what is still quantized with every quantizer disabled, named: an error each; empty
        where nothing is."""
        ...

    def executed(self, inputs: Any) -> frozenset[str]:
        """Return the names of the quantizers that a forward on one batch of inputs executes, with
        all of them enabled.

        inputs: as the task gives them. A quantizer without a calibrated range is executed too where
        the forward reaches it. Raises TaskError where the model refuses the batch."""
        ...


@runtime_checkable
class WithFileGrids(Protocol):
    """A model that has quantizers which an ONNX file can hold and `grid` cannot: FP8, blocks, and
    those that multiply by a pre-quantization scale first."""

    def file_grid(self, name: str) -> Grid:
        """Return what one quantizer rounds to, behind its pre-quantization scale. Raises ModelError
        where no file can hold it, as with ranges that are taken from each batch."""
        ...


def file_grid(source: QuantizedModel, name: str) -> Grid:
    """Return what an exported file has to say of one quantizer. Raises ModelError where none
    can."""
    if isinstance(source, WithFileGrids):
        return source.file_grid(name)
    return source.grid(name)


def amax_of(source: QuantizedModel, name: str) -> Any:
    """Return the largest absolute value that a quantizer can give, as a tensor that broadcasts
    against what it quantizes; None for models whose grids come from no range of values."""
    find = getattr(source, "amax", None)
    return find(name) if find else None


@runtime_checkable
class Recalibratable(Protocol):
    """A calibrated model whose quantizers can take other ranges: what shared scales and
    recalibration need."""

    def range(self, name: str) -> Range:
        """Return the range that a quantizer has now. Raises ModelError where it has no fixed one on
        an integer grid."""
        ...

    def with_ranges(self, ranges: Iterable[Range]) -> AbstractContextManager[None]:
        """Give quantizers these ranges inside the `with`; those before it are restored after it,
        also after an exception. Raises NamesError for an unknown quantizer, ModelError for one
        without an integer grid."""
        ...

    def other_ranges(self, names: Iterable[str], forward: Callable[[], None]) -> tuple[Range, ...]:
        """Return the ranges that other methods of calibration find for these quantizers; none where
        there is no other.
        forward: runs the model on the calibration data."""
        ...


@runtime_checkable
class Changeable(Protocol):
    """A calibrated model in which a plan can be left for good."""

    def change(self, names: Iterable[str], ranges: Iterable[Range]) -> None:
        """Disable these quantizers, and give these ranges to theirs, for good. Nothing is changed
        where it raises: NamesError for an unknown quantizer, ModelError for a range that cannot be
        changed."""
        ...


@runtime_checkable
class Sharing(Protocol):
    """A model some of whose quantizers have to have one range: those of one pair of a Q/DQ file."""

    def sharing(self) -> tuple[tuple[str, ...], ...]:
        """Return the groups of names of such quantizers, two or more each."""
        ...

    def missing(self) -> str | None:
        """Return why some other ranges cannot be had, and what to do, as a sentence; None where
        nothing is missing."""
        ...


@runtime_checkable
class Structured(Protocol):
    """A model that says itself which of its layers belong together; of others the modules and the
    traced graph are read."""

    def related(self) -> tuple[tuple[UnitKind, tuple[str, ...]], ...]:
        """Why, and names of two or more layers; the strongest reason first."""
        ...


@runtime_checkable
class Connected(Protocol):
    """A model that says itself which of its layers hand each other tensors; of others the traced
    graph is read."""

    def connections(self) -> ModelGraph:
        """Return its graph in layers. `meetings`: all, whatever their ranges are."""
        ...


@runtime_checkable
class Watchable(Protocol):
    """A model that shows what its quantizers get."""

    def weights(self) -> Iterator[tuple[str, NDArray[np.floating], int | None]]:
        """Return the name of each quantizer of a weight, the weight in float, and the axis of its
        output channels; None where that is not known."""
        ...

    def watching(self, see: Seer) -> AbstractContextManager[None]:
        """Inside the `with` the model runs with nothing quantized, and `see` is called with the
        name of each quantizer of an activation and what it gets."""
        ...


@runtime_checkable
class Runnable(Protocol):
    """A model that is not called as a torch module is."""

    def forward(self, inputs: Any) -> None:
        """Run the model once, for what watches it. inputs: one batch, as the task gives it."""
        ...


@runtime_checkable
class WithFloat(Protocol):
    """A model that knows the float model which it was made from."""

    float_model_from: str
    """What it compares itself with, and where that comes from, as a clause."""

    def float_findings(self, inputs: Any) -> Iterable[Finding]:
        """Return whether the model with everything disabled is the float model. inputs: one
        batch."""
        ...


Form = Literal["torch", "onnx"]
"""What a model is: a torch module, which is called, traced and exported; or a Q/DQ file, which is
cut, edited and run by ONNX Runtime."""


def form_of(source: Any) -> Form:
    """Return what a source's models are, by its attribute `form`; "torch" where it has none.
    source: an adapter, or its class."""
    form: Form = getattr(source, "form", "torch")
    return form


def name_in_words(source: QuantizedModel) -> str:
    """Return what one model of this source is called in sentences, by its attribute `in_words`."""
    return str(getattr(source, "in_words", f"a {source.source} model"))


@runtime_checkable
class Ordered(Protocol):
    """A model whose graph is known."""

    def nearest_outputs(self) -> tuple[tuple[str, ...], ...]:
        """For each output of the model the quantizers that it depends on, those nearest to it
        first."""
        ...


def ends(source: QuantizedModel, units: Iterable[Unit]) -> tuple[tuple[str, ...], ...]:
    """Return the units that are nearest to each end of the graph, the nearest first.

    The first end is that of the inputs; the outputs follow, one by one.

    A model that does not know its graph is taken to compute its units in order, and to have one
    output.
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
    """What quantizes either a weight or an activation."""

    @property
    def role(self) -> Role:
        """What it quantizes: a weight, or the input or output of an operation."""
        ...


OfARole = TypeVar("OfARole", bound=HasRole)


def weights_and_activations(items: Iterable[OfARole]) -> tuple[list[OfARole], list[OfARole]]:
    """Return those that quantize a weight, and all others, each in their order."""
    weights: list[OfARole] = []
    activations: list[OfARole] = []
    for item in items:
        own_kind = weights if item.role == "weight" else activations
        own_kind.append(item)
    return weights, activations


def known_names(names: Iterable[str], known: Collection[str]) -> frozenset[str]:
    """Return the names, once each. Raises NamesError for one that is not the name of a quantizer.

    known: the names of all quantizers that there are.
    """
    wanted = frozenset(names)
    for name in sorted(wanted.difference(known)):
        raise unknown_name("a quantizer's name", name, known)
    return wanted


def first_fault(faults: Mapping[str, bool]) -> str | None:
    """Return the first of some faults that is there; None where none is.

    faults: a clause for each fault -> whether it is there.
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
    found: set[str] = set()
    for name in names:
        if name not in own:
            raise unknown_name("a unit to skip", name, own)
        found.update(own[name])
    return frozenset(found)


def check_calibrated(quantizers: Iterable[Quantizer]) -> None:
    """Raise ModelError that names each quantizer which is enabled but not calibrated."""
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
