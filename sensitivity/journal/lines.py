"""One line of a journal: a JSON record that ends with a checksum of itself.

    {"op":"batch","split":"rank","batch":0,"digest":"ab12","crc":"3f2a91c0"}

Lines of schema 1, from before there were checksums, are still read; what they say is then checked
as far as it can be.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import zlib
from typing import Any

import msgspec
import numpy as np

from sensitivity.records import Range, Scores, Variant

SCHEMA = 2
FIRST_SEALED = 2
"""The schema that brought the checksum: from it on every line has one."""

SEAL = re.compile(rb',"crc":"([0-9a-f]{8})"\}\Z')


class Damaged(Exception):
    """What is wrong with a line, in a few words."""


class Opened(msgspec.Struct, frozen=True, tag_field="op", tag="open"):
    """What the measurements are of."""

    schema: int
    head: dict[str, Any]


class TaskTold(msgspec.Struct, frozen=True, tag_field="op", tag="task"):
    """The task as it is from here on: changed, and shown to measure the same."""

    task: dict[str, str]


class RangeTried(msgspec.Struct, frozen=True, tag_field="op", tag="range"):
    """Once for each range that is not the model's own."""

    key: str
    quantizer: str
    method: str
    amax: tuple[float, ...]
    axis: int | None = None
    low: float | None = None
    bias: tuple[float, ...] | None = None
    bits: int | None = None
    rounding: str | None = None


class VariantMade(msgspec.Struct, frozen=True, tag_field="op", tag="variant", omit_defaults=True):
    """Once for each variant. ranges: keys of `RangeTried`."""

    key: str
    label: str
    disabled: tuple[str, ...]
    ranges: tuple[str, ...] = ()


class BatchRead(msgspec.Struct, frozen=True, tag_field="op", tag="batch"):
    """Once for each batch of data."""

    split: str
    batch: int
    digest: str


class Scored(msgspec.Struct, frozen=True, tag_field="op", tag="scores"):
    """Scores of one variant on one batch. data: base64 of zlib of float64, little-endian."""

    key: str
    split: str
    batch: int
    shape: tuple[int, ...]
    data: str


Record = Opened | TaskTold | RangeTried | VariantMade | BatchRead | Scored


def sealed(record: Record) -> bytes:
    """Return the record as a line, with its checksum and without a newline."""
    body = msgspec.json.encode(record).removesuffix(b"}")
    return body + b',"crc":"%08x"}' % zlib.crc32(body)


def record_of(line: bytes, *, needs_seal: bool) -> Record:
    """Return the record of a line. needs_seal: a line without a checksum is damaged. Raises
    Damaged."""
    seal = SEAL.search(line)
    if seal is None and needs_seal:
        raise Damaged("it has no checksum")
    if seal is not None and zlib.crc32(line[: seal.start()]) != int(seal[1], 16):
        raise Damaged("its checksum is another")
    try:
        record: Record = msgspec.json.decode(line, type=Record)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Damaged(str(error)) from error
    return record


def made_range(record: RangeTried) -> Range:
    """Return the range that a line is of. Raises Damaged where its key is of another one."""
    told = msgspec.structs.asdict(record)
    made = Range(**{field: told[field] for field in Range.__dataclass_fields__})
    if made.key != record.key:
        raise Damaged("the key is of another range")
    return made


def made_variant(record: VariantMade, ranges: dict[str, Range]) -> Variant:
    """Return the variant that a line is of. Raises Damaged where its key is of another one."""
    unknown = [key for key in record.ranges if key not in ranges]
    if unknown:
        raise Damaged(f"the range {unknown[0]!r} is unknown")
    own = frozenset(ranges[key] for key in record.ranges)
    made = Variant(record.label, frozenset(record.disabled), own)
    if made.key != record.key:
        raise Damaged("the key is of another variant")
    return made


def packed(scores: Scores) -> str:
    """Return the scores as text."""
    raw = np.ascontiguousarray(scores, "<f8").tobytes()
    return base64.b64encode(zlib.compress(raw)).decode()


def unpacked(record: Scored) -> Scores:
    """Return the scores of a line. Raises Damaged where they are not of the shape that it names."""
    try:
        raw = zlib.decompress(base64.b64decode(record.data, validate=True))
    except (binascii.Error, zlib.error) as error:
        raise Damaged(str(error)) from error
    is_shape = bool(record.shape) and min(record.shape) >= 0
    if not is_shape or math.prod(record.shape) * 8 != len(raw):
        raise Damaged(f"{len(raw)} bytes are no scores of shape {list(record.shape)}")
    return np.frombuffer(raw, "<f8").reshape(record.shape)
