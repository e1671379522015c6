"""The journal is a promise: measurements are kept, and never taken for others."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensitivity.errors import JournalMismatch, RunDirError, WriteError
from sensitivity.journal.journal import open_journal, write_line
from sensitivity.journal.lines import BatchRead
from sensitivity.records import Range, Variant

HEAD = {"model": "ab12", "data": {"rank": {"batches": 2}}}
FLOAT = Variant("float", frozenset({"a", "b"}))
INT8 = Variant("quantized", frozenset())
RANGES = frozenset({Range("a", "mse", (1 / 3,)), Range("b", "per channel", (1.0, 2.0), 0)})
RECALIBRATED = Variant("quantized", frozenset(), RANGES)


def fill(path: Path) -> None:
    """Three variants on one batch."""
    with open_journal(path, HEAD, resume=False) as journal:
        journal.add_batch("rank", 0, "d0")
        journal.add_scores(FLOAT, "rank", 0, np.array([1.0, 0.0, 1 / 3]))
        journal.add_scores(INT8, "rank", 0, np.array([[1.0, 2.0]]))
        journal.add_scores(RECALIBRATED, "rank", 0, np.array([0.5]))


def test_scores_come_back_bit_for_bit(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    with open_journal(tmp_path / "j", HEAD, resume=True) as journal:
        assert journal.scores(FLOAT, "rank", 0).tolist() == [1.0, 0.0, 1 / 3]
        assert journal.scores(INT8, "rank", 0).shape == (1, 2)
        assert journal.scores(INT8, "confirm", 0) is None
        assert set(journal.variants) == {FLOAT, INT8, RECALIBRATED}
        assert journal.scores(RECALIBRATED, "rank", 0).tolist() == [0.5]


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 10_000))
def test_a_journal_cut_at_any_byte_opens_and_goes_on(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "j"
    fill(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % (len(whole) + 1)])
    with open_journal(path, HEAD, resume=True) as journal:
        for variant, scores in (
            (FLOAT, np.array([1.0, 0.0, 1 / 3])),
            (INT8, np.array([[1.0, 2.0]])),
            (RECALIBRATED, np.array([0.5])),
        ):
            journal.add_batch("rank", 0, "d0")
            if journal.scores(variant, "rank", 0) is None:
                journal.add_scores(variant, "rank", 0, scores)
    assert path.read_bytes() == whole


def test_another_range_of_the_same_method_is_another_variant() -> None:
    other = frozenset({Range("a", "mse", (0.3334,)), Range("b", "per channel", (1.0, 2.0), 0)})
    keys = {INT8.key, RECALIBRATED.key, Variant("quantized", frozenset(), other).key}
    assert len(keys) == 3


def test_a_journal_of_another_model_is_refused_with_the_difference_named(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    with pytest.raises(
        JournalMismatch,
        match=r'got another: data.rank.batches was 2, is 3; model was "ab12", is "cd34"',
    ):
        open_journal(
            tmp_path / "j", {"model": "cd34", "data": {"rank": {"batches": 3}}}, resume=True
        )


def test_other_data_under_the_same_head_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    with (
        open_journal(tmp_path / "j", HEAD, resume=True) as journal,
        pytest.raises(JournalMismatch, match="Expected batch 0 of split 'rank' to be the data"),
    ):
        journal.add_batch("rank", 0, "other")


def test_a_journal_is_not_overwritten_without_resume(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(RunDirError, match="add --resume to continue it"):
        open_journal(tmp_path / "j", HEAD, resume=False)
    assert (tmp_path / "j").read_bytes() == before


def test_damage_before_the_last_line_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(lines[0] + b"{torn\n" + lines[2])
    with pytest.raises(RunDirError, match="Expected line 2 of .*it has no checksum.*sed -i '2,.d'"):
        open_journal(tmp_path / "j", HEAD, resume=True)


def old_journal(path: Path) -> None:
    """The journal of `fill`, as it was written before lines had checksums."""
    fill(path)
    whole = re.sub(rb',"crc":"[0-9a-f]{8}"\}', b"}", path.read_bytes())
    path.write_bytes(whole.replace(b'"schema":2', b'"schema":1'))


def contents(path: Path) -> dict[str, object]:
    """Everything that an open journal answers, under the keys that a run asks for."""
    with open_journal(path, HEAD, resume=True) as journal:
        return {
            "labels": sorted((one.key, one.label) for one in journal.variants),
            "scores": [
                found.tolist() if (found := journal.scores(one, "rank", 0)) is not None else None
                for one in (FLOAT, INT8, RECALIBRATED)
            ],
            "digests": dict(journal.digests),
        }


def test_a_journal_from_before_checksums_opens_and_goes_on_with_them(tmp_path: Path) -> None:
    old_journal(tmp_path / "j")
    fill(tmp_path / "new")
    assert contents(tmp_path / "j") == contents(tmp_path / "new")
    with open_journal(tmp_path / "j", HEAD, resume=True) as journal:
        journal.add_batch("rank", 1, "d1")
    assert b'"crc"' in (tmp_path / "j").read_bytes().splitlines()[-1]
    assert contents(tmp_path / "j")["digests"] == {("rank", 0): "d0", ("rank", 1): "d1"}


def measured_again(path: Path) -> dict[str, object]:
    """The content of the journal after a run has asked for everything and measured what was
    missing."""
    with open_journal(path, HEAD, resume=True) as journal:
        journal.add_batch("rank", 0, "d0")
        for variant, scores in (
            (FLOAT, [1.0, 0.0, 1 / 3]),
            (INT8, [[1.0, 2.0]]),
            (RECALIBRATED, [0.5]),
        ):
            if journal.scores(variant, "rank", 0) is None:
                journal.add_scores(variant, "rank", 0, np.array(scores))
    return contents(path)


def test_any_flipped_bit_gives_the_same_result_or_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "j"
    fill(path)
    whole, result = path.read_bytes(), contents(path)
    refused = 0
    for bit in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert measured_again(path) == result, bit
        except RunDirError as error:
            refused += "\n" not in str(error)
    assert refused > 0.9 * 8 * len(whole) / 7, (
        "nothing but the seal and the last newline may change unseen"
    )


def test_a_flipped_bit_in_a_journal_without_checksums_ends_in_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "j"
    old_journal(path)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with contextlib.suppress(RunDirError):
            assert measured_again(path)["scores"] == [[1.0, 0.0, 1 / 3], [[1.0, 2.0]], [0.5]], bit


def test_what_cannot_follow_is_damage_also_without_a_checksum(tmp_path: Path) -> None:
    old_journal(tmp_path / "j")
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    opened, batch, variant, scores = lines[:4]
    for order, sentence in (
        ((opened, batch, scores), "its variant is unknown"),
        ((opened, variant, scores), "its batch is unknown"),
        ((opened, batch, variant, scores, scores), "an earlier line holds these scores"),
        ((opened, batch, opened), "it opens the journal anew"),
        (
            (opened, batch, variant, scores.replace(b'"shape":[3]', b'"shape":[2]')),
            "24 bytes are no scores of shape",
        ),
        (
            (opened, variant.replace(b'"disabled":["a"', b'"disabled":["x"')),
            "the key is of another variant",
        ),
    ):
        (tmp_path / "j").write_bytes(b"".join(order))
        with pytest.raises(RunDirError, match=sentence):
            open_journal(tmp_path / "j", HEAD, resume=True)


def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    content = (tmp_path / "j").read_bytes().replace(b'"schema":2', b'"schema":3')
    (tmp_path / "j").write_bytes(re.sub(rb',"crc":"[0-9a-f]{8}"\}', b"}", content))
    with pytest.raises(RunDirError, match="got 3; it was written by a newer version"):
        open_journal(tmp_path / "j", HEAD, resume=True)


class FullDisk(io.BytesIO):
    """Writes half of the bytes that it is given and then fails, as a full disk does."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        super().write(bytes(data)[: len(data) // 2])
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_one_sentence_and_leaves_whole_lines() -> None:
    file = FullDisk()
    io.BytesIO.write(file, b'{"op":"open"}\n')
    with pytest.raises(
        WriteError, match=r"Expected to append to j, got No space left on device; .* --resume"
    ):
        write_line(file, Path("j"), BatchRead("rank", 0, "x" * 100))
    assert file.getvalue() == b'{"op":"open"}\n'


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="Expected to write to"):
        open_journal(tmp_path / "file" / "run" / "j", HEAD, resume=False)
    with pytest.raises(RunDirError, match="to be a folder, got a file"):
        open_journal(tmp_path / "file" / "j", HEAD, resume=False)


class NearlyFullDisk(io.BytesIO):
    """Writes what fits, as an unbuffered file does: 40 bytes of each write, and nothing after 100
    bytes."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self.tell() >= 100:
            raise OSError(28, "No space left on device")
        return super().write(bytes(data)[:40])


def test_a_line_that_the_disk_took_in_parts_is_whole_or_not_there() -> None:
    file = NearlyFullDisk()
    write_line(file, Path("j"), BatchRead("rank", 0, "abc"))
    first = file.getvalue()
    assert len(first) > 40
    assert first.endswith(b'"}\n')
    with pytest.raises(WriteError, match="Expected to append to j"):
        write_line(file, Path("j"), BatchRead("rank", 1, "x" * 100))
    assert file.getvalue() == first


def test_a_new_journal_and_its_name_are_on_the_disk_at_once_and_lines_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, int]] = []

    def fsync(file: int) -> None:
        path = Path(f"/proc/self/fd/{file}").resolve()
        synced.append((path, path.stat().st_size if path.is_file() else 0))

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "run" / "j"
    with open_journal(path, HEAD, resume=False) as journal:
        opened = path.stat().st_size
        assert synced == [(path, opened), (path.parent, 0)]
        journal.add_batch("rank", 0, "d0")
        journal.add_scores(FLOAT, "rank", 0, np.array([1.0]))
        assert len(synced) == 2
        journal.sync()
        assert synced[2:] == [(path, path.stat().st_size)]
    monkeypatch.setattr(os, "fsync", full)
    with (
        open_journal(path, HEAD, resume=True) as journal,
        pytest.raises(WriteError, match="Expected to append to .*, got No space left on device"),
    ):
        journal.sync()


def full(file: int) -> None:
    raise OSError(28, "No space left on device")
