"""From the step to this process' micro-batches: tokens and their orders, both pure functions of the sample's number."""

import numpy as np
import torch

from armd_dist.model.layout import lay_out
from armd_dist.orders.curriculum import draw_order, position_at
from armd_dist.parallel.engine import MicroBatch
from armd_dist.run import Run
from data_pipeline.stream import TokenStream


class Batches:
    """Every global batch is the same samples whatever the topology; a process takes its contiguous share."""

    def __init__(self, run: Run, stream: TokenStream, data_rank: int, data_size: int) -> None:
        self.run = run
        self.stream = stream
        self.share = run.training.global_batch_size // data_size
        self.offset = data_rank * self.share

    def at(self, step: int) -> list[MicroBatch]:
        """The micro-batches of `step` (0-based) for this process."""
        first = step * self.run.training.global_batch_size + self.offset
        samples = np.arange(first, first + self.share)
        tokens = self.stream.samples(samples)
        size = self.run.training.micro_batch_size
        return [
            self._micro_batch(step, samples[start : start + size], tokens[start : start + size])
            for start in range(0, self.share, size)
        ]

    def _micro_batch(self, step: int, samples: np.ndarray, tokens: np.ndarray) -> MicroBatch:
        position = position_at(self.run.orders, step)
        length, seed = tokens.shape[1], self.run.training.seed
        orders = [draw_order(self.run.orders, position, length, seed, int(sample)) for sample in samples]
        places = np.stack([order.position for order in orders])
        revealed = torch.from_numpy(np.take_along_axis(tokens, places - 1, axis=1))
        blocks = torch.from_numpy(np.stack([order.block for order in orders]))
        layout = lay_out(revealed, torch.from_numpy(places), blocks, self.stream.manifest.bos_id)
        return MicroBatch(layout, targets=revealed)
