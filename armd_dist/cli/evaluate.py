"""`armd eval`: perplexity under strided and other orders, and bounds over random ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from armd_dist.cli.arguments import DEVICE, EMA, MODEL, device_of
from armd_dist.cli.place import own_world_size

if TYPE_CHECKING:
    from armd_dist.evaluation.opening import Ready
    from armd_dist.evaluation.study import Findings, Material, Wanted
    from armd_dist.evaluation.texts import TextSet

Dtype = Literal["float32", "bfloat16", "float64"]
DATA = typer.Option(help="A dataset made by `armd data build`, for example DIR/held_out, or its URL.")
TEXTS = typer.Option(
    help="Texts that are no dataset: FORMAT=FILE (wikitext2, lambada, jsonl, ...), or a YAML of sets; repeatable."
)
STREAMS = typer.Option(help="Numbers of streams, separated by commas.", show_default="1,2,4")
BLOCKS = typer.Option(help="Also left to right in blocks of so many neighbours, separated by commas.")
RANDOM_ORDERS = typer.Option(
    min=0,
    help="Random orders of each text for the any-order bound; for a denoiser maskings.",
    show_default="0; 8 for a denoiser",
)
WINDOWS = typer.Option(min=1, help="Only the dataset's first windows.", show_default="all")
OUT = typer.Option(help="Folder for evaluation.json. What is scored is kept: the same command goes on after a kill.")
BATCH_SIZE = typer.Option(min=1, help="Texts per forward pass.")
LENGTH = typer.Option(min=1, help="Tokens of a window.", show_default="that of training")
STRIDE = typer.Option(
    min=1,
    help="With --texts: tokens between the windows of a long document, which see what they share of it.",
    show_default="a whole window",
)
DTYPE = typer.Option(help="Of the weights and the arithmetic; sums are float64 in any case.")
TENSOR = typer.Option(min=1, help="Under torchrun: processes that share a layer.")
PIPELINE = typer.Option(min=1, help="Under torchrun: stages of whole layers.")


def evaluate(
    model: Annotated[Path, MODEL],
    data: Annotated[str | None, DATA] = None,
    texts: Annotated[list[str] | None, TEXTS] = None,
    streams: Annotated[str | None, STREAMS] = None,
    blocks: Annotated[str | None, BLOCKS] = None,
    random_orders: Annotated[int | None, RANDOM_ORDERS] = None,
    windows: Annotated[int | None, WINDOWS] = None,
    out: Annotated[Path | None, OUT] = None,
    batch_size: Annotated[int, BATCH_SIZE] = 16,
    sequence_length: Annotated[int | None, LENGTH] = None,
    stride: Annotated[int | None, STRIDE] = None,
    dtype: Annotated[Dtype, DTYPE] = "float32",
    tensor_parallel: Annotated[int, TENSOR] = 1,
    pipeline_parallel: Annotated[int, PIPELINE] = 1,
    ema: Annotated[bool, EMA] = False,
    device: Annotated[str | None, DEVICE] = None,
) -> None:
    """Measure exact perplexity left to right and under strided orders, heads and parallel phase apart.

    With --random-orders also the bound over random orders, beside the tighter one of importance weighting. A denoiser
    (MDLM, BD3-LM) has its NELBO alone. A model trained with data.attention=within_document is measured so too.
    Intervals are of 95 %, over documents. Under torchrun all processes share the work; the figures stay the same.

    Example: armd eval runs/quickstart --data runs/quickstart-data/tokens/held_out --random-orders 4 --out runs/eval

    On four processes: torchrun --nproc-per-node 4 -m armd_dist eval RUN --data DATA --tensor-parallel 2

    Zero-shot: armd eval RUN --texts configs/evaluation/zero_shot.yaml --texts lambada=lambada_test.jsonl
    """
    world_size = own_world_size()
    wanted, sets = _read(data, texts, streams, blocks, random_orders)

    from armd_dist.evaluation.opening import make_ready, place
    from armd_dist.parallel.config import ParallelConfig

    layout = ParallelConfig.model_validate({"tensor": tensor_parallel, "pipeline": pipeline_parallel})
    with place(world_size, layout) as topology:
        where = device_of(device) if topology is None else topology.device
        ready = make_ready(model, topology, where, dtype, ema)
        material = _material(ready, data, sets, sequence_length, stride, windows)
        settings = {"ema": ema, "dtype": dtype}
        findings = _measure(ready, material, wanted, batch_size, model, settings, out)
        if ready.team.rank == 0:
            _tell(findings, {"model": str(model), **settings}, out)


def _read(
    data: str | None, texts: list[str] | None, streams: str | None, blocks: str | None, random_orders: int | None
) -> "tuple[Wanted, list[TextSet]]":
    """What can be checked before a model is opened. Raises EvaluationError."""
    from armd_dist.errors import EvaluationError
    from armd_dist.evaluation.study import Wanted, parse_numbers
    from armd_dist.evaluation.texts import load_named

    if data is None and not texts:
        raise EvaluationError("--data: is missing; give a dataset made by armd data build, or --texts FORMAT=FILE")
    wanted = Wanted(
        None if streams is None else parse_numbers("--streams", streams),
        None if blocks is None else parse_numbers("--blocks", blocks),
        random_orders,
    )
    return wanted, load_named(texts or [])


def _material(
    ready: "Ready",
    data: str | None,
    sets: "list[TextSet]",
    sequence_length: int | None,
    stride: int | None,
    windows: int | None,
) -> "list[Material]":
    from armd_dist.errors import EvaluationError
    from armd_dist.evaluation.study import passages_of, windows_of
    from armd_dist.export.open import window_length
    from data_pipeline.manifest import check_tokenizer
    from data_pipeline.stream import TokenStream

    length = window_length(ready.opened, sequence_length)
    if stride is not None and stride > length:
        raise EvaluationError(
            f"--stride {stride}: leaves out what stands between windows of {length}; use at most {length}"
        )
    made = []
    if data is not None:
        stream = TokenStream(data, length, seed=0)
        check_tokenizer(stream.manifest, ready.opened.tokenizer, data)
        made.append(windows_of(ready, stream, windows))
    return made + [passages_of(ready, texts, length, stride or length) for texts in sets]


def _measure(
    ready: "Ready",
    material: "list[Material]",
    wanted: "Wanted",
    batch_size: int,
    model: Path,
    settings: dict[str, Any],
    out: Path | None,
) -> "list[Findings]":
    """All of it, with a bar on rank 0."""
    from rich.console import Console
    from rich.progress import Progress

    from armd_dist.evaluation.journal import Journal
    from armd_dist.evaluation.study import measure
    from armd_dist.generation.answers import weights_of

    schemes = wanted.schemes(ready, material)
    rows = sum(scheme.draws for scheme in schemes)
    journal = None if out is None else (Journal(out / "scores.jsonl"), {**settings, "weights": weights_of(model)})
    findings = []
    with Progress(console=Console(stderr=True), transient=True, disable=ready.team.rank > 0) as progress:
        for one in material:
            task = progress.add_task(f"evaluating {one.name}", total=len(one.source.shapes) * rows)
            findings.append(
                measure(ready, one, schemes, batch_size, journal, lambda done, at=task: progress.advance(at, done))
            )
    return findings


def _tell(findings: "list[Findings]", about: dict[str, Any], out: Path | None) -> None:
    from rich.console import Console

    from armd_dist.evaluation.report import table, write_json

    for found in findings:
        Console().print(table(found))
    if out is not None:
        typer.echo(f"{write_json(out, about, findings)} written")
