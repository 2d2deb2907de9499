"""`armd eval`: perplexity under strided orders, and bounds over random ones."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armd_dist.cli.arguments import DEVICE, EMA, MODEL, device_of

if TYPE_CHECKING:
    from rich.progress import Progress

    from armd_dist.evaluation.report import Results
    from armd_dist.export.open import Opened
    from data_pipeline.stream import TokenStream

MASKINGS = 8  # draws for each window of a denoiser's bound


def evaluate(
    model: Annotated[Path, MODEL],
    data: Annotated[
        str, typer.Option(help="A dataset made by `armd data build`, for example DIR/held_out, or its URL.")
    ],
    streams: Annotated[
        str | None, typer.Option(help="Numbers of streams, separated by commas.", show_default="1,2,4")
    ] = None,
    random_orders: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Random orders of each window for the any-order bound; for a denoiser maskings.",
            show_default=f"0; {MASKINGS} for a denoiser",
        ),
    ] = None,
    windows: Annotated[int | None, typer.Option(min=1, help="Only the first windows.", show_default="all")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per forward pass.")] = 16,
    sequence_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a window.", show_default="that of training")
    ] = None,
    ema: Annotated[bool, EMA] = False,
    device: Annotated[str | None, DEVICE] = None,
) -> None:
    """Measure exact perplexity left to right and under strided orders, heads and parallel phase apart.

    With --random-orders also the bound over random orders, beside the tighter one of importance weighting. A denoiser
    (MDLM, BD3-LM) has its NELBO alone. A model trained with data.attention=within_document is measured so too.

    Example: armd eval runs/quickstart --data runs/quickstart-data/tokens/held_out --random-orders 4 --out runs/eval
    """
    from rich.console import Console
    from rich.progress import Progress

    from armd_dist.evaluation.report import table, write_json
    from armd_dist.export.open import open_model, window_length
    from data_pipeline.manifest import check_tokenizer
    from data_pipeline.stream import TokenStream

    _refuse_several_processes()
    (opened := open_model(model, ema)).network.to(device_of(device))
    stream = TokenStream(data, window_length(opened, sequence_length), seed=0)
    check_tokenizer(stream.manifest, opened.tokenizer, data)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        results = _evaluate(opened, stream, streams, random_orders, windows, batch_size, progress)
    Console().print(table(results, opened.within_document))
    if out is not None:
        typer.echo(f"{write_json(out, results, model, stream, opened.attention, opened.ema)} written")


def _refuse_several_processes() -> None:
    """One process measures every window. Several would each measure all of them, and write one file at once."""
    from armd_dist.errors import EvaluationError

    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise EvaluationError(
            f"WORLD_SIZE={processes}: armd eval works in one process, on one GPU; start it without torchrun"
        )


def _evaluate(
    opened: "Opened",
    stream: "TokenStream",
    streams: str | None,
    random_orders: int | None,
    windows: int | None,
    batch_size: int,
    progress: "Progress",
) -> "Results":
    from armd_dist.errors import EvaluationError
    from armd_dist.evaluation.report import evaluate_maskings, evaluate_orders, parse_streams
    from armd_dist.model.armd import ARMD

    count = min(windows or stream.num_windows, stream.num_windows)
    network, apart = opened.network, opened.within_document
    if isinstance(network, ARMD):
        wanted, draws = parse_streams("1,2,4" if streams is None else streams), random_orders or 0
        task = progress.add_task("evaluating", total=count * (len(wanted) + draws))
        return evaluate_orders(
            network, stream, wanted, draws, count, batch_size, lambda done: progress.advance(task, done), apart
        )
    if streams is not None:
        raise EvaluationError(f"--streams {streams}: a denoiser has a bound and no strided likelihood; leave it out")
    if random_orders == 0:
        raise EvaluationError("--random-orders 0: a denoiser's bound needs maskings; use 1 or more")
    draws = random_orders or MASKINGS
    task = progress.add_task("evaluating", total=count * draws)
    return evaluate_maskings(
        network, stream, opened.block_length, draws, count, batch_size, lambda done: progress.advance(task, done), apart
    )
