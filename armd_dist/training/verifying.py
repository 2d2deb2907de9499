"""A checkpoint read through before a start takes it: all processes divide its files, and one of them asks."""

from pathlib import Path
from typing import Any

import torch.distributed as dist

from armd_dist.checkpoint.folder import changed, content_of, flaw
from armd_dist.errors import CheckpointError
from armd_dist.parallel.topology import Topology
from armd_dist.training.meter import Meter


def ask_all(checkpoint: Path, topology: Topology) -> str | None:
    """What differs from the checkpoint's checksums, or None; for the main process, while the others `help_to_ask`."""
    if problem := flaw(checkpoint):
        return problem
    dist.broadcast_object_list([checkpoint], src=0)
    return _read_through(checkpoint, topology)


def help_to_ask(topology: Topology) -> Any:
    """Reads what the main process asks about, until it broadcasts anything but a checkpoint's path; returns that."""
    heard: list[Any] = [None]
    while True:
        dist.broadcast_object_list(heard, src=0)
        if not isinstance(heard[0], Path):
            return heard[0]
        _read_through(heard[0], topology)


def _read_through(checkpoint: Path, topology: Topology) -> str | None:
    found: list[str | None] = [None] * topology.world_size
    dist.all_gather_object(found, _mine(checkpoint, topology))
    return next(filter(None, found), None)


def _mine(checkpoint: Path, topology: Topology) -> str | None:
    try:
        names = content_of(checkpoint, topology.rank, topology.world_size)
        total = sum((checkpoint / name).stat().st_size for name in names)
        with Meter(f"verifying {checkpoint}", total, topology.is_main) as meter:
            problem = changed(checkpoint, names, meter)
    except CheckpointError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename} cannot be read ({error.strerror})"
    # One that others can read is not where all machines see it.
    return problem and (problem if topology.is_main else f"{problem} (read by rank {topology.rank})")
