"""The command line as a test calls it, and the task that most tests give it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensitivity.cli.main import main

TASK = Path(__file__).parents[1] / "tasks" / "tiny.py"
LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc"]


def verb(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)
