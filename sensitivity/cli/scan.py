"""`sensitivity scan`: rank layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensitivity.cli import lazy
from sensitivity.cli.options import aside, long_verb
from sensitivity.config import ScanSettings

if TYPE_CHECKING:
    from sensitivity.cli.progress import Teller


@long_verb(ScanSettings, "scan")
def command(settings: ScanSettings, teller: Teller) -> None:
    """Rank layers by how much accuracy each costs in INT8.

    TASK is a Python file and a function in it that returns a task, as in my_task.py:task; the file
    is executed as it is. Or it is an ONNX or .tflite file, with --data; a float file is quantized
    first.
    """
    if settings.dry_run:
        with aside():
            forecast = lazy.api.forecast(settings)
        lazy.forecast.show_forecast(forecast)
        return
    with aside():
        lazy.api.scan(settings, teller)
    lazy.render.show(lazy.api.out_of(settings), ranking=True)
