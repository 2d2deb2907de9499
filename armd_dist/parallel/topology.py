"""Starts the process groups and tells each process its place."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from armd_dist.errors import ConfigError, Problem
from armd_dist.parallel.config import ParallelConfig
from armd_dist.parallel.cpu_shim import allow_cpu
from armd_dist.parallel.engines import parallel_state

# Collectives give up so much later than the watch, which can say who is missing.
WATCH_FIRST_MINUTES = 1


@dataclass(frozen=True)
class Topology:
    """This process' place: rank = (pipeline_rank x data_size + data_rank) x tensor_size + tensor_rank.

    So tensor-parallel ranks, which talk most, are neighbours, and the stages of a pipeline, which talk least, are far.
    """

    rank: int
    world_size: int
    tensor_rank: int
    tensor_size: int
    data_rank: int
    data_size: int
    pipeline_rank: int
    pipeline_size: int
    device: torch.device

    def __str__(self) -> str:
        pipeline = f" x pipeline {self.pipeline_size}" if self.pipeline_size > 1 else ""
        sizes = f"tensor {self.tensor_size} x data {self.data_size}{pipeline}"
        return f"{self.world_size} process(es): {sizes} on {self.device.type}"

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def local_world_size() -> int:
    """Processes of this job on this machine; where nobody says, as many as there can be."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE", "1"))


def start(config: ParallelConfig) -> Topology:
    """Joins the job's process groups. Without a launcher's environment this is a job of one process.

    Raises ConfigError where LOCAL_RANK names no GPU of this machine.
    """
    # Megatron overlaps its collectives with matrix products in one hardware queue; read when CUDA starts.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    allow_cpu()
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _join(device, timedelta(minutes=config.timeout_minutes + WATCH_FIRST_MINUTES))
    return arrange(config, device)


def own_device() -> torch.device:
    """cuda:LOCAL_RANK, or the CPU where there is no GPU. Raises ConfigError where that names no GPU.

    Where LOCAL_RANK decides nothing, on CPU and in a job of one process, it may be missing and becomes 0.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not os.environ.get("LOCAL_RANK") and (gpus == 0 or not os.environ.get("RANK")):
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed wants it in any case
    told, remedy = os.environ.get("LOCAL_RANK", ""), "set it to the number of this process on its machine, from 0"
    if not told.isdecimal():
        rule = "is not a whole number" if told else f"is not set, but RANK={os.environ.get('RANK')}, and there are GPUs"
        raise ConfigError([Problem("LOCAL_RANK", told, rule, f"{remedy}, or start with torchrun")])
    if gpus and int(told) >= gpus:
        rule = f"is not below {gpus}, the number of GPUs that this process sees"
        raise ConfigError([Problem("LOCAL_RANK", told, rule, f"{remedy}, and start one process for each GPU")])
    return torch.device("cuda", int(told)) if gpus else torch.device("cpu")


def arrange(config: ParallelConfig, device: torch.device) -> Topology:
    """Divides the processes that have joined into groups, and says which one this process is."""
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.tensor,
        pipeline_model_parallel_size=config.pipeline,
        virtual_pipeline_model_parallel_size=config.virtual_pipeline if config.virtual_pipeline > 1 else None,
        distributed_timeout_minutes=round(config.timeout_minutes + WATCH_FIRST_MINUTES),
    )
    return Topology(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        tensor_size=parallel_state.get_tensor_model_parallel_world_size(),
        data_rank=parallel_state.get_data_parallel_rank(),
        data_size=parallel_state.get_data_parallel_world_size(),
        pipeline_rank=parallel_state.get_pipeline_model_parallel_rank(),
        pipeline_size=parallel_state.get_pipeline_model_parallel_world_size(),
        device=device,
    )


def _join(device: torch.device, timeout: timedelta) -> None:
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if os.environ.get("RANK"):
        dist.init_process_group(backend, timeout=timeout)
        return
    # DeepSpeed reads these even when the group already exists.
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=timeout)


def stop() -> None:
    """Leaves the process groups."""
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


@contextmanager
def joined(config: ParallelConfig) -> Iterator[Topology]:
    """`start` before and `stop` behind what is done in between."""
    topology = start(config)
    try:
        yield topology
    finally:
        stop()
