"""How many characters of a line of text are right."""

from __future__ import annotations

import numpy as np


def character_accuracy(outputs: np.ndarray, targets: np.ndarray) -> list[float]:
    """One minus the edits that each line needs over its length, at least 0.

    outputs: float[n, places, characters]; character 0 is the blank of CTC (Graves et al. 2006).
    targets: int[n, longest], numbers of characters, filled up with 0.
    """
    found = []
    for best, target in zip(outputs.argmax(2), targets, strict=True):
        is_new = np.diff(best, prepend=0) != 0
        read, wanted = best[is_new & (best != 0)], target[target != 0]
        found.append(max(0.0, 1 - edits(read, wanted) / len(wanted)))
    return found


def edits(read: np.ndarray, wanted: np.ndarray) -> int:
    """Levenshtein's distance: characters to insert, remove or replace."""
    row = list(range(len(wanted) + 1))
    for done, character in enumerate(read, 1):
        above, row = row, [done]
        for at, other in enumerate(wanted):
            replaced = above[at] + int(character != other)
            row.append(min(replaced, above[at + 1] + 1, row[at] + 1))
    return row[-1]
