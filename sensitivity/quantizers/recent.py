"""Cache of the newest few values that are costly to make."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Recent(Generic[Made]):
    """Values by key. The oldest is dropped before more than `most` would be kept."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Hashable, Made] = {}

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return the value of this key.

        make: makes the value if it is not kept; called at most once.
        """
        if key not in self._values:
            if len(self._values) >= self._most:
                oldest = next(iter(self._values))
                del self._values[oldest]
            self._values[key] = make()
        return self._values[key]
