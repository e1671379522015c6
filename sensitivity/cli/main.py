"""The command line. Each verb has a module, which is imported when the verb is used."""

from __future__ import annotations

import errno
import importlib
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

import sensitivity
from sensitivity.cli import lazy
from sensitivity.errors import SensitivityError

VERBS = {
    "run": "Scan, plan, export, bench and report in one go.",
    "scan": "Rank layers by how much accuracy each costs in INT8.",
    "check": "Check on one batch what a scan relies on.",
    "plan": "Choose the layers to leave out of INT8 so that a target holds.",
    "export": "Write and verify the float, INT8 and partial ONNX files.",
    "lint": "Check a Q/DQ ONNX file for a runtime.",
    "bench": "Measure the latency of the exported files, interleaved.",
    "report": "Write report.html, the CSV files and the figures.",
    "compare": "Show runs, or the plans of one run, side by side.",
    "doctor": "Show what is installed, what is missing, and what it would add.",
    "yolo": "The whole job for a YOLO of ultralytics: give weights and labelled images.",
    "demo": "Run the whole job on handwritten digits, in minutes.",
}
INTERRUPTED = 130
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the operating system for a full disk, an exceeded quota or a file that is too large.
They come from a write, which names no file."""
RESUMED, GOES_ON, STARTS_ANEW = (
    ("run", "scan", "yolo"),
    ("plan", "demo"),
    ("export", "bench", "report", "compare"),
)
"""Verbs that continue where they stopped with --resume; verbs that do so without it; and verbs that
start again from the beginning."""
BEFORE_THE_VERB = "--config stands before the verb: sensitivity --config FILE VERB."


class Verbs(click.Group):
    """A group that knows the names of its verbs, so that `--help` imports none of them."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the verbs in the order in which they are used."""
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import the verb that is asked for, and no other. Returns None for an unknown name."""
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"sensitivity.cli.{name}").command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with the help texts of `VERBS`, so that none has to be imported."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


def _take_config(context: click.Context, _: click.Parameter, file: Path | None) -> None:
    if file is not None and not context.resilient_parsing:  # set while a shell completes words
        context.default_map = lazy.config_file.read_config(file, context)


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(sensitivity.__version__)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    expose_value=False,
    callback=_take_config,
    help="A TOML file with options, in a table for each verb; the command line takes precedence.",
)
def group() -> None:
    """Decide which layers of a calibrated network stay out of INT8: measured, planned, exported
    and verified.

    \b
    Start with:  sensitivity run my_task.py:task --max-drop 1pt
    Exit codes:  0 target met, 2 target missed, 1 error, 130 interrupted
    """  # noqa: D301 - a backspace keeps click from wrapping the lines below it


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    A user's mistake prints one sentence to stderr; a bug of ours shows its traceback.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if arguments is None:  # the process is this command's own
        lazy.allocator.collect_seldom()
    try:
        code = group.main(words, prog_name="sensitivity", standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and error.option_name == "--config":
            error = click.UsageError(BEFORE_THE_VERB, error.ctx)
        error.show()
        code = 1
    except SensitivityError as error:
        code = _print_error(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo(stopped(words), err=True)
        code = INTERRUPTED
    except Exception as error:
        explained = _foreign(error, words)
        if explained is None:
            raise
        code = _print_error(explained)
    sys.exit(code)


def _print_error(error: SensitivityError) -> int:
    """Print a user's mistake in one line, even if a library's message has several, and return the
    exit code."""
    click.echo(f"Error: {' '.join(str(error).split())}", err=True)
    return 1


def _foreign(error: Exception, words: Sequence[str]) -> SensitivityError | None:
    """Return the message for an exception that no code expected, or None if it can only be a bug of
    ours."""
    for word in words:
        if word.endswith(".onnx"):
            refusal = lazy.well_formed.refused(Path(word))
            if refusal:
                return refusal
    if isinstance(error, MemoryError):
        return SensitivityError(
            "Expected enough memory, got less than is needed; try a smaller batch, --memory, or "
            "fewer other programs."
        )
    if isinstance(error, OSError) and error.errno in FULL:
        return SensitivityError(
            f"Expected enough disk space, got: {error.strerror}; free some space in the run "
            f"directory or in {tempfile.gettempdir()}, and repeat the command: what was measured "
            "is kept."
        )
    if isinstance(error, OSError) and error.filename is not None:
        return SensitivityError(
            f"Expected to be able to use {error.filename}, got: {error.strerror}; check the path "
            "and its permissions."
        )
    return None


def stopped(words: Sequence[str]) -> str:
    """Return the message about an interrupted command, with the command that continues it."""
    verb = next(filter(VERBS.get, words), "")
    again = shlex.join(["sensitivity", *words])
    if verb in RESUMED:
        again += "" if "--resume" in words else " --resume"
        return f"Stopped. No measurement is lost; continue with: {again}"
    if verb in GOES_ON:
        return f"Stopped. No measurement is lost; continue with: {again}"
    if verb in STARTS_ANEW:
        return f"Stopped. Start it again with: {again}"
    return "Stopped."
