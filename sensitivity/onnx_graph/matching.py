"""Match places of a graph and rewrite them.

A function that matches states its needs one after another: `needed` and `require` raise `NoMatch`
where the graph is otherwise, so no later line has to ask again. `match_or_none`, `matches` and the
passes below are where `NoMatch` ends.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import onnx_ir as ir

Place = TypeVar("Place")
Found = TypeVar("Found")


class NoMatch(Exception):
    """The graph is not, at this place, what was asked for."""


def needed(found: Found | None) -> Found:
    """Return the object itself. Raises NoMatch where it is None."""
    if found is None:
        raise NoMatch
    return found


def require(condition: object) -> None:
    """Raise NoMatch where the condition does not hold."""
    if not condition:
        raise NoMatch


def match_or_none(match: Callable[[Place], Found], place: Place) -> Found | None:
    """Return what the function matches at this place; None where it raises NoMatch."""
    try:
        return match(place)
    except NoMatch:
        return None


def matches(match: Callable[[Place], Found], places: Iterable[Place]) -> Iterator[Found]:
    """Yield what the function matches, in the order of the places; where it raises NoMatch the
    place is left out. Each place is matched when the iterator comes to it."""
    for place in places:
        found = match_or_none(match, place)
        if found is not None:
            yield found


class RewriteMatches(ir.passes.InPlacePass, Generic[Place, Found]):
    """A pass that matches all places of a graph, and then rewrites those that match."""

    @abstractmethod
    def places(self, graph: ir.Graph) -> Iterable[Place]:
        """Where to look, in the order of rewriting."""

    @abstractmethod
    def match(self, place: Place) -> Found:
        """Return what is to be rewritten at this place. Raises NoMatch where nothing is."""

    @abstractmethod
    def rewrite(self, graph: ir.Graph, found: Found) -> None:
        """Rewrite what was matched. graph: the main one."""

    def found(self, graph: ir.Graph) -> Iterable[Found]:
        """Return what is rewritten."""
        return list(matches(self.match, self.places(graph)))

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for found in self.found(model.graph):
            self.rewrite(model.graph, found)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


class RewriteInTurn(RewriteMatches[Place, Found]):
    """A pass that matches each place after it has rewritten those before it."""

    def found(self, graph: ir.Graph) -> Iterable[Found]:
        return matches(self.match, list(self.places(graph)))


class RewriteUntilNone(RewriteMatches[Place, Found]):
    """A pass that rewrites the first place that matches, looks at all of them again, and ends where
    none matches."""

    def found(self, graph: ir.Graph) -> Iterable[Found]:
        while (first := next(matches(self.match, self.places(graph)), None)) is not None:
            yield first
