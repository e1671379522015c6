"""The task file that a run of an ONNX file writes into its run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sensitivity.config import TaskChoices
from sensitivity.files import write_whole
from sensitivity.onnx_task.reading import CALIBRATION_SAMPLES, data_of
from sensitivity.tasks.load import load_evaluator
from sensitivity.tasks.onnx_pixels import channels

TASK_FILE = '''\
"""What `sensitivity` made of {what}.

Change it where the file is meant otherwise; a task that measures something else needs a run
directory of its own.
"""

{imports}from sensitivity.onnx_task import onnx_task


def task():
    return onnx_task(
{arguments}    )
'''


def written_task(settings: TaskChoices, out: Path, made: Path | None = None) -> str:
    """Write a task file for the ONNX file of the settings into the run directory.

    Returns the reference of the task.

    made: the Q/DQ file in the run directory that was made from a float file; None for a Q/DQ file.
    Raises TaskError if the settings name no data.
    """
    arguments = _arguments(settings)
    if made is not None:
        arguments.setdefault("calib_samples", repr(CALIBRATION_SAMPLES))
        arguments["float_path"] = arguments["path"]
        arguments["path"] = f"Path(__file__).with_name({made.name!r})"
    lines = "".join(f"        {name}={value},\n" for name, value in arguments.items())
    content = TASK_FILE.format(
        what=f"{Path(settings.task).name} and --data {data_of(settings).name}",
        imports="" if made is None else "from pathlib import Path\n\n",
        arguments=lines,
    )
    write_whole(out / "task.py", content.encode())
    return f"{out / 'task.py'}:task"


def _arguments(settings: TaskChoices) -> dict[str, str]:
    """Return the arguments of `onnx_task` as source text, without those that have the default."""
    paths = {
        "path": Path(settings.task),
        "data": data_of(settings),
        "float_path": settings.float_model,
        "calib": settings.calib,
    }
    arguments = {
        name: repr(str(_absolute(value))) for name, value in paths.items() if value is not None
    }
    values: dict[str, Any] = {
        "decode": settings.decode,
        "imgsz": settings.imgsz,
        "colours": settings.colours,
        "top": settings.top,
        "mean": channels("--mean", settings.mean),
        "std": channels("--std", settings.std),
        "calib_samples": settings.calib_samples,
    }
    if settings.evaluator is not None:
        evaluator = load_evaluator(settings.evaluator)
        values |= {"evaluator": evaluator.place, "evaluator_code": evaluator.code}
    return arguments | {name: repr(value) for name, value in values.items() if value is not None}


def _absolute(path: Path) -> Path:
    """Return the absolute path; a bare name of a data set that comes with ultralytics stays as it
    is."""
    is_bare = path.parent == Path()
    if is_bare and not path.exists():
        return path
    return path.resolve()
