"""Every rule fires on its bad example and is silent on its good one, for each of its targets."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from sensitivity.rules import docs
from sensitivity.rules.base import PlanNames, Rule, Subject
from sensitivity.rules.catalog import RULES
from sensitivity.rules.examples import Example
from sensitivity.rules.lint import lint_model
from sensitivity.rules.targets import TARGETS

CASES = [
    pytest.param(rule, target, id=f"{rule.code}-{target}")
    for rule in RULES
    for target in rule.targets
]


def subject(example: Example, target: str) -> Subject:
    return Subject(example.model(), target, plan_of(example))


def plan_of(example: Example) -> PlanNames | None:
    return None if example.skip is None else PlanNames(example.skip, ())


@pytest.mark.parametrize(("rule", "target"), CASES)
def test_a_rule_fires_on_its_bad_example(rule: Rule, target: str) -> None:
    found = list(rule.findings(subject(rule.bad, target)))
    assert found
    assert {finding.code for finding in found} == {rule.code}
    assert all(finding.node and finding.message.startswith("expected ") for finding in found)


@pytest.mark.parametrize(("rule", "target"), CASES)
def test_a_rule_is_silent_on_its_good_example(rule: Rule, target: str) -> None:
    assert list(rule.findings(subject(rule.good, target))) == []


@pytest.mark.parametrize(("rule", "target"), CASES)
def test_a_good_example_breaks_no_other_rule_as_an_error(rule: Rule, target: str) -> None:
    findings = lint_model(rule.good.model(), target, plan_of(rule.good))
    errors = {finding.code for finding in findings if finding.severity == "error"}
    # The form that TensorRT needs has no pair after a convolution.
    allowed = {"SQ802"} if target == "qnn" and rule.code < "SQ8" else set()
    assert errors <= allowed


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_good_example_is_a_valid_onnx_model(rule: Rule) -> None:
    onnx.checker.check_model(rule.good.proto(), full_check=True)


def test_codes_and_names_are_unique_and_codes_are_in_order() -> None:
    codes = [rule.code for rule in RULES]
    assert codes == sorted(set(codes))
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_says_why_how_to_fix_it_and_who_says_so(rule: Rule) -> None:
    assert rule.why.endswith(".")
    assert rule.fix.endswith(".")
    assert rule.source
    assert rule.targets
    assert set(rule.targets) <= set(TARGETS)


def test_the_page_of_rules_is_current() -> None:
    page = Path(__file__).parents[1] / "docs" / "rules.md"
    assert page.read_text(encoding="utf-8") == docs.page(), (
        "run: python -m sensitivity.rules.docs > docs/rules.md"
    )
