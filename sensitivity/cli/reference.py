"""The command reference, from the same source as --help: python -m sensitivity.cli.reference >
docs/commands.md."""

from __future__ import annotations

from collections.abc import Iterator

import click

from sensitivity.cli.main import VERBS, group


def markdown() -> str:
    """Return the contents of docs/commands.md."""
    parts = ["# Commands\n", "Every verb as `--help` shows it.\n"]
    context = click.Context(
        group,
        info_name="sensitivity",
        max_content_width=110,
        terminal_width=110,
        **group.context_settings,
    )
    parts.append(f"## sensitivity\n\n```text\n{group.get_help(context)}\n```\n")
    for name in VERBS:
        command = group.get_command(context, name)
        assert command is not None
        parts.append(f"## sensitivity {name}\n\n" + "\n".join(_helps(command, name, context)))
    return "\n".join(parts)


def _helps(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    """Yield the help of a verb, followed by that of its own verbs."""
    # With `info_name`, the usage line of the child has the full command.
    own = click.Context(
        command, info_name=name, parent=parent, max_content_width=110, terminal_width=110
    )
    yield f"```text\n{command.get_help(own)}\n```\n"
    if isinstance(command, click.Group):
        for inner, child in command.commands.items():
            yield from _helps(child, inner, own)


if __name__ == "__main__":
    print(markdown(), end="")
