"""From the step to this process' micro-batches: tokens and their orders, both pure functions of the sample's number."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from armd_dist.objectives.learned_order import learned_order_batch
from armd_dist.objectives.likelihood import MicroBatch, ordered_batch
from armd_dist.objectives.masked_diffusion import draw_masking, masked_batch
from armd_dist.orders.curriculum import Position, draw_orders, position_at
from armd_dist.run import Run
from data_pipeline.ledger import RankLedger
from data_pipeline.mixture import Mixture
from data_pipeline.prefetch import Prefetch


class Begun(NamedTuple):
    """Where training goes on: steps that are finished, and samples that they consumed."""

    step: int
    sample: int


class Batches:
    """Every global batch is the same samples whatever the topology; a process takes its contiguous share.

    begun: where the samples of later steps are counted from; another batch size may have made the ones before.
    """

    def __init__(self, run: Run, data: Mixture, data_rank: int, data_size: int, begun: Begun = Begun(0, 0)) -> None:
        self.run = run
        self.data = data
        self.begun = begun
        self.share = run.training.global_batch_size // data_size
        self.offset = data_rank * self.share
        # Where documents are kept apart, the token that ends one.
        self.eos_id = data.manifest.eos_id if run.data.within_document else None
        self.make = self._ordered
        if run.model.network == "denoiser":
            self.make = self._with_learned_order if run.model.learned_order else self._masked

    def numbers(self, step: int) -> np.ndarray:
        """The global numbers of this process' samples of `step` (0-based): int64 [share]."""
        first = self.consumed_samples(step) + self.offset
        return np.arange(first, first + self.share)

    def at(self, step: int, position: Position | None = None) -> list[MicroBatch]:
        """The micro-batches of `step` (0-based) for this process; at another position of the curriculum if given."""
        samples = self.numbers(step)
        tokens = self.data.samples(samples)
        size = self.run.training.micro_batch_size
        position = position or self.position(step)
        return [
            self.make(position, samples[start : start + size], tokens[start : start + size])
            for start in range(0, self.share, size)
        ]

    def from_step(self, first: int, last: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of steps first to last - 1, each drawn while the step before it is computed."""
        steps = range(first, last)
        with (
            Prefetch(self.data, map(self.numbers, steps)) as prefetch,
            ThreadPoolExecutor(1, thread_name_prefix="data") as pool,
        ):
            coming = pool.submit(self.at, first)
            for step in range(first + 1, last + 1):
                current = coming.result()
                if step < last:
                    prefetch.reached(step - first)
                    coming = pool.submit(self.at, step)
                yield current

    def consumed_samples(self, steps: int) -> int:
        """What all processes have consumed after `steps` steps, those behind `begun`."""
        return self.begun.sample + (steps - self.begun.step) * self.run.training.global_batch_size

    def consumed(self, steps: int) -> dict[str, dict[str, float]]:
        """What all processes have read of each dataset after `steps` steps, as metrics.jsonl says it."""
        found = self.data.consumed(self.consumed_samples(steps))
        return {dataset.path: {"samples": dataset.samples, "epochs": dataset.epochs} for dataset in found}

    def record(self, ledger: RankLedger | None, step: int, saved: bool) -> None:
        """Notes the samples of a finished `step` (0-based); `saved`: a checkpoint of it comes next."""
        if ledger is None:
            return
        numbers = self.numbers(step)
        ledger.write(step + 1, int(numbers[0]), self.data.places(numbers))
        if saved:
            ledger.sync()

    def position(self, step: int) -> Position:
        """Where training stands at `step`; a denoiser does the same all the way."""
        if self.run.model.network == "denoiser":
            return Position("learned_order" if self.run.model.learned_order else "masked_diffusion", 1, 0)
        return position_at(self.run.orders, step)

    def _ordered(self, position: Position, samples: np.ndarray, tokens: np.ndarray) -> MicroBatch:
        length, seed = tokens.shape[1], self.run.training.seed
        orders = draw_orders(self.run.orders, position, length, seed, samples.tolist())
        ids, bos_id = torch.from_numpy(tokens), self.data.manifest.bos_id
        return ordered_batch(ids, orders, bos_id, int(samples[0]), self.eos_id)

    def _masked(self, position: Position, samples: np.ndarray, tokens: np.ndarray) -> MicroBatch:
        ids, window = torch.from_numpy(tokens), self.run.orders.block_length or tokens.shape[1]
        masked = draw_masking(tokens.shape[1], window, self.run.training.seed, samples.tolist())
        return masked_batch(ids, masked, window, self.data.manifest.bos_id, int(samples[0]), self.eos_id)

    def _with_learned_order(self, position: Position, samples: np.ndarray, tokens: np.ndarray) -> MicroBatch:
        ids, bos_id = torch.from_numpy(tokens), self.data.manifest.bos_id
        return learned_order_batch(ids, self.run.training.seed, samples.tolist(), bos_id)
