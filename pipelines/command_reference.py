"""The reference of the command line, from the commands' own help: `python -m pipelines.command_reference docs/reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_command

from pipelines.app import app

PAGE = "command-line.md"
_WIDTH = 80
_HEAD = """# Command line

This page is made from the help of the commands (`recontour COMMAND --help`).
What a command writes, and how its result is to be read, stands in the [user guide](../user-guide.md).
What it exits with stands under [exit codes](exit-codes.md).
"""


@dataclass(frozen=True)
class Called:
    """A command or a group of commands.

    Args:
        words: that call it: `recontour models add`.
        command: Typer's own object, which has `params` and, of a group, `commands`.
        context: with which it parses its arguments; Typer does not publish the types of either.
    """

    words: str
    command: Any
    context: Any


def commands() -> Iterator[Called]:
    """Every command and group, in the order of the help."""
    yield from _walk(get_command(app), "recontour", None)


def command_page() -> str:
    """The page as Markdown, with the help of every command at 80 columns."""
    sections = [f"## {one.words}\n\n```text\n{one.command.get_help(one.context)}\n```\n" for one in commands()]
    return "\n".join((_HEAD, *sections))


def _walk(command: Any, name: str, parent: Any) -> Iterator[Called]:
    context = command.context_class(command, info_name=name, parent=parent, terminal_width=_WIDTH, max_content_width=_WIDTH)
    words = f"{parent.command_path} {name}" if parent else name
    yield Called(words, command, context)
    for inner, each in getattr(command, "commands", {}).items():
        yield from _walk(each, inner, context)


if __name__ == "__main__":
    (Path(sys.argv[1]) / PAGE).write_text(command_page(), encoding="utf-8")
