"""The batches of a split, one after the other."""

from __future__ import annotations

from typing import Any

from sensitivity.errors import TaskError
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import check_pair


class Reader:
    """The batches of one split in order, read when first asked for. Batch numbers may only grow."""

    def __init__(self, task: Task, split: str) -> None:
        self.count = len(task.data[split])
        self._split = split
        self._batches = enumerate(iter(task.data[split]))

    def at(self, batch: int) -> tuple[Any, Any]:
        """Return the inputs and targets of this batch. Raises TaskError if the data has fewer or
        more batches than its len()."""
        pair = next((pair for number, pair in self._batches if number == batch), None)
        if pair is None:
            raise self._other_count("fewer")
        is_last = batch == self.count - 1
        if is_last and next(self._batches, None) is not None:
            raise self._other_count("more")
        return check_pair(pair, self._split)

    def _other_count(self, got: str) -> TaskError:
        return TaskError(
            f"Expected split {self._split!r} to hold {self.count} batches as its len() says, "
            f"got {got}; make len() and iteration agree."
        )
