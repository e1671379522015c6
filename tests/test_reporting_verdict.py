"""The verdict in words, and how numbers are written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.reporting_samples import complete, effects, near, scan_only, units

from sensitivity.records import (
    AccuracyStatus,
    Estimate,
    FrontierPoint,
    PlanStep,
    Quantizer,
    Range,
    Recalibrated,
    Target,
    TrueDrop,
    Tuning,
    Verdict,
)
from sensitivity.reporting.data import Choice, ReportData
from sensitivity.reporting.formats import MetricFormat
from sensitivity.reporting.page import level_table, render
from sensitivity.reporting.path import changes
from sensitivity.reporting.scan_sentences import scan_sentences
from sensitivity.reporting.verdict import words_of

MINUS = "\N{MINUS SIGN}"


def words(data: ReportData) -> str:
    found = words_of(data)
    return "\n".join((found.headline, *found.sentences))


def of_parts(drop: Estimate) -> TrueDrop:
    return TrueDrop(drop.value, drop.low, drop.high, drop.n, ("rank", "confirm"))


def with_metric(data: ReportData, **changes: Estimate) -> ReportData:
    assert data.plan
    return replace(data, plan=replace(data.plan, metric=replace(data.plan.metric, **changes)))


def test_a_met_target_is_said_with_before_after_and_held_out_evidence() -> None:
    found = words_of(complete())
    assert [line.title for line in found.lines] == ["Accuracy", "Speed", "What to do"]
    assert found.headline == (
        "Leaving 5 of 28 layers out of INT8 brings top-1 from 30.1 % to 51.4 % on confirm: the "
        "target of at most 1.0 pt under float is met there, but it is not proven that it holds "
        "elsewhere."
    )
    assert (
        "51.4 % [47.0, 55.8] on 500 samples; the target asks for 51.2 %, float has 52.2 %"
        in found.levels[0]
    )
    assert "On holdout, which no choice used: 50.8 % [44.6, 57.0] on 250 samples" in found.levels[1]
    assert f"the drop is 1.2 pt [{MINUS}0.4, 2.8] on 250 samples" in found.levels[1]
    assert "Left out: stage1.0, stage1.1, stage1.2, stage1.3, stage1.4." in found.sentences


@pytest.mark.parametrize(
    ("accuracy", "ending"),
    [
        ("met", "on confirm, which meets the target of at most 1.0 pt under float."),
        ("not proven", "is met there, but it is not proven that it holds elsewhere."),
        ("missed", "is met there, but not on all samples together."),
    ],
)
def test_the_headline_says_no_more_than_the_verdict(accuracy: AccuracyStatus, ending: str) -> None:
    data = complete()
    assert data.plan
    verdict = Verdict(accuracy, "", "faster", "", "use", "")
    found = words_of(replace(data, plan=replace(data.plan, verdict=verdict)))
    assert found.headline.endswith(ending)


@pytest.mark.parametrize(
    ("accuracy", "ending"),
    [
        ("met", "; its true drop, about 0.4 pt, meets the target of at most 1.0 pt under float."),
        (
            "not proven",
            "; that its true drop, about 0.4 pt, meets the target of at most 1.0 pt under float is "
            "not proven.",
        ),
        (
            "missed",
            "; its true drop, about 0.4 pt, misses the target of at most 1.0 pt under float.",
        ),
    ],
)
def test_a_target_that_the_true_drop_decides_is_not_compared_with_what_was_counted(
    accuracy: AccuracyStatus, ending: str
) -> None:
    """50.2 % were counted on confirm, where float has 52.2 %: that is no drop of 1.0 points."""
    drop = TrueDrop(0.004, 0.001, 0.007, 1000, ("rank", "confirm", "holdout"))
    data = with_metric(complete(), true_drop=drop, confirm=near(0.502, n=500))
    assert data.plan
    verdict = Verdict(accuracy, "", "faster", "", "use", "")
    found = words_of(replace(data, plan=replace(data.plan, verdict=verdict)))
    assert found.headline.endswith(f"from 30.1 % to 50.2 % on confirm as counted{ending}")
    assert found.levels[0].startswith("On confirm, as counted: 50.2 %")
    assert "the target asks" not in found.levels[0]


def test_why_anything_is_left_out_is_said_with_what_nothing_left_out_was_worth() -> None:
    data = complete()
    assert data.plan
    level = near(0.505, n=500)
    whole = FrontierPoint((), level, near(0.02, 0.01, n=500))
    (told,) = [one for one in words_of(with_choices(data, whole)).sentences if "Why any" in one]
    assert told == (
        "Why anything is left out: with everything in INT8 the drop was 2.0 pt [1.0, 3.0] on 500 "
        "samples of confirm, above the 1.0 pt allowed."
    )
    close = replace(whole, drop=near(0.0104, 0.01, n=500))
    (told,) = [one for one in words_of(with_choices(data, close)).sentences if "Why any" in one]
    assert told.endswith(", 1.04 pt to be exact, which is above what is allowed.")
    believed = replace(whole, true_drop=of_parts(near(0.0075, 0.0098, n=800)))
    (told,) = [one for one in words_of(with_choices(data, believed)).sentences if "Why any" in one]
    assert told.endswith(
        "on 800 samples of rank and confirm; the target was 69% likely to hold, and 80% is asked "
        "for."
    )


def test_everything_in_int8_is_called_repaired_though_the_repaired_layers_are_left_out() -> None:
    data = with_metric(complete(), recalibrated=near(0.505, n=500))
    assert data.plan
    assert not data.plan.recalibrated
    whole = FrontierPoint((), near(0.505, n=500), near(0.02, 0.01, n=500))
    (told,) = [one for one in words_of(with_choices(data, whole)).sentences if "Why any" in one]
    assert told.startswith(
        "Why anything is left out: with everything in INT8, repaired, the drop was 2.0 pt"
    )


def test_where_no_set_without_a_skip_was_kept_the_search_says_why_anything_is_left_out() -> None:
    data = complete()
    assert data.plan
    path = (PlanStep((), 0.414, False, 250), *data.plan.path)
    data = replace(data, choices=(), plan=replace(data.plan, path=path))
    assert (
        "Why anything is left out: with everything in INT8 top-1 on confirm was 41.4 %, 10.8 pt "
        "under float." in words_of(data).sentences
    )


def test_layers_that_could_not_go_back_are_named_as_why_these() -> None:
    data = complete()
    assert data.plan
    skip = ("a", "b", "c")
    path = (
        PlanStep(("a", "b", "c", "d"), 0.53, True, 250),
        PlanStep(("a", "b", "c"), 0.53, True, 250),
        PlanStep(("b", "c"), 0.50, False, 250),
        PlanStep(("a", "b"), 0.50, False, 250),
    )
    plan = replace(data.plan, skip=skip, path=path)
    found = words_of(replace(data, plan=plan))
    (told,) = [one for one in found.sentences if one.startswith("Why these")]
    assert "With a or c in INT8, it was no longer met. This was not tried with b. The" in told
    enabled = replace(data, mode="enable", plan=plan)
    (told,) = [one for one in words_of(enabled).sentences if one.startswith("Why these")]
    assert told.endswith("This was not tried with b.")
    assert changes(plan) == ("out: a, b, c and 1 more", "back: d", "back: a", "out: a; back: c")
    assert "out: a; back: c" in render(replace(data, plan=plan)).replace("<wbr>", "")


def test_a_layer_whose_effect_may_be_chance_is_not_said_to_be_the_one() -> None:
    data = complete()
    assert data.plan
    silent = data.effects[-1]
    plan = replace(data.plan, skip=(silent.unit,), path=())
    (told,) = [one for one in words_of(replace(data, plan=plan)).sentences if "Why these" in one]
    assert told.startswith("Why these: of the sets tried, this is the cheapest that met the target")
    assert told.endswith("the samples do not show whether others would do as well.")
    clear = replace(data.plan, skip=(data.effects[0].unit,), path=())
    assert not any("Why these" in one for one in words_of(replace(data, plan=clear)).sentences)


def test_a_plan_no_better_than_nothing_left_out_but_by_chance_says_so() -> None:
    data = complete()
    assert data.plan
    verdict = Verdict("not proven", "", "faster", "", "risk", "Weigh it.")
    data = replace(data, plan=replace(data.plan, verdict=verdict))
    whole = FrontierPoint((), near(0.505, n=500), near(0.02, 0.03, n=500))
    own = FrontierPoint(data.plan.skip, near(0.514, n=500), near(0.008, 0.02, n=500))
    command = "sensitivity plan run --max-drop 2.1pt"
    data = replace(data, choices=(Choice(whole, command=command), Choice(own)))
    *_, act = words_of(data).lines
    assert act.sentence.endswith(
        f" Everything in INT8 is as good, as far as these samples show: {command} chooses that."
    )
    worse = replace(whole, drop=near(0.04, 0.03, n=500))
    data = replace(data, choices=(Choice(worse, command=command), Choice(own)))
    assert command not in words_of(data).lines[-1].sentence


def test_layers_that_quantize_weights_alone_are_named_as_float() -> None:
    data = complete()
    assert data.plan
    quantizers = tuple(
        Quantizer(name, unit.name, "weight" if "weight" in name else "input", 8, None)
        for unit in data.units
        for name in unit.quantizers
    )
    last = replace(data.units[-1], quantizers=data.units[-1].quantizers[1:])
    data = replace(data, units=(*data.units[:-1], last), quantizers=quantizers)
    assert (
        "Engines run 1 layer in float with any plan, since the model came with quantized weights "
        f"and no quantized inputs there: {last.name}." in words_of(data).sentences
    )
    plan = replace(data.plan, skip=())
    assert f"<code>{last.name}</code>" in render(replace(data, plan=plan)).replace("<wbr>", "")


def with_choices(data: ReportData, point: FrontierPoint) -> ReportData:
    return replace(data, choices=(Choice(point),))


def test_holdout_tells_int8_as_it_was_calibrated_too_and_the_table_has_both_parts() -> None:
    data = complete()
    assert data.plan
    data = replace(
        data,
        plan=replace(
            data.plan, metric=replace(data.plan.metric, holdout_quantized=near(0.29, 0.06, n=250))
        ),
    )
    found = words_of(data)
    assert (
        "float has 52.0 % there, INT8 as it was calibrated 29.0 % [23.0, 35.0] on 250 samples, so "
        "the drop is" in found.levels[1]
    )
    table = level_table(data)
    assert table.heads[:2] == ("confirm, 500 samples", "holdout, 250 samples")
    assert dict(table.rows)["Drop of the plan"][0] == ("0.8 pt", "(no interval)")
    assert "The verdict combines both parts" in table.caption
    assert dict(table.rows)["INT8 as calibrated"][1] == ("29.0 %", "[23.0, 35.0]")
    assert dict(table.rows)["Drop of the plan"][1] == ("1.2 pt", f"[{MINUS}0.4, 2.8]")


def test_a_plan_that_does_worse_than_int8_on_holdout_says_so() -> None:
    behind = with_metric(complete(), holdout_quantized=near(0.53, 0.06, n=250))
    told = (
        f"Compared with everything in INT8, the plan changes top-1 by {MINUS}2.2 pt on holdout, "
        "after +21.3 pt on confirm: judge both on more samples before you leave layers out."
    )
    assert told in words_of(behind).sentences
    ahead = with_metric(complete(), holdout_quantized=near(0.508, 0.06, n=250))
    assert "Compared with everything in INT8" not in words(ahead)


@pytest.mark.parametrize(
    ("kept", "ending"),
    [
        (True, "the plan uses it."),
        (False, "that is no credible gain, so the plan does not use it."),
    ],
)
def test_what_fine_tuning_gave_is_said_whatever_the_verdict(kept: bool, ending: str) -> None:
    data = complete(12)
    tuned = replace(data.plan, tuning=Tuning(near(0.3, 0.05), near(0.35, 0.05), kept))
    for plan in (tuned, replace(tuned, met=False), replace(tuned, skip=())):
        text = words(replace(data, plan=plan))
        assert f"took everything in INT8 from 30.0 % to 35.0 % on rank; {ending}" in text
    if kept:
        itself = replace(tuned, metric=replace(tuned.metric, is_float=True))
        assert "the plan leaves everything out all the same." in words(replace(data, plan=itself))


def test_a_plan_that_is_float_itself_is_not_said_to_be_likely_to_hold_its_target() -> None:
    data = complete(12)
    verdict = Verdict("met", "It loses nothing.", "not measured", "", "float", "", chance=1.0)
    plan = replace(data.plan, verdict=verdict)
    itself = replace(plan, metric=replace(plan.metric, is_float=True))
    said = [words_of(replace(data, plan=each)).lines[0].sentence for each in (plan, itself)]
    assert said[0] == "It loses nothing. It is 99% likely that the target holds."
    assert said[1] == "It loses nothing."


def test_a_missed_target_says_by_how_much_why_and_what_else_to_try() -> None:
    found = words_of(complete(met=False))
    assert found.state == "bad"
    assert found.headline.startswith(
        "The target of at most 1.0 pt under float is missed on confirm by 4.7 pt: the best plan "
        "found"
    )
    assert any(sentence.startswith("Why: leaving out all") for sentence in found.sentences)
    assert any(
        sentence.startswith("What else to try: calibrate again") for sentence in found.sentences
    )


def test_a_model_that_needs_no_plan_is_refused() -> None:
    data = complete()
    assert data.plan
    data = replace(data, plan=replace(data.plan, skip=()))
    assert words_of(data).headline.startswith(
        "With nothing left out, top-1 is 51.4 % on confirm: the target of at most 1.0 pt"
    )


def recalibrated(data: ReportData, skip: tuple[str, ...]) -> ReportData:
    assert data.plan
    one = Recalibrated(
        "stage2.0", "mse", (Range("q", "own", (2.0,)),), (Range("q", "mse", (1.0,)),), near(0.02)
    )
    metric = replace(data.plan.metric, recalibrated=near(0.45, n=500))
    return replace(data, plan=replace(data.plan, skip=skip, recalibrated=(one,), metric=metric))


def test_units_that_took_other_ranges_are_named_with_what_they_bring() -> None:
    found = words_of(recalibrated(complete(), ("stage1.0",)))
    assert found.headline == (
        "Leaving 1 of 28 layers out of INT8 and giving 1 other new ranges brings top-1 from 30.1 % "
        "to 51.4 % on confirm: the target of at most 1.0 pt under float is met there, but it is "
        "not proven that it holds elsewhere."
    )
    assert any(
        sentence == "In INT8 with new ranges: stage2.0 (mse)." for sentence in found.sentences
    )
    assert words_of(recalibrated(complete(), ())).headline.startswith(
        "Giving 1 layer new ranges, with nothing left out, brings top-1 from 30.1 % to 51.4 % on "
        "confirm: the target"
    )


def test_units_with_the_same_repairs_are_named_together() -> None:
    data = recalibrated(complete(), ())
    assert data.plan
    (one,) = data.plan.recalibrated
    methods = ("mse", "per channel", "mse", "entropy", "percentile", "max", "mse")
    units = tuple(replace(one, unit=f"c{n}", method=name) for n, name in enumerate(methods))
    found = words_of(replace(data, plan=replace(data.plan, recalibrated=units)))
    assert (
        "In INT8 with new ranges: c0, c2, c6 (mse); c1 (per channel); c3 (entropy); "
        "c4 (percentile); 1 more."
    ) in found.sentences


def test_a_corrected_bias_is_reported_with_new_ranges_and_without() -> None:
    own, new = Range("w", "own", (2.0,)), Range("w", "bias correction", (2.0,), bias=(0.5,))
    data = recalibrated(complete(), ())
    assert data.plan
    (one,) = data.plan.recalibrated
    for before, ranges, said in (
        ((own,), (new,), "corrected biases"),
        ((own, *one.before), (new, *one.ranges), "new ranges and corrected biases"),
        ((own,), (replace(new, method="fine-tuning"),), "fine-tuned biases"),
    ):
        changed = replace(one, before=before, ranges=ranges)
        plan = replace(data.plan, recalibrated=(changed,))
        assert (
            f"Giving 1 layer {said}, with nothing left out, brings"
            in words_of(replace(data, plan=plan)).headline
        )


def test_what_shared_ranges_cost_is_said() -> None:
    data = replace(scan_only(), scales=(("a", "b"), ("c", "d", "e")), sharing=near(0.012, 0.02))
    assert scan_sentences(data)[-1] == (
        "5 quantizers in 2 groups share one range each, as engines require where tensors meet; "
        f"with everything in INT8 that costs 1.2 pt [{MINUS}0.8, 3.2] on 300 samples of rank."
    )


def test_a_plan_that_leaves_nothing_out_and_misses_does_not_claim_a_gain() -> None:
    data = complete(met=False)
    assert data.plan
    found = words_of(replace(data, plan=replace(data.plan, skip=())))
    assert found.headline.endswith("top-1 is 30.1 % in INT8, and no skip-set tried was better.")


def test_a_scan_alone_says_which_layer_hurts_most_and_what_cannot_be_told_apart() -> None:
    found = words_of(scan_only())
    assert found.state == "scan"
    assert found.headline == (
        "Leaving only stage1.0 out of INT8 gains 17.0 pt [13.6, 20.4] on 300 samples, "
        "the largest effect of 28 layers measured."
    )
    assert "For 20 of 28 layers the interval includes 0: no effect is shown." in found.sentences
    assert (
        "INT8 as calibrated costs 22.0 pt of top-1 (3.2 pt with only weights, 18.8 pt with only "
        "activations)" in (found.sentences[-1])
    )


def test_a_collapse_hides_what_single_layers_do_and_that_is_said() -> None:
    data = scan_only()
    collapsed = replace(data, baselines={**data.baselines, "quantized": near(0.1)})
    assert "leaving out one layer shows little" in scan_sentences(collapsed)[-1]
    assert "leaving out one layer shows little" not in scan_sentences(data)[-1]


def test_a_scan_in_mode_enable_speaks_of_cost() -> None:
    assert scan_sentences(replace(scan_only(), mode="enable"))[0].startswith(
        "Quantizing only stage1.0 costs 17.0 pt"
    )


def test_ties_for_the_first_rank_are_said() -> None:
    data = scan_only(4)
    tied = tuple(replace(effect, tie=1) if effect.rank < 4 else effect for effect in data.effects)
    assert (
        "3 layers are tied for rank 1: the data cannot distinguish them from the first."
        in words(replace(data, effects=tied))
    )
    no_interval = tuple(replace(one, effect=Estimate(0.1, None, None, 8)) for one in tied)
    signal_only = replace(tied[2], effect=Estimate(0.0, None, None, 0))
    told = words(replace(data, effects=(*no_interval[:2], signal_only, no_interval[3])))
    assert "8 samples for each layer give no interval: take the order of the 2 measured" in told


def test_a_scan_where_nothing_stands_out_does_not_name_a_culprit() -> None:
    data = scan_only(3)
    first = replace(data.effects[0], effect=near(0.01, 0.02))
    found = words_of(replace(data, effects=(first, *data.effects[1:])))
    assert found.headline.startswith(
        "No layer stands out: leaving only stage1.0 out of INT8 gains 1.0 pt"
    )


def test_layers_that_a_race_ranked_by_signal_alone_are_counted_and_given_no_effect() -> None:
    data = scan_only()
    unmeasured = [
        replace(one, effect=Estimate(0.0, None, None, 0), tie=1) for one in data.effects[8:]
    ]
    found = "\n".join(scan_sentences(replace(data, effects=(*data.effects[:8], *unmeasured))))
    assert "the largest effect of 8 layers measured" in found
    assert "The metric was not measured for 20 layers: they are ranked by a signal alone." in found
    assert MetricFormat("top-1", 1.0).effect(unmeasured[0]) == "by signal only"


def test_a_metric_without_intervals_is_not_given_any() -> None:
    text = words(replace(scan_only(4), effects=effects(units(4), interval=False)))
    assert "gains 17.0 pt (no interval) in one evaluation" in text
    assert "includes 0" not in text


def test_nothing_measured_is_said_plainly() -> None:
    assert (
        words_of(ReportData("t", "top-1", 1.0, "disable", "c")).headline
        == "Nothing has been measured yet."
    )


@pytest.mark.parametrize(
    ("metric", "level", "change"),
    [
        (MetricFormat("top-1", 1.0), "29.9 %", "+29.9 pt"),
        (MetricFormat("accuracy", 100.0), "0.3 %", "+0.3 pt"),
        (MetricFormat("mAP50-95", 1.0), "29.9 %", "+29.9 pt"),
        (MetricFormat("accuracy of 10", 10.0), "0.299", "+0.299"),
        (MetricFormat("psnr", 60.0), "0.299", "+0.299"),
        (MetricFormat("minus loss", 1.0), "0.299", "+0.299"),
    ],
    ids=lambda value: value.name if isinstance(value, MetricFormat) else None,
)
def test_shares_are_written_in_percent_and_points_and_all_else_in_its_own_unit(
    metric: MetricFormat, level: str, change: str
) -> None:
    assert (metric.level(0.299), metric.change(0.299)) == (level, change)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Target(metric=0.51), "at least 51.0 %"),
        (Target(drop=0.01), "at most 1.0 pt under float"),
        (Target(relative=0.01), "at most 1 % of float's own value under float"),
    ],
    ids=["absolute", "points", "relative"],
)
def test_each_kind_of_target_is_said_in_its_own_words(target: Target, said: str) -> None:
    assert MetricFormat("top-1", 1.0).target(target) == said


def test_layers_that_the_metric_does_not_see_are_counted_apart_and_not_called_without_effect() -> (
    None
):
    data = scan_only()
    nothing = Estimate(0.0, None, None, 0)
    unseen = [replace(one, effect=nothing, tie=one.rank, judged=False) for one in data.effects[-3:]]
    found = "\n".join(scan_sentences(replace(data, effects=(*data.effects[:-3], *unseen))))
    assert "3 layers reach no output that the metric reads: they are not judged." in found
    assert "For 17 of 25 layers the interval includes 0" in found
    assert "signal" not in found
    assert MetricFormat("top-1", 1.0).effect(unseen[0]) == "not judged"
