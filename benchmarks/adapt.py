"""What a pretrained AR model knows of other orders when it is imported, and after a short curriculum.

Example, ten minutes on two cores:

    python benchmarks/adapt.py --text tinyshakespeare.txt --folder /tmp/adapt --out adapt.json

transformers trains a small GPT-2 on the first nine tenths of a text file; `armd import` makes a checkpoint of it and
`armd train` goes on from that. Nats per token of the last tenth, under six orders, are measured of the import with
different numbers of two-stream layers, of the adapted network, and of a new one.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel
from turns import report, run_command, setting

from armd_dist.checkpoint.tensors import load_model
from armd_dist.model.armd import ARMD
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.objectives.likelihood import ordered_batch
from armd_dist.orders.order import Order
from armd_dist.orders.schemes import any_order, left_to_right, segments, strided
from armd_dist.tables import plain_table
from armd_dist.training.weights_from import name_there
from data_pipeline.stream import TokenStream

LENGTH, VOCAB, WIDTH, LAYERS, HEADS, BATCH = 128, 1000, 96, 4, 4, 16
WINDOWS = 48
ADAPT = {"left_to_right_steps": 10, "progressive_steps": 100, "rho_max": 8, "strided_from": 130}
STEPS, RATE = 200, 1e-3

ORDERS: dict[str, Callable[[np.random.Generator], Order]] = {
    "left to right": lambda draw: left_to_right(LENGTH),
    "strided, 2": lambda draw: strided(LENGTH, 2),
    "strided, 4": lambda draw: strided(LENGTH, 4),
    "2 segments": lambda draw: segments(LENGTH, 2, draw),
    "32 segments": lambda draw: segments(LENGTH, 32, draw),
    "any order": lambda draw: any_order(LENGTH, draw),
}


def armd(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "armd_dist", *map(str, words)], check=True, stdout=sys.stderr)


def divide(text: Path, folder: Path) -> None:
    content = text.read_text(encoding="utf-8")
    cut = content.rindex("\n", 0, len(content) * 9 // 10)
    (folder / "train.txt").write_text(content[:cut])
    (folder / "held_out.txt").write_text(content[cut:])


def pretrain(folder: Path, steps: int) -> Path:
    """A GPT-2 of transformers, with its tokenizer."""
    out = folder / "gpt2"
    out.mkdir()
    text = (folder / "train.txt").read_text()
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([text], vocab_size=VOCAB, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer.save_model(str(out))
    ids = torch.tensor(tokenizer.encode(text).ids)
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "n_embd": WIDTH,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_positions": LENGTH,
        "vocab_size": VOCAB,
    }
    shape |= {"bos_token_id": 0, "eos_token_id": 0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(**shape))
    adam = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        windows = ids.unfold(0, LENGTH - 1, 1)[torch.randint(len(ids) - LENGTH, (BATCH,))]
        inputs = torch.nn.functional.pad(windows, (1, 0))
        loss = model(inputs, labels=inputs).loss
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
    model.eval().save_pretrained(out)
    return out


def adapt(folder: Path, imported: Path) -> Path:
    """Two of the layers with two streams, through a short curriculum."""
    model = load_model(imported)[1].model.model_dump() | {"two_stream_layers": 2}
    training = {"steps": STEPS, "global_batch_size": BATCH, "micro_batch_size": BATCH, "precision": "fp32"}
    training |= {"learning_rate": RATE, "warmup_steps": 10}
    rooms = {"model": model, "orders": ADAPT, "training": training}
    words = [f"{room}.{name}={value}" for room, values in rooms.items() for name, value in values.items()]
    words += [
        f"run.dir={folder / 'run'}",
        f"data.path={folder / 'tokens' / 'train' / 'train'}",
        f"data.sequence_length={LENGTH}",
    ]
    (folder / "empty.yaml").write_text("logging: {wandb: disabled}\n")
    armd("train", folder / "empty.yaml", *words, f"checkpoint.weights_from={imported}")
    return folder / "run"


def with_streams(checkpoint: Path, layers: int) -> ARMD:
    """Its network with so many two-stream layers, weights by their place, as checkpoint.weights_from takes them."""
    network, run, _ = load_model(checkpoint)
    there, before = network.state_dict(), run.model.two_stream_layers
    assert before is not None, "ModelConfig fills it"
    made = ARMD(run.model.model_copy(update={"two_stream_layers": layers, "pad_vocab_to": 1}), PlainLayers())
    made.load_state_dict({name: there[name_there(name, layers, before)] for name in made.state_dict()})
    return made.eval()


@torch.no_grad()
def measure(network: ARMD, windows: torch.Tensor) -> dict[str, float]:
    draws = [[order(np.random.default_rng(row)) for row in range(len(windows))] for order in ORDERS.values()]
    found = [ordered_batch(windows, orders, bos_id=0).loss(network).nll.item() for orders in draws]
    return dict(zip(ORDERS, found, strict=True))


def show(found: dict[str, dict[str, float]], console: Console) -> None:
    table = plain_table("nats per token", *ORDERS)
    for name, nats in found.items():
        table.add_row(name, *(f"{value:.3f}" for value in nats.values()))
    console.print(table)


def main(
    text: Annotated[Path, typer.Option(help="A text of a megabyte or so.")],
    folder: Annotated[Path, typer.Option(help="Folder to make, for everything that is written.")],
    steps: Annotated[int, typer.Option(min=1, help="Of the GPT-2.")] = 600,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    folder.mkdir(parents=True)
    divide(text, folder)
    armd("import", pretrain(folder, steps), folder / "imported")
    for part in ("train", "held_out"):
        tokens = ["--tokenizer", folder / "imported" / "tokenizer.model", "--out", folder / "tokens" / part]
        armd("data", "build", "--input", folder / f"{part}.txt", *tokens)
    stream = TokenStream(folder / "tokens" / "held_out" / "train", LENGTH, seed=0)
    windows = torch.from_numpy(stream.windows(np.arange(min(WINDOWS, stream.num_windows))))
    found: dict[str, Any] = {
        f"imported, two_stream_layers {layers}": measure(with_streams(folder / "imported", layers), windows)
        for layers in (0, 1, 2, LAYERS)
    }
    found[f"2, after {STEPS} steps"] = measure(with_streams(adapt(folder, folder / "imported"), 2), windows)
    new = with_streams(folder / "imported", 2)
    initialize(new, new.config, seed=0)
    found["a new network"] = measure(new, windows)
    facts = setting(torch.device("cpu"), text=text.name, gpt2_steps=steps, adapt_steps=STEPS, learning_rate=RATE)
    report(facts, found, show, out)


if __name__ == "__main__":
    run_command(main, __doc__)
