"""Which quantizers are switched together: layers, groups that the graph asks for, a user's own, or
one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sensitivity.config import UnitName
from sensitivity.errors import NamesError, SensitivityError, unmatched
from sensitivity.quantizers.base import layers
from sensitivity.records import Quantizer, Unit, UnitKind


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
    names = list(dict.fromkeys(name for unit in units for name in unit.names))
    hit = {name for pattern in wanted for name in matching(option, pattern, names)}
    return tuple(unit.name for unit in units if not hit.isdisjoint(unit.names))


def _joined(atoms: Sequence[Unit], relations: Iterable[Relation]) -> Iterator[list[Unit]]:
    """Atoms that relations join, directly or through others, in the order of their first."""
    group_of = {atom.name: index for index, atom in enumerate(atoms)}
    claimed: set[str] = set()
    for relation in relations:
        taken = claimed if relation.kind != "shared" else set[str]()
        members = [
            atom.name for atom in atoms if atom.name not in taken and _of(atom) in relation.layers
        ]
        if relation.kind in CLAIMS:
            claimed.update(members)
        groups = {group_of[name] for name in members}
        for name, group in group_of.items():
            if group in groups:
                group_of[name] = min(groups)
    for index in sorted(set(group_of.values())):
        yield [atom for atom in atoms if group_of[atom.name] == index]


def _unit(atoms: list[Unit], relations: Sequence[Relation], by: UnitName) -> Unit:
    own = tuple(dict.fromkeys(_of(atom) for atom in atoms))
    reasons = [
        one
        for one in relations
        if len(set(own) & set(one.layers)) > 1 or set(own) == set(one.layers)
    ]
    reasons = [one for one in reasons if by == "group" or one.kind in CLAIMS]
    strongest = min(reasons, key=lambda one: STRENGTH.index(one.kind), default=None)
    if len(atoms) == 1 and (strongest is None or strongest.name is None):
        marked = next(
            (
                one.kind
                for one in relations
                if one.kind in ("head", "repvgg") and own[0] in one.layers
            ),
            None,
        )
        return Unit(atoms[0].name, atoms[0].quantizers, marked or atoms[0].kind, atoms[0].layers)
    assert strongest is not None, "joined by a relation"
    name = strongest.name or f"{strongest.kind}:{own[0]}"
    return Unit(name, tuple(q for atom in atoms for q in atom.quantizers), strongest.kind, own)


def _of(atom: Unit) -> str:
    """The layer that an atom is, or is of."""
    return atom.layers[0] if atom.layers else atom.name
