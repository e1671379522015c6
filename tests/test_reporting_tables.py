"""Records as DataFrames and CSV files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reporting_samples import TIMINGS, effects, units

from sensitivity.errors import WriteError
from sensitivity.records import Effect, Estimate, Unit
from sensitivity.reporting.csv import write_csv
from sensitivity.reporting.tables import bench_table, scan_table

finite = st.floats(-1, 1, allow_subnormal=False)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).filter(
    lambda s: s == s.strip()
)


def test_a_scan_table_has_a_row_per_unit_with_the_most_sensitive_first() -> None:
    made = units(5)
    table = scan_table(tuple(reversed(effects(made))), made)
    assert list(table["rank"]) == [1, 2, 3, 4, 5]
    assert list(table["unit"]) == [unit.name for unit in made]
    assert list(table.columns)[:6] == ["rank", "unit", "effect", "low", "high", "n"]
    assert list(table["tie"]) == [1, 2, 3, 3, 3]
    assert table["quantizers"][0] == "stage1.0.input_quantizer;stage1.0.weight_quantizer"


def test_an_effect_without_an_interval_is_a_number_with_two_empty_cells(tmp_path: Path) -> None:
    table = scan_table(effects(units(2), interval=False), ())
    assert table["low"].dtype == np.float64
    assert table["low"].isna().all()
    write_csv(table, tmp_path / "scan.csv")
    assert (tmp_path / "scan.csv").read_text().splitlines()[1].split(",")[3:6] == ["", "", "1"]


def test_a_unit_that_is_not_judged_has_no_effect_and_says_so() -> None:
    table = scan_table([Effect(1, 1, "a", Estimate(0.0, None, None, 0), 0.5, judged=False)], [])
    assert table["judged"].tolist() == [False]
    assert table[["effect", "low", "high", "metric"]].isna().all().all()


def test_a_unit_that_the_race_did_not_measure_has_no_samples_and_four_empty_cells(
    tmp_path: Path,
) -> None:
    effect = Effect(1, 1, "a", Estimate(0.0, None, None, 0), 0.5)
    write_csv(scan_table([effect], [Unit("a", ("a.q",))]), tmp_path / "scan.csv")
    assert (tmp_path / "scan.csv").read_text().splitlines()[1] == "1,a,,,,0,1,,a.q,layer,True"


def test_an_empty_scan_is_a_table_with_a_header_only(tmp_path: Path) -> None:
    write_csv(scan_table((), ()), tmp_path / "scan.csv")
    assert (
        tmp_path / "scan.csv"
    ).read_text() == "rank,unit,effect,low,high,n,tie,metric,quantizers,kind,judged\n"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(names, finite, finite, finite), max_size=6))
def test_a_scan_csv_reads_back_to_the_last_digit(
    tmp_path_factory: pytest.TempPathFactory, rows: list
) -> None:
    made = tuple(
        Effect(rank, rank, name, Estimate(value, low, None, 7), metric)
        for rank, (name, value, low, metric) in enumerate(rows, start=1)
    )
    table = scan_table(made, (Unit("a", ("q",)),))
    path = tmp_path_factory.mktemp("csv") / "scan.csv"
    write_csv(table, path)
    text = {"unit": str, "quantizers": str}
    back = pd.read_csv(
        path,
        dtype=text,
        keep_default_na=False,
        na_values={"high": [""]},
        float_precision="round_trip",
    )
    pd.testing.assert_frame_equal(back.astype(table.dtypes.to_dict()), table, check_exact=True)


def test_a_bench_table_has_a_row_per_timing_with_the_ratio_and_its_interval() -> None:
    table = bench_table(TIMINGS)
    assert list(table["variant"]) == ["float", "int8", "partial"]
    assert table.loc[1, ["ratio_vs_float", "low", "high"]].tolist() == pytest.approx(
        [0.72, 0.70, 0.74]
    )


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_sentence_and_leaves_the_file_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "scan.csv"
    path.write_text("before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), full)
    with pytest.raises(
        WriteError,
        match=r"Expected to write .*scan\.csv, got: No space left on device; free some space",
    ):
        write_csv(scan_table((), ()), path)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["scan.csv"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"Expected to write .*got: (File exists|Not a directory)"):
        write_csv(scan_table((), ()), tmp_path / "file" / "scan.csv")
