"""Re-ranking: units that matter only once another one is out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from support.studies import study_of

from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.raced import Budget, raced_scan
from sensitivity.measure.scan import scan, usual_mode
from sensitivity.records import Target
from sensitivity.search.choose import COLLAPSED, SearchOptions, choose_plan
from sensitivity.search.rerank import CONTENDERS, reranked
from sensitivity.signals.base import Signal
from sensitivity.tasks.base import Task
from sensitivity.testing.fakes import FakeModel, FakeSimulator
from sensitivity.units.units import Pins

HARM = {"mask": 0.5, "second": 0.2, "third": 0.1} | {f"tail{index}": 0.001 for index in range(12)}


class Masked(FakeModel):
    """While `mask` is quantized it hides all other layers: leaving one of them out changes
    nothing."""

    def __call__(self, inputs: Any) -> Any:
        on = {q.layer for q in self.quantizers if q.name not in self.off}
        total = 0.85 if "mask" in on and len(on) > 1 else sum(self.harm[layer] for layer in on)
        return (inputs >= total - 1e-12).astype(np.float64)


def measurer_of(path: Path):
    model = Masked(HARM)
    # the first 32 are the signal's
    samples = np.concatenate([np.linspace(0, 0.999, 32), np.linspace(0, 0.999, 368)])
    data = {split: [(samples, None)] for split in ("rank", "confirm", "holdout")}
    task = Task(model, data, lambda outputs, _: outputs)
    simulator = FakeSimulator(model)
    return open_journal(path, {}, resume=True), task, simulator, model


def moved(reference: Any, outputs: Any) -> Any:
    return np.abs(reference[0] - outputs[0])


SIGNAL = Signal("moved", moved)


def test_units_are_ordered_by_what_they_take_once_the_first_are_out(tmp_path: Path) -> None:
    journal, task, simulator, model = measurer_of(tmp_path / "j")
    with journal:
        measurer = Measurer(task, lambda candidates: simulator, journal)
        order = reranked(study_of(measurer, model), SIGNAL)
    assert order.units[:3] == ("mask", "second", "third")
    assert set(order.units) == set(HARM)
    assert list(order.signal)[:3] == ["mask", "second", "third"]
    assert order.signal["mask"] > order.signal["second"] > order.signal["third"] > 0
    whole = sum(order.signal.values())
    assert abs(whole - 0.85) < 0.04, "the parts add up to the distortion of all of INT8"


def test_a_plan_needs_fewer_units_with_re_ranking_than_with_the_order_of_the_scan(
    tmp_path: Path,
) -> None:
    """The scan cannot tell the other units apart while `mask` is in: it keeps the model's order,
    here the wrong one."""
    model = Masked(dict(reversed(HARM.items())))
    samples = np.concatenate([np.linspace(0, 0.999, 32), np.linspace(0, 0.999, 368)])
    data = {split: [(samples, None)] for split in ("rank", "confirm", "holdout")}
    task = Task(model, data, lambda outputs, _: outputs)
    found = {}
    for name, signal in (("scan", None), ("anew", SIGNAL)):
        with open_journal(tmp_path / name, {}, resume=True) as journal:
            measurer = Measurer(task, lambda candidates: FakeSimulator(model), journal)
            study = study_of(measurer, model)
            scanned = scan(study, "disable")
            found[name] = choose_plan(
                study, scanned, Target(drop=0.03), SearchOptions(signal=signal)
            )
    assert found["anew"].met
    assert set(found["anew"].skip) == {"mask", "second", "third"}
    assert len(found["anew"].path) < len(found["scan"].path), "and it takes fewer tries"


def test_the_same_order_comes_from_the_journal_without_a_new_sample(tmp_path: Path) -> None:
    orders, calls = [], []
    for _ in range(2):
        journal, task, simulator, model = measurer_of(tmp_path / "j")
        with journal:
            measurer = Measurer(task, lambda candidates, simulator=simulator: simulator, journal)
            orders.append(reranked(study_of(measurer, model), SIGNAL))
        calls.append(simulator.calls)
    assert orders[0] == orders[1]
    assert calls[0] > calls[1] == 0


def test_a_model_that_has_collapsed_is_left_out_in_the_order_of_what_each_layer_does_alone(
    tmp_path: Path,
) -> None:
    """Two layers, each of which alone ruins everything: while one is in INT8, leaving the other out
    shows nothing."""
    harm = {"tail": 0.02, "worse": 0.98, "middle": 0.3, "bad": 0.97}

    class Ruined(FakeModel):
        def __call__(self, inputs: Any) -> Any:
            on = {q.layer for q in self.quantizers if q.name not in self.off}
            return (inputs >= min(sum(self.harm[layer] for layer in on), 0.999) - 1e-12).astype(
                np.float64
            )

    model = Ruined(harm)
    samples = np.linspace(0, 0.999, 32)
    task = Task(
        model,
        {split: [(samples, None)] for split in ("rank", "confirm", "holdout")},
        lambda outputs, _: outputs,
    )
    with open_journal(tmp_path / "j", {}, resume=True) as journal:
        measurer = Measurer(task, lambda candidates: FakeSimulator(model), journal)
        study = study_of(measurer, model)
        mode = usual_mode(study)
        scanned = scan(study, mode)
        plan = choose_plan(study, scanned, Target(drop=0.1), SearchOptions(signal=SIGNAL))
    assert mode == "enable"
    assert scanned.collapsed
    assert plan.skip == ("worse", "bad", "middle")
    assert COLLAPSED in plan.notes


def test_a_collapsed_model_of_many_layers_that_harm_gets_no_more_than_it_needs(
    tmp_path: Path,
) -> None:
    """Everything in INT8 and half of it both lose everything, which does not say which prefix to
    try."""
    harm = {f"layer{index:02}": 0.5 / (index + 1) for index in range(32)}

    class Ruined(FakeModel):
        def __call__(self, inputs: Any) -> Any:
            on = {q.layer for q in self.quantizers if q.name not in self.off}
            return (inputs >= min(sum(self.harm[layer] for layer in on), 0.999) - 1e-12).astype(
                np.float64
            )

    model = Ruined(harm)
    samples = np.linspace(0, 0.999, 200)
    task = Task(
        model,
        {split: [(samples, None)] for split in ("rank", "confirm", "holdout")},
        lambda outputs, _: outputs,
    )
    with open_journal(tmp_path / "j", {}, resume=True) as journal:
        measurer = Measurer(task, lambda candidates: FakeSimulator(model), journal)
        study = study_of(measurer, model)
        scanned = raced_scan(study, "enable", harm, Budget(2000))
        plan = choose_plan(study, scanned, Target(drop=0.1), SearchOptions(signal=SIGNAL))
    left = [sum(list(harm.values())[size:]) for size in range(33)]
    assert len(plan.skip) == next(size for size in range(33) if left[size] <= 0.1)
    assert plan.planner == "culprits"


def test_a_model_that_still_works_in_int8_is_scanned_by_leaving_layers_out(tmp_path: Path) -> None:
    journal, task, simulator, model = measurer_of(tmp_path / "j")
    with journal:
        measurer = Measurer(task, lambda candidates: simulator, journal)
        assert usual_mode(study_of(measurer, model)) == "disable"


def test_no_unit_is_ranked_that_the_target_does_not_need(tmp_path: Path) -> None:
    asked: list[Any] = []

    def enough(chosen: Any) -> bool:
        asked.append(chosen)
        return len(chosen) == 2

    journal, task, simulator, model = measurer_of(tmp_path / "j")
    with journal:
        measurer = Measurer(task, lambda candidates: simulator, journal)
        order = reranked(study_of(measurer, model), SIGNAL, enough=enough)
    assert asked == [(), ("mask",), ("mask", "second")]
    assert order.units[:3] == ("mask", "second", "third"), "by its latest signal"
    assert set(order.units) == set(HARM)


def test_the_signal_is_only_measured_for_a_plan_that_leaves_anything_out(tmp_path: Path) -> None:
    journal, task, _, model = measurer_of(tmp_path / "j")
    asked: list[str] = []

    def counted(reference: Any, outputs: Any) -> Any:
        asked.append("signal")
        return moved(reference, outputs)

    options = SearchOptions(signal=Signal("moved", counted))
    with journal:
        measurer = Measurer(task, lambda candidates: FakeSimulator(model), journal)
        study = study_of(measurer, model)
        scanned = scan(study, "disable")
        met = choose_plan(study, scanned, Target(drop=0.9), options)
        assert (met.skip, met.met, asked) == ((), True, [])
        raced = replace(scanned, signal=dict.fromkeys(HARM, 1.0))
        met = choose_plan(study, raced, Target(drop=0.9), options)
        assert (met.skip, met.met, asked) == ((), True, [])
        pinned = choose_plan(study, scanned, Target(drop=0.36), options, Pins(skip=("mask",)))
        assert (pinned.skip, pinned.met, asked) == (("mask",), True, [])
        found = choose_plan(study, scanned, Target(drop=0.2), options)
    assert set(found.skip) == {"mask", "second"}
    # The whole, each of the 15 units alone, and eight contenders for the first and second place.
    assert len(asked) == 1 + len(HARM) + 2 * CONTENDERS
