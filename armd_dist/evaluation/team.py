"""The processes that evaluate together: data-parallel shares of the work, each of one process or of a whole layout."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from armd_dist.parallel.topology import Topology


@dataclass(frozen=True)
class Team:
    """share: which of `shares` this process works on; answers: whether of its share's processes it hands in what it
    holds; depth: batches that a share reads at a time, so that all stages of its pipeline have work."""

    rank: int = 0
    share: int = 0
    shares: int = 1
    answers: bool = True
    depth: int = 1

    @classmethod
    def of(cls, topology: Topology) -> "Team":
        last = topology.pipeline_rank == topology.pipeline_size - 1
        depth = 1 if topology.pipeline_size == 1 else 2 * topology.pipeline_size
        return cls(topology.rank, topology.data_rank, topology.data_size, last and topology.tensor_rank == 0, depth)

    def gather(self, found: Any) -> list[Any]:
        """What every share has found, on rank 0; [] on the others. Collective."""
        if not dist.is_initialized():
            return [found]
        everything: list[Any] | None = [None] * dist.get_world_size() if self.rank == 0 else None
        dist.gather_object(found if self.answers else None, everything)
        return [one for one in everything or [] if one is not None]

    def told(self, of_rank_0: Any) -> Any:
        """What rank 0 says. Collective."""
        if not dist.is_initialized():
            return of_rank_0
        said = [of_rank_0]
        dist.broadcast_object_list(said)
        return said[0]
