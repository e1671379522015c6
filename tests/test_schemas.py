"""The JSON schemas in docs/schemas, against the code and against files of real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.commands import TASK, verb

from sensitivity.cli.schemas import FILES, schema, schema_file, text

ROOT = Path(__file__).parents[1]
SCHEMAS = ROOT / "docs" / "schemas"
REPORTS = sorted((ROOT / "reports").glob("*/plan.json"))
OF_ALL_PLANS = {"run", "scan", "graph", "distributions"}
WRITTEN = OF_ALL_PLANS | {"plan", "frontier", "recalibration", "export", "bench", "costs"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every step done, repaired ranges and a second plan by cost."""
    out = tmp_path_factory.mktemp("schemas") / "tiny"
    quick = ("--rounds", "5", "--threads", "1")
    assert verb("run", f"{TASK}:far_too_wide", "--out", out, "--target", "0.8", *quick) == 0
    by_cost = ("--planner", "cost", "--cost", "table", "--threads", "1", "--name", "cheap")
    assert verb("plan", out, "--target", "0.8", *by_cost) in (0, 2)
    return out


def refused(name: str, content: Any) -> list[str]:
    """The reasons why a widely used validator does not accept the content."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema validates the files")
    validator = jsonschema.Draft202012Validator(schema(name))
    return [error.message for error in validator.iter_errors(content)]


def loaded(file: Path) -> Any:
    return json.loads(file.read_text())


@pytest.mark.parametrize("name", FILES)
def test_the_schemas_are_those_of_the_code(name: str) -> None:
    said = "run: python -m sensitivity.cli.schemas docs/schemas"
    assert (SCHEMAS / schema_file(name)).read_text() == text(name), said


def test_there_is_no_schema_of_a_file_that_is_not_written() -> None:
    assert {file.name for file in SCHEMAS.iterdir()} == set(map(schema_file, FILES))
    page = (ROOT / "docs/automation.md").read_text()
    assert all(f"(schemas/{schema_file(name)})" in page for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_each_schema_is_one_of_2020_12_and_says_what_its_records_are(name: str) -> None:
    found = schema(name)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for record in found["$defs"].values():
        assert "\n" not in record["description"]
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema validates the schemas")
    jsonschema.Draft202012Validator.check_schema(found)


def test_every_json_file_of_a_run_has_a_schema_and_fits_it(done: Path) -> None:
    files = {file.stem: file for file in done.glob("*.json")}
    assert set(files) == WRITTEN
    for file in (*files.values(), *(done / "plans/cheap").glob("*.json")):
        assert refused(file.name, loaded(file)) == [], file
    assert refused("plan.json", loaded(done / "plans/cheap.json")) == []


@pytest.mark.parametrize("file", REPORTS, ids=lambda file: file.parent.name)
def test_plans_of_committed_reports_fit(file: Path) -> None:
    assert refused("plan.json", loaded(file)) == []


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("skip", None, "None is not of type 'array'"),
        ("skip", ["a", 1], "1 is not of type 'string'"),
        ("met", "yes", "'yes' is not of type 'boolean'"),
        ("target", {"confidence": "much"}, "'much' is not of type 'number'"),
        ("checksum", "xyz", "'xyz' does not match '^[0-9a-f]{8}$'"),
    ],
)
def test_a_plan_of_another_form_is_refused(key: str, value: object, told: str) -> None:
    plan = loaded(REPORTS[0])
    assert refused("plan.json", plan) == []
    assert refused("plan.json", plan | {key: value}) == [told]
    without = {name: held for name, held in plan.items() if name != "skip"}
    assert refused("plan.json", without) == ["'skip' is a required property"]
