"""The next command to run, from what a run has found so far."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from sensitivity.records import Plan, Timing, Verdict, timing_of
from sensitivity.reporting.data import ReportData, can_be_exported
from sensitivity.reporting.formats import MetricFormat
from sensitivity.reporting.outcome import (
    evidence_of,
    formats_in_float,
    is_lowered_file,
    maker_name,
)
from sensitivity.reporting.verdict import verdict_in
from sensitivity.rules.formats import takes
from sensitivity.stats.proof import limit_held

RULES = {"tensorrt": "tensorrt-10", "tensorrt_rtx": "tensorrt-rtx", "trtexec": "tensorrt-10"}
"""Runtimes that `lint` knows under another name."""


@dataclass(frozen=True)
class NextStep:
    """What to do next.

    sentence: what the commands are for, ending in a colon; a whole sentence without commands.
    commands: one per line; may be empty.
    """

    sentence: str
    commands: tuple[str, ...]


def next_step(data: ReportData) -> NextStep:
    """Return what a reader who believes the verdict types next."""
    directory = shlex.quote(data.directory)
    verdict = verdict_in(data)
    if verdict is None:
        return NextStep(
            "Choose the layers that stay out of INT8:",
            (f"sensitivity plan {directory} --max-drop 1pt",),
        )
    return _after(verdict, data, directory)


def _after(verdict: Verdict, data: ReportData, directory: str) -> NextStep:
    assert data.plan
    partial = timing_of("partial", data.timings)
    match verdict.action:
        case "bench" if formats_in_float(data.plan, partial):
            return _on_its_hardware(data, data.plan, partial)
        case "bench" if not can_be_exported(data.warnings):
            return NextStep(
                "List the layers to leave out in your toolkit's own export:",
                (f"sensitivity report {_of_plan(data)} --format markdown",),
            )
        case "bench":
            exported = data.verification is not None
            commands = [f"sensitivity export {_of_plan(data)}"] * (not exported)
            return NextStep("Time it:", (*commands, f"sensitivity bench {_of_plan(data)}"))
        case "repair" if partial:
            runtime = RULES.get(partial.runtime, partial.runtime)
            command = f"sensitivity lint {shlex.quote(partial.file)} --for {runtime}"
            return NextStep(
                f"See what {maker_name(partial.runtime)} does with the file:", (command,)
            )
        case "prove":
            return _to_be_surer(data.plan, data, directory)
        case "risk":
            return _held(data.plan, data, directory)
        case "train" if not data.plan.met:
            return _looser(data.plan, data, directory)
        case "use":
            return _used(data, data.plan, partial)
        case "lower" if partial:
            return _lowered(partial, _of_plan(data))
        case _:
            still = (
                "" if verdict.accuracy == "met" else f", with the target still {verdict.accuracy}"
            )
            others = _elsewhere(data, data.plan, partial)
            if not others:
                return NextStep(f"No other runtime here takes the formats of the plan{still}.", ())
            return NextStep(f"Another runtime may be faster{still}. Time it there:", others)


def _of_plan(data: ReportData) -> str:
    """Return the directory and name of the plan, as command line arguments."""
    directory = shlex.quote(data.directory)
    return directory if data.name is None else f"{directory} --name {data.name}"


def _surer(plan: Plan, data: ReportData, directory: str) -> tuple[str, tuple[str, ...]]:
    """Return what the reader does to be surer, in a clause, and its commands.

    It is a target that needs a surer set than the plan, or another run if no set is surer.
    """
    if plan.target.metric is not None:
        certain = (1 + plan.target.confidence) / 2
        more = f"--target {plan.target.metric:g} --confidence {certain:g}"
        return "ask for more certainty", _planned(directory, more)
    allowed = plan.metric.float.value - plan.floor
    own = data.own_choice
    if own is not None and own.allowed is not None:
        allowed = min(allowed, own.allowed)
    half_pt = 50 * allowed / data.full_scale
    if half_pt <= 0:
        clause = (
            "give the task more samples, which may choose another plan, and run it again, into a "
            "directory of its own"
        )
        return clause, (_into(f"{data.directory}_more", data.command.partition("\n")[0]),)
    clause = "ask for a smaller drop, which leaves more layers out"
    return clause, _planned(directory, f"--max-drop {half_pt:.2g}pt")


def _into(directory: str, command: str) -> str:
    """Return a command line with another --out."""
    words = shlex.split(command)
    if "--out" in words[:-1]:
        words[words.index("--out") + 1] = directory
    else:
        words += ["--out", directory]
    return shlex.join(words)


def _planned(directory: str, target: str) -> tuple[str, ...]:
    """Return the commands that plan for another target, export the files and time them."""
    return (
        f"sensitivity plan {directory} {target}",
        f"sensitivity export {directory}",
        f"sensitivity bench {directory}",
    )


def _held(plan: Plan, data: ReportData, directory: str) -> NextStep:
    """Return the alternatives to taking the risk, with the drop that the plan does meet."""
    limit = limit_held(evidence_of(plan, data.judged).drop, plan.target.confidence)
    if plan.target.metric is not None or limit is None:
        return _to_be_surer(plan, data, directory)
    clause, commands = _surer(plan, data, directory)
    drop = MetricFormat(data.metric, data.full_scale).change(limit, sign=False)
    sentence = f"If a drop of {drop} is good enough, nothing is left to do. If not, {clause}:"
    return NextStep(sentence, commands)


def _to_be_surer(plan: Plan, data: ReportData, directory: str) -> NextStep:
    clause, commands = _surer(plan, data, directory)
    return NextStep(f"To be surer, {clause}:", commands)


def _looser(plan: Plan, data: ReportData, directory: str) -> NextStep:
    """Return the step to a target that the best set meets, as far as it was measured."""
    drop = (plan.metric.float.value - plan.metric.confirm.value) / data.full_scale * 100
    wanted = (math.floor(10 * max(drop, 0.0)) + 1) / 10
    return NextStep(
        f"If a drop of {wanted:g} pt is good enough, ask for it:",
        _planned(directory, f"--max-drop {wanted:g}pt"),
    )


def _lowered(partial: Timing, place: str) -> NextStep:
    """Return the step that writes the file for the runtime in which it was slow."""
    bench = f"sensitivity bench {place} --runtime {partial.runtime}"
    return NextStep(
        f"Write the file for {maker_name(partial.runtime)}, and time it again:",
        (f"sensitivity export {place} --for {partial.runtime}", bench),
    )


def _used(data: ReportData, plan: Plan, partial: Timing | None) -> NextStep:
    commands = _elsewhere(data, plan, partial)
    more = " To time it in another runtime:" if commands else ""
    return NextStep(f"Nothing is left to do here.{more}", commands)


def _on_its_hardware(data: ReportData, plan: Plan, partial: Timing | None) -> NextStep:
    """Return the step that times a plan in formats that this runtime computes in float."""
    commands = _elsewhere(data, plan, partial)
    formats = " and ".join(formats_in_float(plan, partial))
    if commands:
        return NextStep(f"Time it on a machine with {formats}:", commands)
    return NextStep(f"Time model.partial.onnx on hardware with {formats}.", ())


def _elsewhere(data: ReportData, plan: Plan, partial: Timing | None) -> tuple[str, ...]:
    """Return the commands that time the plan in a runtime that it was not timed in.

    Returns none if no other one takes its formats.
    """
    timed, formats = "" if partial is None else partial.runtime, plan.formats.values()
    others = [name for name in ("openvino", "tensorrt") if name != timed and takes(name, formats)]
    if not others:
        return ()
    place, other = _of_plan(data), others[0]
    bench = f"sensitivity bench {place} --runtime {other}"
    if partial is None or not data.lowers:
        return (bench,)
    # The name of a file that was written for a runtime contains the runtime. It is of no use to
    # another one.
    if is_lowered_file(partial) or formats_in_float(plan, partial):
        return f"sensitivity export {place} --for {other}", bench
    return (bench,)
