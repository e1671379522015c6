"""JSON schemas of the files in a run directory, from the classes of their records: python -m
sensitivity.cli.schemas docs/schemas."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from sensitivity.cost.table import FILE as COSTS
from sensitivity.cost.table import Table
from sensitivity.exporters.verification import Verification
from sensitivity.files import write_whole
from sensitivity.measure.scan import Scan
from sensitivity.quantize.file import Quantized
from sensitivity.records import BenchResult, Distributions, ModelGraph, Plan
from sensitivity.run_dir import QUANTIZED_RECORD, RunInfo
from sensitivity.search.frontier import Frontier
from sensitivity.steps.recalibrate import FILE as RECALIBRATION
from sensitivity.steps.recalibrate import Recalibration
from sensitivity.tasks.detection_detail import DetectionDetail

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILES: dict[str, Any] = {
    QUANTIZED_RECORD: Quantized,
    "run.json": RunInfo,
    "scan.json": Scan,
    "graph.json": ModelGraph,
    "distributions.json": Distributions,
    "plan.json": Plan,
    "frontier.json": Frontier,
    RECALIBRATION: Recalibration,
    "detection.json": DetectionDetail,
    "export.json": Verification,
    "bench.json": BenchResult,
    COSTS: list[Table],
}
"""File -> class of its record. A named plan has the schema of plan.json."""

CHECKSUM = {
    "type": "string",
    "pattern": "^[0-9a-f]{8}$",
    "description": "CRC-32 of all bytes before it; take its line out after changing the file.",
}


def schema(name: str) -> dict[str, Any]:
    """Return the schema of one file, in JSON Schema 2020-12.

    name: a key of `FILES`.
    """
    generated = msgspec.json.schema(FILES[name])
    records = {title: _in_one_line(record) for title, record in generated.pop("$defs").items()}
    own = {} if name == COSTS else {"properties": {"checksum": CHECKSUM}}
    return {"$schema": DIALECT, "title": name, **generated, **own, "$defs": records}


def _in_one_line(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with its description in one line, without the line breaks of a
    docstring."""
    return record | {"description": " ".join(record.get("description", "").split())}


def schema_file(name: str) -> str:
    """Return the file name of a schema.

    >>> schema_file("plan.json")
    'plan.schema.json'
    """
    return f"{Path(name).stem}.schema.json"


def text(name: str) -> str:
    """Return the schema of one file as text, as it is stored in docs/schemas."""
    return msgspec.json.format(msgspec.json.encode(schema(name)), indent=2).decode() + "\n"


if __name__ == "__main__":
    for each in FILES:
        write_whole(Path(sys.argv[1]) / schema_file(each), text(each).encode())
