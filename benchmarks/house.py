"""Measure how readable the code is: a table of figures, each of which should only go down.

    python benchmarks/house.py                    # the table
    python benchmarks/house.py --list dense       # what one figure counts, one place a line
    python benchmarks/house.py --json house.json

`lines_over_100` reads every Python file and document of the repository. All other figures read the
source of the package alone, and nothing is imported. The function that counts a figure says what it
counts.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = 100
DENSE_COMPLEXITY = 12
DENSE_LINES_PER_BRANCH = 1.4
ARGUMENTS = 5

Function = ast.FunctionDef | ast.AsyncFunctionDef
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert)
# Folders of what commands printed, which nobody wraps.
OUTPUT_FOLDERS = ("benchmarks/results/", "findings/", "reports/")
# The languages of fenced blocks that people write; a block of another one shows output.
WRITTEN = {"bash", "dockerfile", "python", "sh", "toml", "yaml"}
PRAGMA = re.compile(r"\s+# (?:noqa|type: ignore)\b.*$")


@dataclass(frozen=True)
class Module:
    """One Python file of the package: its dotted name and its text."""

    name: str
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def code_lines(self) -> frozenset[int]:
        """The numbers of the lines of code, without blank lines, comments and docstrings."""
        lines = enumerate(self.text.splitlines(), 1)
        written = {number for number, line in lines if line.strip() and line.strip()[0] != "#"}
        return frozenset(written - docstring_lines(self.tree))

    @property
    def functions(self) -> list[Function]:
        """Every function and method, including those inside others."""
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]


def docstring_lines(tree: ast.Module) -> set[int]:
    """The numbers of the lines that docstrings, and strings that document a constant, fill."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.update(spanned(node))
    return lines


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function's body, without those of functions defined in it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function):
            waiting.extend(ast.iter_child_nodes(node))


def complexity(function: Function) -> int:
    """McCabe's number as radon counts it: one, and one more for each branch.

    A branch is an `if`, `elif`, loop, `except`, `assert`, `case`, `else` after a loop or `try`,
    conditional expression, `and` or `or`, lambda, and each `for` and `if` of a comprehension.
    A function inside another one counts for itself.
    """
    count = 1
    for node in own_nodes(function):
        if isinstance(node, Function):
            continue
        count += isinstance(node, (*BRANCHES, ast.Lambda, ast.match_case))
        if isinstance(node, (ast.For, ast.AsyncFor, ast.While, ast.Try)):
            count += bool(node.orelse)
        if isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        if isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
    return count


def own_lines(module: Module, function: Function) -> int:
    """Lines of code of a function from `def` on, without those of functions defined in it."""
    lines = spanned(function)
    for node in own_nodes(function):
        if isinstance(node, Function):
            lines -= spanned(node)
    return len(lines & module.code_lines)


def spanned(node: Function | ast.Expr) -> set[int]:
    """The numbers of the lines from the first to the last of a node."""
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def complexity_per_line(modules: Iterable[Module]) -> float:
    """The complexity of all functions over all lines of code, including lines outside functions."""
    modules = list(modules)
    branches = sum(complexity(function) for module in modules for function in module.functions)
    lines = sum(len(module.code_lines) for module in modules)
    return round(branches / lines, 3) if lines else 0.0


def dense(modules: Iterable[Module]) -> list[str]:
    """Functions of complexity 12 or more with fewer than 1.4 lines of code per branch."""
    found = []
    for module in modules:
        for function in module.functions:
            branches, lines = complexity(function), own_lines(module, function)
            if branches >= DENSE_COMPLEXITY and lines / branches < DENSE_LINES_PER_BRANCH:
                found.append(f"{place(module, function)} ({branches} branches, {lines} lines)")
    return found


def many_arguments(modules: Iterable[Module]) -> list[str]:
    """Functions with more than five arguments that a caller must understand.

    `self`, `cls`, `*args`, `**kwargs` and keyword-only arguments with a default do not count. The
    fields of a dataclass are not arguments.
    """
    found = []
    for module in modules:
        for function in module.functions:
            number = argument_count(function)
            if number > ARGUMENTS:
                found.append(f"{place(module, function)} ({number} arguments)")
    return found


def argument_count(function: Function) -> int:
    positional = [*function.args.posonlyargs, *function.args.args]
    if positional and positional[0].arg in ("self", "cls"):
        positional = positional[1:]
    # kw_defaults holds None for a keyword-only argument without default.
    return len(positional) + function.args.kw_defaults.count(None)


def place(module: Module, node: Function | ast.Import | ast.ImportFrom) -> str:
    name = f" {node.name}" if isinstance(node, Function) else ""
    return f"{module.name}:{node.lineno}{name}"


@dataclass(frozen=True)
class Import:
    """One import statement: its place, what it imports, and whether it is inside a function."""

    module: Module
    node: ast.Import | ast.ImportFrom
    targets: tuple[str, ...]
    in_function: bool


class Imports:
    """The imports of a package, but those under `if TYPE_CHECKING`.

    modules: every module of the package.
    required: names of the packages outside it that are always installed; any other is optional,
        but for those of the standard library.
    """

    def __init__(self, modules: Iterable[Module], required: Iterable[str]) -> None:
        self.modules = {module.name: module for module in modules}
        self.required = {*required, *sys.stdlib_module_names}
        self.required.update(name.partition(".")[0] for name in self.modules)
        self.statements = [
            statement
            for module in self.modules.values()
            for statement in self._statements(module, module.tree, in_function=False)
        ]
        at_top = [statement for statement in self.statements if not statement.in_function]
        self.top_edges = edges(at_top)

    def _statements(self, module: Module, node: ast.AST, in_function: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield Import(module, child, tuple(self._targets(module, child)), in_function)
            else:
                inside = in_function or isinstance(child, Function)
                yield from self._statements(module, child, inside)

    def _targets(self, module: Module, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        base = self._absolute(module, node)
        for alias in node.names:
            named = f"{base}.{alias.name}"
            yield named if named in self.modules else base

    def _absolute(self, module: Module, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.name.split(".")
        kept = len(parts) - node.level + module.is_package
        return ".".join([*parts[:kept], *filter(None, [node.module])])

    def loaded_with(self, name: str) -> frozenset[str]:
        """The modules that importing `name` imports, by the imports at the top of files."""
        return reachable(self.top_edges, name)

    def at_start(self) -> frozenset[str]:
        """The modules that `sensitivity --help` and `sensitivity VERB --help` import."""
        verbs = (name for name, module in self.modules.items() if is_verb(module))
        return frozenset().union(*map(self.loaded_with, verbs))

    def circles(self) -> list[str]:
        """Groups of modules that import each other, also by imports in functions.

        A module's package is imported before the module; that alone makes no circle.
        """
        graph = edges(self.statements)
        reached = {name: reachable(graph, name) for name in self.modules}
        groups = set()
        for name in self.modules:
            both_ways = {other for other in reached[name] if name in reached.get(other, ())}
            if len(both_ways) > 1:
                groups.add(" - ".join(sorted(both_ways)))
        return sorted(groups)

    def in_functions(self) -> dict[str, list[str]]:
        """Import statements inside functions, by the reason that the source shows.

        optional: importing the target imports an optional package that the file itself does not.
        startup: the file is read for `--help`, and what it imports is not.
        other: neither.
        """
        at_start = self.at_start()
        found: dict[str, list[str]] = {"optional": [], "startup": [], "other": []}
        for statement in self.statements:
            if statement.in_function:
                entry = f"{place(statement.module, statement.node)} {ast.unparse(statement.node)}"
                found[self._reason(statement, at_start)].append(entry)
        return found

    def _reason(self, statement: Import, at_start: frozenset[str]) -> str:
        here = self._packages([statement.module.name])
        if self._packages(statement.targets) - here - self.required:
            return "optional"
        new_at_start = set(statement.targets) - at_start
        return "startup" if statement.module.name in at_start and new_at_start else "other"

    def _packages(self, names: Iterable[str]) -> set[str]:
        """The packages, by their first name, that importing the names imports."""
        loaded = chain.from_iterable(map(self.loaded_with, names))
        return {name.partition(".")[0] for name in loaded}


def is_verb(module: Module) -> bool:
    """Whether the file is that of a verb of the command line, or the one that registers the
    verbs."""
    tops = {node.name for node in module.tree.body if isinstance(node, Function)}
    return ".cli." in module.name and bool(tops & {"command", "main"})


def edges(statements: Iterable[Import]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for statement in statements:
        graph.setdefault(statement.module.name, set()).update(statement.targets)
    return graph


def reachable(graph: Mapping[str, set[str]], start: str) -> frozenset[str]:
    reached, waiting = {start}, [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - reached
        reached |= new
        waiting.extend(new)
    return frozenset(reached)


def undocumented(modules: Iterable[Module]) -> tuple[list[str], int]:
    """Public modules, and classes and functions at their top, without docstring; and how many.

    Public is what has no underscore before its name or before the name of its file. Methods are
    not counted: a protocol or dataclass says it once, at its head.
    """
    missing, number = [], 0
    for module in modules:
        if re.search(r"\._(?!_)", module.name):
            continue
        public = [module.tree, *filter(is_public, module.tree.body)]
        number += len(public)
        bare = (node for node in public if not ast.get_docstring(node))
        missing += [f"{module.name} {getattr(node, 'name', '')}".strip() for node in bare]
    return missing, number


def is_public(node: ast.stmt) -> bool:
    return isinstance(node, (*Function.__args__, ast.ClassDef)) and node.name[0] != "_"


def long_markdown_lines(text: str) -> list[int]:
    """Numbers of the lines over 100 columns of a Markdown file that could be shorter.

    Tables, blocks that show output (fenced without a language that people write, or indented) and
    lines that are long for a URL or the target of a link are apart.
    """
    found = []
    fence: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r"\s*(?:```|~~~)\s*(\w*)", line)
        if mark:
            fence = mark[1] if fence is None else None
        elif is_long(line) and not is_apart(line, fence):
            found.append(number)
    return found


def is_apart(line: str, fence: str | None) -> bool:
    if fence is not None:
        return fence not in WRITTEN
    without_targets = re.sub(r"\]\([^)]*\)|https?://\S+", "", line)
    return line.startswith(("|", "    ")) or not is_long(without_targets)


def is_long(line: str) -> bool:
    return len(line) > COLUMNS


def long_lines(root: Path, names: Iterable[str]) -> list[str]:
    """Lines over 100 columns of the Python files and documents named, as `file:line`.

    As in ruff's E501, a `noqa` or `type: ignore` at the end of a line of Python is apart.
    """
    found = []
    for name in names:
        text = (root / name).read_text(encoding="utf-8")
        if name.endswith(".py"):
            lines = enumerate(text.splitlines(), 1)
            numbers = [n for n, line in lines if is_long(PRAGMA.sub("", line))]
        else:
            numbers = long_markdown_lines(text)
        found += [f"{name}:{number}" for number in numbers]
    return found


def written_files(root: Path) -> list[str]:
    """The Python and Markdown files that git knows, but folders of what commands printed."""
    command = ["git", "ls-files", "*.py", "*.md"]
    names = subprocess.check_output(command, cwd=root, text=True).split("\n")  # noqa: S603
    return [name for name in names if name and not name.startswith(OUTPUT_FOLDERS)]


def read_package(root: Path, package: str = "sensitivity") -> list[Module]:
    """Every module of the package, in the order of their paths."""
    modules = []
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules.append(Module(name, path.read_text(encoding="utf-8"), is_package))
    return modules


def required_packages(root: Path) -> set[str]:
    """Import names of the packages that a plain install brings: those of `dependencies`."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = (re.match(r"[\w.-]+", requirement) for requirement in project["dependencies"])
    return {name[0].replace("-", "_") for name in names if name}


def measure(root: Path = ROOT) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Each figure by its name, and the places that each figure of a count counts."""
    modules = read_package(root)
    imports = Imports(modules, required_packages(root))
    in_functions = imports.in_functions()
    missing, public = undocumented(modules)
    places = {
        "dense": dense(modules),
        "lines_over_100": long_lines(root, written_files(root)),
        "imports_in_functions": [*chain.from_iterable(in_functions.values())],
        "imports_in_functions_optional": in_functions["optional"],
        "imports_in_functions_startup": in_functions["startup"],
        "imports_in_functions_other": in_functions["other"],
        "many_arguments": many_arguments(modules),
        "circles": imports.circles(),
        "undocumented": missing,
    }
    figures: dict[str, float] = {"complexity_per_line": complexity_per_line(modules)}
    figures |= {name: len(found) for name, found in places.items()}
    figures["documented_percent"] = round(100 * (1 - len(missing) / public), 1)
    return figures, places


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the code reads.")
    parser.add_argument("--json", type=Path, help="write figures and places to this file")
    parser.add_argument("--list", help="name the places that one figure counts")
    arguments = parser.parse_args()
    figures, places = measure()
    if arguments.json:
        content = json.dumps({"figures": figures, "places": places}, indent=1)
        arguments.json.write_text(content + "\n", encoding="utf-8")
    if arguments.list:
        if arguments.list not in places:
            parser.error(f"Expected --list to be one of {', '.join(places)}.")
        print("\n".join(places[arguments.list]))
        return
    print("| figure | value |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:g} |")


if __name__ == "__main__":
    main()
