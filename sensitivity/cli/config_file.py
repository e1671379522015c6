"""`--config`: settings of verbs from a TOML file with a table for each verb."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sensitivity.errors import SensitivityError, unknown_name

TEXT_OR_NUMBER = {str, int, float}


def read_config(file: Path, context: click.Context) -> dict[str, Any]:
    """Return verb -> values of its options and arguments, which click uses if the command line
    gives none.

    context: context of the group that the verbs belong to.
    Raises SensitivityError for a file that cannot be read and for a value of the wrong type, and
    NamesError, with close names, for an unknown verb or key.
    """
    try:
        tables = tomllib.loads(file.read_text())
    except OSError as error:
        raise SensitivityError(
            f"Expected --config to be a TOML file that can be read, got {file}: {error.strerror}; "
            "check its path."
        ) from error
    except ValueError as error:  # not TOML, or not text
        raise SensitivityError(
            f"Expected --config to be a TOML file, got {file}: {error}; write a table for each "
            "verb, as in docs/automation.md."
        ) from error
    assert isinstance(context.command, click.Group)
    return _of_group(tables, context.command, context, str(file))


def _of_group(
    tables: Mapping[str, Any], group: click.Group, context: click.Context, place: str
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, table in tables.items():
        verbs = group.list_commands(context)
        if not isinstance(table, dict):
            raise SensitivityError(
                f"Expected every key in {place} to stand in the table of its verb, such as "
                f"[{verbs[0]}], got {name!r} in none; move it into one."
            )
        if name not in verbs:
            raise unknown_name(f"each table in {place} to be of a verb, and its name", name, verbs)
        command, inside = group.get_command(context, name), f"[{name}] of {place}"
        assert command is not None, "a group knows what it lists"
        values[name] = (
            _of_group(table, command, context, inside)
            if isinstance(command, click.Group)
            else _of_verb(table, command, context, inside)
        )
    return values


def _of_verb(
    table: Mapping[str, Any], command: click.Command, context: click.Context, place: str
) -> dict[str, Any]:
    # Keys are options without hyphens, or arguments as in `--help` but in lower case.
    known = {max(each.opts, key=len).removeprefix("--"): each for each in command.params}
    values = {}
    for key, value in table.items():
        if key not in known:
            raise unknown_name(f"each key in {place}", key, known)
        name = known[key].name
        assert name is not None
        values[name] = _fitting(value, known[key], context, f"{key!r} in {place}")
    return values


def _fitting(value: Any, parameter: click.Parameter, context: click.Context, what: str) -> Any:
    """Return the value as the command line would give it, so that click treats both alike."""
    if getattr(parameter, "is_flag", False):  # arguments have none
        if not isinstance(value, bool):
            raise SensitivityError(f"Expected {what} to be true or false, got {value!r}.")
        return value
    takes_many = parameter.multiple or parameter.nargs == -1
    values = value if isinstance(value, list) and takes_many else [value]
    if not {type(each) for each in values} <= TEXT_OR_NUMBER:
        several = ", or a list of them" * takes_many
        raise SensitivityError(f"Expected {what} to be text or a number{several}, got {value!r}.")
    texts = [str(each) for each in values]
    given = texts if takes_many else texts[0]
    try:
        parameter.type_cast_value(context, given)
    except (click.BadParameter, SensitivityError) as error:
        raise SensitivityError(f"Of {what}: {error}") from error
    return given
