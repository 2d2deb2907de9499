"""The options of `armd eval`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

Dtype = Literal["float32", "bfloat16", "float64"]
JudgeDtype = Literal["float32", "bfloat16", "float16"]
DATA = typer.Option(help="A dataset made by `armd data build`, for example DIR/held_out, or its URL.")


def _something_to_read(context: typer.Context, texts: list[str] | None) -> list[str] | None:
    """Told when the command line is read, and so to those who submit it as a job too."""
    if not texts and context.params.get("data") is None:
        rule = "Missing option '--data': a dataset made by armd data build; or give --texts FORMAT=FILE."
        raise typer.BadParameter(rule, param_hint="--data")
    return texts


TEXTS = typer.Option(
    help="Texts that are no dataset: FORMAT=FILE (wikitext2, lambada, jsonl, ...), or a YAML of sets; repeatable.",
    callback=_something_to_read,
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
SAMPLES = typer.Option(min=0, help="Also write so many texts in each number of streams, timed, beside held-out ones.")
NEW_TOKENS = typer.Option(min=1, help="Tokens of each sample.", show_default="the rest of a window")
PROMPT_TOKENS = typer.Option(min=0, help="Held-out tokens in front of each sample; 0: none.")
TEMPERATURE = typer.Option(min=0.0, help="Of the samples.")
TOP_P = typer.Option(help="Of the samples: among the likeliest tokens of this total mass.", show_default="all")
JUDGE = typer.Option(help="Folder of a Hugging Face causal model, for the samples' perplexity under it.")
JUDGE_DTYPE = typer.Option(help="In which the judge computes.")
REMOTE_CODE = typer.Option("--trust-remote-code", help="The judge may bring Python files, as our exports do.")


@dataclass(frozen=True)
class Given:
    """All of them, as they were given."""

    model: Path
    data: str | None
    texts: list[str] | None
    streams: str | None
    blocks: str | None
    random_orders: int | None
    windows: int | None
    samples: int
    new_tokens: int | None
    prompt_tokens: int
    temperature: float
    top_p: float | None
    judge: Path | None
    judge_dtype: str
    trust_remote_code: bool
    out: Path | None
    batch_size: int
    sequence_length: int | None
    stride: int | None
    dtype: str
    tensor_parallel: int
    pipeline_parallel: int
    ema: bool
    device: str | None
