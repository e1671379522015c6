"""`sensitivity report --format markdown|junit|sarif`: what CI services show of a run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as Xml

import pytest
from support.commands import verb
from support.reporting_samples import complete, scan_only

from sensitivity.measure.scan import Scan
from sensitivity.records import Estimate, Plan, Recalibrated, Verdict
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MINUS, MetricFormat
from sensitivity.reporting.outcome import verdict_of
from sensitivity.reporting.summaries import checks as checking
from sensitivity.reporting.summaries import junit, markdown, sarif
from sensitivity.reporting.summaries.checks import checks
from sensitivity.run_dir import RunDir, RunInfo
from sensitivity.tasks.detection_detail import DetectionDetail, SizeResult

EVIL = 'a|b <img src=x> & "q" `c` *d*\u0001'


def found(**changes: Any) -> ReportData:
    """A run whose verdict has been changed as given."""
    data = complete()
    assert data.plan is not None
    verdict = verdict_of(data.plan, None, MetricFormat(data.metric, data.full_scale))
    plan = replace(data.plan, verdict=replace(verdict, **changes))
    return replace(data, plan=plan, directory="runs/a b")


PASSES = {"accuracy": "met", "speed": "faster", "action": "use"}
OPEN = {"accuracy": "not proven", "speed": "not measured", "action": "prove"}
FAILS = {"accuracy": "missed", "speed": "slower", "action": "train"}


@pytest.mark.parametrize(
    ("statuses", "outcome"), [(PASSES, "pass"), (OPEN, "open"), (FAILS, "fail")]
)
def test_each_status_passes_fails_or_is_open(statuses: dict[str, Any], outcome: str) -> None:
    assert [check.outcome for check in checks(found(**statuses))] == [outcome] * 3


def test_every_status_that_a_verdict_can_have_is_known() -> None:
    hints = {name: Verdict.__annotations__[name] for name in ("accuracy", "speed", "action")}
    assert hints == {"accuracy": "AccuracyStatus", "speed": "SpeedStatus", "action": "Action"}
    from typing import get_args

    from sensitivity import records

    for table, kind in (
        (checking.ACCURACY, records.AccuracyStatus),
        (checking.SPEED, records.SpeedStatus),
        (checking.ACTION, records.Action),
    ):
        assert set(table) == set(get_args(kind))


def test_a_plan_that_misses_on_confirm_fails_also_where_chance_is_left() -> None:
    data = found(accuracy="not proven")
    assert data.plan is not None
    missed = replace(data, plan=replace(data.plan, met=False))
    assert checks(missed)[0].outcome == "fail"


def test_without_a_plan_everything_is_open() -> None:
    assert {check.outcome for check in checks(scan_only())} == {"open"}


def suite_of(data: ReportData) -> Xml.Element:
    """The test suite in JUnit's format, whose counts must be those of its cases."""
    root = Xml.fromstring(junit.render(data).encode())
    assert root.tag == "testsuites"
    (suite,) = root
    assert suite.tag == "testsuite"
    kinds = [child.tag for case in suite for child in case]
    for element in (root, suite):
        assert int(element.attrib["tests"]) == len(suite)
        assert int(element.attrib["failures"]) == kinds.count("failure")
        assert int(element.attrib["skipped"]) == kinds.count("skipped")
        assert element.attrib["errors"] == "0"
    for case in suite:
        assert case.tag == "testcase"
        assert case.attrib["name"]
        assert case.attrib["classname"]
        assert len(case) == 1
    return suite


@pytest.mark.parametrize(
    ("statuses", "tag"), [(PASSES, "system-out"), (OPEN, "skipped"), (FAILS, "failure")]
)
def test_junit_has_a_test_for_each_line_of_the_verdict(statuses: dict[str, Any], tag: str) -> None:
    suite = suite_of(found(**statuses))
    assert [case.attrib["name"] for case in suite] == ["accuracy", "speed", "action"]
    assert {child.tag for case in suite for child in case} == {tag}


def test_junit_failures_have_the_sentence_and_a_type() -> None:
    sentence = "The drop is 3.0 pt [2.0, 4.0]."
    (failure,) = suite_of(found(**(FAILS | {"accuracy_sentence": sentence})))[0]
    assert failure.attrib == {"message": f"missed: {sentence}", "type": "missed"}
    assert failure.text is not None
    assert failure.text.endswith(sentence)


def test_junit_escapes_what_xml_cannot_hold() -> None:
    data = replace(found(accuracy_sentence=EVIL), title=EVIL)
    suite = suite_of(data)
    assert suite.attrib["name"] == EVIL.replace("\u0001", "\N{REPLACEMENT CHARACTER}")


def log_of(data: ReportData) -> dict[str, Any]:
    """The log, which keeps the rules of SARIF 2.1.0."""
    log = json.loads(sarif.render(data))
    assert set(log) == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "sensitivity"
    rules = driver["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules), "identifiers are unique"
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert "kind" not in result, "a level other than none is of a failure, the default"
        assert result["message"]["text"]
        (place,) = result["locations"]
        address = place["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", address), "RFC 3986"
    return dict(run)


def results_of(data: ReportData, rule: str) -> list[dict[str, Any]]:
    return [result for result in log_of(data)["results"] if result["ruleId"] == rule]


@pytest.mark.parametrize(("statuses", "level"), [(OPEN, "warning"), (FAILS, "error")])
def test_sarif_has_a_result_for_each_line_that_does_not_pass(
    statuses: dict[str, Any], level: str
) -> None:
    data = found(**statuses)
    for rule in ("accuracy", "speed", "action"):
        (result,) = results_of(data, rule)
        assert result["level"] == level
        address = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert unquote(address) == "runs/a b/plan.json"


def test_sarif_of_what_passes_has_the_layers_that_are_left_out_or_repaired_alone() -> None:
    data = found(**PASSES)
    assert data.plan is not None
    plan = replace(data.plan, recalibrated=(Recalibrated("stage2.0", "mse", (), (), None),))
    data = replace(data, plan=plan, name="fast")
    results = log_of(data)["results"]
    places = [
        (result["ruleId"], result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"])
        for result in results
    ]
    assert places == [*(("left-out", name) for name in plan.skip), ("repaired", "stage2.0")]
    assert {result["level"] for result in results} == {"note"}
    (first, *_) = results
    assert "fast.json" in first["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]


def test_sarif_without_a_plan_says_that_there_is_none() -> None:
    results = log_of(scan_only())["results"]
    assert [result["ruleId"] for result in results] == ["accuracy", "speed", "action"]
    assert "no plan" in results[0]["message"]["text"]


def test_markdown_has_the_verdict_the_tables_and_the_names() -> None:
    text = markdown.render(found(**PASSES))
    assert text.startswith("## ")
    assert "- \u2705 **Accuracy: met.**" in text
    assert r"| float | 52.2 % \[46.7, 57.7\], n = 500 | 52.0 % \[45.8, 58.2\], n = 250 |" in text
    assert "- `stage1.0`\n- `stage1.1`" in text
    assert "```bash\nsensitivity bench 'runs/a b' --runtime openvino\n```" in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "\u274c **Speed" in markdown.render(found(**FAILS))
    assert "sensitivity plan" in markdown.render(scan_only())


def test_markdown_has_the_ap_of_each_size() -> None:
    level = {name: Estimate(0.4, 0.3, 0.5, 50) for name in ("float", "int8", "partial")}
    change = dict.fromkeys(("int8", "partial"), Estimate(-0.05, -0.08, -0.01, 50))
    sizes = (SizeResult("small", 3, level, change), SizeResult("large", 0, {}, {}))
    detail = DetectionDetail(50, (), {}, (), (), sizes=sizes, size_note="")
    text = markdown.render(replace(complete(), detection=detail))
    drop = f"{MINUS}5.0 pt \\[{MINUS}8.0, {MINUS}1.0\\]"
    assert f"| small, 3 objects | 40.0 | 40.0 | 40.0 | {drop} | {drop} |" in text
    assert "| large, no objects |  |  |  |  |  |" in text


def test_markdown_shows_names_and_sentences_as_they_are() -> None:
    data = found(accuracy_sentence=EVIL)
    assert data.plan is not None
    text = markdown.render(replace(data, plan=replace(data.plan, skip=("a`b|c\nd",)), title=EVIL))
    assert "<img" not in text.replace("\\<img", "")
    assert "- `` a`b|c d ``\n" in text
    assert "## a\\|b" in text


def saved(path: Path, data: ReportData, plan: Plan | None) -> Path:
    run = RunDir(path)
    splits = {"rank": 300, "confirm": 500, "holdout": 250}
    info = RunInfo("t.py:task", "disable", data.metric, 1.0, "modelopt", (), data.units, splits)
    run.write("run.json", info)
    run.write("scan.json", Scan("disable", data.baselines, data.effects))
    if plan:
        run.write("plan.json", plan)
        RunDir(path, "fast").write("plan.json", replace(plan, skip=plan.skip[:1]))
    return path


def test_the_command_prints_the_format_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = found()
    run = saved(tmp_path / "run", data, data.plan)
    before = sorted(tmp_path.rglob("*"))
    assert verb("report", run, "--format", "junit") == 0
    assert Xml.fromstring(capsys.readouterr().out.encode())[0].attrib["name"] == "run in INT8"
    assert verb("report", run, "--format", "sarif", "--name", "fast") == 0
    results = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    assert sum(result["ruleId"] == "left-out" for result in results) == 1
    assert verb("report", run, "--format", "markdown") == 0
    assert capsys.readouterr().out.startswith("## run in INT8\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved(tmp_path / "run", found(), found().plan)
    assert verb("report", run, "--format", "junit", "--name", "fats") == 1
    assert "Close names: fast." in capsys.readouterr().err
    assert verb("report", run, "--format", "xml") == 1
    assert "'xml' is not one of 'html', 'markdown', 'junit', 'sarif'" in capsys.readouterr().err
    assert verb("report", tmp_path / "nowhere", "--format", "sarif") == 1
    assert "Expected" in capsys.readouterr().err
