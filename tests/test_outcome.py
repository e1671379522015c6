"""The three lines of the verdict: accuracy, speed, and what to do."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from support.reporting_samples import TIMINGS, complete, near, plan, timing, units

from sensitivity.records import (
    BenchResult,
    Estimate,
    Plan,
    RuntimeAccuracy,
    Target,
    TrueDrop,
    Verdict,
)
from sensitivity.reporting.advice import advice
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat
from sensitivity.reporting.outcome import evidence_of, verdict_of
from sensitivity.reporting.verdict import lines_of, words_of

METRIC = MetricFormat("top-1", 1.0)
UNITS = units(28)
MINUS = "\N{MINUS SIGN}"


def bench(
    ratio: float,
    same: tuple[str, ...] = (),
    judged: RuntimeAccuracy | None = None,
    name: str = "model.partial.onnx",
) -> BenchResult:
    """Timings with float at 4 ms and everything in INT8 at 2 ms. The plan's file, called `name`, is
    `ratio` times as fast as float."""
    files = [timing("model.float.onnx", 4.0, 1.0), timing("model.int8.onnx", 2.0, 2.0, "int8")]
    own = timing(name, 4 / ratio, ratio, "partial")
    if same:
        files = [
            replace(file, same=("partial",)) if file.variant in same else file for file in files
        ]
    else:
        files.append(own)
    return BenchResult(tuple(files), (), {}, {}, (), judged)


def planned(drop: Estimate, met: bool = True, **changes: object) -> Plan:
    made = plan(UNITS, met=met)
    return replace(made, metric=replace(made.metric, holdout_drop=drop), **changes)


def found(plan: Plan, timed: BenchResult | None = None) -> Verdict:
    advised = replace(plan, advice=advice(plan, timed.timings if timed else (), len(UNITS), METRIC))
    return verdict_of(advised, timed, METRIC)


LOWERED = "model.partial.onnxruntime.onnx"
GOOD, OPEN, BAD = (
    Estimate(0.002, low, high, 4000) for low, high in ((-0.003, 0.007), (-0.02, 0.024), (0.0, 0.0))
)
BAD = Estimate(0.03, 0.02, 0.04, 4000)


@pytest.mark.parametrize(
    ("drop", "ratio", "accuracy", "speed", "action", "tone"),
    [
        (GOOD, 1.8, "met", "faster", "use", "good"),
        (OPEN, 1.8, "not proven", "faster", "prove", "open"),
        (BAD, 1.8, "missed", "faster", "train", "bad"),
        (GOOD, 0.8, "met", "slower", "float", "open"),
        (GOOD, 1.01, "met", "no different", "float", "open"),
        (OPEN, 0.8, "not proven", "slower", "float", "open"),
        (BAD, 0.8, "missed", "slower", "float", "bad"),
        (GOOD, None, "met", "not measured", "bench", "open"),
        (OPEN, None, "not proven", "not measured", "bench", "open"),
    ],
)
def test_what_to_do_follows_from_accuracy_and_speed(
    drop: Estimate, ratio: float | None, accuracy: str, speed: str, action: str, tone: str
) -> None:
    got = found(planned(drop), bench(ratio, name=LOWERED) if ratio else None)
    assert (got.accuracy, got.speed, got.action, got.tone) == (accuracy, speed, action, tone)


@pytest.mark.parametrize(
    ("ratio", "accuracy", "action"),
    [(0.8, "met", "bench"), (0.8, "missed", "train"), (1.8, "met", "use")],
)
def test_a_runtime_that_computes_fp8_in_float_does_not_judge_its_speed(
    ratio: float, accuracy: str, action: str
) -> None:
    plan = planned(GOOD if accuracy == "met" else BAD)
    layer, *others = UNITS
    formats = {unit.name: "INT8" for unit in others} | {layer.name: "FP8 E4M3"}
    got = found(replace(plan, formats=formats), bench(ratio))
    assert (got.accuracy, got.action) == (accuracy, action)
    assert "ONNX Runtime computes FP8 in float" in got.speed_sentence
    assert "--for" not in got.speed_sentence + got.action_sentence
    if action == "bench":
        assert got.action_sentence == (
            "Its speed is not known: time model.partial.onnx on hardware with FP8."
        )


def test_a_met_target_is_never_green_where_float_is_the_answer() -> None:
    data = complete()
    assert data.plan
    slow = replace(data.plan, verdict=found(planned(GOOD), bench(0.8, name=LOWERED)))
    lines = words_of(replace(data, plan=slow)).lines
    assert [(line.status, line.tone) for line in lines] == [
        ("met", "open"),
        ("slower than float", "open"),
        ("stay with float", "open"),
    ]


def test_a_slow_file_that_was_not_written_for_its_runtime_is_no_answer_yet() -> None:
    got = found(planned(GOOD), bench(0.8))
    assert (got.speed, got.action, got.tone) == ("slower", "lower", "open")
    assert got.speed_sentence.endswith(
        "the speed of float, as far as is known: the file that was timed is not written for ONNX "
        "Runtime."
    )
    assert got.action_sentence == (
        "sensitivity export writes the file for ONNX Runtime, and sensitivity bench times it; "
        "until then stay with float."
    )
    assert [line.status for line in lines_of(got)] == [
        "met",
        "slower than float so far",
        "write the file for its runtime",
    ]


def test_a_slow_file_that_keeps_the_form_it_was_given_in_is_not_sent_to_be_written() -> None:
    got = found(planned(GOOD), replace(bench(0.8), keeps_form=True))
    assert (got.speed, got.action) == ("slower", "float")
    assert "as far as is known" not in got.speed_sentence


def test_a_target_that_no_set_reached_on_confirm_is_missed_whatever_holdout_says() -> None:
    got = found(planned(GOOD, met=False), bench(1.8))
    assert (got.accuracy, got.action, got.tone) == ("missed", "train", "bad")
    assert got.accuracy_sentence.startswith(
        "No set tried reached the target on confirm: the best one is 4.7 pt short"
    )
    assert "calibrate again" in got.action_sentence


def test_the_numbers_come_with_their_interval_their_samples_and_what_is_allowed() -> None:
    assert found(planned(GOOD)).accuracy_sentence == (
        f"The plan is 0.2 pt [{MINUS}0.3, 0.7] under float on 4,000 samples of holdout; a drop of "
        "1.0 pt is allowed."
    )


def test_a_plan_with_a_negative_drop_is_above_float() -> None:
    drop = Estimate(-0.002, -0.007, 0.003, 4000)
    assert found(planned(drop)).accuracy_sentence == (
        f"The plan is 0.2 pt [{MINUS}0.3, 0.7] above float on 4,000 samples of holdout; a drop of "
        "1.0 pt is allowed."
    )


def test_a_model_that_cannot_be_exported_is_timed_by_its_own_toolkit() -> None:
    got = verdict_of(planned(GOOD), None, METRIC, exportable=False)
    assert (got.action, got.action_sentence) == (
        "bench",
        "Its speed is not known, since no ONNX file of this model can be written: leave the same "
        "layers out in your toolkit's own export, and time that file.",
    )


def test_what_is_not_proven_says_how_many_samples_would_settle_it_and_the_risk() -> None:
    got = found(planned(Estimate(0.002, -0.02, 0.024, 400)), bench(1.8))
    # shortfall 0.008, spread 0.022 * 20 / 1.96 = 0.2245: one side at 80 % takes (1.683 * 0.2245 /
    # 0.008)^2 = 2,231, of which there are 400.
    assert "About 1,800 more samples would settle it" in got.accuracy_sentence
    # 80 % of a normal distribution is below 0.842 of its deviations: 0.002 + 0.842 * 0.0112.
    assert got.action_sentence == (
        "Use model.partial.onnx only if you can take the risk: the drop is at most 1.1 pt with a "
        "probability of 80%, and may be up to 2.4 pt (95 % interval). To be sure, judge it on "
        "about 1,800 more samples."
    )


def test_one_evaluation_proves_nothing_and_samples_are_asked_for() -> None:
    got = found(planned(Estimate(0.02, None, None, 1)), bench(1.8))
    assert got.accuracy_sentence.endswith("One evaluation gives no interval, so nothing is proven.")
    assert got.action_sentence == (
        "Before you rely on model.partial.onnx, evaluate it by sample, which gives an interval."
    )


def test_more_samples_than_anybody_has_are_no_advice() -> None:
    got = found(planned(Estimate(0.009, -0.003, 0.021, 400)), bench(1.8))
    # (1.683 * 0.1224 / 0.001)^2 = 42,000 would do, (1.683 * 0.1224 / 0.0005)^2 = 170,000 would not.
    assert "samples would settle it" in got.accuracy_sentence
    near = found(planned(Estimate(0.0095, -0.0025, 0.0215, 400)), bench(1.8))
    assert near.accuracy_sentence.endswith(
        "That is so close to the limit that no affordable number of samples would settle it."
    )
    assert near.action_sentence.endswith("and may be up to 2.1 pt (95 % interval).")


def test_holdout_and_the_corrected_drop_of_confirm_count_by_their_samples() -> None:
    made = planned(Estimate(0.004, -0.006, 0.014, 250))
    made = replace(
        made, metric=replace(made.metric, confirm_drop=Estimate(0.001, -0.005, 0.007, 750))
    )
    shown = evidence_of(made).shown
    assert (shown.value, shown.n) == (pytest.approx(0.00175), 1000)
    assert shown.high == pytest.approx(0.00175 + (0.0025**2 + 0.0045**2) ** 0.5)
    assert (
        "holdout and confirm (corrected for the luck of the choice)"
        in found(made).accuracy_sentence
    )
    one = replace(made, path=made.path[:1])
    assert "1,000 samples of holdout and confirm; a drop" in found(one).accuracy_sentence


def test_an_absolute_target_is_judged_by_the_level() -> None:
    made = planned(GOOD, target=Target(metric=0.48), floor=0.48)
    made = replace(made, metric=replace(made.metric, holdout=Estimate(0.508, 0.49, 0.526, 4000)))
    got = found(made)
    assert got.accuracy == "met"
    assert (
        "The plan's top-1 is 50.8 % [49.0, 52.6] on 4,000 samples of holdout; the target asks for "
        "48.0 %" in got.accuracy_sentence
    )
    assert found(replace(made, target=Target(metric=0.505), floor=0.505)).accuracy == "not proven"


def test_all_answers_right_do_not_miss_a_target_of_everything() -> None:
    made = planned(GOOD, target=Target(metric=1.0), floor=1.0)
    all_right = Estimate(1.0, 0.99, 1.0, 400)
    metric = replace(
        made.metric,
        float=all_right,
        confirm=all_right,
        confirm_drop=Estimate(0.002, -0.01, 0.014, 400),
        holdout=all_right,
        holdout_float=all_right,
        holdout_drop=Estimate(0.0, -0.001, 0.001, 400),
    )
    got = found(replace(made, metric=metric))
    assert got.accuracy == "not proven"
    assert "top-1 is 99.9 % [99.2, 100.0] on 800 samples" in got.accuracy_sentence


def test_one_evaluation_proves_nothing() -> None:
    got = found(planned(Estimate(0.0, None, None, 1)), bench(1.8))
    assert got.accuracy == "not proven"
    assert "One evaluation gives no interval" in got.accuracy_sentence


def test_a_plan_that_is_better_than_float_by_more_than_chance_raises_an_alarm() -> None:
    alarm = "above float by more than chance explains"
    assert alarm in found(planned(Estimate(-0.03, -0.04, -0.02, 4000))).accuracy_sentence
    assert alarm not in found(planned(Estimate(-0.011, -0.02, -0.002, 4000))).accuracy_sentence


def broken(level: float, differs: bool, cause: str = "") -> RuntimeAccuracy:
    drop = near(0.52 - level, 0.004, 4000)
    return RuntimeAccuracy(
        "onnxruntime", near(level, n=4000), near(0.51, n=4000), drop, differs, cause
    )


def test_a_file_that_breaks_its_promise_in_the_runtime_is_said_first_and_judged_by_it() -> None:
    made = planned(GOOD)
    made = replace(
        made, metric=replace(made.metric, confirm_drop=Estimate(0.0, -0.001, 0.001, 9000))
    )
    got = found(made, bench(1.8, judged=broken(0.2, True, "a bias does not fit int32 there")))
    assert (got.accuracy, got.action, got.tone) == ("missed", "repair", "bad")
    assert got.accuracy_sentence.startswith(
        "The file does not do in ONNX Runtime what the plan promised: top-1 is 20.0 % there, and "
        "51.0 % as simulated, on the same 4,000 samples of holdout: a bias does not fit int32 "
        "there."
    )
    assert (
        "32.0 pt [31.6, 32.4] under float on 4,000 samples of holdout in ONNX Runtime"
        in got.accuracy_sentence
    )


def test_a_file_that_keeps_its_promise_is_judged_by_what_was_measured_too() -> None:
    got = found(planned(OPEN), bench(1.8, judged=broken(0.518, False)))
    assert (got.accuracy, got.action) == ("met", "use")
    assert "of holdout in ONNX Runtime" in got.accuracy_sentence


def test_one_file_of_two_names_is_the_same_file() -> None:
    nothing_out = found(planned(GOOD, skip=()), bench(2.0, same=("int8",)))
    assert nothing_out.speed == "faster"
    assert (
        "Nothing is left out, so that is the speed of everything in INT8."
        in nothing_out.speed_sentence
    )
    assert nothing_out.action_sentence == "It is model.partial.onnx."
    everything_out = found(planned(GOOD), bench(1.0, same=("float",)))
    assert (everything_out.speed, everything_out.action) == ("same file", "float")


def test_a_plan_json_of_before_is_read_and_judged() -> None:
    old = msgspec.json.decode(msgspec.json.encode(planned(GOOD)))
    del old["verdict"]
    read = msgspec.convert(old, Plan)
    assert read.verdict is None
    data = ReportData("t", "top-1", 1.0, "disable", "c", plan=read, timings=TIMINGS)
    assert [line.title for line in words_of(data).lines] == ["Accuracy", "Speed", "What to do"]


def test_what_no_affordable_number_of_samples_settles_is_a_risk_to_weigh() -> None:
    got = found(planned(Estimate(0.0099, -0.01, 0.03, 400)), bench(1.8))
    assert (got.accuracy, got.action, got.tone) == ("not proven", "risk", "open")
    assert "no affordable number of samples would settle it" in got.accuracy_sentence
    assert "judge it on" not in got.action_sentence
    assert lines_of(got)[2].status == "weigh the risk"


def test_samples_that_would_speak_against_the_plan_are_not_sold_as_its_proof() -> None:
    got = found(planned(Estimate(0.013, -0.01, 0.036, 400)), bench(1.8))
    assert (
        "These samples speak against the plan: if the drop is what it seems, the target is missed, "
        "and about 16,000 more would show it." in got.accuracy_sentence
    )
    assert got.action == "risk"
    assert "judge it on" not in got.action_sentence


def test_how_few_layers_ran_in_int8_stands_beside_the_speed() -> None:
    timed = bench(1.8)
    got = found(planned(GOOD), replace(timed, in_int8=(1, 27)))
    assert got.speed_sentence.endswith(
        "Of 27 quantized layers with weights the runtime ran 1 in INT8 and the others in float: "
        "sensitivity lint model.partial.onnx --for onnxruntime says why."
    )
    assert "With everything in INT8 it is " in got.speed_sentence
    none = found(planned(GOOD), replace(timed, in_int8=(0, 3)))
    assert (
        "Of 3 quantized layers with weights the runtime ran all in float: " in none.speed_sentence
    )
    for known in (None, (27, 27), (111, 112)):
        silent = found(planned(GOOD), replace(timed, in_int8=known))
        assert "that the file quantizes" not in silent.speed_sentence


def test_a_drop_from_a_float_that_is_right_on_nothing_proves_nothing() -> None:
    nothing = Estimate(0.0, 0.0, 0.0, 4000)
    made = planned(nothing)
    metric = replace(
        made.metric, float=nothing, holdout_float=nothing, holdout=nothing, confirm=nothing
    )
    got = found(replace(made, metric=metric), bench(1.8))
    assert (got.accuracy, got.action) == ("not proven", "prove")
    assert "Float itself has 0.0 %, so a drop from it says nothing" in got.accuracy_sentence


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (("confirm",), "confirm,"),
        (("rank", "confirm"), "rank and confirm,"),
        (("rank", "confirm", "holdout"), "rank, confirm and holdout,"),
        ((), "the labelled data,"),
    ],
)
def test_the_parts_that_a_drop_by_floats_own_belief_is_of(
    parts: tuple[str, ...], words: str
) -> None:
    """By what the drop says, whatever its number of samples: a plan taken from the curve has as
    many as `rank` and `confirm` together."""
    plan = planned(GOOD)
    drop = TrueDrop(0.002, -0.003, 0.007, plan.metric.confirm.n + 10_000, parts)
    believed = replace(plan, metric=replace(plan.metric, true_drop=drop))
    sentence = found(believed).accuracy_sentence
    assert f"samples of {words} by their labels and float's probabilities" in sentence
    absolute = found(replace(believed, target=Target(metric=0.1))).accuracy_sentence
    assert f"{drop.n:,} samples of {words} by their labels and float's probabilities" in absolute


@pytest.mark.parametrize("target", [Target(drop=0.0), Target(drop=0.001), Target(relative=0.001)])
def test_a_plan_that_is_float_itself_meets_any_drop(target: Target) -> None:
    """Fifty samples without a change would prove next to nothing of any other plan."""
    plan = planned(Estimate(0.0, -0.05, 0.05, 50), target=target)
    level = replace(plan.metric.float, n=50)
    metric = replace(plan.metric, holdout=level, holdout_float=level, confirm_drop=None)
    plan = replace(plan, metric=metric)
    assert found(plan).accuracy == "not proven"
    itself = found(replace(plan, metric=replace(metric, is_float=True)))
    assert (itself.speed, itself.action) == ("same file", "float")
    assert itself.speed_sentence == (
        "The plan leaves everything out of INT8, so its file is float."
    )
    assert (itself.accuracy, itself.chance) == ("met", 1.0)
    assert itself.accuracy_sentence == (
        "Everything is left out, so the plan is float itself and loses nothing."
    )


def test_float_itself_may_miss_an_absolute_target() -> None:
    plan = planned(Estimate(0.0, -0.05, 0.05, 50), target=Target(metric=0.9))
    itself = found(replace(plan, metric=replace(plan.metric, is_float=True)))
    assert itself.accuracy == "missed"
    assert "the target asks for 90.0 %" in itself.accuracy_sentence
