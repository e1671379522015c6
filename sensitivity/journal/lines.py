"""One line of a journal: a JSON record that ends with a checksum of itself.

    {"op":"batch","split":"rank","batch":0,"digest":"ab12","crc":"3f2a91c0"}

Lines of schema 1, which had no checksums, are still read and checked as far as possible.
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
"""The first schema in which every line has a checksum."""

SEAL = re.compile(rb',"crc":"([0-9a-f]{8})"\}\Z')


class Damaged(Exception):
    """A damaged line. The message says in a few words what is wrong with it."""


class Opened(msgspec.Struct, frozen=True, tag_field="op", tag="open"):
    """The head of a journal, which describes what is measured."""

    schema: int
    head: dict[str, Any]


class TaskTold(msgspec.Struct, frozen=True, tag_field="op", tag="task"):
    """A changed task that was shown to measure the same; it holds from this line on."""

    task: dict[str, str]


class RangeTried(msgspec.Struct, frozen=True, tag_field="op", tag="range"):
    """A range that is not the model's own, written once."""

    key: str
    quantizer: str
    method: str
    amax: tuple[float, ...]
    axis: int | None = None
    low: float | None = None
    bias: tuple[float, ...] | None = None
    bits: int | None = None
    rounding: str | None = None
    fp8: bool = False


class VariantMade(msgspec.Struct, frozen=True, tag_field="op", tag="variant", omit_defaults=True):
    """A variant, written once.

    ranges: keys of `RangeTried`.
    """

    key: str
    label: str
    disabled: tuple[str, ...]
    ranges: tuple[str, ...] = ()


class BatchRead(msgspec.Struct, frozen=True, tag_field="op", tag="batch"):
    """A batch of data, written once."""

    split: str
    batch: int
    digest: str


class Scored(msgspec.Struct, frozen=True, tag_field="op", tag="scores"):
    """The scores of one variant on one batch.

    data: base64 of zlib of float64, little-endian.
    """

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
    """Return the record of a line.

    needs_seal: whether a line without a checksum counts as damaged.
    Raises Damaged.
    """
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
    """Return the range that a line describes.

    Raises Damaged if its key belongs to another range.
    """
    fields = msgspec.structs.asdict(record)
    range_ = Range(**{field: fields[field] for field in Range.__dataclass_fields__})
    if range_.key != record.key:
        raise Damaged("the key is of another range")
    return range_


def made_variant(record: VariantMade, ranges: dict[str, Range]) -> Variant:
    """Return the variant that a line describes.

    ranges: key -> range, of the lines before this one.
    Raises Damaged if its key belongs to another variant, or if one of its ranges is unknown.
    """
    unknown = [key for key in record.ranges if key not in ranges]
    if unknown:
        raise Damaged(f"the range {unknown[0]!r} is unknown")
    own = frozenset(ranges[key] for key in record.ranges)
    variant = Variant(record.label, frozenset(record.disabled), own)
    if variant.key != record.key:
        raise Damaged("the key is of another variant")
    return variant


def pack(scores: Scores) -> str:
    """Return the scores as base64 text."""
    raw = np.ascontiguousarray(scores, "<f8").tobytes()
    return base64.b64encode(zlib.compress(raw)).decode()


def unpack(record: Scored) -> Scores:
    """Return the scores of a line.

    Raises Damaged if they do not have the shape that the line names.
    """
    try:
        raw = zlib.decompress(base64.b64decode(record.data, validate=True))
    except (binascii.Error, zlib.error) as error:
        raise Damaged(str(error)) from error
    is_shape = bool(record.shape) and min(record.shape) >= 0
    if not is_shape or math.prod(record.shape) * 8 != len(raw):
        raise Damaged(f"{len(raw)} bytes are no scores of shape {list(record.shape)}")
    return np.frombuffer(raw, "<f8").reshape(record.shape)
