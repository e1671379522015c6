"""Keeps the traced graphs of a model for its next simulator, which has other candidate ranges."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensitivity.simulators.torch.graph import Runners
    from sensitivity.simulators.torch.lanes import Cut
    from sensitivity.simulators.torch.tracing import Traced

Kind = tuple[Any, tuple[str, ...], bool]
"""Fields `key`, `changed` and `own` of a graph."""


@dataclass(frozen=True, eq=False)
class CachedGraph:
    """A traced graph without candidate ranges, and how its nodes run.

    key: nest, types and shapes of the batches for which the graph holds.
    changed: the layers whose bias was changed by a candidate range when the layouts were chosen. A
        convolution with a bias of zeros may have the same bits in both layouts, and with another
        bias not.
    own: whether the user's own quantizers ran in it.
    """

    key: Any
    changed: tuple[str, ...]
    own: bool
    traced: Traced
    runners: Runners


@dataclass
class TraceCache:
    """Graphs, cuts and comparisons of the simulators of one model.

    A sixth of a whole run went into tracing the model again for each set of ranges, and comparing
    the graph with the model on a whole batch.

    cuts: whether the user's own quantizers run -> shape of a batch -> how it is cut.
    checked: whether the user's own quantizers run -> shapes on which the graph was compared with
        the model.
    graphs: the traced graphs.
    """

    cuts: defaultdict[bool, dict[Any, Cut]] = field(default_factory=lambda: defaultdict(dict))
    checked: defaultdict[bool, set[Any]] = field(default_factory=lambda: defaultdict(set))
    graphs: list[CachedGraph] = field(default_factory=list)

    def graph(self, kind: Kind, length: int | None) -> CachedGraph | None:
        """Return a graph for batches of this length, or None if there is none.

        length: None for inputs that have none.
        """
        for cached in self.graphs:
            if (cached.key, cached.changed, cached.own) == kind and cached.traced.holds_for(length):
                return cached
        return None

    def trace(self, kind: tuple[Any, bool], length: int | None) -> Traced | None:
        """Return what was traced for batches of this length, whatever its layouts, or None.

        kind: (key, own) of the graph.
        length: None for inputs that have none.
        """
        for cached in self.graphs:
            if (cached.key, cached.own) == kind and cached.traced.holds_for(length):
                return cached.traced
        return None
