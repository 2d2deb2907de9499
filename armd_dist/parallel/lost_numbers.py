"""Where a step loses its numbers: whose gradients are not finite, on which process, and for which samples."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch.distributed as dist
from torch import Tensor

from armd_dist.objectives.likelihood import MicroBatch
from armd_dist.parallel.pipeline import Part
from armd_dist.parallel.topology import Topology


@dataclass(frozen=True)
class Culprit:
    """A process whose own gradients, before others are added, are not finite.

    first, last: of these weights, in the order of the forward pass; what is wrong in the backward pass begins at the
    last one. samples: global numbers, first and last, of the micro-batch, or in a pipeline of the process' whole share.
    """

    first: str
    last: str
    weights: int
    pipeline_rank: int
    rank: int
    host: str
    samples: tuple[int, int]

    def __str__(self) -> str:
        where = f"not finite on rank {self.rank} ({self.host}), samples {self.samples[0]} to {self.samples[1]}"
        if self.weights == 1:
            return f"the gradient of {self.first} is {where}"
        return f"the gradients of {self.weights} weights, {self.first} to {self.last}, are {where}"


class Watched:
    """Weights whose gradients are not finite, as the backward pass comes by, in the first micro-batch that has any."""

    def __init__(self) -> None:
        self.passes = 0
        self.micro_batch = 0  # counted from 1; stays 0 where passes cannot be told
        self.names: list[str] = []

    def passing(self, *_: object) -> None:
        self.passes += 1

    def look(self, name: str, gradient: Tensor) -> None:
        if self.names and self.micro_batch != self.passes:
            return
        if name not in self.names and not bool(gradient.isfinite().all()):
            self.names.append(name)
            self.micro_batch = self.passes


@contextmanager
def gradients_watched(part: Part) -> Iterator[Watched]:
    """Looks at this process' own gradient of each weight in each backward pass; waits for the device each time."""
    watched = Watched()
    with ExitStack() as hooks:
        # Pipelines call the networks in the part, in turns of their own: there no pass is counted.
        hooks.callback(part.register_forward_pre_hook(watched.passing).remove)
        for name, parameter in part.weights():
            hooks.callback(parameter.register_hook(partial(watched.look, name)).remove)
        yield watched


def culprit(watched: Watched, micro_batches: Sequence[MicroBatch], topology: Topology) -> Culprit | None:
    """The one nearest to the loss of all processes' finds; None where each one's gradients are finite. Collective."""
    mine = None
    if watched.names:
        at = watched.micro_batch
        concerned = micro_batches[at - 1 : at] if at else micro_batches
        last = concerned[-1].first_sample + len(concerned[-1].targets) - 1
        mine = Culprit(
            first=watched.names[-1],
            last=watched.names[0],
            weights=len(watched.names),
            pipeline_rank=topology.pipeline_rank,
            rank=topology.rank,
            host=socket.gethostname(),
            samples=(concerned[0].first_sample, last),
        )
    found: list[Culprit | None] = [None] * topology.world_size
    dist.all_gather_object(found, mine)
    return min((each for each in found if each), key=lambda each: (-each.pipeline_rank, each.rank), default=None)
