"""`armd generate`: text from a checkpoint or an export."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from armd_dist.cli.arguments import DEVICE, EMA, MODEL, device_of


def generate(
    model: Annotated[Path, MODEL],
    prompt: Annotated[list[str] | None, typer.Option(help="Text to continue; repeatable. Default: no prompt.")] = None,
    streams: Annotated[int, typer.Option(min=1, help="Strided streams S: S tokens at a time after the heads.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample among the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the likeliest tokens of this total mass.")] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal text on one kind of device.")] = 0,
    ema: Annotated[bool, EMA] = False,
    device: Annotated[str | None, DEVICE] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object a line: text, tokens, logprobs, passes.")] = False,
) -> None:
    """Generate text in strided parallel streams.

    Example: armd generate runs/quickstart --prompt "The value of" --streams 4 --max-new-tokens 64
    """
    from dataclasses import asdict

    from armd_dist.errors import GenerationError
    from armd_dist.export.open import open_armd
    from armd_dist.generation.generate import generate_text
    from armd_dist.generation.sampling import Sampling

    try:
        sampling = Sampling(temperature, top_k, top_p)
    except ValueError as error:
        raise GenerationError(f"--{str(error).replace('_', '-', 1)}") from error
    network, tokenizer = open_armd(model, ema)
    network.to(device_of(device))
    for text in prompt or [""]:
        start = time.perf_counter()
        sample = generate_text(network, tokenizer, text, streams, max_new_tokens, sampling, seed)
        seconds = time.perf_counter() - start
        if as_json:
            typer.echo(json.dumps({"prompt": text, **asdict(sample)}))
        else:
            typer.echo(text + sample.text)
            typer.secho(
                f"[{max_new_tokens} tokens in {sample.passes} passes, {max_new_tokens / seconds:,.0f} tokens/s]",
                dim=True,
                err=True,
            )
