"""Two processes that write a checkpoint and open it under several layouts, for test_opening.py.

Each saves what it found in a file of its own: for each layout and kind of weights, how far the nats of a batch are from
those of the network on one process, and what the process holds; and, where it holds all layers, what it generates.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from layouts import BOS, LENGTH, VOCAB, make_run
from megatron.core import parallel_state
from torch import Tensor

from armd_dist.checkpoint.folder import TrainingState, finish, partial_folder, step_folder
from armd_dist.checkpoint.pieces import Piece
from armd_dist.checkpoint.tensors import load_model
from armd_dist.checkpoint.writing import write_tensors
from armd_dist.config import to_yaml
from armd_dist.generation.decoder import Generated, decode
from armd_dist.generation.passes import make_batch, turns_of
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.model.network import Network, make_network
from armd_dist.objectives.likelihood import MicroBatch, ordered_batch
from armd_dist.orders.schemes import any_order, strided
from armd_dist.orders.strided import strided_places
from armd_dist.parallel.config import ParallelConfig
from armd_dist.parallel.opening import open_parallel
from armd_dist.parallel.pipeline import Part
from armd_dist.parallel.topology import arrange, start
from armd_dist.run import Run

# Two matrices of the MLP in one, and heads that share keys: what tensor parallelism could cut in the wrong place.
SETTINGS = {"model.num_key_value_heads": 2, "model.activation": "swiglu", "parallel.zero_stage": 1}
UNTIED = {"model.tie_embeddings": False, "training.precision": "bf16"}
PIPELINE = {"pipeline": 2}
LAYOUTS = {"tensor": {"tensor": 2}, "pipeline": PIPELINE, "data": {}}


def write_checkpoint(run: Run, folder: Path) -> Path:
    """A run's checkpoint, each process its share of it; the average of the weights has numbers of its own."""
    partial, rank = partial_folder(folder, 1), dist.get_rank()
    partial.mkdir(parents=True, exist_ok=True)
    pieces: dict[str, Piece] = {}
    for kind, seed in (("weight", 0), ("ema", 1)):
        network = make_network(run.model, PlainLayers())
        initialize(network, run.model, seed)
        draw = torch.Generator().manual_seed(seed)
        for name, weight in network.named_parameters():
            moved = weight.detach() + 0.1 * torch.randn(weight.shape, generator=draw)
            pieces[f"{kind}/{name}"] = Piece.of_whole(moved).share(rank, dist.get_world_size())
    write_tensors(partial, pieces)
    dist.barrier()
    if rank == 0:
        (partial / "run.yaml").write_text(to_yaml(run))
        finish(partial, step_folder(folder, 1), TrainingState(1, 8, 0, "strided", 1, "m", "t", {}, {}), {})
    dist.barrier()
    return folder


def batch() -> MicroBatch:
    """Two texts, in a random order and in strided streams."""
    draw = np.random.default_rng(0)
    tokens = torch.from_numpy(draw.integers(2, VOCAB, (2, LENGTH)))
    return ordered_batch(tokens, [any_order(LENGTH, draw), strided(LENGTH, 4)], BOS, 0, None)


@torch.no_grad()
def nats(part: Part) -> Tensor | None:
    """[rows, batch] of the batch; None on the first of two stages, which sends its rows to the next."""
    network, given = part.networks[0], batch()
    if network.stage.embeds and not network.stage.predicts:
        rows = network(given.layout)
        dist.send(torch.tensor(rows.shape), 1)
        dist.send(rows, 1)
        return None
    rows = None
    if not network.stage.embeds:
        dist.recv(shape := torch.empty(3, dtype=torch.int64), 0)
        dist.recv(rows := torch.empty(*shape.tolist()), 0)
    return network.layers.token_nll(network(given.layout, rows=rows), given.targets)


@torch.no_grad()
def nats_alone(network: Network) -> Tensor:
    given = batch()
    return network.layers.token_nll(network(given.layout), given.targets)


def generated(network: ARMD) -> Generated:
    """Texts of different lengths, known tokens and orders, drawn with a penalty."""
    texts: list[list[int | None]] = [[5, 9, *[None] * 8], [None, 7, None, None, 3], [None] * 6]
    turns = [turns_of(strided_places(8, 4)), [2, 3, 1], [1, 1, 2, 2, 3, 3]]
    sampling = Sampling(temperature=1.5, repetition_penalty=1.2)
    return decode(network, *make_batch(texts, turns, BOS), sampling, BOS, seeds=[3, 4, 5])


def main(out: Path) -> None:
    start(ParallelConfig.model_validate({}))
    parallel_state.destroy_model_parallel()
    runs = {"tied": make_run(SETTINGS), "untied": make_run(SETTINGS | UNTIED)}
    found: dict[str, Any] = {}
    for name, run in runs.items():
        folder = write_checkpoint(run, out / name)
        for layout, sizes in LAYOUTS.items():
            topology = arrange(ParallelConfig.model_validate(sizes), torch.device("cpu"))
            for ema in (False, True):
                part, opened = open_parallel(folder, topology, ema)
                alone = load_model(folder, ema)[0]
                mine, wanted = nats(part), nats_alone(alone)
                found[f"{name}-{layout}-{'ema' if ema else 'weight'}"] = {
                    "apart": None if mine is None else (mine - wanted).abs().max().item(),
                    "weights": {weight: tuple(value.shape) for weight, value in part.weights()},
                    "frozen": not any(value.requires_grad for value in part.parameters()) and not part.training,
                    "layout": (opened.parallel.tensor, opened.parallel.pipeline, opened.parallel.zero_stage),
                }
                if sizes != PIPELINE:
                    texts = [generated(network) for network in (part.networks[0], alone)]  # type: ignore[arg-type]
                    found[f"{name}-{layout}-{'ema' if ema else 'weight'}"]["texts"] = texts
            parallel_state.destroy_model_parallel()
    torch.save(found, out / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
