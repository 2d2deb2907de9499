"""Whether weights that several processes hold are the same on all of them, to the last bit."""

import socket
from collections import Counter

import torch
import torch.distributed as dist
from torch import Tensor

from armd_dist.parallel.pipeline import Part
from armd_dist.parallel.sharding import split_dim
from armd_dist.parallel.topology import Topology

CHUNK = 1 << 20  # elements summed at a time: 8 MB
MOST_TOLD = 16
INTEGERS = {2: torch.int16, 4: torch.int32}


def differing_replicas(part: Part, topology: Topology) -> str | None:
    """The first weight of which processes hold different bits, and which ones do; None where all agree. Collective.

    Compared are data-parallel replicas, what tensor-parallel processes hold whole, and the two copies of a tied
    embedding. A weight that ZeRO 3 shares out has no replica.
    """
    names, sums = [], []
    for name, parameter in part.weights():
        if parameter.numel():
            names.append((name, topology.tensor_rank if split_dim(parameter) is not None else 0))
            sums.append(fingerprint(parameter.detach()))
    mine = dict(zip(names, torch.stack(sums).tolist(), strict=True)) if sums else {}
    found: list[tuple[str, dict[tuple[str, int], int]]] = [("", {})] * topology.world_size
    dist.all_gather_object(found, (socket.gethostname(), mine))
    return _differences([host for host, _ in found], [each for _, each in found])


def fingerprint(values: Tensor) -> Tensor:
    """A number of a tensor's bits, int64 and on its device: each element's, times an odd place, summed modulo 2^64.

    One changed element always shows; so does any exchange of two that differ.
    """
    bits = values.flatten().view(INTEGERS[values.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=values.device)
    places = 2 * torch.arange(min(CHUNK, len(bits)), device=values.device) + 1
    for start in range(0, len(bits), CHUNK):
        chunk = bits[start : start + CHUNK]
        total += (chunk.long() * (places[: len(chunk)] + 2 * start)).sum()
    return total


def _differences(hosts: list[str], held: list[dict[tuple[str, int], int]]) -> str | None:
    """hosts, held: by rank. Who is right, the majority of a weight's holders says, where there is one."""
    values: dict[tuple[str, int], set[int]] = {}
    for key, value in (item for mine in held for item in mine.items()):
        values.setdefault(key, set()).add(value)
    wrong = [key for key, found in values.items() if len(found) > 1]
    if not wrong:
        return None
    name, share = first = wrong[0]
    by_rank = {rank: mine[first] for rank, mine in enumerate(held) if first in mine}
    [(usual, count), *_] = Counter(by_rank.values()).most_common()
    known = 2 * count > len(by_rank)
    told = [rank for rank, value in by_rank.items() if value != usual or not known]
    where = ", ".join(f"rank {rank} ({hosts[rank]})" for rank in told[:MOST_TOLD])
    where += f" and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    more = f" and of {len(wrong) - 1} more" if len(wrong) > 1 else ""
    what = f"the bits of {name}{f' (tensor-parallel part {share})' if share else ''}{more}"
    if known:
        return f"{what} differ on {where} from those on {count} other ranks"
    return f"{what} differ between {where}, and nobody can say which are right"
