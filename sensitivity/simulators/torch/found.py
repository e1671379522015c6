"""What one simulator of a model has found, for the next one, which differs in the ranges on offer
alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensitivity.simulators.torch.graph import Settled
    from sensitivity.simulators.torch.tracing import Traced


@dataclass(frozen=True, eq=False)
class Laid:
    """A traced graph without ranges on offer, and how its nodes run.

    key: of the batches that it holds for. biased: the layers whose bias is marked in it. own:
    whether the user's own quantizers ran in it.
    """

    key: Any
    biased: tuple[str, ...]
    own: bool
    traced: Traced
    settled: Settled

    def holds_for(self, length: int | None) -> bool:
        """Return whether it runs batches of this length; None for inputs that have none."""
        shortest, longest = self.traced.batches
        return length is None or shortest <= length <= longest


@dataclass
class Found:
    """What simulators of one model have found so far. Tracing it again for each set of ranges, and
    comparing it with the model on a whole batch, took a sixth of a whole run.

    parts: whether the user's own quantizers run -> for each shape of a batch, into how many parts.
    checked: whether the user's own quantizers run -> shapes on which the graph was compared with
        the model.
    laid: the graphs.
    """

    parts: defaultdict[bool, dict[Any, int]] = field(default_factory=lambda: defaultdict(dict))
    checked: defaultdict[bool, set[Any]] = field(default_factory=lambda: defaultdict(set))
    laid: list[Laid] = field(default_factory=list)

    def graph(self, kind: tuple[Any, tuple[str, ...], bool], length: int | None) -> Laid | None:
        """Return the graph of this key, with these layers marked, for batches of this length; None
        if there is none."""
        for laid in self.laid:
            if (laid.key, laid.biased, laid.own) == kind and laid.holds_for(length):
                return laid
        return None
