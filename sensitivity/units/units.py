"""Which quantizers are switched together: layers, groups that the graph asks for, a user's own, or
one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from sensitivity.config import UnitName
from sensitivity.errors import NamesError, SensitivityError, unmatched
from sensitivity.quantizers.base import layers
from sensitivity.records import Quantizer, Unit, UnitKind, names_of


@dataclass(frozen=True)
class Relation:
    """Layers that belong together. kind: why. name: of the unit they make; None for one made from
    kind and first layer."""

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
"""What a unit is called that came together for several reasons: the first of these."""

CLAIMS = ("pattern", "repvgg", "head")
"""Relations whose layers take part in no other, except where quantizers are one object."""


def units_of(
    quantizers: Sequence[Quantizer], by: UnitName, relations: Iterable[Relation]
) -> tuple[Unit, ...]:
    """Units in the model's order; every quantizer is in exactly one.

    by: "layer" and "quantizer" join nothing but a user's own groups, and mark heads and RevVGG
    blocks; "group" joins what is related. relations: the strongest claim to a layer first.
    """
    if by == "quantizer":
        atoms = tuple(Unit(one.name, (one.name,), "quantizer", (one.layer,)) for one in quantizers)
    else:
        atoms = layers(quantizers)
    relations = tuple(relations)
    wanted = relations if by == "group" else [one for one in relations if one.kind == "pattern"]
    return tuple(_unit(group, relations, by) for group in _joined(atoms, wanted))


def patterns(groups: Iterable[str], quantizers: Iterable[Quantizer]) -> tuple[Relation, ...]:
    """A user's `NAME=PATTERN,...` as relations over layers. Raises NamesError for a pattern that
    matches no layer, or a layer that another group has."""
    known = list(dict.fromkeys(quantizer.layer for quantizer in quantizers))
    members: dict[str, dict[str, None]] = {}
    for text in groups:
        name, equals, right = text.partition("=")
        if not (name and equals and right):
            raise SensitivityError(
                f"Expected --group as NAME=PATTERN, got {text!r}; write it as in 'head=model.22.*'."
            )
        for pattern in right.split(","):
            members.setdefault(name, {}).update(
                dict.fromkeys(matching("--group", pattern.strip(), known))
            )
    owner: dict[str, str] = {}
    for name, found in members.items():
        for layer in found:
            if layer in owner:
                raise NamesError(
                    f"Expected each layer in one --group, got {layer} in {owner[layer]} and {name}."
                )
            owner[layer] = name
    return tuple(Relation("pattern", tuple(found), name) for name, found in members.items())


def matching(option: str, pattern: str, names: Sequence[str]) -> list[str]:
    """The name that is the pattern, else all that it matches. Raises NamesError, with close names,
    where there is none."""
    found = (
        [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
    )
    if not found:
        raise unmatched(option, pattern, names)
    return found


@dataclass(frozen=True)
class Pins:
    """Names of units that every plan leaves out of INT8, and of those that none does."""

    skip: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


def pins(skip: Iterable[str], keep: Iterable[str], units: Sequence[Unit]) -> Pins:
    """The units that patterns name, by their own name or that of one of their layers.

    Raises NamesError for a pattern that matches nothing, or a unit that is pinned both ways.
    """
    found = Pins(pinned("--skip", skip, units), pinned("--keep", keep, units))
    both = [name for name in found.skip if name in found.keep]
    if both:
        raise NamesError(
            f"Expected --skip and --keep to name different units, got {', '.join(both[:3])} in "
            "both; leave one out."
        )
    return found


def pinned(option: str, wanted: Iterable[str], units: Sequence[Unit]) -> tuple[str, ...]:
    """Names of the units that patterns match, in the model's order. option: named in errors. Raises
    NamesError for a pattern that matches nothing."""
    names = list(dict.fromkeys(name for unit in units for name in unit.names))
    matched: set[str] = set()
    for pattern in wanted:
        matched.update(matching(option, pattern, names))
    hit = [unit for unit in units if not matched.isdisjoint(unit.names)]
    return tuple(names_of(hit))


def _joined(atoms: Sequence[Unit], relations: Iterable[Relation]) -> Iterator[list[Unit]]:
    """Atoms that relations join, directly or through others, in the order of their first."""
    group_of = {atom.name: index for index, atom in enumerate(atoms)}
    claimed: set[str] = set()
    for relation in relations:
        members = {atom.name for atom in atoms if _of(atom) in relation.layers}
        if relation.kind != "shared":
            members -= claimed
        if relation.kind in CLAIMS:
            claimed |= members
        _join({group_of[name] for name in members}, group_of)
    for index in sorted(set(group_of.values())):
        yield [atom for atom in atoms if group_of[atom.name] == index]


def _join(groups: set[int], group_of: dict[str, int]) -> None:
    """Make one group of these groups; it keeps the smallest number among them."""
    for name, group in group_of.items():
        if group in groups:
            group_of[name] = min(groups)


def _unit(atoms: list[Unit], relations: Sequence[Relation], by: UnitName) -> Unit:
    """The unit that these atoms make, called after the strongest reason why they are one."""
    layers_of_unit = tuple(dict.fromkeys(_of(atom) for atom in atoms))
    reason = _strongest_reason(set(layers_of_unit), relations, by)
    has_own_name = reason is not None and reason.name is not None
    if len(atoms) == 1 and not has_own_name:
        return _marked(atoms[0], relations)
    assert reason is not None, "joined by a relation"
    name = reason.name or f"{reason.kind}:{layers_of_unit[0]}"
    quantizers = tuple(quantizer for atom in atoms for quantizer in atom.quantizers)
    return Unit(name, quantizers, reason.kind, layers_of_unit)


def _strongest_reason(
    layers_of_unit: set[str], relations: Iterable[Relation], by: UnitName
) -> Relation | None:
    """Of the relations for which these layers are one unit; None where there is none."""

    def is_reason(relation: Relation) -> bool:
        related = set(relation.layers)
        covers_two = len(layers_of_unit & related) > 1
        is_wanted = by == "group" or relation.kind in CLAIMS
        return is_wanted and (covers_two or layers_of_unit == related)

    reasons = filter(is_reason, relations)
    return min(reasons, key=lambda relation: STRENGTH.index(relation.kind), default=None)


def _marked(atom: Unit, relations: Iterable[Relation]) -> Unit:
    """A unit of one atom, which says where it is part of a head or of a RepVGG block."""
    for relation in relations:
        if relation.kind in ("head", "repvgg") and _of(atom) in relation.layers:
            return replace(atom, kind=relation.kind)
    return atom


def _of(atom: Unit) -> str:
    """The layer that an atom is, or is of."""
    return atom.layers[0] if atom.layers else atom.name
