"""The name lists as the tests read them."""

import json
from pathlib import Path
from typing import Any

VERSIONS = ("8.6", "10.0", "10.16", "11.1")
API: dict[str, Any] = json.loads((Path(__file__).parent / "trt_api.json").read_text())
FLAGS: dict[str, list[str]] = json.loads((Path(__file__).parent / "trtexec_flags.json").read_text())
FULL_NAME = {"8.6": "8.6.1", "10.0": "10.0.1", "10.16": "10.16.0", "11.1": "11.1.0"}


def members(version: str, name: str) -> dict[str, Any]:
    return API[version]["classes"].get(name, {})


def overloads(version: str, name: str, member: str) -> list[list[str]]:
    """Argument names of a method, without the mark of a default; a property or value has none."""
    found = members(version, name).get(member)
    return [[arg.rstrip("=") for arg in args] for args in found] if isinstance(found, list) else []
