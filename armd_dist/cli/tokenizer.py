"""`armd tokenizer`: train the tokenizer that every dataset and model shares."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from data_pipeline.document import Document
    from data_pipeline.tokenizer import Tokenizer

app = typer.Typer(no_args_is_help=True, help="Train a sentencepiece tokenizer.")

FERTILITY_CHARACTERS = 1_000_000
SAMPLE = "  She wrote: naïve café, 2048 tokens 🎉\n"


ErrorMode = Literal["strict", "replace"]
ModelType = Literal["bpe", "unigram"]


@app.callback()
def _group() -> None:
    """Train a sentencepiece tokenizer."""


@app.command()
def train(
    input: Annotated[list[str], typer.Option(help="A .txt or .jsonl file, a quoted glob, or python-docs; repeatable.")],
    out: Annotated[Path, typer.Option(help="Model file to write; FILE.json beside it records the settings.")],
    vocab_size: Annotated[
        int, typer.Option(help="Number of pieces, the special tokens and 256 bytes included.")
    ] = 32000,
    model_type: Annotated[ModelType, typer.Option(help="Algorithm.")] = "bpe",
    character_coverage: Annotated[
        float, typer.Option(help="Share of the text's characters that get a piece; bytes spell the others.")
    ] = 0.9995,
    sentences: Annotated[
        int | None, typer.Option(help="Train on so many runs of lines, drawn from all of the text. Default: on all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses those sentences.")] = 0,
    special_token: Annotated[
        list[str] | None, typer.Option(help="One more symbol, as which no text ever parses; repeatable.")
    ] = None,
    errors: Annotated[ErrorMode, typer.Option(help="Text that is not UTF-8: refuse it, or replace bytes.")] = "strict",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing tokenizer.")] = False,
) -> None:
    """Train a tokenizer on text.

    Example: armd tokenizer train --input 'texts/**/*.txt' --out tokenizer.model --vocab-size 32000
    """
    from data_pipeline.tokenizer import Tokenizer
    from data_pipeline.train_tokenizer import train_tokenizer

    with _display() as show:
        made = train_tokenizer(
            input,
            out,
            vocab_size,
            model_type=model_type,
            character_coverage=character_coverage,
            sentences=sentences,
            seed=seed,
            special_tokens=special_token or (),
            errors=errors,
            force=force,
            on_document=show,
        )
    tokenizer = Tokenizer.load(made.path)
    done = "is already trained on this text with these settings" if made.reused else "written"
    typer.echo(f"{made.path} {done}: {tokenizer.vocab_size:,} pieces, sha256 {made.sha256[:12]}")
    typer.echo(f"sample:    {' '.join(map(repr, tokenizer.pieces(tokenizer.encode(SAMPLE))))}")
    typer.echo(f"fertility: {_fertility(tokenizer, input, errors)}")


@contextmanager
def _display() -> "Iterator[Callable[[Document], None]]":
    """A line on stderr of what has been read, and how long it all takes."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    documents = characters = 0
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading")

        def show(document: "Document") -> None:
            nonlocal documents, characters
            documents, characters = documents + 1, characters + len(document.text)
            read = f"{documents:,} documents, {characters / 1e6:,.1f} M characters"
            progress.update(task, description=f"reading {read}, then learning pieces")

        yield show


def _fertility(tokenizer: "Tokenizer", inputs: list[str], errors: ErrorMode) -> str:
    """Tokens per word and bytes per token on the first documents of the text."""
    from data_pipeline.read_text import documents

    words = size = tokens = characters = 0
    for document in documents(inputs, errors):
        tokens += len(tokenizer.encode(document.text))
        words += len(document.text.split())
        size += len(document.text.encode())
        characters += len(document.text)
        if characters >= FERTILITY_CHARACTERS:
            break
    return f"{tokens / max(words, 1):.2f} tokens per word, {size / max(tokens, 1):.2f} bytes per token"
