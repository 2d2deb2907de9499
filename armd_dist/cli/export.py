"""`armd export`: a checkpoint as a Hugging Face folder."""

from pathlib import Path
from typing import Annotated

import typer

from armd_dist.cli.arguments import EMA


def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A run folder (its newest checkpoint) or a checkpoint folder.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    max_shard_size: Annotated[str, typer.Option(help="Largest safetensors file.")] = "5GB",
    ema: Annotated[bool, EMA] = False,
) -> None:
    """Write a Hugging Face folder that loads with transformers alone, and check it against the checkpoint.

    Example: armd export runs/quickstart runs/quickstart/export
    """
    from armd_dist.export.write import export_checkpoint

    if export_checkpoint(checkpoint, out, max_shard_size, ema):
        typer.echo(f"{out} written; its logits equal the checkpoint's")
    else:
        typer.echo(f"{out} is already the export of this checkpoint")
