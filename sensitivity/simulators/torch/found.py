"""What one simulator of a model has found, for the next one, which differs from it only in the
ranges on offer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensitivity.simulators.torch.graph import Settled
    from sensitivity.simulators.torch.lanes import Cut
    from sensitivity.simulators.torch.tracing import Traced


@dataclass(frozen=True, eq=False)
class Laid:
    """A traced graph without ranges on offer, and how its nodes run.

    key: nest, types and shapes of the batches for which the graph holds.
    changed: the layers whose bias was changed by a range on offer when the layouts were chosen. A
        convolution with a bias of zeros may have the same bits in both layouts, and with another
        bias not.
    own: whether the user's own quantizers ran in it.
    """

    key: Any
    changed: tuple[str, ...]
    own: bool
    traced: Traced
    settled: Settled

    def holds_for(self, length: int | None) -> bool:
        """Return whether the graph holds for batches of this length.

        length: None for inputs that have none.
        """
        shortest, longest = self.traced.batches
        return length is None or shortest <= length <= longest


@dataclass
class Found:
    """What simulators of one model have found so far.

    A sixth of a whole run went into tracing the model again for each set of ranges, and comparing
    the graph with the model on a whole batch.

    cuts: whether the user's own quantizers run -> shape of a batch -> how it is cut.
    checked: whether the user's own quantizers run -> shapes on which the graph was compared with
        the model.
    laid: the graphs.
    """

    cuts: defaultdict[bool, dict[Any, Cut]] = field(default_factory=lambda: defaultdict(dict))
    checked: defaultdict[bool, set[Any]] = field(default_factory=lambda: defaultdict(set))
    laid: list[Laid] = field(default_factory=list)

    def graph(self, kind: tuple[Any, tuple[str, ...], bool], length: int | None) -> Laid | None:
        """Return a graph for batches of this length, or None if there is none.

        kind: (key, changed, own) of the graph.
        length: None for inputs that have none.
        """
        for laid in self.laid:
            if (laid.key, laid.changed, laid.own) == kind and laid.holds_for(length):
                return laid
        return None

    def trace(self, kind: tuple[Any, bool], length: int | None) -> Traced | None:
        """Return what was traced for batches of this length, whatever its layouts, or None.

        kind: (key, own) of the graph.
        length: None for inputs that have none.
        """
        for laid in self.laid:
            if (laid.key, laid.own) == kind and laid.holds_for(length):
                return laid.traced
        return None
