"""The answer in words, from the evidence and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sensitivity.records import AccuracyStatus, Action, Plan, Tone, Verdict
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat, sure
from sensitivity.reporting.outcome import evidence_of, verdict_of
from sensitivity.reporting.plan_sentences import (
    also_repaired,
    levels_of,
    plan_headline,
    plan_sentences,
)
from sensitivity.reporting.scan_sentences import scan_sentences

TITLES: dict[Action, str] = {
    "use": "use it",
    "prove": "prove it first",
    "risk": "weigh the risk",
    "bench": "time it first",
    "float": "stay with float",
    "lower": "write the file for its runtime",
    "train": "do not use it as it is",
    "repair": "do not use this file",
}


@dataclass(frozen=True)
class Line:
    """One line of the verdict: a title, the result in a word or two, and the same in a sentence."""

    title: str
    status: str
    sentence: str
    tone: Tone


@dataclass(frozen=True)
class Words:
    """The answer in words.

    state: of the whole; "scan" if there is no plan.
    lines: accuracy, speed, what to do; empty without a plan.
    headline: one sentence.
    sentences: the rest, the most important first.
    levels: the metric on each part of the data, one sentence each.
    """

    state: Literal["good", "open", "bad", "scan"]
    lines: tuple[Line, ...]
    headline: str
    sentences: tuple[str, ...]
    levels: tuple[str, ...] = ()


def words_of(data: ReportData) -> Words:
    """Return what was found, the most important first.

    Every number has its interval, its samples and their split.
    """
    latency = data.bench_sentences[:1]
    plan = data.plan
    if plan is None:
        headline, *rest = scan_sentences(data) or ("Nothing has been measured yet.",)
        return Words("scan", (), headline, (*rest, *latency))
    metric = MetricFormat(data.metric, data.full_scale)
    verdict = plan.verdict or verdict_of(plan, None, metric)
    sentences = (*plan_sentences(data, plan, verdict, metric), *latency)
    headline = plan_headline(plan, verdict.accuracy, data.layers, metric)
    accuracy, speed, act = lines_of(verdict)
    is_certain = evidence_of(plan, data.judged).is_exact and plan.target.metric is None
    chance = "" if is_certain else _chance_words(verdict, plan.target.confidence)
    accuracy = replace(accuracy, sentence=accuracy.sentence + chance)
    if verdict.action in ("use", "prove", "risk"):
        act = replace(act, sentence=act.sentence + _equal_words(data, plan))
    levels = tuple(levels_of(plan, metric))
    return Words(verdict.tone, (accuracy, speed, act), headline, sentences, levels)


def _chance_words(verdict: Verdict, confidence: float) -> str:
    """Return how likely the target holds; "" if it is missed, or if that is unknown.

    >>> verdict = Verdict("not proven", "", "faster", "", "prove", "", chance=0.784)
    >>> _chance_words(verdict, 0.8)
    ' It is 78% likely that the target holds; 80% is asked for.'
    """
    if verdict.chance is None or verdict.accuracy == "missed":
        return ""
    asked = "" if verdict.accuracy == "met" else f"; {confidence:.0%} is asked for"
    return f" It is {sure(verdict.chance)} likely that the target holds{asked}."


def verdict_in(data: ReportData) -> Verdict | None:
    """Return the verdict on the plan; None if there is no plan."""
    if data.plan is None:
        return None
    metric = MetricFormat(data.metric, data.full_scale)
    return data.plan.verdict or verdict_of(data.plan, None, metric)


def lines_of(verdict: Verdict) -> tuple[Line, Line, Line]:
    """Return the lines on accuracy, speed and what to do.

    The tone of the accuracy is never better than that of what to do.
    """
    accuracy = TONES[verdict.accuracy]
    if accuracy == "good":
        accuracy = verdict.tone
    speed: Tone = "good" if verdict.speed == "faster" else "open"
    speed_words = SPEED_WORDS.get(verdict.speed, verdict.speed)
    if verdict.action == "lower":
        speed_words += " so far"
    return (
        Line("Accuracy", verdict.accuracy, verdict.accuracy_sentence, accuracy),
        Line("Speed", speed_words, verdict.speed_sentence, speed),
        Line("What to do", TITLES[verdict.action], verdict.action_sentence, verdict.tone),
    )


TONES: dict[AccuracyStatus, Tone] = {"met": "good", "not proven": "open", "missed": "bad"}


SPEED_WORDS = {
    "faster": "faster than float",
    "slower": "slower than float",
    "no different": "no faster than float",
    "same file": "same file as float",
}


def _equal_words(data: ReportData, plan: Plan) -> str:
    """Return a sentence if everything in INT8 is as good as the plan, as far as the samples show.

    It names the command that chooses it. Returns "" if it is worse or no command chooses it.
    """
    own, whole = data.own_choice, data.whole_choice
    if own is None or whole is None or own is whole:
        return ""
    lowest = whole.point.drop.low
    if lowest is None or lowest > own.point.drop.value:
        return ""
    if whole.point.true_drop or not whole.command:
        return ""
    return (
        f" Everything in INT8{also_repaired(plan)} is as good, as far as these samples show: "
        f"{whole.command} chooses that."
    )
