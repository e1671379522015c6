"""The command reference, from the same place as --help: python -m sensitivity.cli.reference > docs/commands.md."""

from __future__ import annotations

import click

from sensitivity.cli.main import VERBS, group


def markdown() -> str:
    """docs/commands.md, whole."""
    parts = ["# Commands\n", "Every verb as `--help` shows it.\n"]
    context = click.Context(
        group, info_name="sensitivity", max_content_width=110, terminal_width=110, **group.context_settings
    )
    for name in VERBS:
        command = group.get_command(context, name)
        assert command is not None
        # `info_name` of the child gives the usage line the full command.
        own = click.Context(command, info_name=name, parent=context, max_content_width=110, terminal_width=110)
        parts.append(f"## sensitivity {name}\n\n```text\n{command.get_help(own)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(markdown(), end="")
