"""Makes click options and arguments from the settings dataclasses, so that each setting is defined
once."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TextIO,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import click
from click.shell_completion import CompletionItem

from sensitivity.cli import lazy
from sensitivity.config import ImageSize, ProgressChoices, flag_of
from sensitivity.registry import check_name, names

if TYPE_CHECKING:
    from sensitivity.cli.progress import Teller

Settings = TypeVar("Settings")


def verb(
    settings: type[Settings], name: str
) -> Callable[[Callable[[Settings], int | None]], click.Command]:
    """Return a decorator that makes a click command with the fields of `settings` as options.

    The function receives one instance of `settings`. An int that it returns is the exit code.
    """

    def decorate(function: Callable[[Settings], int | None]) -> click.Command:
        def callback(**values: Any) -> None:
            _exit(function(settings(**values)))

        help_text = function.__doc__ or settings.__doc__
        return click.Command(name, params=_parameters(settings), callback=callback, help=help_text)

    return decorate


def long_verb(
    settings: type[Settings], name: str
) -> Callable[[Callable[[Settings, Teller], int | None]], click.Command]:
    """Return a decorator as `verb`, for a verb that takes a while.

    The command also has the options of `ProgressChoices`, and the function also receives a teller,
    which reports progress.
    """

    def decorate(function: Callable[[Settings, Teller], int | None]) -> click.Command:
        def callback(**values: Any) -> None:
            choices = ProgressChoices(
                **{item.name: values.pop(item.name) for item in fields(ProgressChoices)}
            )
            lazy.allocator.keep_freed_memory()
            lazy.allocator.end_without_collecting()
            _exit(function(settings(**values), lazy.progress.teller(choices)))

        parameters = [*_parameters(settings), *_parameters(ProgressChoices)]
        help_text = function.__doc__ or settings.__doc__
        return click.Command(name, params=parameters, callback=callback, help=help_text)

    return decorate


def aside() -> redirect_stdout[TextIO]:
    """Print to stderr whatever is printed inside the `with`.

    It is what a metric, a loader or a toolkit has to say. What a verb prints itself, to stdout, is
    only its result.
    """
    return redirect_stdout(sys.stderr)


def _exit(code: int | None) -> None:
    if code:
        click.get_current_context().exit(code)


def _parameters(settings: type[Any]) -> list[click.Parameter]:
    hints = get_type_hints(settings)
    return [_parameter(item, hints[item.name]) for item in fields(settings)]


def _parameter(field: Field[Any], hint: Any) -> click.Parameter:
    family = field.metadata.get("family")
    kind = (
        _Registered(flag_of(field.name), family, field.metadata["also"])
        if family
        else _click_type(hint)
    )
    if field.metadata.get("argument"):
        if get_origin(hint) is tuple:  # the verb itself refuses too few values
            metavar = f"{field.name.upper()}..."
            return click.Argument(
                [field.name], type=kind, metavar=metavar, nargs=-1, required=False
            )
        return click.Argument([field.name], type=kind, metavar=field.name.upper())
    flag = flag_of(field.name)
    default = None if field.default is MISSING else field.default
    help_text = field.metadata["help"]
    if hint is bool:
        return click.Option([flag, field.name], is_flag=True, default=default, help=help_text)
    if field.default is MISSING:  # click would take any default, even None, as a given value
        return click.Option([flag, field.name], type=kind, required=True, help=help_text)
    return click.Option(
        [flag, field.name],
        type=kind,
        default=default,
        show_default=default not in (None, ()),
        multiple=get_origin(hint) is tuple,
        help=help_text,
    )


class _Registered(click.ParamType[str]):
    """A name in a family of the registry or in `also`. Raises NamesError, with close names, for any
    other."""

    name = "name"

    def __init__(self, flag: str, family: str, also: tuple[str, ...]) -> None:
        self.flag, self.family, self.also = flag, family, also

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join((*self.also, *names(self.family)))}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        check_name(self.flag, self.family, value, self.also)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin with the given text."""
        known = click.Choice((*self.also, *names(self.family)))
        return known.shell_complete(ctx, param, incomplete)


class _ImageSize(click.ParamType[ImageSize]):
    """An image size: a whole number, or two as in 64x96 or 64,96."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> ImageSize:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        numbers = value.lower().replace(",", "x").split("x")
        if len(numbers) > 2 or not all(number.strip().isdecimal() for number in numbers):
            self.fail(
                f"{value!r} is neither a side in pixels such as 640 nor HEIGHTxWIDTH such as "
                "384x640.",
                param,
                ctx,
            )
        height, width = int(numbers[0]), int(numbers[-1])
        return height if height == width else (height, width)


def _click_type(hint: Any) -> Any:
    if hint in (ImageSize, ImageSize | None):
        return _ImageSize()
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(option for option in get_args(hint) if option is not type(None))
    if get_origin(hint) is tuple:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    return click.Path(path_type=Path) if hint is Path else hint
