"""The package is installed under a name of its own, and every text says that name."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

import sensitivity
from sensitivity.distribution import DISTRIBUTION, install_line, warn_if_overwritten
from sensitivity.doctor import PURPOSES
from sensitivity.errors import MissingPackage

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = ("sensitivity", "docs", "examples", "benchmarks", "findings", "reports", "tests")
TEXTS = [
    *ROOT.glob("*.md"),
    *(ROOT / name for name in ("pyproject.toml", "Makefile", ".ci/run")),
    *(
        file
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*")
        if file.suffix in {".py", ".md", ".toml", ".html", ".txt"} and file != Path(__file__)
    ),
]
OTHER_PACKAGE = re.compile(r"pip install (-\S+ )*['\"]?sensitivity\b|(?<![-\w])sensitivity\[[a-z]")
"""An install line, or extras, of the distribution that belongs to somebody else."""


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("pip install sensitivity", True),
        ("pip install --upgrade sensitivity", True),
        ("pip install 'sensitivity[yolo]'", True),
        ('demo = ["sensitivity[modelopt]"]', True),
        ("pip install 'layer-sensitivity[yolo]'", False),
        ("pip install layer-sensitivity", False),
    ],
)
def test_the_other_package_is_recognized(text: str, other: bool) -> None:
    assert bool(OTHER_PACKAGE.search(text)) is other


def test_no_text_says_to_install_the_other_package() -> None:
    said = [str(file.relative_to(ROOT)) for file in TEXTS if OTHER_PACKAGE.search(file.read_text())]
    assert len(TEXTS) > 300
    assert not said


def test_the_name_is_that_of_the_project_and_the_command_keeps_its_own() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert list(PROJECT["scripts"]) == ["sensitivity"]


def test_install_lines_name_extras_that_exist() -> None:
    said = [*(install for _, install in PURPOSES.values()), (ROOT / "README.md").read_text()]
    said += [file.read_text() for file in (ROOT / "docs").glob("*.md")]
    extras = {
        extra
        for text in said
        for found in re.findall(rf"{DISTRIBUTION}\[([\w,]+)\]", text)
        for extra in found.split(",")
    }
    assert {"modelopt", "yolo"} <= extras <= set(PROJECT["optional-dependencies"])


def test_an_error_about_a_missing_package_says_the_install_line() -> None:
    assert install_line() == "pip install layer-sensitivity"
    assert str(MissingPackage("pillow", "reading images", "images")) == (
        "Expected pillow to be installed for reading images; run: pip install "
        "'layer-sensitivity[images]'."
    )


def test_the_other_package_in_the_same_folder_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "sensitivity-0.2.dist-info").mkdir()
    with pytest.warns(
        UserWarning,
        match=r"Run: pip uninstall sensitivity, and then: pip install --force-reinstall",
    ):
        warn_if_overwritten(str(tmp_path))


def test_packages_with_other_names_are_not_warned_of(tmp_path: Path) -> None:
    for name in (
        "layer_sensitivity-0.1.0.dist-info",
        "sensitivity_tools-1.0.dist-info",
        "sensitivity",
    ):
        (tmp_path / name).mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_overwritten(str(tmp_path))


def test_the_warning_comes_at_import(tmp_path: Path) -> None:
    (tmp_path / "sensitivity").symlink_to(Path(sensitivity.__file__).parent)
    (tmp_path / "sensitivity-0.2.dist-info").mkdir()
    command = [sys.executable, "-c", "import sensitivity"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "is installed beside 'layer-sensitivity'" in done.stderr
