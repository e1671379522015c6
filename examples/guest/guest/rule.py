"""A rule of a team: whoever finds a file on a device must be able to ask somebody about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sensitivity.rules.base import Hit, Subject, rule
from sensitivity.rules.examples import CANONICAL
from sensitivity.rules.targets import TARGETS


@rule(
    "GUEST001",
    "no-owner",
    "info",
    TARGETS,
    why="A file on a device outlives the folder that it was made in.",
    fix="Write metadata_props['owner'] before the file is deployed.",
    source="our own deployment guide",
    bad=CANONICAL,
    good=replace(CANONICAL, metadata={"owner": "vision team"}),
)
def NO_OWNER(subject: Subject) -> Iterator[Hit]:  # noqa: N802 - a constant once decorated
    if not subject.model.metadata_props.get("owner"):
        yield "the file", "expected an owner in its metadata, got none"
