"""`armd eval`: perplexity under strided orders."""

from pathlib import Path
from typing import Annotated

import typer

from armd_dist.cli.arguments import MODEL


def evaluate(
    model: Annotated[Path, MODEL],
    data: Annotated[Path, typer.Option(help="A dataset made by `armd data build`, for example DIR/held_out.")],
    streams: Annotated[str, typer.Option(help="Numbers of streams, separated by commas.")] = "1,2,4",
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per forward pass.")] = 16,
) -> None:
    """Measure exact perplexity left to right and under strided orders, heads and parallel phase apart.

    Example: armd eval runs/quickstart --data runs/quickstart-data/held_out --streams 1,2,4 --out runs/quickstart/eval
    """
    from rich.console import Console
    from rich.progress import Progress

    from armd_dist.evaluation.report import evaluate_all, parse_streams, table, write_json
    from armd_dist.export.open import open_model
    from data_pipeline.manifest import check_tokenizer
    from data_pipeline.stream import TokenStream

    wanted = parse_streams(streams)
    network, tokenizer = open_model(model)
    stream = TokenStream(data, network.config.max_sequence_length, seed=0)
    check_tokenizer(stream.manifest, tokenizer, data)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("evaluating", total=stream.num_windows * len(wanted))
        results = evaluate_all(network, stream, wanted, batch_size, lambda done: progress.advance(task, done))
    Console().print(table(results))
    if out is not None:
        typer.echo(f"{write_json(out, results, model=model, data=data, manifest_hash=stream.manifest.hash())} written")
