"""Trains one small model under many layouts, for test_grid.py. Started with torchrun.

Starting processes takes longer than training, so that one start goes through all layouts of its number of processes.
For each it writes losses and gradient norms of every step; the weights at the end and their average, gathered, and on
one process what the average is in plain torch; the loss of held-out samples before and after; the bytes that a forward
pass keeps; how many weights this process holds between steps; and each process' last seed of dropout.
"""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from alive import Alive
from megatron.core import parallel_state
from torch import Tensor

from armd_dist.checkpoint.pieces import Piece, stage
from armd_dist.checkpoint.tensors import read_tensors
from armd_dist.checkpoint.writing import write_tensors
from armd_dist.objectives.learned_order import learned_order_batch
from armd_dist.objectives.likelihood import MicroBatch, ordered_batch
from armd_dist.objectives.masked_diffusion import draw_masking, masked_batch
from armd_dist.orders.order import Order
from armd_dist.orders.schemes import any_order, in_blocks, left_to_right, masked_diffusion, segments, strided
from armd_dist.parallel.engine import Engine
from armd_dist.parallel.topology import arrange, start, stop
from armd_dist.run import Run

STEPS, LENGTH, VOCAB, BATCH, BOS, EOS = 20, 12, 90, 8, 1, 0
EMA_DECAY = 0.6  # from step 13 on; before it the average warms up
DOCUMENTS = "documents"  # as data.path: each sample has several

TREE: dict[str, Any] = {
    "run": {"dir": "unused"},
    "model": {
        "vocab_size": VOCAB,
        "max_sequence_length": LENGTH,
        "hidden_size": 32,
        "num_layers": 3,
        "num_attention_heads": 4,
        "two_stream_layers": 2,
        "qk_norm": True,
        "pad_vocab_to": 32,
        "init_std": 0.1,
    },
    "data": {"path": "unused", "sequence_length": LENGTH},
    "orders": {"rho_max": 4},
    "training": {
        "steps": STEPS,
        "global_batch_size": BATCH,
        "micro_batch_size": 2,
        "precision": "fp32",
        "learning_rate": 3e-3,
        "warmup_steps": 4,
        "clip_grad": 0.5,
        "weight_decay": 0.1,
        "ema_decay": EMA_DECAY,
        "adam_eps": 1e-5,  # where a gradient is next to nothing, Adam would blow its rounding up to a whole step
    },
}

Draw = Callable[[np.random.Generator], Order]
ORDERS: tuple[Draw, ...] = (
    lambda draw: any_order(LENGTH, draw),
    lambda draw: in_blocks(segments(LENGTH, 3, draw), 2),
    lambda draw: masked_diffusion(LENGTH, 4, draw),
    lambda draw: strided(LENGTH, 4),
    lambda draw: left_to_right(LENGTH),
)


def make_run(settings: dict[str, Any]) -> Run:
    """The run with these settings, given as {"room.name": value}."""
    tree = {room: dict(values) for room, values in TREE.items()}
    for path, value in settings.items():
        room, name = path.split(".")
        tree.setdefault(room, {})[name] = value
    return Run.model_validate(tree)


def micro_batches(run: Run, step: int, data_rank: int, data_size: int) -> list[MicroBatch]:
    """This process' share of the step; every sample has tokens and an order of its own, by its number alone."""
    share, size = BATCH // data_size, run.training.micro_batch_size
    first = step * BATCH + data_rank * share
    return [_micro_batch(run, list(range(at, at + size))) for at in range(first, first + share, size)]


def _micro_batch(run: Run, samples: list[int]) -> MicroBatch:
    draws = [np.random.default_rng(sample) for sample in samples]
    tokens = torch.from_numpy(np.stack([draw.integers(2, VOCAB, LENGTH // 2).repeat(2) for draw in draws]))
    if run.data.path == DOCUMENTS:
        tokens[:, 2 + samples[0] % 5] = tokens[:, 8] = EOS
    eos_id = EOS if run.data.within_document else None
    if run.model.learned_order:
        return learned_order_batch(tokens, 0, samples, BOS)
    if run.model.network == "denoiser":
        window = run.orders.block_length or LENGTH
        masked = draw_masking(LENGTH, window, 0, samples)
        return masked_batch(tokens, masked, window, BOS, samples[0], eos_id)
    # One micro-batch is of one kind, so that the causal kernel and dense masks both have their turn.
    orders = [ORDERS[samples[0] // len(samples) % len(ORDERS)](draw) for draw in draws]
    return ordered_batch(tokens, orders, BOS, samples[0], eos_id)


class Trainer:
    """An engine under a layout, and where its training stands."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.run = make_run(settings)
        self.topology = arrange(self.run.parallel, torch.device("cpu"))
        self.engine = Engine(self.run, self.topology)
        self.reference = self.whole("weight") if dist.get_world_size() == 1 else {}

    def train(self, steps: Sequence[int]) -> list[tuple[float, float]]:
        """(loss, gradient norm) of each step."""
        found = []
        for step in steps:
            parts = micro_batches(self.run, step, self.topology.data_rank, self.topology.data_size)
            result = self.engine.train_step(parts, self.run.training.learning_rate * min(1.0, (step + 1) / 4))
            found.append((result.loss, result.grad_norm))
            decay, weights = min(EMA_DECAY, (2 + step) / (11 + step)), self.whole("weight") if self.reference else {}
            self.reference = {
                name: decay * value + (1 - decay) * weights[name] for name, value in self.reference.items()
            }
        return found

    def evaluate(self, step: int) -> float:
        return self.engine.evaluate(micro_batches(self.run, step, self.topology.data_rank, self.topology.data_size))

    def whole(self, part: str) -> dict[str, Tensor]:
        """Whole tensors of all stages, of which every process gives what it would save. Collective."""
        found: list[dict[str, Piece]] = [{}] * dist.get_world_size()
        dist.all_gather_object(found, stage(self.engine.state(), {}))
        whole: dict[str, Tensor] = {}
        for key, piece in [item for mine in found for item in mine.items() if item[0].startswith(f"{part}/")]:
            weight = whole.setdefault(key.removeprefix(f"{part}/"), torch.full(piece.whole, torch.nan))
            for offsets, box in piece.boxes():
                place = tuple(slice(at, at + size) for at, size in zip(offsets, box.shape, strict=True))
                assert weight[place].isnan().all(), f"{key}: two processes save the same values"
                weight[place] = box
        assert not any(weight.isnan().any() for weight in whole.values()), "values that nobody saves"
        return whole

    def saved_bytes(self) -> int:
        """What the forward pass of the first micro-batch leaves alive on this process for the backward pass."""
        first = micro_batches(self.run, 0, self.topology.data_rank, self.topology.data_size)[0]
        with Alive() as alive:
            loss = self.engine.part(first, self.run.training.z_loss)
        assert loss.objective.requires_grad
        return alive.bytes(list(self.engine.part.parameters()))

    def close(self) -> None:
        """Ends this layout's groups: their threads look around all the time, thousands of them stand in the way."""
        values = [value if isinstance(value, list) else [value] for value in vars(parallel_state).values()]
        groups = {each for value in values for each in value if isinstance(each, dist.ProcessGroup)}
        parallel_state.destroy_model_parallel()
        for group in groups - {dist.group.WORLD}:
            with suppress(ValueError):  # one that Megatron has ended already
                dist.destroy_process_group(group)


def run_case(legs: list[dict[str, Any]], scratch: Path) -> dict[str, Any]:
    """Trains all steps under the layouts of `legs` in turn, each continuing the checkpoint of the one before."""
    curve: list[tuple[float, float]] = []
    tensors: dict[str, dict[str, Tensor]] = {}
    saved = resident = 0
    before = after = 0.0
    bounds = [STEPS * leg // len(legs) for leg in range(len(legs) + 1)]
    for leg, settings in enumerate(legs):
        trainer = Trainer(settings)
        saved = (
            trainer.saved_bytes()
            if len(legs) == 1 and trainer.run.parallel.zero_stage < 2 and not trainer.engine.pipeline
            else 0
        )
        if leg == 0 and dist.get_world_size() > 1:  # not the references, whom it would disturb alike
            before = trainer.evaluate(0)
        if leg:
            read_tensors(scratch / str(leg), trainer.engine.places())
            trainer.engine.go_on_from(bounds[leg])
        curve += trainer.train(range(bounds[leg], bounds[leg + 1]))
        if leg + 1 < len(legs):
            write_tensors(scratch / str(leg + 1), stage(trainer.engine.state(), {}))
        tensors = {
            "weights": trainer.whole("weight"),
            "average": trainer.whole("ema"),
            "reference": trainer.reference,
        }
        after = trainer.evaluate(STEPS)
        resident = sum(parameter.numel() for parameter in trainer.engine.part.parameters())
        trainer.close()
    seeds: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(seeds, torch.initial_seed())
    return {
        "curve": torch.tensor(curve, dtype=torch.float64),
        **tensors,
        "before": before,
        "after": after,
        "saved": saved,
        "resident": resident,
        "seeds": seeds,
    }


def main(cases: dict[str, list[dict[str, Any]]], out: Path) -> None:
    start(make_run({}).parallel)
    parallel_state.destroy_model_parallel()
    for name, legs in cases.items():
        found = run_case(legs, out / f"{name}_checkpoints")
        if dist.get_rank() == 0:
            torch.save(found, out / f"{name}.pt")
    stop()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
