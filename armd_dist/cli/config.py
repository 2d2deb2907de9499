"""`armd config`: the resolved settings of a run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from armd_dist.cli.arguments import CONFIG, OVERRIDES


def config(
    path: Annotated[Path | None, CONFIG] = None,
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of all settings, for editors.")
    ] = False,
) -> None:
    """Print every setting of a run as it would be used, or what is wrong with it.

    Example: armd config configs/quickstart.yaml model.num_layers=6
    """
    from armd_dist.config import load_run, to_yaml
    from armd_dist.run import Run

    if schema:
        typer.echo(json.dumps(Run.model_json_schema(), indent=2))
    elif path is None:
        raise typer.BadParameter("give a CONFIG, or --schema")
    else:
        typer.echo(to_yaml(load_run(path, overrides)), nl=False)
