"""The journal: one JSON line per operation, written as measurements are made and replayed on open.

    {"op": "open", "schema": 2, "head": {...}}
        the first line: what is measured
    {"op": "range", "key": ..., "quantizer": ..., "method": ..., "amax": [...], "axis": null}
        once per range that was tried
    {"op": "variant", "key": ..., "label": ..., "disabled": [...], "ranges": [...]}
        once per variant
    {"op": "batch", "split": "rank", "batch": 0, "digest": ...}
        once per batch of data
    {"op": "scores", "key": ..., "split": ..., "batch": 0, "shape": [50], "data": ...}
        once per batch of a variant; data: base64(zlib(float64))
    {"op": "task", "task": {...}}
        when the task has changed and was shown to measure the same

Each line ends with its own checksum (`lines.py`). A process that is killed leaves at most a torn
last line, which the next open cuts off. Any other damage is refused with the number of its line.
Lines are on the disk once `sync` returns. It is called after each batch, so a power cut costs at
most the last batch.
A journal whose head describes another model, data set or configuration is refused, and the message
names the difference.
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
    pack,
    record_of,
    sealed,
    unpack,
)
from sensitivity.records import Range, Scores, Variant

TASK = "task"
"""The part of a head that may change. The session finds out whether the change affects what is
measured."""

Head = Mapping[str, Any]
"""Values for JSON, flat enough to name a difference: {"model": "ab12...", "data": {...}, ...}."""


class Journal:
    """Scores of every (variant, split, batch) measured so far.

    `open_journal` makes it; use it inside `with`.

    head: description of what is measured now.
    task: description of the task that measured last; None if the head has none.
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

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All measured variants, in the order in which they were added."""
        return tuple(self._variants.values())

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """The shape of the scores of one sample; None if none was measured."""
        for (_, split, _), scores in self._scores.items():
            is_of_signal = ":" in split
            if not is_of_signal:
                return scores.shape[1:]
        return None

    def scores(self, variant: Variant, split: str, batch: int) -> Scores | None:
        """Return the per-sample scores of one batch; None if they have not been measured."""
        return self._scores.get((variant.key, split, batch))

    def add_task(self, task: Mapping[str, str]) -> None:
        """Record that the task has changed from here on and measures the same."""
        self._append(TaskTold(dict(task)))

    @property
    def digests(self) -> Mapping[tuple[str, int], str]:
        """(split, batch) -> digest of the data, for every batch that was read."""
        return self._digests

    def add_batch(self, split: str, batch: int, digest: str) -> None:
        """Record the digest of a batch of data.

        Raises JournalMismatch if earlier scores of this batch were measured on other data.
        """
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
        """Append the scores of one variant on one batch.

        scores: float64[n] or [n, k].
        Raises WriteError; earlier lines stay whole.
        """
        if variant.key not in self._variants:
            self._add_variant(variant)
        self._append(Scored(variant.key, split, batch, scores.shape, pack(scores)))

    def sync(self) -> None:
        """Wait until all lines are on the disk, so that a power cut cannot lose them.

        Raises WriteError.
        """
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
        """Apply one record to the state.

        Raises Damaged if it contradicts the records before it.
        """
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
        self._scores[place] = unpack(record)


def write_line(file: BinaryIO, path: Path, record: Record) -> None:
    """Append one record whole or not at all.

    After a failed write the file ends where it ended before. Raises WriteError.
    """
    end = file.seek(0, os.SEEK_END)
    with _appending(path):
        try:
            _write_all(file, sealed(record) + b"\n")
        except OSError:
            # A full disk can refuse even this. The next open then cuts off the torn line.
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def _write_all(file: BinaryIO, line: bytes) -> None:
    """Write the whole line.

    An unbuffered file writes as much as fits on the disk without raising; only the next write
    raises.
    """
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
            "before is kept: free some space and continue with --resume."
        ) from error


def open_journal(path: Path, head: Head, *, resume: bool) -> Journal:
    """Open or start the journal of a run.

    head: what is measured. It must equal the head of an existing journal, except for its `TASK`.
    resume: whether a journal that already holds measurements may be continued.
    Raises RunDirError, JournalMismatch, WriteError.
    """
    head = json.loads(json.dumps(head))
    refuse_used(path, resume)
    records = read_records(path) if resume else []
    if records:
        check_head(path, records[0], head)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The file is unbuffered, so that a failed write leaves nothing that `close` would write
        # again.
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
    """Raise RunDirError if a run cannot be written to this path.

    That is the case if the parent is a file, or if the journal holds measurements and `resume` is
    False.
    """
    if path.parent.exists() and not path.parent.is_dir():
        raise RunDirError(
            f"Expected {path.parent} to be a folder, got a file; choose another --out."
        )
    if not resume and is_used(path):
        raise RunDirError(
            f"Expected {path.parent} to be a new run, got a journal of an earlier one; "
            "add --resume to continue it, or choose another --out."
        )


def is_used(path: Path) -> bool:
    """Return whether this journal holds measurements.

    The first line is the head, so there must be a second one.
    """
    return _content(path).count(b"\n") > 1


def read_records(path: Path) -> list[Record]:
    """Return all whole records; an empty list if there is no file.

    A torn last line is cut off the file. Raises RunDirError for any other damage.
    """
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
    """Return the content of the file; empty if there is no file."""
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
    """Return the schema of the journal that begins with this record.

    Raises RunDirError if this version cannot read that schema.
    """
    schema = first.schema if isinstance(first, Opened) else None
    if schema is None or not 1 <= schema <= SCHEMA:
        raise RunDirError(
            f"Expected a journal of schema {SCHEMA} in {path}, got {schema}; it was written by a "
            "newer version, or is damaged: upgrade, or choose another --out."
        )
    return schema


def task_of(path: Path) -> Any:
    """Return the description of the task that measured last; None if the journal holds none.

    Raises RunDirError.
    """
    opened, changed = None, None
    for record in read_records(path):
        match record:
            case Opened():
                opened = record.head.get(TASK)
            case TaskTold():
                changed = record.task
    return opened if changed is None else changed


def _damaged(path: Path, number: int, error: Damaged) -> RunDirError:
    fix = "choose another --out and start again."
    if number > 1:
        cut = shlex.join(["sed", "-i", f"{number},$d", str(path)])
        fix = f"remove it and all that follows, which is then measured again, with: {cut}"
    return RunDirError(
        f"Expected line {number} of {path} to be as it was written, got damage ({error}); {fix}"
    )


def check_head(path: Path, first: Record, head: Head) -> None:
    """Raise JournalMismatch if the journal is of another model, data set, configuration or seed."""
    assert isinstance(first, Opened), "checked while reading"
    old, new = dict(first.head), dict(head)
    for contents in (old, new):
        contents.pop(TASK, None)
    begun_with, seed = old.get("seed", 0), new.get("seed", 0)
    if begun_with != seed:
        raise JournalMismatch(
            f"Expected --seed {begun_with}, with which the journal {path} was begun, got "
            f"{seed}; use that seed, or choose another --out."
        )
    different = differences(old, new)
    if different:
        raise JournalMismatch(
            f"Expected the journal {path} to be of this model, data and configuration, got "
            f"another: {'; '.join(different)}. Undo the change, or choose another --out."
        )


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Return one phrase for each place where two heads differ.

    >>> differences({"model": "a", "data": {"rank": 1}}, {"model": "a", "data": {"rank": 2}})
    ['data.rank was 1, is 2']
    """
    if old == new:
        return []
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return [f"{where} was {_short(old)}, is {_short(new)}"]
    phrases = []
    for key in sorted({*old, *new}):
        inside = f"{where}.{key}".removeprefix(".")
        phrases += differences(old.get(key), new.get(key), inside)
    return phrases


def _short(value: Any) -> str:
    """Return the value as JSON, cut after 57 characters if it is longer than 60."""
    text = json.dumps(value)
    if len(text) <= 60:
        return text
    return f"{text[:57]}..."
