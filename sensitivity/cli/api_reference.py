"""The API reference, from signatures and docstrings: python -m sensitivity.cli.api_reference >
docs/api.md.

With the argument `signatures`, prints the contents of tests/public_signatures.txt: everything that
is promised to stay.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import sensitivity
from sensitivity import results, verbs
from sensitivity.commands import in_python
from sensitivity.verbs import SETTINGS, settings_of

RESULTS = ("Result", "Run", "Planned", "Scanned", "Exported", "Benched", "Compared", "Checked")
COLUMNS = 100
HEAD = """# API reference

What [python.md](python.md) shows, in full. This page is written from the code:
`python -m sensitivity.cli.api_reference > docs/api.md`.
"""


def markdown() -> str:
    """Return the contents of docs/api.md."""
    parts = [HEAD, "## Functions\n"]
    for name in SETTINGS:
        parts += _function(name)
    parts.append("## Tasks\n")
    for name in ("Task", "EvaluateTask"):
        parts += _class(getattr(sensitivity, name), members=False)
    parts.append("## Results\n\nAll are in `sensitivity.results`.\n")
    for name in RESULTS:
        parts += _class(getattr(results, name), members=True)
    parts += ["## Errors\n", *_docstring(sensitivity.SensitivityError)]
    return "\n".join(parts)


def signatures() -> str:
    """Return one line for each public function, class, attribute and method."""
    lines = [f"sensitivity.{name}{_text(getattr(verbs, name))}" for name in SETTINGS]
    lines += [
        f"sensitivity.{name}{_text(getattr(sensitivity, name))}"
        for name in ("Task", "EvaluateTask")
    ]
    for name in RESULTS:
        kind = getattr(results, name)
        lines += [f"sensitivity.results.{name}.{member}" for member, _ in _members(kind)]
    lines += [f"sensitivity.{name}" for name in sensitivity.__all__]
    return "\n".join(sorted(lines)) + "\n"


def _function(name: str) -> Iterator[str]:
    function = getattr(verbs, name)
    own = [
        each
        for each in inspect.signature(function).parameters.values()
        if not _is_setting(name, each.name)
    ]
    shown = inspect.signature(function).replace(parameters=own)
    yield f"### sensitivity.{name}\n"
    yield f"```python\n{_broken(f'sensitivity.{name}{_plain(shown)}')}\n```\n"
    yield from _docstring(function)
    settings = settings_of(SETTINGS[name])
    if not settings:
        return
    yield "| setting | default | what it does |\n|---|---|---|"
    for item in settings:
        help_text = in_python(item.metadata["help"], SETTINGS.values()).replace("|", "\\|")
        yield f"| `{item.name}` | `{item.default!r}` | {help_text} |"
    yield ""


def _is_setting(verb: str, name: str) -> bool:
    return name in {item.name for item in settings_of(SETTINGS[verb])}


def _class(kind: type[Any], *, members: bool) -> Iterator[str]:
    yield f"### {kind.__name__}\n"
    if not members:
        yield f"```python\n{_broken(f'sensitivity.{kind.__name__}{_text(kind)}')}\n```\n"
    yield from _docstring(kind)
    for member, text in _members(kind) if members else ():
        yield _item(f"- `{member}` {' '.join(text.split())}")
    if members:
        yield ""


def _broken(signature: str) -> str:
    """Return a signature with one parameter per line if it is longer than a line of code may be."""
    if len(signature) <= COLUMNS:
        return signature
    name, _, rest = signature.partition("(")
    parameters, _, returned = rest.rpartition(")")
    # A comma inside brackets belongs to an annotation.
    lines = re.split(r", (?![^\[(]*[\])])", parameters)
    return "\n".join([f"{name}(", *(f"    {line}," for line in lines), f"){returned}"])


def _item(text: str) -> str:
    return textwrap.fill(
        text, COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _members(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """Yield (signature, docstring) of the public properties and methods that a class defines
    itself."""
    for name, value in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(value, property):
            yield f"{name}: {inspect.signature(value.fget).return_annotation}", value.__doc__ or ""  # type: ignore[arg-type]
        elif inspect.isfunction(value):
            yield f"{name}{_text(value)}", value.__doc__ or ""
    for name, hint in vars(kind).get("__annotations__", {}).items():
        yield f"{name}: {hint}", ""


def _docstring(thing: Any) -> Iterator[str]:
    paragraphs = (inspect.getdoc(thing) or "").split("\n\n")
    yield "\n\n".join(map(_with_list, paragraphs)) + "\n"


def _with_list(paragraph: str) -> str:
    """Return a paragraph of a docstring with its parameters and "Raises" as items of a list."""
    text, items = "", []
    for part in re.split(r"\n(?=\w+(?:, \w+)*: |Raises )", paragraph):
        names = re.match(r"(\w+(?:, \w+)*): ", part)
        if names is not None:
            items.append(f"- `{names[1].replace(', ', '`, `')}`: {part[names.end() :]}")
        elif items:
            items.append(f"- {part}")
        else:
            text = part
    listed = "\n".join(_item(" ".join(item.split())) for item in items)
    return "\n\n".join(filter(None, (text, listed)))


def _text(function: Any) -> str:
    return _plain(inspect.signature(function))


def _plain(signature: inspect.Signature) -> str:
    """Return the signature as in the source, without quotes around types and addresses of
    functions."""
    kept = [_named_default(each) for each in signature.parameters.values()]
    return str(signature.replace(parameters=kept)).replace("'", "")


def _named_default(parameter: inspect.Parameter) -> inspect.Parameter:
    if not inspect.isfunction(parameter.default):
        return parameter
    return parameter.replace(default=_Name(parameter.default.__name__))


class _Name(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


if __name__ == "__main__":
    print(signatures() if "signatures" in sys.argv[1:] else markdown(), end="")
