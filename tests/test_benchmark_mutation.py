"""How `benchmarks/mutation.py` changes a module, runs tests with it, and counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats
from support.scripts import load_script

mutation = load_script("benchmarks/mutation.py")

WHOLE = "def twice(x):\n    return 2 * x\n"
TEST = """from doubling import twice


def test_two_is_four():
    assert twice(2) == 4


def test_a_hundred_is_two_hundred():
    assert twice(100) == 200
"""


@pytest.fixture
def judge(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> mutation.Judge:
    """Of a folder with one module and its tests; only the first test is known to run the module."""
    (user_folder / "doubling.py").write_text(WHOLE)
    (user_folder / "test_doubling.py").write_text(TEST)
    monkeypatch.setattr(mutation, "ROOT", user_folder)
    monkeypatch.syspath_prepend(str(user_folder))
    judge = mutation.Judge.__new__(mutation.Judge)
    name = "test_doubling.py::test_two_is_four"
    lines = {"doubling.py": {"2": [name]}}
    judge.facts = {"test_doubling.py": {"lines": lines, "seconds": {name: 0.01}}}
    judge.sound = set()
    return judge


def changed(after: str, line: int = 2) -> mutation.Mutant:
    return mutation.Mutant(
        "doubling.py", line, "return 2 * x", after, f"def twice(x):\n    {after}\n"
    )


def test_a_change_that_a_test_of_its_line_fails_for_is_noticed(judge: mutation.Judge) -> None:
    assert not judge.survives(changed("return 3 * x"))


def test_a_change_that_gives_the_same_survives(judge: mutation.Judge) -> None:
    assert judge.survives(changed("return x * 2"))


def test_only_tests_of_the_changed_line_run(judge: mutation.Judge) -> None:
    """The second test would fail; it is not known to execute the line."""
    assert judge.survives(changed("return min(2 * x, 9)"))


def test_tests_that_fail_without_a_change_end_the_run(
    judge: mutation.Judge, user_folder: Path
) -> None:
    (user_folder / "test_doubling.py").write_text(TEST.replace("== 4", "== 5"))
    with pytest.raises(SystemExit, match="to pass without a change, one failed"):
        judge.survives(changed("return 3 * x"))


def test_the_interval_of_a_score_is_wilsons(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mutation, "KEPT", tmp_path)
    verdicts, mutants = mutation.Verdicts(), [changed(f"return {number}") for number in range(20)]
    for number, mutant in enumerate(mutants):
        verdicts.add(mutant, number < 3)
    theirs = stats.binomtest(17, 20).proportion_ci(method="wilson")
    text = mutation.table({"units": mutants}, verdicts)
    assert f"| units | 20 | 17 | 0 | 85.0% | {theirs.low:.1%} to {theirs.high:.1%} |" in text


def test_an_equivalent_change_counts_as_survived_and_has_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mutation, "KEPT", tmp_path)
    why = {("doubling.py", "return 2 * x", "return x * 2"): "Multiplication commutes."}
    monkeypatch.setattr(mutation, "reasons", lambda: why)
    same, other = changed("return x * 2"), changed("return 3 * x")
    verdicts = mutation.Verdicts()
    verdicts.add(same, True)
    verdicts.add(other, False)
    text = mutation.table({"units": [same, other]}, mutation.Verdicts())
    assert "| units | 2 | 1 | 1 | 50.0% | 9.5% to 90.5% |" in text
    assert (
        "| doubling.py:2 | `` return 2 * x `` | `` return x * 2 `` | Multiplication commutes. |"
        in text
    )
    assert "3 * x" not in text
