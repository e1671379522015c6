"""The error of a repair that needs gradients, for a model that gradients do not pass through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sensitivity import optional
from sensitivity.errors import ModelError, WriteError


@contextmanager
def gradients_for(purpose: str) -> Iterator[None]:
    """Raise ModelError for whatever the user's code raises inside the `with`. A model that works in
    place, for one, can be run and not be differentiated.

    purpose: what needs the gradients, for the message.
    """
    try:
        yield
    except (optional.torch.OutOfMemoryError, ModelError, WriteError):
        raise
    except Exception as error:
        line = str(error).partition("\n")[0][:160]
        raise ModelError(
            f"Expected gradients to pass through the model for {purpose}, got "
            f"{type(error).__name__}: {line}"
        ) from error
