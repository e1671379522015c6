"""Finds which layers of a model belong together, from its traced graph and its modules, before
measuring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sensitivity.config import UnitChoices
from sensitivity.errors import ExportError, ModelError, begun
from sensitivity.exporters.simulate import first_samples
from sensitivity.onnx_graph import groups
from sensitivity.quantizers.base import QuantizedModel, Recalibratable, Structured
from sensitivity.quantizers.torch.modules import head_parts, merged_blocks, shared_objects
from sensitivity.records import Unit, names_of
from sensitivity.units.placement import has_one_amax
from sensitivity.units.units import Relation, patterns, units_of

NO_GRAPH = (
    "The model's graph could not be read ({problem}), so {every} quantizer keeps its own range; an "
    "engine may want one range where tensors meet."
)
BRANCHED = (
    "{count} RepVGG blocks still have their training branches ({names}): each runs as several "
    "layers with a scale of its own. Merge them before calibration (switch_to_deploy, "
    "reparameterize)."
)
SAMPLES = 2
"""Number of samples of the example batch that the model is traced with."""


@dataclass(frozen=True)
class Structure:
    """What belongs together in a model.

    relations: layers that belong together, the strongest claim first.
    scales: quantizers that should share a range.
    branched: RepVGG blocks in their training form, by their first convolution.
    problem: why the graph could not be read, as a clause; None if it could.
    traced: the graph of a torch model; None for others.
    """

    relations: tuple[Relation, ...] = ()
    scales: tuple[tuple[str, ...], ...] = ()
    branched: tuple[str, ...] = ()
    problem: str | None = None
    traced: Any = None


@dataclass(frozen=True)
class Placed:
    """The units of a scan and the quantizers that share a range during it.

    warnings: what the reader must know about both.
    problem, traced: as in `Structure`.
    """

    units: tuple[Unit, ...]
    scales: tuple[tuple[str, ...], ...] = ()
    warnings: tuple[str, ...] = ()
    problem: str | None = None
    traced: Any = None


def placed(source: QuantizedModel, example: Any, choices: UnitChoices) -> Placed:
    """Return the units and shared scales that the user asks for, as far as the graph can be read.

    example: as for `structure_of`.
    Raises NamesError for a --group that matches no layer.
    """
    structure = structure_of(source, example)
    own = patterns(choices.group, source.quantizers)
    units = units_of(source.quantizers, choices.unit, (*own, *structure.relations))
    scales = () if choices.separate_scales else structure.scales
    warnings = tuple(_warnings(structure, choices, has_example=example is not None))
    return Placed(units, scales, warnings, structure.problem, structure.traced)


def _warnings(structure: Structure, choices: UnitChoices, *, has_example: bool) -> Iterator[str]:
    """Yield warnings about blocks that are not merged, and about a graph that could not be read.

    The latter is silent if neither an example nor the choice of units needs the graph.
    """
    wants_groups = choices.unit == "group"
    if structure.problem and (has_example or wants_groups):
        what = "units are layers, and every" if wants_groups else "every"
        problem = " ".join(structure.problem.split())
        yield NO_GRAPH.format(problem=problem, every=what)
    if structure.branched:
        names = begun(structure.branched)
        yield BRANCHED.format(count=len(structure.branched), names=names)


def structure_of(source: QuantizedModel, example: Any) -> Structure:
    """Return the heads, RepVGG blocks, shared quantizers and groups of a model.

    The first three follow from the modules. Fan-out, concat and residual groups follow from the
    graph.

    example: one batch of inputs; None if the task has none.
    """
    if isinstance(source, Structured):
        return Structure(tuple(Relation(kind, layers) for kind, layers in source.related()))
    if not hasattr(source.model, "named_modules"):
        return Structure(problem=f"a {source.source} model is no torch model")
    of_modules = _module_relations(source)
    if example is None:
        return Structure(of_modules, problem="the task has no example_inputs")
    try:
        traced = _traced(source, example)
    except ExportError as error:
        return Structure(of_modules, problem=str(error))
    return _traced_structure(source, traced, of_modules)


def _module_relations(source: QuantizedModel) -> tuple[Relation, ...]:
    """Return the relations that follow from the modules: RepVGG blocks, heads and shared
    quantizers.

    Only merged RepVGG blocks are among them. A shared quantizer is one object of several layers.
    """
    layers = _layer_names(source)
    names = names_of(source.quantizers)
    merged = [Relation("repvgg", (layer,)) for layer in merged_blocks(source.model, layers)]
    heads = [Relation("head", part) for part in head_parts(source.model, layers)]
    shared = [Relation("shared", members) for members in shared_objects(source.model, names)]
    return (*merged, *heads, *shared)


def _traced_structure(
    source: QuantizedModel, traced: Any, of_modules: tuple[Relation, ...]
) -> Structure:
    """Return the relations of the modules with those that the graph adds."""
    layers = _layer_names(source)
    blocks = [block for block in groups.branched_blocks(traced) if set(block) <= set(layers)]
    branched = [Relation("repvgg", block) for block in blocks]
    meetings = groups.meetings(traced)
    met = [_met(source, meeting) for meeting in meetings]
    residual = [Relation("residual", members) for members in groups.residual_layers(traced, layers)]
    together = [meeting.quantizers for meeting in meetings]
    return Structure(
        relations=(*branched, *of_modules, *met, *residual),
        scales=tuple(names for names in together if sharable(source, names)),
        branched=tuple(block[0] for block in blocks),
        traced=traced,
    )


def _met(source: QuantizedModel, meeting: groups.Meeting) -> Relation:
    """Return the layers whose quantizers meet."""
    layer_of = {quantizer.name: quantizer.layer for quantizer in source.quantizers}
    layers = dict.fromkeys(map(layer_of.__getitem__, meeting.quantizers))
    return Relation(meeting.kind, tuple(layers))


def _layer_names(source: QuantizedModel) -> list[str]:
    return list(dict.fromkeys(quantizer.layer for quantizer in source.quantizers))


def sharable(source: QuantizedModel, names: tuple[str, ...]) -> bool:
    """Return whether these quantizers can share a range.

    Each must have one range per tensor, on the same integer grid.
    """
    if not isinstance(source, Recalibratable):
        return False
    try:
        ranges = [source.range(name) for name in names]
        grids = [source.grid(name) for name in names]
    except ModelError:
        return False
    kinds = {(grid.low, grid.high, grid.zero_point) for grid in grids}
    return len(kinds) == 1 and all(map(has_one_amax, ranges))


def _traced(source: QuantizedModel, example: Any) -> Any:
    from sensitivity.exporters.trace import trace

    return trace(source, first_samples(example, SAMPLES))
