"""How long work says where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int, int], None]
"""advance(steps done, samples spent on them)."""
Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""`with progress("scan", steps) as advance: advance(1, 50)`."""


@contextmanager
def silent(what: str, total: int) -> Iterator[Advance]:
    """Progress for those who want none."""
    yield lambda steps, samples: None
