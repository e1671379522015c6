"""What is costly to make, kept for as long as it is among the newest few."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Recent(Generic[Made]):
    """Values by key, the oldest of which is dropped before one more than `most` is made."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Hashable, Made] = {}

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return the value of this key. make: gives it where it is not held; called once at
        most."""
        if key not in self._values:
            if len(self._values) >= self._most:
                oldest = next(iter(self._values))
                del self._values[oldest]
            self._values[key] = make()
        return self._values[key]
