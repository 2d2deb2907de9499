"""Commands for jobs, read as the command line will read them, before a job waits for days to do so."""

import shlex
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from armd_dist.errors import Problem

EXAMPLE = 'write what would stand behind armd, as in --then "export {run} {run}/export"; {run} is the run\'s folder'
# Of every error that a command line makes; typer names it under no public name of its own.
UsageError: Any = typer.BadParameter.__base__


def problems_of(commands: Sequence[str], option: str = "--then", remedy: str = EXAMPLE) -> "list[Problem]":
    """A problem for every command that armd would refuse; `option`: where they were given."""
    from armd_dist.errors import Problem

    problems = []
    for command in commands:
        try:
            with redirect_stdout(StringIO()):  # a command that lacks another prints its help
                _parse(shlex.split(command))
        except UsageError as error:
            rule = error.format_message().rstrip(".") or "lacks the name of a command"
            problems.append(Problem(option, command, rule, remedy))
        except ValueError as error:
            problems.append(Problem(option, command, f"is no command: {error}", remedy))
    return problems


def _parse(words: list[str]) -> None:
    from armd_dist.cli.main import app

    command: Any = typer.main.get_command(app)
    if not words or "--help" in words:
        raise ValueError("it would do nothing")
    context = command.make_context("armd", words)
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, words, parent=context)
