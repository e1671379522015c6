"""The journal: one JSON line per operation, written as measurements are made, replayed on open.

    what the measurements are of
        {"op": "open", "schema": 2, "head": {...}}
    once per range tried
        {"op": "range", "key": ..., "quantizer": ..., "method": ..., "amax": [...], "axis": null}
    once per variant
        {"op": "variant", "key": ..., "label": ..., "disabled": [...], "ranges": [...]}
    once per batch of data
        {"op": "batch", "split": "rank", "batch": 0, "digest": ...}
    once per batch of a variant; data: base64(zlib(float64))
        {"op": "scores", "key": ..., "split": ..., "batch": 0, "shape": [50], "data": ...}
    where the task has changed and was shown to measure the same
        {"op": "task", "task": {...}}

Each line ends with its own checksum (`lines.py`). A kill at any byte leaves at most a torn last
line, which the next open cuts off; any other damage is refused with its line. Lines are on the disk
once `sync` returns, which who measures calls after each batch: a power cut costs at most the last.
A journal whose head is of another model, data set or configuration is refused with the difference
named.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from sensitivity.errors import JournalMismatch, RunDirError, WriteError
from sensitivity.files import sync_folder
from sensitivity.journal.lines import (
    FIRST_SEALED,
    SCHEMA,
    BatchRead,
    Damaged,
    Opened,
    RangeTried,
    Record,
    Scored,
    TaskTold,
    VariantMade,
    made_range,
    made_variant,
    packed,
    record_of,
    sealed,
    unpacked,
)
from sensitivity.records import Range, Scores, Variant

TASK = "task"
"""The part of a head that may change: whether what is measured has changed with it is for the
session to find out."""

Head = Mapping[str, Any]
"""JSON-able, flat enough to name a difference: {"model": "ab12...", "data": {"rank": ...}, ...}."""


class Journal:
    """Scores of every (variant, split, batch) measured so far. Made by `open_journal`; use inside
    `with`.

    head: of what is measured now. task: of the task that measured last; None where the head tells
    of none.
    """

    def __init__(self, path: Path, head: Head, file: BinaryIO) -> None:
        self.path = path
        self.head = head
        self._file = file
        self.task: Any = head.get(TASK)
        self._ranges: dict[str, Range] = {}
        self._variants: dict[str, Variant] = {}
        self._digests: dict[tuple[str, int], str] = {}
        self._scores: dict[tuple[str, str, int], Scores] = {}

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Every variant that was measured, in order."""
        return tuple(self._variants.values())

    def scores(self, variant: Variant, split: str, batch: int) -> Scores | None:
        """Return per-sample scores of one batch; None where they have not been measured."""
        return self._scores.get((variant.key, split, batch))

    def add_task(self, task: Mapping[str, str]) -> None:
        """Say that the task has changed from here on, and measures the same."""
        self._append(TaskTold(dict(task)))

    @property
    def digests(self) -> Mapping[tuple[str, int], str]:
        """(split, batch) -> digest of the data, for every batch that was read."""
        return self._digests

    def add_batch(self, split: str, batch: int, digest: str) -> None:
        """Say which data batch this is. Raises JournalMismatch if earlier scores were of other
        data."""
        known = self._digests.get((split, batch))
        if known is None:
            self._append(BatchRead(split, batch, digest))
        elif known != digest:
            raise JournalMismatch(
                f"Expected batch {batch} of split {split!r} to be the data that {self.path} was "
                "measured on, got other data; keep the data and its order fixed, or choose "
                "another --out."
            )

    def add_scores(self, variant: Variant, split: str, batch: int, scores: Scores) -> None:
        """Append scores float64[n] or [n, k] of one variant on one batch. Raises WriteError;
        earlier lines stay whole."""
        if variant.key not in self._variants:
            self._add_variant(variant)
        self._append(Scored(variant.key, split, batch, scores.shape, packed(scores)))

    def sync(self) -> None:
        """Wait until all lines are on the disk, where a power cut leaves them. Raises
        WriteError."""
        with _appending(self.path):
            os.fsync(self._file.fileno())

    def _add_variant(self, variant: Variant) -> None:
        by_key = {tried.key: tried for tried in variant.ranges}
        keys = sorted(by_key)
        for key in keys:
            if key not in self._ranges:
                self._append(RangeTried(key, **asdict(by_key[key])))
        disabled = tuple(sorted(variant.disabled))
        self._append(VariantMade(variant.key, variant.label, disabled, tuple(keys)))

    def _append(self, record: Record) -> None:
        write_line(self._file, self.path, record)
        self._replay(record)

    def _replay(self, record: Record) -> None:
        """Take one record in. Raises Damaged where it does not fit to those before it."""
        match record:
            case RangeTried():
                self._ranges[record.key] = made_range(record)
            case VariantMade():
                self._variants[record.key] = made_variant(record, self._ranges)
            case BatchRead():
                place = (record.split, record.batch)
                known = self._digests.setdefault(place, record.digest)
                if known != record.digest:
                    raise Damaged("an earlier line says that this batch is other data")
            case Scored():
                self._replay_scores(record)
            case TaskTold():
                self.task = record.task
            case Opened():
                raise Damaged("it opens the journal anew")

    def _replay_scores(self, record: Scored) -> None:
        place = (record.key, record.split, record.batch)
        if record.key not in self._variants:
            raise Damaged("its variant is unknown")
        if place[1:] not in self._digests:
            raise Damaged("its batch is unknown")
        if place in self._scores:
            raise Damaged("an earlier line holds these scores")
        self._scores[place] = unpacked(record)


def write_line(file: BinaryIO, path: Path, record: Record) -> None:
    """Append one record whole or not at all: after a failed write the file ends where it ended
    before."""
    end = file.seek(0, os.SEEK_END)
    with _appending(path):
        try:
            _write_all(file, sealed(record) + b"\n")
        except OSError:
            # A full disk can refuse even this; the torn line is then cut off by the next open.
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def _write_all(file: BinaryIO, line: bytes) -> None:
    """Write all of it. An unbuffered file takes what fits on the disk and raises nothing; only what
    is written after that raises."""
    rest = memoryview(line)
    while rest:
        rest = rest[file.write(rest) :]


@contextmanager
def _appending(path: Path) -> Iterator[None]:
    """Turn an OSError inside the `with` into a WriteError."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"Expected to append to {path}, got {error.strerror or error}; what was measured "
            "before is kept: free some space and go on with --resume."
        ) from error


def open_journal(path: Path, head: Head, *, resume: bool) -> Journal:
    """Open or start the journal of a run.

    head: what is measured; must equal the head of an existing journal, its `TASK` apart.
    resume: False refuses a journal that holds measurements.
    Raises RunDirError, JournalMismatch, WriteError.
    """
    head = json.loads(json.dumps(head))
    refuse_used(path, resume)
    records = read_records(path) if resume else []
    if records:
        check_head(path, records[0], head)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered, so that a failed write leaves nothing behind that `close` would write again.
        file = path.open("ab", buffering=0)
    except OSError as error:
        raise WriteError(
            f"Expected to write to {path}, got {error.strerror or error}; choose another --out."
        ) from error
    journal = Journal(path, head, file)
    try:
        _fill(journal, records, file)
    except BaseException:
        file.close()
        raise
    return journal


def _fill(journal: Journal, records: Sequence[Record], file: BinaryIO) -> None:
    if not records:
        file.truncate(0)
        write_line(file, journal.path, Opened(SCHEMA, dict(journal.head)))
        journal.sync()
        sync_folder(journal.path.parent)
        return
    assert isinstance(records[0], Opened)
    journal.task = records[0].head.get(TASK)
    for number, record in enumerate(records[1:], 2):
        try:
            journal._replay(record)
        except Damaged as error:
            raise _damaged(journal.path, number, error) from error


def refuse_used(path: Path, resume: bool) -> None:
    """Raise RunDirError where this place cannot take a new run, or holds one that is not to be gone
    on with."""
    if path.parent.exists() and not path.parent.is_dir():
        raise RunDirError(
            f"Expected {path.parent} to be a folder, got a file; choose another --out."
        )
    if not resume and is_used(path):
        raise RunDirError(
            f"Expected {path.parent} to be a new run, got a journal of an earlier one; "
            "add --resume to go on with it, or choose another --out."
        )


def is_used(path: Path) -> bool:
    """Return whether this journal holds measurements; its first line says what was to be
    measured."""
    return _content(path).count(b"\n") > 1


def read_records(path: Path) -> list[Record]:
    """Return all whole records, none where there is no file; a torn last line is cut off. Raises
    RunDirError for damage elsewhere."""
    content = _content(path)
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    records: list[Record] = []
    needs_seal = False
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        try:
            records.append(record_of(line, needs_seal=needs_seal))
        except Damaged as error:
            raise _damaged(path, number, error) from error
        needs_seal = needs_seal or _schema(path, records[0]) >= FIRST_SEALED
    return records


def _content(path: Path) -> bytes:
    """Return the content of the file; empty where there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise RunDirError(
            f"Expected {path} to be a readable file, got {error.strerror or error}; choose another "
            "--out."
        ) from error


def _schema(path: Path, first: Record) -> int:
    """Of the journal that begins with this record. Raises RunDirError where this version cannot
    read it."""
    schema = first.schema if isinstance(first, Opened) else None
    if schema is None or not 1 <= schema <= SCHEMA:
        raise RunDirError(
            f"Expected a journal of schema {SCHEMA} in {path}, got {schema}; it was written by a "
            "newer version, or is damaged: upgrade, or choose another --out."
        )
    return schema


def task_of(path: Path) -> Any:
    """Of the task that measured last, as its head told it; None where that cannot be said. Raises
    RunDirError."""
    opened, told = None, None
    for record in read_records(path):
        match record:
            case Opened():
                opened = record.head.get(TASK)
            case TaskTold():
                told = record.task
    return opened if told is None else told


def _damaged(path: Path, number: int, error: Damaged) -> RunDirError:
    fix = "choose another --out and start again."
    if number > 1:
        cut = shlex.join(["sed", "-i", f"{number},$d", str(path)])
        fix = f"cut off it and what follows, which is then measured again, with: {cut}"
    return RunDirError(
        f"Expected line {number} of {path} to be as it was written, got damage ({error}); {fix}"
    )


def check_head(path: Path, first: Record, head: Head) -> None:
    """Raise JournalMismatch where the journal is of something else."""
    assert isinstance(first, Opened), "checked while reading"
    old, new = dict(first.head), dict(head)
    for told in (old, new):
        told.pop(TASK, None)
    begun_with, seed = old.get("seed", 0), new.get("seed", 0)
    if begun_with != seed:
        raise JournalMismatch(
            f"Expected --seed {begun_with}, with which the journal {path} was begun, got "
            f"{seed}; give that one, or choose another --out."
        )
    different = differences(old, new)
    if different:
        raise JournalMismatch(
            f"Expected the journal {path} to be of this model, data and configuration, got "
            f"another: {'; '.join(different)}. Undo the change, or choose another --out."
        )


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Where two heads differ, one phrase each.

    >>> differences({"model": "a", "data": {"rank": 1}}, {"model": "a", "data": {"rank": 2}})
    ['data.rank was 1, is 2']
    """
    if old == new:
        return []
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return [f"{where} was {_short(old)}, is {_short(new)}"]
    found = []
    for key in sorted({*old, *new}):
        inside = f"{where}.{key}".removeprefix(".")
        found += differences(old.get(key), new.get(key), inside)
    return found


def _short(value: Any) -> str:
    """Return the value as JSON, its end left out where it is long."""
    text = json.dumps(value)
    if len(text) <= 60:
        return text
    return f"{text[:57]}..."
