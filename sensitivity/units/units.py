"""Groups quantizers into units that are switched together: of a layer, of a group, of a user's own
group, or single ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain

from sensitivity.config import UnitName
from sensitivity.errors import NamesError, SensitivityError, unmatched
from sensitivity.quantizers.base import layers
from sensitivity.records import Quantizer, Unit, UnitKind, names_of


@dataclass(frozen=True)
class Relation:
    """Layers that belong together.

    kind: why they do.
    name: name of the unit that they make; None makes it from the kind and the first layer.
    """

    kind: UnitKind
    layers: tuple[str, ...]
    name: str | None = None


STRENGTH: tuple[UnitKind, ...] = (
    "pattern",
    "repvgg",
    "head",
    "shared",
    "concat",
    "residual",
    "fan-out",
    "layer",
)
"""A unit that came together for several reasons is named after the first of these."""

MARKS = ("repvgg", "head")
"""Relations that a unit of a single layer takes its kind from."""

CLAIMS = ("pattern", "repvgg", "head")
"""Relations whose layers take part in no weaker one, unless quantizers are one object."""


def units_of(
    quantizers: Sequence[Quantizer], by: UnitName, relations: Iterable[Relation]
) -> tuple[Unit, ...]:
    """Return the units in the model's order; every quantizer is in exactly one.

    by: "group" joins what is related. "layer" and "quantizer" join only a user's own groups, and
        mark heads and RepVGG blocks.
    relations: the strongest claim to a layer first.
    """
    relations = tuple(relations)
    joining = relations
    if by != "group":
        joining = tuple(relation for relation in relations if relation.kind == "pattern")
    groups = _joined(_atoms(quantizers, by), joining)
    return tuple(_unit(group, relations, by) for group in groups)


def _atoms(quantizers: Sequence[Quantizer], by: UnitName) -> Sequence[Unit]:
    """Return the smallest units: single quantizers, or layers."""
    if by != "quantizer":
        return layers(quantizers)
    return [
        Unit(quantizer.name, (quantizer.name,), "quantizer", (quantizer.layer,))
        for quantizer in quantizers
    ]


def patterns(groups: Iterable[str], quantizers: Iterable[Quantizer]) -> tuple[Relation, ...]:
    """Return a user's `NAME=PATTERN,...` as relations between layers.

    Raises NamesError for a pattern that matches no layer, or a layer that another group has.
    """
    known = list(dict.fromkeys(quantizer.layer for quantizer in quantizers))
    members: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for text in groups:
        name, wanted = _parsed(text)
        for pattern in wanted:
            matched = matching("--group", pattern, known)
            members[name].update(dict.fromkeys(matched))
    _check_owners(members)
    return tuple(Relation("pattern", tuple(matched), name) for name, matched in members.items())


def _parsed(text: str) -> tuple[str, list[str]]:
    """Return the name and the patterns of a `NAME=PATTERN,...`.

    Raises SensitivityError for a text of another form.
    """
    name, _, wanted = text.partition("=")
    if not (name and wanted):
        raise SensitivityError(
            f"Expected --group as NAME=PATTERN, got {text!r}; write it as in 'head=model.22.*'."
        )
    return name, [pattern.strip() for pattern in wanted.split(",")]


def _check_owners(members: Mapping[str, Iterable[str]]) -> None:
    """Raise NamesError if two groups have a layer in common.

    members: layers by group.
    """
    owner: dict[str, str] = {}
    for name, own_layers in members.items():
        for layer in own_layers:
            if layer in owner:
                raise NamesError(
                    f"Expected each layer in one --group, got {layer} in {owner[layer]} and {name}."
                )
            owner[layer] = name


def matching(option: str, pattern: str, names: Sequence[str]) -> list[str]:
    """Return the name that equals the pattern, otherwise all names that it matches.

    option: named in the error.
    Raises NamesError, with close names, if there is none.
    """
    if pattern in names:
        return [pattern]
    matched = [name for name in names if fnmatchcase(name, pattern)]
    if not matched:
        raise unmatched(option, pattern, names)
    return matched


@dataclass(frozen=True)
class Pins:
    """Names of units that every plan leaves out of INT8, and of units that none leaves out."""

    skip: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


def pins(skip: Iterable[str], keep: Iterable[str], units: Sequence[Unit]) -> Pins:
    """Return the units that patterns name, by their own name or that of one of their layers.

    Raises NamesError for a pattern that matches nothing, or a unit that is pinned both ways.
    """
    chosen = Pins(pinned("--skip", skip, units), pinned("--keep", keep, units))
    both = [name for name in chosen.skip if name in chosen.keep]
    if both:
        raise NamesError(
            f"Expected --skip and --keep to name different units, got {', '.join(both[:3])} in "
            "both; leave one out."
        )
    return chosen


def pinned(option: str, wanted: Iterable[str], units: Sequence[Unit]) -> tuple[str, ...]:
    """Return the names of the units that patterns match, in the model's order.

    option: named in errors.
    Raises NamesError for a pattern that matches nothing.
    """
    names = list(dict.fromkeys(chain.from_iterable(unit.names for unit in units)))
    matched: set[str] = set()
    for pattern in wanted:
        matched.update(matching(option, pattern, names))
    hit = [unit for unit in units if not matched.isdisjoint(unit.names)]
    return tuple(names_of(hit))


def _joined(atoms: Sequence[Unit], relations: Iterable[Relation]) -> list[list[Unit]]:
    """Return the groups of atoms that relations join, directly or through others.

    Groups are in the order of their first atoms.
    """
    atoms_of: defaultdict[str, list[str]] = defaultdict(list)
    for atom in atoms:
        atoms_of[_layer_of(atom)].append(atom.name)
    group_of = {atom.name: index for index, atom in enumerate(atoms)}
    claimed: set[str] = set()
    for relation in relations:
        members = set(chain.from_iterable(map(atoms_of.__getitem__, relation.layers)))
        if relation.kind != "shared":
            members -= claimed
        if relation.kind in CLAIMS:
            claimed |= members
        _join(members, group_of)
    groups: defaultdict[int, list[Unit]] = defaultdict(list)
    for atom in atoms:
        groups[group_of[atom.name]].append(atom)
    return list(groups.values())


def _join(members: Iterable[str], group_of: dict[str, int]) -> None:
    """Merge the groups of these atoms into one, which keeps the smallest number among them."""
    joined = {group_of[name] for name in members}
    for name, group in group_of.items():
        if group in joined:
            group_of[name] = min(joined)


def _unit(atoms: list[Unit], relations: Sequence[Relation], by: UnitName) -> Unit:
    """Return the unit that these atoms make, named after the strongest reason for being one."""
    own_layers = tuple(dict.fromkeys(map(_layer_of, atoms)))
    reason = _strongest_reason(own_layers, relations, by)
    if len(atoms) == 1 and reason.name is None:
        return _marked(atoms[0], relations)
    name = reason.name or f"{reason.kind}:{own_layers[0]}"
    quantizers = chain.from_iterable(atom.quantizers for atom in atoms)
    return Unit(name, tuple(quantizers), reason.kind, own_layers)


def _strongest_reason(
    own_layers: tuple[str, ...], relations: Iterable[Relation], by: UnitName
) -> Relation:
    """Return the strongest relation that makes these layers one unit.

    Returns a relation of kind "layer" if there is none.
    """
    own = set(own_layers)

    def is_reason(relation: Relation) -> bool:
        related = set(relation.layers)
        is_wanted = by == "group" or relation.kind in CLAIMS
        covers = len(own & related) > 1 or own == related
        return is_wanted and covers

    reasons = filter(is_reason, relations)
    return min(reasons, key=_strength, default=Relation("layer", own_layers))


def _strength(relation: Relation) -> int:
    """Return the position of its kind in STRENGTH: 0 for the strongest."""
    return STRENGTH.index(relation.kind)


def _marked(atom: Unit, relations: Iterable[Relation]) -> Unit:
    """Return a unit of one atom, marked if it is part of a head or of a RepVGG block."""
    for relation in relations:
        if relation.kind in MARKS and _layer_of(atom) in relation.layers:
            return replace(atom, kind=relation.kind)
    return atom


def _layer_of(atom: Unit) -> str:
    """Return the layer that an atom is, or to which its quantizer belongs."""
    return atom.layers[0] if atom.layers else atom.name
