"""The journal: one JSON line per operation, written as measurements are made, replayed on open.

    {"op": "open", "schema": 1, "head": {...}}                          what the measurements are of
    {"op": "range", "key": ..., "quantizer": ..., "method": ..., "amax": [...], "axis": null}   once per range tried
    {"op": "variant", "key": ..., "label": ..., "disabled": [...], "ranges": [...]}     once per variant
    {"op": "batch", "split": "rank", "batch": 0, "digest": ...}         once per batch of data
    {"op": "scores", "key": ..., "split": ..., "batch": 0, "shape": [50], "data": base64(zlib(float64))}

A kill at any byte leaves at most a torn last line, which the next open cuts off. A journal whose head is of another
model, data set or configuration is refused with the difference named.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from sensitivity.errors import JournalMismatch, RunDirError, WriteError
from sensitivity.records import Range, Scores, Variant

SCHEMA = 1

Head = Mapping[str, Any]
"""JSON-able, flat enough to name a difference: {"model": "ab12...", "data": {"rank": ...}, ...}."""


class Journal:
    """Scores of every (variant, split, batch) measured so far. Made by `open_journal`; use inside `with`."""

    def __init__(self, path: Path, head: Head, file: BinaryIO) -> None:
        self.path = path
        self.head = head
        self._file = file
        self._ranges: dict[str, Range] = {}
        self._variants: dict[str, Variant] = {}
        self._digests: dict[tuple[str, int], str] = {}
        self._scores: dict[tuple[str, str, int], Scores] = {}

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def variants(self) -> tuple[Variant, ...]:
        return tuple(self._variants.values())

    def scores(self, variant: Variant, split: str, batch: int) -> Scores | None:
        """Per-sample scores of one batch; None where they have not been measured."""
        return self._scores.get((variant.key, split, batch))

    def add_batch(self, split: str, batch: int, digest: str) -> None:
        """Say which data batch this is. Raises JournalMismatch if earlier scores were of other data."""
        known = self._digests.get((split, batch))
        if known is None:
            self._append({"op": "batch", "split": split, "batch": batch, "digest": digest})
        elif known != digest:
            raise JournalMismatch(
                f"Expected batch {batch} of split {split!r} to be the data that {self.path} was measured on, "
                "got other data; keep the data and its order fixed, or choose another --out."
            )

    def add_scores(self, variant: Variant, split: str, batch: int, scores: Scores) -> None:
        """Append scores float64[n] or [n, k] of one variant on one batch. Raises WriteError; earlier lines stay whole."""
        if variant.key not in self._variants:
            self._add_variant(variant)
        packed = base64.b64encode(zlib.compress(np.ascontiguousarray(scores, "<f8").tobytes())).decode()
        self._append(
            {"op": "scores", "key": variant.key, "split": split, "batch": batch}
            | {"shape": list(scores.shape), "data": packed}
        )

    def _add_variant(self, variant: Variant) -> None:
        for one in sorted(variant.ranges, key=lambda one: one.key):
            if one.key not in self._ranges:
                self._append({"op": "range", "key": one.key, **asdict(one)})
        record = {"op": "variant", "key": variant.key, "label": variant.label, "disabled": sorted(variant.disabled)}
        self._append(record | ({"ranges": sorted(one.key for one in variant.ranges)} if variant.ranges else {}))

    def _append(self, record: dict[str, Any]) -> None:
        write_line(self._file, self.path, record)
        self._replay(record)

    def _replay(self, record: dict[str, Any]) -> None:
        match record["op"]:
            case "range":
                amax = tuple(record["amax"])
                self._ranges[record["key"]] = Range(record["quantizer"], record["method"], amax, record["axis"])
            case "variant":
                ranges = frozenset(self._ranges[key] for key in record.get("ranges", ()))
                self._variants[record["key"]] = Variant(record["label"], frozenset(record["disabled"]), ranges)
            case "batch":
                self._digests[record["split"], record["batch"]] = record["digest"]
            case "scores":
                raw = zlib.decompress(base64.b64decode(record["data"]))
                scores = np.frombuffer(raw, "<f8").reshape(record["shape"])
                self._scores[record["key"], record["split"], record["batch"]] = scores
            case other:
                raise RunDirError(
                    f"Expected operations of journal schema {SCHEMA} in {self.path}, got {other!r}; "
                    "it was written by a newer version: upgrade, or choose another --out."
                )


def write_line(file: BinaryIO, path: Path, record: Mapping[str, Any]) -> None:
    """Append one record whole or not at all: after a failed write the file ends where it ended before."""
    end = file.seek(0, os.SEEK_END)
    try:
        file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        file.flush()
    except OSError as error:
        # A full disk can refuse even this; the torn line is then cut off by the next open.
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise WriteError(
            f"Expected to append to {path}, got {error.strerror or error}; what was measured before is kept: "
            "free some space and go on with --resume."
        ) from error


def open_journal(path: Path, head: Head, *, resume: bool) -> Journal:
    """Open or start the journal of a run.

    head: what is measured; must equal the head of an existing journal.
    resume: False refuses a journal that holds measurements.
    Raises RunDirError, JournalMismatch, WriteError.
    """
    head = json.loads(json.dumps(head))
    refuse_used(path, resume)
    lines = read_lines(path) if path.exists() else []
    if lines:
        check_head(path, lines[0], head)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered, so that a failed write leaves nothing behind that `close` would write again.
        file = path.open("ab", buffering=0)
    except OSError as error:
        raise WriteError(
            f"Expected to write to {path}, got {error.strerror or error}; choose another --out."
        ) from error
    journal = Journal(path, head, file)
    if not lines:
        file.truncate(0)
        write_line(file, path, {"op": "open", "schema": SCHEMA, "head": head})
    for line in lines[1:]:
        journal._replay(line)
    return journal


def refuse_used(path: Path, resume: bool) -> None:
    """Raise RunDirError where this place cannot take a new run, or holds one that is not to be gone on with."""
    if path.parent.exists() and not path.parent.is_dir():
        raise RunDirError(f"Expected {path.parent} to be a folder, got a file; choose another --out.")
    if not resume and path.exists() and b"\n" in path.read_bytes():
        raise RunDirError(
            f"Expected {path.parent} to be a new run, got a journal of an earlier one; "
            "add --resume to go on with it, or choose another --out."
        )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole records; a torn last line is cut off the file. Raises RunDirError for damage elsewhere."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    records = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise RunDirError(
                f"Expected JSON in line {number} of {path}, got damage; choose another --out and start again."
            ) from error
    return records


def check_head(path: Path, first: Mapping[str, Any], head: Head) -> None:
    if first.get("op") != "open" or first.get("schema") != SCHEMA:
        raise RunDirError(
            f"Expected a journal of schema {SCHEMA} in {path}, got {first.get('schema')!r}; choose another --out."
        )
    different = differences(first["head"], head)
    if different:
        raise JournalMismatch(
            f"Expected the journal {path} to be of this model, data and configuration, got another: "
            f"{'; '.join(different)}. Undo the change, or choose another --out."
        )


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Where two heads differ, one phrase each.

    >>> differences({"model": "a", "data": {"rank": 1}}, {"model": "a", "data": {"rank": 2}})
    ['data.rank was 1, is 2']
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted({*old, *new}):
            found += differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        return found
    return [] if old == new else [f"{where} was {_short(old)}, is {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
