"""Matches places in a graph and rewrites them.

A match function states its conditions one after another: `needed` and `require` raise `NoMatch` if
the graph is different, so that no later line has to check again. `match_or_none`, `matches` and the
passes below catch `NoMatch`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import onnx_ir as ir

Place = TypeVar("Place")
Found = TypeVar("Found")


class NoMatch(Exception):
    """The graph does not match at this place."""


def needed(found: Found | None) -> Found:
    """Return the object. Raises NoMatch if it is None."""
    if found is None:
        raise NoMatch
    return found


def require(condition: object) -> None:
    """Raise NoMatch if the condition does not hold."""
    if not condition:
        raise NoMatch


def match_or_none(match: Callable[[Place], Found], place: Place) -> Found | None:
    """Return what the function matches at this place; None if it raises NoMatch."""
    try:
        return match(place)
    except NoMatch:
        return None


def matches(match: Callable[[Place], Found], places: Iterable[Place]) -> Iterator[Found]:
    """Yield what the function matches, in the order of the places, without those for which it
    raises NoMatch.

    Each place is matched only when the iterator reaches it.
    """
    for place in places:
        found = match_or_none(match, place)
        if found is not None:
            yield found


class RewriteMatches(ir.passes.InPlacePass, Generic[Place, Found]):
    """A pass that first matches all places of a graph and then rewrites those that match."""

    @abstractmethod
    def places(self, graph: ir.Graph) -> Iterable[Place]:
        """Return the places to look at, in the order of rewriting."""

    @abstractmethod
    def match(self, place: Place) -> Found:
        """Return what to rewrite at this place. Raises NoMatch if there is nothing to rewrite."""

    @abstractmethod
    def rewrite(self, graph: ir.Graph, found: Found) -> None:
        """Rewrite what was matched.

        graph: the main graph.
        """

    def found(self, graph: ir.Graph) -> Iterable[Found]:
        """Return everything to rewrite."""
        return list(matches(self.match, self.places(graph)))

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for found in self.found(model.graph):
            self.rewrite(model.graph, found)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


class RewriteInTurn(RewriteMatches[Place, Found]):
    """A pass that matches each place after it has rewritten the places before it."""

    def found(self, graph: ir.Graph) -> Iterable[Found]:
        return matches(self.match, list(self.places(graph)))


class RewriteUntilNone(RewriteMatches[Place, Found]):
    """A pass that rewrites the first place that matches and starts over, until no place matches."""

    def found(self, graph: ir.Graph) -> Iterable[Found]:
        while (first := next(matches(self.match, self.places(graph)), None)) is not None:
            yield first
