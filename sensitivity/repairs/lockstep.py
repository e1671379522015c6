"""Runs a model on the parts of a batch in lockstep: all parts stop before the same layers, where a
repair sees their values together.

A repair needs what a layer gives for all samples before the next layer runs. As one batch, a model
holds ten to thirty times as much as its inputs. In lockstep only what waits at the layer is held
for all samples, and everything else for one part.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import Any

from sensitivity import optional
from sensitivity.allocator import trim_heap
from sensitivity.errors import TaskError
from sensitivity.quantizers.torch.calls import every_module_called

Stop = tuple[str, tuple[Any, ...]]
"""The name of the place where a part stops, and the values that it shows there."""

Meet = Callable[[str, list[tuple[Any, ...]]], None]
"""Called with the name of a place and what each part shows there. It may change tensors in
place."""

_here = threading.local()


class _Abandoned(BaseException):
    """Ends a part that nobody waits for any more."""


def stop(name: str, *values: Any) -> None:
    """Stop the part that runs in this thread until all parts have met at this place."""
    _here.part.stop((name, values))


def in_lockstep(run: Callable[[Any], None], parts: Sequence[Any], meet: Meet) -> None:
    """Call run(part) for each part, one at a time, and `meet` whenever all of them have stopped.

    Raises what `run` and `meet` raise, and TaskError if the parts stop at different places.
    """
    running = [_Part(run, part) for part in parts]
    most = 0
    try:
        with every_module_called():
            while True:
                stops = [part.resume() for part in running]
                names = {name for name, _ in stops}
                if len(names) > 1:
                    raise TaskError(
                        "Expected the model to call the same layers for all samples, got "
                        f"{' and '.join(sorted(name or 'the end' for name in names))} at once; "
                        "give batches for which its forward takes the same path."
                    )
                (name,) = names
                if not name:
                    return
                waiting = sum(map(_bytes, stops))
                # Values in the heap have grown over what was free, or larger ones are free now.
                if waiting > most or waiting < most / 2:
                    trim_heap()
                    most = waiting
                meet(name, [values for _, values in stops])
                del stops
    finally:
        for part in running:
            part.abandon()
        trim_heap()


def _bytes(at: Stop) -> int:
    """Return the bytes of the tensors that a part shows where it stops."""
    _, values = at
    return sum(value.nbytes for value in values if isinstance(value, optional.torch.Tensor))


class _Part:
    """A call of `run` in a thread of its own, which goes on only while `resume` waits for it."""

    def __init__(self, run: Callable[[Any], None], part: Any) -> None:
        self._run, self._given = run, part
        self._may_go, self._has_stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._at: Stop = ("", ())
        self._error: Exception | None = None
        self._is_abandoned = False
        self._threads = optional.torch.get_num_threads()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._main,), daemon=True)
        self._thread.start()

    def resume(self) -> Stop:
        """Let it go on, and return where it stops; no name at its end. Raises what it raises."""
        self._may_go.release()
        self._has_stopped.acquire()
        if self._error is not None:
            raise self._error
        found, self._at = self._at, ("", ())
        return found

    def stop(self, at: Stop) -> None:
        """Wait in its own thread for `resume`."""
        self._at = at
        del at
        self._has_stopped.release()
        self._wait()

    def abandon(self) -> None:
        """End it wherever it is."""
        self._is_abandoned = True
        self._may_go.release()
        self._thread.join()

    def _wait(self) -> None:
        self._may_go.acquire()
        if self._is_abandoned:
            raise _Abandoned

    def _main(self) -> None:
        _here.part = self
        # Both settings belong to a thread.
        optional.torch.set_num_threads(self._threads)
        try:
            self._wait()
            with optional.torch.no_grad():
                self._run(self._given)
        except _Abandoned:
            pass
        except Exception as error:  # noqa: BLE001 - raised again by `resume`
            self._error = error
        finally:
            self._has_stopped.release()
