"""How readable the code is, measured by `benchmarks/house.py`: the limits, and the measurement
itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.scripts import load_script

# Figures of the code as it is. Lower a limit whenever a change lowers its figure; never raise one.
LIMITS = {
    "complexity_per_line": 0.297,
    "dense": 0,
    "lines_over_100": 0,
    "imports_in_functions": 40,
    "imports_in_functions_other": 3,
    "many_arguments": 9,
    "circles": 0,
    "undocumented": 0,
}


house = load_script("benchmarks/house.py")
in_checkout = pytest.mark.skipif(
    not (house.ROOT / ".git").exists(), reason="git names the files, and this is no checkout"
)


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    return house.measure()[0]


@in_checkout
@pytest.mark.parametrize("figure", LIMITS)
def test_the_code_reads_no_worse_than_it_did(figures: dict[str, float], figure: str) -> None:
    see = f"`python benchmarks/house.py --list {figure}` names the places"
    assert figures[figure] <= LIMITS[figure], see


SMALL = '''"""A module."""

import json


# A comment, and a blank line above it.
class Known:
    """A class."""

    def first(self, a, b, c, d, e, *, named=None):
        """Five arguments, for neither `self` nor `named` counts."""
        if a and b or c:
            return [x for x in d if x]
        return e

    def _second(self, a, b, c, d, e, *, f):
        for item in a:
            pass
        else:
            item = lambda: 0
        return item if b else c


def bare():
    def inner():
        assert True
    return inner
'''


def module(text: str, name: str = "pack.small") -> Any:
    return house.Module(name, text)


def complexities(text: str) -> dict[str, int]:
    return {one.name: house.complexity(one) for one in module(text).functions}


def test_complexity_is_one_and_one_for_each_branch() -> None:
    # first: if, and, or, for, if of the comprehension; _second: for, else, lambda, if else.
    assert complexities(SMALL) == {"first": 6, "_second": 5, "bare": 1, "inner": 2}


def test_the_branches_of_try_and_match_count() -> None:
    text = "def f(a):\n try:\n  a\n except A:\n  a\n except B:\n  a\n else:\n  a\n finally:\n  a\n"
    assert complexities(text) == {"f": 4}
    text = "def f(a):\n match a:\n  case 1:\n   a\n  case _:\n   a\n"
    assert complexities(text) == {"f": 3}


def test_blank_lines_comments_and_docstrings_are_no_lines_of_code() -> None:
    # import, class, 4 lines of `first`, 6 of `_second`, 4 of `bare`.
    assert len(module(SMALL).code_lines) == 16
    assert house.complexity_per_line([module(SMALL)]) == pytest.approx(14 / 16)


def test_lines_of_an_inner_function_are_its_own() -> None:
    small = module(SMALL)
    lines = {one.name: house.own_lines(small, one) for one in small.functions}
    assert lines == {"first": 4, "_second": 6, "bare": 2, "inner": 2}


def test_a_function_is_dense_with_twelve_branches_in_few_lines() -> None:
    eleven = " and ".join("abcdefghijk")
    assert not house.dense([module(f"def f():\n    return {eleven}\n")])
    twelve = f"{eleven} and l"
    assert house.dense([module(f"def f():\n    return {twelve}\n")]) == [
        "pack.small:1 f (12 branches, 2 lines)"
    ]
    # 1.4 lines a branch are 16.8 for twelve branches.
    longer = "def f():\n" + "    x()\n" * 15 + f"    return {twelve}\n"
    assert not house.dense([module(longer)])


def test_arguments_that_a_caller_must_understand_are_counted() -> None:
    assert house.many_arguments([module(SMALL)]) == ["pack.small:16 _second (6 arguments)"]


def test_public_names_without_docstring_are_found() -> None:
    assert house.undocumented([module(SMALL)]) == (["pack.small bare"], 3)
    assert house.undocumented([module(SMALL, "pack._small")]) == ([], 0)


def test_imports_in_functions_are_told_apart_by_their_reason() -> None:
    texts = {
        "pack.cli.verb": "def command():\n    import pack.work\n    import pack.heavy\n",
        "pack.work": "import numpy\ndef f():\n  import numpy.linalg\n  from pack import heavy\n",
        "pack.heavy": "import torch\ndef f():\n    import torch.nn\n",
        "pack.typed": "if TYPE_CHECKING:\n    import torch\n",
    }
    imports = house.Imports([module(text, name) for name, text in texts.items()], ["numpy"])
    found = imports.in_functions()
    assert found["startup"] == ["pack.cli.verb:2 import pack.work"]
    assert found["optional"] == [
        "pack.cli.verb:3 import pack.heavy",
        "pack.work:4 from pack import heavy",
    ]
    assert found["other"] == [
        "pack.work:3 import numpy.linalg",
        "pack.heavy:3 import torch.nn",
    ]
    assert imports.circles() == []


def test_a_circle_is_found_through_an_import_in_a_function() -> None:
    texts = {
        "pack.a": "from .b import x",
        "pack.b": "def f():\n    from pack.c import y\n",
        "pack.c": "import pack.a",
        "pack.d": "import pack.a",
    }
    imports = house.Imports([module(text, name) for name, text in texts.items()], [])
    assert imports.circles() == ["pack.a - pack.b - pack.c"]


def test_lines_of_markdown_that_cannot_be_shorter_are_apart() -> None:
    long = "word " * 21
    text = f"""{long}
| {long} |
```text
{long}
```
```bash
{long}
```
[a page](https://example.org/{"x" * 100}) is linked
{long} [a page](other.md)
"""
    assert house.long_markdown_lines(text) == [1, 7, 10]


def test_every_long_line_of_python_counts(tmp_path: Path) -> None:
    lines = ["x = 1", "# " + "x" * 98, "# " + "x" * 99, "y" * 99 + "  # noqa: B018"]
    (tmp_path / "a.py").write_text("\n".join(lines), encoding="utf-8")
    assert house.long_lines(tmp_path, ["a.py"]) == ["a.py:3"]
