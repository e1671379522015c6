"""A worker: opens the task of a run in a process of its own and measures variants on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from sensitivity import allocator, optional
from sensitivity.errors import TaskError
from sensitivity.journal.journal import TASK, differences
from sensitivity.measure.opening import Opening, reference_of
from sensitivity.measure.work import Hand, Measured, Work
from sensitivity.opened import OpenModel, opened_model
from sensitivity.seeds import seeded
from sensitivity.simulators.choose import free_memory
from sensitivity.simulators.memory import host_memory
from sensitivity.tasks.detection import with_rows_of
from sensitivity.units import placement


@contextmanager
def opened_worker(opening: Opening) -> Iterator[Callable[[Work], Measured]]:
    """Open the task of a run and yield a function that measures on it.

    Raises what opening the task raises, and TaskError if model, data or versions differ from the
    run's.
    """
    allocator.keep_freed_memory()
    with ExitStack() as stack:
        stack.enter_context(seeded(opening.seed))
        _set_threads(opening.measures.threads)
        added = placement.residual_quantizers if opening.measures.residuals else None
        model = stack.enter_context(opened_model(reference_of(opening), added))
        scales = opening.measures.head.get("scales")
        if scales:
            stack.enter_context(placement.unified_scales(model.source, scales))
        _check_same(model, opening)
        _set_threads(opening.threads)
        task = with_rows_of(model.task, opening.measures.row_shape)
        hand = Hand(task, model.simulators(_memory(model, opening)))

        def measured(work: Work) -> Measured:
            with seeded(opening.seed):  # a call may run in a context of its own
                return hand(work)

        yield measured


def _check_same(model: OpenModel, opening: Opening) -> None:
    own = json.loads(json.dumps(model.head()))
    wanted = {key: opening.measures.head.get(key) for key in own if key != TASK}
    del own[TASK]
    different = differences(wanted, own)
    if different:
        raise TaskError(
            "Expected each worker to open the model and data of the run, got another: "
            f"{'; '.join(different)}. Fix the seeds of what the task draws at random and use the "
            "same files and versions everywhere, or leave out --workers."
        )


def _set_threads(count: int | None) -> None:
    if count is not None:
        optional.torch.set_num_threads(count)


def _memory(model: OpenModel, opening: Opening) -> int:
    """Return the bytes that this worker may use for values kept for replay."""
    memory = opening.measures.memory
    if memory is not None:
        return memory // opening.shared
    free = free_memory(model.source.model) if model.in_torch else host_memory()
    return free // 4 // opening.shared
