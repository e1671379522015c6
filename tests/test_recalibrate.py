"""Other ranges before other precision: which are taken, on a model whose quantization errors are
known, and in a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.batches import batches
from support.commands import TASK, verb
from support.studies import study_of

from sensitivity import api
from sensitivity.config import PlanSettings
from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.scan import Scan
from sensitivity.measure.sharing import sharing_cost
from sensitivity.planners.base import Goal, Judged
from sensitivity.planners.greedy import GreedyPlanner
from sensitivity.planners.pinned import PinnedPlanner
from sensitivity.quantizers.alternatives import with_alternatives
from sensitivity.quantizers.base import layers
from sensitivity.records import CostModel, Estimate, Plan, Range, Recalibrated, Variant
from sensitivity.run_dir import RunDir
from sensitivity.search.choose import choose_plan
from sensitivity.search.frontier import correction
from sensitivity.search.ranges import (
    FIRST_SAMPLES,
    LOOKS,
    SIGNAL_SAMPLES,
    Place,
    closer_choices,
    is_above,
    is_nearer,
    places_by_unit,
    places_of,
    recalibrate,
    recalibrate_together,
    recalibrated_unit,
)
from sensitivity.search.repairs import repaired
from sensitivity.signals.base import Signal
from sensitivity.steps import plan as plan_step
from sensitivity.steps import recalibrate as recalibrate_step
from sensitivity.steps.plan import cheapest
from sensitivity.steps.plan_files import read_frontier
from sensitivity.steps.recalibrate import Recalibration
from sensitivity.tasks.base import Task
from sensitivity.testing.fakes import FakeModel, FakeSimulator

HARM = {"stem": 0.30, "body": 0.02, "head": 0.10}


class Adjustable(FakeModel):
    """A FakeModel in which the harm of a quantizer is multiplied by its amax, which is 1 before it
    is changed."""

    def __init__(self, harm: dict[str, float]) -> None:
        super().__init__(harm)
        self.amax = {quantizer.name: 1.0 for quantizer in self.quantizers}

    def range(self, name: str) -> Range:
        return Range(name, "own", (self.amax[name],))

    @contextmanager
    def with_ranges(self, ranges: Iterable[Range]) -> Iterator[None]:
        before = dict(self.amax)
        self.amax.update({one.quantizer: one.amax[0] for one in ranges})
        try:
            yield
        finally:
            self.amax = before

    def other_ranges(self, names: Iterable[str], forward: Callable[[], None]) -> tuple[Range, ...]:
        return ()

    def __call__(self, inputs: Any) -> Any:
        on = [quantizer for quantizer in self.quantizers if quantizer.name not in self.off]
        total = sum(self.harm[quantizer.layer] / 2 * self.amax[quantizer.name] for quantizer in on)
        return np.stack(
            [(inputs >= total - 1e-12).astype(float), np.full(len(inputs), total)], axis=1
        )


MOVED = Signal(
    "moved",
    lambda reference, outputs: outputs[0][:, 1] - reference[0][:, 1] + NOISE[: len(outputs[0])],
)
NOISE = np.random.default_rng(0).normal(0, 1e-3, 1000)
SHAKY = Signal(
    "shaky",
    lambda reference, outputs: (
        ((outputs[0][:, 1] - reference[0][:, 1]) / 0.15)
        ** (1 + 1.7 * (-1) ** np.arange(len(outputs[0])))
    ),
)
INPUTS = [f"{name}.input_quantizer" for name in HARM]


def tried(quantizer: str, **amax: float) -> Place:
    return Place(
        (Range(quantizer, "own", (1.0,)),),
        tuple((Range(quantizer, method, (value,)),) for method, value in amax.items()),
    )


@pytest.fixture
def measurer(tmp_path: Path) -> Iterator[Measurer]:
    model = Adjustable(HARM)
    data = {
        split: batches(200, 40, seed) for seed, split in enumerate(("rank", "confirm", "holdout"))
    }
    task = Task(model, data, lambda outputs, _: outputs[:, 0])
    with open_journal(tmp_path / "j", {"model": "fake"}, resume=False) as journal:
        yield Measurer(
            task, lambda candidates: FakeSimulator(with_alternatives(model, candidates)), journal
        )


def found(measurer: Measurer, places: list[Place], **options: Any) -> dict[str, tuple[str, float]]:
    taken = recalibrate(study_of(measurer), ["stem", "head", "body"], places, **options)
    return {one.unit: (one.method, round(one.gain.value, 3)) for one in taken}


@pytest.mark.parametrize("signal", [MOVED, None], ids=["by signal", "by metric alone"])
def test_the_range_that_helps_most_is_taken_and_one_that_harms_is_not(measurer, signal):
    places = [tried(INPUTS[0], mse=0.5, entropy=0.1, percentile=1.5), tried(INPUTS[2], mse=1.2)]
    assert found(measurer, places, signal=signal) == {"stem": ("entropy", 0.135)}
    assert measurer.task.model.amax == dict.fromkeys(measurer.task.model.amax, 1.0)


def test_where_all_ranges_at_once_help_no_unit_is_tried_alone(measurer):
    places = [tried(INPUTS[0], mse=0.5), tried(INPUTS[2], mse=0.5)]
    taken = recalibrate(study_of(measurer), ["stem", "head"], places, signal=MOVED)
    gains = [(one.unit, one.method, round(one.gain.value, 3), one.together) for one in taken]
    assert gains == [("stem", "mse", 0.1, True), ("head", "mse", 0.1, True)]
    rank = len(measurer.task.data["rank"]) * 40
    of_signal = 2 * 2 * SIGNAL_SAMPLES + SIGNAL_SAMPLES  # two ranges of two places, and float
    assert measurer.samples <= 2 * rank + of_signal + 2 * 40


def test_only_the_nearest_ranges_of_a_quantizer_are_compared_on_all_samples(measurer):
    better = tried(INPUTS[0], mse=0.5, entropy=0.1, percentile=0.2, other=0.9)
    worse = tried(INPUTS[2], mse=1.2, entropy=1.4)
    closer = closer_choices(study_of(measurer), [better, worse], MOVED)
    assert {place: choice[0].method for place, choice in closer.items()} == {better: "entropy"}
    every = (1 + 5 + 3) * FIRST_SAMPLES  # float, and each place with its own range and the others
    nearest = (1 + 3 + 3) * (min(LOOKS) - FIRST_SAMPLES)  # two choices of each
    assert measurer.samples == every + nearest


def test_a_range_that_is_not_clearly_better_at_the_first_look_is_compared_on_more(measurer):
    """The ratios are as often against it as for it, and larger for it: 2.4 standard errors on 16
    samples, 3.3 on 32."""
    place = tried(INPUTS[0], mse=0.9, entropy=0.95)
    closer = closer_choices(study_of(measurer), [place], SHAKY)
    assert {place: choice[0].method for place, choice in closer.items()} == {place: "mse"}
    assert measurer.samples == (1 + 3) * SIGNAL_SAMPLES, "each sample once"


def test_few_samples_tell_that_all_outputs_are_nearer_however_far_apart_they_are():
    before = np.logspace(-4, 0, 8)
    assert is_nearer(before, 0.7 * before, 0.01)
    assert not is_above(before, 0.7 * before, 0.01), "the differences are too uneven"


def test_outputs_are_not_nearer_if_a_few_of_them_are_much_farther():
    before = np.full(16, 0.1)
    after = np.where(np.arange(16) == 3, 2.0, 0.05)
    assert not is_nearer(before, after, 0.05)
    assert is_nearer(before, np.full(16, 0.05), 0.05)


def test_outputs_that_are_float_s_cannot_be_nearer():
    assert not is_nearer(np.zeros(8), np.zeros(8), 0.05)


def test_by_the_metric_alone_each_unit_is_tried_on_top_of_those_before_it(measurer):
    places = [tried(INPUTS[0], mse=0.5), tried(INPUTS[2], mse=0.1)]
    assert found(measurer, places) == {"stem": ("mse", 0.075), "head": ("mse", 0.045)}
    both = Variant("both", frozenset(), frozenset(place.choices[0][0] for place in places))
    (scores,) = measurer.scores([both], "rank", "test")
    assert scores.mean() == pytest.approx(1 - 0.42 + 0.12)


def test_many_improvements_that_do_not_show_alone_are_taken_together(measurer):
    """The metric falls by a step that only shows once all ranges are in. Each range alone does not
    lower it, so all are kept."""
    places = [tried(name, mse=0.97) for name in INPUTS]
    taken = found(measurer, places, signal=MOVED)
    assert set(taken) == {"stem", "head", "body"}


def test_changes_that_only_gain_together_have_the_gain_of_all(measurer, monkeypatch):
    """Each range alone lowers the metric, and both together raise it."""
    levels = {0: 0.5, 1: 0.4, 2: 0.6}

    def scores(variants: Iterable[Variant], split: str, what: str) -> list[np.ndarray]:
        return [
            (np.arange(200) < 200 * levels[len(variant.ranges)]).astype(float)
            for variant in variants
        ]

    monkeypatch.setattr(measurer, "scores", scores)
    places = [tried(name, mse=0.5) for name in INPUTS[:2]]
    taken = recalibrate(study_of(measurer), ["stem", "body"], places, signal=MOVED)
    assert [(one.unit, one.together) for one in taken] == [("stem", True), ("body", True)]
    assert [one.gain.value for one in taken] == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("has_soft", [True, False], ids=["soft drop", "labels alone"])
def test_where_float_can_say_what_is_lost_the_luck_of_labels_chooses_nothing(measurer, has_soft):
    """All labels contradict the outputs; the reported gain is that of the labels."""

    def lost(wanted: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        return outputs[:, 1] - wanted[:, 1]

    soft = lost if has_soft else None
    measurer.task = replace(measurer.task, score=lambda outputs, _: 1 - outputs[:, 0], soft=soft)
    place = tried(INPUTS[0], mse=0.5)
    assert found(measurer, [place], signal=MOVED) == ({"stem": ("mse", -0.075)} if has_soft else {})
    taken = repaired(study_of(measurer), (), [(place.own[0], place.choices[0][0])], signal=MOVED)
    assert [round(one.gain.value, 3) for one in taken] == ([-0.075] if has_soft else [])


def test_after_a_collapse_weights_and_activations_are_changed_all_at_once(measurer):
    """The method that is nearest to float's outputs is taken for each kind, and each unit has the
    gain of all."""
    source = measurer.task.model
    weights = [name.replace("input", "weight") for name in INPUTS]
    places = [tried(name, **{"per channel": 0.1}) for name in weights]
    places += [tried(name, mse=0.5, entropy=0.4, percentile=1.5) for name in INPUTS]
    taken = recalibrate_together(study_of(measurer), places, signal=MOVED)
    assert [(one.unit, one.method, one.together) for one in taken] == [
        (unit, "per channel, entropy", True) for unit in ("stem", "body", "head")
    ]
    assert {one.amax for unit in taken for one in unit.before} == {(1.0,)}
    # of a harm of 0.42, from 1 to (0.1 + 0.4) / 2
    assert {round(one.gain.value, 3) for one in taken} == {0.315}
    assert source.amax == dict.fromkeys(source.amax, 1.0)


def test_after_a_collapse_ranges_that_are_no_nearer_are_not_taken(measurer):
    places = [tried(name, mse=1.01) for name in INPUTS]
    assert recalibrate_together(study_of(measurer), places, signal=MOVED) == ()


def test_after_a_collapse_what_lowers_the_metric_is_not_kept(measurer, monkeypatch):
    weight = INPUTS[0].replace("input", "weight")
    places = [tried(weight, **{"per channel": 0.1}), tried(INPUTS[0], mse=0.5)]
    levels = {0: 0.5, 1: 0.6, 2: 0.4}

    def scores(variants: Iterable[Variant], split: str, what: str) -> list[np.ndarray]:
        return [
            (np.arange(200) < 200 * levels[len(variant.ranges)]).astype(float)
            for variant in variants
        ]

    monkeypatch.setattr(measurer, "scores", scores)
    (one,) = recalibrate_together(study_of(measurer), places, signal=MOVED)
    assert (one.unit, one.method) == ("stem", "per channel")
    assert one.gain.value == pytest.approx(0.1)


def test_after_a_collapse_ranges_under_which_the_metric_stays_at_nothing_are_not_taken(
    measurer, monkeypatch
):
    """Something else ruins such a model, and hides the effect of the ranges on the rest."""
    places = [tried(INPUTS[0], percentile=0.5)]
    nothing = np.zeros(200)
    monkeypatch.setattr(measurer, "scores", lambda variants, split, what: [nothing, nothing])
    taken = recalibrate_together(study_of(measurer), places, signal=MOVED)
    assert taken == ()


@pytest.mark.parametrize(("quantized", "helps"), [(0.2, True), (0.05, False)])
def test_a_repair_with_which_the_outputs_are_still_noise_is_not_taken(measurer, quantized, helps):
    """It brings them nearer to float's, but that says nothing of noise, which one batch shows."""

    def score(outputs: Any, _: Any) -> Any:
        return np.where(outputs[:, 1] < 0.01, 1.0, quantized)  # float gives 0

    measurer.task = replace(measurer.task, score=score)
    own, new = Range(INPUTS[0], "own", (1.0,)), Range(INPUTS[0], "mse", (0.5,))
    taken = repaired(study_of(measurer), (), [(own, new)], signal=MOVED)
    assert bool(taken) == helps
    after = Variant("repaired", frozenset(), frozenset([new]))
    assert len(measurer.known(after, "rank")) == (200 if helps else 40)


def test_a_unit_that_is_skipped_is_left_out_of_every_trial(measurer):
    places = [tried(INPUTS[2], mse=0.5)]
    taken = recalibrate(study_of(measurer), ["head"], places, skip=["stem"], signal=MOVED)
    assert [one.unit for one in taken] == ["head"]
    tried_variants = [
        variant for variant in measurer.journal.variants if variant.label == "recalibrated"
    ]
    assert tried_variants
    assert all("stem.input_quantizer" in variant.disabled for variant in tried_variants)


def test_a_group_of_asymmetric_ranges_takes_the_widest_on_both_sides():
    own = {name: Range(name, "own", (1.0,), low=-1.0) for name in INPUTS[:2]}
    other = [Range(INPUTS[0], "mse", (0.5,), low=-0.9), Range(INPUTS[1], "mse", (0.7,), low=-0.2)]
    (place,) = places_of(own, own, other, [INPUTS[:2]])
    assert place.choices == (tuple(Range(name, "mse", (0.7,), low=-0.9) for name in INPUTS[:2]),)


def test_quantizers_that_share_a_range_take_another_one_together():
    own = {name: Range(name, "own", (1.0,)) for name in INPUTS}
    other = [
        Range(INPUTS[0], "mse", (0.5,)),
        Range(INPUTS[1], "mse", (0.75,)),
        Range(INPUTS[2], "mse", (0.25,)),
    ]
    (shared, alone) = places_of(INPUTS, own, other, [INPUTS[:2]])
    assert shared.quantizers == frozenset(INPUTS[:2])
    assert shared.choices == ((Range(INPUTS[0], "mse", (0.75,)), Range(INPUTS[1], "mse", (0.75,))),)
    assert alone.choices == ((other[2],),)
    units = layers(FakeModel(HARM).quantizers)
    assert places_by_unit(["body", "stem", "head"], units, [shared, alone]) == {
        "body": [shared],
        "head": [alone],
    }


def test_ranges_of_now_apply_to_every_variant_but_for_what_is_disabled_or_has_others(measurer):
    one, other = Range(INPUTS[0], "mse", (0.5,)), Range(INPUTS[0], "entropy", (0.1,))
    plain = Variant("plain", frozenset())
    with measurer.with_ranges([one]):
        assert measurer.of(plain).ranges == {one}
        assert measurer.of(Variant("other", frozenset(), frozenset([other]))).ranges == {other}
        off = Variant("off", frozenset([INPUTS[0]]))
        assert measurer.of(off) == off
        assert measurer.scores([plain], "rank", "test")[0].mean() == pytest.approx(0.655)
    assert measurer.of(plain) == plain
    assert measurer.scores([plain], "rank", "test")[0].mean() == pytest.approx(0.58)


def test_outputs_are_given_with_ranges_that_the_present_simulator_does_not_offer(measurer):
    inputs, _ = next(iter(measurer.task.data["rank"]))
    own, other = (
        Variant("own", frozenset()),
        Variant("other", frozenset(), frozenset([Range(INPUTS[0], "mse", (0.5,))])),
    )
    assert [outputs[0, 1] for _, outputs in measurer.outputs([own], inputs)] == pytest.approx(
        [0.42]
    )
    assert [
        outputs[0, 1] for _, outputs in measurer.outputs([own, other], inputs)
    ] == pytest.approx([0.42, 0.345])


def test_a_unit_names_each_method_of_its_ranges_once():
    ranges = (Range("weight", "mse, fine-tuning", (1.0,)), Range("input", "fine-tuning", (1.0,)))
    unit = recalibrated_unit("unit", ranges, ranges, Estimate(0.1, 0.0, 0.2, 10))
    assert unit.method == "mse, fine-tuning"


def test_what_sharing_costs_is_paired_on_what_the_baseline_was_measured_on(measurer):
    list(
        zip(
            range(3),
            measurer.stream([Variant("quantized", frozenset())], "rank", "test"),
            strict=False,
        )
    )
    own = [Range(INPUTS[0], "own", (0.5,))]
    cost = sharing_cost(study_of(measurer), own)
    assert cost.n == 120
    assert cost.value == pytest.approx(0.075, abs=0.03)
    assert cost.low < cost.value < cost.high
    assert sharing_cost(study_of(measurer), []) is None


def test_pinned_units_are_in_every_set_tried_or_in_none():
    asked = []

    def judge(skip: tuple[str, ...]) -> Judged:
        asked.append(skip)
        met = {"b", "d"} <= set(skip)
        return Judged(float(len(skip)), met, 10)

    planner = PinnedPlanner(GreedyPlanner(), skip=["d"], keep=["a"])
    choice = planner.choose(["a", "b", "c", "d"], judge, Goal(0.5, 1.0))
    assert choice.skip == ("b", "d")
    assert choice.met
    assert all("d" in skip and "a" not in skip for skip in asked)
    assert [step.skip for step in choice.path] == asked
    everything = PinnedPlanner(GreedyPlanner(), skip=[], keep=["a", "b"])
    assert everything.choose(["a", "b"], judge, Goal(0.5, 1.0)).skip == ()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan and its plan, where the ranges of conv2 and conv5 are far too wide."""
    out = tmp_path_factory.mktemp("run") / "tiny"
    assert verb("scan", f"{TASK}:far_too_wide", "--out", out) == 0
    assert verb("plan", out, "--target", "0.8") == 0
    return out


def test_ranges_that_are_far_too_wide_are_mended_and_nothing_is_skipped(done: Path, capsys):
    plan = json.loads((done / "plan.json").read_text())
    assert plan["met"]
    assert plan["skip"] == []
    mended = {one["unit"]: one for one in plan["recalibrated"]}
    assert {"conv2", "conv5"} <= set(mended)
    assert mended["conv2"]["ranges"][0]["amax"][0] < mended["conv2"]["before"][0]["amax"][0] / 20
    assert plan["metric"]["quantized"]["value"] < 0.8 <= plan["metric"]["recalibrated"]["value"]
    assert verb("plan", done, "--target", "0.8", "--no-recalibrate") == 0
    without = json.loads((done / "plan.json").read_text())
    assert without["skip"]
    assert without["recalibrated"] == []
    assert without["metric"]["recalibrated"] is None


def test_the_export_has_the_new_scales_and_another_target_calibrates_nothing_again(
    done: Path, monkeypatch
):
    from sensitivity.onnx_graph import qdq
    from sensitivity.onnx_graph.load import load_model
    from sensitivity.quantizers.torch.modelopt import ModelOptModel

    assert verb("plan", done, "--target", "0.8") == 0
    monkeypatch.setattr(ModelOptModel, "other_ranges", None)
    assert verb("plan", done, "--target", "0.82") in (0, 2)
    plan = json.loads((done / "plan.json").read_text())
    assert verb("export", done) == 0
    (new,) = next(
        one["ranges"][0]["amax"] for one in plan["recalibrated"] if one["unit"] == "conv2"
    )
    for variant in ("int8", "partial"):
        pairs = {
            pair.name.partition("/")[0]: pair
            for pair in qdq.pairs(load_model(done / f"model.{variant}.onnx").graph)
        }
        assert float(pairs["conv2.input_quantizer"].scale) == np.float32(new) / np.float32(127)


def test_repairs_end_once_int8_clearly_meets_the_target_and_go_on_for_a_stricter_one(
    scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    def rounded(session, known, skip):
        fitted.append(len(known))
        return known

    monkeypatch.setattr(recalibrate_step, "_rounded", rounded)
    out = shutil.copytree(scanned, tmp_path / "run")
    loose = planned(out, target=0.5)
    assert loose.skip == ()
    assert loose.ranges
    assert RunDir(out).read("recalibration.json", Recalibration).early
    assert not fitted
    planned(out, target=0.4)
    assert not fitted, "the ranges of a stricter target serve a looser one"
    strict = planned(out, target=0.99)
    assert fitted
    assert not RunDir(out).read("recalibration.json", Recalibration).early
    alone = shutil.copytree(scanned, tmp_path / "alone")
    assert planned(alone, target=0.99).ranges == strict.ranges


def test_only_the_worst_units_are_tried_if_samples_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensitivity.session.EXACT_VALUES", 100 * 3 * 8 * 8)
    monkeypatch.setattr(recalibrate_step, "COSTLY_UNITS", 2)
    tried = []

    def recalibrated(study, order, places, **given):
        tried.append(order)
        return ()

    monkeypatch.setattr(recalibrate_step, "recalibrate", recalibrated)
    out = tmp_path / "run"
    assert verb("scan", f"{TASK}:far_too_wide", "--out", out) == 0
    planned(out)
    scanned = RunDir(out).read("scan.json", Scan)
    assert tried == [[effect.unit for effect in scanned.effects][:2]]


def test_pins_hold_in_the_plan_and_a_mistake_in_one_is_reported_before_the_work(done: Path, capsys):
    assert verb("plan", done, "--target", "0.8", "--skip", "conv3", "--keep", "conv[25]") == 0
    plan = json.loads((done / "plan.json").read_text())
    assert "conv3" in plan["skip"]
    assert not {"conv2", "conv5"} & set(plan["skip"])
    assert all("conv3" in step["skip"] for step in plan["path"])
    assert verb("plan", done, "--keep", "conf2") == 1
    assert (
        "Expected --keep to match at least one name, got 'conf2' (0 of 7). Close names: conv2"
        in capsys.readouterr().err
    )


def ranges_given(monkeypatch: pytest.MonkeyPatch, quantizer: str, times: float) -> list[str]:
    """Pretend that recalibration has found this one range. Gives the list to which each search for
    a plan adds its planner."""

    def recalibration(session, scanned, target, skip, fine_tune):
        own = session.source.range(quantizer)
        new = replace(own, amax=tuple(value * times for value in own.amax))
        unit = Recalibrated(
            quantizer.partition(".")[0], "mse", (own,), (new,), Estimate(0.0, None, None, 1)
        )
        return Recalibration("basis", (unit,), scanned)

    searches = []

    def searched(*arguments):
        searches.append(arguments[3].planner)
        return choose_plan(*arguments)

    monkeypatch.setattr(plan_step, "recalibration", recalibration)
    monkeypatch.setattr(plan_step, "choose_plan", searched)
    return searches


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan where the ranges of conv2 and conv5 are far too wide."""
    out = tmp_path_factory.mktemp("run") / "tiny"
    assert verb("scan", f"{TASK}:far_too_wide", "--out", out) == 0
    return out


def planned(out: Path, **choices: Any) -> Plan:
    settings = {"target": 0.8, "search": True, "fine_tune": "never", **choices}
    return api.plan(PlanSettings(directory=out, **settings))


def test_other_ranges_that_make_the_plan_dearer_are_left_behind(scanned: Path, monkeypatch) -> None:
    own = planned(scanned, planner="cost", cost="macs", no_recalibrate=True)
    searches = ranges_given(monkeypatch, "conv3.input_quantizer", 200)
    chosen_among = []

    def corrected(values, points, chosen, floor, cost, *, by_count):
        assert len(values) == 1 + len(points)
        chosen_among.append(len(points))
        return correction(values, points, chosen, floor, cost, by_count=by_count)

    monkeypatch.setattr(plan_step, "correction", corrected)
    plan = planned(scanned, planner="cost", cost="macs")
    assert searches == ["cost", "cost"]
    assert "conv3" not in plan.skip
    assert plan.skip == own.skip
    assert plan.recalibrated == ()
    assert plan.metric.recalibrated is None
    assert plan.metric.quantized == own.metric.quantized
    assert plan.path == own.path
    assert any("Other ranges of 1 units were tried as well" in note for note in plan.notes)
    frontier, _ = read_frontier(RunDir(scanned))
    assert {point.skip for point in frontier.points} <= {step.skip for step in own.path}
    assert chosen_among[-1] > len(frontier.points), "the drop is corrected for both searches"


def test_other_ranges_that_make_the_plan_cheaper_are_kept(scanned: Path, monkeypatch) -> None:
    own = planned(scanned, planner="cost", cost="macs", no_recalibrate=True)
    searches = ranges_given(monkeypatch, "conv2.input_quantizer", 1 / 60)
    plan = planned(scanned, planner="cost", cost="macs")
    assert searches == ["cost", "cost"]
    assert set(plan.skip) < set(own.skip)
    assert [one.unit for one in plan.recalibrated] == ["conv2"]
    assert plan.metric.recalibrated is not None


def test_ranges_with_which_everything_in_int8_loses_much_more_are_not_searched_under(
    scanned: Path, monkeypatch
) -> None:
    searches = ranges_given(monkeypatch, "conv2.input_quantizer", 1 / 60)
    monkeypatch.setattr(plan_step, "MUCH_MORE", 1.0)
    plan = planned(scanned, planner="cost", cost="macs")
    assert searches == ["cost"]
    assert [one.unit for one in plan.recalibrated] == ["conv2"]


def test_without_a_cost_there_is_one_search(scanned: Path, monkeypatch) -> None:
    searches = ranges_given(monkeypatch, "conv3.input_quantizer", 200)
    assert "conv3" in planned(scanned).skip
    assert searches == ["greedy"]


def test_the_cheapest_plan_meets_its_target_and_its_engine_is_measured() -> None:
    def plan(skip: str, metric: float, *, met: bool = True) -> Any:
        confirm = SimpleNamespace(value=metric)
        return SimpleNamespace(
            names=tuple(skip), format_ranges=(), met=met, metric=SimpleNamespace(confirm=confirm)
        )

    cost = CostModel("table", "ms", 1.0, {"a": 0.5, "b": 0.2, "c": 0.2})
    assert cheapest([plan("a", 0.9), plan("bc", 0.9)], cost, None) == 1
    assert cheapest([plan("a", 0.9), plan("bc", 0.9)], None, None) == 0
    assert cheapest([plan("a", 0.9), plan("bc", 0.9)], cost, lambda skips: [1.3, 1.4]) == 0
    assert cheapest([plan("a", 0.9), plan("b", 0.8, met=False)], cost, None) == 0
    assert cheapest([plan("a", 0.7, met=False), plan("b", 0.8, met=False)], cost, None) == 1
    assert (
        cheapest([plan("bc", 0.9), plan("cb", 0.9)], cost, lambda skips: pytest.fail("one engine"))
        == 0
    )
