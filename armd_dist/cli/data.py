"""`armd data`: text to shards, and a look at what lies there."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from armd_dist.cli.ledger import ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from data_pipeline.inspect_dataset import Inspection
    from data_pipeline.write_shards import BuildSummary, Progress

app = typer.Typer(no_args_is_help=True, help="Build, inspect and verify token datasets.")

app.command()(ledger)

BAR_WIDTH = 40
INPUT = "A .txt, .jsonl, .tar (also .gz, .zst) or .parquet file, a quoted glob, or python-docs; repeatable."

ErrorMode = Literal["strict", "replace"]
Folder = Annotated[
    str, typer.Argument(metavar="DIR", help="A dataset or its URL, or the --out of a build: both splits.")
]


@app.command()
def build(
    input: Annotated[list[str], typer.Option(help=INPUT)],
    tokenizer: Annotated[Path, typer.Option(help="Model file from `armd tokenizer train`, or another's folder.")],
    out: Annotated[Path, typer.Option(help="Folder to make; holds train/ and held_out/.")],
    workers: Annotated[int, typer.Option(min=1, help="Tokenizing processes; the result is the same for any.")] = 1,
    held_out: Annotated[float, typer.Option(help="Share of documents kept from training, by hash of the text.")] = 0.0,
    errors: Annotated[ErrorMode, typer.Option(help="Text that is not UTF-8: refuse it, or replace bytes.")] = "strict",
    shard_tokens: Annotated[int, typer.Option(min=1, help="Tokens after which a shard is closed.")] = 1 << 26,
    seed: Annotated[int, typer.Option(help="Chooses which documents are held out.")] = 0,
    text_key: Annotated[str, typer.Option(help="JSON key or parquet column that holds the text.")] = "text",
    min_characters: Annotated[int, typer.Option(min=0, help="Shorter documents are left out and counted.")] = 0,
    deduplicate: Annotated[bool, typer.Option("--deduplicate", help="Keep the first of equal documents.")] = False,
    part: Annotated[str | None, typer.Option(metavar="I/N", help="Only the I-th of N shares of the files.")] = None,
) -> None:
    """Tokenize text into shards for training.

    A build that was killed is continued by the same command: its finished shards are kept.

    Example: armd data build --input 'texts/**/*.txt' --tokenizer tokenizer.model --out data/books --workers 8
    """
    from data_pipeline.write_shards import build_dataset

    with _display() as show:
        summary = build_dataset(
            input,
            tokenizer,
            out,
            workers=workers,
            held_out=held_out,
            errors=errors,
            shard_tokens=shard_tokens,
            seed=seed,
            text_key=text_key,
            min_characters=min_characters,
            deduplicate=deduplicate,
            part=_part(part),
            progress=show,
        )
    _report(summary)


@contextmanager
def _display() -> "Iterator[Callable[[Progress], None]]":
    """A line on stderr of what is written, how fast, and how long it will take still."""
    import time

    from rich.console import Console
    from rich.progress import Progress as Display
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    start = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Display(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("reading")

        def show(so_far: "Progress") -> None:
            seconds = max(time.monotonic() - start, 1e-9)
            rate = so_far.tokens / seconds / 1e3
            text = f"{so_far.documents:,} documents  {so_far.tokens / 1e6:,.2f} M tokens  {rate:,.0f} k tokens/s"
            share = so_far.read / so_far.total if so_far.total else 0
            left = f"  {share:.0%}, {seconds * (1 / share - 1):,.0f} s left" if share else ""
            display.update(task, description=text + left)

        yield show


def _report(summary: "BuildSummary") -> None:
    out, skipped = summary.folder, summary.skipped
    typer.echo(f"{out} is already built from this text with these settings" if summary.reused else f"{out} written")
    for name, manifest in summary.splits.items():
        counts = f"{manifest.documents:,} documents, {manifest.tokens:,} tokens, shards: {len(manifest.shards)}"
        typer.echo(f"  {out / name}: {counts}")
    if summary.kept_shards:
        typer.echo(f"  kept from an earlier run: {summary.kept_shards:,} finished shards")
    reasons = {"for lack of text": skipped.empty, "as too short": skipped.short, "as copies": skipped.duplicate}
    for reason, count in reasons.items():
        if count:
            typer.echo(f"  skipped {reason}: {count:,} documents")


def _part(text: str | None) -> tuple[int, int] | None:
    from data_pipeline.errors import DataError

    if text is None:
        return None
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal()):
        raise DataError(f"--part {text}: write which part of how many, as in 3/8")
    return int(number), int(parts)


@app.command()
def merge(
    parts: Annotated[Path, typer.Argument(metavar="PARTS", help="The --out of the builds with --part.")],
    out: Annotated[Path, typer.Option(help="Folder to make; shards are hard links where possible.")],
) -> None:
    """Join the parts that a job array built into one dataset.

    Example: armd data merge data/parts --out data/books
    """
    from data_pipeline.merge_parts import merge_parts

    for name, manifest in merge_parts(parts, out).items():
        typer.echo(f"{out / name}: {manifest.documents:,} documents, {manifest.tokens:,} tokens")


@app.command()
def inspect(
    folder: Folder, samples: Annotated[int, typer.Option(min=0, help="Documents to show the start of.")] = 3
) -> None:
    """Show counts, document lengths and decoded samples of a dataset.

    Example: armd data inspect data/books/train --samples 5
    """
    from data_pipeline.inspect_dataset import inspect_dataset
    from data_pipeline.manifest import dataset_folders

    for path in dataset_folders(folder).values():
        _show(inspect_dataset(path, samples))


@app.command()
def verify(folder: Folder) -> None:
    """Check every checksum, index and token of a dataset; exits with an error that lists what is wrong.

    Example: armd data verify data/books
    """
    from rich.console import Console
    from rich.progress import Progress

    from data_pipeline.errors import DataError
    from data_pipeline.manifest import dataset_folders
    from data_pipeline.open_dataset import open_dataset
    from data_pipeline.verify import verify_dataset

    for name, path in dataset_folders(folder).items():
        shards = open_dataset(path).manifest.shards
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(f"verifying {name}", total=len(shards))
            problems = verify_dataset(path, lambda _, task=task: progress.advance(task))
        if problems:
            raise DataError("\n  ".join([f"{path}: {len(problems)} problem(s)", *problems]))
        typer.echo(f"{path}: {len(shards)} shard(s) verified, no problem found")


def _show(found: "Inspection") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, manifest = Console(), found.manifest
    console.print(f"[bold]{escape(str(found.folder))}[/bold]  {manifest.hash()[:12]}", highlight=False)
    console.print(
        f"{manifest.documents:,} documents, {manifest.tokens:,} {manifest.dtype} tokens, shards: {len(manifest.shards)}"
    )
    console.print(f"vocabulary {manifest.vocab_size:,}, tokenizer {manifest.tokenizer_sha256[:12]}", highlight=False)
    console.print(
        "document length in tokens, 0/10/50/90/100 %: " + " / ".join(f"{value:,}" for value in found.quantiles)
    )
    table = Table("tokens", "documents", "", box=None)
    most = max(count for _, count in found.histogram)
    for shortest, count in found.histogram:
        table.add_row(f"{shortest:,} to {2 * shortest - 1:,}", f"{count:,}", "█" * -(-BAR_WIDTH * count // most))
    console.print(table)
    for number, text in found.samples:
        console.print(f"[cyan]document {number:,}[/cyan]: {escape(repr(text))}", highlight=False)
