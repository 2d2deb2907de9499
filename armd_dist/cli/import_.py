"""`armd import`: a pretrained AR model as a checkpoint to begin with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from armd_dist.model.config import ModelConfig


def import_(
    folder: Annotated[
        Path, typer.Argument(metavar="HF_DIR", help="A Hugging Face folder: GPT-2, Llama, or an export of ours.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to make.")],
    max_sequence_length: Annotated[
        int | None,
        typer.Option(min=2, help="model.max_sequence_length.", show_default="as many as it was made for, up to 4096"),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(help="Load the model in transformers too and compare logits; takes memory for both, in fp32."),
    ] = True,
) -> None:
    """Make a checkpoint of a pretrained AR model, which computes the same left to right, with any two_stream_layers.

    Example: armd import gpt2 imported/gpt2, then armd train configs/adapt_gpt2.yaml
    """
    from armd_dist.export.incoming.write import import_model

    done = import_model(folder, out, max_sequence_length, verify)
    checked = "" if done.difference is None else f"; logits differ from transformers' by {done.difference:.0e} at most"
    typer.echo(f"{out} written{checked}. Data for it: armd data build --tokenizer {out / 'tokenizer.model'} ...")
    typer.echo(f"A run on it has checkpoint.weights_from={out}, and of the model:\n\n{_settings(done.config)}")


def _settings(config: "ModelConfig") -> str:
    """What a configuration has to say of the network: whatever is not the default."""
    shape = config.model_dump(include={"vocab_size", "hidden_size", "num_layers", "num_attention_heads"})
    usual = type(config).model_validate(shape).model_dump()
    found = shape | {name: value for name, value in config.model_dump().items() if usual[name] != value}
    lines = [f"  {name}: {str(value).lower() if isinstance(value, bool) else value}" for name, value in found.items()]
    return "\n".join(["model:", *lines])
