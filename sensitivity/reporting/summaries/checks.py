"""The verdict as checks that pass, fail or are open, whatever format shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sensitivity.records import AccuracyStatus, Action, SpeedStatus
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.number_formats import in_format
from sensitivity.reporting.verdict import lines_of, verdict_in

Outcome = Literal["pass", "open", "fail"]

ACCURACY: dict[AccuracyStatus, Outcome] = {"met": "pass", "not proven": "open", "missed": "fail"}
SPEED: dict[SpeedStatus, Outcome] = {
    "faster": "pass",
    "not measured": "open",
    "slower": "fail",
    "no different": "fail",
    "same file": "fail",
}
ACTION: dict[Action, Outcome] = {
    "use": "pass",
    "prove": "open",
    "risk": "open",
    "bench": "open",
    "float": "fail",
    "lower": "open",
    "train": "fail",
    "repair": "fail",
}
RULES = {
    "accuracy": "The plan meets the accuracy target.",
    "speed": "The file of the plan is faster than the float file.",
    "action": "The file of the plan can be used.",
}
"""Check -> what has to hold."""


@dataclass(frozen=True)
class Check:
    """One check.

    name: a key of `RULES`.
    status: the result in a word or two.
    sentence: the result with its numbers.
    """

    name: str
    outcome: Outcome
    status: str
    sentence: str


def checks(data: ReportData) -> tuple[Check, ...]:
    """Return the checks of accuracy, speed and what to do; all are open if there is no plan yet."""
    verdict = verdict_in(data)
    if verdict is None:
        no_plan = "There is no plan yet: sensitivity plan makes one."
        return tuple(Check(name, "open", "no plan", no_plan) for name in RULES)
    missed_on_confirm = data.plan is not None and not data.plan.met
    accuracy = "fail" if missed_on_confirm else ACCURACY[verdict.accuracy]
    outcomes = (accuracy, SPEED[verdict.speed], ACTION[verdict.action])
    return tuple(
        Check(name, outcome, line.status, in_format(line.sentence, data.format))
        for name, outcome, line in zip(RULES, outcomes, lines_of(verdict), strict=True)
    )
