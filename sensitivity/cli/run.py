"""`sensitivity run`: everything in one go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensitivity.cli import lazy
from sensitivity.cli.options import aside, long_verb
from sensitivity.config import RunSettings

if TYPE_CHECKING:
    from sensitivity.cli.progress import Teller


@long_verb(RunSettings, "run")
def command(settings: RunSettings, teller: Teller) -> int:
    """Scan, plan, export, bench and report in one go.

    TASK is a Python file and a function in it that returns a task, as in my_task.py:task; the file
    is executed as it is. Or it is an ONNX or .tflite file, with --data; a float file is quantized
    first.

    Exit codes: 0 target met, 2 target missed, 1 error.
    """
    if settings.dry_run:
        with aside():
            forecast = lazy.api.forecast(settings)
        lazy.forecast.show_forecast(forecast)
        return 0
    with aside():
        plan = lazy.api.run(settings, teller)
    lazy.render.show(lazy.api.out_of(settings), ranking=True, latency=True)
    return 0 if plan.met else 2
