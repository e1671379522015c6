"""Other packages add members of the families by entry points. The members are found, and a faulty
one is named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from sensitivity.cli.main import group, main
from sensitivity.cli.scan import command as scan_command
from sensitivity.doctor import additions, runtimes
from sensitivity.errors import GuestError, NamesError
from sensitivity.opened import quantized_model
from sensitivity.registry import FAMILIES, MEMBER, PROMISED, load, names
from sensitivity.rules.catalog import rules_for

PLANNER = """
from sensitivity.planners.greedy import GreedyPlanner

class Planner(GreedyPlanner):
    name = {name!r}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path for packages; their modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("guest_"):
            del sys.modules[name]


def install(place: Path, package: str, code: str, entries: str) -> None:
    """The files that pip leaves of a package with one module, guest_<package>."""
    info = place / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)
    (place / f"guest_{package}.py").write_text(code)


def install_planner(place: Path, package: str, name: str) -> None:
    code = PLANNER.format(name=name)
    install(place, package, code, f"[sensitivity.planners]\n{name} = guest_{package}:Planner\n")


def test_a_planner_of_another_package_is_listed_and_loaded_by_its_name(place: Path) -> None:
    install_planner(place, "alpha", "mine")
    assert names("planners") == ("greedy", "cost", "exhaustive", "rule", "mine")
    assert load("planners", "mine").__module__ == "guest_alpha"


def test_the_help_of_a_verb_lists_what_is_registered_and_imports_none_of_it(place: Path) -> None:
    install(
        place,
        "alpha",
        "raise AssertionError('imported')",
        "[sensitivity.planners]\nmine = guest_alpha:Planner\n",
    )
    said = CliRunner().invoke(group, ["plan", "--help"]).output
    assert "[greedy|cost|exhaustive|rule|mine]" in said
    assert "guest_alpha" not in sys.modules


def test_a_name_that_nobody_registered_is_refused_with_close_names(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install_planner(place, "alpha", "mine")
    with pytest.raises(SystemExit):
        main(["plan", str(tmp_path), "--planner", "mime"])
    said = capsys.readouterr().err
    assert said.startswith(
        "Error: Expected --planner to match exactly one of 5 names, got 'mime'. Close names: mine."
    )
    signals = next(each for each in scan_command.params if each.name == "signal")
    with pytest.raises(
        NamesError, match="Expected --signal to match exactly one of 5 names, got 'sqrn'.*sqnr"
    ):
        signals.type.convert("sqrn", signals, None)


def test_two_packages_that_give_one_name_are_both_named(place: Path) -> None:
    install_planner(place, "alpha", "mine")
    install_planner(place, "beta", "mine")
    assert names("planners").count("mine") == 1
    with pytest.raises(GuestError) as caught:
        load("planners", "mine")
    assert str(caught.value) == (
        "Expected one package to give the planner 'mine', got alpha 1.0 and beta 1.0; uninstall "
        "one of them, or ask its author for another name."
    )


def test_a_name_of_ours_is_not_taken_over(place: Path) -> None:
    install_planner(place, "alpha", "greedy")
    with pytest.raises(
        GuestError,
        match=r"^Expected one package .* 'greedy', got sensitivity itself and alpha 1\.0; uni",
    ):
        load("planners", "greedy")
    assert load("planners", "cost").name == "cost"


@pytest.mark.parametrize(
    ("code", "got"),
    [
        (
            "import there_is_no_such_module",
            "got ModuleNotFoundError: No module named 'there_is_no_such_module'; upgrade",
        ),
        ("raise ValueError('two\\nlines')", "got ValueError: two lines; upgrade"),
        ("", "got AttributeError: module 'guest_alpha' has no attribute 'Planner'; upgrade"),
        ("class Planner:\n    name = 'mine'", "to have name, choose, got no choose; upgrade"),
        (
            PLANNER.format(name="yours"),
            "to have name = 'mine', as it is registered, got 'yours'; upgrade",
        ),
    ],
    ids=["missing-import", "raises", "missing-class", "no-planner", "another-name"],
)
def test_what_is_wrong_with_a_guest_is_one_sentence(place: Path, code: str, got: str) -> None:
    install(place, "alpha", code, "[sensitivity.planners]\nmine = guest_alpha:Planner\n")
    with pytest.raises(GuestError) as caught:
        load("planners", "mine")
    assert str(caught.value).startswith("Expected the planner 'mine' of alpha 1.0 to ")
    assert got in str(caught.value)


def test_a_source_that_cannot_be_loaded_is_in_nobody_s_way_whose_model_is_of_ours(
    place: Path,
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("modelopt")
    from support.models import Chain, batch, quantized, seeded

    install(place, "alpha", "", "[sensitivity.quantizers]\nmine = guest_alpha:Source\n")
    assert quantized_model(quantized(seeded(Chain), batch())).source == "modelopt"
    with pytest.raises(
        GuestError,
        match="Expected the source of quantized models 'mine' of alpha 1.0 to be importable",
    ):
        quantized_model(torch.nn.Linear(1, 1))


def test_a_lint_rule_with_a_code_of_ours_is_refused(place: Path) -> None:
    install(place, "alpha", "", "[sensitivity.rules]\nSQ201 = guest_alpha:RULE\n")
    with pytest.raises(
        GuestError, match=r"the lint rule 'SQ201', got sensitivity itself and alpha 1\.0"
    ):
        rules_for("openvino")


def test_doctor_tells_of_each_guest_whether_it_can_be_used(place: Path) -> None:
    install_planner(place, "alpha", "mine")
    install(place, "beta", "", "[sensitivity.runtimes]\nfast = guest_beta:Fast\n")
    mine, fast = additions()
    assert (mine.package, mine.kind, mine.name, mine.problem) == (
        "alpha 1.0",
        "planner",
        "mine",
        None,
    )
    assert fast.problem is not None
    assert fast.problem.startswith("Expected the runtime 'fast' of beta 1.0 to be importable")
    assert [state.name for state in runtimes() if state.problem == fast.problem] == ["fast"]


def test_each_family_says_what_its_members_promise_and_ours_keep_it() -> None:
    assert FAMILIES.keys() == MEMBER.keys() == PROMISED.keys()
    for family, members in FAMILIES.items():
        for name in members:
            member = load(family, name)
            assert [each for each in PROMISED[family] if not hasattr(member, each)] == []
            assert getattr(member, PROMISED[family][0]) == name
