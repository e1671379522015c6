"""Keeps the state of a long training in a file, so that it can resume after an interruption."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from sensitivity import optional
from sensitivity.files import write_whole

DAMAGED = (OSError, RuntimeError, EOFError, UnpicklingError, TypeError, ValueError, LookupError)
"""What torch raises for a file that is damaged or was not written by it."""

EVERY_S = 10.0
"""Seconds between two states that are written."""


@dataclass
class Checkpoint:
    """The state of one training, in a file that is there while it lasts.

    file: None keeps no state.
    key: tells this training from all others. The state of another one is not read.
    """

    file: Path | None = None
    key: str = ""
    _written: float = field(default_factory=time.monotonic)

    def load(self) -> Mapping[str, Any] | None:
        """Return the state that was written last; None if there is none that can be read."""
        if self.file is None or not self.file.is_file():
            return None
        try:
            content = optional.torch.load(self.file, weights_only=True, map_location="cpu")
        except DAMAGED:
            return None
        if not isinstance(content, dict) or content.get("key") != self.key:
            return None
        state: Mapping[str, Any] = content["state"]
        return state

    @property
    def is_due(self) -> bool:
        """Whether it is time to write the state."""
        return self.file is not None and time.monotonic() - self._written >= EVERY_S

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state: tensors, numbers, and lists and dicts of them.

        Raises WriteError if the file cannot be written.
        """
        assert self.file is not None
        content = io.BytesIO()
        optional.torch.save({"key": self.key, "state": dict(state)}, content)
        write_whole(self.file, content.getvalue())
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file, because the training has ended."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
