"""The verdict as JUnit XML, which CI services count as tests."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree as Xml

from sensitivity.reporting.data import ReportData
from sensitivity.reporting.summaries.checks import RULES, Check, checks

UNWRITABLE = re.compile(r"[^\t\n\r\u0020-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")
"""Characters that XML 1.0 does not allow."""


def render(data: ReportData) -> str:
    """Return one suite with a test for each check; open checks are skipped tests."""
    all_checks = checks(data)
    counted = Counter(check.outcome for check in all_checks)
    totals = {
        "tests": str(len(all_checks)),
        "failures": str(counted["fail"]),
        "errors": "0",
        "skipped": str(counted["open"]),
    }
    suites = Xml.Element("testsuites", totals)
    suite = Xml.SubElement(suites, "testsuite", {"name": _clean(data.title), **totals})
    for check in all_checks:
        _add_case(suite, check, data)
    Xml.indent(suites)
    text = Xml.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _add_case(suite: Xml.Element, check: Check, data: ReportData) -> None:
    place = {"name": check.name, "classname": _clean(data.title)}
    case = Xml.SubElement(suite, "testcase", place)
    message = _clean(f"{check.status}: {check.sentence}")
    if check.outcome == "fail":
        failure = Xml.SubElement(case, "failure", {"message": message, "type": check.status})
        failure.text = f"{RULES[check.name]} Found: {message}"
    elif check.outcome == "open":
        Xml.SubElement(case, "skipped", {"message": message})
    else:
        Xml.SubElement(case, "system-out").text = message


def _clean(text: str) -> str:
    return UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)
