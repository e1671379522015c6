"""The random seed of a command, shared by everything that draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

_SEED: ContextVar[int] = ContextVar("seed", default=0)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Use this seed inside the `with`. Outside of any, the seed is 0."""
    before = _SEED.set(seed)
    try:
        yield
    finally:
        _SEED.reset(before)


def current_seed() -> int:
    """Return the seed of the running command."""
    return _SEED.get()


def generator(seed: int | None = None, *, offset: int = 0) -> np.random.Generator:
    """Return a new generator, the same at each call.

    seed: None takes the seed of the command.
    offset: distinguishes draws that must not repeat each other.

    >>> with seeded(3):
    ...     same = generator().random() == generator(3).random() == generator(2, offset=1).random()
    >>> same, generator().random() == generator(0).random()
    (True, True)
    """
    return np.random.default_rng((current_seed() if seed is None else seed) + offset)
