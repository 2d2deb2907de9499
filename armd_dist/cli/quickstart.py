"""`armd quickstart`: the whole system in a few minutes."""

from pathlib import Path
from typing import Annotated

import typer


def quickstart(
    config: Annotated[
        Path, typer.Option(help="YAML file of the run; its folders are relative to where you are.")
    ] = Path("configs/quickstart.yaml"),
    clean: Annotated[bool, typer.Option(help="Delete what an earlier quickstart wrote and start anew.")] = False,
) -> None:
    """Text to tokens, training on two processes, evaluation, export, samples and a report; resumes where it stopped.

    Example: armd quickstart --clean
    """
    import subprocess

    from armd_dist.quickstart.story import tell

    try:
        tell(config, clean)
    except subprocess.CalledProcessError as error:
        typer.echo("error: the command above failed; the next `make quickstart` goes on from here", err=True)
        raise typer.Exit(2 if error.returncode == 2 else 1) from error
