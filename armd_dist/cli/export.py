"""`armd export`: a checkpoint as a Hugging Face folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from armd_dist.cli.arguments import EMA

if TYPE_CHECKING:
    from rich.progress import Progress

    from armd_dist.export.write import Exported


def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A run folder (its newest checkpoint) or a checkpoint folder.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    max_shard_size: Annotated[str, typer.Option(help="Largest safetensors file, of values.")] = "5GB",
    ema: Annotated[bool, EMA] = False,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Type of the weights in the files.")
    ] = "float32",
    verify: Annotated[
        bool,
        typer.Option(
            help="Load both networks in fp32 and compare logits, perplexity and greedy tokens, on held-out text of the "
            "run where it is at hand. Takes memory for both: 8 bytes a parameter. Writing alone takes next to none."
        ),
    ] = True,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            help="evaluation.json of `armd eval --out`, for the README.",
            show_default="the run folder's, if it is newer",
        ),
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option(help="Jinja file, or a Hugging Face folder that has a template: how chats become texts."),
    ] = None,
) -> None:
    """Write a Hugging Face folder that loads with transformers alone, and check it against the checkpoint.

    Weights go from the checkpoint to the files a few rows at a time, whatever layout saved it, so that a model of any
    size is exported in little memory. The folder appears once all of it is there and checked.

    Example: armd export runs/quickstart runs/quickstart/export --dtype bfloat16
    """
    from armd_dist.export.write import export_checkpoint

    with _bar() as progress:
        task = progress.add_task("writing", total=None)

        def told(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        done = export_checkpoint(checkpoint, out, max_shard_size, ema, dtype, verify, evaluation, told, chat_template)
    typer.echo(_told(out, dtype, done))


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)


def _told(out: Path, dtype: str, done: "Exported | None") -> str:
    if done is None:
        return f"{out} is already the export of this checkpoint"
    written = f"{out} written, {done.bytes / 1e6:,.1f} MB of weights in {dtype}"
    if done.verified is None:
        return f"{written}; not compared with the checkpoint (--no-verify)"
    found = done.verified
    cast = "" if dtype == "float32" else f"'s weights in {dtype}"
    before = "" if dtype == "float32" else f" (float32: {found.in_fp32:.6g}, {found.perplexity - found.in_fp32:+.2g})"
    return (
        f"{written}; it equals the checkpoint{cast} on {found.text}: logits within {found.difference:.0e}, "
        f"greedy tokens of 1 and 4 streams the same, perplexity {found.perplexity:.6g}{before}"
    )
