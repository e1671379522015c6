"""The picture of the sets to choose from, the effect of each, and the command to continue with."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from support.reporting_samples import TIMINGS, complete, near, scan_only, with_choices

from sensitivity.records import Action, Target, TrueDrop, Verdict
from sensitivity.reporting.choices import choice_chart
from sensitivity.reporting.next_step import next_step
from sensitivity.reporting.page import render

EVIL = "</section><script>alert(1)</script>\"'&"


def test_accuracy_is_that_of_float_less_the_drop_with_the_interval_of_the_drop() -> None:
    chart = choice_chart(with_choices(complete()))
    assert chart
    plan = chart.options[1]
    assert (plan.accuracy, plan.drop) == ("51.2 % [49.2, 53.2]", "1.0 pt [\N{MINUS SIGN}1.0, 3.0]")
    mark = next(mark for mark in chart.marks if mark.option == 1)
    assert (mark.low, mark.y, mark.high) == pytest.approx((49.2, 51.2, 53.2))


def test_sets_that_a_target_chooses_are_options_and_the_others_are_beaten() -> None:
    chart = choice_chart(with_choices(complete()))
    assert chart
    assert [one.layers for one in chart.options] == ["0 of 28 layers", "5 of 28 layers"]
    assert [one.is_plan for one in chart.options] == [False, True]
    assert [one.state for one in chart.options] == [
        "missed on confirm",
        "met on confirm; not proven on all samples",
    ]
    assert chart.plan == 1
    assert sorted(mark.kind for mark in chart.marks) == ["beaten", "option", "option"]


def test_sets_are_drawn_along_their_latency_where_all_have_one() -> None:
    timed = choice_chart(with_choices(complete(), predicted_ms=2.5))
    assert timed
    assert timed.across_unit.startswith("latency, ms")
    assert "float" in [mark.kind for mark in timed.marks]
    costs = [one.cost for one in timed.options]
    assert costs == ["4.47 ms, measured", "4.31 ms, measured"], ()
    counted = choice_chart(with_choices(complete()))
    assert counted
    assert counted.across_unit.startswith("layers left out")
    assert [text for _, text in counted.ticks] == ["0", "3", "5"]


def test_the_words_of_lines_stand_where_no_set_does() -> None:
    slow = choice_chart(with_choices(complete(), predicted_ms=3.9))
    fast = choice_chart(with_choices(complete(), predicted_ms=0.1))
    assert slow
    assert fast
    assert slow.is_left_free
    assert not fast.is_left_free
    assert '<text class="target halo-text" x="0"' in render(
        with_choices(complete(), predicted_ms=3.9)
    )
    assert 'halo-text" x="0"' not in render(with_choices(complete(), predicted_ms=0.1))


def test_work_is_what_sets_are_drawn_along_where_nothing_was_timed() -> None:
    data = with_choices(replace(complete(), timings=()))
    work = tuple(
        replace(choice, work=float(number)) for number, choice in enumerate(data.choices, 1)
    )
    chart = choice_chart(replace(data, choices=work))
    assert chart
    assert chart.across_unit.startswith("estimated work")
    assert chart.options[0].cost == "1 of estimated work"


def test_int8_as_calibrated_is_drawn_where_ranges_were_repaired() -> None:
    data = with_choices(complete())
    assert data.plan
    metric = replace(data.plan.metric, recalibrated=near(0.48))
    repaired = replace(data, plan=replace(data.plan, metric=metric))
    kinds = [mark.kind for mark in choice_chart(repaired).marks]  # type: ignore[union-attr]
    assert kinds.count("int8") == 1
    zoomed = choice_chart(repaired, whole=False)
    assert zoomed
    assert "int8" not in [mark.kind for mark in zoomed.marks]


def test_a_plan_without_measured_sets_is_the_only_option() -> None:
    chart = choice_chart(complete())
    assert chart
    assert [one.is_plan for one in chart.options] == [True]
    assert choice_chart(scan_only()) is None


def test_every_mark_is_inside_the_picture() -> None:
    for data in (with_choices(complete()), with_choices(complete(), predicted_ms=9.0), complete()):
        chart = choice_chart(data)
        assert chart
        for mark in chart.marks:
            assert 0 <= mark.x <= 1
            assert all(
                0 <= chart.up.at(value) <= 1
                for value in (mark.low, mark.y, mark.high)
                if value is not None
            )


class Attributes(HTMLParser):
    """Every attribute of a page by name, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, str | None] = {}
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found |= dict(attrs)


def test_options_reach_the_script_as_they_are_whatever_a_layer_is_called() -> None:
    data = with_choices(complete())
    assert data.plan
    skip = (EVIL, *data.plan.skip)
    plan = replace(data.plan, skip=skip)
    first = replace(data.choices[0], command=EVIL)
    last = replace(data.choices[-1], point=replace(data.choices[-1].point, skip=skip))
    page = Attributes(render(replace(data, plan=plan, choices=(first, last))))
    options = json.loads(page.found["data-options"] or "")
    assert options[1]["names"] == list(skip)
    assert options[0]["command"] == EVIL
    assert page.tags.count("script") == 1


def after(action: Action, **changes: object) -> str:
    data = replace(complete(), directory="runs/a b", **changes)  # type: ignore[arg-type]
    assert data.plan
    verdict = Verdict("met", "", "faster", "", action, "")
    step = next_step(replace(data, plan=replace(data.plan, verdict=verdict)))
    assert step.sentence.endswith(":")
    return "\n".join(step.commands)


LOWERED = tuple(
    replace(one, file=one.file.replace(".onnx", ".onnxruntime.onnx")) for one in TIMINGS
)


def test_each_verdict_has_a_command_to_go_on_with() -> None:
    bench = "sensitivity bench 'runs/a b'"
    assert after("bench") == bench
    assert after("bench", verification=None) == f"sensitivity export 'runs/a b'\n{bench}"
    not_exported = ("The model cannot be exported: its graph could not be traced.",)
    assert after("bench", warnings=not_exported) == (
        "sensitivity report 'runs/a b' --format markdown"
    )
    assert after("use") == f"{bench} --runtime openvino"
    assert after("float", timings=LOWERED) == (
        f"sensitivity export 'runs/a b' --for openvino\n{bench} --runtime openvino"
    )
    assert after("repair") == "sensitivity lint model.partial.onnx --for onnxruntime"
    assert after("prove") == (
        f"sensitivity plan 'runs/a b' --max-drop 0.5pt\nsensitivity export 'runs/a b'\n{bench}"
    )
    step = next_step(replace(scan_only(), directory="runs/a"))
    assert step.commands == ("sensitivity plan runs/a --max-drop 1pt",)


@pytest.mark.parametrize(
    ("name", "lowers", "commands"),
    [
        ("FP8 E4M3", True, ["export runs/a --for tensorrt", "bench runs/a --runtime tensorrt"]),
        ("FP8 E4M3", False, ["bench runs/a --runtime tensorrt"]),
        ("INT8 with INT16 activations", True, []),
    ],
    ids=["fp8-torch", "fp8-onnx", "int16"],
)
@pytest.mark.parametrize("action", ["bench", "use", "float"])
def test_a_plan_is_timed_next_where_its_formats_are_computed(
    name: str, lowers: bool, commands: list[str], action: Action
) -> None:
    data = replace(complete(), directory="runs/a", lowers=lowers)
    assert data.plan
    verdict = Verdict("met", "", "slower", "", action, "")
    plan = replace(data.plan, verdict=verdict, formats={"conv1": name})
    step = next_step(replace(data, plan=plan))
    assert list(step.commands) == [f"sensitivity {command}" for command in commands]
    assert step.sentence.endswith(":" if commands else ".")
    assert step.sentence in render(replace(data, plan=plan))


def test_more_certainty_is_asked_for_where_the_target_is_a_metric() -> None:
    plan = complete().plan
    assert plan
    command = after("prove", plan=replace(plan, target=Target(metric=0.5)))
    assert command.splitlines()[0].endswith("--target 0.5 --confidence 0.9")


def test_a_smaller_drop_than_the_plan_itself_answers_for_is_asked_for() -> None:
    data = with_choices(complete())
    own = replace(data.choices[-1], allowed=0.004)
    assert after("prove", choices=(own,)).splitlines()[0].endswith("--max-drop 0.2pt")
    better_than_float = replace(own, allowed=-0.002)
    command = "sensitivity run my_task.py:task --max-drop 1pt"
    again = after("prove", choices=(better_than_float,), command=f"{command} --out 'runs/a b'")
    assert again == f"{command} --out 'runs/a b_more'"
    without = after("prove", choices=(better_than_float,), command=command)
    assert without == f"{command} --out 'runs/a b_more'"


def test_a_risk_is_answered_by_the_drop_that_the_plan_holds_and_a_smaller_one() -> None:
    plan = complete().plan
    assert plan
    drop = TrueDrop(0.012, 0.012 - 0.0196, 0.012 + 0.0196, 500)  # 80 %: 0.012 + 0.842 * 0.01
    verdict = Verdict("not proven", "", "faster", "", "risk", "")
    metric = replace(plan.metric, true_drop=drop)
    data = replace(complete(), plan=replace(plan, metric=metric, verdict=verdict))
    step = next_step(data)
    assert step.sentence == (
        "If a drop of 2.0 pt is good enough, nothing is left to do. If not, ask for a smaller "
        "drop, which leaves more layers out:"
    )
    assert step.commands[0].endswith("--max-drop 0.5pt")
    own = replace(with_choices(complete()).choices[-1], allowed=-0.002)
    step = next_step(replace(data, choices=(own,)))
    assert "If not, give the task more samples, which may choose another plan" in step.sentence


def test_a_slow_file_that_was_not_written_for_its_runtime_is_written_for_it() -> None:
    assert after("lower") == (
        "sensitivity export 'runs/a b' --for onnxruntime\n"
        "sensitivity bench 'runs/a b' --runtime onnxruntime"
    )


def test_a_missed_target_is_followed_by_the_drop_that_the_best_set_has() -> None:
    plan = complete(met=False).plan
    assert plan
    assert after("train", plan=plan).startswith("sensitivity plan 'runs/a b' --max-drop 5.8pt\n")
