"""Keeps outputs of a variant that are needed repeatedly, as far as memory allows."""

from __future__ import annotations

from typing import Any

from sensitivity.tasks.batches import arrays

KEPT_BYTES = 1 << 28
"""The most bytes of all kept outputs; other outputs are computed again."""

Place = tuple[str, int]
"""A split, and the number of a batch in it."""


class KeptOutputs:
    """The outputs of batches, at most `KEPT_BYTES` in all.

    The outputs of the current split replace those of other splits. If one split is too long, its
    first batches stay, since each pass begins with them. Outputs that hold no array may have any
    size, so nothing else is kept beside them.
    """

    def __init__(self) -> None:
        self._kept: dict[Place, Any] = {}

    def get(self, place: Place) -> Any:
        """Return the outputs of a batch; None if they are not kept."""
        return self._kept.get(place)

    def keep(self, place: Place, outputs: Any) -> None:
        """Keep the outputs of a batch if there is room. They must not change afterwards."""
        self._kept[place] = outputs
        others = [other for other in self._kept if other[0] != place[0]]
        for other in others:
            if self._has_room():
                return
            del self._kept[other]
        is_alone = len(self._kept) == 1
        if not is_alone and not self._has_room():
            del self._kept[place]

    def _has_room(self) -> bool:
        return sum(map(_bytes, self._kept.values())) <= KEPT_BYTES


def _bytes(outputs: Any) -> int:
    sizes = [int(array.nbytes) for array in arrays(outputs)]
    if not sizes:
        return KEPT_BYTES + 1
    return sum(sizes)
