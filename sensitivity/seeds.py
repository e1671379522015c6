"""The seed of what is drawn at random: one for a whole command, whoever draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

_SEED: ContextVar[int] = ContextVar("seed", default=0)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw with this seed inside the `with`; it is 0 outside of any."""
    before = _SEED.set(seed)
    try:
        yield
    finally:
        _SEED.reset(before)


def current_seed() -> int:
    """The seed of the command that is at work."""
    return _SEED.get()


def generator(seed: int | None = None, *, offset: int = 0) -> np.random.Generator:
    """A new generator, the same at each call.

    seed: None for that of the command. offset: for draws that must not repeat each other.

    >>> with seeded(3):
    ...     same = generator().random() == generator(3).random() == generator(2, offset=1).random()
    >>> same, generator().random() == generator(0).random()
    (True, True)
    """
    return np.random.default_rng((current_seed() if seed is None else seed) + offset)
