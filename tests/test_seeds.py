"""`--seed`: one seed for everything that a run draws at random."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from support.commands import TASK, verb

from sensitivity.errors import JournalMismatch
from sensitivity.journal.journal import open_journal
from sensitivity.run_dir import RunDir
from sensitivity.seeds import seeded
from sensitivity.stats.selection import corrected_drop
from sensitivity.tasks.classification import random_parts
from sensitivity.timing.ratio import median_ratio

CODE = Path(__file__).parents[1] / "sensitivity"
DRAWN = f"{TASK}:drawn"
OWN_SEEDS = {"seeds.py", "repvgg.py", "fisher_pass.py"}
"""Files that make generators of their own: the model of the demo is trained with one seed, and
fisher_pass gets its seed."""


@pytest.fixture(scope="module")
def fifth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("seeds") / "fifth"
    assert verb("scan", DRAWN, "--out", out, "--seed", 5) == 0
    return out


def test_the_same_seed_gives_the_same_result_and_another_one_other_data(
    fifth: Path, tmp_path: Path
) -> None:
    assert verb("scan", DRAWN, "--out", tmp_path / "same", "--seed", 5) == 0
    assert verb("scan", DRAWN, "--out", tmp_path / "usual") == 0
    results = [
        (RunDir(at).file("scan.csv").read_text(), digests(at))
        for at in (fifth, tmp_path / "same", tmp_path / "usual")
    ]
    assert results[0] == results[1]
    assert results[0][1].isdisjoint(results[2][1])
    assert [RunDir(at).info().seed for at in (fifth, tmp_path / "usual")] == [5, 0]


def digests(run: Path) -> set[str]:
    """The samples of each batch that was measured."""
    return set(re.findall(r'"digest":"(\w+)"', (run / "journal.jsonl").read_text()))


def test_what_goes_on_with_a_run_keeps_its_seed_and_refuses_another(
    fifth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = digests(fifth)
    assert verb("scan", DRAWN, "--out", fifth, "--resume") == 0
    assert verb("plan", fifth, "--max-drop", "20pt", "--no-recalibrate") in (0, 2)
    assert digests(fifth) >= measured
    assert RunDir(fifth).info().seed == 5
    capsys.readouterr()
    assert verb("scan", DRAWN, "--out", fifth, "--resume", "--seed", 6) == 1
    said = capsys.readouterr().err
    assert said == (
        f"Error: Expected --seed 5, with which the run in {fifth} has drawn its data, got 6; leave "
        "it out to go on, or choose another --out.\n"
    )


def test_a_journal_tells_the_seed_before_all_else_that_differs(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    open_journal(file, {"data": "a", "seed": 5}, resume=False).__exit__(None, None, None)
    with pytest.raises(JournalMismatch, match="Expected --seed 5, .* got 0; use that seed"):
        open_journal(file, {"data": "b"}, resume=True)


def test_splits_intervals_and_corrections_are_drawn_with_the_seed_of_the_command() -> None:
    values = np.random.default_rng(8).random((3, 40))

    def drawn() -> list[object]:
        ratio = median_ratio(values[0] + 1, values[1] + 1)
        drop = corrected_drop(values[0], values[1:], [1, 2], 0.01, resamples=20)
        return [random_parts(9, {"rank": 9}, None)["rank"].tolist(), ratio.low, drop.value]

    with seeded(1):
        first, again = drawn(), drawn()
    usual = drawn()
    assert first == again
    assert all(one != other for one, other in zip(first, usual, strict=True))


def test_nothing_else_makes_a_generator_of_its_own() -> None:
    makes = re.compile(r"default_rng|manual_seed|RandomState|random\.seed")
    found = {file.name for file in CODE.rglob("*.py") if makes.search(file.read_text())}
    testing = {file.name for file in (CODE / "testing").glob("*.py")}
    assert found - testing == OWN_SEEDS
