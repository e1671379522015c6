"""Records in run.json what each step of a run cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from sensitivity.run_dir import RunDir
from sensitivity.session import Session


@contextmanager
def recorded(
    run_dir: RunDir, verb: str, command: str, session: Session | None = None
) -> Iterator[None]:
    """Write the command, time and samples of a step into run.json, unless it raises.

    verb: the step.
    command: how to repeat it.
    session: counts the samples and has the warnings; None for a step that measures nothing.
    Raises RunDirError for a folder without a run, before the step begins.
    """
    run_dir.info()
    start = time.monotonic()
    samples_before = session.measurer.samples if session else 0
    yield
    info, step = run_dir.info(), run_dir.step(verb)
    info = replace(
        info,
        commands=info.commands | {step: command},
        seconds=info.seconds | {step: round(time.monotonic() - start, 3)},
    )
    if session:
        info = info.with_warnings(session.warnings)
    if session and (simulator := session.measurer.simulator_used()):
        info = replace(
            info.with_warnings(simulator.warnings),
            samples=info.samples + session.measurer.samples - samples_before,
            simulator={"name": simulator.name, "reason": simulator.reason},
        )
    run_dir.write("run.json", info)
